"""Raw inputs: what is decoded, and what is refused in which words."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import bundles
import numpy as np
import pytest
import soundfile
from PIL import Image

from edgemm.runtime import Bundle
from edgemm.runtime.errors import InputError
from edgemm.runtime.images import decode_image
from edgemm.runtime.regular import open_given
from edgemm.runtime.waveforms import decode_audio, resample


def sound_file(samples: np.ndarray, rate: int, format: str = "WAV", **options: object) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, samples, rate, format=format, **options)
    return held.getvalue()


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, format, **options)
    return held.getvalue()


def test_a_path_its_bytes_and_its_array_are_one_image(tmp_path: Path) -> None:
    data = bundles.png(1)
    (tmp_path / "a.png").write_bytes(data)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    for raw in (tmp_path / "a.png", str(tmp_path / "a.png"), data, pixels, Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(decode_image(raw, where="image"), pixels)


def test_transparency_lies_on_white() -> None:
    clear = encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    half = encoded(Image.new("LA", (2, 2), (0, 128)))
    assert (decode_image(clear, where="i") == 255).all()
    assert (decode_image(half, where="i") == 127).all()


def test_a_palette_with_transparency_is_resolved() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    data = encoded(image, transparency=0)
    np.testing.assert_array_equal(decode_image(data, where="i"), [[[255, 255, 255], [0, 0, 255]]])


def test_orientation_is_applied() -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    made = decode_image(encoded(image, exif=exif), where="i")
    assert made.shape == (4, 2, 3)
    assert made[0, 1].tolist() == [255, 255, 255]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    wide = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert decode_image(encoded(wide), where="i")[0, :, 0].tolist() == [0, 128, 255]


def test_grey_and_cmyk_become_rgb() -> None:
    assert decode_image(encoded(Image.new("L", (3, 2), 7)), where="i").tolist() == [[[7] * 3] * 3] * 2
    assert decode_image(encoded(Image.new("CMYK", (3, 2)), "JPEG"), where="i").shape == (2, 3, 3)
    assert decode_image(np.full((2, 3), 7, np.uint8), where="i").shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "image: not an image"),
        (b"not an image", "image: not an image"),
        (bundles.png(0, (300, 300))[:5000], "image: cannot be decoded"),
        ("no/such.png", r"image \(no/such.png\): no such file"),
        (np.zeros((4, 4, 3), np.float32), "got an array of float32, expected uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"got an array of shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got an array of shape \(0, 4, 3\)"),
        (3.5, "got float, expected a path"),
        (None, "got NoneType, expected a path"),
    ],
)
def test_an_unusable_image_is_one_line(raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        decode_image(raw, where="image")
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused_before_its_pixels_are_made() -> None:
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = (60000).to_bytes(4, "big") * 2  # the header's width and height; its checksum goes with them
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(InputError, match="pixels"):
        decode_image(bytes(data), where="image")


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("d") / "dual"
    bundles.dual_encoder(folder)
    return Bundle.open(folder)


def test_texts_are_padded_to_the_longest_and_cut_at_the_limit(dual: Bundle) -> None:
    values = dual.values(text=["cat", "a red house ?"])
    assert values["input_ids"].tolist() == [[2, 5, 3, 0, 0, 0], [2, 4, 7, 8, 14, 3]]
    assert values["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert values["input_ids"].dtype == np.int64
    assert dual.values(text="a " * 50)["input_ids"].shape == (1, 8)
    assert dual.values(text="a " * 50)["input_ids"][0, -1] == 3


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "text: the text is empty"),
        (" \n\t", "text: the text is empty"),
        (["a", ""], r"text\[1\]: the text is empty"),
        (["a", 3], r"text\[1\]: got int, expected a string"),
        (None, "text: got NoneType"),
        ([], "text: got no samples"),
        ("\ud800", "text: cannot be tokenized"),
    ],
)
def test_an_unusable_text_is_one_line(dual: Bundle, raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dual.predict(text=raw)


def test_a_batch_array_of_images_is_taken_whole(dual: Bundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9, 11, 3), dtype=np.uint8)
    np.testing.assert_array_equal(dual.values(image=pixels)["image"], pixels)
    with pytest.raises(InputError, match=r"expected uint8 \(batch, height, width, 3\)"):
        dual.predict(image=pixels.astype(np.float32))
    with pytest.raises(InputError, match=r"image\[1\]: not an image"):
        dual.predict(image=[bundles.png(0), b"x"])


@pytest.fixture(scope="module")
def sensing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("s") / "sensing"
    bundles.audio_and_sensor(folder)
    return Bundle.open(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sensor": [1, 2, np.nan, 4, 5, 6]}, "sensor: sample 0 holds NaN"),
        ({"sensor": [[0] * 6, [0, 0, np.inf, 0, 0, 0]]}, "sensor: sample 1 holds NaN"),
        ({"sensor": [1, 2, 3]}, r"sensor: got shape \(1, 3\)"),
        ({"sensor": 3.0}, r"sensor: got one number, expected an array \[6\]"),
        ({"sensor": np.zeros((2, 6), complex)}, "sensor: got dtype complex128, expected float32"),
        ({"sensor": ["a"] * 6}, r"sensor\[0\] \(a\): no such file"),
        ({"sensor": [b"a"] * 6}, "sensor: got dtype"),
        ({"sensor": [[1], [1, 2]]}, "sensor: not an array"),
        ({"audio": np.array([0.0, np.nan], np.float32)}, "audio: 1 samples are NaN"),
        ({"audio": np.array([0.0, 1e300])}, "audio: 1 samples are NaN or infinite"),
        ({"audio": np.zeros(0, np.float32)}, "audio: got samples of shape"),
        ({"audio": np.array(0.5, np.float32)}, r"audio: got samples of shape \(\)"),
        (
            {"audio": np.zeros((2, 500), np.float32)},
            r"audio: got samples of shape \(2, 500\), expected \(samples,\) or",
        ),
        ({"audio": np.zeros(5, np.int16)}, "audio: got an array of int16"),
        ({"audio": b"RIFFnothing"}, "audio: not a sound file"),
        ({"audio": b""}, "audio: not a sound file"),
        ({"audio": sound_file(np.zeros((0, 1)), 16000)}, r"audio: got samples of shape \(0, 1\)"),
        ({"audio": sound_file(np.array([0.0, np.nan]), 16000, subtype="FLOAT")}, "audio: 1 samples are NaN"),
        ({"audio": sound_file(np.zeros(9), 1)}, "audio: a sample rate of 1 Hz, expected 1000 to 768000"),
        ({"audio": [np.zeros(5, np.float32), "no/such.wav"]}, r"audio\[1\] \(no/such.wav\): no such file"),
        ({"audio": []}, "audio: got no samples"),
        ({"audio": "no/such.wav"}, "no such file"),
        ({"audio": 3}, "audio: got int"),
    ],
)
def test_an_unusable_sound_or_tensor_is_one_line(sensing: Bundle, given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        sensing.predict(**given)
    assert "\n" not in str(caught.value)
    assert " object at 0x" not in str(caught.value)


def test_a_stereo_file_is_mixed_down_and_resampled(tmp_path: Path) -> None:
    time = np.arange(8000) / 8000
    left = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([left, 0 * left], axis=1), 8000, subtype="FLOAT")
    made = decode_audio(tmp_path / "a.wav", sample_rate=16000, where="audio")
    assert made.shape == (16000,)
    assert made.dtype == np.float32
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(made[200:-200], expected[200:-200], atol=2e-4)  # the filter's ripple, -60 dB


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_a_file_of_any_rate_and_channels_is_the_sound_at_the_models_rate(format: str, rate: int, channels: int) -> None:
    def tones(at: int) -> np.ndarray:
        time = np.arange(at // 2) / at
        return 0.4 * np.sin(2 * np.pi * 300 * time) + 0.2 * np.sin(2 * np.pi * 2500 * time)

    data = sound_file(np.repeat(tones(rate)[:, None], channels, axis=1), rate, format)
    made = decode_audio(data, sample_rate=16000, where="audio")
    assert abs(len(made) - 8000) <= 1
    # 16 bits, and the filter's ripple
    np.testing.assert_allclose(made[300:7700], tones(16000)[300:7700], atol=2e-3)


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_a_lossy_file_is_the_sound_too(format: str, subtype: str) -> None:
    time = np.arange(48000) / 48000
    stereo = np.repeat((0.5 * np.sin(2 * np.pi * 440 * time))[:, None], 2, axis=1)
    made = decode_audio(sound_file(stereo, 48000, format, subtype=subtype), sample_rate=16000, where="audio")
    spectrum = np.abs(np.fft.rfft(made[2000:14000] * np.hanning(12000)))
    assert np.argmax(spectrum) == 330  # 440 Hz
    assert 0.45 < np.abs(made[2000:14000]).max() < 0.55


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
def test_a_limit_gives_the_beginning_of_the_whole(format: str, rate: int) -> None:
    samples = 0.1 * np.random.default_rng(0).normal(size=2 * rate)
    data = sound_file(samples, rate, format)
    whole = decode_audio(data, sample_rate=16000, where="audio")
    for limit in (1, 777, 16000, 40000):
        part = decode_audio(data, sample_rate=16000, where="audio", limit=limit)
        assert len(part) == len(whole[:limit])
        np.testing.assert_allclose(part, whole[:limit], atol=1e-7)  # float32 sums in another order
    as_array = samples.astype(np.float32)
    np.testing.assert_array_equal(decode_audio(as_array, sample_rate=16000, where="audio", limit=5), as_array[:5])


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
def test_a_file_that_ends_early_is_what_it_holds_or_an_error_of_one_line(format: str) -> None:
    data = sound_file(0.1 * np.random.default_rng(0).normal(size=9000), 16000, format)
    lengths, messages = [], []
    for end in range(0, len(data), 211):
        try:
            lengths.append(len(decode_audio(data[:end], sample_rate=16000, where="audio")))
        except InputError as error:
            messages.append(str(error))
    assert messages
    assert all(message.startswith("audio: ") and "\n" not in message for message in messages)
    assert all(0 < length <= 9000 for length in lengths)


@pytest.mark.parametrize(("source", "target"), [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000)])
def test_resampling_keeps_tones_below_and_removes_tones_above_the_limit(source: int, target: int) -> None:
    time, made_time = np.arange(source) / source, np.arange(target) / target
    limit = min(source, target) / 2
    low = resample(np.sin(2 * np.pi * 0.3 * limit * time).astype(np.float32), source, target)
    expected = np.sin(2 * np.pi * 0.3 * limit * made_time)
    assert len(low) == target
    np.testing.assert_allclose(low[500:-500], expected[500:-500], atol=1e-3)
    if source > target:
        high = resample(np.sin(2 * np.pi * 1.2 * limit * time).astype(np.float32), source, target)
        assert np.abs(high[500:-500]).max() < 2e-3  # -54 dB at 1.2 of the Nyquist frequency
        near = resample(np.sin(2 * np.pi * 1.12 * limit * time).astype(np.float32), source, target)
        assert np.abs(near[500:-500]).max() < 1e-2  # -40 dB


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    wave = np.random.default_rng(0).normal(size=50).astype(np.float32)
    assert resample(wave, 16000, 16000) is wave


def test_resampling_keeps_a_constant() -> None:
    made = resample(np.ones(3000, np.float32), 44100, 16000)
    np.testing.assert_allclose(made[50:-50], 1, atol=1e-5)


@pytest.mark.parametrize("decode", [decode_image, lambda raw, where: decode_audio(raw, sample_rate=8000, where=where)])
@pytest.mark.parametrize("raw", [3, None, ["a.png"]])
def test_what_is_neither_a_path_nor_bytes_is_told_by_one_message(decode: Callable[..., object], raw: object) -> None:
    with pytest.raises(
        InputError, match=f"^here: got {type(raw).__name__}, expected a path, bytes or a (uint8|float32) array"
    ):
        decode(raw, where="here")


def test_a_given_file_and_its_bytes_are_opened_alike(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    for raw in (tmp_path / "a", str(tmp_path / "a"), b"abc", bytearray(b"abc"), memoryview(b"abc")):
        file, name = open_given(raw, where="here", largest=3, expected="an array")
        with file:
            assert file.read() == b"abc"
        assert name == (f"here ({tmp_path / 'a'})" if isinstance(raw, (str, Path)) else "here")
    with pytest.raises(InputError, match="3 bytes, expected at most 2"):
        open_given(tmp_path / "a", where="here", largest=2, expected="an array")

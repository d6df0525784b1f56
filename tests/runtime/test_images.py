"""Images from anywhere: which bytes are read, what their values mean, and what they may cost."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import bundles
import numpy as np
import pytest
from PIL import Image, ImageOps

from edgemm.data.batches import read_file
from edgemm.data.image import check_image
from edgemm.runtime import Bundle, images
from edgemm.runtime.archive import seal
from edgemm.runtime.errors import BundleError, DataError, InputError
from edgemm.runtime.images import FORMATS, decode_image, grey_extremes
from edgemm.runtime.readers import ImageInput, raw_from_json

noise = np.random.default_rng(0)
COLOURS = noise.integers(0, 256, (37, 53, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, format, **options)
    return held.getvalue()


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A grey TIFF without compression, by TIFF 6.0: bits and sample format of the array, unless tags say otherwise."""
    height, width = values.shape
    data = values.tobytes()
    kinds = {"u": 1, "i": 2, "f": 3}
    entries = {
        256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data),
        339: kinds[values.dtype.kind],
    } | {int(tag.removeprefix("t")): value for tag, value in tags.items()}  # fmt: skip
    order = ">" if values.dtype.byteorder == ">" else "<"
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8 + len(data))
    fields = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return head + data + struct.pack(f"{order}H", len(entries)) + fields + bytes(4)


def twelve_bits(values: np.ndarray) -> bytes:
    """A TIFF whose samples have 12 bits, two in three bytes."""
    pairs = values.reshape(-1, 2).astype(int)
    first, second = pairs[:, 0], pairs[:, 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    return tiff(packed.reshape(values.shape[0], -1), t256=values.shape[1], t258=12)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["<i4", "<u4", ">i4", "<f4", "<i2"])
def test_grey_values_without_an_agreed_white_are_refused(kind: str) -> None:
    values = np.array([[-5, 7], [70000, 1]]).astype(kind) if kind != "<i2" else np.array([[-5, 7]], kind)
    for read in (lambda data: decode_image(data, where="image"), check_image):
        with pytest.raises((InputError, DataError), match=r"no agreed white.* data.grey_range") as caught:
            read(tiff(values))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i2", "<i4", "<u4", "<f4", ">i4"])
def test_a_range_says_what_is_black_and_white(kind: str) -> None:
    values = np.array([[0, 1000, 2000, 3000, 4095, 9999]], kind)
    made = decode_image(tiff(values), where="image", grey_range=(1000, 3000))
    assert made[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]


def test_a_range_may_begin_below_zero_and_have_fractions() -> None:
    hounsfield = tiff(np.array([[-1024, -160, 40, 240, 3071]], "<i2"))
    assert decode_image(hounsfield, where="image", grey_range=(-160, 240))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    depth = tiff(np.array([[0.0, 0.25, 0.5]], "<f4"))
    assert decode_image(depth, where="image", grey_range=(0, 0.5))[0, :, 0].tolist() == [0, 128, 255]


def test_unsigned_values_beyond_two_to_the_31_are_not_negative() -> None:
    made = decode_image(tiff(np.array([[0, 2**31, 2**32 - 1]], "<u4")), where="image", grey_range=(0, 2**32 - 1))
    assert made[0, :, 0].tolist() == [0, 128, 255]


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="1 values are NaN"):
        decode_image(tiff(np.array([[0.5, np.nan]], "<f4")), where="image", grey_range=(0, 1))


def test_the_bits_that_a_tiff_names_say_what_is_white() -> None:
    made = decode_image(twelve_bits(np.array([[0, 2048, 4095, 1024]])), where="image")
    assert made[0, :, 0].tolist() == [0, 128, 255, 64]


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_sixteen_bits_of_either_order_are_scaled_by_their_white(kind: str) -> None:
    assert decode_image(tiff(np.array([[0, 32768, 65535]], kind)), where="image")[0, :, 0].tolist() == [0, 128, 255]


def test_a_tiff_whose_zero_is_white_is_turned_round_with_16_bits_as_with_8() -> None:
    # TIFF 6.0, PhotometricInterpretation 0: WhiteIsZero, as scanners and radiographs (MONOCHROME1) have it
    deep = tiff(np.array([[0, 32768, 65535]], "<u2"), t262=0)
    assert decode_image(deep, where="image")[0, :, 0].tolist() == [255, 127, 0]
    assert decode_image(deep, where="image", grey_range=(0, 32768))[0, :, 0].tolist() == [255, 0, 0]
    shallow = tiff(np.array([[0, 128, 255]], "u1"), t262=0)
    assert decode_image(shallow, where="image")[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("kind", ["u1", "<u2"])
def test_the_transparent_value_of_a_grey_png_lies_on_white(kind: str) -> None:
    values = np.array([[0, 7, np.iinfo(kind).max]], kind)
    data = encoded(Image.fromarray(values), transparency=0)
    assert decode_image(data, where="image")[0, 0].tolist() == [255, 255, 255]
    assert decode_image(data, where="image")[0, 1].tolist() == [7 if kind == "u1" else 0] * 3


def test_integers_of_32_bits_within_16_are_read_as_16() -> None:
    assert decode_image(tiff(np.array([[0, 32768, 65535]], "<i4")), where="i")[0, :, 0].tolist() == [0, 128, 255]


def test_a_range_leaves_images_of_8_bits_as_they_are() -> None:
    data = encoded(Image.fromarray(COLOURS))
    np.testing.assert_array_equal(decode_image(data, where="image", grey_range=(0, 4095)), COLOURS)


def test_an_array_of_a_camera_is_read_in_the_range_too() -> None:
    frame = np.array([[0, 2048, 4095]], np.uint16)
    assert decode_image(frame, where="image", grey_range=(0, 4095))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(InputError, match="got an array of uint16, expected uint8"):
        decode_image(frame, where="image")


def test_what_is_shown_of_deep_grey_is_from_its_least_to_its_greatest_value() -> None:
    assert grey_extremes(tiff(np.array([[100, 4000]], "<u2")), where="image") == (100, 4000)
    assert grey_extremes(tiff(np.array([[-3, -3]], "<i4")), where="image") == (-3, -2)
    assert grey_extremes(encoded(Image.fromarray(COLOURS)), where="image") is None


# --- the range of a bundle -------------------------------------------------------------------------------------------


def test_a_manifest_says_the_range_and_the_device_and_the_data_page_read_in_it(tmp_path: Path) -> None:
    raw = ImageInput(grey_range=(0, 4095))
    assert raw_from_json(raw.to_json()) == raw
    bundles.dual_encoder(tmp_path / "b", targets=("cpu",))
    manifest = Bundle.open(tmp_path / "b").manifest
    seal(tmp_path / "b", replace(manifest, inputs={**manifest.inputs, "image": raw}))
    bundle = Bundle.open(tmp_path / "b")
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(noise.integers(0, 4096, (9, 11)).astype("<u2")))
    seen = bundle.values(image=path)["image"]
    assert seen.max() > 200
    np.testing.assert_array_equal(seen[0], read_file(path, raw))


@pytest.mark.parametrize("value", [[1], [2, 1], [1, 1], "all", [0, "1"], [0, True], [0, 1e308], [0, None], {}])
def test_a_range_that_is_none_is_named(value: object) -> None:
    with pytest.raises(BundleError, match=r"grey_range: got .*expected (two finite numbers|the smaller number first)"):
        raw_from_json({"kind": "image", "grey_range": value})


# --- the same pixels as Pillow's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [1 << 20, 100, 7])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_every_orientation_is_applied_whatever_the_tiles(
    monkeypatch: pytest.MonkeyPatch, format: str, tile: int
) -> None:
    monkeypatch.setattr(images, "_TILE", tile)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(COLOURS), format, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        np.testing.assert_array_equal(decode_image(data, where="image"), np.asarray(upright))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_modes_without_transparency_are_what_pillow_makes_of_them(mode: str) -> None:
    data = encoded(Image.fromarray(COLOURS).convert(mode), "TIFF")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, where="image"), expected)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_many_frames_the_first_is_read(format: str) -> None:
    frames = [Image.new("RGB", (20, 10), shade) for shade in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode_image(data, where="image"), np.asarray(frames[0]))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_no_image_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(hello) show\n%%EOF\n"
    for data in (eps, struct.pack("<4sIIIIIIH", b"\xc5\xd0\xd3\xc6", 32, len(eps), 0, 0, 0, 0, 0xFFFF) + b"\0\0" + eps):
        with pytest.raises(InputError, match="not an image of a format that edgemm reads"):
            decode_image(data, where="image")
        with pytest.raises(DataError, match="not an image of a format that edgemm reads"):
            check_image(data)
    assert not (tmp_path / "ran").exists()
    assert not {"EPS", "IPTC", "FITS", "WMF", "MPEG"} & set(FORMATS)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder"),
        ("a\0b.png", "not the name of a file"),
        ("a" * 300, "File name too long"),
    ):
        with pytest.raises(InputError, match=kind) as caught:
            decode_image(path, where="image")
        assert "\n" not in str(caught.value)


def test_formats_that_take_more_memory_a_pixel_are_held_to_fewer_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 28 * 1000)
    data = encoded(Image.new("RGB", (40, 30)), "JPEG2000")
    with pytest.raises(InputError, match="40×30 pixels, expected at most 1000"):
        decode_image(data, where="image")
    assert decode_image(encoded(Image.new("RGB", (40, 30))), where="image").shape == (30, 40, 3)


def test_a_picture_inside_an_icon_is_held_to_the_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = encoded(Image.new("RGB", (500, 400)))
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture
    assert decode_image(icon, where="image").shape == (400, 500, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(InputError, match="500×400 pixels, expected at most 1000"):
        decode_image(icon, where="image")


def test_a_progressive_jpeg_of_ever_more_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(progressive=True)
    last = data.rfind(b"\xff\xda")
    monkeypatch.setattr(images, "MAX_WORK", 60 * 80 * 50)
    assert decode_image(data, where="image").shape == (60, 80, 3)
    with pytest.raises(InputError, match=r"a progressive JPEG of [0-9]+ scans of 80×60 pixels"):
        decode_image(data[:-2] + data[last:-2] * 60 + data[-2:], where="image")


PEAK = """
import resource, sys
sys.path[:0] = sys.argv[3:]
from edgemm.runtime.images import decode_image
from PIL import Image; Image.init(); import numpy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = decode_image(sys.argv[1], where="image").size // 3
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / pixels)
"""


@pytest.mark.parametrize(
    ("format", "mode"),
    [("PNG", "LA"), ("PNG", "I;16"), ("PNG", "RGBA"), ("TIFF", "RGB"), ("WEBP", "RGBA"), ("JPEG2000", "RGB")],
)
def test_no_more_memory_is_taken_a_pixel_than_is_counted(tmp_path: Path, format: str, mode: str) -> None:
    side = 4000 if format == "PNG" else 2500
    options = {"compression": "tiff_adobe_deflate"} if format == "TIFF" else {}
    Image.new(mode, (side, side)).save(tmp_path / "a", format, **options)
    run = [sys.executable, "-c", PEAK, str(tmp_path / "a"), str(side), *sys.path]
    taken = float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    tiles = 60e6 / side**2  # bytes of tiles and of what a process keeps, whatever the size
    assert taken < images._PEAK.get(format, images._USUAL_PEAK) + tiles


def test_other_threads_warn_as_before_while_images_are_decoded() -> None:
    data = encoded(Image.fromarray(COLOURS))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode_image(data, where="i") for _ in range(30)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_half_broken_metadata_is_no_error_and_no_warning() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\xff\0\0\x30\x75\0\0"
    jpeg = encoded(Image.fromarray(COLOURS), "JPEG")
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, where="image").shape == COLOURS.shape


# --- what is cut -----------------------------------------------------------------------------------------------------


def jpeg(**options: object) -> bytes:
    return encoded(Image.fromarray(noise.integers(0, 256, (60, 80, 3), dtype=np.uint8)), "JPEG", **options)


def with_thumbnail(picture: bytes) -> bytes:
    """A JPEG whose EXIF holds another, as every camera's does."""
    small = jpeg(quality=95)
    app1 = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + small
    return picture[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + picture[2:]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_a_jpeg_cut_anywhere_is_refused_by_the_data_page_as_by_the_device(options: dict[str, object]) -> None:
    plain = jpeg(**options)
    for whole in (plain, with_thumbnail(plain)):
        check_image(whole)
        for end in [*range(2, len(whole) - 2, len(whole) // 23)]:
            for read in (check_image, lambda data: decode_image(data, where="image")):
                with pytest.raises((DataError, InputError)):
                    read(whole[:end])


@pytest.mark.parametrize(
    "behind", [bytes(20_000), b"\0\0\0\x18ftypmp42" + noise.bytes(30_000), b"\xff\xd9" * 9, b"\xff"]
)
def test_what_stands_behind_the_end_of_a_jpeg_does_not_matter(behind: bytes) -> None:
    data = jpeg() + behind
    check_image(data)
    assert decode_image(data, where="image").shape == (60, 80, 3)


def test_a_picture_without_its_last_bytes_is_judged_as_the_device_judges_it() -> None:
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encoded(Image.fromarray(COLOURS), format)
        for end in range(len(whole) - 14, len(whole)):
            verdicts = set()
            for read in (check_image, lambda data: decode_image(data, where="image")):
                try:
                    read(whole[:end])
                    verdicts.add("read")
                except (DataError, InputError):
                    verdicts.add("refused")
            assert len(verdicts) == 1, (format, len(whole) - end)

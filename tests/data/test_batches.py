"""Raw values for calibration are what the device's own readers make of a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from edgemm.data import Sample
from edgemm.data.batches import TakesValues, raw_value_stream
from edgemm.data.dataset import strided_samples
from edgemm.data.image import read_image
from edgemm.runtime.errors import DataError
from edgemm.runtime.images import decode_image
from edgemm.runtime.readers import ImageInput, RawInput, TextInput


class Takes:
    """Stands for a model: only what the stream reads of one."""

    def __init__(self) -> None:
        tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "cat": 3}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self.tokenizer_json: str | None = tokenizer.to_str()
        self.chain: tuple[TakesValues, ...] = ()
        self.inputs: dict[str, RawInput] = {"image": ImageInput(), "text": TextInput("tokenizer.json", 4)}


def sample(path: Path, *, text: str | None = "a cat") -> Sample:
    rgba = np.random.default_rng(1).integers(0, 256, (10, 12, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(path)
    return Sample("s", image=path, text=text)


def test_a_sample_becomes_raw_values_of_batch_one(tmp_path: Path) -> None:
    one = sample(tmp_path / "a.png")
    values = next(raw_value_stream([one], Takes()))
    assert values["image"].shape == (1, 10, 12, 3)
    assert values["image"].dtype == np.uint8
    np.testing.assert_array_equal(values["input_ids"], [[2, 3]])
    np.testing.assert_array_equal(values["attention_mask"], [[1, 1]])


def test_transparency_lies_on_white_as_on_the_device(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(path)
    assert (read_image(path) == 255).all()
    np.testing.assert_array_equal(read_image(path), decode_image(path, where="image"))


def test_a_limit_takes_an_even_stride() -> None:
    samples = [Sample(str(i)) for i in range(10)]
    assert [s.id for s in strided_samples(samples, 4)] == ["0", "2", "5", "7"]
    assert len(strided_samples(samples, None)) == 10


def test_a_sample_with_nothing_to_feed_is_an_error() -> None:
    with pytest.raises(DataError, match=r"sample 'x' has none of what the model takes: image, text"):
        list(raw_value_stream([Sample("x")], Takes()))


def test_an_image_that_cannot_be_decoded_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad.png"):
        list(raw_value_stream([Sample("x", image=tmp_path / "bad.png")], Takes()))

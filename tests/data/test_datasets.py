"""Readers of tables: what a sample is, what is held out, and how broken data is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgemm.data
from edgemm.data import Dataset
from edgemm.data.dataset import held_out
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError


def config(kind: str, **fields: object) -> DataConfig:
    return DataConfig.model_validate({"kind": kind, **fields})


def open_dataset(config: DataConfig) -> Dataset:
    """These readers find files on disk; the cache is never made."""
    return edgemm.data.open_dataset(config, cache=Path("never-made"))


def write_image(path: Path, *, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_the_held_out_concepts_do_not_depend_on_the_list() -> None:
    assert held_out("grinning face", 0.12) == held_out("grinning face", 0.12)
    # a larger fraction only adds concepts
    names = [f"concept {i}" for i in range(2000)]
    small, large = ({n for n in names if held_out(n, f)} for f in (0.1, 0.2))
    assert small < large
    assert 0.08 < len(small) / len(names) < 0.12


def test_the_digest_is_of_contents_and_not_of_places(tmp_path: Path) -> None:
    def at(folder: Path, *, flip: bool = False) -> str:
        path = write_image(folder / "a.png")
        if flip:
            Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
        (folder / "d.csv").write_text("image,text\na.png,one\n")
        return open_dataset(config("table", root=str(folder / "d.csv"))).digest

    assert at(tmp_path / "x") == at(tmp_path / "y")
    assert at(tmp_path / "x") != at(tmp_path / "z", flip=True)


# --- table -----------------------------------------------------------------------------------------------------------


def table(folder: Path, text: str, *, name: str = "d.csv", **fields: object) -> Dataset:
    (folder / name).write_text(text, encoding="utf-8")
    return open_dataset(config("table", root=str(folder / name), **fields))


def test_a_csv_maps_its_own_column_names(tmp_path: Path) -> None:
    write_image(tmp_path / "img" / "a.png")
    data = table(
        tmp_path,
        "file,caption,class,part\nimg/a.png,a cat,cat,train\nimg/a.png,the cat,cat,val\n",
        columns={"image": "file", "text": "caption", "label": "class", "split": "part"},
    )
    assert list(data.splits) == ["train", "val"]
    assert data.evaluate == ("val",)
    assert data.labels == ("cat",)
    assert data.texts == {"cat": ("a cat",)}  # what is held back is nobody's other name
    assert data.split("train")[0].image == tmp_path / "img" / "a.png"


def test_jsonl_reads_like_csv(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    rows = '{"image": "a.png", "text": "one"}\n\n{"image": "a.png", "text": "two"}\n'
    assert [s.text for s in table(tmp_path, rows, name="d.jsonl").split("train")] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.csv", "image,text\n,\n", r"row 1: image and text are empty"),
        ("d.csv", "image,text\na.png,  \n", r"row 1: text is nothing but white space"),
        ("d.csv", "image,text\na.png,one\na.png\n", r"row 2: more or fewer cells"),
        ("d.csv", "picture,caption\na.png,one\n", r"no column image, text or audio"),
        ("d.csv", "image,text\n", r"no row of split 'train'"),
        ("d.csv", "image,text\nmissing.png,one\n", r"train sample '1': can't read .*missing.png"),
        ("d.csv", "image,text\nbad.png,one\n", r"train sample '1': .*bad.png: (truncated|cannot|not an)"),
        ("d.csv", "image,text,label\na.png,one,\n", r"row 1: label is empty"),
        ("d.jsonl", '{"image": "a.png"}\n{"text": "x"}\n', r"row 2: not the same columns.*image, text"),
        ("d.jsonl", "{not json\n", r"row 1: not JSON"),
        ("d.jsonl", "[1]\n", r"row 1: got list, expected an object"),
        ("d.txt", "image\n", r"expected a .csv, .jsonl or .parquet file"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DataError, match=message):
        table(tmp_path, text, name=name)


def test_a_mapped_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'caption'; it has image, text"):
        table(tmp_path, "image,text\na.png,one\n", columns={"text": "caption"})


def test_broken_samples_are_counted_up_to_the_limit(tmp_path: Path) -> None:
    good = write_image(tmp_path / "a.jpg", size=(80, 80))
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    rows = "image,text\na.jpg,one\ncut.jpg,two\n"
    with pytest.raises(DataError, match=r"truncated or corrupt JPEG.*raise data.max_broken"):
        table(tmp_path, rows)
    data = table(tmp_path, rows, max_broken=1)
    assert [s.text for s in data.split("train")] == ["one"]
    assert len(data.broken) == 1
    assert "cut.jpg" in data.broken[0]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_a_truncated_image_shows_when_the_data_is_opened(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{kind}")
    data = (tmp_path / f"whole.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) * 2 // 5])
    assert len(table(tmp_path, f"image,text\nwhole.{kind},one\n").split("train")) == 1
    with pytest.raises(DataError, match=rf"cut\.{kind}: ") as caught:
        table(tmp_path, f"image,text\nwhole.{kind},one\ncut.{kind},two\n")
    assert "\n" not in str(caught.value)


def test_an_image_too_large_to_decode_is_a_broken_sample(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    Image.new("1", (12_000, 9_000)).save(tmp_path / "large.png")
    rows = "image,text\na.png,one\nlarge.png,two\n"
    with pytest.raises(DataError, match=r"large.png: 12000×9000 pixels, expected at most 100000000; mend it"):
        table(tmp_path, rows)
    assert len(table(tmp_path, rows, max_broken=1).split("train")) == 1


def test_an_unknown_split_is_told_with_the_known_ones(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"no split 'val' in the data; there are train"):
        table(tmp_path, "image,text\na.png,one\n", evaluate=("val",))


def test_samples_never_change(tmp_path: Path) -> None:
    sample = table(tmp_path, "text\none\n").split("train")[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.text = "other"  # type: ignore[misc]

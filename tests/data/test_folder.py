"""Folders: a folder per class, with or without one per split."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemm.data import Dataset, open_dataset
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from tests.data.media import png, sound, write


def opened(root: Path, **fields: object) -> Dataset:
    config = DataConfig.model_validate({"kind": "folder", "root": str(root), **fields})
    return open_dataset(config, cache=root.parent / "cache")


def test_splits_are_the_outer_folders_and_labels_the_inner_ones(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/1.PNG", "test/cat/2.png"):
        write(tmp_path / "d" / name, png())
    write(tmp_path / "d" / "test" / "dog" / "2.wav", sound())
    write(tmp_path / "d" / ".cache" / "x" / "y.png", b"")
    data = opened(tmp_path / "d")
    assert {name: [(s.id, s.label) for s in samples] for name, samples in data.splits.items()} == {
        "train": [("train/cat/1", "cat"), ("train/dog/1", "dog")],
        "test": [("test/cat/2", "cat"), ("test/dog/2", "dog")],
    }
    assert data.split("test")[1].audio == tmp_path / "d" / "test" / "dog" / "2.wav"
    assert (data.labels, data.evaluate, data.broken) == (("cat", "dog"), ("test",), ())


def test_without_split_folders_everything_is_train(tmp_path: Path) -> None:
    for name in ("ann/1.png", "ann/2.png", "bob/1.png"):
        write(tmp_path / "d" / name, png())
    data = opened(tmp_path / "d")
    assert list(data.splits) == ["train"]
    assert (data.labels, data.evaluate) == (("ann", "bob"), ("train",))


def test_a_picture_and_a_sound_of_one_name_are_one_sample(tmp_path: Path) -> None:
    write(tmp_path / "d" / "cat" / "1.png", png())
    write(tmp_path / "d" / "cat" / "1.ogg", sound("OGG"))
    (sample,) = opened(tmp_path / "d").split("train")
    assert sample.image == tmp_path / "d" / "cat" / "1.png"
    assert sample.audio == tmp_path / "d" / "cat" / "1.ogg"


def test_a_class_is_one_however_the_letters_of_its_folder_are_composed(tmp_path: Path) -> None:
    write(tmp_path / "d" / "train" / "caf\u00e9" / "1.png", png())
    write(tmp_path / "d" / "test" / "cafe\u0301" / "2.png", png(1))
    data = opened(tmp_path / "d")
    assert {s.label for samples in data.splits.values() for s in samples} == set(data.labels) == {"caf\u00e9"}


def test_files_of_other_endings_are_counted_not_forgotten(tmp_path: Path) -> None:
    for name in ("1.png", "2.heic", "3.heic", "README"):
        write(tmp_path / "d" / "cat" / name, png())
    (line,) = opened(tmp_path / "d").broken
    assert line.endswith("files that are no image or sound by their ending: 1 without ending, 2 .heic")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no image or sound in it; expected CLASS/FILE or SPLIT/CLASS/FILE"),
        (["1.png"], "1.png: expected CLASS/FILE or SPLIT/CLASS/FILE"),
        (["a/b/c/1.png"], "1.png: expected CLASS/FILE or SPLIT/CLASS/FILE"),
        (["cat/1.png", "test/cat/1.png"], "lie at different depths; expected a folder per split or none"),
        (["cat/1.png", "cat/1.jpg"], "1.png: a second image beside 1.jpg"),
        (["val/cat/1.png"], "no folder 'train'; found val"),
    ],
)
def test_a_folder_that_is_laid_out_otherwise_is_told(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "d").mkdir()
    for name in names:
        write(tmp_path / "d" / name, png())
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "d")


def test_no_folder_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root: got .*none, expected a folder with a folder per class"):
        opened(tmp_path / "none")

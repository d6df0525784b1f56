"""Pairs of verification: read from a table's folder or from folders, held against the samples, part of the digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemm.data import Dataset, open_dataset
from edgemm.data.dataset import Pair
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from tests.data.media import png, write

SPLITS = {"train": "ann bob", "test": "cid dee", "other": "eve fay"}
HEAD = "a,b,same"
PAIRS = "test/cid/1.png,test/cid/2.png,1\ntest/cid/1.png,test/dee/1.png,0\n"


def people(folder: Path, pairs: str, **fields: object) -> Dataset:
    for split, names in SPLITS.items():
        for name in names.split():
            for number in (1, 2):
                write(folder / "d" / split / name / f"{number}.png", png())
    (folder / "pairs.csv").write_text(pairs)
    given = {"kind": "folder", "root": str(folder / "d"), "evaluate": ["test"], **fields}
    config = DataConfig.model_validate({**given, "pairs": str(folder / "pairs.csv")})
    return open_dataset(config, cache=folder / "cache")


def test_a_row_names_two_samples_and_says_whether_they_are_one(tmp_path: Path) -> None:
    data = people(tmp_path, f"{HEAD}\n{PAIRS}")
    assert data.pairs == {
        "test": (Pair("test/cid/1", "test/cid/2", True), Pair("test/cid/1", "test/dee/1", False)),
    }


def test_a_table_names_its_files_relative_to_itself(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        write(tmp_path / "d" / name, png())
    (tmp_path / "d" / "faces.csv").write_text(
        "image,label,split\n1.png,a,train\n1.png,a,test\n2.png,a,test\n3.png,b,test\n"
    )
    (tmp_path / "pairs.csv").write_text("a,b,same,fold\n1.png,2.png,1,x\n1.png,./3.png,0,y\n")
    config = DataConfig(kind="table", root=str(tmp_path / "d" / "faces.csv"), pairs=str(tmp_path / "pairs.csv"))
    assert open_dataset(config, cache=tmp_path / "cache").pairs["test"] == (
        Pair("2", "3", True, "x"), Pair("2", "4", False, "y")
    )  # fmt: skip


def test_pairs_of_several_splits_say_which(tmp_path: Path) -> None:
    named = PAIRS.replace(",1\n", ",1,test\n").replace(",0\n", ",0,test\n")
    data = people(tmp_path, f"{HEAD},split\n{named}", evaluate=["test", "other"])
    assert list(data.pairs) == ["test"]  # of the other all pairs are compared


def test_what_is_compared_is_part_of_the_digest(tmp_path: Path) -> None:
    one = people(tmp_path, f"{HEAD}\n{PAIRS}")
    assert people(tmp_path / "elsewhere", f"{HEAD}\n{PAIRS}").digest == one.digest
    more = people(tmp_path, f"{HEAD}\n{PAIRS}test/cid/2.png,test/dee/1.png,0\n")
    without = open_dataset(
        DataConfig(kind="folder", root=str(tmp_path / "d"), evaluate=("test",)), cache=tmp_path / "cache"
    )
    assert len({one.digest, more.digest, without.digest}) == 3


BAD = {
    "another sample": (
        f"{HEAD}\n{PAIRS}test/cid/9.png,test/cid/1.png,1",
        r"pairs.csv, row 3: 'test/cid/9.png' is no sample of split 'test', which is evaluated; write it as the data "
        r"does, or take the row out",
    ),
    "a sample that is trained on": (
        f"{HEAD}\ntrain/ann/1.png,test/cid/1.png,0", "row 1: 'train/ann/1.png' is no sample"
    ),
    "a split that is not evaluated": (
        f"{HEAD},split\ntrain/ann/1.png,train/ann/2.png,1,train",
        "row 1: split 'train' is not evaluated; expected test, or name it in data.evaluate",
    ),
    "a column that is missing": ("a,b\nx,y", "row 1: no same; expected columns a, b and same, and none of them empty"),
    "an empty cell": (f"{HEAD}\n,test/cid/1.png,1", "row 1: no a; expected columns"),
    "neither 0 nor 1": (f"{HEAD}\ntest/cid/1.png,test/cid/2.png,yes", "row 1: same: got 'yes', expected 0 or 1"),
    "labels that differ": (
        f"{HEAD}\ntest/cid/1.png,test/dee/1.png,1", "row 1: same is 1, and the labels are 'cid' and 'dee'; mend either"
    ),
    "one sample": (f"{HEAD}\ntest/cid/1.png,test/cid/1.png,1", "row 1: a and b are one sample, 'test/cid/1.png'"),
    "one kind": (f"{HEAD}\ntest/cid/1.png,test/cid/2.png,1", "split 'test': every pair is of one identity"),
    "no fold": (
        f"{HEAD},fold\ntest/cid/1.png,test/cid/2.png,1,3\ntest/cid/1.png,test/dee/1.png,0,",
        "split 'test': folds 3, none; expected two at least, and one for each pair",
    ),
    "no pair": (f"{HEAD}\n", "pairs.csv: no pair in it"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_pair_that_is_none_is_one_line_with_its_row(case: str, tmp_path: Path) -> None:
    pairs, message = BAD[case]
    with pytest.raises(DataError, match=message):
        people(tmp_path, pairs)


def test_a_pair_of_a_broken_picture_is_told_to_be_that(tmp_path: Path) -> None:
    people(tmp_path, f"{HEAD}\n{PAIRS}")
    (tmp_path / "d" / "test" / "cid" / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"'test/cid/3.png' is no sample of split 'test', .*left out as broken or by"):
        people(tmp_path, f"{HEAD}\n{PAIRS}test/cid/3.png,test/cid/1.png,1", max_broken=1)


def test_a_split_that_a_pair_does_not_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1: no split, and test, other are evaluated; name one in a column 'split'"):
        people(tmp_path, f"{HEAD}\n{PAIRS}", evaluate=["test", "other"])
    with pytest.raises(DataError, match=r"row 1: 'other/eve/1.png' is no sample of split 'test'.*it is one of 'other'"):
        people(tmp_path, f"{HEAD},split\nother/eve/1.png,test/cid/2.png,0,test", evaluate=["test", "other"])


def test_a_file_that_is_not_there_is_told_by_its_key(tmp_path: Path) -> None:
    config = DataConfig(kind="folder", root=str(tmp_path / "d"), pairs=str(tmp_path / "none.csv"))
    write(tmp_path / "d" / "a" / "1.png", png())
    with pytest.raises(DataError, match=r"data\.pairs: can't read .*none\.csv"):
        open_dataset(config, cache=tmp_path / "cache")

"""One table gives one set of samples, however it is written and whichever reader opens it."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Features, Value
from datasets.utils.file_utils import xPath

from edgemm.data import Dataset, open_dataset
from edgemm.data.rowfiles import read_rows, rows_of_kind
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from tests.data.media import png, sound, tar, write

Row = dict[str, object]

WORDS = (
    "None", "null", "NULL", "NA", "N/A", "nan", "NaN", "inf", "true", "True", "FALSE", "01", "007", "1", "1.0", "1.50",
    "1e5", "0x1F", "-0", "1_000", "12345678901234567890123", "2024-01-31", "2024-01-31T10:00:00", "12:30", "a|b",
    "a,b", 'say "yes"', "line\nbreak", "line\r\nbreak", "tab\there", "é", "日本語", "\U0001f600", "=1+1", "#", "\\N",
)  # fmt: skip


def from_rows(kind: str, path: Path, rows: Sequence[Row]) -> Path:
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif kind == "json":
        path.write_text(json.dumps(list(rows), ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def by_table(path: Path, **fields: object) -> Dataset:
    return opened(path.parent, kind="table", root=str(path), **fields)


def by_datasets(path: Path, **fields: object) -> Dataset:
    kind = {".csv": "csv", ".parquet": "parquet"}.get(path.suffix, "json")
    return opened(path.parent, kind="datasets", name=kind, files={"train": str(path)}, **fields)


def opened(folder: Path, **fields: object) -> Dataset:
    return open_dataset(DataConfig.model_validate(fields), cache=folder / "cache")


def content(data: Dataset) -> dict[str, list[tuple[object, ...]]]:
    """All of a data set but the samples' ids, which are numbers of rows here and keys there."""
    return {
        split: [(s.text, s.label, s.labels, s.value, s.group, s.cluster, s.modalities()) for s in samples]
        for split, samples in data.splits.items()
    }


READERS: dict[str, Callable[[Path, Sequence[Row]], Dataset]] = {
    "CSV": lambda folder, rows: by_table(from_rows("csv", folder / "d.csv", rows)),
    "JSONL": lambda folder, rows: by_table(from_rows("jsonl", folder / "d.jsonl", rows)),
    "Parquet": lambda folder, rows: by_table(from_rows("parquet", folder / "d.parquet", rows)),
    "datasets, CSV": lambda folder, rows: by_datasets(from_rows("csv", folder / "d.csv", rows)),
    "datasets, JSONL": lambda folder, rows: by_datasets(from_rows("jsonl", folder / "d.jsonl", rows)),
    "datasets, JSON": lambda folder, rows: by_datasets(from_rows("json", folder / "d.json", rows)),
    "datasets, Parquet": lambda folder, rows: by_datasets(from_rows("parquet", folder / "d.parquet", rows)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_cell_of_text_is_what_stands_in_it(tmp_path: Path, reader: str, seed: int) -> None:
    draw = random.Random(seed)
    rows: list[Row] = [
        {
            "text": text,
            "label": draw.choice(WORDS),
            "group": draw.choice([*WORDS, ""]),
            "split": draw.choice(["train", "Train", "test", "TEST ", "training"]),
        }
        for text in draw.sample(WORDS, len(WORDS))
    ]
    rows.append({"text": "last", "label": "null", "group": "", "split": "train"})
    data = READERS[reader](tmp_path, rows)
    said = {"train": "train", "Train": "train", "training": "train", "test": "test", "TEST ": "test"}
    for split in ("train", "test"):
        assert [(s.text, s.label, s.group) for s in data.split(split)] == [
            (row["text"], row["label"], row["group"] or None) for row in rows if said[str(row["split"])] == split
        ]


@pytest.mark.parametrize("reader", READERS)
def test_numbers_lists_of_classes_and_empty_cells_are_the_same_from_every_reader(tmp_path: Path, reader: str) -> None:
    rows: list[Row] = [
        {"text": "a", "label": 7, "value": 0.1, "cluster": 2**62 + 1},
        {"text": "b", "label": 10, "value": -1e-7, "cluster": 3},
        {"text": "c", "label": 7, "value": 12345678.5, "cluster": None},
    ]
    assert content(READERS[reader](tmp_path, rows)) == {
        "train": [
            ("a", "7", (), 0.1, None, "4611686018427387905", ("text",)),
            ("b", "10", (), -1e-7, None, "3", ("text",)),
            ("c", "7", (), 12345678.5, None, None, ("text",)),
        ]
    }


@pytest.mark.parametrize("reader", READERS)
def test_synonyms_are_other_texts_of_a_label_from_every_reader(tmp_path: Path, reader: str) -> None:
    said: list[tuple[str | None, str, list[str], str]] = [
        ("a cat", "cat", ["kitty", "None"], "train"),
        ("the cat", "cat", [], "train"),
        ("a dog", "dog", ["a dog", "hound"], "train"),
        ("a cat", "cat", ["moggy"], "test"),  # held back: nobody's other name
    ]
    lists = "CSV" not in reader
    rows: list[Row] = [
        {"text": text, "label": label, "synonyms": names if lists else "|".join(names), "split": split}
        for text, label, names, split in said
    ]
    data = READERS[reader](tmp_path, rows)
    assert data.texts == {"cat": ("a cat", "kitty", "None", "the cat"), "dog": ("a dog", "hound")}
    assert [sample.synonyms for sample in data.split("test")] == [("moggy",)]
    assert data.all_texts() == ["None", "a cat", "a dog", "hound", "kitty", "the cat"]


@pytest.mark.parametrize("open_table", [by_table, by_datasets])
def test_synonyms_of_no_label_are_told_and_not_read(tmp_path: Path, open_table: Callable[..., Dataset]) -> None:
    path = from_rows("csv", tmp_path / "d.csv", [{"text": "a", "synonyms": "b"}])
    data = open_table(path)
    assert (data.texts, data.split("train")[0].synonyms) == ({}, ())
    assert [line.partition(": ")[2] for line in data.broken] == [
        "column 'synonyms', since there is no column 'label' that they name"
    ]
    with pytest.raises(DataError, match=r"data\.columns\.synonyms: they name a label, and .* has no column label"):
        open_table(path, columns={"synonyms": "synonyms"})


@pytest.mark.parametrize("open_table", [by_table, by_datasets])
def test_groups_to_show_can_be_said_of_any_table_and_have_to_be_there(
    tmp_path: Path, open_table: Callable[..., Dataset]
) -> None:
    path = from_rows("jsonl", tmp_path / "d.jsonl", [{"text": "a", "group": "x"}, {"text": "b", "group": "y"}])
    assert open_table(path, shown_groups=["y"]).shown_groups == ("y",)
    with pytest.raises(DataError, match=r"data\.shown_groups: no sample is of group 'z'; there are x, y"):
        open_table(path, shown_groups=["z"])


@pytest.mark.parametrize("open_table", [by_table, by_datasets])
def test_a_float32_of_parquet_is_the_number_that_was_written(
    tmp_path: Path, open_table: Callable[[Path], Dataset]
) -> None:
    """The shortest decimal that is nearest to it, as numpy prints it and a table in words holds it."""
    numbers = [0.1, 1e-7, 16777216.0, 3.4028235e38, 1 / 3]
    single = pyarrow.array(numbers, pyarrow.float32())
    columns = {
        "text": list("abcde"),
        "value": single,
        "label": pyarrow.array([np.float16(n) for n in (0.1, 0.5, 7, 1e-3, 2 / 3)], pyarrow.float16()),
        "group": single.dictionary_encode(),
        "meta": pyarrow.StructArray.from_arrays([single], ["cluster"]),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
    samples = open_table(tmp_path / "d.parquet", columns={"cluster": "meta.cluster"}).split("train")  # type: ignore[call-arg]
    spelt = [float(str(np.float32(n))) for n in numbers]
    assert [s.value for s in samples] == spelt
    assert [s.label for s in samples] == ["0.1", "0.5", "7", "0.001", "0.6665"]
    assert [s.group for s in samples] == [s.cluster for s in samples]
    assert [s.group for s in samples][:3] == ["0.1", "1e-07", "16777216"]


def test_float32_classes_and_vectors_of_parquet_are_the_numbers_that_were_written(tmp_path: Path) -> None:
    vectors = [[0.1, 0.2], [0.3, 0.4]]
    columns = {"labels": vectors, "sensor": vectors}
    table = pyarrow.table({k: pyarrow.array(v, pyarrow.list_(pyarrow.float32())) for k, v in columns.items()})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    samples = by_table(tmp_path / "d.parquet", tensors=["sensor"]).split("train")
    assert [s.labels for s in samples] == [("0.1", "0.2"), ("0.3", "0.4")]
    np.testing.assert_array_equal([np.load(s.tensors["sensor"]) for s in samples], np.float32(vectors))


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "json", "parquet"])
def test_a_table_on_a_file_system_elsewhere_is_read_by_the_same_reader(tmp_path: Path, kind: str) -> None:
    """The hub's files are opened as these are: by the library's paths, through fsspec."""
    rows: list[Row] = [{"text": word, "label": word} for word in ("None", "null", "01", "NA")]
    plain_kind = kind.removesuffix(".gz")
    data = from_rows(plain_kind, tmp_path / "d", rows).read_bytes()
    place = f"memory://{tmp_path.name}/d.{kind}"
    with fsspec.open(place, "wb") as file:
        file.write(gzip.compress(data) if kind.endswith(".gz") else data)
    found = rows_of_kind(xPath(place), plain_kind, key="data.files")
    assert [row for _, row in found] == rows


@pytest.mark.parametrize("open_table", [by_table, by_datasets])
@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.parquet"])
def test_a_column_with_white_space_around_its_name_is_told_by_name(
    tmp_path: Path, open_table: Callable[..., Dataset], name: str
) -> None:
    path = from_rows(name.partition(".")[2], tmp_path / name, [{"text": "a", " label": "x"}])
    with pytest.raises(DataError, match=r"column ' label' has white space around its name, expected 'label'; take it"):
        open_table(path)
    data = open_table(path, columns={"label": " label"})
    assert [s.label for s in data.split("train")] == ["x"]


@pytest.mark.parametrize("open_table", [by_table, by_datasets])
def test_a_class_of_hugging_faces_is_its_name_in_parquet(tmp_path: Path, open_table: Callable[[Path], Dataset]) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "01", "null"])})
    table = pyarrow.table({"text": ["a", "b", "c"], "label": [2, 1, 0]}, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    assert [s.label for s in open_table(tmp_path / "d.parquet").split("train")] == ["null", "01", "no"]


@pytest.mark.parametrize("open_table", [by_table, by_datasets])
def test_categories_and_dates_of_parquet_are_their_text(tmp_path: Path, open_table: Callable[[Path], Dataset]) -> None:
    columns = {
        "text": ["a", "b"],
        "label": pyarrow.array(["x", "01"]).dictionary_encode(),
        "group": [datetime(2024, 1, 31, 10, 5), datetime(2024, 2, 1)],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
    assert [(s.label, s.group) for s in open_table(tmp_path / "d.parquet").split("train")] == [
        ("x", "2024-01-31 10:05:00"),
        ("01", "2024-02-01 00:00:00"),
    ]


def test_words_in_the_table_of_a_folder_of_pictures_are_read_as_words(tmp_path: Path) -> None:
    words = ("None", "null", "01", "NA")
    for number in range(len(words)):
        write(tmp_path / "d" / "train" / f"{number}.PNG", png(number))
    lines = "".join(f"{number}.PNG,{word},{word}\n" for number, word in enumerate(words))
    write(tmp_path / "d" / "train" / "metadata.csv", f"file_name,text,label\n{lines}".encode())
    samples = opened(tmp_path, kind="datasets", name="imagefolder", root=str(tmp_path / "d")).split("train")
    assert [(s.text, s.label) for s in samples] == [(word, word) for word in words]
    assert [s.image.read_bytes() if s.image else b"" for s in samples] == [png(i) for i in range(len(words))]


@pytest.mark.parametrize("open_table", [by_table, by_datasets])
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.csv", "text,text\na,b\n", "two columns are called 'text'"),
        ("d.csv", "text,label\na,x,y\n", "row 1: more or fewer cells"),
        ("d.csv", 'text\n"a\n', "row 1: not CSV"),
        ("d.jsonl", '{"text": "a", "text": "b"}\n', "row 1: not JSON .'text' is there twice"),
        ("d.jsonl", "[" * 100_000 + "\n", "not JSON"),
        ("d.jsonl", '{"text": "\\ud800"}\n', r"text: '\\ud800' holds half a character"),
        ("d.jsonl", '{"text": "a", "label": "\\ud800"}\n', r"label: '\\ud800' holds half a character"),
        ("d.jsonl", '{"image": "a\\u0000.png"}\n', r"image: 'a\\x00.png' holds a NUL"),
        ("d.jsonl", f'{{"image": "{"a" * 5000}.png"}}\n', "File name too long"),
        ("d.jsonl", f'{{"text": "a", "value": {10**400}}}\n', "value: got 1000"),
        ("d.csv", "text,value\na,1_000\n", "value: got '1_000'"),
        ("d.jsonl", '{"text": "a", "label": 1e400}\n', "label: a number that is infinite, or too large for a float64"),
        ("d.jsonl", '{"text": "a", "group": -Infinity}\n', "group: a number that is infinite, or too large"),
        ("d.jsonl", '{"text": "a", "value": 1e400}\n', "value: got inf, expected a finite number"),
        ("d.jsonl", '{"text": "a", "label": "x", "synonyms": 7}\n', "synonyms: got int, expected a list of texts, or"),
        ("d.jsonl", '{"text": "a", "label": "x", "synonyms": ["b", 7]}\n', "a text of synonyms is no string: 7"),
        ("d.csv", "text,label,synonyms\na,x,b||c\n", "a text of synonyms is empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_from_either_reader(
    tmp_path: Path, open_table: Callable[[Path], Dataset], name: str, text: str, message: str
) -> None:
    path = write(tmp_path / name, text.encode())
    with pytest.raises(DataError, match=message) as caught:
        open_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("open_table", [by_table, by_datasets])
def test_byte_order_marks_other_line_ends_and_capital_endings_change_nothing(
    tmp_path: Path, open_table: Callable[[Path], Dataset]
) -> None:
    plain = "text,label\none,01\ntwo,02\n"
    for name, data in {
        "a.csv": plain.encode("utf-8-sig"),
        "b.csv": plain.replace("\n", "\r\n").encode(),
        "c.CSV": plain.encode(),
        "d.csv": plain.replace("two", '\n"two"').encode(),  # a blank line
    }.items():
        path = write(tmp_path / name, data)
        if open_table is by_datasets:
            data_ = opened(tmp_path, kind="datasets", name="csv", files={"train": str(path)})
        else:
            data_ = open_table(path)
        assert [(s.text, s.label) for s in data_.split("train")] == [("one", "01"), ("two", "02")]


# --- names of splits -------------------------------------------------------------------------------------------------


def test_splits_are_one_however_they_are_spelled_and_that_is_told(tmp_path: Path) -> None:
    rows = "text,label,split\na,x,train\nb,y,Train\nc,x,TEST\nd,y,test\ne,,unlabeled\nf,x,Training\n"
    data = by_table(write(tmp_path / "d.csv", rows.encode()), evaluate=["Test"])
    assert {name: [s.text for s in samples] for name, samples in data.splits.items()} == {
        "train": ["a", "b", "f"],
        "test": ["c", "d"],
        "unlabelled": ["e"],
    }
    assert data.evaluate == ("test",)
    assert [line.partition("split ")[2] for line in data.broken] == [
        "'Train' is read as 'train'",
        "'TEST' is read as 'test'",
        "'unlabeled' is read as 'unlabelled'",
        "'Training' is read as 'train'",
    ]


def test_two_spellings_of_a_held_out_split_are_measured_apart_and_told(tmp_path: Path) -> None:
    data = by_table(write(tmp_path / "d.csv", b"text,split\na,train\nb,val\nc,validation\n"))
    assert data.evaluate == ("val", "validation")
    assert "splits 'val' and 'validation' are measured apart" in data.broken[0]


def test_a_recipe_may_spell_a_held_out_split_otherwise_than_the_data(tmp_path: Path) -> None:
    data = by_table(write(tmp_path / "d.csv", b"text,split\na,train\nb,dev\nc,test\n"), evaluate=["validation"])
    assert data.evaluate == ("dev",)


def test_splits_of_folders_and_of_streams_are_read_alike(tmp_path: Path) -> None:
    for name in ("Train/cat/1.png", "Train/dog/2.png", "VAL/cat/3.png"):
        write(tmp_path / "d" / name, png())
    folder = opened(tmp_path, kind="folder", root=str(tmp_path / "d"))
    files = {"Train": str(tmp_path / "d/Train/**"), "VAL": str(tmp_path / "d/VAL/**")}
    stream = opened(tmp_path, kind="datasets", name="imagefolder", files=files)
    for data in (folder, stream):
        assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 2, "val": 1}
        assert len(data.broken) == 2


def test_a_column_of_splits_counts_where_the_data_has_one_split_and_is_told_where_it_has_several(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "d.csv", b"text,split\na,train\nb,test\n")
    assert {n: len(s) for n, s in by_datasets(path).splits.items()} == {"train": 1, "test": 1}
    files = {"train": str(path), "test": str(path)}
    both = opened(tmp_path, kind="datasets", name="csv", files=files)
    assert {n: len(s) for n, s in both.splits.items()} == {"train": 2, "test": 2}
    assert "split 'train': 1 rows whose column says split 'test' are read as 'train'" in both.broken[0]


# --- shards ----------------------------------------------------------------------------------------------------------


def shards(tmp_path: Path, members: Sequence[Sequence[tuple[str, bytes]]], **columns: str) -> Dataset:
    for number, each in enumerate(members):
        tar(tmp_path / f"{number}.tar", each)
    files = {"train": str(tmp_path / "*.tar")}
    return opened(tmp_path, kind="datasets", name="webdataset", files=files, columns=columns)


def test_pictures_of_every_ending_are_read_where_a_sample_has_one(tmp_path: Path) -> None:
    first = [(f"{i}.{e}", d) for i in range(6) for e, d in (("jpg", png(i)), ("txt", b"a"))]
    second = [(f"{i}.{e}", d) for i in (6, 7) for e, d in (("PNG", png(i)), ("txt", b"a"))]
    third = [("8.JPG", png(8)), ("8.txt", b"a"), ("9.jpeg", png(9)), ("9.txt", b"a")]
    samples = shards(tmp_path, [first, second, third], image="jpg", text="txt").split("train")
    assert [s.image.read_bytes() if s.image else b"" for s in samples] == [png(i) for i in range(10)]


def test_a_mask_beside_a_picture_is_not_taken_for_it(tmp_path: Path) -> None:
    members = [("0.jpg", png(0)), ("0.png", png(9)), ("0.txt", b"a"), ("1.png", png(9)), ("1.txt", b"b")]
    data = shards(tmp_path, [members], image="jpg", text="txt")
    assert [s.image is None for s in data.split("train")] == [False, True]
    assert "1 samples lack a column and have 'png', which none is mapped to" in data.broken[0]


def test_members_of_a_sample_may_lie_apart_and_keys_may_hold_folders(tmp_path: Path) -> None:
    members = [(f"v1.0/{i}.png", png(i)) for i in range(3)] + [(f"v1.0/{i}.cls", b"01") for i in range(3)]
    samples = shards(tmp_path, [members], image="png", label="cls").split("train")
    assert [(s.id, s.label, s.image is not None) for s in samples] == [
        (f"train/v1.0/{i}", "01", True) for i in range(3)
    ]


def test_sounds_of_mixed_endings_are_read(tmp_path: Path) -> None:
    members = [("0.wav", sound()), ("1.flac", sound("FLAC"))]
    assert all(s.audio for s in shards(tmp_path, [members], audio="wav").split("train"))


def test_a_member_that_is_there_twice_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0.tar has '0.txt' twice; take one out"):
        shards(tmp_path, [[("0.txt", b"a"), ("0.txt", b"b")]], text="txt")


def test_blank_lines_before_the_names_of_a_table_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n \ntext,label\n\na,b\n\n")
    assert list(read_rows(tmp_path / "a.csv", key="data.path")) == [(1, {"text": "a", "label": "b"})]

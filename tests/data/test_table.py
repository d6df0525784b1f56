"""Table: what a cell may be, in CSV, JSONL and Parquet, and what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from edgemm.data import Dataset, open_dataset
from edgemm.data.files import keep_bytes
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError, StoreError
from edgemm.stage import Silent, Task
from tests.data.media import npy, png, sound, write


def opened(path: Path, **fields: object) -> Dataset:
    config = DataConfig.model_validate({"kind": "table", "root": str(path), **fields})
    return open_dataset(config, cache=path.parent / "cache")


def csv(folder: Path, text: str, **fields: object) -> Dataset:
    return opened(write(folder / "d.csv", text.encode()), **fields)


def jsonl(folder: Path, *rows: dict[str, object], **fields: object) -> Dataset:
    return opened(write(folder / "d.jsonl", "\n".join(map(json.dumps, rows)).encode()), **fields)


def parquet(folder: Path, columns: dict[str, object], **fields: object) -> Dataset:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "d.parquet")
    return opened(folder / "d.parquet", **fields)


def test_values_and_several_labels_are_read_from_every_kind_of_table(tmp_path: Path) -> None:
    rows = [{"text": "a", "value": 1.5, "labels": ["x", "y"]}, {"text": "b", "value": -2, "labels": []}]
    found = [
        csv(tmp_path, "text,value,labels\na,1.5,x|y\nb,-2,\n"),
        jsonl(tmp_path, *rows),
        parquet(tmp_path, {"text": ["a", "b"], "value": [1.5, -2.0], "labels": [["x", "y"], []]}),
    ]
    for data in found:
        assert [(s.text, s.value, s.labels) for s in data.split("train")] == [
            ("a", 1.5, ("x", "y")),
            ("b", -2.0, ()),
        ]
        assert data.labels == ("x", "y")
    assert len({data.digest for data in found}) == 1


def test_files_inside_parquet_become_files_of_the_same_bytes(tmp_path: Path) -> None:
    image, voice = png(7), sound("FLAC")
    data = parquet(
        tmp_path,
        {"image": [{"bytes": image, "path": "../../../x.png"}], "audio": pyarrow.array([voice], pyarrow.binary())},
    )
    (sample,) = data.split("train")
    assert sample.image is not None
    assert sample.audio is not None
    assert sample.image.read_bytes() == image
    assert sample.audio.read_bytes() == voice
    assert {sample.image.parent, sample.audio.parent} == {tmp_path / "cache" / "files"}
    assert (sample.image.suffix, sample.audio.suffix) == (".png", ".flac")
    assert data.checksums[sample.image] == sample.image.stem


def test_the_same_bytes_are_kept_once_and_nothing_half_written_stays(tmp_path: Path) -> None:
    parquet(tmp_path, {"image": [png(1), png(1), png(2)]})
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "files").iterdir()}
    parquet(tmp_path, {"image": [png(1), png(1), png(2)]})
    assert len(first) == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "files").iterdir()} == first


def test_a_file_that_was_cut_in_the_cache_is_written_again(tmp_path: Path) -> None:
    (sample,) = parquet(tmp_path, {"image": [png(1)]}).split("train")
    assert sample.image is not None
    sample.image.write_bytes(png(1)[:20])
    (again,) = parquet(tmp_path, {"image": [png(1)]}).split("train")
    assert again.image is not None
    assert again.image.read_bytes() == png(1)


def test_tensors_are_paths_bytes_or_lists(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", npy(np.float32([1, 2, 3])))
    data = jsonl(
        tmp_path,
        {"sensor": "a.npy", "pose": [[1, 2], [3, 4]], "label": 1},
        {"sensor": "a.npy", "pose": [[5, 6], [7, 8.5]], "label": 2},
        tensors=["sensor", "pose"],
    )
    first, second = data.split("train")
    assert first.raw("sensor") == tmp_path / "a.npy"
    assert np.array_equal(np.load(second.tensors["pose"]), np.float32([[5, 6], [7, 8.5]]))
    assert (first.label, second.label) == ("1", "2")


def test_samples_of_a_cluster_are_drawn_together(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png())
    data = csv(
        tmp_path, "image,text,patient\na.png,one,7\na.png,two,\n,three,7\n,four,\n", columns={"cluster": "patient"}
    )
    one, two, three, four = data.split("train")
    assert one.drawn_with() == three.drawn_with() == "cluster:7"
    assert two.drawn_with() == f"file:{tmp_path / 'a.png'}"
    assert four.drawn_with() == f"id:{four.id}"


def test_numbers_that_name_are_read_as_whole_and_nan_as_none(tmp_path: Path) -> None:
    rows = [{"text": str(number), "cluster": cell} for number, cell in enumerate((7, 7.0, "7", float("nan"), None))]
    clusters = [s.cluster for s in jsonl(tmp_path, *rows).split("train")]
    assert clusters == ["7", "7", "7", None, None]


def test_a_label_group_or_cluster_is_one_however_its_letters_are_composed(tmp_path: Path) -> None:
    names = ("caf\u00e9", "cafe\u0301")
    for label in ("label", "labels"):
        text = "".join(f"a,{name},{name},{name}\n" for name in names)
        data = csv(tmp_path, f"text,{label},group,cluster\n{text}")
        assert data.labels == names[:1]
        assert {(s.label or s.labels[0], s.group, s.cluster) for s in data.split("train")} == {names[:1] * 3}


def test_a_sample_may_lack_modalities_but_not_all(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png())
    write(tmp_path / "a.wav", sound())
    data = csv(tmp_path, "image,text,audio\na.png,,a.wav\n,one,\n,,a.wav\n")
    assert [(bool(s.image), s.text, bool(s.audio)) for s in data.split("train")] == [
        (True, None, True),
        (False, "one", False),
        (False, None, True),
    ]
    with pytest.raises(DataError, match=r"row 2: image and text are empty; a sample needs one"):
        csv(tmp_path, "image,text\na.png,one\n,\n")
    with pytest.raises(DataError, match=r"row 1: text is empty; a sample needs one"):
        csv(tmp_path, "text,group\n,g\n")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "value": "much"}, "value: got 'much', expected a finite number"),
        ({"text": "a", "value": float("nan")}, "value: got nan, expected a finite number"),
        ({"text": "a", "value": True}, "value: got True"),
        ({"text": "a", "value": None}, "value is empty"),
        ({"text": "a", "label": None}, "label is empty"),
        ({"text": "a", "label": ["x"]}, "label: got list, expected a string or a number"),
        ({"text": "a", "labels": None}, r"labels is empty; \[\] says that no class is right"),
        ({"text": "a", "labels": ["x", " "]}, "a label of labels is empty"),
        ({"text": "a", "labels": 3}, "labels: got int, expected a list"),
        ({"text": 3}, "text is no string: 3"),
        ({"text": "a", "image": 3}, "image: got int, expected a path or the bytes"),
    ],
)
def test_a_bad_cell_breaks_its_sample_and_no_other(tmp_path: Path, row: dict[str, object], message: str) -> None:
    write(tmp_path / "a.png", png())
    good: dict[str, object] = {"text": "b", "value": 1, "label": "x", "labels": ["x"], "image": "a.png"}
    good = {name: good[name] for name in row}
    with pytest.raises(DataError, match=rf"d.jsonl, row 2: {message}") as caught:
        jsonl(tmp_path, good, row)
    assert "\n" not in str(caught.value)
    data = jsonl(tmp_path, good, row, max_broken=1)
    assert len(data.split("train")) == 1
    assert len(data.broken) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy([{"a": 1}]), "a .npy of Python objects; pickled objects are never read"),
        (npy(["text"]), "a .npy of <U4, expected numbers"),
        (npy([1.0, np.nan, np.inf]), "2 of 3 values are NaN or infinite"),
        (npy([1j]), "a .npy of complex128, expected numbers"),
        (npy(np.zeros(0)), r"a .npy of shape \(0,\)"),
        (npy([1.0, 2.0])[:-3], r"a .npy of shape \(2,\) and float64 with 13 bytes of values, expected 16"),
        (b"\x80\x04N.", r"not a .npy of one array \(numpy.save\)"),
        (npy([1.0]).replace(b"(1,)", b"(9,)"), r"a .npy of shape \(9,\) and float64 with 8 bytes"),
        (npy([1.0, 2.0]), r"sensor has shape \(2,\), expected \(3,\) as in sample '1'"),
    ],
)
def test_a_bad_tensor_is_told_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    write(tmp_path / "good.npy", npy([1.0, 2.0, 3.0]))
    write(tmp_path / "bad.npy", data)
    with pytest.raises(DataError, match=rf"train sample '2': .*{message}") as caught:
        csv(tmp_path, "sensor,label\ngood.npy,a\nbad.npy,a\n", tensors=["sensor"])
    assert "\n" not in str(caught.value)


def test_a_list_of_rows_of_different_length_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1: a list that is not of numbers, or whose rows differ in length"):
        jsonl(tmp_path, {"x": [[1, 2], [3]]}, tensors=["x"])


def without_end(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.wav", without_end(sound("WAV")), "truncated sound: [0-9]+ bytes of [0-9]+"),
        ("a.aiff", without_end(sound("AIFF")), "truncated sound: [0-9]+ bytes of [0-9]+"),
        ("a.ogg", without_end(sound("OGG", seconds=3)), "truncated OGG|corrupt|shape"),
        ("a.flac", without_end(sound("FLAC")), "not a sound file that libsndfile knows, or corrupt"),
        ("a.wav", b"RIFF", "not a sound file"),
        ("a.wav", b"", "not a sound file"),
        ("a.wav", sound(seconds=0), r"got samples of shape \(0, 1\)"),
    ],
    ids=["cut wav", "cut aiff", "cut ogg", "cut flac", "no header", "no bytes", "no samples"],
)
def test_a_broken_sound_is_told_by_name(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    write(tmp_path / name, data)
    with pytest.raises(DataError, match=rf"train sample '1': .*{name}: .*({message})") as caught:
        csv(tmp_path, f"audio\n{name}\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", None), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", None), ("MP3", None), ("AIFF", None)],
)
def test_whole_sounds_pass(tmp_path: Path, kind: str, subtype: str | None) -> None:
    write(tmp_path / "a", sound(kind, subtype=subtype))
    assert len(csv(tmp_path, "audio\na\n").split("train")) == 1


@pytest.mark.parametrize("left", [4, 5, 6, 26, 30, -1], ids=lambda left: f"{left} bytes of it")
def test_an_ogg_whose_last_page_is_cut_is_told_by_name(tmp_path: Path, left: int) -> None:
    whole = sound("OGG", seconds=10)
    write(tmp_path / "a.ogg", whole[:-1] if left < 0 else whole[: whole.rfind(b"OggS") + left])
    with pytest.raises(DataError, match=r"train sample '1': .*a.ogg: truncated OGG \(no last page\)"):
        csv(tmp_path, "audio\na.ogg\n")


def test_not_a_number_in_a_sound_is_told(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.float32([0, np.nan, 0.5]), 8_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a.wav: 1 samples are NaN or infinite"):
        csv(tmp_path, "audio\na.wav\n")


def test_a_class_that_loses_its_last_training_sample_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png())
    rows = "image,label,split\na.png,cat,train\nno.png,dog,train\na.png,cat,test\n"
    with pytest.raises(DataError, match=r"split 'train': no readable sample of class 'dog' is left"):
        csv(tmp_path, rows, max_broken=5)
    data = csv(tmp_path, rows.replace("dog,train", "cat,train") + "no.png,owl,test\n", max_broken=5)
    assert data.broken[-1] == "split 'test': no readable sample of class 'owl' is left"


def test_a_limit_leaves_the_labels_and_texts_of_the_samples_it_leaves(tmp_path: Path) -> None:
    rows = "text,label\na,x\nb,y\nc,x\nd,z\n"
    assert csv(tmp_path, rows).labels == ("x", "y", "z")
    limited = csv(tmp_path, rows, limit=2)
    assert [s.text for s in limited.split("train")] == ["a", "c"]
    assert (limited.labels, limited.texts) == (("x",), {"x": ("a", "c")})


def test_unknown_and_doubled_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.columns: unknown 'picture'; there are image, text"):
        csv(tmp_path, "text\na\n", columns={"picture": "text"})
    with pytest.raises(DataError, match=r"no column 'sensor'; it has text"):
        csv(tmp_path, "text\na\n", tensors=["sensor"])
    with pytest.raises(DataError, match=r"data.tensors: 'label' has a meaning already"):
        csv(tmp_path, "text,label\na,b\n", tensors=["label"])
    with pytest.raises(DataError, match=r"columns label and labels; a sample has one class or several"):
        csv(tmp_path, "text,label,labels\na,b,c\n")


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('text,label\na,x\n"b,y\nc,x\n', 2),  # the quote is never closed
        ('text,label\n"a,x\nb,y\n"c",x\n', 1),  # or by the next one
        ('text,"label\na,x\n', 1),
    ],
)
def test_a_quote_that_is_left_open_swallows_no_rows(tmp_path: Path, text: str, row: int) -> None:
    with pytest.raises(DataError, match=rf"d.csv, row {row}: not CSV \(.*\); close every quote") as caught:
        csv(tmp_path, text, max_broken=9)
    assert "\n" not in str(caught.value)


def test_quoted_cells_hold_commas_lines_and_quotes_and_are_as_long_as_they_like(tmp_path: Path) -> None:
    data = csv(tmp_path, f'text,label\n"a, ""b""\nc",x\n5" nail,x\n{"a" * 200_000},x\n')
    assert [s.text for s in data.split("train")] == ['a, "b"\nc', '5" nail', "a" * 200_000]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d.csv: two columns are called 'text'; rename one, or take it out"):
        csv(tmp_path, "image,text,text,label\n,a,b,x\n")
    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    pyarrow.parquet.write_table(pyarrow.table(columns, names=["text", "text"]), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d.parquet: two columns are called 'text'"):
        opened(tmp_path / "d.parquet")
    assert csv(tmp_path, "text,,\na,,\n").split("train")[0].text == "a"  # a spreadsheet's empty columns


def test_a_name_a_slip_away_from_a_columns_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.columns: unknown 'clutser'; did you mean 'cluster'\?$"):
        csv(tmp_path, "text,patient\na,1\n", columns={"clutser": "patient"})
    told = (
        f"{tmp_path / 'd.csv'}: column 'clutser'; did you mean 'cluster'?",
        f"{tmp_path / 'd.csv'}: column 'groups'; did you mean 'group'?",
    )
    assert csv(tmp_path, "text,clutser,groups\na,1,g\n", max_broken=0).broken == told


def test_a_column_that_is_read_or_far_from_any_or_near_one_that_is_there_is_not_told(tmp_path: Path) -> None:
    for header in ("text,id", "text,image_id", "text,texts", "text,labels"):
        assert csv(tmp_path, f"{header}\na,1\n").broken == ()
    assert csv(tmp_path, "text,clutser\na,1\n", columns={"cluster": "clutser"}).broken == ()
    assert csv(tmp_path, "text,label,lables\na,1,2\n").broken == ()  # data has one of label and labels


def test_a_sound_that_is_a_picture_of_the_same_row_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png())
    with pytest.raises(DataError, match=r"train sample '1': .*a.png: not a sound file"):
        csv(tmp_path, "image,audio\na.png,a.png\n")


def test_a_parquet_file_that_is_cut_is_one_clear_line(tmp_path: Path) -> None:
    parquet(tmp_path, {"text": ["a"]})
    whole = (tmp_path / "d.parquet").read_bytes()
    for data in (b"", whole[:40], b"no parquet at all"):
        write(tmp_path / "d.parquet", data)
        with pytest.raises(DataError, match=r"d.parquet") as caught:
            opened(tmp_path / "d.parquet")
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"can't read .*none.parquet"):
        opened(tmp_path / "none.parquet")


def test_reading_and_checking_report_how_far_they_are(tmp_path: Path) -> None:
    class Told(Silent):
        titles: ClassVar[list[tuple[str, int]]] = []

        @contextmanager
        def task(self, title: str, *, total: int) -> Iterator[Task]:
            self.titles.append((title, total))
            with super().task(title, total=total) as task:
                yield task

    write(tmp_path / "d.csv", b"text\na\nb\n")
    config = DataConfig.model_validate({"kind": "table", "root": str(tmp_path / "d.csv")})
    open_dataset(config, cache=tmp_path / "cache", progress=Told())
    assert Told.titles == [("checking the data", 2)]


def test_a_cache_that_can_not_be_written_is_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "cache", b"a file where the folder should be")
    with pytest.raises(StoreError, match=r"can't keep the files of the data .* choose another store with --store"):
        parquet(tmp_path, {"image": [png(1)]})


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def cut(data: bytes) -> bytes:
    return data[:9]


@pytest.mark.parametrize("damage", [flipped, cut])
def test_bytes_that_were_damaged_in_the_cache_are_written_again(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    data = png(1)
    path = keep_bytes(data, tmp_path)
    path.write_bytes(damage(data))
    assert keep_bytes(data, tmp_path) == path
    assert path.read_bytes() == data


def grey(path: Path, values: object) -> Path:
    from PIL import Image

    Image.fromarray(np.asarray(values, np.uint16)).save(path)
    return path


def test_grey_that_uses_a_small_part_of_its_bits_is_told_when_the_data_is_opened(tmp_path: Path) -> None:
    grey(tmp_path / "a.png", [[0, 3000]])
    grey(tmp_path / "b.png", [[20, 4000]])
    rows = "image,text\na.png,one\nb.png,two\n"
    (line,) = csv(tmp_path, rows).broken
    assert "2 grey images of more than 8 bits have values from 0 to 4000 where 65535 is white" in line
    assert "say data.grey_range = [0, 4095]" in line
    dark, seen = csv(tmp_path, rows), csv(tmp_path, rows, grey_range=[0, 4095])
    assert (seen.broken, seen.grey_range) == ((), (0, 4095))
    assert dark.digest != seen.digest
    grey(tmp_path / "b.png", [[20, 60000]])
    assert csv(tmp_path, rows).broken == ()


def test_a_range_that_falls_is_no_recipe() -> None:
    with pytest.raises(ValueError, match="expected the smaller number first"):
        DataConfig.model_validate({"kind": "table", "grey_range": [4095, 0]})


def test_a_fifo_where_a_file_should_be_is_told_and_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"train sample '1': can't read .*a.png: a pipe, expected a regular file"):
        csv(tmp_path, "image\na.png\n")

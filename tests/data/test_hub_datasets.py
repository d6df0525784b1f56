"""Hugging Face datasets: every builder on real files, bytes kept as they are, and what attacks it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Audio, ClassLabel, Features, Image

from edgemm.data import Dataset, open_dataset
from edgemm.recipe import DataConfig, load_recipe
from edgemm.runtime.errors import DataError
from tests.data.media import npy, png, sound, tar, write


def opened(cache: Path, **fields: object) -> Dataset:
    return open_dataset(DataConfig.model_validate({"kind": "datasets", **fields}), cache=cache)


def hub_like_parquet(path: Path) -> Path:
    """As the hub keeps it: typed columns, files inside."""
    features = Features({"image": Image(), "audio": Audio(), "label": ClassLabel(names=["no", "yes"])})
    columns = {
        "image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(2)],
        "audio": [{"bytes": sound(pitch=i + 1), "path": None} for i in range(2)],
        "label": [1, 0],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=features.arrow_schema), path)
    return path


def shard(path: Path, *, start: int = 0, count: int = 2, prefix: str = "") -> Path:
    return tar(
        path,
        [
            (f"{prefix}{index}.{ending}", data)
            for index in range(start, start + count)
            for ending, data in (
                ("png", png(index)),
                ("wav", sound(pitch=index + 1)),
                ("txt", f"number {index}".encode()),
                ("json", json.dumps({"answer": f"a{index}"}).encode()),
                ("npy", npy(np.float32([index, 1]))),
            )
        ],
    )


SHARD_COLUMNS = {"image": "png", "audio": "wav", "text": "txt", "label": "json.answer", "sensor": "npy"}


@pytest.mark.parametrize("builder", ["imagefolder", "audiofolder"])
def test_folders_are_read_in_place(tmp_path: Path, builder: str) -> None:
    ending, data = (".png", png()) if builder == "imagefolder" else (".wav", sound())
    for name in ("train/cat/1", "train/dog/2", "test/cat/3"):
        write(tmp_path / "d" / f"{name}{ending}", data)
    found = opened(tmp_path / "cache", name=builder, root=str(tmp_path / "d"), splits={"train": "train", "val": "test"})
    assert list(found.splits) == ["train", "val"]
    assert (found.labels, found.evaluate) == (("cat", "dog"), ("val",))
    (sample,) = found.split("val")
    assert (sample.image or sample.audio) == tmp_path / "d" / "test" / "cat" / f"3{ending}"
    assert not (tmp_path / "cache").exists()


def test_a_folder_says_itself_what_is_in_it(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        write(tmp_path / "d" / "train" / name, png())
    assert opened(tmp_path / "cache", root=str(tmp_path / "d")).labels == ("cat", "dog")


def test_parquet_keeps_the_bytes_and_names_the_classes(tmp_path: Path) -> None:
    path = hub_like_parquet(tmp_path / "d.parquet")
    first, second = opened(tmp_path / "cache", name="parquet", files={"train": str(path)}).split("train")
    assert (first.label, second.label) == ("yes", "no")
    assert first.image is not None
    assert second.audio is not None
    assert first.image.read_bytes() == png(0)
    assert second.audio.read_bytes() == sound(pitch=2)


def test_shards_give_every_modality_their_columns_name(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar")
    shard(tmp_path / "train-1.tar", start=2)
    shard(tmp_path / "val.tar", start=4, count=1)
    data = opened(
        tmp_path / "cache",
        name="webdataset",
        files={"train": str(tmp_path / "train-*.tar"), "val": str(tmp_path / "val.tar")},
        columns=SHARD_COLUMNS,
        tensors=["sensor"],
    )
    samples = data.split("train")
    assert [(s.id, s.text, s.label) for s in samples] == [(f"train/{i}", f"number {i}", f"a{i}") for i in range(4)]
    assert [s.image.read_bytes() if s.image else b"" for s in samples] == [png(i) for i in range(4)]
    assert [s.audio.read_bytes() if s.audio else b"" for s in samples] == [sound(pitch=i + 1) for i in range(4)]
    assert [float(np.load(s.tensors["sensor"])[0]) for s in samples] == [0, 1, 2, 3]
    assert [s.id for s in data.split("val")] == ["val/4"]


def test_a_sample_of_a_shard_may_lack_a_member(tmp_path: Path) -> None:
    members = [(f"{i}.{e}", d) for i in range(6) for e, d in (("png", png(i)), ("wav", sound()), ("txt", b"a"))]
    path = tar(tmp_path / "d.tar", [*members, ("6.png", png(6)), ("7.txt", b"b"), ("8.wav", sound(pitch=2))])
    data = opened(
        tmp_path / "cache",
        name="webdataset",
        files={"train": str(path)},
        columns={"image": "png", "audio": "wav", "text": "txt"},
    )
    assert [(bool(s.image), bool(s.audio), s.text) for s in data.split("train")[5:]] == [
        (True, True, "a"),
        (True, False, None),
        (False, False, "b"),
        (False, True, None),
    ]


def test_samples_of_shards_whose_keys_repeat_have_ids_of_their_own(tmp_path: Path) -> None:
    for index in range(3):
        tar(tmp_path / f"{index}.tar", [("0.txt", f"one of {index}".encode()), ("1.txt", f"two of {index}".encode())])
    files = {"train": str(tmp_path / "*.tar")}
    samples = opened(tmp_path / "cache", name="webdataset", files=files, columns={"text": "txt"}).split("train")
    assert [s.id for s in samples] == ["train/0", "train/1", "train/0#2", "train/1#3", "train/0#4", "train/1#5"]


def test_names_that_climb_out_of_a_tar_write_nothing_outside_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    path = shard(folder / "d.tar", prefix="../../up/")
    before = set(tmp_path.rglob("*"))
    data = opened(tmp_path / "cache", name="webdataset", files={"train": str(path)}, columns={"image": "png"})
    new = set(tmp_path.rglob("*")) - before
    assert all(p.is_relative_to(tmp_path / "cache") for p in new)
    assert all(s.image is not None and s.image.parent == tmp_path / "cache" / "files" for s in data.split("train"))


def test_a_member_named_like_a_local_file_does_not_become_it(tmp_path: Path) -> None:
    write(tmp_path / "secret.png", png(9))
    path = tar(tmp_path / "d.tar", [(f"{tmp_path}/secret.png", png(1))])
    (sample,) = opened(tmp_path / "c", name="webdataset", files={"train": str(path)}, columns={"image": "png"}).split(
        "train"
    )
    assert sample.image is not None
    assert sample.image.read_bytes() == png(1)


def test_a_pickled_array_in_a_tar_breaks_its_sample_and_no_other(tmp_path: Path) -> None:
    members = [("a.png", png()), ("a.npy", npy([1.0])), ("b.png", png(1)), ("b.npy", npy([{"evil": 1}]))]
    fields = {
        "name": "webdataset",
        "files": {"train": str(tar(tmp_path / "d.tar", members))},
        "columns": {"image": "png", "x": "npy"},
        "tensors": ["x"],
    }
    with pytest.raises(DataError, match=r"train sample 'train/b': .*Python objects; pickled objects are never read"):
        opened(tmp_path / "cache", **fields)
    data = opened(tmp_path / "cache", **fields, max_broken=1)
    assert [s.id for s in data.split("train")] == ["train/a"]
    assert len(data.broken) == 1


def test_a_pickled_checkpoint_in_a_tar_is_not_unpickled(tmp_path: Path) -> None:
    path = tar(tmp_path / "d.tar", [("a.txt", b"one"), ("a.pth", b"\x80\x04cos\nsystem\n.")])
    data = opened(tmp_path / "cache", name="webdataset", files={"train": str(path)}, columns={"text": "txt"})
    assert [s.text for s in data.split("train")] == ["one"]


def test_a_cut_sound_in_a_tar_is_told_by_its_key(tmp_path: Path) -> None:
    path = tar(tmp_path / "d.tar", [("a.wav", sound()), ("b.wav", sound(pitch=2)[:-99])])
    with pytest.raises(DataError, match=r"train sample 'train/b': .*truncated sound"):
        opened(tmp_path / "cache", name="webdataset", files={"train": str(path)}, columns={"audio": "wav"})


def test_a_tar_that_is_cut_is_one_clear_line(tmp_path: Path) -> None:
    path = shard(tmp_path / "d.tar", count=9)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"data: (can't open 'webdataset'|split 'train' can't be read)") as caught:
        opened(tmp_path / "cache", name="webdataset", files={"train": str(path)}, columns={"image": "png"})
    assert "\n" not in str(caught.value)


def test_paths_in_cells_stay_in_the_datas_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "secret.png", png())
    write(tmp_path / "d" / "a.png", png())
    for outside in ("../secret.png", str(tmp_path / "secret.png"), "file:///etc/passwd"):
        rows = [{"image": "a.png", "text": "in"}, {"image": outside, "text": "out"}]
        path = write(tmp_path / "d" / "d.jsonl", "\n".join(map(json.dumps, rows)).encode())
        with pytest.raises(DataError, match=r"sample 'train/1': '.*' is not in the data's own folder"):
            opened(tmp_path / "cache", name="json", files={"train": str(path)})
    assert len(opened(tmp_path / "c", name="json", files={"train": str(path)}, max_broken=1).split("train")) == 1


@pytest.mark.filterwarnings("ignore:Exception ignored in")  # datasets leaves the file to the garbage collector
def test_csv_reads_like_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", b"caption,stars\ngood,4.5\nbad,1\n")
    data = opened(
        tmp_path / "cache",
        name="csv",
        files={"train": str(path)},
        columns={"text": "caption", "value": "stars"},
    )
    assert [(s.text, s.value) for s in data.split("train")] == [("good", 4.5), ("bad", 1.0)]


def test_a_hub_that_does_not_answer_is_one_clear_line_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(DataError, match=r"data.name: 'acme/cats' can't be reached, .* doesn't answer; download it"):
        opened(tmp_path / "cache", name="acme/cats")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'acme/cats' is on the hub, and HF_HUB_OFFLINE is set"):
        opened(tmp_path / "cache", name="acme/cats")
    assert time.monotonic() - started < 10


def test_the_librarys_builder_that_unpickles_is_out_of_reach(tmp_path: Path) -> None:
    path = write(tmp_path / "d.pkl", b"\x80\x04cbuiltins\nprint\n.")
    with pytest.raises(DataError, match=r"data.name: got 'pandas', expected OWNER/NAME on the hub"):
        opened(tmp_path / "cache", name="pandas", files={"train": str(path)})
    with pytest.raises(DataError, match=r"data: can't open"):
        opened(tmp_path / "cache", root=str(tmp_path))


def test_no_script_of_a_dataset_is_run(tmp_path: Path) -> None:
    write(tmp_path / "d" / "d.py", f"open({str(tmp_path / 'ran')!r}, 'w')".encode())
    with pytest.raises(DataError, match=r"can't open .*cripts are no longer supported"):
        opened(tmp_path / "cache", root=str(tmp_path / "d"))
    with pytest.raises(DataError, match=r"data.name: got '../d.py', expected OWNER/NAME on the hub"):
        opened(tmp_path / "cache", name="../d.py")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "data.name: datasets needs a name on the hub or a builder, or data.root a folder"),
        ({"name": "csv"}, "data.files: csv needs data.files or data.root"),
        ({"name": "pandas"}, "data.name: got 'pandas', expected OWNER/NAME on the hub, or imagefolder"),
        ({"name": "acme/cats", "root": "."}, "data.root: 'acme/cats' on the hub brings its own files"),
        ({"root": "none"}, "data.root: none is no folder; give a name on the hub as data.name"),
        ({"name": "csv", "files": {"train": "none/*.csv"}}, r"data.files.train: no file matches none/\*.csv"),
    ],
)
def test_what_a_recipe_lacks_is_told(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "cache", **fields)


def test_splits_and_columns_that_are_not_there_are_told(tmp_path: Path) -> None:
    files = {"train": str(hub_like_parquet(tmp_path / "d.parquet"))}
    with pytest.raises(DataError, match=r"data.splits.test: no split 'validation' in the data; there are train"):
        opened(tmp_path / "cache", name="parquet", files=files, splits={"test": "validation"})
    with pytest.raises(DataError, match=r"no split 'train' among test; map one"):
        opened(tmp_path / "cache", name="parquet", files=files, splits={"test": "train"})
    with pytest.raises(DataError, match=r"split 'train': no column 'picture'; it has audio, image, label"):
        opened(tmp_path / "cache", name="parquet", files=files, columns={"image": "picture"})


def test_files_of_a_recipe_are_relative_to_it(tmp_path: Path) -> None:
    text = (
        'name = "x"\nfamily = "embedder"\nteacher = { image = {} }\nstudent = { image = {} }\n'
        '[data]\nkind = "datasets"\nname = "csv"\nfiles = { train = "d/*.csv" }\n'
    )
    write(tmp_path / "r.toml", text.encode())
    assert load_recipe(tmp_path / "r.toml").data.files == {"train": str(tmp_path / "d/*.csv")}

"""Limits: numbers of a manifest, names and sizes that a bundle may have; what is read once for all threads."""

from __future__ import annotations

import io
import os
import shutil
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
from sealing import reseal

from edgemm.runtime import Bundle, open_archive, zip_bundle
from edgemm.runtime.arrays import load_array, load_arrays
from edgemm.runtime.errors import BundleCorrupt, BundleError
from edgemm.runtime.fields import parse_json


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("limits")
    bundles.dual_encoder(root / "dual", targets=("cpu",))
    bundles.audio_and_sensor(root / "audio")
    return root


def changed(made: Path, place: Path, name: str, change: Any) -> Path:
    return reseal(Path(shutil.copytree(made / name, place / "bundle")), change)


def dims(part: int, **ranges: list[int]) -> Any:
    return lambda m: m["parts"][part]["signature"]["dims"].update(ranges)


def renamed(name: str) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        manifest["inputs"][name] = manifest["inputs"].pop("image")
        for sample in manifest["golden"]:
            sample["inputs"][name] = sample["inputs"].pop("image")

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dual", lambda m: m["inputs"].update(extra={"kind": "tensor", "feeds": "t"}), "no part takes its value 't'"),
        ("dual", renamed("top"), "inputs.top: a name that 'predict' takes for itself"),
        ("dual", dims(2, tokens=[2**31, 2**31, 2**31]), "expected an integer from 1 to 2147483647"),
        ("dual", dims(2, tokens=[2**21] * 3), "takes more than 1048576 tokens at least"),
        ("dual", lambda m: m["inputs"]["text"].update(max_tokens=2**21), "from 1 to 1048576"),
        (
            "dual",
            lambda m: m["targets"][0].update(threads=4096),
            "got int 4096, expected an integer from 0 to 64",
        ),
        ("dual", lambda m: m["parts"][2]["signature"]["inputs"][0].update(shape=["batch"]), "expected int64 of 2 axes"),
        ("dual", lambda m: m["parts"][2]["signature"]["inputs"][0].update(dtype="int32"), "expected int64 of 2 axes"),
        ("dual", lambda m: m["parts"][0]["signature"]["inputs"][0].update(dtype="int8"), "expected uint8 of 4 axes"),
        ("dual", lambda m: m["parts"][1]["signature"]["inputs"][0].update(dtype="float64"), "as another part has it"),
        (
            "dual",
            lambda m: m["parts"][1]["signature"]["outputs"][0].update(shape=[]),
            "got no axes, expected at least one",
        ),
        ("dual", lambda m: m["parts"][1]["signature"]["outputs"][0].update(shape=[1, 2**27]), "at most 67108864"),
        ("audio", dims(0, samples=[2**30] * 3), "its smallest sample has 1073741824 numbers"),
        ("audio", lambda m: m["inputs"]["audio"].update(sample_rate=999983), "from 1000 to 768000"),
        ("audio", lambda m: m["inputs"]["audio"].update(sample_rate=1), "from 1000 to 768000"),
    ],
)
def test_numbers_that_no_model_has_are_refused_on_opening(
    made: Path, tmp_path: Path, name: str, change: Any, message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle.open(changed(made, tmp_path, name, change))
    assert message in str(caught.value)


def test_a_modality_may_be_called_self(made: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(changed(made, tmp_path, "dual", renamed("self")))
    assert bundle.verify().ok


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["graphs/TEXT.onnx"], "are one file on some systems"),
        (["caf\u00e9.bin", "cafe\u0301.bin"], "are one file on some systems"),
        (["w", "w/x"], "is a file, and a folder in"),
    ],
)
def test_names_that_some_file_systems_take_for_one_are_refused(
    made: Path, tmp_path: Path, names: list[str], message: str
) -> None:
    place = zip_bundle(made / "dual", tmp_path / "a.zip")
    with zipfile.ZipFile(place, "a") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with pytest.raises(BundleCorrupt, match=message):
        open_archive(place)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_members_that_are_neither_stored_nor_deflated_are_refused(made: Path, tmp_path: Path, method: int) -> None:
    place = zip_bundle(made / "dual", tmp_path / "a.zip")
    with zipfile.ZipFile(place) as old, zipfile.ZipFile(tmp_path / "b.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), compress_type=method)
    with pytest.raises(BundleCorrupt, match=f"is packed by method {method}; expected it stored or deflated"):
        open_archive(tmp_path / "b.zip")
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[80:120] = b"\xff" * 40
    (tmp_path / "b.zip").write_bytes(bytes(data))
    with pytest.raises(BundleError):
        open_archive(tmp_path / "b.zip")


def test_a_large_file_is_verified_in_blocks(made: Path, tmp_path: Path) -> None:
    import tracemalloc

    folder = changed(made, tmp_path, "dual", None)
    (folder / "w.bin").write_bytes(bytes(40 << 20))
    archive = open_archive(reseal(folder))
    tracemalloc.start()
    try:
        assert archive.problems() == []
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1e999}', "1e999 is beyond the range of float64"),
        (b"[" * 100 + b"]" * 100, "nested deeper than 64 levels"),
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
    ],
)
def test_json_that_could_not_be_written_again_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse_json(data, file="x.json")


def npy(header: str) -> bytes:
    text = header.encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04 junk",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,"),
        npy("{b'descr': '<f4', 'fortran_order': False, 'shape': (1,)}"),
        npy("{[1]: 2}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}") + bytes(4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}") + bytes(4),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + bytes(8),
        npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}") + bytes(16),
        npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}") + bytes(4),
    ],
)
def test_an_array_that_is_none_is_one_line(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^x\.npy: ") as caught:
        load_array(data, "x.npy")
    assert "\n" not in str(caught.value)


def packed(*, method: int = 0, twice: bool = False) -> bytearray:
    held = io.BytesIO()
    one = io.BytesIO()
    np.save(one, np.ones(3, np.float32))
    with zipfile.ZipFile(held, "w", method) as archive:
        archive.writestr("a.npy", one.getvalue())
        if twice:
            archive.writestr("a", one.getvalue())
    return bytearray(held.getvalue())


def test_an_npz_that_numpy_cannot_read_is_one_line() -> None:
    encrypted, unknown = packed(), packed()
    place = encrypted.rindex(b"PK\x01\x02")
    encrypted[6] |= 1
    encrypted[place + 8] |= 1
    unknown[8:10] = unknown[place + 10 : place + 12] = struct.pack("<H", 9)
    members = io.BytesIO()
    with zipfile.ZipFile(members, "w") as archive:
        archive.writestr("a.npy", b"hello")
    for data in (encrypted, unknown, packed(method=zipfile.ZIP_LZMA), packed(twice=True), members.getvalue()):
        with pytest.raises(BundleError, match=r"^x\.npz: ") as caught:
            load_arrays(bytes(data), "x.npz")
        assert "\n" not in str(caught.value)
    assert load_arrays(bytes(packed(method=zipfile.ZIP_DEFLATED)), "x.npz")["a"].tolist() == [1, 1, 1]


def test_threads_that_ask_together_load_each_part_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session's making is held open until every thread has asked for it, or is known to wait."""
    import edgemm.runtime.bundle as module

    loaded: list[str] = []
    real = module.open_session

    def slow(*arguments: Any, **options: Any) -> Any:
        loaded.append(options["what"])
        threading.Event().wait(0.05)
        return real(*arguments, **options)

    monkeypatch.setattr(module, "open_session", slow)
    bundle = Bundle.open(made / "dual")
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(bundle.predict(image=bundles.png(0), text="a cat").matches))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == len(bundle.parts) == 3
    assert len(answers) == 8
    assert all(answer == answers[0] for answer in answers)


def test_an_array_is_read_from_a_regular_file_alone(made: Path, tmp_path: Path) -> None:
    """A pipe would wait for a writer, and a device has no end."""
    from edgemm.runtime.errors import InputError

    os.mkfifo(tmp_path / "pipe.npy")
    bundle = Bundle.open(made / "audio")
    for path, message in ((tmp_path / "pipe.npy", "a pipe, expected a regular file"), ("/dev/zero", "a device")):
        with pytest.raises(InputError, match=message):
            bundle.predict(sensor=path)

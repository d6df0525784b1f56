"""Hostile bundles: whatever the bytes say, an EdgemmError comes out, nothing else and nothing outside is read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import bundles
import numpy as np
import pytest

from edgemm.runtime import Bundle, open_archive, seal, zip_bundle
from edgemm.runtime.__main__ import main
from edgemm.runtime.errors import BundleCorrupt, BundleError, EdgemmError
from edgemm.runtime.fields import Fields
from edgemm.runtime.sizes import LABELS_LIMIT, LIMITS


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a") / "bundle"
    bundles.dual_encoder(folder, targets=("cpu",))
    zip_bundle(folder, folder.parent / "bundle.zip")
    return folder


@pytest.fixture
def folder(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "bundle"))


@pytest.fixture
def packed(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sealed.parent / "bundle.zip", tmp_path / "bundle.zip"))


def use(path: Path) -> None:
    """Everything an application does with a bundle."""
    bundle = Bundle.open(path)
    report = bundle.verify()
    if not report.ok:
        raise BundleCorrupt(report.problems[0])
    bundle.predict(image=bundles.png(0), text="a cat").matches  # noqa: B018


def rezip(packed: Path, change: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> None:
    """Rewrite a zip from its members, as an attacker would."""
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(packed, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names
        change(archive, members)
        for name, data in members.items():
            archive.writestr(name, data)


def test_every_tampered_file_is_named(folder: Path) -> None:
    for name in open_archive(folder).manifest.files:
        original = (folder / name).read_bytes()
        spoiled = bytearray(original)
        spoiled[len(spoiled) // 2] ^= 1
        (folder / name).write_bytes(bytes(spoiled))
        with pytest.raises(BundleCorrupt, match=f"{name}: got sha256 .* changed after the bundle was made"):
            open_archive(folder).read(name)
        assert any(name in problem for problem in Bundle.open(folder).verify().problems)
        (folder / name).write_bytes(original)
    use(folder)


def test_a_tampered_graph_never_reaches_the_engine(folder: Path) -> None:
    (folder / "graphs/text.onnx").write_bytes((folder / "graphs/text.onnx").read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleCorrupt, match=r"graphs/text\.onnx"):
        Bundle.open(folder).predict(text="a cat")


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "graphs/image.onnx").unlink()
    with pytest.raises(BundleCorrupt, match=r"graphs/image\.onnx: not there"):
        use(folder)


def test_a_file_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "graphs/image.onnx").unlink()
    (folder / "graphs/image.onnx").mkdir()
    with pytest.raises(BundleCorrupt, match="not a regular file"):
        open_archive(folder).read("graphs/image.onnx")


def test_an_unlisted_file_fails_verification(folder: Path, packed: Path) -> None:
    (folder / "graphs/extra.onnx").write_bytes(b"x")
    assert Bundle.open(folder).verify().problems == (f"{folder}: graphs/extra.onnx: not listed in the manifest",)
    rezip(packed, lambda archive, members: members.update(extra=b"x"))
    assert not Bundle.open(packed).verify().ok


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    shutil.copy(folder / "graphs/text.onnx", outside)  # the right bytes: the place alone is wrong
    (folder / "graphs/text.onnx").unlink()
    (folder / "graphs/text.onnx").symlink_to(outside)
    with pytest.raises(BundleCorrupt, match="a link that leads out of the bundle"):
        use(folder)
    shutil.move(folder / "golden", tmp_path / "golden")
    (folder / "golden").symlink_to(tmp_path / "golden")
    with pytest.raises(BundleCorrupt, match="a link that leads out of the bundle"):
        open_archive(folder).read("golden/outputs.npz")


def test_a_loop_of_links_and_a_pipe_are_refused(folder: Path) -> None:
    for name in ("graphs/text.onnx", "graphs/image.onnx"):
        (folder / name).unlink()
    (folder / "graphs/text.onnx").symlink_to("text.onnx")
    os.mkfifo(folder / "graphs/image.onnx")
    for name in ("graphs/text.onnx", "graphs/image.onnx"):
        with pytest.raises(BundleCorrupt):
            open_archive(folder).read(name)


def test_a_link_out_of_the_folder_is_not_sealed(folder: Path, tmp_path: Path) -> None:
    manifest = open_archive(folder).manifest
    (tmp_path / "secret").write_text("s")
    (folder / "leak").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="leak"):
        seal(folder, manifest)


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:evil", "a//b", "./x", "manifest.json/..", "con:x"]
)
def test_a_zip_member_that_could_climb_out_is_refused(packed: Path, name: str) -> None:
    rezip(packed, lambda archive, members: members.update({name: b"x"}))
    with pytest.raises(BundleCorrupt, match="unsafe path"):
        open_archive(packed)


def test_a_link_in_a_zip_is_refused(packed: Path) -> None:
    def change(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        link = zipfile.ZipInfo("link")
        link.create_system = 3
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")

    rezip(packed, change)
    with pytest.raises(BundleCorrupt, match="'link' is a symbolic link"):
        open_archive(packed)


def test_a_name_given_twice_is_refused(packed: Path) -> None:
    for name in ("graphs/text.onnx", "manifest.json"):
        rezip(packed, lambda archive, members, n=name: archive.writestr(n, b"x"))  # type: ignore[misc]
        with pytest.raises(BundleCorrupt, match="twice"):
            open_archive(packed)


def test_a_bomb_is_not_unpacked(packed: Path) -> None:
    def change(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        del members["graphs/text.onnx"]
        archive.writestr("graphs/text.onnx", bytes(300 << 20), compress_type=zipfile.ZIP_DEFLATED)

    rezip(packed, change)
    with pytest.raises(BundleCorrupt, match=r"graphs/text\.onnx: got 314572800 bytes, expected \d+ by the manifest"):
        use(packed)


def test_a_bomb_whose_header_lies_stops_at_the_manifests_size(packed: Path) -> None:
    size = open_archive(packed).manifest.files["graphs/text.onnx"].bytes

    def change(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        del members["graphs/text.onnx"]
        archive.writestr("graphs/text.onnx", bytes(50 << 20), compress_type=zipfile.ZIP_DEFLATED)

    rezip(packed, change)
    data = packed.read_bytes()
    packed.write_bytes(data.replace(struct.pack("<I", 50 << 20), struct.pack("<I", size)))
    with pytest.raises(BundleCorrupt):
        use(packed)


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory that Python's allocator held more than before, while a call raises BundleCorrupt."""
    tracemalloc.start()
    try:
        with pytest.raises(BundleCorrupt, match=r"gallery\.json: "):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_that_the_manifest_lists_honestly_is_not_unpacked(packed: Path) -> None:
    labels = b'["a"' + b',"a"' * (12 << 20) + b"]"

    def change(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        value = json.loads(members["manifest.json"])
        value["files"]["gallery.json"] = {"sha256": hashlib.sha256(labels).hexdigest(), "bytes": len(labels)}
        members["manifest.json"] = json.dumps(value).encode()
        del members["gallery.json"]
        archive.writestr("gallery.json", labels, compress_type=zipfile.ZIP_DEFLATED)

    rezip(packed, change)
    assert peak_bytes(lambda: Bundle.open(packed).predict(text="a cat").matches) < 8 << 20
    assert peak_bytes(lambda: open_archive(packed).read("gallery.json")) < 8 << 20  # below the limit of other JSON
    with pytest.raises(BundleCorrupt, match=r"gallery\.json: \d+ bytes unpack to 50331653, expected at most 50 times"):
        open_archive(packed).read("gallery.json")
    assert any("gallery.json" in problem for problem in Bundle.open(packed).verify().problems)


def test_files_too_large_for_their_kind_are_not_read_and_not_sealed(folder: Path) -> None:
    manifest = open_archive(folder).manifest
    for name, limit in (("gallery.json", LABELS_LIMIT), ("tokenizer.json", LIMITS[".json"])):
        data = (folder / name).read_bytes()
        with (folder / name).open("r+b") as file:
            file.truncate(limit + 1)  # sparse
        with pytest.raises(BundleCorrupt, match=f"{name}: {limit + 1} bytes, expected at most {limit}"):
            seal(folder, manifest)
        value = json.loads((folder / "manifest.json").read_text())
        value["files"][name]["bytes"] = limit + 1
        (folder / "manifest.json").write_text(json.dumps(value))
        with pytest.raises(BundleCorrupt, match=f"{name}: {limit + 1} bytes, expected at most {limit}"):
            Bundle.open(folder).predict(text="a cat").matches  # noqa: B018
        (folder / name).write_bytes(data)
        seal(folder, manifest)


def test_members_that_claim_more_than_the_zip_holds_are_refused(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        size = archive.getinfo("graphs/text.onnx").compress_size
    data = bytearray(packed.read_bytes())
    place = bytes(data).rindex(b"graphs/text.onnx") - 46
    assert struct.unpack_from("<I", data, place + 20) == (size,)
    struct.pack_into("<I", data, place + 20, 100 << 20)
    packed.write_bytes(bytes(data))
    with pytest.raises(BundleCorrupt, match=r"its files say that they take 10\d{7} of \d+ bytes"):
        open_archive(packed)


def test_an_npz_that_is_a_bomb_and_an_npy_that_claims_too_much_are_refused(folder: Path) -> None:
    manifest = open_archive(folder).manifest
    np.savez_compressed(folder / "golden/outputs.npz", bomb=np.zeros(50 << 20, np.uint8))
    seal(folder, manifest)
    assert any("unpack to 524" in problem for problem in Bundle.open(folder).verify().problems)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": (2**50, 16)})
    (folder / "gallery.npy").write_bytes(header.getvalue())
    seal(folder, manifest)
    with pytest.raises(BundleError, match=r"gallery\.npy: not a \.npy array"):
        Bundle.open(folder).predict(text="a cat").matches  # noqa: B018


def test_what_packs_like_a_bomb_is_stored_and_opens_again(folder: Path, tmp_path: Path) -> None:
    manifest = open_archive(folder).manifest
    (folder / "zeros.bin").write_bytes(bytes(3 << 20))
    seal(folder, manifest)
    again = open_archive(zip_bundle(folder, tmp_path / "again.zip"))
    assert again.problems() == []
    assert again.read("zeros.bin") == bytes(3 << 20)


def test_a_manifest_of_huge_size_is_not_read(packed: Path, folder: Path) -> None:
    def change(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        del members["manifest.json"]
        archive.writestr("manifest.json", b" " * (65 << 20), compress_type=zipfile.ZIP_DEFLATED)

    rezip(packed, change)
    with pytest.raises(BundleCorrupt, match=r"manifest\.json is 68157440 bytes"):
        open_archive(packed)
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(BundleCorrupt, match=r"manifest\.json is"):
        open_archive(folder)


def test_declared_sizes_beyond_the_files_are_refused(folder: Path) -> None:
    value = json.loads((folder / "manifest.json").read_text())
    value["files"]["graphs/text.onnx"]["bytes"] = 2**62
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(BundleCorrupt, match=r"4611686018427\d+ bytes together, expected at most 17179869184"):
        use(folder)
    value["files"]["graphs/text.onnx"]["bytes"] = 2**32
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(BundleCorrupt, match="expected 4294967296 by the manifest"):
        use(folder)


def test_a_zip_cut_anywhere_is_refused(packed: Path) -> None:
    data = packed.read_bytes()
    for part in range(20):
        packed.write_bytes(data[: len(data) * part // 20])
        with pytest.raises(BundleError):
            use(packed)


def test_an_encrypted_member_is_refused(packed: Path) -> None:
    data = bytearray(packed.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        member = archive.getinfo("graphs/text.onnx")
    data[member.header_offset + 6] |= 1
    place = bytes(data).rindex(b"graphs/text.onnx") - 46
    data[place + 8] |= 1
    packed.write_bytes(bytes(data))
    with pytest.raises(BundleCorrupt):
        use(packed)


def test_nothing_pickled_is_read(folder: Path) -> None:
    manifest = open_archive(folder).manifest
    np.save(folder / "gallery.npy", np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)
    seal(folder, manifest)
    with pytest.raises(BundleError, match=r"gallery\.npy: not a \.npy array"):
        Bundle.open(folder).predict(text="a cat").matches  # noqa: B018
    np.save(folder / "gallery.npy", np.ones((3, bundles.WIDTH), np.float16))
    (folder / "golden/outputs.npz").write_bytes(b"PK\x03\x04 not really")
    seal(folder, manifest)
    assert any("not an .npz" in p for p in Bundle.open(folder).verify().problems)


@pytest.mark.parametrize("name", ["tokenizer.json", "gallery.json", "gallery.npy", "graphs/image.onnx"])
@pytest.mark.parametrize("data", [b"", b"{}", b"[1, 2]", b"\xff" * 64, b"[" * 50_000])
def test_well_sealed_nonsense_is_refused_where_it_is_used(folder: Path, name: str, data: bytes) -> None:
    manifest = open_archive(folder).manifest
    (folder / name).write_bytes(data)
    seal(folder, manifest)
    with pytest.raises(EdgemmError) as caught:
        Bundle.open(folder).predict(image=bundles.png(0), text="a cat").matches  # noqa: B018
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["verify", "infer", "bench", "inspect"])
def test_every_verb_ends_in_one_line_and_exit_code_2(
    packed: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    packed.write_bytes(packed.read_bytes()[:5000])
    arguments = [verb, str(packed)] + (["--text", "a"] if verb == "infer" else [])
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_fields_name_the_nearest_key() -> None:
    fields = Fields({"colour": 1, "sizes": 2}, "x.json")
    fields.take("colour")
    fields.take("size", None)
    with pytest.raises(BundleError, match=r"x\.json: sizes: unknown key; did you mean 'size'\?"):
        fields.done()

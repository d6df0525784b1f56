"""Files and folders that are replaced whole or not at all, sealed files, and what errors of a disk say."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors

from edgemm.runtime.disk import read_sealed, replacing, system_fault, write_sealed

WRITER = """
import sys, time
from pathlib import Path
from edgemm.runtime.disk import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_file_is_there_once_the_block_has_ended_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as partial:
        partial.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_that_write_one_file_do_not_meet_and_a_killed_one_leaves_the_other_s(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    other = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with replacing(path) as partial:
            partial.write_text("whole")
    finally:
        other.kill()
        other.communicate()
    assert path.read_text() == "whole"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    with replacing(path) as one, replacing(path) as other:  # two containers have the same process number
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def replaced_until_done(folder: Path, how: str) -> list[list[str]]:
    """Exit status, what was there before and after, and how many hidden files lie beside it, for each kill."""
    script = Path(__file__).with_name("replaced_folder.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), how], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [line.split(" ") for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a system that exchanges two names in one step")
def test_killed_at_any_change_a_folder_is_the_old_or_the_new_one_and_what_is_left_goes_the_next_time(
    tmp_path: Path,
) -> None:
    kills = replaced_until_done(tmp_path, "exchange")
    assert len(kills) > 20
    for status, before, after, _ in kills:
        assert after in ("old", "new")
        assert status == "-9" or after != before
    assert {int(hidden) for *_, hidden in kills} == {0, 1}  # never more than the last kill left
    assert kills[-1][3] == "0"


def test_where_names_can_not_be_exchanged_a_kill_between_two_renames_is_mended_the_next_time(tmp_path: Path) -> None:
    kills = replaced_until_done(tmp_path, "renames")
    assert len(kills) > 20
    assert {after for _, _, after, _ in kills} == {"old", "new", "none"}
    assert kills[-1][2:] == ["new", "0"]


def test_two_processes_that_replace_one_folder_meet_without_an_error(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgemm.pipeline.run import replace_with_copy\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(60): replace_with_copy(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "file.txt").write_text(name)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / name), str(tmp_path / "bundle")],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert (tmp_path / "bundle" / "in" / "file.txt").read_text() in ("one", "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "one", "two"]


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "another"])
def test_what_was_sealed_is_read_as_it_was_written_or_not_at_all(tmp_path: Path, damage: str) -> None:
    path, data = tmp_path / "rows", bytes(range(100))
    write_sealed(path, data, about="k/1")
    assert bytes(read_sealed(path, about="k/1") or b"") == data
    whole = path.read_bytes()
    if damage != "another":
        path.write_bytes(
            {"bit": whole[:50] + bytes([whole[50] ^ 4]) + whole[51:], "cut": whole[:-1], "empty": b""}[damage]
        )
    assert read_sealed(path, about="k/2" if damage == "another" else "k/1") is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file whose reading is an input/output error")
def test_a_sealed_file_that_can_not_be_read_any_more_counts_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "rows").symlink_to("/proc/self/mem")  # Linux has no memory at address 0: EIO
    assert read_sealed(tmp_path / "rows", about="k/1") is None
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "none", about="k/1")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EIO, "input/output error"),
        (errno.EROFS, "read-only file system"),
        (errno.EACCES, "permission denied"),
        (errno.ESTALE, "stale file handle"),
        (errno.EMFILE, "too many open files"),
        (errno.ENOSPC, "no space left on device; free some and run the same command again"),
        (errno.EDQUOT, "no space left on device; free some and run the same command again"),
    ],
)
def test_an_error_of_the_system_is_one_line_that_names_the_file(number: int, words: str) -> None:
    assert system_fault(OSError(number, os.strerror(number), "/disk/a.json")) == f"/disk/a.json: {words}"
    assert system_fault(safetensors.SafetensorError(f"I/O error: words (os error {number})")) == words


def test_other_errors_are_none_of_the_system() -> None:
    assert system_fault(ValueError("a bug")) is None
    assert system_fault(OSError(errno.EBADF, "Bad file descriptor")) is None

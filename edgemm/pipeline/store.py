"""Store: where finished artifacts live, each whole or not at all.

Why: a run can be killed at any instruction, two runs can share a store, a disk can fill. So an artifact is written to
``partial/<key>``, its record last, everything synced, and then renamed into ``artifacts/<key>``; what has a record is
complete. A lock per key lets two processes cooperate: the second waits and takes the first one's result.

    artifacts/<key>/artifact.json    stage, key, digest, inputs, files with sha256 and size, folder of the content
    artifacts/<key>/content/         what the stage wrote; content-<hex> where it was made again on purpose
    partial/<key>/                   being written; thrown away when found again
    scratch/<key>/                   checkpoints of a long stage; survives a kill, removed when published
    cache/<code>/                    content-addressed caches that stages of the same code share
    cache/files/                     files of samples that came as bytes, by their sha256
    locks/, runs/                    one lock per key; one file per run

What was made again doesn't replace what another run may be reading: the record then names the new content, and the old
one stays until no run in progress uses the key. Failures and out-of-memory are never kept. Law:
``store.find(key).digest`` is the digest of the bytes that are there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgemm.pipeline.hashing import file_sha256, files_digest, folder_files
from edgemm.runtime.disk import disk_is_full, replacing
from edgemm.runtime.errors import EdgemmError, StoreError
from edgemm.runtime.fields import json_value, one_line
from edgemm.stage import Artifact

RECORD = "artifact.json"
FOLDERS = ("artifacts", "partial", "scratch", "cache", "locks", "runs")


@dataclass(frozen=True, slots=True)
class Record:
    """A finished artifact and what is known of its making: seconds it took, bytes it holds."""

    artifact: Artifact
    seconds: float
    bytes: int
    cached: bool
    facts: Mapping[str, Any]


class Damaged(StoreError):
    """An artifact that is no longer what was made; ``what`` says where and how."""

    def __init__(self, what: str, folder: Path) -> None:
        super().__init__(f"{what}; remove {folder} and run again")
        self.what = what


class Store:
    """A store in a folder.

    Args:
        root: created where it does not exist.
        only_read: take it as it is, on a read-only disk as well; nothing may be made in it.

    Raises:
        StoreError: the folder can't be made or written.
    """

    def __init__(self, root: Path | str, *, only_read: bool = False) -> None:
        self.root = Path(root).absolute()
        self._checked: set[str] = set()
        if only_read:
            return
        with writing(self.root):
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / "locks" / f".probe-{os.getpid()}"
            probe.write_bytes(b"edgemm")
            probe.unlink()

    @property
    def cache(self) -> Path:
        """Folder of the caches that stages share."""
        return self.root / "cache"

    def find(self, key: str, *, check: bool = True) -> Record | None:
        """Return the artifact of that key, or None.

        Args:
            key: 64 hex digits.
            check: hash its files the first time this process meets it.

        Raises:
            Damaged: a file of it was changed, added or removed since it was made, or its record was.
        """
        folder = self.root / "artifacts" / key
        facts = _read_record(folder)
        if facts is None:
            return None
        if check and key not in self._checked:
            self._check(folder, facts)
            self._checked.add(key)
        artifact = Artifact(folder / facts["content"], facts["stage"], key, facts["digest"])
        size = sum(entry["bytes"] for entry in facts["files"].values())
        return Record(artifact, float(facts["seconds"]), size, True, facts)

    def touch(self, key: str) -> None:
        """Remember that the artifact was used now (``collect`` drops the longest unused first)."""
        with contextlib.suppress(OSError):  # a store that is only read keeps no order of use
            os.utime(self.root / "artifacts" / key / RECORD)

    def make(
        self,
        key: str,
        stage: str,
        work: Callable[[Path, Path], None],
        *,
        facts: Mapping[str, Any],
        say: Callable[[str], None],
        again: bool = False,
    ) -> Record:
        """Return the artifact of that key: found whole, or made by ``work(out, scratch)`` under the key's lock.

        One that was damaged since it was made is made again, which ``say`` is told.

        Args:
            key: content key of what ``work`` will write.
            stage: name for records and messages.
            work: writes a complete folder ``out``; may keep checkpoints in ``scratch``.
            facts: what the key was made from; kept in the record.
            say: is told when another process holds the key, and what of the artifact is damaged.
            again: make it even where it is there, and replace it.

        Raises:
            StoreError: the disk is full or read-only; nothing is left half-written.
        """
        with self.lock(key, on_wait=lambda: say(f"{stage}: another process is making this; waiting for its result")):
            try:
                if not again and (found := self.find(key)) is not None:
                    self.touch(key)
                    return found
            except Damaged as error:
                say(f"{stage}: {error.what}; made again")
            partial, scratch = self.root / "partial" / key, self.root / "scratch" / key
            with writing(self.root, stage):
                remove(partial)
                (partial / "content").mkdir(parents=True)
                scratch.mkdir(parents=True, exist_ok=True)
                started = time.monotonic()
                try:
                    work(partial / "content", scratch)
                    seconds = time.monotonic() - started
                    self._publish(partial, key, stage, seconds, facts)
                except BaseException:
                    remove(partial)
                    raise
                remove(scratch)
            record = self.find(key, check=False)
            assert record is not None, f"{stage}: published artifact {key} is not there"
            self._checked.add(key)
            return Record(record.artifact, record.seconds, record.bytes, False, record.facts)

    @contextmanager
    def lock(self, name: str, *, on_wait: Callable[[], None] | None = None, poll_s: float = 0.1) -> Iterator[None]:
        """Hold the lock of that name among processes; the system lets go of it when a process dies."""
        lock = FileLock(self.root / "locks" / f"{name}.lock")
        with writing(self.root):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if on_wait:
                    on_wait()
                lock.acquire(poll_interval=poll_s)
        try:
            yield
        finally:
            lock.release()

    def is_locked(self, name: str) -> bool:
        """Return whether some process holds the lock of that name."""
        path = self.root / "locks" / f"{name}.lock"
        if not path.exists():
            return False
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:  # a store that is only read
            return _is_held(path)
        lock.release()
        return False

    def superseded(self, key: str) -> list[Path]:
        """Contents of an artifact that was made again: what only a run that began before still reads."""
        folder = self.root / "artifacts" / key
        try:
            record = _read_record(folder)
        except Damaged:
            return []
        return [path for path in sorted(folder.glob("content*")) if record and path.name != record["content"]]

    def _check(self, folder: Path, facts: Mapping[str, Any]) -> None:
        content = folder / facts["content"]
        made = f"since stage '{facts['stage']}' made it"
        there, known = set(folder_files(content)), set(facts["files"])
        for name in sorted(there ^ known):
            raise Damaged(f"{content / name}: {'is missing' if name in known else 'was added'} {made}", folder)
        for name, entry in facts["files"].items():
            path = content / name
            try:
                same = path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]
            except OSError as error:  # a sector of the disk that can't be read any more
                raise Damaged(f"{path}: can't be read any more ({error.strerror})", folder) from error
            if not same:
                raise Damaged(f"{path}: changed {made}", folder)

    def _publish(self, partial: Path, key: str, stage: str, seconds: float, facts: Mapping[str, Any]) -> None:
        """Record last, sync everything, then one rename."""
        content = partial / "content"
        files: dict[str, dict[str, Any]] = {}
        for file in folder_files(content):
            path = content / file
            assert not path.is_symlink(), f"{stage}: {file} is a link; artifacts hold files"
            path.chmod(0o444)
            _sync(path)
            files[file] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        assert files, f"stage '{stage}' wrote nothing"
        final = self.root / "artifacts" / key
        again = (final / RECORD).exists()
        name = f"content-{secrets.token_hex(4)}" if again else "content"
        record = {
            "format": 1,
            "stage": stage,
            "key": key,
            "digest": files_digest({file: entry["sha256"] for file, entry in files.items()}),
            "seconds": round(seconds, 3),
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "facts": facts,
            "content": name,
            "files": files,
        }
        write_json(partial / RECORD, record)
        for folder in [partial, *(p for p in partial.rglob("*") if p.is_dir())]:
            _sync(folder)
        if again:  # beside the old content, which another run may be reading; then the record changes hands
            content.rename(final / name)
            _sync(final)
            (partial / RECORD).replace(final / RECORD)
            _sync(final)
            remove(partial)
        else:
            remove(final)  # without a record: a drop that was interrupted
            partial.rename(final)
        _sync(final.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, or a file that took its place; nothing happens where it is not there."""
    if folder.is_file() or folder.is_symlink():
        folder.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(root: Path, stage: str | None = None) -> Iterator[None]:
    """Turn what a full, read-only or forbidden disk does to a write into one StoreError line.

    Libraries report a full disk in their own ways, which ``disk_is_full`` knows.
    """
    at = f"{stage}: " if stage else ""
    try:
        yield
    except EdgemmError:
        raise
    except Exception as error:
        place = getattr(error, "filename", None)
        ours = place is None or str(place).startswith(str(root))
        if disk_is_full(error):
            raise StoreError(f"{at}{_full(root) if ours else f'{place}: no space left on device'}") from error
        if not isinstance(error, OSError):
            raise
        if ours and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(
                f"{at}{place or root}: {(error.strerror or 'not writable').lower()}; "
                "the store must be writable, choose another with --store"
            ) from error
        if stage is None and error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StoreError(f"{root}: not a folder; choose another with --store") from error
        raise


@contextmanager
def writing_out(place: Path) -> Iterator[None]:
    """The same for what the user keeps: a full disk becomes one StoreError line that names ``place``."""
    try:
        yield
    except EdgemmError:
        raise
    except Exception as error:
        if not disk_is_full(error):
            raise
        raise StoreError(
            f"{place}: no space left on device ({_free_mb(place)} MB free); free some, or choose another with --out"
        ) from error


def _full(root: Path) -> str:
    return (
        f"no space left for the store {root} ({_free_mb(root)} MB free); free some, run 'edgemm gc --limit SIZE', "
        "or choose another with --store; finished stages are kept"
    )


def _free_mb(place: Path) -> int:
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    return round(shutil.disk_usage(there).free / 1e6)


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of an artifact's folder, None where there is none. Raises Damaged."""
    try:
        record = json_value((folder / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder / RECORD}: unreadable ({one_line(error)})", folder) from error
    if wrong := _wrong_in(record, key=folder.name):
        raise Damaged(f"{folder / RECORD}: unreadable ({wrong})", folder)
    record.setdefault("content", "content")  # written by the first version of the store
    return dict(record)


def _wrong_in(record: Any, *, key: str) -> str:
    """Return what a record lacks or has wrong; empty where it is as ``_publish`` writes it."""
    if not isinstance(record, dict):
        return f"a {type(record).__name__}, expected an object"
    for name, kind in (("stage", str), ("digest", str), ("seconds", (int, float)), ("facts", dict), ("files", dict)):
        if not isinstance(record.get(name), kind):
            return f"'{name}' is missing or of another type"
    if record.get("key", key) != key:
        return f"'key' is {json.dumps(record['key'])[:80]}, of another artifact"
    if not re.fullmatch(r"content(-[0-9a-f]+)?", str(record.get("content", "content"))):
        return f"'content' is {json.dumps(record['content'])[:80]}"
    for entry in record["files"].values():
        if not isinstance(entry, dict) or type(entry.get("bytes")) is not int or type(entry.get("sha256")) is not str:
            return "'files' holds something else than sizes and digests"
    if not record["files"]:
        return "'files' is empty"
    if record["digest"] != files_digest({name: entry["sha256"] for name, entry in record["files"].items()}):
        return "'digest' is not that of 'files'"
    return ""


def _is_held(lock: Path) -> bool:
    """Return whether a lock is held, asked without writing to it."""
    import fcntl  # not on Windows, where a file system that refuses to open a lock file is not met

    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:  # its run has just ended
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

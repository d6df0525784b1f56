"""Runs: one file per run, so that one sees what ran, and so that collecting never takes what a run is using.

``runs/<id>.json`` says what the run was asked and what came of each stage. While it runs, it holds a lock that the
system lets go of when the process dies: a run that says ``running`` and holds no lock was killed.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgemm.pipeline.store import Record, Store, remove, write_json, writing
from edgemm.runtime.errors import StoreError
from edgemm.runtime.fields import json_value

_READER = "reader-"
_to_the_end = ExitStack()
STORE_LOCK = "store"  # held for the moment of pinning a key, and while collecting


@dataclass
class Run:
    """A run in progress. ``keys`` are the artifacts that it uses, which collecting leaves alone."""

    store: Store
    id: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The run's file."""
        return self.store.root / "runs" / f"{self.id}.json"

    def write(self, **changes: Any) -> None:
        """Change facts and write the file."""
        self.facts.update(changes)
        with writing(self.store.root):
            write_json(self.path, self.facts)

    def pin(self, key: str) -> None:
        """From now on the artifact of that key is in use, whether it is there already or not."""
        with self.store.lock(STORE_LOCK):
            self.write(keys=[*self.facts.get("keys", []), key])

    def drop_superseded(self, key: str) -> None:
        """Remove what this run has made again, unless another run may be reading it; then collecting removes it."""
        with self.store.lock(STORE_LOCK):
            if key not in keys_in_use(self.store, but=self.id):
                for path in self.store.superseded(key):
                    remove(path)

    def finished(self, node: str, record: Record) -> None:
        """Note what came of a stage."""
        stage = {
            "node": node,
            "stage": record.artifact.stage,
            "key": record.artifact.key,
            "digest": record.artifact.digest,
            "seconds": record.seconds,
            "bytes": record.bytes,
            "cached": record.cached,
        }
        self.write(stages=[*self.facts.get("stages", []), stage])


@contextmanager
def running(store: Store, name: str, *, recipe: str, overrides: Sequence[str]) -> Iterator[Run]:
    """Open a run's file, hold its lock, and close it with how it ended: done, failed or interrupted."""
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    run = Run(store, f"{moment}-{name}-{secrets.token_hex(2)}")
    with store.lock(f"run-{run.id}"):
        run.write(
            id=run.id,
            name=name,
            recipe=recipe,
            overrides=list(overrides),
            status="running",
            started=_now(),
            pid=os.getpid(),
            keys=[],
            stages=[],
        )
        try:
            yield run
        except KeyboardInterrupt:
            _close(run, "interrupted", "")
            raise
        except BaseException as error:
            _close(run, "failed", str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise
        _close(run, "done", "")
    (store.root / "locks" / f"run-{run.id}.lock").unlink(missing_ok=True)


def list_runs(store: Store) -> list[dict[str, Any]]:
    """Return what is known of every run, the latest first; one that was killed says so."""
    runs = []
    for path in sorted((store.root / "runs").glob("*.json"), reverse=True):
        try:
            facts = json_value(path.read_bytes())
        except ValueError:
            continue  # not one of ours
        if not isinstance(facts, dict) or facts.get("id") != path.stem:
            continue
        if facts.get("status") == "running" and not store.is_locked(f"run-{facts['id']}"):
            facts["status"] = "killed"
        runs.append(facts)
    return runs


def keys_in_use(store: Store, *, but: str | None = None) -> set[str]:
    """Keys that runs in progress use, the run of the id ``but`` aside."""
    running = [run for run in list_runs(store) if run.get("status") == "running" and run["id"] != but]
    return {key for run in running for key in run.get("keys", [])}


@contextmanager
def reading_caches(store: Store) -> Iterator[None]:
    """Meanwhile collecting leaves the caches alone, where samples and features lie."""
    path = store.root / "locks" / f"{_READER}{secrets.token_hex(4)}.lock"
    lock = FileLock(path)  # the system lets go of it where the process dies
    with store.lock(STORE_LOCK), writing(store.root):
        lock.acquire(timeout=0)
    try:
        yield
    finally:
        lock.release()
        path.unlink(missing_ok=True)


def cache_in_use(root: Path) -> Path:
    """Return a store's cache for a verb that makes no run there, in use until the process ends."""
    if (root / "locks").is_dir():  # else there is nothing yet that could be collected
        with suppress(StoreError):  # one that is only read
            _to_the_end.enter_context(reading_caches(Store(root, only_read=True)))
    return root / "cache"


def caches_are_read(store: Store) -> bool:
    """Return whether some process reads the caches; the locks of those that have ended are removed."""
    found = False
    for path in (store.root / "locks").glob(f"{_READER}*.lock"):
        if store.is_locked(path.stem):
            found = True
        else:
            path.unlink(missing_ok=True)
    return found


def _close(run: Run, status: str, error: str) -> None:
    try:
        run.write(status=status, error=error, finished=_now())
    except Exception:
        if status == "done":
            raise  # else the first error matters more than that the disk can't take the note


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

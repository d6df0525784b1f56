"""Launch: the processes of one ``torchrun`` or ``accelerate launch``. The first runs; the others help where all train.

Why the others decide nothing: what the first finds, makes again, or takes from another run can't be told from the
store. So they learn the first one's run, read in its file which stage it has begun, and train along with it; whatever
else it does they leave to it, and take what it published.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgemm.pipeline.store import Record, Store
from edgemm.runtime.errors import StoreError
from edgemm.runtime.fields import json_value

FOLLOWER = ".follower-"  # partial/<key>.follower-…: what a process that publishes nothing writes


def process_rank() -> int:
    """Rank of this process among those of a launch; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return how many processes a launch has; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def threads_each(threads: int) -> int:
    """CPU threads of one process: those of a launch that run on one machine share the recipe's."""
    return max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def follow(
    store: Store, run_id: str, key: str, *, node: str, work: Callable[[Path, Path], None], poll_s: float = 0.2
) -> Record:
    """Return what the run's first process finds or makes for a node; helps with ``work`` once that one has begun it.

    Raises:
        StoreError: the first process has ended before, or works on something else.
    """
    helped = False
    while True:
        alive = store.is_locked(f"run-{run_id}")  # asked before the file is read: it may end in between
        facts = _facts(store, run_id)
        done = next((stage["key"] for stage in facts["stages"] if stage["node"] == node), None)
        if done is not None:
            found = store.find(key, check=False) if done == key else None  # the first one has just read its bytes
            if found is None:
                raise StoreError(f"{node}: the first process of this launch made {done}, this one expected {key}; "
                                 "give both the same recipe, data, code and store")  # fmt: skip
            return found
        if not alive:
            raise StoreError(f"{node}: the first process of this launch has ended, its run is '{facts['status']}'")
        if helped or facts.get("making") != key:
            time.sleep(poll_s)
            continue
        scratch = store.root / "scratch" / key
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store.root / "partial", prefix=f"{key}{FOLLOWER}") as folder:
            work(Path(folder), scratch)
        helped = True


def _facts(store: Store, run_id: str) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = json_value((store.root / "runs" / f"{run_id}.json").read_bytes())
    return facts

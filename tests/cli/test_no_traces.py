"""No verb writes under HOME or looks up a name; the whole run is held to the same in ``tests/pipeline/test_run.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgemm.cli import app
from tests.offline import can_watch, run_offline

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("every_verb.py")
CALLS_HOME = (
    "import socket, pathlib; (pathlib.Path.home() / 'id').write_text('x')\n"
    "try: socket.getaddrinfo('telemetry.invalid', 443)\n"
    "except OSError: pass"
)


def quiet_environment(home: Path) -> dict[str, str]:
    """As on a new machine: an empty HOME, and nothing that this process has set for its children."""
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_", "HF_", "MPL", "TRANSFORMERS_"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_every_verb_and_the_device_side_leave_home_empty_and_look_up_no_name(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    environment = quiet_environment(tmp_path / "home")
    done, asked = run_offline([sys.executable, "-W", "ignore", SCRIPT, tmp_path / "work"], env=environment)
    assert done.returncode == 0, done.stderr
    verbs = {name.name or name.callback.__name__ for name in app.registered_commands if name.callback}
    assert verbs - {"run", *done.stderr.splitlines()} == set()
    assert [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "home").rglob("*")] == []
    assert not asked


@pytest.mark.skipif(not can_watch(), reason="this machine lets nobody make a network namespace")
def test_what_is_watched_for_is_there_without_edgemm(tmp_path: Path) -> None:
    """What the test above would see of a library that calls home: a look-up, and a file under HOME."""
    environment = quiet_environment(tmp_path / "home")
    done, asked = run_offline([sys.executable, "-W", "ignore", "-c", CALLS_HOME], env=environment)
    assert done.returncode == 0, done.stderr
    assert asked
    assert list((tmp_path / "home").rglob("*"))

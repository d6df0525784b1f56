"""Engines call nobody: imported in one place, their telemetry off before that, and nothing left under HOME."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgemm.runtime.packages import SPEAKING
from tests import bundles

ROOT = Path(__file__).parents[2]
IMPORTERS = {"import_module", "importorskip", "__import__"}
USES = """
import os
import sys
from edgemm.runtime import Bundle

for target in ("cpu", "openvino"):
    Bundle.open(sys.argv[1], target=target).predict(text="a red apple")
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def imported(path: Path) -> Iterator[str]:
    """Names of the packages that a file imports by a statement or by a literal name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in IMPORTERS:
                yield str(node.args[0].value).partition(".")[0]


def test_no_other_place_imports_a_package_that_calls_home():
    files = [path for folder in ("edgemm", "benchmarks", "tests", "export") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    found = {path.relative_to(ROOT).as_posix(): here for path in files if (here := {*imported(path)} & {*SPEAKING})}
    assert found == {}, "import it with edgemm.runtime.packages.package"


def test_a_process_that_asks_a_bundle_on_each_engine_leaves_home_empty(tmp_path: Path):
    bundle = tmp_path / "bundle"
    bundles.dual_encoder(bundle)
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", USES, str(bundle)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"
    assert list(home.rglob("*")) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_forked_after_the_first_answer_ends(tmp_path: Path, threads: int):
    """As a worker of a server that loads before it forks; it waited without end for threads that it never had.

    With one thread for that of the telemetry, with two for those that a session of its parent had started.
    """
    bundle = tmp_path / "bundle"
    bundles.dual_encoder(bundle)
    code = (
        "import os, signal, sys\n"
        "from edgemm.runtime import Bundle\n"
        "bundle = Bundle.open(sys.argv[1], threads=int(sys.argv[2]))\n"
        "bundle.predict(text='a cat')\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(20)\n"
        "    bundle.predict(text='a cat')\n"
        "    sys.exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(bundle), str(threads)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr

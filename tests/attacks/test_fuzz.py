"""A thousand well-sealed mutants of bundles of every family open and answer, or are refused with one line."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest


@pytest.mark.slow
def test_a_thousand_mutants_end_in_an_answer_or_in_one_line() -> None:
    """``make fuzz`` runs more, for as long as one likes."""
    failed = fuzz.fuzz(0, 1000)
    assert not failed, "\n".join(f"seed {seed}: {why}" for seed, why in failed.items())


def test_a_mutant_that_ends_its_process_is_found_and_the_next_ones_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool is tried on a script whose third seed ends it, and whose fourth raises."""
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys\n"
        "first, count, step = map(int, sys.argv[2:])\n"
        "for seed in range(first, first + count * step, step):\n"
        "    print(seed, flush=True)\n"
        "    if seed == 2: os.abort()\n"
        "    if seed == 3: print(seed, '\"KeyError\"', flush=True)\n"
        "print('done', flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(script))
    assert fuzz.fuzz(0, 6) == {2: "the process ends with code -6", 3: "KeyError"}


def test_a_seed_gives_the_same_mutant_again(tmp_path: Path) -> None:
    bases = {"embedder": {}, "regression": {}}
    for name in bases:
        fuzz.BASES[name](tmp_path / name)
        bases[name] = {
            path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in fuzz._files(tmp_path / name)
        }
    for seed in range(50):
        assert fuzz.mutant(seed, bases) == fuzz.mutant(seed, bases)

"""Names of modalities and engines are compared with in their tables alone: a new one is a file and a row, no ``if``.

A comparison is ``==``, ``!=``, ``in`` or ``not in`` with a name as text, a ``case`` of it, ``startswith`` of it, or
``isinstance`` of a modality's record. What may stay is listed with its reason, and no list may name what is gone.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgemm
from edgemm.runtime.engines import ENGINES
from edgemm.runtime.readers import READERS

PACKAGE = Path(edgemm.__file__).parent
RECORDS = {record.__name__ for record in READERS.values()}
OWN = {  # the tables and each name's own file
    "modality": ("runtime/readers/", "runtime/images.py", "runtime/waveforms.py", "runtime/tokenizer_safety.py"),
    "engine": ("runtime/engines.py", "runtime/engine_"),
}
NAMES = {"modality": set(READERS), "engine": set(ENGINES)}
IN_TRAINING = "texts are mixed, made up and tokenized, as nothing else is; the frontend that is trained is an image's"
IN_A_CHECKPOINT = "a tokenizer and a preprocessor are different files of a checkpoint"
ALLOWED: dict[str, dict[str, tuple[int, str]]] = {
    "modality": {
        "compress/answer_objectives.py": (4, IN_TRAINING),
        "compress/tower_inputs.py": (2, IN_TRAINING),
        "compress/family_objectives.py": (2, IN_TRAINING),
        "data/batches.py": (5, "files are decoded in training with errors of their own"),
        "data/check.py": (1, "the check of the bytes of a file, which is quicker than reading it"),
        "graph/capture.py": (
            2,
            "a resize is as exact as float32 along a side; a text names the one tokenizer of the bundle",
        ),
        "measure/attention.py": (1, "patches of an image make a square"),
        "measure/latency.py": (1, "the time of decoding is that of images"),
        "models/builders.py": (
            2,
            "features of a sensor may be pooled; the longest text says how many tokens there are",
        ),
        "models/huggingface.py": (5, IN_A_CHECKPOINT),
        "models/huggingface_inputs.py": (1, IN_A_CHECKPOINT),
        "models/inherit.py": (2, IN_A_CHECKPOINT),
        "models/outside.py": (2, IN_A_CHECKPOINT),
        "models/pretrained.py": (1, IN_A_CHECKPOINT),
        "pipeline/explain.py": (1, "patches of a spectrogram have a grid that the graph says"),
        "runtime/onnx_wire.py": (1, "ONNX has a message of that name"),
    },
    "engine": {},
}


def texts(node: ast.expr) -> Iterator[str]:
    """The texts that an operand is, or that stand in the tuple, list or set that it is."""
    inner = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    yield from (n.value for n in inner if isinstance(n, ast.Constant) and isinstance(n.value, str))


def compares(node: ast.AST, names: set[str], records: set[str]) -> bool:
    if isinstance(node, ast.Compare):
        return any(text in names for operand in (node.left, *node.comparators) for text in texts(operand))
    if isinstance(node, ast.MatchValue):
        return any(text in names for text in texts(node.value))
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
        return any(
            name.startswith(text) for argument in node.args for text in texts(argument) if text for name in names
        )
    if isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        return any(isinstance(n, ast.Name) and n.id in records for n in ast.walk(node.args[1]))
    return False


def comparisons(concept: str) -> Counter[str]:
    """File -> how many comparisons with a name of the concept it has, outside the concept's table and files."""
    found: Counter[str] = Counter()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(OWN[concept]):
            records = RECORDS if concept == "modality" else set()
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found[place] += sum(compares(node, NAMES[concept], records) for node in ast.walk(tree))
    return +found


@pytest.mark.parametrize("concept", NAMES)
def test_a_name_is_compared_with_in_its_table_alone(concept: str) -> None:
    more = comparisons(concept) - Counter({place: count for place, (count, _) in ALLOWED[concept].items()})
    assert not more, f"a method of the reader or session, or a row of a table, instead of a comparison: {dict(more)}"

"""Bundles that are changed and sealed again as an attacker would: every digest and size is right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Change = Callable[[dict[str, Any]], object]
VI = helper.make_tensor_value_info
TEXT_INPUTS = [VI("input_ids", 7, ["batch", "tokens"]), VI("attention_mask", 7, ["batch", "tokens"])]


def reseal(folder: Path, change: Change | None = None) -> Path:
    """Change the manifest's JSON, then make its table of files what lies in the folder."""
    place = folder / "manifest.json"
    manifest = json.loads(place.read_text())
    if change is not None:
        change(manifest)
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != place
    }
    place.write_text(json.dumps(manifest))
    return folder


def text_graph(nodes: list[onnx.NodeProto], *, dtype: int = 1, weights: dict[str, Any] | None = None) -> bytes:
    """A graph from ids and mask to ``text_embedding``, unchecked."""
    made = helper.make_graph(
        nodes,
        "g",
        TEXT_INPUTS,
        [VI("text_embedding", dtype, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())


def with_graph(folder: Path, part: str, data: bytes, change: Change | None = None) -> Path:
    """Put another graph in the place of a part's."""
    (folder / f"graphs/{part}.onnx").write_bytes(data)
    return reseal(folder, change)

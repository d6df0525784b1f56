"""Tiny real bundles of the other families: three modalities that fuse or retrieve, and one that embeds.

A sensor says a colour as three numbers; image and text say it as in ``colours``. So right answers are known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from colour_bundles import (
    COLOURS,
    INPUTS,
    TEXT_IN,
    WORDS,
    _frontend,
    _part,
    _spec,
    _text_nodes,
    _text_weights,
    picture,
)
from onnx import helper
from tokenizers import Tokenizer, models, pre_tokenizers

from edgemm.data.dataset import Sample
from edgemm.runtime.archive import seal
from edgemm.runtime.manifest import ClassesEntry, Manifest, OutputEntry, PartEntry, TargetEntry
from edgemm.runtime.outputs import Embedding, Quantity
from edgemm.runtime.readers import ImageInput, TensorInput

PURE = ("red", "green", "blue")
THREE = ("image", "text", "sensor")


def _sealed(folder: Path, family: str, parts: list[PartEntry], outputs: Mapping[str, OutputEntry], **more: Any) -> Path:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    inputs = more.pop("inputs", {**INPUTS, "sensor": TensorInput("sensor")})
    if "text" in inputs:
        (folder / "tokenizer.json").write_text(tokenizer.to_str())
    target = TargetEntry("cpu", "onnxruntime", "float32", {p.name: f"graphs/{p.name}.onnx" for p in parts}, threads=1)
    seal(folder, Manifest(folder.name, family, tuple(parts), inputs, outputs, (target,), **more))
    return folder


def _towers(folder: Path) -> list[PartEntry]:
    text = _part(
        folder, "text", "tower", "text", TEXT_IN, [_spec("text_features", "float32", "batch", 3)],
        _text_nodes("text_features"), _text_weights(),
    )  # fmt: skip
    sensor = _part(
        folder, "sensor", "tower", "sensor", [_spec("sensor", "float32", "batch", 3)],
        [_spec("sensor_features", "float32", "batch", 3)],
        [helper.make_node("Identity", ["sensor"], ["sensor_features"])], {},
    )  # fmt: skip
    return [_frontend(folder), text, sensor]


def joint(folder: Path, task: str = "single-label", *, placeholders: bool = True, deaf: bool = False) -> Path:
    """Sum of what three modalities say. Classes: the logit of a colour is 4·(sum - .5); value: red + 2 green + 3 blue.

    Args:
        placeholders: zeros stand in for whatever is missing.
        deaf: ignores the sensor.
    """
    folder.mkdir(parents=True)
    features = ("pixels", "text_features", "sensor_features")
    weights = np.array([[1], [2], [3]], np.float32) if task == "regression" else 4 * np.eye(3, dtype=np.float32)
    output = "value" if task == "regression" else "logits"
    head = _part(
        folder, "head", "head", None, [_spec(name, "float32", "batch", 3) for name in features],
        [_spec(output, "float32", "batch", weights.shape[1])],
        [
            helper.make_node("Mul", ["sensor_features", "heard"], ["s"]),
            helper.make_node("Sum", ["pixels", "text_features", "s"], ["sum"]),
            helper.make_node("MatMul", ["sum", "w"], ["x"]),
            helper.make_node("Add", ["x", "b"], [output]),
        ],
        {"heard": np.full(1, 0 if deaf else 1, np.float32), "w": weights,
         "b": np.full(weights.shape[1], 0 if task == "regression" else -2, np.float32)},
    )  # fmt: skip
    more: dict[str, Any] = {}
    answer: OutputEntry = Quantity()
    if task != "regression":
        (folder / "labels.json").write_text(json.dumps(PURE))
        answer = ClassesEntry("labels.json", independent=task == "multi-label")
    if placeholders:
        np.save(folder / "zero.npy", np.zeros((1, 3), np.float32))
        more["placeholders"] = dict.fromkeys(features, "zero.npy")
    return _sealed(folder, "fusion-classifier", [*_towers(folder), head], {output: answer}, **more)


def _embedding(folder: Path, source: str, name: str, modality: str, spoiled: np.ndarray | None = None) -> PartEntry:
    """Unit vectors, tilted a little so that black has a direction."""
    return _part(
        folder, f"{modality}_head", "tower", modality, [_spec(source, "float32", "batch", 3)],
        [_spec(name, "float32", "batch", 3)],
        [
            helper.make_node("MatMul", [source, "p"], ["x"]),
            helper.make_node("Add", ["x", "tilt"], ["y"]),
            helper.make_node("LpNormalization", ["y"], [name], axis=1),
        ],
        {"p": np.eye(3, dtype=np.float32) if spoiled is None else spoiled, "tilt": np.full(3, 0.01, np.float32)},
    )  # fmt: skip


def triple(folder: Path) -> Path:
    """Image, text and sensor into one space."""
    folder.mkdir(parents=True)
    sources = {"image": "pixels", "text": "text_features", "sensor": "sensor_features"}
    ends = [_embedding(folder, source, f"{m}_embedding", m) for m, source in sources.items()]
    return _sealed(folder, "dual-encoder", [*_towers(folder), *ends], {f"{m}_embedding": Embedding() for m in sources})


def embedder(folder: Path, *, spoiled: np.ndarray | None = None) -> Path:
    """The mean colour of an image as a unit vector."""
    folder.mkdir(parents=True)
    parts = [_frontend(folder), _embedding(folder, "pixels", "embedding", "image", spoiled)]
    return _sealed(folder, "embedder", parts, {"embedding": Embedding()}, inputs={"image": ImageInput()})


def said_by_three(folder: Path, count: int = 6) -> list[Sample]:
    """Colours that image, text and sensor agree on, ``count`` of each."""
    samples = []
    for n in range(count):
        for i, word in enumerate(PURE):
            np.save(folder / f"{word}{n}.npy", np.eye(3, dtype=np.float32)[i])
            samples.append(
                Sample(
                    f"{word}{n}", image=picture(folder, f"{word}-{n}", COLOURS[word], (4 + n, 5)), text=word,
                    tensors={"sensor": folder / f"{word}{n}.npy"}, label=word, labels=(word,), value=3.0 * (i + 1),
                )
            )  # fmt: skip
    return samples


def faces(folder: Path, identities: int = 8, each: int = 4) -> list[Sample]:
    """Pictures of identities that are a colour each, seen in noisy light."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(identities):
        colour = rng.integers(30, 220, 3)
        for n in range(each):
            seen = tuple(int(c) for c in np.clip(colour + rng.normal(0, 25, 3), 0, 255))
            samples.append(Sample(f"{i}/{n}", image=picture(folder, f"{i}-{n}", seen), label=f"person {i}"))  # type: ignore[arg-type]
    return samples

"""Tiny real bundles: ONNX graphs of a few kB made by hand, so that the runtime is tested on real engines and files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgemm.runtime.archive import seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.manifest import (
    ClassesEntry,
    Gallery,
    GoldenOutputs,
    GoldenSample,
    Manifest,
    OutputEntry,
    PartEntry,
    TargetEntry,
)
from edgemm.runtime.outputs import JOINT, Embedding, Quantity, Values
from edgemm.runtime.readers import AudioInput, ImageInput, RawInput, TensorInput, TextInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

SIDE = 8
WIDTH = 16
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "cat",
    "dog",
    "red",
    "house",
    "blue",
    "sky",
    "what",
    "is",
    "this",
    "?",
]
LABELS = ["yes", "no", "red", "blue"]
DIMS = {
    "batch": DimRange(1, 1, 4),
    "tokens": DimRange(1, 8, 16),
    "height": DimRange(2, 16, 256),
    "width": DimRange(2, 16, 256),
    "samples": DimRange(16, 160, 16000),
}
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}
ENGINES = {"cpu": "onnxruntime", "openvino": "openvino"}


def graph(nodes: list[onnx.NodeProto], signature: Signature, weights: dict[str, np.ndarray]) -> bytes:
    """A checked ONNX file."""

    def value(spec: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], list(spec.shape))

    made = helper.make_graph(
        nodes,
        "part",
        [value(spec) for spec in signature.inputs],
        [value(spec) for spec in signature.outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def signature(
    inputs: list[tuple[str, str, tuple[int | str, ...]]], output: tuple[str, tuple[int | str, ...]]
) -> Signature:
    specs = tuple(TensorSpec(name, dtype, shape) for name, dtype, shape in inputs)
    named = {dim for spec in specs for dim in spec.shape if isinstance(dim, str)}
    return Signature(
        specs, (TensorSpec(output[0], "float32", output[1]),), {n: r for n, r in DIMS.items() if n in named}
    )


def image_frontend() -> tuple[Signature, bytes]:
    sig = signature([("image", "uint8", ("batch", "height", "width", 3))], ("pixels", ("batch", 3, SIDE, SIDE)))
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["planes"], ["leading"], start=0, end=2),
        helper.make_node("Concat", ["leading", "side"], ["sizes"], axis=0),
        helper.make_node("Resize", ["planes", "", "", "sizes"], ["small"], mode="linear"),
        helper.make_node("Div", ["small", "white"], ["pixels"]),
    ]
    return sig, graph(nodes, sig, {"side": np.array([SIDE, SIDE]), "white": np.array(255.0, np.float32)})


def image_tower(output: str, rng: np.random.Generator, *, normalise: bool) -> tuple[Signature, bytes]:
    sig = signature([("pixels", "float32", ("batch", 3, SIDE, SIDE))], (output, ("batch", WIDTH)))
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["raw" if normalise else output]),
    ]
    if normalise:
        nodes.append(helper.make_node("LpNormalization", ["raw"], [output], axis=1, p=2))
    return sig, graph(nodes, sig, {"w": rng.normal(size=(3 * SIDE * SIDE, WIDTH)).astype(np.float32)})


def text_tower(output: str, rng: np.random.Generator, *, normalise: bool) -> tuple[Signature, bytes]:
    shape = ("batch", "tokens")
    sig = signature([("input_ids", "int64", shape), ("attention_mask", "int64", shape)], (output, ("batch", WIDTH)))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens_"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["tokens_", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["wide", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["raw" if normalise else output]),
    ]
    if normalise:
        nodes.append(helper.make_node("LpNormalization", ["raw"], [output], axis=1, p=2))
    weights = {
        "table": rng.normal(size=(len(WORDS), WIDTH)).astype(np.float32),
        "last": np.array([2]),
        "middle": np.array([1]),
    }
    return sig, graph(nodes, sig, weights)


def audio_tower(output: str, rng: np.random.Generator) -> tuple[Signature, bytes]:
    sig = signature([("waveform", "float32", ("batch", "samples"))], (output, ("batch", WIDTH)))
    nodes = [
        helper.make_node("Abs", ["waveform"], ["loud"]),
        helper.make_node("ReduceMean", ["loud", "one"], ["mean"], keepdims=1),
        helper.make_node("MatMul", ["mean", "w"], [output]),
    ]
    return sig, graph(nodes, sig, {"one": np.array([1]), "w": rng.normal(size=(1, WIDTH)).astype(np.float32)})


def sensor_tower(output: str, rng: np.random.Generator) -> tuple[Signature, bytes]:
    sig = signature([("sensor", "float32", ("batch", 6))], (output, ("batch", WIDTH)))
    nodes = [helper.make_node("MatMul", ["sensor", "w"], [output])]
    return sig, graph(nodes, sig, {"w": rng.normal(size=(6, WIDTH)).astype(np.float32)})


def fusion(*takes: str) -> tuple[Signature, bytes]:
    takes = takes or ("image_features", "text_features")
    sig = signature([(name, "float32", ("batch", WIDTH)) for name in takes], ("fused", ("batch", WIDTH)))
    return sig, graph([helper.make_node("Mul", [*takes], ["fused"])], sig, {})


def head(
    rng: np.random.Generator,
    *,
    takes: str = "fused",
    makes: str = "logits",
    width: int = WIDTH,
    wide: int = len(LABELS),
) -> tuple[Signature, bytes]:
    sig = signature([(takes, "float32", ("batch", width))], (makes, ("batch", wide)))
    nodes = [helper.make_node("MatMul", [takes, "w"], [makes])]
    return sig, graph(nodes, sig, {"w": rng.normal(size=(width, wide)).astype(np.float32)})


def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return str(tokenizer.to_str())


def png(seed: int, size: tuple[int, int] = (12, 10)) -> bytes:
    """A PNG of noise; ``size`` is (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def write_bundle(
    folder: Path,
    *,
    family: str,
    parts: dict[str, tuple[str, str | None, tuple[Signature, bytes]]],
    inputs: dict[str, RawInput],
    outputs: Mapping[str, OutputEntry],
    golden: list[dict[str, str | bytes]],
    targets: tuple[str, ...] = ("cpu", "openvino"),
    gallery_of: str | None = None,
    placeholders: Mapping[str, np.ndarray] | None = None,
) -> Manifest:
    """Write graphs, tokenizer, labels, gallery and golden samples, run the golden samples, and seal."""
    (folder / "graphs").mkdir(parents=True)
    (folder / "golden").mkdir()
    for name, (_, _, (_, data)) in parts.items():
        (folder / "graphs" / f"{name}.onnx").write_bytes(data)
    if any(isinstance(raw, TextInput) for raw in inputs.values()):
        (folder / "tokenizer.json").write_text(tokenizer_json())
    if any(isinstance(output, ClassesEntry) for output in outputs.values()):
        (folder / "labels.json").write_text(json.dumps(LABELS))
    for name, value in (placeholders or {}).items():
        np.save(folder / f"{name}.npy", value)
    samples = []
    for i, sample in enumerate(golden):
        held = {}
        for modality, raw in sample.items():
            if isinstance(raw, bytes):
                (folder / "golden" / f"{i}.{modality}").write_bytes(raw)
                raw = f"golden/{i}.{modality}"
            held[modality] = raw
        samples.append(GoldenSample(held))
    manifest = Manifest(
        name=folder.name,
        family=family,
        parts=tuple(
            PartEntry(name, role, modality, sig, 1)
            for name, (role, modality, (sig, _)) in parts.items()  # type: ignore[arg-type]
        ),
        inputs=inputs,
        outputs={
            name: replace(output, labels="labels.json") if isinstance(output, ClassesEntry) else output
            for name, output in outputs.items()
        },
        targets=tuple(
            TargetEntry(name, ENGINES[name], "float32", {part: f"graphs/{part}.onnx" for part in parts}, threads=1)  # type: ignore[arg-type]
            for name in targets
        ),
        golden=tuple(samples),
        placeholders={name: f"{name}.npy" for name in placeholders or {}},
    )
    seal(folder, manifest)
    made = Bundle.open(folder).run_golden() if golden else {}
    if golden:
        np.savez(folder / "golden" / "outputs.npz", **made)
        tolerances = GoldenOutputs("golden/outputs.npz", dict.fromkeys(made, 0.0001))
        manifest = replace(manifest, golden_outputs=dict.fromkeys(targets, tolerances))
    if gallery_of is not None:
        np.save(folder / "gallery.npy", made[gallery_of].astype(np.float16))
        (folder / "gallery.json").write_text(json.dumps([f"entry {i}" for i in range(len(golden))]))
        manifest = replace(manifest, galleries={JOINT: Gallery("gallery.npy", "gallery.json")})
    return seal(folder, manifest)


def dual_encoder(folder: Path, *, seed: int = 0, targets: tuple[str, ...] = ("cpu", "openvino")) -> Manifest:
    """Image and text towers into one space, with a gallery of three golden images."""
    rng = np.random.default_rng(seed)
    return write_bundle(
        folder,
        family="dual_encoder",
        parts={
            "image_frontend": ("frontend", "image", image_frontend()),
            "image": ("tower", "image", image_tower("image_embedding", rng, normalise=True)),
            "text": ("tower", "text", text_tower("text_embedding", rng, normalise=True)),
        },
        inputs={"image": ImageInput(), "text": TextInput("tokenizer.json", max_tokens=8)},
        outputs={"image_embedding": Embedding(), "text_embedding": Embedding()},
        golden=[{"image": png(i), "text": text} for i, text in enumerate(["a cat", "red house", "blue sky"])],
        gallery_of="image_embedding",
        targets=targets,
    )


def fusion_classifier(folder: Path, *, seed: int = 0, placeholders: bool = False) -> Manifest:
    """Image and question to an answer, with something that stands in for either on demand."""
    rng = np.random.default_rng(seed)
    return write_bundle(
        folder,
        family="fusion_classifier",
        parts={
            "image_frontend": ("frontend", "image", image_frontend()),
            "image": ("tower", "image", image_tower("image_features", rng, normalise=False)),
            "text": ("tower", "text", text_tower("text_features", rng, normalise=False)),
            "fusion": ("fusion", None, fusion()),
            "head": ("head", None, head(rng)),
        },
        inputs={"image": ImageInput(), "text": TextInput("tokenizer.json", max_tokens=8)},
        outputs={"logits": ClassesEntry()},
        golden=[{"image": png(i), "text": text} for i, text in enumerate(["what is this ?", "is this a dog ?"])],
        placeholders={
            name: np.full((1, WIDTH), value, np.float32)
            for name, value in ({"image_features": 0.5, "text_features": -1.5} if placeholders else {}).items()
        },
    )


def embedder(folder: Path, *, seed: int = 0) -> Manifest:
    """Image to an embedding."""
    rng = np.random.default_rng(seed)
    return write_bundle(
        folder,
        family="embedder",
        parts={
            "image_frontend": ("frontend", "image", image_frontend()),
            "image": ("tower", "image", image_tower("image_embedding", rng, normalise=True)),
        },
        inputs={"image": ImageInput()},
        outputs={"image_embedding": Embedding()},
        golden=[{"image": png(i)} for i in range(2)],
    )


def regression(folder: Path, *, seed: int = 0) -> Manifest:
    """Text to a quantity."""
    rng = np.random.default_rng(seed)
    return write_bundle(
        folder,
        family="fusion-classifier",
        parts={
            "text": ("tower", "text", text_tower("text_features", rng, normalise=False)),
            "head": ("head", None, head(rng, takes="text_features", makes="value", wide=1)),
        },
        inputs={"text": TextInput("tokenizer.json", max_tokens=8)},
        outputs={"value": Quantity()},
        golden=[{"text": "a cat"}],
    )


def sensor_classifier(folder: Path, *, seed: int = 0) -> Manifest:
    """A sensor's vector to a class."""
    rng = np.random.default_rng(seed)
    return write_bundle(
        folder,
        family="fusion-classifier",
        parts={
            "sensor": ("tower", "sensor", sensor_tower("sensor_features", rng)),
            "head": ("head", None, head(rng, takes="sensor_features")),
        },
        inputs={"sensor": TensorInput("sensor")},
        outputs={"logits": ClassesEntry()},
        golden=[],
    )


def audio_and_sensor(folder: Path, *, seed: int = 0) -> Manifest:
    """Sound and sensor vectors, each to an embedding of its own."""
    rng = np.random.default_rng(seed)
    return write_bundle(
        folder,
        family="dual_encoder",
        parts={
            "audio": ("tower", "audio", audio_tower("audio_embedding", rng)),
            "sensor": ("tower", "sensor", sensor_tower("sensor_embedding", rng)),
        },
        inputs={"audio": AudioInput(sample_rate=16000), "sensor": TensorInput("sensor")},
        outputs={"audio_embedding": Embedding(), "sensor_embedding": Embedding()},
        golden=[],
    )


def every_output(folder: Path, *, seed: int = 0, targets: tuple[str, ...] = ("cpu", "openvino")) -> Manifest:
    """Image and text: an embedding of each, and of both together an answer, what it is about, an amount and features.

    The amount is told from the answer.
    """
    rng = np.random.default_rng(seed)
    return write_bundle(
        folder,
        family="fusion-classifier",
        parts={
            "image_frontend": ("frontend", "image", image_frontend()),
            "image": ("tower", "image", image_tower("image_embedding", rng, normalise=True)),
            "text": ("tower", "text", text_tower("text_embedding", rng, normalise=True)),
            "fusion": ("fusion", None, fusion("image_embedding", "text_embedding")),
            "head": ("head", None, head(rng, makes="answer")),
            "subject_head": ("head", None, head(rng, makes="subjects")),
            "amount_head": ("head", None, head(rng, takes="answer", width=len(LABELS), makes="amount", wide=1)),
        },
        inputs={"image": ImageInput(), "text": TextInput("tokenizer.json", max_tokens=8)},
        outputs={
            "answer": ClassesEntry(),
            "subjects": ClassesEntry(independent=True),
            "amount": Quantity(mean=2.5, spread=0.5),
            "image_embedding": Embedding(),
            "text_embedding": Embedding(),
            "fused": Values(),
        },
        golden=[{"image": png(i), "text": text} for i, text in enumerate(["a cat", "red house", "blue sky"])],
        gallery_of="image_embedding",
        targets=targets,
    )

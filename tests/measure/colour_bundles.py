"""Tiny real bundles: a colour retriever and a colour classifier, whose right answers are known by construction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from edgemm.data.dataset import Sample
from edgemm.graph.build import fingerprint
from edgemm.runtime.archive import seal
from edgemm.runtime.manifest import ClassesEntry, Manifest, OutputEntry, PartEntry, TargetEntry
from edgemm.runtime.outputs import Embedding
from edgemm.runtime.readers import ImageInput, TextInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "dark": (60, 60, 60),
}
WORDS = ["[PAD]", "is", "it", *COLOURS]
DIMS = {
    "batch": DimRange(1, 1, 8),
    "tokens": DimRange(1, 4, 8),
    "height": DimRange(1, 8, 64),
    "width": DimRange(1, 8, 64),
}


def _spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def _part(
    folder: Path, name: str, role: str, modality: str | None, ins: list[TensorSpec], outs: list[TensorSpec],
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray],
) -> PartEntry:  # fmt: skip
    types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}

    def info(spec: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(spec.name, types[spec.dtype], list(spec.shape))

    graph = helper.make_graph(
        nodes, name, [info(s) for s in ins], [info(s) for s in outs],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    (folder / "graphs").mkdir(exist_ok=True)
    onnx.save(model, folder / "graphs" / f"{name}.onnx")
    used = {d for s in [*ins, *outs] for d in s.shape if isinstance(d, str)}
    signature = Signature(tuple(ins), tuple(outs), {d: DIMS[d] for d in DIMS if d in used})
    return PartEntry(name, role, modality, signature, sum(v.size for v in weights.values()))  # type: ignore[arg-type]


def _frontend(folder: Path) -> PartEntry:
    """Mean colour, 0..1: uint8 (b, h, w, 3) to float32 (b, 3)."""
    return _part(
        folder, "image_frontend", "frontend", "image",
        [_spec("image", "uint8", "batch", "height", "width", 3)], [_spec("pixels", "float32", "batch", 3)],
        [
            helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2], keepdims=0),
            helper.make_node("Div", ["m", "white"], ["pixels"]),
        ],
        {"white": np.float32(255).reshape(1)},
    )  # fmt: skip


def _text_nodes(out: str) -> list[onnx.NodeProto]:
    """Masked sum of word vectors."""
    return [
        helper.make_node("Gather", ["words", "input_ids"], ["w"]),
        helper.make_node("Cast", ["attention_mask"], ["mf"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mf", "last"], ["m3"]),
        helper.make_node("Mul", ["w", "m3"], ["wm"]),
        helper.make_node("ReduceSum", ["wm", "one"], [out], keepdims=0),
    ]


def _word_vectors() -> np.ndarray:
    table = np.zeros((len(WORDS), 3), np.float32)
    for word, colour in COLOURS.items():
        table[WORDS.index(word)] = np.array(colour) / 255
    table[0] = 99  # padding must be masked out to be right
    return table


def _text_weights() -> dict[str, np.ndarray]:
    return {"words": _word_vectors(), "last": np.array([-1], np.int64), "one": np.array([1], np.int64)}


TEXT_IN = [_spec("input_ids", "int64", "batch", "tokens"), _spec("attention_mask", "int64", "batch", "tokens")]
INPUTS = {"image": ImageInput(), "text": TextInput("tokenizer.json", 8)}


def _seal(
    folder: Path, name: str, family: str, parts: list[PartEntry], outputs: Mapping[str, OutputEntry],
    engines: tuple[str, ...],
) -> Path:  # fmt: skip
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    files = {p.name: f"graphs/{p.name}.onnx" for p in parts}
    targets = [TargetEntry(f"cpu-{engine}", engine, "float32", files, threads=1) for engine in engines]  # type: ignore[arg-type]
    if "tensorrt-rtx" in engines:
        plan = folder / "graphs" / "fake.plan"
        plan.write_bytes(b"not a real plan: nothing here has a GPU to open it with")
        plans = {p.name: files[p.name] if p.role == "frontend" else "graphs/fake.plan" for p in parts}
        targets[-1] = TargetEntry(
            "rtx-sm86", "tensorrt-rtx", "float32", plans, fingerprint=fingerprint("tensorrt-rtx", "8.6")
        )
    seal(folder, Manifest(name, family, tuple(parts), INPUTS, outputs, tuple(targets)))
    return folder


def retriever(
    folder: Path, *, noise: float = 0.0, wide: int = 8, engines: tuple[str, ...] = ("onnxruntime",), seed: int = 0
) -> Path:
    """Dual encoder: mean colour against word colour, through one shared projection; ``noise`` spoils the image's."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    shared = np.linalg.qr(rng.standard_normal((wide, 3)))[0].T.astype(np.float32)
    spoiled = shared + noise * rng.standard_normal(shared.shape).astype(np.float32)
    image = _part(
        folder, "image", "tower", "image", [_spec("pixels", "float32", "batch", 3)],
        [_spec("image_embedding", "float32", "batch", wide)],
        [
            helper.make_node("MatMul", ["pixels", "p"], ["x"]),
            helper.make_node("Add", ["x", "tilt"], ["y"]),
            helper.make_node("LpNormalization", ["y"], ["image_embedding"], axis=1),
        ],
        {"p": spoiled, "tilt": np.full(wide, 0.01, np.float32)},
    )  # fmt: skip
    text = _part(
        folder, "text", "tower", "text", TEXT_IN, [_spec("text_embedding", "float32", "batch", wide)],
        [
            *_text_nodes("s"),
            helper.make_node("MatMul", ["s", "p"], ["x"]),
            helper.make_node("Add", ["x", "tilt"], ["y"]),
            helper.make_node("LpNormalization", ["y"], ["text_embedding"], axis=1),
        ],
        {**_text_weights(), "p": shared, "tilt": np.full(wide, 0.01, np.float32)},
    )  # fmt: skip
    parts = [_frontend(folder), image, text]
    embeddings = {name: Embedding() for name in ("image_embedding", "text_embedding")}
    return _seal(folder, "colours", "dual_encoder", parts, embeddings, engines)


def classifier(folder: Path, *, blind: bool = False, engines: tuple[str, ...] = ("onnxruntime",)) -> Path:
    """Answers "is it <colour>" with yes or no. ``blind`` ignores the picture and always answers no."""
    folder.mkdir(parents=True)
    text = _part(
        folder, "text", "tower", "text", TEXT_IN, [_spec("text_features", "float32", "batch", 3)],
        _text_nodes("text_features"), _text_weights(),
    )  # fmt: skip
    fusion = _part(
        folder, "fusion", "fusion", None,
        [_spec("pixels", "float32", "batch", 3), _spec("text_features", "float32", "batch", 3)],
        [_spec("fused", "float32", "batch", 1)],
        [
            helper.make_node("Mul", ["pixels", "text_features"], ["x"]),
            helper.make_node("ReduceSum", ["x", "one"], ["fused"], keepdims=1),
        ],
        {"one": np.array([1], np.int64)},
    )  # fmt: skip
    head = _part(
        folder, "head", "head", None, [_spec("fused", "float32", "batch", 1)], [_spec("logits", "float32", "batch", 2)],
        [helper.make_node("MatMul", ["fused", "w"], ["x"]), helper.make_node("Add", ["x", "b"], ["logits"])],
        {"w": np.array([[0, 0 if blind else 1]], np.float32), "b": np.array([0.5, 0], np.float32)},
    )  # fmt: skip
    (folder / "labels.json").write_text(json.dumps(["no", "yes"]))
    return _seal(
        folder,
        "asker",
        "fusion",
        [_frontend(folder), text, fusion, head],
        {"logits": ClassesEntry("labels.json")},
        engines,
    )


def picture(folder: Path, name: str, colour: tuple[int, int, int], size: tuple[int, int] = (6, 5)) -> Path:
    """A one-coloured PNG."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.png"
    Image.new("RGB", size, colour).save(path)
    return path


def retrieval_samples(folder: Path) -> list[Sample]:
    """Five colours from two makers: two pictures and one text each. "white" and "dark" point the same way."""
    samples = []
    for maker, size in (("a", (6, 5)), ("b", (9, 7))):
        for word, colour in COLOURS.items():
            path = picture(folder, f"{maker}-{word}", colour, size)
            samples.append(Sample(f"{maker}/{word}", image=path, text=word, label=word, group=maker))
    return samples


def question_samples(folder: Path) -> list[Sample]:
    """Every pure colour asked about every pure colour, four pictures each: a third of the answers is yes."""
    samples = []
    for n in range(4):
        for shown in ("red", "green", "blue"):
            path = picture(folder, f"{shown}-{n}", COLOURS[shown], (4 + n, 5))
            for asked in ("red", "green", "blue"):
                answer = "yes" if asked == shown else "no"
                group = "open" if n % 2 else "closed"
                samples.append(
                    Sample(f"{shown}{n}?{asked}", image=path, text=f"is it {asked}", label=answer, group=group)
                )
    return samples

"""Fuzz: bundles of every family, changed anywhere and sealed again as an attacker would; each opens and answers, or is
refused with an EdgemmError.

    python tests/attacks/fuzz.py                        # until interrupted, on seeds that begin with the time
    python tests/attacks/fuzz.py --first 0 --count 1000

A seed is one mutant. Mutants run in processes of their own, since a bad graph can end one. What fails is written to
``fuzz-failures/SEED`` (``--keep``): the bundle and ``why.txt``. Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import bundles
import numpy as np
import onnx

from edgemm.runtime import Bundle
from edgemm.runtime.__main__ import main as run_verb
from edgemm.runtime.errors import EdgemmError
from edgemm.runtime.outputs import Embedding
from edgemm.runtime.readers import AudioInput, ImageInput, TensorInput, TextInput

Files = dict[str, bytes]
HANG_SECONDS = 60  # far more than a mutant takes: a busy machine isn't a hang
MEMORY_BYTES = 6 << 30
MANIFEST = "manifest.json"


# --- bundles that are changed ----------------------------------------------------------------------------------------


def _npy(*shape: int) -> bytes:
    held = io.BytesIO()
    np.save(held, np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))
    return held.getvalue()


def _wav() -> bytes:
    import soundfile

    held = io.BytesIO()
    soundfile.write(held, np.sin(np.arange(400) / 9).astype(np.float32), 16000, format="WAV")
    return held.getvalue()


def everything(folder: Path) -> None:
    """A bundle of all four kinds of input, with golden samples and a gallery."""
    rng = np.random.default_rng(0)
    bundles.write_bundle(
        folder,
        family="dual-encoder",
        parts={
            "image_frontend": ("frontend", "image", bundles.image_frontend()),
            "image": ("tower", "image", bundles.image_tower("image_embedding", rng, normalise=True)),
            "text": ("tower", "text", bundles.text_tower("text_embedding", rng, normalise=True)),
            "audio": ("tower", "audio", bundles.audio_tower("audio_embedding", rng)),
            "sensor": ("tower", "sensor", bundles.sensor_tower("sensor_embedding", rng)),
        },
        inputs={
            "image": ImageInput(),
            "text": TextInput("tokenizer.json", max_tokens=8),
            "audio": AudioInput(sample_rate=16000),
            "sensor": TensorInput("sensor"),
        },
        outputs={f"{m}_embedding": Embedding() for m in ("image", "text", "audio", "sensor")},
        golden=[{"image": bundles.png(1), "text": "a cat", "audio": _wav(), "sensor": _npy(6)}],  # type: ignore[list-item]
        gallery_of="image_embedding",
    )


BASES: dict[str, Callable[[Path], object]] = {
    "everything": everything,
    "dual_encoder": bundles.dual_encoder,
    "fusion_classifier": lambda folder: bundles.fusion_classifier(folder, placeholders=True),
    "embedder": bundles.embedder,
    "regression": bundles.regression,
    "sensor_classifier": bundles.sensor_classifier,
    "audio_and_sensor": bundles.audio_and_sensor,
}


def make_bases(root: Path) -> dict[str, Files]:
    """Every family's files, by path."""
    made: dict[str, Files] = {}
    for name, make in BASES.items():
        make(root / name)
        made[name] = {p.relative_to(root / name).as_posix(): p.read_bytes() for p in _files(root / name)}
    return made


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- mutants ---------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 255, 256, 257, 4096, 2**20, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1,
    2**63, -(2**63), 10**40, 0.0, -0.0, 0.5, 1.5, 1e-300, 1e300, 1e308, -1e308, "", " ", "x", "a" * 300, "a" * 100_000,
    "../x", "/etc/passwd", "a//b", "C:x", "manifest.json", "\x00", "\x1b[2J", "\u202e", "e\u0301", "\ufeff", "\ud800",
    "\U0001f600" * 9, "image", "text", "top", "self", "batch", "tokens", "logits", "float32", "float64", "int64",
    "onnxruntime", "openvino", "tensorrt", "frontend", "head", "int8", "multi-label", "regression", "(a+)+$", [], {},
    [None], ["a"], [[]], [1, 2, 3], [2**31, 2**31, 2**31], {"a": 1}, {"type": "NFC"}, {"Regex": "(a|a)*b"},
    {"String": ""}, {"kind": "tensor", "feeds": "t"},
]  # fmt: skip
LITERALS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-0",
    "01",
    "1" * 5000,
    "[" * 200,
    '{"a":1,"a":2}',
    "nul",
    "\x00",
    "'x'",
]


def mutant(seed: int, bases: dict[str, Files]) -> tuple[str, Files, bytes | None]:
    """The mutant of a seed: its family, its files, and its zip where it is one."""
    rng = random.Random(seed)
    family = rng.choice(list(bases))
    files = dict(bases[family])
    kinds = [
        _manifest_value,
        _manifest_value,
        _manifest_value,
        _manifest_text,
        _graph_bytes,
        _graph_parts,
        _graph_parts,
    ]
    kinds += [_graph_parts, _array, _json, _json, _bytes, _swap]
    for _ in range(1 if rng.random() < 0.7 else rng.randint(2, 4)):
        rng.choice(kinds)(rng, files)
    if rng.random() < 0.97:
        _seal(files)
    return family, files, _zip(rng, files) if rng.random() < 0.1 else None


def _seal(files: Files) -> None:
    """Make the manifest's table of files what they are, as far as it can still be read."""
    try:
        tree = json.loads(files[MANIFEST])
        tree["files"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in files.items()
            if name != MANIFEST
        }
        files[MANIFEST] = json.dumps(tree).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError):
        return


def _change_tree(rng: random.Random, tree: Any, times: int) -> Any:
    """Change values anywhere in a tree of JSON."""
    for _ in range(times):
        place = tree
        if not isinstance(place, dict | list) or not place:
            return rng.choice(VALUES)
        while True:
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.85:
                place = inner
                continue
            break
        action = rng.randrange(8)
        if action < 4:
            place[key] = rng.choice(VALUES)
        elif action == 4:
            del place[key]
        elif action == 5 and isinstance(place, list):
            place += [inner] * rng.choice([1, 2, 70])
        elif action == 5:
            place[str(rng.choice(VALUES))[:300]] = place.pop(key)
        elif action == 6 and isinstance(inner, int) and not isinstance(inner, bool):
            place[key] = inner + rng.choice([-1, 1, 2**31, -(2**31), 2**63])
        elif action == 6 and isinstance(inner, str):
            place[key] = rng.choice([inner.upper(), inner + " ", inner[:-1], inner * 50, inner[::-1]])
        else:
            deep: Any = inner
            for _ in range(rng.choice([3, 70, 400])):
                deep = [deep]
            place[key] = deep
    return tree


def _manifest_value(rng: random.Random, files: Files) -> None:
    with contextlib.suppress(ValueError, RecursionError):
        tree = _change_tree(rng, json.loads(files[MANIFEST]), rng.choice([1, 1, 2, 3]))
        files[MANIFEST] = json.dumps(tree).encode("utf-8", "surrogatepass")


def _manifest_text(rng: random.Random, files: Files) -> None:
    text = files[MANIFEST].decode("utf-8", "surrogatepass")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text))
        if (colon := text.find(":", at)) > 0 and rng.random() < 0.6:
            text = text[: colon + 1] + rng.choice(LITERALS) + text[colon + rng.randint(1, 9) :]
        else:
            text = text[:at] + text[at + rng.randint(1, 20) :]
    files[MANIFEST] = text.encode("utf-8", "surrogatepass") or b"x"


def _named(rng: random.Random, files: Files, *endings: str) -> str | None:
    names = [name for name in files if name.endswith(endings) and name != MANIFEST]
    return rng.choice(names) if names else None


def _flipped(rng: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        if not made:
            return b""
        at, action = rng.randrange(len(made)), rng.randrange(6)
        if action < 3:
            made[at] = rng.choice([0, 1, 2, 7, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif action == 3:
            made[at] ^= 1 << rng.randrange(8)
        elif action == 4:
            del made[at : at + rng.randint(1, 40)]
        else:
            made[at:at] = made[at : at + rng.randint(1, 40)] or b"\xff" * 9
    return bytes(made[: rng.randrange(len(made) + 1)] if rng.random() < 0.05 else made)


def _graph_bytes(rng: random.Random, files: Files) -> None:
    if name := _named(rng, files, ".onnx"):
        files[name] = _flipped(rng, files[name])


def _bytes(rng: random.Random, files: Files) -> None:
    if name := _named(rng, files, ""):
        files[name] = _flipped(rng, files[name])


OPERATORS = """
    Identity Cast Div Mod Add Mul Sub Pow Expand Tile Pad Reshape Concat Range ConstantOfShape Resize Gather Slice
    Loop If Scan MatMul Conv ConvTranspose MaxPool AveragePool LpPool DepthToSpace OneHot TopK CumSum Split
    RandomNormal Shape Softmax LayerNormalization Transpose Unsqueeze Squeeze NonZero Compress EyeLike Trilu Einsum
    LSTM GRU STFT DFT
    GridSample RoiAlign Unique ScatterND QuantizeLinear DequantizeLinear DynamicQuantizeLinear BitShift StringSplit
""".split()  # noqa: SIM905
ATTRIBUTES = """
    axis axes perm to group strides pads kernel_shape dilations blocksize keepdims num_outputs shape mode p start end
    output_shape ceil_mode hidden_size direction equation allowzero to k
""".split()  # noqa: SIM905
NUMBERS = [0, 1, -1, 2, 3, 7, 8, 16, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63)]


def _graph_parts(rng: random.Random, files: Files) -> None:
    """Change nodes, attributes, dims and weights of a graph that stays one."""
    name = _named(rng, files, ".onnx")
    if name is None:
        return
    try:
        model = onnx.load_from_string(files[name])
    except Exception:  # a mutant of a mutant
        return
    graph = model.graph
    for _ in range(rng.choice([1, 1, 2, 3])):
        if not graph.node:
            return
        node, action = rng.choice(graph.node), rng.randrange(10)
        values = [v for n in graph.node for v in (*n.input, *n.output) if v] + [w.name for w in graph.initializer]
        if action == 0:
            node.op_type = rng.choice(OPERATORS)
        elif action == 1 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice([*values, "", "nothing"])
        elif action == 2:
            held = onnx.helper.make_attribute(
                rng.choice(ATTRIBUTES),
                rng.choice(
                    [rng.choice(NUMBERS), [rng.choice(NUMBERS) for _ in range(rng.randint(1, 4))], 1e30, "linear"]
                ),
            )
            node.attribute.append(held)
        elif action == 3 and node.attribute:
            attribute = rng.choice(node.attribute)
            attribute.i = rng.choice(NUMBERS)
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
        elif action == 4 and graph.initializer:
            weight = rng.choice(graph.initializer)
            if weight.dims:
                weight.dims[rng.randrange(len(weight.dims))] = rng.choice(NUMBERS)
        elif action == 5 and graph.initializer:
            weight = rng.choice(graph.initializer)
            array = np.array(rng.choice([rng.choice(NUMBERS), [rng.choice(NUMBERS)] * rng.randint(1, 4)]), np.int64)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        elif action == 6 and graph.initializer:
            rng.choice(graph.initializer).data_type = rng.randrange(0, 28)
        elif action == 7:
            made = f"extra{rng.randrange(1000)}"
            inputs = [rng.choice(values) for _ in range(rng.randint(1, 3))]
            graph.node.append(onnx.helper.make_node(rng.choice(OPERATORS), inputs, [made]))
            target = rng.choice(graph.node)
            if target.input:
                target.input[rng.randrange(len(target.input))] = made
        elif action == 8:
            node.domain = rng.choice(["com.microsoft", "ai.onnx.ml", "local", "ai.onnx"])
        elif action == 9 and graph.output:
            spec = rng.choice([*graph.output, *graph.input]).type.tensor_type
            spec.elem_type = rng.randrange(0, 17)
            if spec.shape.dim:
                spec.shape.dim[rng.randrange(len(spec.shape.dim))].dim_value = rng.choice(NUMBERS)
    with contextlib.suppress(ValueError):
        files[name] = model.SerializeToString()


def _array(rng: random.Random, files: Files) -> None:
    name = _named(rng, files, ".npy", ".npz")
    if name is None:
        return
    shape = rng.choice([(), (0,), (1,), (1, 16), (3, 16), (2, 16), (1, 4), (1, 16, 1), (1, 0)])
    dtype = rng.choice(["f4", "f2", "f8", "i8", "i1", "?", "U3", "V3", "c8"])
    array = np.full(shape, rng.choice([0, 1, -1, 100])).astype(dtype)
    if array.dtype.kind == "f" and rng.random() < 0.3:
        array[...] = rng.choice([np.nan, np.inf, 1e4])
    held = io.BytesIO()
    if name.endswith(".npy"):
        np.save(held, array)
    else:
        with contextlib.suppress(Exception):
            old = dict(np.load(io.BytesIO(files[name])))
            key = rng.choice(list(old))
            np.savez(held, **{**old, rng.choice([key, key, "other"]): array})
    files[name] = held.getvalue()


def _json(rng: random.Random, files: Files) -> None:
    name = _named(rng, files, ".json")
    if name is None:
        return
    with contextlib.suppress(ValueError, RecursionError):
        tree = json.loads(files[name])
        if isinstance(tree, dict) and rng.random() < 0.4:
            part = rng.choice(["normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"])
            tree[part] = rng.choice(COMPONENTS)
        files[name] = json.dumps(_change_tree(rng, tree, rng.choice([1, 1, 2]))).encode("utf-8", "surrogatepass")


COMPONENTS: list[Any] = [
    {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"},
    {"type": "Replace", "pattern": {"Regex": " *"}, "content": "b"},
    {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhAA=="},
    {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "Strip", "strip_left": True, "strip_right": True}]},
    {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": True}]},
    {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Removed", "invert": False},
    {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "FixedLength", "length": 3},
    {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0},
]  # fmt: skip


def _swap(rng: random.Random, files: Files) -> None:
    one, other = _named(rng, files, ""), _named(rng, files, "")
    if one and other:
        files[one], files[other] = files[other], rng.choice([files[one], b"", files[other]])


def _zip(rng: random.Random, files: Files) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data, rng.choice([0, 8]))
    data = held.getvalue()
    if rng.random() < 0.7:
        directory = data.rindex(b"PK\x01\x02") - 600
        return data[:directory] + _flipped(rng, data[directory:]) if rng.random() < 0.7 else _flipped(rng, data)
    return data


# --- running them ----------------------------------------------------------------------------------------------------


def write(folder: Path, files: Files, packed: bytes | None) -> Path:
    """The mutant on disk; returns its folder or zip."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if packed is not None:
        (folder / "bundle.zip").write_bytes(packed)
        return folder / "bundle.zip"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def use(path: Path, seed: int) -> None:
    """All that an application does with a bundle. Raises what is no EdgemmError."""
    target = "openvino" if seed % 100 == 0 else None
    bundle = None
    steps: list[Callable[[], object]] = [
        lambda: run_verb(["inspect", str(path)]),
        lambda: run_verb(["inspect", str(path), "--json"]),
    ]
    try:
        bundle = Bundle.open(path, target=target)
        given = {name: _sample(bundle, name) for name in bundle.manifest.inputs}
        steps += [bundle.verify, lambda: _matches(bundle, given)]
        steps += [lambda m=m: _matches(bundle, {m: given[m]}) for m in list(given)[:2] if len(given) > 1]  # type: ignore[misc]
    except EdgemmError as error:
        _one_line(error)
    for step in steps:
        try:
            step()
        except EdgemmError as error:
            _one_line(error)


def _sample(bundle: Bundle, modality: str) -> Any:
    kind = bundle.manifest.inputs[modality]
    if isinstance(kind, ImageInput):
        return np.arange(12 * 10 * 3, dtype=np.uint8).reshape(10, 12, 3)
    if isinstance(kind, TextInput):
        return "a cat " * 10
    return np.full(300, 0.25, np.float32) if isinstance(kind, AudioInput) else np.full(6, 0.5, np.float32)


def _matches(bundle: Bundle, given: dict[str, Any]) -> object:
    return bundle.predict(**given).matches


def _one_line(error: EdgemmError) -> None:
    if "\n" in str(error) or not str(error):
        raise AssertionError(f"not one line: {str(error)!r}")


def work(first: int, count: int, step: int) -> None:
    """Run seeds in this process; a line before each, and one with the traceback after one that fails."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    say = os.fdopen(os.dup(1), "w", buffering=1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what verbs and engines print
    os.dup2(null, 2)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        bases = make_bases(Path(root) / "bases")
        for seed in range(first, first + count * step, step):
            say.write(f"{seed}\n")
            try:
                _, files, packed = mutant(seed, bases)
                try:
                    path = write(Path(root) / "mutant", files, packed)
                except (OSError, ValueError):  # a name that this file system has not
                    continue
                use(path, seed)
            except BaseException:
                say.write(f"{seed} {json.dumps(traceback.format_exc())}\n")
        say.write("done\n")


class Worker:
    """A process that works on every ``step``-th seed, and is started again behind one that ends it."""

    def __init__(self, first: int, count: int, step: int) -> None:
        self.first, self.count, self.step = first, count, step
        self.done = self.count == 0
        self.seed = first
        self._start()

    def _start(self) -> None:
        if self.done:
            return
        arguments = ["--work", str(self.first), str(self.count), str(self.step)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert self.process.stdout is not None
        self.pipe = self.process.stdout
        self.heard = time.monotonic() + 60  # imports and bases
        self._left = b""
        self.seed = self.first - self.step

    def listen(self) -> list[tuple[int, str]]:
        """What failed since the last call."""
        failed: list[tuple[int, str]] = []
        ready, _, _ = select.select([self.pipe], [], [], 0.2)
        data = os.read(self.pipe.fileno(), 1 << 16) if ready else None
        if data:
            self.heard = time.monotonic()
            *lines, self._left = (self._left + data).split(b"\n")
            for line in lines:
                number, _, why = line.decode().partition(" ")
                if number == "done":
                    self.done = True
                elif why:
                    failed.append((int(number), json.loads(why)))
                else:
                    self.seed = int(number)
        hangs = time.monotonic() - self.heard > HANG_SECONDS
        if not self.done and (data == b"" or hangs):
            self.process.kill()
            code = self.process.wait()
            why = f"hangs: more than {HANG_SECONDS} s" if hangs else f"the process ends with code {code}"
            if self.seed < self.first:
                raise RuntimeError(f"the worker does not start: {why}")
            failed.append((self.seed, why))
            self.count -= (self.seed - self.first) // self.step + 1
            self.first = self.seed + self.step
            self.done = self.count <= 0
            self.pipe.close()
            self._start()
        elif self.done:
            self.process.wait()
            self.pipe.close()
        return failed


def fuzz(first: int, count: int, *, workers: int = 1, keep: Path | None = None, report: bool = False) -> dict[int, str]:
    """Run the mutants of ``count`` seeds from ``first`` on; returns those that failed and why."""
    pool = [Worker(first + i, (count - i + workers - 1) // workers, workers) for i in range(workers)]
    failed: dict[int, str] = {}
    while left := [worker for worker in pool if not worker.done]:
        for worker in left:
            for seed, why in worker.listen():
                failed[seed] = why
                if report:
                    print(f"seed {seed}: {why.strip().splitlines()[-1]}", flush=True)
                if keep is not None:
                    _keep(seed, why, keep)
    return failed


def _keep(seed: int, why: str, place: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        family, files, packed = mutant(seed, make_bases(Path(root)))
    with contextlib.suppress(OSError, ValueError):
        write(place / str(seed) / "bundle", files, packed)
    (place / str(seed)).mkdir(parents=True, exist_ok=True)
    (place / str(seed) / "why.txt").write_text(f"seed {seed}, of {family}\n{why}\n")


def main() -> int:
    """Run until interrupted, or ``--count`` mutants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--first", type=int, help="the first seed (default: the time)")
    parser.add_argument("--count", type=int, help="how many seeds (default: until interrupted)")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where to keep what fails")
    parser.add_argument("--work", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return 0
    seed = options.first if options.first is not None else int(time.time()) * 1000
    count, failures = 0, 0
    began = time.monotonic()
    try:
        while options.count is None or count < options.count:
            piece = min(2000, (options.count or 2000) - (count if options.count else 0))
            failures += len(fuzz(seed + count, piece, workers=options.workers, keep=options.keep, report=True))
            count += piece
            print(f"{count} mutants from seed {seed}: {failures} failed, {time.monotonic() - began:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

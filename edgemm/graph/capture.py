"""Capture: each part of a model becomes one ONNX graph, and is held against the part it came from before it is kept.

The gate is the point: an export that differs, or that froze a dimension it should have kept open, is an error here,
not a surprise on the device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgemm.graph.files import publish, write_graph, write_manifest
from edgemm.graph.onnx_functions import kept_functions
from edgemm.graph.parity import OnnxGraph, largest_difference, nonfinite, unlike
from edgemm.graph.passes import clean_
from edgemm.models.model import Model, Part, raw_values
from edgemm.runtime.disk import write_array
from edgemm.runtime.engines import PORTABLE
from edgemm.runtime.errors import CaptureError
from edgemm.runtime.fields import one_line
from edgemm.runtime.manifest import ClassesEntry, Manifest, OutputEntry, PartEntry, TargetEntry
from edgemm.runtime.outputs import Classes, answers_in
from edgemm.runtime.quiet import Quiet
from edgemm.runtime.readers import TextInput
from edgemm.runtime.signature import Signature, TensorSpec
from edgemm.stage import Context

OPSET = 21
"""LayerNormalization is one operator from 17 and Gelu from 20 on; 21 types Q/DQ as every engine here reads it."""

MAX_ABS_ERROR = 1e-4
"""Default bound of the gate, relative to the output's largest magnitude: about 1000 ulp of float32."""


def capture_part(
    part: Part,
    sample: Mapping[str, Tensor],
    *,
    max_abs_error: float = MAX_ABS_ERROR,
    further: Sequence[Mapping[str, Tensor]] = (),
) -> ir.Model:
    """Export one part to ONNX, clean the graph, and hold it against the part.

    Args:
        part: its module is put into eval mode and not changed otherwise.
        sample: real values of the part's inputs (others are ignored), batch first.
        max_abs_error: largest difference that passes, relative to ``max(|output|)``.
        further: more real values to compare on.

    Returns:
        The graph: inputs and outputs named and shaped as the signature, opset 21.

    Raises:
        CaptureError: an operator without an ONNX form, a dimension that was frozen, or outputs that differ.
    """
    signature = part.signature
    values = {spec.name: _value(part, sample, spec) for spec in signature.inputs}
    _check_values(part, values)
    _check_weights(part)
    training = part.module.training
    part.module.eval()
    try:
        with torch.no_grad():
            model = _export(part, _at_sizes(signature, values, _export_sizes(signature)))
            clean_(model)
            _name_ports(part, model)
            _gate(
                part,
                model,
                [values, *({n: _value(part, s, _spec(signature, n)) for n in values} for s in further)],
                max_abs_error,
            )
    finally:
        part.module.train(training)
    return model


def capture_model(
    model: Model,
    samples: Sequence[Mapping[str, Tensor | np.ndarray]],
    out: Path,
    *,
    name: str,
    context: Context,
    max_abs_error: float = MAX_ABS_ERROR,
) -> None:
    """Capture every part and write a bundle folder with one target, ``cpu-float32``.

    Args:
        model: its modules are put into eval mode meanwhile.
        samples: dicts of raw values (``image``, ``input_ids``, …), batch first; a dict may lack a modality.
        out: folder to write; must not exist or be empty.
        name: the bundle's name.
        context: where to report.
        max_abs_error: see ``capture_part``.

    Raises:
        CaptureError: a sample that doesn't fit, a part that can't be captured, or that no sample reaches.
    """
    if not samples:
        raise CaptureError(f"capture of '{name}': no samples; the gate needs at least one real sample")
    reached: dict[str, list[Mapping[str, Tensor]]] = {part.name: [] for part in model.chain}
    raw = set(raw_values(model.inputs))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for index, sample in enumerate(samples):
            values = _tensors({name: value for name, value in sample.items() if name in raw}, index)
            for part, feeds, _ in model.trace(values, partial(_run, index=index)):
                reached[part.name].append(feeds)
    model.train(was_training)

    entries: list[PartEntry] = []
    files: dict[str, str] = {}
    with publish(out) as folder, context.progress.task("capture", total=len(model.chain)) as task:
        for part in model.chain:
            usable = reached[part.name]
            if not usable:
                raise CaptureError(
                    f"part '{part.name}': no sample has {list(part.signature.input_names)}; "
                    "give samples of that modality"
                )
            graph = capture_part(part, usable[0], further=usable[1:], max_abs_error=max_abs_error)
            files[part.name] = f"graphs/float32/{part.name}.onnx"
            write_graph(graph, folder / files[part.name])
            parameters = sum(p.numel() for p in part.module.parameters())
            entries.append(PartEntry(part.name, part.role, part.modality, part.signature, parameters))
            task.advance(note=part.name)
        inputs = dict(model.inputs)
        if model.tokenizer_json is not None:
            (folder / "tokenizer.json").write_text(model.tokenizer_json, encoding="utf-8")
            inputs = {
                k: replace(v, tokenizer="tokenizer.json") if isinstance(v, TextInput) else v for k, v in inputs.items()
            }
        outputs = {name: _write_output(folder, model, name) for name in model.outputs}
        placeholders = {value: f"placeholders/{value}.npy" for value in sorted(model.placeholders)}
        for value, path in placeholders.items():
            (folder / path).parent.mkdir(exist_ok=True)
            write_array(folder / path, model.placeholders[value].detach().numpy())
        write_manifest(
            folder,
            Manifest(
                name=name,
                family=model.family,
                parts=tuple(entries),
                inputs=inputs,
                outputs=outputs,
                targets=(TargetEntry("cpu-float32", PORTABLE, "float32", files),),
                placeholders=placeholders,
            ),
        )


def _write_output(folder: Path, model: Model, name: str) -> OutputEntry:
    """Return what a bundle says of one output; the names of its classes are written beside."""
    output = model.outputs[name]
    if not isinstance(output, Classes):
        return output
    if not output.labels:
        return ClassesEntry(None, output.independent)
    several = len(answers_in(model.outputs)) > 1
    path = f"labels/{name}.json" if several else "labels.json"
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text(json.dumps(list(output.labels), ensure_ascii=False, indent=0), encoding="utf-8")
    return ClassesEntry(path, output.independent)


# --- export ----------------------------------------------------------------------------------------------------------


def _export(part: Part, values: Mapping[str, Tensor]) -> ir.Model:
    signature = part.signature
    dims = {name: torch.export.Dim(name, min=r.min, max=r.max) for name, r in signature.dims.items() if r.min < r.max}
    # torch.export keys dynamic shapes by the module's argument names unless given in order
    shapes = tuple(
        {axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in dims}
        for spec in signature.inputs
    )
    wrapped = _Positional(part.module, len(signature.inputs))
    try:
        with _QUIET, kept_functions(OPSET):
            program = torch.export.export(wrapped, tuple(values.values()), dynamic_shapes=(shapes,), strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(signature.input_names),
                output_names=list(signature.output_names),
                verbose=False,
                optimize=True,
            )
    except Exception as error:
        raise CaptureError(_reason(part, error)) from error
    assert exported is not None
    return exported.model


class _Positional(nn.Module):
    """Takes any number of tensors, so that one tuple of dynamic shapes fits every module."""

    def __init__(self, module: nn.Module, inputs: int) -> None:
        super().__init__()
        self.module = module
        self.inputs = inputs

    def forward(self, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        result: Tensor | tuple[Tensor, ...] = self.module(*values)
        return result


def _reason(part: Part, error: BaseException) -> str:
    """Return one line out of torch's report: which operator, or which dimension, and what to do."""
    chain: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        chain.append(f"{type(seen).__name__}: {seen}")
        seen = seen.__cause__ or seen.__context__
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(chain))
    head = f"part '{part.name}' ({part.kind})"
    if match := re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text) or re.search(
        r"No decompositions? registered for[^']*'?([\w.:]+)", text
    ):
        return f"{head}: operator '{match[1]}' has no ONNX form in opset {OPSET}; write it with operators that have one"
    if "ConstraintViolation" in text or "specialized" in text or "Not all values of" in text:
        named = [d for d in part.signature.dims if re.search(rf"\b{re.escape(d)}\b", text)] or list(part.signature.dims)
        return (
            f"{head}: dimension {', '.join(repr(d) for d in named)} is declared dynamic but the module fixes it; "
            "compute with x.shape instead of numbers, or give the signature a fixed size"
        )
    if "data-dependent" in text or "DataDependent" in text or "GuardOnData" in text:
        return (
            f"{head}: control flow depends on tensor values, which a graph can't hold; use torch.where or fixed steps"
        )
    last = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{head}: torch.export failed: {last[:200]}; run torch.export.export on the module to see where"


# torch's exporter: what it says is about its own internals; from within its context managers as if contextlib said it
_QUIET = Quiet(
    r"torch|onnxscript|onnx_ir|onnx\b|copyreg|contextlib|transformers|edgemm\.",
    loggers=("torch.onnx", "torch._dynamo", "torch.export", "torch.utils._pytree", "onnxscript"),
)


# --- values ----------------------------------------------------------------------------------------------------------


def _spec(signature: Signature, name: str) -> TensorSpec:
    return next(s for s in signature.inputs if s.name == name)


def _value(part: Part, sample: Mapping[str, Tensor], spec: TensorSpec) -> Tensor:
    if spec.name not in sample:
        raise CaptureError(f"part '{part.name}': the sample has no '{spec.name}'; it has {sorted(sample)}")
    return torch.as_tensor(sample[spec.name]).detach().cpu()


def _tensors(sample: Mapping[str, Tensor | np.ndarray], index: int) -> dict[str, Tensor]:
    known: dict[str, Tensor] = {}
    for name, value in sample.items():
        try:
            known[name] = torch.as_tensor(value)
        except TypeError as error:
            raise CaptureError(f"sample {index}: '{name}' is an array of {value.dtype}, not of numbers") from error
    return known


def _run(part: Part, values: Mapping[str, Tensor], *, index: int) -> dict[str, Tensor]:
    """Return what a part makes of a sample's values, which are checked before."""
    try:
        _check_values(part, values)
        return part.run(values)
    except CaptureError as error:
        raise CaptureError(f"sample {index}: {error}") from error
    except Exception as error:  # a module may raise anything; an id or a size out of its range most often
        given = ", ".join(
            f"{name} {list(v.shape)} of {v.min().item():.6g}..{v.max().item():.6g}" for name, v in values.items()
        )
        takes = ", ".join(f"{name} {r.min}..{r.max}" for name, r in part.signature.dims.items())
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise CaptureError(
            f"sample {index}: part '{part.name}' can't run on {given} ({reason}); it takes {takes}"
        ) from error


def _check_values(part: Part, values: Mapping[str, Tensor]) -> None:
    for spec in part.signature.inputs:
        value = values[spec.name]
        dtype = str(value.dtype).removeprefix("torch.")
        fits = len(value.shape) == len(spec.shape) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(spec.shape, value.shape, strict=True)
        )
        if dtype != spec.dtype or not fits:
            raise CaptureError(
                f"part '{part.name}': '{spec.name}' is {dtype} {list(value.shape)}, "
                f"expected {spec.dtype} {list(spec.shape)}"
            )
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and dim not in part.signature.dims:
                raise CaptureError(
                    f"part '{part.name}': '{spec.name}' names dimension '{dim}' (axis {axis}) without a range; "
                    "add it to the signature's dims"
                )


def _check_weights(part: Part) -> None:
    """Refuse a weight that is not a number: it answers nan wherever it is reached, on the samples here or later."""
    for name, weight in (*part.module.named_parameters(), *part.module.named_buffers()):
        if weight.is_floating_point() and bool((bad := weight.detach().isnan()).any()):
            raise CaptureError(
                f"part '{part.name}': the weight '{name}' holds nan ({int(bad.sum())} of {weight.numel()} numbers), so "
                f"its outputs do ({', '.join(part.signature.output_names)}); take a checkpoint from before the "
                "training diverged"
            )


def _origin_of_nonfinite(part: Part, values: Mapping[str, Tensor]) -> str:
    """Return name the weight or the first module inside a part whose output is not finite though its inputs are."""
    for name, weight in part.module.named_parameters():
        if weight.is_floating_point() and not bool(weight.detach().isfinite().all()):
            return f"the weight '{name}' holds infinity"
    found: list[str] = []

    def finite(tensors: object) -> bool:
        listed = tensors if isinstance(tensors, tuple | list) else [tensors]
        return all(bool(t.isfinite().all()) for t in listed if isinstance(t, Tensor) and t.is_floating_point())

    def look(name: str, kind: str) -> Callable[..., None]:
        def hook(_module: nn.Module, given: object, made: object) -> None:
            if not finite(made) and finite(given):
                found.append(f"'{name}' ({kind}) is the first module that makes it")

        return hook

    hooks = [
        module.register_forward_hook(look(name, type(module).__name__))
        for name, module in part.module.named_modules()
        if name and not any(module.children())
    ]
    try:
        part.module(*values.values())
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else "no module inside the part brings it: the part's own arithmetic does"


def _export_sizes(signature: Signature) -> dict[str, int]:
    """Sizes to export at: torch.export freezes 0 and 1, and equal sizes of two dims look like one."""
    sizes: dict[str, int] = {}
    for name, r in signature.dims.items():
        size = r.min if r.min == r.max else max(2, r.min, min(r.opt, 64))
        while r.min < r.max and size in sizes.values() and size < r.max:
            size += 1
        sizes[name] = min(size, r.max)
    return sizes


def _at_sizes(signature: Signature, values: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the real values repeated or cut along each named dimension: any size, still real ids and pixels."""
    result = {}
    for spec in signature.inputs:
        value = values[spec.name]
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and dim in sizes:
                value = value.index_select(axis, torch.arange(sizes[dim]) % value.shape[axis])
        result[spec.name] = value
    return result


# --- gate ------------------------------------------------------------------------------------------------------------


def _name_ports(part: Part, model: ir.Model) -> None:
    """Write the signature's names and shapes on the graph; anything else there is a part that lies about itself."""
    signature = part.signature
    for given, specs, what in (
        (model.graph.inputs, signature.inputs, "inputs"),
        (model.graph.outputs, signature.outputs, "outputs"),
    ):
        if len(given) != len(specs):
            raise CaptureError(f"part '{part.name}': its module has {len(given)} {what}, its signature {len(specs)}")
        for value, spec in zip(given, specs, strict=True):
            dtype = value.dtype.numpy().name if value.dtype is not None else spec.dtype
            if dtype != spec.dtype or (value.shape is not None and len(value.shape) != len(spec.shape)):
                raise CaptureError(
                    f"part '{part.name}': '{spec.name}' is {dtype} {value.shape}, "
                    f"its signature says {spec.dtype} {list(spec.shape)}"
                )
            value.name = spec.name
            value.shape = ir.Shape(spec.shape)


def _gate(part: Part, model: ir.Model, samples: Sequence[Mapping[str, Tensor]], allowed: float) -> None:
    graph = OnnxGraph(model)
    for sample in samples:
        _compare(part, graph, sample, allowed, where="real samples")
    for sizes in _edge_sizes(part.signature):
        where = "at " + ", ".join(f"{n} = {s}" for n, s in sizes.items())
        _compare(part, graph, _at_sizes(part.signature, samples[0], sizes), allowed, where=where)


def _edge_sizes(signature: Signature) -> Iterator[dict[str, int]]:
    """Yield every named dimension at min, opt and max, the others at their smallest (all at max needs gigabytes)."""
    smallest = {name: r.min for name, r in signature.dims.items()}
    done: list[dict[str, int]] = []
    for name, r in signature.dims.items():
        for size in (r.min, r.opt, r.max):
            sizes = {**smallest, name: size}
            if sizes not in done:
                done.append(sizes)
                yield sizes


def _compare(part: Part, graph: OnnxGraph, values: Mapping[str, Tensor], allowed: float, *, where: str) -> None:
    if part.role == "frontend" and part.modality == "image":
        # A resize knows where it reads to some ulp of float32 along an image's side, whoever computes it. In noise of
        # 4096 x 16 made 57344 x 224, torch is off by 0.07 of 255 at the centre, ONNX Runtime by 0.03, from float64.
        allowed = max(allowed, max(next(iter(values.values())).shape[1:3]) * 2**-22)
    made = part.module(*values.values())
    expected = [t.numpy() for t in (made if isinstance(made, tuple) else (made,))]
    try:
        got = graph.run({k: v.numpy() for k, v in values.items()})
    except Exception as error:
        line = one_line(error)[:160]
        raise CaptureError(
            f"part '{part.name}': the exported graph does not run {where} ({line}); a dimension was frozen in the "
            "module: compute with x.shape, or narrow the signature's range"
        ) from error
    for spec, want in zip(part.signature.outputs, expected, strict=True):
        have = got[spec.name]
        if have.shape != want.shape:
            raise CaptureError(
                f"part '{part.name}': '{spec.name}' has shape {list(have.shape)} {where}, the module gives "
                f"{list(want.shape)}; a dimension was frozen in the module: compute with x.shape"
            )
        if (kind := nonfinite(want)) is not None:
            raise CaptureError(
                f"part '{part.name}': '{spec.name}' holds {kind} on {where}; {_origin_of_nonfinite(part, values)}"
            )
        if (why := unlike(have, want)) is not None:
            raise CaptureError(f"part '{part.name}': '{spec.name}' of the exported graph {why}, on {where}")
        difference = largest_difference(have, want)
        if not difference <= allowed:
            raise CaptureError(
                f"part '{part.name}': '{spec.name}' differs from the module by {difference:.2e} of its range "
                f"on {where}, allowed {allowed:.0e}; find the operator by capturing pieces, "
                "or raise capture.max_abs_error"
            )

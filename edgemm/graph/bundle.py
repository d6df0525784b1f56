"""Bundle: a float32 bundle folder becomes one whose graphs are typed and quantized for the targets it will ship to.

Every part is calibrated on the values that really reach it: the float32 chain is run part by part on raw values,
paired over modalities as they were given, and what each part reads is spooled to disk, so memory holds one sample.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgemm.graph.calibrate import as_typed
from edgemm.graph.census import arithmetic_of
from edgemm.graph.files import publish, read_graph, write_graph, write_manifest
from edgemm.graph.likeness import Likeness, likeness
from edgemm.graph.parity import OnnxGraph
from edgemm.graph.quantize import DEFAULT, NothingToQuantize, Quantization, layer_names, quantize_onnx
from edgemm.graph.race import latency_ratio
from edgemm.graph.recurrent import dynamic_lstms
from edgemm.graph.regions import result_convolutions
from edgemm.graph.storage import compress_weights
from edgemm.runtime.archive import Archive, open_archive
from edgemm.runtime.arithmetic import Arithmetic, float_lines, precision_label
from edgemm.runtime.chain import trace
from edgemm.runtime.disk import write_arrays
from edgemm.runtime.engines import ENGINES, PORTABLE, compiles
from edgemm.runtime.environment import int8_support
from edgemm.runtime.errors import QuantizeError
from edgemm.runtime.fields import one_line
from edgemm.runtime.manifest import PartEntry, TargetEntry
from edgemm.runtime.onnx_wire import require_whole_graph
from edgemm.runtime.timing import Ratio
from edgemm.stage import Context

Values = Mapping[str, np.ndarray]


def quantize_bundle(
    folder: Path,
    raw_values: Iterable[Values],
    out: Path,
    *,
    targets: Sequence[TargetEntry],
    context: Context,
    config: Quantization = DEFAULT,
    rollback: bool = False,
    samples: int = 0,
    compare: bool = False,
) -> list[Likeness]:
    """Write a bundle folder with the graphs that ``targets`` need.

    Args:
        folder: a bundle folder with float32 graphs in its first target.
        raw_values: real samples as dicts of raw values (``image``, ``input_ids``, …), batch first. A sample may lack
            a modality; parts are calibrated on the samples that reach them.
        out: folder to write.
        targets: name, engine, precision and threads of each; their ``files`` are filled in here. Targets with the
            same kind of graph share its file. TensorRT targets get graphs, ``build_bundle`` compiles them.
        config: how to quantize; its engine is replaced by each target's.
        context: ``scratch`` takes the spooled values.
        rollback: measure each int8 part against its float32 form on this machine, on each CPU target's engine and
            threads (paired, interleaved, in a fresh process) and, for the targets where int8 is slower, keep float32
            arithmetic with int8 storage. Makes the result depend on the machine.
        samples: how many ``raw_values`` there are, for progress, where they are a stream without a length.
        compare: run and time every int8 part against its float32 form, on the engine of its target.

    Golden samples are kept; what the source's targets answered to them, and what was measured of their bytes, is not
    (see ``add_golden_outputs``).

    Returns:
        What became of each int8 part of each target, where ``compare`` asks for it; plans are compared as the graphs
        that they are built from, on onnxruntime.

    Raises:
        QuantizeError: a part that no sample reaches, or that can't be quantized; a layer to keep that no part has.
    """
    archive = open_archive(folder)
    manifest = archive.manifest
    source = manifest.targets[0]
    of_source = {path for target in manifest.targets for path in target.files.values()}  # graphs and what they answered
    of_source |= {golden.file for golden in manifest.golden_outputs.values()} | {str(manifest.measurements)}
    if source.precision != "float32":
        raise QuantizeError(
            f"{folder}: its first target '{source.name}' is {source.precision}; expected a float32 bundle"
        )
    graphs = {part.name: _read_graph(archive, source.files[part.name]) for part in manifest.parts}
    _check_keep_float(config, [graphs[part.name] for part in manifest.parts if part.role != "frontend"])
    spool = context.scratch / "calibration"
    notes: dict[str, dict[str, object]] = {}
    made: dict[tuple[str, str], str] = {}  # (target, part) -> path
    rolled_back: dict[tuple[str, str], str] = {}  # (target, part) -> why
    said: set[str] = set()
    compared: list[Likeness] = []
    arithmetic: dict[str, dict[str, Arithmetic]] = {}  # target -> part -> what its file is computed in
    kinds = {(t.name, part.name): graph_kind(t, graphs[part.name]) for t in targets for part in manifest.parts}
    work = [
        (kind, part) for part in manifest.parts for kind in dict.fromkeys(kinds[t.name, part.name] for t in targets)
    ]
    try:
        counts: dict[str, int] = {}
        if any(kind != "float32" for kind, _ in work):
            counts = _spool_values(manifest.parts, graphs, raw_values, spool, context, total=samples)
        with publish(out) as partial, context.progress.task("quantize", total=len(work)) as task:
            for name in manifest.files:
                if not name.startswith("graphs/") and name not in of_source:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).write_bytes(archive.read(name))
            for kind, part in work:
                graph, kept = graphs[part.name], "float32"
                note: dict[str, object] = {}
                if kind != "float32" and part.role != "frontend":
                    if not counts[part.name]:
                        raise QuantizeError(
                            f"part '{part.name}': no calibration sample has {list(part.signature.input_names)}; "
                            "give samples of that modality"
                        )
                    engine = next(t.engine for t in targets if kinds[t.name, part.name] == kind)
                    graph, kept, note = _convert(kind, part, graph, spool, replace(config, engine=engine), context)
                    note["calibration_samples"] = counts[part.name]
                forms = {t.name: (kept, graph) for t in targets if kinds[t.name, part.name] == kind}
                if rollback and kept.startswith("int8") and kept != "int8-symmetric":
                    slower = _slower(
                        part, graph, graphs[part.name], [t for t in targets if t.name in forms], spool, context
                    )
                    if slower:
                        stored = "float32-stored-int8", compress_weights(graphs[part.name])
                        forms |= dict.fromkeys(slower, stored)
                        note["rolled_back"] = list(slower)
                        rolled_back |= {(target, part.name): why for target, why in slower.items()}
                for target, (form, model) in forms.items():
                    path = f"graphs/{form}/{part.name}.onnx"
                    if not (partial / path).exists():
                        write_graph(model, partial / path)
                    made[target, part.name] = path
                    if kind.startswith("int8") and part.role != "frontend":
                        known = arithmetic_of(
                            read_graph(partial / path),
                            next(_spooled(spool, part)),
                            float32_bytes=manifest.files[source.files[part.name]].bytes,
                            keep_float=config.keep_float,
                            rolled_back=rolled_back.get((target, part.name)),
                        )
                        arithmetic.setdefault(target, {})[part.name] = known
                        if compare:
                            entry = next(t for t in targets if t.name == target)
                            compared.append(
                                likeness(
                                    part.name,
                                    archive.read(source.files[part.name]),
                                    (partial / path).read_bytes(),
                                    _spooled(spool, part),
                                    engine=PORTABLE if compiles(entry.engine) else entry.engine,
                                    threads=entry.threads,
                                    arithmetic=known,
                                    classes=[n for n, o in manifest.outputs.items() if o.kind == "classes"],
                                )
                            )
                        label = precision_label("int8", [known])
                        if label != "int8" and not compare and not known.rolled_back and path not in said:
                            said.add(path)  # what is rolled back has been said
                            reasons = "; ".join(float_lines(known)[:2])
                            context.progress.say(f"target '{target}', part '{part.name}': {label}; {reasons}")
                if note:
                    notes[f"{kind}/{part.name}"] = note
                task.advance(note=f"{part.name} {kind}")
            entries = tuple(
                _as_it_became(
                    replace(
                        t,
                        files={p.name: made[t.name, p.name] for p in manifest.parts},
                        arithmetic=arithmetic.get(t.name, {}),
                    )
                )
                for t in targets
            )
            write_manifest(
                partial,
                replace(
                    manifest,
                    targets=entries,
                    golden_outputs={},
                    measurements=None,
                    provenance={**manifest.provenance, "quantization": {"method": config.method, "parts": notes}},
                ),
            )
    finally:
        shutil.rmtree(spool, ignore_errors=True)
    return compared


def _as_it_became(target: TargetEntry) -> TargetEntry:
    """Return an int8 target of which nothing is computed in int8 is a float32 one, and says so."""
    parts = target.arithmetic.values()
    return replace(target, precision="float32") if parts and not any(part.int8_macs for part in parts) else target


def graph_kind(target: TargetEntry, graph: ir.Model) -> str:
    """Return the folder of a target's graph of a part: its precision, and for int8 how it is written."""
    if target.precision != "int8":
        return target.precision
    scheme = ENGINES[target.engine].scheme
    if scheme.dynamic_lstm and dynamic_lstms(graph.graph):
        return "int8-lstm"
    if scheme.symmetric:
        return "int8-symmetric"
    return "int8-float-results" if scheme.float_results and result_convolutions(graph.graph) else "int8"


def _check_keep_float(config: Quantization, graphs: Iterable[ir.Model]) -> None:
    if not config.keep_float:
        return
    known = sorted(set[str]().union(*(layer_names(graph) for graph in graphs)))
    for name in sorted(config.keep_float - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known[:8])}{', …' * (len(known) > 8)}"
        raise QuantizeError(f"quantize.keep_float: no part has a layer '{name}'; {hint}")


def _convert(
    kind: str, part: PartEntry, graph: ir.Model, spool: Path, config: Quantization, context: Context
) -> tuple[ir.Model, str, dict[str, object]]:
    """Return one part's graph of one kind: (graph, kind it ended as, what the manifest says of it)."""
    if kind == "float16":
        from edgemm.graph.float16 import float16_from_onnx

        half, islands = float16_from_onnx(graph, _spooled(spool, part))
        return half, kind, {"float32_islands": islands}
    try:
        int8 = quantize_onnx(graph, _spooled(spool, part), config)
    except QuantizeError as error:
        if not isinstance(error, NothingToQuantize):
            raise QuantizeError(f"part '{part.name}': {error}") from error
        context.progress.say(f"part '{part.name}': no layer to quantize; kept in float32")
        return graph, "float32", {}
    return int8, kind, {}


def _slower(
    part: PartEntry, int8: ir.Model, float32: ir.Model, targets: Sequence[TargetEntry], spool: Path, context: Context
) -> dict[str, str]:
    """The targets on whose engine and threads a part's int8 form takes longer than float32, and why; said aloud."""
    feed = next(_spooled(spool, part))
    small, full = (ir.to_proto(model).SerializeToString() for model in (int8, float32))
    ratios: dict[tuple[str, int], Ratio] = {}
    slower = {}
    for target in targets:
        where = f"target '{target.name}', part '{part.name}'"
        run_as = target.engine, target.threads
        if run_as not in ratios:
            ratios[run_as] = latency_ratio(small, full, feed, engine=target.engine, threads=target.threads, what=where)
        ratio = ratios[run_as]
        if ratio.verdict == "slower":
            slower[target.name] = f"it takes {ratio.value:.2f} times float32's time on the machine that made this"
            pairs = f", {unfused_pairs(int8)} unfused Q/DQ pairs" if target.engine == PORTABLE else ""
            context.progress.say(
                f"{where}: int8 takes {ratio.value:.2f} times float32's time here "
                f"({int8_support()}{pairs}); kept float32 arithmetic, weights stored as int8"
            )
    return slower


# --- values ----------------------------------------------------------------------------------------------------------


def _spool_values(
    parts: Sequence[PartEntry],
    graphs: Mapping[str, ir.Model],
    raw: Iterable[Values],
    spool: Path,
    context: Context,
    *,
    total: int,
) -> dict[str, int]:
    """Run the float32 chain on every sample; write what the parts read; return how many samples reach each part."""
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True)
    sessions = {part.name: OnnxGraph(graphs[part.name]) for part in parts}
    counts = {part.name: 0 for part in parts}
    read = {name for part in parts if part.role != "frontend" for name in part.signature.input_names}
    index = 0
    with context.progress.task("calibration values", total=len(raw) if isinstance(raw, Sequence) else total) as task:
        for index, sample in enumerate(raw, start=1):
            known = {name: np.asarray(value) for name, value in sample.items()}
            for name, value in known.items():
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    raise QuantizeError(
                        f"calibration sample {index - 1}: '{name}' holds nan or infinity; clean the data"
                    )
            for part, _, made in trace(parts, known, partial(_run, sessions, index=index - 1)):
                known.update(made)
                counts[part.name] += 1
            write_arrays(spool / f"{index:06d}.npz", {name: known[name] for name in sorted(read & known.keys())})
            task.advance()
    if not index:
        raise QuantizeError("no calibration samples; static int8 needs real ones (64 or more)")
    return counts


def _run(sessions: Mapping[str, OnnxGraph], part: PartEntry, feeds: Values, *, index: int) -> dict[str, np.ndarray]:
    try:
        return sessions[part.name].run(
            {spec.name: as_typed(feeds[spec.name], spec.dtype) for spec in part.signature.inputs}
        )
    except Exception as error:
        shapes = {name: f"{value.dtype} {list(value.shape)}" for name, value in feeds.items()}
        line = one_line(error)[:160]
        raise QuantizeError(f"calibration sample {index}: part '{part.name}' can't run on {shapes}: {line}") from error


def _spooled(spool: Path, part: PartEntry) -> Iterator[dict[str, np.ndarray]]:
    names = part.signature.input_names
    for path in sorted(spool.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            if all(name in file for name in names):
                yield {name: file[name] for name in names}


def _read_graph(archive: Archive, path: str) -> ir.Model:
    import onnx

    data = archive.read(path)
    require_whole_graph(data, what=f"{archive.path}: {path}")
    return ir.from_proto(onnx.load_from_string(data))


# --- why int8 did not pay --------------------------------------------------------------------------------------------


def unfused_pairs(model: ir.Model) -> int:
    """Q/DQ nodes that onnxruntime still runs after its fusions, as pairs."""
    import tempfile

    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        OnnxGraph(model, optimized=path)
        left = [n.op_type for n in onnx.load(path).graph.node]
    return (left.count("QuantizeLinear") + left.count("DequantizeLinear") + 1) // 2

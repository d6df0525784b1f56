"""Build: compile ONNX graphs into TensorRT and TensorRT-RTX plans, strongly typed, for a GPU that need not be here.

TensorRT-RTX compiles for another compute capability than this machine's, without a GPU or a driver; the full
TensorRT builds for the GPU it runs on. Both share one Python interface, and this file.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgemm.graph.files import publish, write_manifest
from edgemm.runtime.archive import open_archive
from edgemm.runtime.engine_tensorrt import compute_capability, cuda_runtime
from edgemm.runtime.engines import ENGINES, PORTABLE, compiles
from edgemm.runtime.errors import EngineError, EngineNotInstalled
from edgemm.runtime.hints import pip_install
from edgemm.runtime.manifest import PartEntry, TargetEntry
from edgemm.runtime.onnx_wire import require_whole_graph
from edgemm.runtime.packages import package
from edgemm.runtime.signature import DimRange
from edgemm.stage import Context

SUFFIX = ".plan"


def engine_from_onnx(
    model: ir.Model, *, engine: str, precision: str, compute_capability: str, profiles: Mapping[str, DimRange]
) -> bytes:
    """Compile one explicitly typed graph.

    Args:
        model: float32, float16 (see ``float16_from_onnx``) or symmetric int8 Q/DQ.
        engine: ``"tensorrt-rtx"`` or ``"tensorrt"``.
        precision: named in messages; the graph's own types decide.
        compute_capability: ``"8.6"``, ``"8.9"``, …
        profiles: smallest, usual and largest value of every named dimension.

    Returns:
        The serialized plan.

    Raises:
        EngineNotInstalled: naming the extra.
        EngineError: a compute capability that the engine doesn't build for, an operator or type that it doesn't take
            (naming the node), or a dimension without a range.
    """
    trt = import_builder(engine)
    log = _log_of(trt)
    what = f"{engine} {trt.__version__}, {precision}, compute capability {compute_capability}"
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(ir.to_proto(model).SerializeToString()):
        raise EngineError(f"{what}: {_parser_error(parser)}")
    config = builder.create_builder_config()
    _set_compute_capability(trt, config, compute_capability, engine)
    profile = builder.create_optimization_profile()
    dynamic = False
    for value in model.graph.inputs:
        dims = list(value.shape) if value.shape is not None else []
        if not any(not isinstance(d, int) for d in dims):
            continue
        dynamic = True
        shapes = [[_size(d, profiles, field, value, what) for d in dims] for field in ("min", "opt", "max")]
        profile.set_shape(value.name, *shapes)
    if dynamic:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{what}: the engine can't be built: {log.last or 'no reason given'}")
    return bytes(plan)


def build_bundle(folder: Path, out: Path, *, compute_capabilities: Mapping[str, str], context: Context) -> None:
    """Compile the plans of every TensorRT target in a bundle folder.

    Args:
        folder: a bundle folder whose TensorRT targets hold ONNX graphs (as ``quantize_bundle`` writes them).
        out: folder to write: the same bundle, with plans, their fingerprints, and the ONNX graphs beside them.
        compute_capabilities: target name -> ``"8.6"``.
        context: where to report.

    Frontends stay ONNX and run on onnxruntime on the CPU: TensorRT takes neither an antialiased Resize nor uint8
    arithmetic, and images arrive in the CPU's memory anyway.

    Raises:
        EngineNotInstalled, EngineError: see ``engine_from_onnx``; the message names target and part.
    """
    archive = open_archive(folder)
    manifest = archive.manifest
    work = [t for t in manifest.targets if compiles(t.engine)]
    for target in work:
        import_builder(target.engine)
    with publish(out) as partial, context.progress.task("build", total=len(work) * len(manifest.parts)) as task:
        for name in manifest.files:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(archive.read(name))
        entries = []
        for target in manifest.targets:
            if not compiles(target.engine):
                entries.append(target)
                continue
            capability = compute_capabilities.get(target.name)
            if capability is None:
                raise EngineError(
                    f"target '{target.name}': no compute capability; set compute_capability = \"8.6\" or the like"
                )
            files = dict(target.files)
            for part in manifest.parts:
                if part.role != "frontend" and files[part.name].endswith(".onnx"):
                    plan = _build_part(archive.read(files[part.name]), part, target, capability)
                    files[part.name] = f"engines/{target.name}/{part.name}{SUFFIX}"
                    (partial / files[part.name]).parent.mkdir(parents=True, exist_ok=True)
                    (partial / files[part.name]).write_bytes(plan)
                task.advance(note=f"{target.name} {part.name}")
            entries.append(replace(target, files=files, fingerprint=fingerprint(target.engine, capability)))
        graphs = {t.name: dict(t.files) for t in work}  # the portable ONNX that each plan was made from
        write_manifest(
            partial,
            replace(manifest, targets=tuple(entries), provenance={**manifest.provenance, "plans_from": graphs}),
        )


def fingerprint(engine: str, compute_capability: str) -> dict[str, str]:
    """Return what a plan needs to load: engine version, compute capability, operating system."""
    return {
        "engine_version": str(import_builder(engine).__version__),
        "compute_capability": compute_capability,
        "os": platform.system().lower(),
    }


def import_builder(engine: str) -> Any:
    """Return the engine's Python module. Raises EngineNotInstalled, with what to install."""
    if engine not in ENGINES or not compiles(engine):
        compiling = [name for name in ENGINES if compiles(name)]
        raise EngineError(f"engine '{engine}' compiles nothing; expected one of {compiling}")
    try:
        module = package(ENGINES[engine].package)
    except ImportError as error:
        raise EngineNotInstalled(
            f'{engine} is not installed; {pip_install(*ENGINES[engine].distributions)}, or set engine = "{PORTABLE}"'
        ) from error
    if not hasattr(module, "Builder"):
        raise EngineNotInstalled(
            f"{engine} is installed without its builder; {pip_install(*ENGINES[engine].distributions)}"
        )
    return module


def _build_part(data: bytes, part: PartEntry, target: TargetEntry, capability: str) -> bytes:
    import onnx

    require_whole_graph(data, what=f"target '{target.name}', part '{part.name}'")
    model = ir.from_proto(onnx.load_from_string(data))
    try:
        return engine_from_onnx(
            model,
            engine=target.engine,
            precision=target.precision,
            compute_capability=capability,
            profiles=part.signature.dims,
        )
    except EngineError as error:
        raise type(error)(f"target '{target.name}', part '{part.name}': {error}") from error


def _strongly_typed(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)  # TensorRT 11 knows no other kind


def _set_compute_capability(trt: Any, config: Any, capability: str, engine: str) -> None:
    if not hasattr(trt, "ComputeCapability"):  # the full TensorRT builds for the GPU it finds
        here = compute_capability(cuda_runtime(engine, what=engine), engine, what=engine)
        if here != capability:
            raise EngineError(
                f"{engine} builds for the GPU of this machine, of compute capability {here}, and not for {capability}; "
                f'set compute_capability = "{here}", or engine = "tensorrt-rtx"'
            )
        return
    name = "SM" + capability.replace(".", "")
    known = sorted((n for n in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", n)), key=lambda n: int(n[2:]))
    if name not in known:
        shown = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in known)
        raise EngineError(
            f"{engine} {trt.__version__} does not build for compute capability {capability}; it does for {shown}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)


def _size(dim: Any, profiles: Mapping[str, DimRange], field: str, value: ir.Value, what: str) -> int:
    if isinstance(dim, int):
        return dim
    name = str(dim.value)
    if name not in profiles:
        raise EngineError(
            f"{what}: input '{value.name}' has dimension '{name}' without a range; a plan needs min/opt/max"
        )
    return int(getattr(profiles[name], field))


def _parser_error(parser: Any) -> str:
    if not parser.num_errors:
        return "the graph does not parse"
    error = parser.get_error(0)
    reason = re.sub(r"\s+", " ", error.desc()).split("[checkMacros")[0].strip()  # the missing driver, not the fault
    node = f"node '{error.node_name()}' ({error.node_operator()}): " if error.node_operator() else ""
    return f"{node}{reason[:300]}"


def _log_of(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last error instead of printing; the missing driver is expected and not one."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR and "cudaError 35" not in message:
                self.last = re.sub(r"\s+", " ", message).strip()[:300]

    return Log()

"""TensorRT and TensorRT-RTX: run a compiled plan on an NVIDIA GPU. Both share one Python interface.

A plan runs only where it was built for, so its fingerprint (engine version, compute capability, operating system)
is compared with this machine before the plan is deserialized: one clear line instead of the library's own.
"""

from __future__ import annotations

import importlib
import platform
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgemm.runtime.engines import ENGINES, Array, Loading, compiles, missing_feeds
from edgemm.runtime.errors import DeviceMissing, EdgemmError, EngineError, EngineNotInstalled
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install
from edgemm.runtime.manifest import Manifest, TargetEntry
from edgemm.runtime.packages import package

FINGERPRINT = ("engine_version", "compute_capability", "os")


class TensorRTSession:
    """A deserialized plan, one execution context, one CUDA stream, device buffers that grow as needed.

    Args:
        data: the plan.
        how: of its fingerprint, ``engine_version``, ``compute_capability`` (``"8.6"``) and ``os`` (``"linux"``) are
            checked where they are given.

    Raises:
        DeviceMissing: no GPU, or another one or another system than the plan's.
        EngineError: another version of the engine than the plan's, or a plan that does not load.
        EngineNotInstalled: the CUDA bindings are not installed.
    """

    def __init__(self, data: bytes, how: Loading) -> None:
        engine, what, fingerprint = how.engine, how.what, how.fingerprint
        self.engine, self._what = engine, what
        trt: Any = package(ENGINES[engine].package)
        expect(fingerprint, "engine_version", trt.__version__, what=what, engine=engine)
        expect(fingerprint, "os", platform.system().lower(), what=what, engine=engine)
        self._cuda = cuda_runtime(engine, what=what)
        self._gpu(self._cuda.cudaSetDevice(0))
        here = compute_capability(self._cuda, engine, what=what)
        expect(fingerprint, "compute_capability", here, what=what, engine=engine)

        log = _log_of(trt)
        self._runtime = trt.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise EngineError(
                f"{what}: {engine} {trt.__version__} cannot load the plan: {log.last or 'no reason given'}; "
                "rebuild it from the ONNX graph beside it"
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.input_names = tuple(name for name in names if is_input[name])
        self.output_names = tuple(name for name in names if not is_input[name])
        self._dtypes = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        self.dtypes: Mapping[str, str] = {name: dtype.name for name, dtype in self._dtypes.items()}
        self._log = log
        self._lock = threading.Lock()  # there is one execution context, and one buffer for each tensor
        self._stream = self._gpu(self._cuda.cudaStreamCreate())
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> (device address, bytes)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see ``Session.run``."""
        if any(name not in feeds for name in self.input_names):
            raise missing_feeds(self.input_names, feeds, what=self._what)
        with self._lock:
            return self._run(feeds)

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        cuda, stream = self._cuda, self._stream
        held = []  # host arrays stay alive until the stream is done with them
        for name in self.input_names:
            array = np.ascontiguousarray(feeds[name], dtype=self._dtypes[name])
            if not self._context.set_input_shape(name, array.shape):
                raise EngineError(
                    f"{self._what}: {self.engine} takes no shape {array.shape} for '{name}': {self._log.last}"
                )
            address = self._buffer(name, array.nbytes)
            self._gpu(cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, _h2d(cuda), stream))
            held.append(array)
        made: dict[str, Array] = {}
        for name in self.output_names:
            made[name] = np.empty(tuple(self._context.get_tensor_shape(name)), self._dtypes[name])
            self._buffer(name, made[name].nbytes)
        if not self._context.execute_async_v3(stream_handle=int(stream)):
            raise EngineError(f"{self._what}: {self.engine} cannot run: {self._log.last}")
        for name, array in made.items():
            self._gpu(cuda.cudaMemcpyAsync(array.ctypes.data, self._buffers[name][0], array.nbytes, _d2h(cuda), stream))
        self._gpu(cuda.cudaStreamSynchronize(stream))
        return made

    def _buffer(self, name: str, size: int) -> int:
        """Address of a device buffer of at least ``size`` bytes for one tensor."""
        address, held = self._buffers.get(name, (0, 0))
        if held < size or not address:
            if address:
                self._gpu(self._cuda.cudaFree(address))
            address = int(self._gpu(self._cuda.cudaMalloc(max(size, 1))))
            self._buffers[name] = (address, max(size, 1))
        self._context.set_tensor_address(name, address)
        return address

    def _gpu(self, result: tuple[Any, ...]) -> Any:
        """Return the value of a CUDA call; raises EngineError where it failed."""
        return _value(self._cuda, result, f"{self._what}: {self.engine}")

    def __del__(self) -> None:
        for address, _ in getattr(self, "_buffers", {}).values():
            self._cuda.cudaFree(address)
        if getattr(self, "_stream", None) is not None:
            self._cuda.cudaStreamDestroy(self._stream)


def unbuilt(manifest: Manifest, target: TargetEntry) -> str | None:
    """Why a TensorRT target can run nowhere: one line about a part that is no plan, or a fingerprint that is not whole.

    None for a target that is whole, and for one of another engine.
    """
    if not compiles(target.engine):
        return None
    for part in manifest.parts:
        file = target.files[part.name]
        if target.engine_of(part) == target.engine and not file.endswith(".plan"):
            return (
                f"target '{target.name}': part '{part.name}' is {file}, and {target.engine} runs compiled plans; "
                "build it (stage build of a recipe, or edgemm quantize --compute-capability)"
            )
    if missing := [key for key in FINGERPRINT if key not in target.fingerprint]:
        return f"target '{target.name}': its fingerprint lacks {', '.join(missing)}; build its plans again"
    return None


def expect(fingerprint: Mapping[str, str], key: str, got: str, *, what: str, engine: str) -> None:
    """Raise DeviceMissing, or EngineError for a version, where the plan was built for another ``key`` than is here."""
    wanted = fingerprint.get(key)
    if wanted is not None and wanted != got:
        kind = EngineError if key == "engine_version" else DeviceMissing
        raise kind(
            f"{what}: the plan was built for {engine} {key} {wanted}, this machine has {got}; "
            "rebuild it here from the ONNX graph beside it"
        )


def cuda_runtime(engine: str, *, what: str) -> Any:
    """Return the CUDA runtime bindings, once at least one GPU answers.

    Raises:
        EngineNotInstalled: no ``cuda.bindings``.
        DeviceMissing: no driver or no GPU.
    """
    try:
        cuda: Any = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        if not _driver():
            raise DeviceMissing(_no_gpu(engine, what, "no NVIDIA driver")) from error
        raise EngineNotInstalled(f"{what}: cuda-bindings is not installed; {pip_install('cuda-bindings')}") from error
    code, count = cuda.cudaGetDeviceCount()
    if int(code) != 0 or count == 0:
        raise DeviceMissing(_no_gpu(engine, what, _error_name(cuda, code)))
    return cuda


def gpu_here() -> str | None:
    """Compute capability of this machine's first GPU; None without one that answers."""
    try:
        return compute_capability(cuda_runtime("tensorrt", what="this machine"), "tensorrt", what="this machine")
    except EdgemmError:
        return None


def compute_capability(cuda: Any, engine: str, *, what: str) -> str:
    """Return of the first GPU, ``"8.6"``. Raises EngineError where CUDA can't say."""
    halves = (getattr(cuda.cudaDeviceAttr, f"cudaDevAttrComputeCapability{half}") for half in ("Major", "Minor"))
    return ".".join(str(_value(cuda, cuda.cudaDeviceGetAttribute(half, 0), f"{what}: {engine}")) for half in halves)


def _value(cuda: Any, result: tuple[Any, ...], what: str) -> Any:
    """Return the value of a CUDA call; raises EngineError where it failed."""
    code, *values = result
    if int(code) != 0:
        raise EngineError(f"{what}: CUDA says {_error_name(cuda, code)}")
    return values[0] if values else None


def _no_gpu(engine: str, what: str, reason: str) -> str:
    return f"{what}: {engine} needs an NVIDIA GPU, and there is none here ({reason}); choose another --target"


def _driver() -> bool:
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _error_name(cuda: Any, code: Any) -> str:
    _, name = cuda.cudaGetErrorName(code)
    return name.decode() if isinstance(name, bytes) else str(name)


def _h2d(cuda: Any) -> Any:
    return cuda.cudaMemcpyKind.cudaMemcpyHostToDevice


def _d2h(cuda: Any) -> Any:
    return cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost


def _log_of(trt: Any) -> Any:
    """Return a TensorRT logger that keeps the last error instead of printing it."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = one_line(RuntimeError(message))

    return Log()

"""edgemm.runtime: what runs on the device. numpy and one engine; everything else is imported when first needed.

>>> from edgemm.runtime import Bundle
>>> Bundle.open("emoji.bundle.zip").predict(text="a cat").matches      # doctest: +SKIP

The names below are all there is to the public side; a test holds them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemm.runtime.archive import Archive, open_archive, seal
    from edgemm.runtime.bundle import Bundle, Part, VerifyReport
    from edgemm.runtime.engines import Session
    from edgemm.runtime.errors import (
        BundleCorrupt,
        BundleError,
        EdgemmError,
        EngineError,
        EngineNotInstalled,
        InputError,
    )
    from edgemm.runtime.manifest import Manifest
    from edgemm.runtime.prediction import Prediction
    from edgemm.runtime.session import open_session
    from edgemm.runtime.signature import DimRange, Signature, TensorSpec
    from edgemm.runtime.zips import zip_bundle

_HOMES = {
    "Archive": "archive",
    "Bundle": "bundle",
    "BundleCorrupt": "errors",
    "BundleError": "errors",
    "DimRange": "signature",
    "EdgemmError": "errors",
    "EngineError": "errors",
    "EngineNotInstalled": "errors",
    "InputError": "errors",
    "Manifest": "manifest",
    "Part": "bundle",
    "Prediction": "prediction",
    "Session": "session",
    "Signature": "signature",
    "TensorSpec": "signature",
    "VerifyReport": "bundle",
    "open_archive": "archive",
    "open_session": "session",
    "seal": "archive",
    "zip_bundle": "zips",
}

__all__ = [
    "Archive",
    "Bundle",
    "BundleCorrupt",
    "BundleError",
    "DimRange",
    "EdgemmError",
    "EngineError",
    "EngineNotInstalled",
    "InputError",
    "Manifest",
    "Part",
    "Prediction",
    "Session",
    "Signature",
    "TensorSpec",
    "VerifyReport",
    "open_archive",
    "open_session",
    "seal",
    "zip_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgemm.runtime' has no attribute '{name}'")
    return getattr(import_module(f"edgemm.runtime.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

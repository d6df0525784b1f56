"""Real files, made on the fly: pictures, sounds and tensors as bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def sound(kind: str = "WAV", *, pitch: int = 1, seconds: float = 0.25, subtype: str | None = None) -> bytes:
    """A tone; the same bytes at every call, save OGG's serial number and the time in a wav of subtype FLOAT."""
    file = io.BytesIO()
    samples = 0.5 * np.sin(2 * np.pi * 110 * pitch * np.arange(int(16_000 * seconds)) / 16_000)
    soundfile.write(file, samples, 16_000, format=kind, subtype=subtype)
    return file.getvalue()


def npy(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=True)
    return file.getvalue()


def tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path

"""Arrays in files: ``.npy`` and ``.npz``, never unpickled, and only of numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from edgemm.runtime.errors import BundleError, EdgemmError, InputError
from edgemm.runtime.fields import one_line
from edgemm.runtime.sizes import LARGEST_RATIO, is_bomb

_NPY = b"\x93NUMPY"
_NUMBERS = "biuf"  # kinds of dtype: truth values, integers and floats


@contextmanager
def _guarded(name: str, what: str) -> Iterator[None]:
    """Turn whatever numpy and zipfile raise on foreign bytes into one BundleError.

    Their parsers raise some twenty types (tokenize.TokenError, LZMAError, KeyError, ...), and more with every release.
    """
    try:
        yield
    except EdgemmError:
        raise
    except Exception as error:
        # numpy's advice where a file is none of its own: to unpickle it
        why = "" if "allow_pickle" in str(error) else f": {one_line(error)}"
        raise BundleError(f"{name}: not {what}{why}") from error


def load_array(data: bytes, name: str) -> np.ndarray:
    """Return the array of a ``.npy`` file's bytes, never unpickled. Raises BundleError naming the file."""
    with _guarded(name, "a .npy array of numbers"):
        if data[:4] == b"PK\x03\x04":
            raise BundleError(f"{name}: got a zip such as an .npz, expected one .npy array")
        return _numbers(data)


def _numbers(data: bytes) -> np.ndarray:
    """Return the array of one ``.npy``, no larger than the bytes that are there."""
    if not data.startswith(_NPY):
        raise ValueError("it does not begin as such a file")
    with io.BytesIO(data) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.kind not in _NUMBERS:
            raise ValueError(f"an array of {dtype}")
        if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize > len(data) - file.tell():
            raise ValueError(f"its header says {dtype} {shape}, and {len(data) - file.tell()} bytes follow")
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False))


def as_dtype(array: np.ndarray, dtype: str, *, where: str) -> np.ndarray:
    """Return the array in ``dtype``: integers may become floats and not the reverse, and every number has to fit.

    Raises:
        InputError: another kind of number, or one that is too large.
    """
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise InputError(f"{where}: got dtype {array.dtype}, expected {dtype}")
    with np.errstate(over="ignore"):
        made = array.astype(dtype, copy=False)
    whole = np.issubdtype(made.dtype, np.integer)
    if not (np.array_equal(made, array) if whole else np.array_equal(np.isfinite(made), np.isfinite(array))):
        raise InputError(f"{where}: a number of its {array.dtype} is too large for {dtype}, which is expected")
    return made


def load_arrays(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file's bytes, never unpickled. Raises BundleError naming the file."""
    import zipfile

    with _guarded(name, "an .npz of arrays of numbers"), zipfile.ZipFile(io.BytesIO(data)) as packed:
        members = packed.infolist()
        size = sum(member.file_size for member in members)
        if is_bomb(len(data), size):
            raise BundleError(
                f"{name}: {len(data)} bytes unpack to {size}, expected at most {LARGEST_RATIO} times as many"
            )
        made: dict[str, np.ndarray] = {}
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BundleError(f"{name}: '{member.filename}' is packed by method {member.compress_type}")
            key = member.filename.removesuffix(".npy")
            if key in made:
                raise BundleError(f"{name}: '{key}' is in it twice")
            with packed.open(member) as file:
                held = file.read(member.file_size)
                held += file.read(1)  # runs the zip's CRC check at the end of the file
            made[key] = _numbers(held)
    return made

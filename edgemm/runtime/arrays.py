"""Arrays in files: ``.npy`` and ``.npz``, never unpickled."""

from __future__ import annotations

import io

import numpy as np

from edgemm.runtime.errors import BundleError, InputError
from edgemm.runtime.fields import one_line
from edgemm.runtime.sizes import LARGEST_RATIO, is_bomb

_FAULTS = (ValueError, OSError, EOFError, SyntaxError, AttributeError, MemoryError, OverflowError)


def load_array(data: bytes, name: str) -> np.ndarray:
    """The array of a ``.npy`` file's bytes, never unpickled. Raises BundleError naming the file."""
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
    except _FAULTS as error:
        # numpy's advice where a file is none of its own: to unpickle it
        why = "" if "allow_pickle" in str(error) else f": {one_line(error)}"
        raise BundleError(f"{name}: not a .npy array of numbers{why}") from error
    if not isinstance(loaded, np.ndarray):
        raise BundleError(f"{name}: got a .npz, expected one .npy array")
    return loaded


def as_dtype(array: np.ndarray, dtype: str, *, where: str) -> np.ndarray:
    """The array in ``dtype``: integers may become floats and not the reverse, and every number has to fit.

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
    """The arrays of an ``.npz`` file's bytes, never unpickled. Raises BundleError naming the file."""
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if is_bomb(len(data), size):
            raise BundleError(
                f"{name}: {len(data)} bytes unpack to {size}, expected at most {LARGEST_RATIO} times as many"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except (*_FAULTS, zipfile.BadZipFile, zlib.error) as error:
        why = "" if "allow_pickle" in str(error) else f": {one_line(error)}"
        raise BundleError(f"{name}: not an .npz of arrays of numbers{why}") from error

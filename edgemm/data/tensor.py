"""Tensor files: a check of the bytes of a ``.npy``."""

from __future__ import annotations

import io
import math

import numpy as np

from edgemm.runtime.errors import DataError


def check_tensor(data: bytes) -> tuple[int, ...]:
    """Check that ``data`` is a whole ``.npy`` of finite numbers; nothing is unpickled.

    The header is held against the length first, so that a few bytes can't ask for gigabytes.

    Returns:
        Its shape.

    Raises:
        DataError: it isn't; the message says why, the caller says where.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise DataError(f"a .npy of version {version}, expected (1, 0) or (2, 0)")
    except DataError:
        raise
    except Exception as error:  # numpy raises ValueError, SyntaxError, TypeError, UnicodeError ... by kind of damage
        raise DataError("not a .npy of one array (numpy.save)") from error
    if dtype.hasobject:
        raise DataError("a .npy of Python objects; pickled objects are never read, save an array of numbers")
    if dtype.kind not in "biuf":
        raise DataError(f"a .npy of {dtype}, expected numbers")
    expected, got = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if min(shape, default=1) < 1 or got != expected:
        raise DataError(
            f"a .npy of shape {shape} and {dtype} with {got} bytes of values, expected {expected or 'some'}"
        )
    values = np.frombuffer(data, dtype, offset=stream.tell())
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or infinite")
    return tuple(int(n) for n in shape)

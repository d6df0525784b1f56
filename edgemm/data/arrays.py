"""Arrays: an ``.npz`` of samples that the user gives, checked before anybody takes a row of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.runtime.errors import InputError

Arrays = dict[str, np.ndarray]

EXPECTED = "expected an .npz with an array per input, samples first (numpy.savez)"


def read_arrays(path: Path, names: Sequence[str] | None = None, *, aligned: bool = True) -> Arrays:
    """Return the arrays of an ``.npz``, samples first; nothing is unpickled.

    Every array that is asked for is in memory at once: a zip can't be mapped.

    Args:
        path: the file.
        names: the arrays to read, in this order; None takes all.
        aligned: whether every array must hold the same number of samples.

    Raises:
        InputError: a file that is missing or something else, no array of a name, or arrays of different lengths.
    """
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise InputError(f"{path}: one array; {EXPECTED}")
        with loaded as file:
            wanted = list(file.files) if names is None else list(names)
            if missing := [name for name in wanted if name not in file.files]:
                raise InputError(
                    f"{path}: no array for input '{missing[0]}'; expected {wanted}, the file has {sorted(file.files)}"
                )
            arrays: Arrays = {name: file[name] for name in wanted}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; {EXPECTED}") from None
    except Exception as error:  # numpy and zipfile raise a kind of error for each kind of damage
        if "allow_pickle" in str(error):
            raise InputError(f"{path}: not an .npz of plain arrays; pickled objects are never read") from error
        raise InputError(f"{path}: not a whole .npz ({type(error).__name__}); {EXPECTED}") from error
    if not aligned:
        return arrays
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if not counts or len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"{path}: arrays of {counts or 'no'} samples; expected the same number, at least 1, in each")
    return arrays


def rows_of(arrays: Arrays) -> Iterator[Arrays]:
    """Yield every sample as a batch of 1."""
    for index in range(len(next(iter(arrays.values())))):
        yield {name: array[index : index + 1] for name, array in arrays.items()}

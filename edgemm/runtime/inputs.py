"""Inputs: raw images, strings, sounds and arrays become the values that the first parts of the chain take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgemm.runtime.errors import InputError
from edgemm.runtime.manifest import Manifest
from edgemm.runtime.readers.text import TextEncoder as TextEncoder
from edgemm.runtime.values import Samples, Value


class InputReader:
    """Turns the raw form of each modality of one bundle into values.

    Args:
        manifest: says what the modalities are and which tensors the parts take.
        read: gives the bytes of a file of the bundle (``Archive.read``); called when a tokenizer is first needed.
    """

    def __init__(self, manifest: Manifest, read: Callable[[str], bytes]) -> None:
        self._manifest = manifest
        taken = manifest.taken
        self._readers = {name: raw.reader(name, taken, read) for name, raw in manifest.inputs.items()}

    def samples(self, given: Mapping[str, Any]) -> dict[str, Samples]:
        """Return each modality as one element per sample, whether one sample was given or several.

        Raises:
            InputError: a modality that the bundle does not have, or no sample at all.
        """
        found: dict[str, Samples] = {}
        for modality, raw in given.items():
            reader = self._readers.get(modality)
            if reader is None:
                raise InputError(
                    f"bundle '{self._manifest.name}': no modality '{modality}'; it takes {list(self._manifest.inputs)}"
                )
            found[modality] = reader.samples(raw)
            if len(found[modality]) == 0:
                raise InputError(f"{modality}: got no samples, expected at least one")
        return found

    def values(self, samples: Mapping[str, Samples]) -> dict[str, Value]:
        """Return the values that the samples become; see the docstrings of the raw inputs in ``readers``.

        Raises:
            InputError: naming modality and sample.
        """
        values: dict[str, Value] = {}
        for modality, many in samples.items():
            values |= self._readers[modality].values(many)
        return values

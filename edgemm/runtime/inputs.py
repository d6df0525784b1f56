"""Inputs: raw images, strings, sounds and arrays become the values that the first parts of the chain take.

A batch of samples that differ in size (images straight from files) stays a list of single-sample arrays; the
bundle then runs a part per sample, so ``predict([a, b])`` is what ``predict(a)`` and ``predict(b)`` are together.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.runtime.arrays import as_dtype, load_array
from edgemm.runtime.errors import BundleError, EdgemmError, EngineNotInstalled, InputError
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install
from edgemm.runtime.images import decode_image
from edgemm.runtime.manifest import AudioInput, ImageInput, Manifest, TensorInput, TextInput
from edgemm.runtime.regular import open_regular
from edgemm.runtime.signature import Dim, DimRange, TensorSpec
from edgemm.runtime.sizes import LIMITS
from edgemm.runtime.tokenizer_limits import check_tokenizer
from edgemm.runtime.waveforms import decode_audio

_UINT8 = np.dtype(np.uint8)

CHARACTERS_OF_A_TOKEN = 64  # that are looked at of a long text; words of a language have 5 to 20
LEAST_LOOKED_AT = 1 << 14  # characters
LONGEST_TEXT = 1 << 20  # characters that are looked at before a text that makes too few tokens is refused

Value = np.ndarray | list[np.ndarray]  # (batch, ...), or one (1, ...) array per sample where sizes differ
Samples = Sequence[Any] | np.ndarray  # sliceable, one element per sample


class InputReader:
    """Turns the raw form of each modality of one bundle into values.

    Args:
        manifest: says what the modalities are and which tensors the parts take.
        read: gives the bytes of a file of the bundle (``Archive.read``); called when a tokenizer is first needed.
    """

    def __init__(self, manifest: Manifest, read: Callable[[str], bytes]) -> None:
        self._manifest = manifest
        self._read = read
        self._tokenizers: dict[str, TextEncoder] = {}
        self._reading = threading.Lock()
        self._specs: dict[str, tuple[TensorSpec, Mapping[str, DimRange]]] = {}
        for part in manifest.parts:
            for spec in part.signature.inputs:
                self._specs.setdefault(spec.name, (spec, part.signature.dims))

    def samples(self, given: Mapping[str, Any]) -> dict[str, Samples]:
        """Each modality as one element per sample, whether one sample was given or several.

        Raises:
            InputError: a modality that the bundle does not have, or no sample at all.
        """
        found: dict[str, Samples] = {}
        for modality, raw in given.items():
            kind = self._manifest.inputs.get(modality)
            if kind is None:
                raise InputError(
                    f"bundle '{self._manifest.name}': no modality '{modality}'; it takes {list(self._manifest.inputs)}"
                )
            if type(raw) is np.ndarray and kind.kind == "image":
                found[modality] = raw if raw.ndim == 4 else [raw]
            elif kind.kind == "tensor":
                found[modality] = self._as_tensors(raw, kind, modality)
            else:
                found[modality] = raw if isinstance(raw, (list, tuple)) else [raw]
            if len(found[modality]) == 0:
                raise InputError(f"{modality}: got no samples, expected at least one")
        return found

    def values(self, samples: Mapping[str, Samples]) -> dict[str, Value]:
        """The values that the samples become; see the docstrings of the raw inputs in ``manifest``.

        Raises:
            InputError: naming modality and sample.
        """
        values: dict[str, Value] = {}
        for modality, many in samples.items():
            kind = self._manifest.inputs[modality]
            if kind.kind == "image":
                values[kind.feeds] = self._images(many, kind, modality)
            elif kind.kind == "text":
                values[kind.ids], values[kind.mask] = self._text(modality, kind).encode(many)
            elif kind.kind == "audio":
                values[kind.feeds] = self._waveforms(many, kind, modality)
            else:
                values[kind.feeds] = self._tensors(many, kind, modality)
        return values

    def _images(self, many: Samples, kind: ImageInput, modality: str) -> Value:
        if isinstance(many, np.ndarray):
            if many.dtype != np.uint8 or many.shape[3] != 3 or 0 in many.shape:
                raise InputError(f"{modality}: got {many.dtype} {many.shape}, expected uint8 (batch, height, width, 3)")
            return np.ascontiguousarray(many)
        if len(many) == 1:
            raw = many[0]
            if type(raw) is np.ndarray and raw.dtype == _UINT8 and raw.ndim == 3 and raw.shape[2] == 3 and raw.size:
                return raw[None] if raw.flags.c_contiguous else np.ascontiguousarray(raw)[None]  # a camera's frame
            return decode_image(raw, where=modality, grey_range=kind.grey_range)[None]
        names = [f"{modality}[{i}]" for i in range(len(many))]
        return join(
            [decode_image(r, where=n, grey_range=kind.grey_range)[None] for n, r in zip(names, many, strict=True)]
        )

    def _waveforms(self, many: Samples, kind: AudioInput, modality: str) -> Value:
        spec, dims = self._specs[kind.feeds]
        low, high = size_range(spec, dims, axis=1)
        arrays = []
        for i, raw in enumerate(many):
            where = name_of(modality, i, many)
            wave = decode_audio(raw, sample_rate=kind.sample_rate, where=where, limit=high)
            arrays.append(np.pad(wave, (0, max(0, low - len(wave))))[None])
        return join(arrays)

    def _as_tensors(self, raw: Any, kind: TensorInput, modality: str) -> np.ndarray:
        spec, _ = self._specs[kind.feeds]
        if isinstance(raw, (str, os.PathLike)):
            raw = read_array(raw, modality)
        elif isinstance(raw, (list, tuple)) and raw and all(isinstance(one, (str, os.PathLike)) for one in raw):
            raw = [read_array(one, f"{modality}[{i}]") for i, one in enumerate(raw)]
        try:
            array = as_dtype(np.asarray(raw), spec.dtype, where=modality)
        except (TypeError, ValueError) as error:
            raise InputError(f"{modality}: not an array of {spec.dtype}: {one_line(error)}") from error
        if array.ndim == len(spec.shape) - 1:
            array = array[None]
        return array

    def _tensors(self, many: Samples, kind: TensorInput, modality: str) -> np.ndarray:
        spec, _ = self._specs[kind.feeds]
        array = np.ascontiguousarray(many)
        if not _fits(array.shape[1:], spec.shape[1:]) or 0 in array.shape:
            raise InputError(f"{modality}: got shape {array.shape}, expected {list(spec.shape)} or one sample of it")
        check_finite(array, where=modality)
        return array

    def _text(self, modality: str, kind: TextInput) -> TextEncoder:
        if modality not in self._tokenizers:
            with self._reading:
                if modality not in self._tokenizers:
                    self._tokenizers[modality] = self._read_tokenizer(modality, kind)
        return self._tokenizers[modality]

    def _read_tokenizer(self, modality: str, kind: TextInput) -> TextEncoder:
        spec, dims = self._specs[kind.ids]
        low, high = size_range(spec, dims, axis=1)
        longest = kind.max_tokens if high is None else min(kind.max_tokens, high)
        return TextEncoder(
            self._read(kind.tokenizer), file=kind.tokenizer, min_tokens=low, max_tokens=longest, where=modality
        )


class TextEncoder:
    """Strings to ids and mask by a ``tokenizer.json``.

    Args:
        data: the file.
        file, where: for messages.
        min_tokens, max_tokens: shorter batches are padded, longer texts cut (special tokens stay), each on the side
            that the file names.

    Raises:
        BundleError: ``tokenizers`` cannot read the file.
        EngineNotInstalled: ``tokenizers`` is not installed.
    """

    def __init__(self, data: bytes, *, file: str, min_tokens: int, max_tokens: int, where: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise EngineNotInstalled(f"{where}: tokenizers is not installed; {pip_install('tokenizers')}") from error
        check_tokenizer(data, file=file)
        try:
            self._tokenizer = Tokenizer.from_str(data.decode("utf-8"))
            self._pad_id = _pad_id(self._tokenizer)
            self._pads_left = (self._tokenizer.padding or {}).get("direction") == "left"
            self._tokenizer.no_padding()
            cut = (self._tokenizer.truncation or {}).get("direction", "right")
            self._tokenizer.enable_truncation(max_length=max_tokens, direction=cut)
            added = int(self._tokenizer.num_special_tokens_to_add(False))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # plain Exception, and panics, which are none
            raise BundleError(f"{file}: not a tokenizer.json: {one_line(error)}") from error
        if added >= max_tokens:
            raise BundleError(f"{file}: it adds {added} special tokens, which leaves none of {max_tokens} for a text")
        self._cuts_left = cut == "left"
        self._file = file
        self._max_tokens = max_tokens
        self._looked_at = max(LEAST_LOOKED_AT, CHARACTERS_OF_A_TOKEN * max_tokens)
        self._min_tokens = min_tokens
        self._where = where

    def encode(self, texts: Samples) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, int64 (batch, longest). Raises InputError on an empty text or something else than a string."""
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"{name_of(self._where, i, texts)}: got {type(text).__name__}, expected a string")
            if not text or text.isspace():
                raise InputError(f"{name_of(self._where, i, texts)}: the text is empty")
        try:
            if len(texts) == 1 or any(len(text) > self._looked_at for text in texts):
                rows = [self._ids(text, name_of(self._where, i, texts)) for i, text in enumerate(texts)]
            else:
                rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        except (EdgemmError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # lone surrogates, plain Exception, and panics, which are none
            raise InputError(f"{self._where}: cannot be tokenized: {one_line(error)}") from error
        if (most := max(map(len, rows))) > self._max_tokens:
            raise BundleError(f"{self._file}: it makes {most} tokens of a text, expected at most {self._max_tokens}")
        longest = max(self._min_tokens, *(len(row) for row in rows)) if len(rows) > 1 else len(rows[0])
        if len(rows) == 1 and longest >= self._min_tokens:
            if longest == 0:
                raise InputError(f"{self._where}: the tokenizer makes no tokens of {texts[0][:40]!r}")
            ids = np.array(rows, np.int64)
            return ids, np.ones_like(ids)
        longest = max(longest, self._min_tokens)
        ids = np.full((len(rows), longest), self._pad_id, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            if not row:
                raise InputError(f"{name_of(self._where, i, texts)}: the tokenizer makes no tokens of it")
            filled = slice(longest - len(row), None) if self._pads_left else slice(len(row))
            ids[i, filled] = row
            mask[i, filled] = 1
        return ids, mask

    def _ids(self, text: str, where: str) -> list[int]:
        """The ids of one text. Of a long one no more is looked at than what fills ``max_tokens`` and goes on."""
        looked_at = self._looked_at
        while True:
            short = len(text) <= looked_at
            piece = text if short else text[-looked_at:] if self._cuts_left else text[:looked_at]
            encoding = self._tokenizer.encode(piece)
            if short or encoding.overflowing:
                ids: list[int] = encoding.ids
                return ids
            if looked_at >= LONGEST_TEXT:
                raise InputError(
                    f"{where}: a text of {len(text)} characters, of which {looked_at} make fewer than "
                    f"{self._max_tokens} tokens; give a shorter text"
                )
            looked_at = min(8 * looked_at, LONGEST_TEXT)


def check_feed(
    feeds: Mapping[str, Any], spec: TensorSpec, *, where: str, error: type[EdgemmError] = InputError
) -> None:
    """Raise ``error`` unless ``feeds`` has, under the spec's name, an array of its dtype and shape without NaN."""
    array = feeds.get(spec.name)
    wanted = f"expected {spec.dtype} {list(spec.shape)}"
    if array is None:
        raise error(f"{where}: no value for it among {sorted(feeds)}; {wanted}")
    if not isinstance(array, np.ndarray):
        raise error(f"{where}: got {type(array).__name__}, {wanted} as a numpy array")
    if array.dtype != spec.dtype or not _fits(array.shape, spec.shape) or 0 in array.shape:
        raise error(f"{where}: got {array.dtype} {array.shape}, {wanted}")
    check_finite(array, where=where, error=error)


def check_finite(array: np.ndarray, *, where: str, error: type[EdgemmError] = InputError) -> None:
    """Raise ``error`` where floats hold NaN or infinity; the message names the sample. array: (batch, ...)."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.argmax(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
        raise error(f"{where}: sample {bad} holds NaN or infinite values, expected finite numbers")


def _fits(shape: tuple[int, ...], wanted: tuple[Dim, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        isinstance(w, str) or w == got for w, got in zip(wanted, shape, strict=True)
    )


def read_array(path: str | os.PathLike[str], where: str) -> np.ndarray:
    """The array of an ``.npy`` file. Raises InputError where it is none, or no regular file."""
    try:
        with open_regular(path, where=f"{where} ({path})", largest=LIMITS[".npy"]) as file:
            return load_array(file.read(), str(path))
    except OSError as error:
        raise InputError(f"{where} ({path}): can't be read ({error.strerror or error})") from error
    except BundleError as error:
        raise InputError(f"{where}: {error}") from error


def join(arrays: list[np.ndarray]) -> Value:
    """One array where all samples have one shape, else the list itself."""
    if len(arrays) == 1:
        return arrays[0]
    if len({array.shape for array in arrays}) == 1:
        return np.concatenate(arrays)
    return arrays


def size_range(spec: TensorSpec, dims: Mapping[str, DimRange], *, axis: int) -> tuple[int, int | None]:
    """Smallest and largest size that a part takes along one axis; (1, None) where the signature leaves it open."""
    if axis >= len(spec.shape):
        raise BundleError(
            f"value '{spec.name}' has the shape {list(spec.shape)}, expected at least {axis + 1} dimensions"
        )
    dim = spec.shape[axis]
    if isinstance(dim, int):
        return dim, dim
    return (dims[dim].min, dims[dim].max) if dim in dims else (1, None)


def name_of(modality: str, index: int, many: Iterable[Any]) -> str:
    """``image`` for one sample, ``image[3]`` among several."""
    return modality if isinstance(many, Sequence) and len(many) == 1 else f"{modality}[{index}]"


def _pad_id(tokenizer: Any) -> int:
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    for token in ("[PAD]", "<pad>", "<|endoftext|>"):
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    return 0

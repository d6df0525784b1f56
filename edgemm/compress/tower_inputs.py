"""Tower inputs: the values of a model for items of a corpus, from the cache where parts are frozen, else from raw data.

Where a tower is frozen, its outputs are made once for each distinct file or text and kept on disk under the digest
of its weights, so that teaching, distilling and recovering share them. Where it is trained, it is fed: images from a
table of decoded and resized pixels, texts as token ids, sounds as what their frontend makes of them, numbers as they
are.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgemm.compress import augmentation
from edgemm.compress.augmentation import Augmentation
from edgemm.compress.bfloat16 import has_bfloat16
from edgemm.compress.cache import Rows, cache_key, cached_rows, joined
from edgemm.compress.sources import Files, Frozen, Pixels, Source, Tokens
from edgemm.compress.trainer import keep_freed_memory
from edgemm.compress.training_rows import Corpus
from edgemm.data.batches import fewest_tokens, read_file, text_encoder
from edgemm.models.frontend import ImageFrontend
from edgemm.models.model import Model, Part
from edgemm.runtime import chain
from edgemm.runtime.errors import DataError, ModelError
from edgemm.runtime.readers import TextInput
from edgemm.runtime.signature import TensorSpec
from edgemm.stage import Context

FILE_CHUNK = 256
TEXT_CHUNK = 2048
BATCH = 16  # files or texts at once through a frozen part; larger falls out of the CPU's caches

_Values = dict[str, Tensor]


@dataclass
class Feeds:
    """Where the values of a model come from: a source for each modality that it takes and any sample has."""

    model: Model
    corpus: Corpus
    sources: dict[str, Source] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that the model takes and any sample has."""
        return tuple(m for m in self.model.inputs if m in self.corpus.modalities)

    @property
    def cached(self) -> dict[str, Mapping[str, Tensor]]:
        """Modality -> name -> rows, of those that are cached."""
        return {modality: source.rows for modality, source in self.sources.items() if source.rows}

    def values(
        self, modality: str, items: Tensor, *, views: Tensor | None = None, augment: Tensor | None = None
    ) -> _Values:
        """Return values for (B,) items: rows of the corpus's files of a modality, or of its texts; see ``Source``."""
        return self.sources[modality].values(items, views=views, augment=augment)


@dataclass(frozen=True, slots=True)
class _Preparing:
    """What a source is made from.

    Args:
        parts: frontend and frozen tower of the modality, in order.
    """

    model: Model
    modality: str
    parts: list[Part]
    corpus: Corpus
    context: Context
    views: int
    augmented: Augmentation | None
    seed: int
    title: str

    @property
    def tower(self) -> bool:
        """Whether the tower is frozen."""
        return any(part.role != "frontend" for part in self.parts)


def _image_source(of: _Preparing) -> Source:
    if of.tower:
        source = _file_source(of, views=of.views)
        source.viewed = True
        return source
    part = frontend_of(of.model, of.modality)
    frontend = _image_frontend(part)
    assert part is not None
    return Pixels(_pixel_table(of, part, frontend), frontend, part.signature.outputs[0].name, viewed=True)


def _text_source(of: _Preparing) -> Source:
    if of.tower:
        return Frozen(rows=_text_rows(of.model, of.parts, of.corpus, of.context, title=of.title), texts=True)
    return _tokens(of.model, of.corpus.texts)


def _audio_source(of: _Preparing) -> Source:
    source = _file_source(of)
    source.masks = True
    return source


def _file_source(of: _Preparing, *, views: int = 1) -> Source:
    rows, shapes = _file_rows(of, views=views)
    return (Frozen if of.tower else Files)(rows=rows, shapes=shapes)


_SOURCES: Mapping[str, Callable[[_Preparing], Source]] = {
    "image": _image_source,
    "text": _text_source,
    "audio": _audio_source,
}
"""Kind of a modality -> what makes its source; of others ``_file_source`` does."""


def feeds_of(
    model: Model,
    corpus: Corpus,
    context: Context,
    *,
    frozen: Iterable[str],
    views: int = 1,
    augmented: Augmentation | None = None,
    seed: int = 0,
    title: str,
) -> Feeds:
    """Prepare what ``model`` needs for the corpus: frozen towers through the cache, others as raw tables.

    Args:
        frozen: names of the parts that won't change.
        views: cached views of each image; view 0 is the plain image, view v > 0 is ``view_parameters(…, v)``.
        title: whose values they are, for progress ("teacher").

    Raises:
        ModelError: a frontend other than ImageFrontend before a trained image tower.
        DataError: a file that can't be decoded, or makes a value of another shape than the model says, or one that is
            too large for the cache.
    """
    feeds = Feeds(model, corpus)
    names = set(frozen)
    for modality in feeds.modalities:
        parts = _frozen_towers(model, modality, names)
        of = _Preparing(model, modality, parts, corpus, context, views, augmented, seed, title)
        feeds.sources[modality] = _SOURCES.get(model.inputs[modality].kind, _file_source)(of)
    return feeds


def view_parameters(augmented: Augmentation, count: int, view: int, *, seed: int) -> Tensor:
    """Augmentation parameters of one cached view of ``count`` images: (count, P); view 0 changes nothing."""
    if view == 0:
        return augmentation.identity(count)
    return augmented.draw(count, torch.Generator().manual_seed(seed * 1009 + view))


def parts_digest(parts: Iterable[Part]) -> str:
    """Return sha256 (64 hex digits) of kinds, configs and weights."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.kind} {sorted(part.config.items())!r}\n".encode())
        for name, value in sorted(part.module.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def frontend_of(model: Model, modality: str) -> Part | None:
    """Return the part that prepares a modality's raw form, if there is one."""
    return next((p for p in model.chain if p.role == "frontend" and p.modality == modality), None)


def _image_frontend(part: Part | None) -> ImageFrontend:
    if part is None or not isinstance(part.module, ImageFrontend):
        raise ModelError(
            "the image tower is trained, but no ImageFrontend stands before it "
            f"(found {'none' if part is None else repr(part.kind)}); freeze the tower, or use an 'image-frontend' part"
        )
    return part.module


def _frozen_towers(model: Model, modality: str, frozen: set[str]) -> list[Part]:
    """Leading frontends and frozen towers of one modality, in order."""
    still = [p for p in model.chain if p.role == "frontend" or (p.role == "tower" and p.name in frozen)]
    return list(chain.runnable(still, model.inputs[modality].values))


def _frontier(model: Model, parts: list[Part]) -> tuple[str, ...]:
    """Return values that ``parts`` make and that other parts take, or that the model puts out."""
    wanted = chain.handed_over(parts, model.chain, outputs=model.outputs)
    return tuple(name for part in parts for name in part.output_names if name in wanted)


def fast_dtype() -> torch.dtype:
    """Return what frozen towers and text towers in training multiply in: bfloat16 where the CPU has it, else float32.

    Twice as fast, and nearer than a shift of the image by one pixel: frozen features of EfficientNet-Lite0 agree to a
    cosine of 0.999 (one pixel: 0.967), those of MiniLM to 0.9999. Cached rows are kept as float16 in any case.
    """
    return torch.bfloat16 if has_bfloat16() else torch.float32


def fast_arithmetic(*, enabled: bool = True) -> torch.autocast:
    """Return the context in which products are computed in ``fast_dtype``."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled and fast_dtype() != torch.float32)


@torch.inference_mode()
def _run(
    parts: Sequence[Part], modules: Mapping[str, nn.Module], groups: list[_Values], names: tuple[str, ...]
) -> list[_Values]:
    """What the parts make of samples, which come in groups of one shape each and stay so: name -> (n, ...) float16.

    Without parts that is what they are given, in its own dtype: a sensor's numbers may be larger than a float16's.
    After each part, neighbours that have become alike (images of any size after their frontend) go on together.
    """
    for part in parts:
        groups = _regrouped(groups)
        for values in groups:
            with fast_arithmetic(enabled=part.role != "frontend"):
                values.update(part.run(values, module=modules[part.name]))
            for name in [n for n in part.signature.input_names if n not in names]:
                del values[name]
    return [
        {name: _half(name, values[name], parts[-1]) if parts else values[name] for name in names} for values in groups
    ]


def _half(name: str, value: Tensor, part: Part) -> Tensor:
    """Return the value as float16, which has to hold it."""
    half = value.half()
    if (half.isinf() & value.isfinite()).any():
        raise DataError(
            f"{part.modality}: '{name}' reaches {float(value.abs().max()):.3g} after part '{part.name}', and is cached "
            f"as float16, which ends at 65504; scale the values of {part.modality} in the data to a spread of about 1"
        )
    return half


def _regrouped(groups: list[_Values]) -> list[_Values]:
    """Neighbours of one shape as one group, up to ``BATCH`` samples."""
    together: list[list[_Values]] = []
    for values in groups:
        last = together[-1] if together else None
        shapes = {name: value.shape[1:] for name, value in values.items()}
        if (
            last is not None
            and {name: value.shape[1:] for name, value in last[-1].items()} == shapes
            and sum(len(next(iter(v.values()))) for v in [*last, values]) <= BATCH
        ):
            last.append(values)
        else:
            together.append([values])
    return [{name: torch.cat([v[name] for v in group]) for name in group[0]} for group in together]


def _file_rows(of: _Preparing, *, views: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what frontend and frozen tower of one modality make of its files; (V, U, ...), the first view being plain.

    And the ``shapes`` of those that are not all of one.
    """
    model, modality, parts, corpus = of.model, of.modality, of.parts, of.corpus
    keep_freed_memory()
    raw = model.inputs[modality]
    names = _frontier(model, parts) if parts else (raw.values[0],)
    modules = {part.name: _for_inference(part.module) for part in parts}
    files = corpus.files[modality]
    digest = parts_digest(parts)
    takes = next(part.signature for part in model.chain if raw.values[0] in part.signature.input_names)
    dtype = next(spec.dtype for spec in takes.inputs if spec.name == raw.values[0])
    lengths = takes.dims.get("samples")
    specs = {spec.name: spec for part in model.chain for spec in (*part.signature.inputs, *part.signature.outputs)}
    sized = {name: f"{name} shape" for name in names if any(isinstance(size, str) for size in specs[name].shape[1:])}
    kept = (*names, *sized.values())
    tables = []
    for view in range(views):
        moved = None if view == 0 else view_parameters(of.augmented or Augmentation(), len(files), view, seed=of.seed)

        def compute(rows: range, moved: Tensor | None = moved) -> Rows:
            made: list[_Values] = []
            for start in range(rows.start, rows.stop, BATCH):
                groups: list[_Values] = []
                for row in range(start, min(start + BATCH, rows.stop)):
                    value = torch.from_numpy(read_file(files[row], raw, lengths=lengths, dtype=dtype))[None]
                    if moved is not None:
                        as_chw = augmentation.apply(value.permute(0, 3, 1, 2).float(), moved[row : row + 1])
                        value = as_chw.round().byte().permute(0, 2, 3, 1)
                    groups.append({raw.values[0]: value})
                made += _run(parts, modules, groups, names)
            for values in made:
                for name in names:
                    _check_shape(specs[name], values[name], modality)
                values.update({s: torch.tensor([values[n].shape[1:]] * len(values[n])) for n, s in sized.items()})
            return {name: joined([values[name] for values in made]).numpy() for name in kept}

        key = cache_key(
            parts=digest,
            reading=[repr(raw), repr(lengths)],  # a sample rate, which no part may say
            files=corpus.sha256[modality],
            dtype="float16" if parts else dtype,
            arithmetic=str(fast_dtype()),
            view=None if view == 0 else [repr(of.augmented), view, of.seed],
        )
        at = f"{of.title}: {modality}" if views == 1 else f"{of.title}: {modality}, view {view + 1} of {views}"
        tables.append(cached_rows(of.context, key, kept, compute, count=len(files), chunk=FILE_CHUNK, title=at))
    shapes = {name: torch.from_numpy(tables[0][key]) for name, key in sized.items()}
    rows = {name: torch.stack([torch.from_numpy(table[name]) for table in tables]) for name in names}
    return rows, {name: sizes for name, sizes in shapes.items() if (sizes != sizes[:1]).any()}


def _check_shape(spec: TensorSpec, value: Tensor, modality: str) -> None:
    """Only what a signature leaves open may differ from file to file."""
    fits = value.ndim == len(spec.shape) and all(
        isinstance(size, str) or size == got for size, got in zip(spec.shape[1:], value.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(
            f"{modality}: a file makes '{spec.name}' of shape {list(value.shape[1:])}, expected {list(spec.shape[1:])};"
            " give files of that size, or name in the part's signature what differs from file to file"
        )


def _pixel_table(of: _Preparing, part: Part, frontend: ImageFrontend) -> Tensor:
    """Return every image decoded and resized: (U, 3, S, S) uint8."""
    raw = of.model.inputs[of.modality]
    files = of.corpus.files[of.modality]

    @torch.inference_mode()
    def compute(rows: range) -> Rows:
        made = [frontend.resize(torch.from_numpy(read_file(files[r], raw))[None]) for r in rows]
        return {"pixels": torch.cat(made).round().clamp(0, 255).to(torch.uint8).numpy()}

    key = cache_key(
        frontend=parts_digest([part]), reading=repr(raw), images=of.corpus.sha256[of.modality], dtype="uint8"
    )
    table = cached_rows(
        of.context, key, ("pixels",), compute, count=len(files), chunk=FILE_CHUNK, title=f"{of.title}: decode images"
    )
    return torch.from_numpy(table["pixels"])


def _text_rows(model: Model, parts: list[Part], corpus: Corpus, context: Context, *, title: str) -> dict[str, Tensor]:
    names = _frontier(model, parts)
    tokens = _tokens(model, corpus.texts)
    lengths = tokens.mask.sum(1).tolist()
    by_tokens = any(spec.shape[1:2] == ("tokens",) for part in parts for spec in part.signature.outputs)

    def compute(rows: range) -> Rows:
        # texts of one length together: padding is paid for like any token
        order = sorted(rows, key=lengths.__getitem__)
        made: dict[str, list[NDArray[np.generic]]] = {name: [] for name in names}
        for start in range(0, len(order), 4 * BATCH):
            values = tokens.values(torch.tensor(order[start : start + 4 * BATCH]))
            (found,) = _run(parts, {p.name: p.module for p in parts}, [values], names)
            for name, value in found.items():
                if by_tokens and value.ndim == 3:  # (B, T, W), padded to one length for all
                    value = F.pad(value, (0, 0, 0, tokens.ids.shape[1] - value.shape[1]))
                made[name].append(value.numpy())
        place = np.argsort(order)
        return {name: np.concatenate(values)[place] for name, values in made.items()}

    key = cache_key(
        parts=parts_digest(parts),
        reading=repr(model.inputs["text"]),
        texts=corpus.texts,
        tokenizer=hashlib.sha256((model.tokenizer_json or "").encode()).hexdigest(),
        dtype="float16",
        arithmetic=str(fast_dtype()),
    )
    table = cached_rows(
        context, key, names, compute, count=len(corpus.texts), chunk=TEXT_CHUNK, title=f"{title}: texts"
    )
    return {name: torch.from_numpy(rows) for name, rows in table.items()}


def joint_answers(model: Model, corpus: Corpus, context: Context, *, title: str) -> Tensor:
    """What a model that joins its modalities in one part says of every sample: (N, classes) float32, from the cache."""
    (name,) = model.outputs
    feeds = feeds_of(model, corpus, context, frozen=[part.name for part in model.chain], title=title)

    @torch.inference_mode()
    def compute(rows: range) -> Rows:
        made = []
        sized = any(isinstance(source, Files) and source.shapes for source in feeds.sources.values())
        step = 1 if sized else BATCH  # the device pads no sound
        for start in range(rows.start, rows.stop, step):
            batch = torch.arange(start, min(start + step, rows.stop))
            values: _Values = {}
            for modality in feeds.modalities:
                items = corpus.choose(modality, batch, None)
                values |= feeds.values(modality, items)
            made.append(model(values)[name].float())
        return {name: torch.cat(made).numpy()}

    key = cache_key(
        parts=parts_digest(model.chain),
        reading=repr(model.inputs),
        files={
            m: [corpus.sha256[m][i] for i in rows] for m, rows in ((m, corpus.rows[m].tolist()) for m in corpus.files)
        },
        texts=[corpus.texts[i] for i in corpus.choose("text", torch.arange(len(corpus)), None).tolist()]
        if "text" in corpus.rows
        else None,
        tokenizer=hashlib.sha256((model.tokenizer_json or "").encode()).hexdigest(),
    )
    table = cached_rows(context, key, (name,), compute, count=len(corpus), chunk=FILE_CHUNK, title=title)
    return torch.from_numpy(table[name])


def _tokens(model: Model, texts: Sequence[str]) -> Tokens:
    raw = model.inputs["text"]
    assert isinstance(raw, TextInput)
    if model.tokenizer_json is None:
        raise ModelError("the model takes text but has no tokenizer.json")
    ids, mask = text_encoder(model, raw).encode(texts)
    return Tokens(raw, torch.from_numpy(ids), torch.from_numpy(mask), fewest_tokens(model, raw), texts=True)


def _for_inference(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` in evaluation mode with batch norms folded into the convolutions before them.

    Channels last and without 50 passes over memory: 1.9 times as fast for EfficientNet-Lite0.
    """
    result = copy.deepcopy(module).eval()
    for block in [m for m in result.modules() if isinstance(m, nn.Sequential)]:
        layers = list(block.named_children())
        for (first, conv), (second, norm) in itertools.pairwise(layers):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block.add_module(first, fuse_conv_bn_eval(conv, norm))
                block.add_module(second, nn.Identity())
    has_convolutions = any(isinstance(m, nn.Conv2d) for m in result.modules())
    if has_convolutions:
        result.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return result

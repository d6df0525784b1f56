"""Feeds: the values of a model for rows of a corpus, from the cache where parts are frozen, else from raw data.

Where a tower is frozen, its outputs are made once for each distinct image or text and kept on disk under the digest
of its weights, so that teaching, distilling and recovering share them. Where it is trained, it is fed: images from a
table of decoded and resized pixels, texts as token ids.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgemm.compress import augmentation
from edgemm.compress.augmentation import Augmentation
from edgemm.compress.cache import Rows, cache_key, cached_rows
from edgemm.compress.corpus import Corpus
from edgemm.compress.trainer import keep_freed_memory
from edgemm.data.image import read_image
from edgemm.models.frontend import ImageFrontend
from edgemm.models.model import Model, Part, raw_values
from edgemm.models.tokenizer import encode, tokenizer_from_json
from edgemm.runtime.errors import ModelError
from edgemm.stage import Context

IMAGE_CHUNK = 256
TEXT_CHUNK = 2048
BATCH = 16  # images or texts at once through a frozen part; larger falls out of the CPU's caches


@dataclass
class Feeds:
    """Where the values of a model come from.

    ``images`` and ``texts`` are cached frozen values, name -> (U, ...) with U distinct images or texts (of images
    first the views: (V, U, ...)); ``pixels`` and ``ids`` are what trained towers are fed.
    """

    model: Model
    corpus: Corpus
    images: Mapping[str, Tensor] = field(default_factory=dict)
    texts: Mapping[str, Tensor] = field(default_factory=dict)
    pixels: Tensor | None = None  # (U, 3, S, S) uint8
    ids: Tensor | None = None  # (U, T) int64, padded to the longest text
    mask: Tensor | None = None

    def image_values(
        self, image_rows: Tensor, *, views: Tensor | None = None, augment: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Values for (B,) rows of the corpus's images.

        Args:
            views: (B,) which cached view of each; the plain image without it.
            augment: (B, P) parameters of the view that a trained tower is fed; the plain image without it.
        """
        if self.images:
            chosen = torch.zeros_like(image_rows) if views is None else views
            return {name: rows[chosen, image_rows].float() for name, rows in self.images.items()}
        if self.pixels is None:
            return {}
        # channels last halves the time of training a CNN on CPUs; the modules follow their input's layout
        x = self.pixels[image_rows].float().contiguous(memory_format=torch.channels_last)
        if augment is not None:
            x = augmentation.apply(x, augment)
        frontend = frontend_of(self.model)
        assert frontend is not None
        return {frontend.signature.outputs[0].name: _image_frontend(frontend).normalise(x)}

    def text_values(self, text_rows: Tensor) -> dict[str, Tensor]:
        """Values for (B,) rows of the corpus's texts, padded to the longest of them only."""
        if self.texts:
            return {name: rows[text_rows].float() for name, rows in self.texts.items()}
        if self.ids is None or self.mask is None:
            return {}
        raw = self.model.inputs["text"]
        assert raw.kind == "text"
        mask = self.mask[text_rows]
        longest = int(mask.sum(1).max())
        return {raw.ids: self.ids[text_rows, :longest], raw.mask: mask[:, :longest]}


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
        ModelError: a modality that training can't feed, or a frontend other than ImageFrontend before a trained tower.
    """
    if unknown := [m for m in model.inputs if m not in ("image", "text")]:
        raise ModelError(f"training feeds images and texts; the model also takes {', '.join(unknown)}")
    feeds = Feeds(model, corpus)
    names = set(frozen)
    if "image" in model.inputs and corpus.image_row is not None:
        parts = _frozen_towers(model, "image", names)
        if any(part.role != "frontend" for part in parts):
            feeds.images = _image_rows(
                model, parts, corpus, context, views=views, augmented=augmented, seed=seed, title=title
            )
        else:
            feeds.pixels = _pixel_table(model, corpus, context, title=title)
    if "text" in model.inputs and corpus.texts:
        parts = _frozen_towers(model, "text", names)
        if parts:
            feeds.texts = _text_rows(model, parts, corpus, context, title=title)
        else:
            ids, mask = encode(_tokenizer(model), corpus.texts)
            feeds.ids, feeds.mask = torch.from_numpy(ids), torch.from_numpy(mask)
    return feeds


def view_parameters(augmented: Augmentation, count: int, view: int, *, seed: int) -> Tensor:
    """Augmentation parameters of one cached view of ``count`` images: (count, P); view 0 changes nothing."""
    if view == 0:
        return augmentation.identity(count)
    return augmented.draw(count, torch.Generator().manual_seed(seed * 1009 + view))


def parts_digest(parts: Iterable[Part]) -> str:
    """sha256 (64 hex digits) of kinds, configs and weights."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.kind} {sorted(part.config.items())!r}\n".encode())
        for name, value in sorted(part.module.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def frontend_of(model: Model) -> Part | None:
    """The part that turns raw images into pixels, if there is one."""
    return next((p for p in model.chain if p.role == "frontend" and p.modality == "image"), None)


def _image_frontend(part: Part | None) -> ImageFrontend:
    if part is None or not isinstance(part.module, ImageFrontend):
        raise ModelError(
            "the image tower is trained, but no ImageFrontend stands before it "
            f"(found {'none' if part is None else repr(part.kind)}); freeze the tower, or use an 'image-frontend' part"
        )
    return part.module


def _frozen_towers(model: Model, modality: str, frozen: set[str]) -> list[Part]:
    """Leading frontends and frozen towers of one modality, in order."""
    known = set(raw_values({modality: model.inputs[modality]}))
    found: list[Part] = []
    for part in model.chain:
        wanted = part.role == "frontend" or (part.role == "tower" and part.name in frozen)
        if wanted and known.issuperset(part.signature.input_names):
            known.update(part.signature.output_names)
            found.append(part)
    return found


def _frontier(model: Model, parts: list[Part]) -> tuple[str, ...]:
    """Values that ``parts`` make and that other parts take, or that the model puts out."""
    own = {part.name for part in parts}
    wanted = {name for part in model.chain if part.name not in own for name in part.signature.input_names}
    wanted |= set(model.outputs)
    return tuple(n for part in parts for n in part.signature.output_names if n in wanted)


def fast_dtype() -> torch.dtype:
    """What frozen towers and text towers in training multiply in: bfloat16 where the CPU has it, else float32.

    Twice as fast, and nearer than a shift of the image by one pixel: frozen features of EfficientNet-Lite0 agree to a
    cosine of 0.999 (one pixel: 0.967), those of MiniLM to 0.9999. Cached rows are kept as float16 in any case.
    """
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def fast_arithmetic(*, enabled: bool = True) -> torch.autocast:
    """The context in which products are computed in ``fast_dtype``."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled and fast_dtype() != torch.float32)


@torch.inference_mode()
def _run(
    parts: list[Part], modules: Mapping[str, nn.Module], values: dict[str, Tensor], names: tuple[str, ...]
) -> dict[str, Tensor]:
    for part in parts:
        with fast_arithmetic(enabled=part.role != "frontend"):
            values.update(part.run(values, module=modules[part.name]))
    return {name: values[name] for name in names}


def _image_rows(
    model: Model,
    parts: list[Part],
    corpus: Corpus,
    context: Context,
    *,
    views: int,
    augmented: Augmentation | None,
    seed: int,
    title: str,
) -> dict[str, Tensor]:
    keep_freed_memory()
    names = _frontier(model, parts)
    modules = {part.name: _for_inference(part.module) for part in parts}
    feeds = model.inputs["image"]
    assert feeds.kind == "image"
    digest = parts_digest(parts)
    tables = []
    for view in range(views):
        moved = None if view == 0 else view_parameters(augmented or Augmentation(), len(corpus.images), view, seed=seed)

        def compute(rows: range, moved: Tensor | None = moved) -> Rows:
            made: dict[str, list[Tensor]] = {name: [] for name in names}
            for batch in _batches(corpus, rows):
                images = torch.from_numpy(np.stack([read_image(corpus.images[r]) for r in batch]))
                if moved is not None:
                    as_chw = images.permute(0, 3, 1, 2).float()
                    images = augmentation.apply(as_chw, moved[batch]).round().byte().permute(0, 2, 3, 1)
                for name, value in _run(parts, modules, {feeds.feeds: images}, names).items():
                    made[name].append(value.half())
            return {name: torch.cat(values).numpy() for name, values in made.items()}

        key = cache_key(
            parts=digest,
            images=corpus.image_sha256,
            dtype="float16",
            arithmetic=str(fast_dtype()),
            view=None if view == 0 else [repr(augmented), view, seed],
        )
        note = "" if views == 1 else f", view {view + 1} of {views}"
        tables.append(
            cached_rows(
                context,
                key,
                names,
                compute,
                count=len(corpus.images),
                chunk=IMAGE_CHUNK,
                title=f"{title}: images{note}",
            )
        )
    return {name: torch.stack([torch.from_numpy(table[name]) for table in tables]) for name in names}


def _batches(corpus: Corpus, rows: range) -> list[list[int]]:
    """Rows in batches of images of one size."""
    from PIL import Image

    sizes: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        with Image.open(corpus.images[row]) as image:
            sizes.setdefault(image.size, []).append(row)
    if len(sizes) == 1:
        return [list(rows)[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    # order matters: results are joined row by row, so runs of one size only
    batches: list[list[int]] = []
    size_of = {row: size for size, own in sizes.items() for row in own}
    for row in rows:
        last = batches[-1] if batches else None
        if last is not None and len(last) < BATCH and size_of[last[-1]] == size_of[row]:
            last.append(row)
        else:
            batches.append([row])
    return batches


def _pixel_table(model: Model, corpus: Corpus, context: Context, *, title: str) -> Tensor:
    part = frontend_of(model)
    frontend = _image_frontend(part)
    assert part is not None

    @torch.inference_mode()
    def compute(rows: range) -> Rows:
        made = [frontend.resize(torch.from_numpy(read_image(corpus.images[r]))[None]) for r in rows]
        return {"pixels": torch.cat(made).round().clamp(0, 255).to(torch.uint8).numpy()}

    key = cache_key(frontend=parts_digest([part]), images=corpus.image_sha256, dtype="uint8")
    table = cached_rows(
        context, key, ("pixels",), compute, count=len(corpus.images), chunk=IMAGE_CHUNK, title=f"{title}: decode images"
    )
    return torch.from_numpy(table["pixels"])


def _text_rows(model: Model, parts: list[Part], corpus: Corpus, context: Context, *, title: str) -> dict[str, Tensor]:
    names = _frontier(model, parts)
    raw = model.inputs["text"]
    assert raw.kind == "text"
    tokenizer = _tokenizer(model)
    tokenizer.no_padding()
    lengths = [len(e.ids) for e in tokenizer.encode_batch(list(corpus.texts))]
    longest = max(lengths)
    tokenizer = _tokenizer(model)
    by_tokens = any(spec.shape[1:2] == ("tokens",) for part in parts for spec in part.signature.outputs)

    def compute(rows: range) -> Rows:
        # texts of one length together: padding is paid for like any token
        texts = corpus.texts[rows.start : rows.stop]
        order = sorted(range(len(texts)), key=lengths[rows.start : rows.stop].__getitem__)
        made: dict[str, list[Tensor]] = {name: [] for name in names}
        for start in range(0, len(order), 4 * BATCH):
            ids, mask = encode(tokenizer, [texts[i] for i in order[start : start + 4 * BATCH]])
            values = {raw.ids: torch.from_numpy(ids), raw.mask: torch.from_numpy(mask)}
            for name, value in _run(parts, {p.name: p.module for p in parts}, values, names).items():
                if by_tokens and value.ndim == 3:  # (B, T, W), padded to one length for all
                    value = nn.functional.pad(value, (0, 0, 0, longest - value.shape[1]))
                made[name].append(value.half())
        place = torch.argsort(torch.tensor(order))
        return {name: torch.cat(values)[place].numpy() for name, values in made.items()}

    key = cache_key(
        parts=parts_digest(parts),
        texts=corpus.texts,
        tokenizer=hashlib.sha256((model.tokenizer_json or "").encode()).hexdigest(),
        dtype="float16",
        arithmetic=str(fast_dtype()),
    )
    table = cached_rows(
        context, key, names, compute, count=len(corpus.texts), chunk=TEXT_CHUNK, title=f"{title}: texts"
    )
    return {name: torch.from_numpy(rows) for name, rows in table.items()}


def _tokenizer(model: Model) -> Tokenizer:
    if model.tokenizer_json is None:
        raise ModelError("the model takes text but has no tokenizer.json")
    return tokenizer_from_json(model.tokenizer_json)


def _for_inference(module: nn.Module) -> nn.Module:
    """A copy of ``module`` in evaluation mode with batch norms folded into the convolutions before them.

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

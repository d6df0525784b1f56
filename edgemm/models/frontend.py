"""ImageFrontend: image preprocessing as a torch module, so that training and device run the same arithmetic.

Two choices keep it close to Pillow, which trained most checkpoints, and equal between torch and ONNX Runtime:
Pillow resizes in one direction, clips to 0..255, then in the other, and one two-dimensional bicubic pass without that
clip is off by up to 8/255 on sharp images; Pillow also rounds between the passes, but rounding would turn float
noise between engines into steps of 1/255, so values are clipped and not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.runtime.errors import ModelError

LONGEST = 16  # times its shorter side: of longer pictures the middle is enlarged before the crop
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFrontend(nn.Module):
    """uint8 (batch, height, width, 3) RGB to float32 (batch, 3, *size): resize, crop, rescale, normalise.

    Args:
        size: of the output in pixels: one side of a square, or (height, width).
        fit: ``"stretch"``: both sides to ``size``; ``"crop"``: resize, then the centre, on black where it is too small.
        shortest: shortest edge before the crop (default: the longer side of ``size``); the long one keeps the ratio.
        stretched: one side or (height, width) before the crop, instead of ``shortest``.
        resample: ``"bilinear"`` or ``"bicubic"``, antialiased as in Pillow; ``"nearest"``; ``"sampled"``: the mean of
            four points per output pixel, Pillow's ``resize((2 * width, 2 * height), NEAREST).reduce(2)``, which reads
            a few percent of a large image and takes a seventh of the time.
        rescale: factor before normalisation.
        mean, std: of R, G and B, applied after ``rescale``.
        channels: order of the output's, ``"rgb"`` or ``"bgr"``.

    Raises:
        ModelError: naming the argument.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        fit: str = "stretch",
        shortest: int | None = None,
        stretched: int | Sequence[int] | None = None,
        resample: str = "bilinear",
        rescale: float = 1 / 255,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channels: str = "rgb",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("fit", fit, ("stretch", "crop")),
            ("resample", resample, ("nearest", "bilinear", "bicubic", "sampled")),
            ("channels", channels, ("rgb", "bgr")),
        ):
            if value not in known:
                raise ModelError(f"image frontend: {name} '{value}'; expected one of {', '.join(known)}")
        if fit == "stretch" and (shortest or stretched):
            raise ModelError("image frontend: shortest and stretched need fit = crop")
        if shortest and stretched:
            raise ModelError(f"image frontend: shortest {shortest} beside stretched {stretched}; expected one of them")
        self.size, self.fit, self.resample, self.channels = sides(size), fit, resample, channels
        self.stretched = self.size if fit == "stretch" else sides(stretched) if stretched else None
        self.shortest = shortest or max(self.size)
        # (pixel * rescale - mean) / std as one multiplication and one addition
        self.register_buffer("scale", torch.tensor([rescale / s for s in std]).reshape(1, 3, 1, 1))
        self.register_buffer(
            "offset", torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).reshape(1, 3, 1, 1)
        )

    def resize(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to (B, 3, *size) float32 in 0..255, as Pillow would, unrounded."""
        height, width = image.shape[1:3]
        if self.stretched is not None:
            x = self._resize(image, *self.stretched)
        else:
            short = torch.sym_min(height, width)  # type: ignore[no-untyped-call]
            image = strip(strip(image, 1, width), 2, height)  # leaves the shorter side as it is
            height, width = image.shape[1:3]
            # transformers: the long edge is int(shortest * long / short)
            x = self._resize(image, self.shortest * height // short, self.shortest * width // short)
        if self.fit == "crop":
            smallest = self.stretched or (self.shortest, self.shortest)
            for axis, size, least in zip((2, 3), self.size, smallest, strict=True):
                x = centred(x, axis, size, pad=least < size)
        return x

    def _resize(self, image: Tensor, height: int, width: int) -> Tensor:
        if self.resample in ("nearest", "sampled"):  # while still uint8 and channels last: whole rows are copied
            points = 2 if self.resample == "sampled" else 1
            image = image.index_select(1, nearest(image.shape[1], points * height))
            image = image.index_select(2, nearest(image.shape[2], points * width))
        x = image.permute(0, 3, 1, 2).to(torch.float32)  # (B, H, W, C) -> (B, C, H, W)
        if self.resample == "nearest":
            return x
        if self.resample == "sampled":
            return F.avg_pool2d(x, 2)

        def one(x: Tensor, size: tuple[int, int]) -> Tensor:
            return F.interpolate(x, size=size, mode=self.resample, antialias=True, align_corners=False)

        if self.resample == "bilinear":  # no overshoot, so one pass equals two
            return one(x, (height, width))
        # Pillow 13 makes the vertical pass first where the height shrinks, and by more pixels than twice what the width
        # does: ``down`` is then 1, else 0, as arithmetic on sizes, since a graph can't choose while it is made
        lower, narrower = x.shape[2] - height, x.shape[3] - width
        down = torch.sym_min(torch.sym_max(lower - torch.sym_max(2 * narrower, 0), 0), 1)  # type: ignore[no-untyped-call]
        x = one(x, (x.shape[2] - down * lower, width + down * narrower)).clamp(0.0, 255.0)
        return one(x, (height, width)).clamp(0.0, 255.0)

    def normalise(self, x: Tensor) -> Tensor:
        """Float32 (B, 3, H, W) in 0..255, RGB, to what the tower was trained on."""
        x = x * self.scale + self.offset
        return x.flip(1) if self.channels == "bgr" else x

    def forward(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to (B, 3, *size) float32."""
        return self.normalise(self.resize(image))


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of what ``ImageFrontend`` calls ``size``. Raises ModelError."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ModelError(f"image frontend: size {size}; expected one side in pixels, or height and width")
    return pair[0], pair[1]


def strip(image: Tensor, axis: int, other: int) -> Tensor:
    """Cut an image around its centre along ``axis`` to ``LONGEST`` times the size of the ``other`` one.

    What is cut away lies far outside the crop, and enlarging it first would take memory by the square of the ratio. The
    same number of pixels goes at both ends, so that the crop stays where it was, to a pixel at most.
    """
    excess = torch.sym_max(image.shape[axis] - LONGEST * other, 0) // 2  # type: ignore[no-untyped-call]
    return image.narrow(axis, excess, image.shape[axis] - 2 * excess)


def centred(x: Tensor, axis: int, size: int, *, pad: bool) -> Tensor:
    """Cut ``x`` around its centre to ``size`` along ``axis`` (2 or 3 of four).

    Args:
        pad: it may be smaller, and is then laid on zeros, the odd pixel of them first as in transformers.
    """
    if pad:
        lack = torch.sym_max(size - x.shape[axis], 0)  # type: ignore[no-untyped-call]
        before = (lack + 1) // 2
        x = F.pad(x, (0, 0, before, lack - before) if axis == 2 else (before, lack - before))
    return x.narrow(axis, (x.shape[axis] - size) // 2, size)


def nearest(size: int, count: int) -> Tensor:
    """Return which of ``size`` pixels Pillow's NEAREST takes for each of ``count``: (count,) int64.

    Pillow adds the step up in double precision, and where points fall on the border of two pixels its rounding
    decides; so the same sum is made here.
    """
    steps = torch.cat((torch.full((1,), 0.5, dtype=torch.float64), torch.ones(count - 1, dtype=torch.float64)))
    return (steps * size / count).cumsum(0).long()


# --- from a Hugging Face image processor ------------------------------------------------------------------------------

_CLIP = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
_HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_ALL = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _shortest(side: int) -> dict[str, int]:
    return {"shortest_edge": side}


def _crop(side: int) -> dict[str, Any]:
    return {"do_center_crop": True, "crop_size": _square(side)}


_PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    # class: every field that its arithmetic reads, with its constructor's default (transformers 4.57)
    "CLIPImageProcessor": {
        **_ALL, "size": _shortest(224), "resample": 3, **_crop(224), "do_normalize": True, **_CLIP,
    },
    "ChineseCLIPImageProcessor": {
        **_ALL, "size": _shortest(224), "resample": 3, **_crop(224), "do_normalize": True, **_CLIP,
    },
    "SiglipImageProcessor": {**_ALL, "size": _square(224), "resample": 3, "do_normalize": True, **_HALF},
    "ViTImageProcessor": {**_ALL, "size": _square(224), "resample": 2, "do_normalize": True, **_HALF},
    "DeiTImageProcessor": {
        **_ALL, "size": _square(256), "resample": 3, **_crop(224), "do_normalize": True, **_HALF,
    },
    "BlipImageProcessor": {**_ALL, "size": _square(384), "resample": 3, "do_normalize": True, **_CLIP},
    "ConvNextImageProcessor": {
        **_ALL, "size": _shortest(384), "resample": 2, "crop_pct": 224 / 256, "do_normalize": True, **_HALF,
    },
    "MobileNetV2ImageProcessor": {
        **_ALL, "size": _shortest(256), "resample": 2, **_crop(224), "do_normalize": True, **_HALF,
    },
    "MobileViTImageProcessor": {
        **_ALL, "size": _shortest(224), "resample": 2, **_crop(256), "do_flip_channel_order": True,
    },
    "EfficientNetImageProcessor": {
        **_ALL, "size": _square(346), "resample": 0, **_crop(289), "do_center_crop": False, "rescale_offset": False,
        "do_normalize": True, **_HALF, "include_top": True,
    },
    "ViltImageProcessor": {
        **_ALL, "size": _shortest(384), "resample": 3, "size_divisor": 32, "do_normalize": True, **_HALF,
    },
}  # fmt: skip
"""AltCLIP takes CLIP's, ResNet and ConvNeXt-V2 take ConvNext's, VisionTextDualEncoder whichever its tower has."""

_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers; 1 is Lanczos, 4 box, 5 Hamming

# What changes no pixel of one image: bookkeeping, labels of segmentation, colour modes (the device decodes to RGB)
_HARMLESS = {
    "image_processor_type", "feature_extractor_type", "processor_class", "_processor_class", "_valid_processor_keys",
    "default_to_square", "input_data_format", "return_tensors", "device", "disable_grouping", "do_convert_rgb",
    "do_reduce_labels", "do_pad",  # do_pad: to the largest of a batch, and here all are of one size
}  # fmt: skip


def frontend_from_processor(
    config: Mapping[str, object], *, fixed_size: int | Sequence[int] | None = None
) -> dict[str, object]:
    """``ImageFrontend``'s keyword arguments from a Hugging Face image processor's ``preprocessor_config.json``.

    A field that is left out, or null, has the default of the processor's class. A field that only other classes read
    is ignored, as transformers does (BLIP's checkpoints carry ViLT's ``size_divisor``).

    Args:
        config: the parsed file. Classes of torchvision (``…Fast``) compile as the ones that they replace.
        fixed_size: of the output, a side or (height, width), where the processor lets it follow the image (ViLT, or a
            shortest edge without a crop). Images are stretched to it: what the processor itself does with an image
            of that shape, and an approximation for others.

    Raises:
        ModelError: a field whose arithmetic ImageFrontend doesn't have, by name.
    """
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    defaults = _PROCESSORS.get(str(kind).removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor"))
    if defaults is None:
        raise _refusal("image_processor_type", kind, f"one of {', '.join(_PROCESSORS)}")
    known = _HARMLESS.union(*_PROCESSORS.values())
    for field, value in config.items():
        if field not in known and value not in (None, False) and (field, value) != ("data_format", "channels_first"):
            raise _refusal(field, value, "a resize, centre crop, rescale and normalise only")
    fields = dict(defaults)
    for field, default in defaults.items():
        value = config.get(field, default)
        # null turns a switch off, and leaves anything else to the class
        fields[field] = (False if isinstance(default, bool) else default) if value is None else value

    if not fields["do_resize"]:
        raise _refusal("do_resize", fields["do_resize"], "true, else the output has no fixed size")
    resample = _FILTERS.get(fields["resample"]) if isinstance(fields["resample"], int) else None
    if resample is None:
        raise _refusal("resample", fields["resample"], "0 (nearest), 2 (bilinear) or 3 (bicubic)")
    factor = fields["rescale_factor"] if fields["do_rescale"] else 1.0
    if not isinstance(factor, int | float) or not math.isfinite(factor):
        raise _refusal("rescale_factor", factor, "a number")
    mean, std = [0.0] * 3, [1.0] * 3
    if fields.get("do_normalize"):
        mean, std = _three(fields, "image_mean"), _three(fields, "image_std")
        if not all(math.isfinite(m) for m in mean) or not all(math.isfinite(s) and s != 0 for s in std):
            raise _refusal("image_mean and image_std", [*mean, *std], "finite numbers to subtract and to divide by")
    if fields["do_rescale"] and fields.get("rescale_offset"):  # EfficientNet: 1 less, -1..1 with a factor of 1 / 127.5
        mean = [m + 1.0 for m in mean]
    if fields.get("include_top"):  # EfficientNet: divided by std once more
        std = [s * again for s, again in zip(std, _three(fields, "image_std"), strict=True)]
    result = _geometry(fields, "shortest_edge" in defaults["size"], fixed_size)
    result |= {"resample": resample, "rescale": float(factor), "mean": mean, "std": std}
    if fields.get("do_flip_channel_order"):
        result["channels"] = "bgr"
    return result


def _geometry(fields: Mapping[str, Any], by_edge: bool, fixed_size: int | Sequence[int] | None) -> dict[str, object]:
    """``size``, ``fit``, ``shortest`` and ``stretched``; ``by_edge``: the class knows a shortest edge."""
    size = fields["size"]
    if isinstance(size, int):  # before transformers 4.23
        size = _shortest(size) if by_edge else _square(size)
    if not isinstance(size, Mapping) or not all(isinstance(side, int) and side > 0 for side in size.values()):
        raise _refusal("size", size, "whole numbers of pixels")
    edge_only = "crop_pct" in fields or "size_divisor" in fields
    crop = _side_or_sides(fields["crop_size"], "crop_size") if fields.get("do_center_crop") else None
    made: dict[str, object]
    if set(size) == {"height", "width"} and not edge_only:
        whole = _side_or_sides(size, "size")
        made = {"size": crop, "fit": "crop", "stretched": whole} if crop else {"size": whole, "fit": "stretch"}
    elif set(size) == {"shortest_edge"} and by_edge:
        edge = size["shortest_edge"]
        if "crop_pct" in fields:
            made = _by_crop_pct(edge, fields["crop_pct"])
        elif crop:
            made = {"size": crop, "fit": "crop", "shortest": edge}
        elif fixed_size is not None:
            height, width = sides(fixed_size)
            return {"size": height if height == width else [height, width], "fit": "stretch"}
        else:
            field = "size_divisor" if "size_divisor" in fields else "do_center_crop"
            raise _refusal(field, fields[field], "an output of one size for every image; choose it with fixed_size")
    else:
        raise _refusal("size", size, " or ".join(["shortest_edge"] * by_edge + ["height and width"] * (not edge_only)))
    if fixed_size is not None:
        raise ModelError(f"fixed_size {fixed_size}: this processor's output is {made['size']} for every image; drop it")
    return made


def _by_crop_pct(edge: int, crop_pct: object) -> dict[str, object]:
    """ConvNeXt's rule: from 384 on images are stretched, below they are the centre of something larger."""
    if edge >= 384:
        return {"size": edge, "fit": "stretch"}
    if not isinstance(crop_pct, int | float) or not crop_pct > 0:
        raise _refusal("crop_pct", crop_pct, "a number above 0")
    return {"size": edge, "fit": "crop", "shortest": int(edge / crop_pct)}


def _side_or_sides(size: object, field: str) -> int | list[int]:
    pair = [size, size] if isinstance(size, int) else None
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        pair = [size["height"], size["width"]]
    if pair is None or not all(isinstance(side, int) and side > 0 for side in pair):
        raise _refusal(field, size, "one side in pixels, or height and width")
    return pair[0] if pair[0] == pair[1] else pair


def _three(fields: Mapping[str, Any], field: str) -> list[float]:
    value = fields[field]
    if isinstance(value, int | float):
        value = [value] * 3
    if not isinstance(value, Sequence) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise _refusal(field, value, "a number, or three for R, G and B")
    return [float(v) for v in value]


def _refusal(field: str, got: object, expected: str) -> ModelError:
    return ModelError(f"preprocessor_config.json: can't compile {field} = {got!r}; expected {expected}")

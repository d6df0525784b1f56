"""ImageFrontend: image preprocessing as a torch module, so that training and device run the same arithmetic.

Two choices keep it close to Pillow, which trained most checkpoints, and equal between torch and ONNX Runtime:
Pillow resizes horizontally, clips to 0..255, then vertically, and one two-dimensional bicubic pass without that
clip is off by up to 8/255 on sharp images; Pillow also rounds between the passes, but rounding would turn float
noise between engines into steps of 1/255, so values are clipped and not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.runtime.errors import ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFrontend(nn.Module):
    """uint8 (batch, height, width, 3) RGB to float32 (batch, 3, size, size): resize, crop, rescale, normalise.

    Args:
        size: pixels per side of the output.
        fit: ``"stretch"``: both sides to ``size``; ``"crop"``: shortest edge to ``shortest``, then the centre.
        shortest: shortest edge before the crop (default ``size``), at least ``size``.
        resample: ``"bilinear"`` or ``"bicubic"``, antialiased as in Pillow; ``"sampled"``: the mean of four points per
            output pixel, Pillow's ``resize((2 * width, 2 * height), NEAREST).reduce(2)``, which reads a few percent of
            a large image and takes a seventh of the time.
        rescale: factor before normalisation.
        mean, std: per channel, applied after ``rescale``.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        *,
        size: int,
        fit: str = "stretch",
        shortest: int | None = None,
        resample: str = "bilinear",
        rescale: float = 1 / 255,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if fit not in ("stretch", "crop") or resample not in ("bilinear", "bicubic", "sampled"):
            raise ModelError(
                f"image frontend: fit '{fit}', resample '{resample}'; expected stretch|crop, bilinear|bicubic|sampled"
            )
        if shortest is not None and (fit != "crop" or shortest < size):
            raise ModelError(f"image frontend: shortest edge {shortest} needs fit = crop and at least size {size}")
        self.size, self.fit, self.shortest, self.resample = size, fit, shortest or size, resample
        # (pixel * rescale - mean) / std as one multiplication and one addition
        self.register_buffer("scale", torch.tensor([rescale / s for s in std]).reshape(1, 3, 1, 1))
        self.register_buffer(
            "offset", torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).reshape(1, 3, 1, 1)
        )

    def resize(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to (B, 3, size, size) float32 in 0..255, as Pillow would, unrounded."""
        height, width = image.shape[1:3]
        if self.fit == "stretch":
            return self._resize(image, self.size, self.size)
        short = torch.sym_min(height, width)  # type: ignore[no-untyped-call]
        # transformers: the long edge is int(shortest * long / short)
        x = self._resize(image, self.shortest * height // short, self.shortest * width // short)
        top, left = (x.shape[2] - self.size) // 2, (x.shape[3] - self.size) // 2
        return x.narrow(2, top, self.size).narrow(3, left, self.size)

    def _resize(self, image: Tensor, height: int, width: int) -> Tensor:
        if self.resample == "sampled":  # while still uint8 and channels last: whole rows, then whole pixels are copied
            image = image.index_select(1, nearest(image.shape[1], 2 * height))
            image = image.index_select(2, nearest(image.shape[2], 2 * width))
        x = image.permute(0, 3, 1, 2).to(torch.float32)  # (B, H, W, C) -> (B, C, H, W)
        if self.resample == "sampled":
            return F.avg_pool2d(x, 2)

        def one(x: Tensor, size: tuple[int, int]) -> Tensor:
            return F.interpolate(x, size=size, mode=self.resample, antialias=True, align_corners=False)

        if self.resample == "bilinear":  # no overshoot, so one pass equals two
            return one(x, (height, width))
        x = one(x, (x.shape[2], width)).clamp(0.0, 255.0)
        return one(x, (height, width)).clamp(0.0, 255.0)

    def normalise(self, x: Tensor) -> Tensor:
        """Float32 (B, 3, H, W) in 0..255 to what the tower was trained on."""
        return x * self.scale + self.offset

    def forward(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to (B, 3, size, size) float32."""
        return self.normalise(self.resize(image))


def nearest(size: int, count: int) -> Tensor:
    """Which of ``size`` pixels Pillow's NEAREST takes for each of ``count``: (count,) int64.

    Pillow adds the step up in double precision, and where points fall on the border of two pixels its rounding
    decides; so the same sum is made here.
    """
    steps = torch.cat((torch.full((1,), 0.5, dtype=torch.float64), torch.ones(count - 1, dtype=torch.float64)))
    return (steps * size / count).cumsum(0).long()


_KNOWN = {
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std", "do_convert_rgb", "image_processor_type", "feature_extractor_type", "processor_class",
    "_processor_class", "_valid_processor_keys", "default_to_square", "data_format", "input_data_format",
    "return_tensors", "device", "disable_grouping", "pad_size", "do_pad",
}  # fmt: skip


def frontend_from_processor(config: Mapping[str, object]) -> dict[str, object]:
    """``ImageFrontend``'s keyword arguments from a Hugging Face image processor's ``preprocessor_config.json``.

    Raises:
        ModelError: a field whose arithmetic ImageFrontend doesn't have, by name.
    """

    def refuse(field: str, got: object, expected: str) -> ModelError:
        return ModelError(f"preprocessor_config.json: can't compile {field} = {got!r}; expected {expected}")

    for field, value in config.items():
        if field not in _KNOWN and value not in (None, False):
            raise refuse(field, value, "a resize, centre crop, rescale and normalise only")
    if config.get("do_pad"):
        raise refuse("do_pad", True, "false")
    if not config.get("do_resize", True):
        raise refuse("do_resize", False, "true")
    resample = {2: "bilinear", 3: "bicubic"}.get(int(str(config.get("resample", 2))))
    if resample is None:
        raise refuse("resample", config.get("resample"), "2 (bilinear) or 3 (bicubic)")
    size = config.get("size")
    if isinstance(size, int):  # before transformers 4.23: one number meant the shortest edge where a crop follows
        size = {"shortest_edge": size} if config.get("do_center_crop") else {"height": size, "width": size}
    if not isinstance(size, Mapping):
        raise refuse("size", size, "height and width, or shortest_edge")
    crop = _crop(config, refuse) if config.get("do_center_crop") else None
    result: dict[str, object] = {"resample": resample}
    if set(size) == {"shortest_edge"}:
        if crop is None:
            raise refuse("do_center_crop", False, "true beside size.shortest_edge, else the output has no fixed size")
        if crop > size["shortest_edge"]:
            raise refuse("crop_size", crop, f"at most size.shortest_edge {size['shortest_edge']}")
        result |= {"size": crop, "fit": "crop", "shortest": size["shortest_edge"]}
    elif set(size) == {"height", "width"} and size["height"] == size["width"]:
        if crop not in (None, size["height"]):
            raise refuse("crop_size", crop, f"none, or {size['height']} as in size")
        result |= {"size": size["height"], "fit": "stretch"}
    else:
        raise refuse("size", dict(size), "a square height and width, or shortest_edge alone")
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if not isinstance(factor, int | float) or not math.isfinite(factor):
        raise refuse("rescale_factor", factor, "a number")
    result["rescale"] = float(factor)
    normalised = config.get("do_normalize", True)
    result["mean"] = _three(config, "image_mean", IMAGENET_MEAN, refuse) if normalised else [0.0, 0.0, 0.0]
    result["std"] = _three(config, "image_std", IMAGENET_STD, refuse) if normalised else [1.0, 1.0, 1.0]
    return result


def _crop(config: Mapping[str, object], refuse: object) -> int:
    crop = config.get("crop_size")
    if isinstance(crop, Mapping) and set(crop) == {"height", "width"} and crop["height"] == crop["width"]:
        crop = crop["height"]
    if not isinstance(crop, int):
        assert callable(refuse)
        raise refuse("crop_size", crop, "one square size")
    return crop


def _three(config: Mapping[str, object], field: str, default: Sequence[float], refuse: object) -> list[float]:
    value = config.get(field, list(default))
    if not isinstance(value, Sequence) or len(value) != 3:
        assert callable(refuse)
        raise refuse(field, value, "three numbers, for R, G and B")
    return [float(v) for v in value]

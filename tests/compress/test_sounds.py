"""Sounds in training: read at the rate that a model takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgemm.compress.corpus import corpus_of
from edgemm.compress.feeds import feeds_of
from edgemm.data import Dataset, open_dataset
from edgemm.models.model import Model, Part
from edgemm.models.parts import BATCH, audio_frontend_part
from edgemm.recipe import DataConfig
from edgemm.runtime.manifest import AudioInput
from edgemm.runtime.signature import Signature, TensorSpec
from edgemm.stage import Context
from tests.data import media


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Tones of two pitches, no two of one length."""
    folder = tmp_path_factory.mktemp("sounds")
    lines = ["audio,label"]
    for index in range(8):
        media.write(folder / f"{index}.wav", media.sound(pitch=1 + index % 2 * 8, seconds=0.1 + 0.02 * index))
        lines.append(f"{index}.wav,{('low', 'high')[index % 2]}")
    (folder / "sounds.csv").write_text("\n".join(lines) + "\n")
    return open_dataset(DataConfig(kind="table", root=str(folder / "sounds.csv")), cache=folder / "cache")


class Steepness(torch.nn.Module):
    """(B, samples) to (B, 1): the mean step from one sample to the next."""

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return wave.diff(dim=1).abs().mean(1, keepdim=True)


def test_a_sound_is_cached_by_the_rate_that_it_is_read_at(tmp_path: Path, dataset: Dataset) -> None:
    frontend = audio_frontend_part("waveform-frontend", {"longest": 800, "normalise": False})
    made = TensorSpec("audio_features", "float32", ("batch", 1))
    tower = Part(
        "audio", "tower", "audio", "python", {},
        Signature(frontend.signature.outputs, (made,), {"batch": BATCH, "samples": frontend.signature.dims["samples"]}),
        Steepness(),
    )  # fmt: skip
    found = []
    for rate in (16000, 8000):  # the frontend doesn't know it
        model = Model("outside", [frontend, tower], inputs={"audio": AudioInput(rate)}, outputs=("audio_features",))
        feeds = feeds_of(
            model, corpus_of(dataset), Context(scratch=tmp_path, cache=tmp_path), frozen=["audio"], title="x"
        )
        found.append(feeds.values("audio", torch.arange(8))["audio_features"])
    assert not torch.equal(*found)

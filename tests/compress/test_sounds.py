"""Sounds in training: read at the rate that a model takes, and of any length where it takes any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgemm.compress import distill, teach
from edgemm.compress.answer_objectives import AnswerTeaching
from edgemm.compress.tower_inputs import feeds_of
from edgemm.compress.training import Training
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset, open_dataset
from edgemm.data.batches import raw_value_stream
from edgemm.models.builders import build_model
from edgemm.models.model import Model, Part
from edgemm.models.parts import BATCH, audio_frontend_part
from edgemm.models.store import load_model
from edgemm.recipe import DataConfig, DistillConfig, StudentSection, TeachConfig, TeacherSection
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import Classes, Values
from edgemm.runtime.readers import AudioInput
from edgemm.runtime.signature import Signature, TensorSpec
from edgemm.stage import Context
from tests.data import media
from tests.models import hf_folders


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
        model = Model(
            "outside", [frontend, tower], inputs={"audio": AudioInput(rate)}, outputs={"audio_features": Values()}
        )
        feeds = feeds_of(
            model, corpus_of(dataset), Context(scratch=tmp_path, cache=tmp_path), frozen=["audio"], title="x"
        )
        found.append(feeds.values("audio", torch.arange(8))["audio_features"])
    assert not torch.equal(*found)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small wav2vec 2.0, which takes sounds of any length."""
    folder = tmp_path_factory.mktemp("wav2vec2")
    hf_folders.wav2vec2(folder)
    return folder


def section_of(speech: Path, output: str) -> dict[str, object]:
    fusion = {"mode": "early", "width": 16, "heads": 2, "layers": 1}
    return {"audio": {"weights": f"hf:{speech}", "output": output}, "fusion": fusion, "head_hidden": 8}


@pytest.mark.parametrize("freeze", ["towers", "none"])
@pytest.mark.parametrize("output", ["pooled", "tokens"])
def test_a_batch_of_sounds_of_many_lengths_is_seen_as_the_device_sees_each(
    tmp_path: Path, dataset: Dataset, speech: Path, output: str, freeze: str
) -> None:
    section = TeacherSection.model_validate(section_of(speech, output))
    model = build_model(section, family="fusion-classifier", answer=Classes(dataset.labels), seed=0)
    frozen = ["audio"] if freeze == "towers" else []
    feeds = feeds_of(model, corpus_of(dataset), Context(scratch=tmp_path, cache=tmp_path), frozen=frozen, title="x")
    objective = AnswerTeaching(feeds, TeachConfig()).eval()
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([5, 0, 7, 3, 0])
    with torch.no_grad():
        drawn = objective.draw(rows, generator)
        made = model(objective.features(drawn, objective.kept(drawn, generator), generator))["logits"]
        alone = [
            model({name: torch.from_numpy(value) for name, value in values.items()})["logits"]
            for values in raw_value_stream(dataset.split("train"), model)
        ]
    # cached features are float16, and bfloat16's before where the CPU has it
    torch.testing.assert_close(made, torch.cat(alone)[rows], atol=5e-3 if frozen else 2e-3, rtol=0)


@pytest.mark.parametrize("output", ["pooled", "tokens"])
def test_sounds_of_many_lengths_are_taught_and_distilled(
    tmp_path: Path, dataset: Dataset, speech: Path, output: str
) -> None:
    section = section_of(speech, output)
    context = Context(scratch=tmp_path / "scratch", cache=tmp_path / "cache")
    teaching = TeachConfig(epochs=2, batch=4, freeze="none")
    teach.run(
        teaching,
        Training(dataset, context, threads=1),
        tmp_path / "t",
        teacher=TeacherSection.model_validate(section),
        family="fusion-classifier",
    )
    distill.run(
        DistillConfig(epochs=2, batch=4, gram=1.0),
        Training(dataset, context, threads=1),
        tmp_path / "s",
        teacher=tmp_path / "t",
        student=StudentSection.model_validate(section),
        family="fusion-classifier",
    )
    before, after = (load_model(tmp_path / name).part("audio").module.state_dict() for name in "ts")
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_shape_that_the_model_does_not_leave_open_is_told(tmp_path: Path, dataset: Dataset) -> None:
    frontend = audio_frontend_part("waveform-frontend", {})
    fixed = TensorSpec("normalised_waveform", "float32", ("batch", 800))
    frontend = replace(frontend, signature=replace(frontend.signature, outputs=(fixed,)))
    model = Model("outside", [frontend], inputs={"audio": AudioInput(16000)}, outputs={"normalised_waveform": Values()})
    with pytest.raises(
        DataError, match=r"audio: a file makes 'normalised_waveform' of shape \[1600\], expected \[800\]"
    ):
        feeds_of(model, corpus_of(dataset), Context(scratch=tmp_path, cache=tmp_path), frozen=[], title="x")

"""What is packed for the families: golden sounds and arrays as files, placeholders, and a gallery of sounds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))

from bundles import audio_and_sensor

from edgemm.data.dataset import Dataset, Sample
from edgemm.pipeline.pack import Source, assemble, gallery_samples
from edgemm.recipe import PackConfig
from edgemm.runtime.archive import open_archive, seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import DataError


@pytest.fixture
def heard(tmp_path: Path) -> Dataset:
    """Four sounds with a sensor vector each, two labels."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.WAV", rng.uniform(-1, 1, 300).astype(np.float32), 16000)
        np.save(tmp_path / f"{i}.npy", rng.normal(size=6).astype(np.float32))
        sample = Sample(f"{i}", audio=tmp_path / f"{i}.WAV", tensors={"sensor": tmp_path / f"{i}.npy"})
        samples.append(replace(sample, label=("bark", "meow")[i % 2]))
    return Dataset({"train": [], "test": samples}, labels=("bark", "meow"), evaluate=("test",))


def model(folder: Path) -> Path:
    """One whose family is spelled as recipes spell it, with a placeholder for what the sensor leads to."""
    manifest = audio_and_sensor(folder)
    np.save(folder / "nothing.npy", np.zeros((1, 16), np.float32))
    changed = replace(manifest, family="dual-encoder", placeholders={"sensor_embedding": "nothing.npy"}, files={})
    seal(folder, changed)
    return folder


def test_sounds_and_arrays_ship_as_golden_files_that_verify(heard: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    config = PackConfig(golden=2, gallery="audio")
    source = Source("cpu", model(tmp_path / "model"), "cpu")
    manifest = assemble("pack", [source], out, config=config, dataset=heard)
    assert [dict(g.inputs) for g in manifest.golden] == [
        {"audio": f"golden/{i}-audio.wav", "sensor": f"golden/{i}-sensor.npy"} for i in range(2)
    ]
    assert (out / "golden/1-sensor.npy").read_bytes() == (tmp_path / "2.npy").read_bytes()  # an even stride over four
    report = Bundle.open(out).verify()
    assert (report.problems, report.samples) == ((), 2)
    assert open_archive(out).read("nothing.npy")  # what stands in ships too


def test_a_gallery_of_sounds_holds_the_first_of_each_label(heard: Dataset, tmp_path: Path) -> None:
    config = PackConfig(gallery="audio")
    assert gallery_samples(heard, config) == {"bark": tmp_path / "0.WAV", "meow": tmp_path / "1.WAV"}
    out = tmp_path / "out"
    out.mkdir()
    assemble("pack", [Source("cpu", model(tmp_path / "model"), "cpu")], out, config=config, dataset=heard)
    bundle = Bundle.open(out)
    held = np.load(out / "gallery" / "embeddings.npy")
    for row, name in zip(held, ("0.WAV", "1.WAV"), strict=True):
        made = bundle.predict(audio=tmp_path / name).outputs["audio_embedding"][0]
        np.testing.assert_allclose(row, made, rtol=1e-3)  # float16
    silent = replace(heard, splits={"test": [replace(s, audio=None) for s in heard.split("test")]})
    with pytest.raises(DataError, match="no audio with a label"):
        gallery_samples(silent, config)

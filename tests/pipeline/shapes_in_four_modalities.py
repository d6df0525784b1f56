"""A world of coloured shapes that can be seen, read, heard and felt, for recipes of every family."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import soundfile

from edgemm.data import Dataset, Sample
from tests.pipeline.shapes_recipe import COLOURS, SHAPES, draw

RATE = 8000


def write_world(folder: Path, *, each: int = 3, lacking: bool = False) -> Dataset:
    """``each`` samples of every colour and shape to train on, one to test; label, labels, value and every modality.

    The tone of the sound tells the colour, its rhythm the shape; the sensor's vector tells both.

    Args:
        lacking: leave out the sound of every third training sample.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    texts: dict[str, tuple[str, ...]] = {}
    for c, colour in enumerate(COLOURS):
        for s, shape in enumerate(SHAPES):
            for index in range(each + 1):
                stem = folder / f"{colour}-{shape}-{index}"
                image, sound, sensor = (stem.with_suffix(ending) for ending in (".png", ".wav", ".npy"))
                draw(colour, shape, rng).save(image)
                time = np.arange(int(0.4 * RATE)) / RATE
                tone = np.sin(2 * np.pi * 300 * 1.6**c * time) * (np.sin(2 * np.pi * (4 + 5 * s) * time) > 0)
                soundfile.write(sound, (0.5 * tone + 0.01 * rng.standard_normal(len(time))).astype(np.float32), RATE)
                felt = np.eye(4)[c].tolist() + np.eye(4)[s].tolist()
                np.save(sensor, (np.asarray(felt) + 0.1 * rng.standard_normal(8)).astype(np.float32))
                split = "test" if index == each else "train"
                silent = lacking and split == "train" and len(splits["train"]) % 3 == 0
                name = f"a {colour} {shape}"
                texts[name] = (name,)
                splits[split].append(
                    Sample(
                        stem.name, image, name, None if silent else sound, {"sensor": sensor}, label=name,
                        labels=(colour, shape), value=float(c + 0.1 * s), group=colour,
                    )
                )  # fmt: skip
    files = {p for samples in splits.values() for s in samples for p in (s.image, s.audio, *s.tensors.values()) if p}
    return Dataset(
        splits,
        labels=tuple(sorted(texts)),
        evaluate=("test",),
        texts=texts,
        checksums={path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    )

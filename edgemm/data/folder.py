"""Folders: a folder per class, optionally under a folder per split; the way most collections already lie.

``train/cat/1.png``, ``train/cat/2.wav``, ``test/dog/3.jpg``; without a folder per split everything is ``train``. The
label is the class's folder; for identities the same. Files of a class that share a name are one sample: ``1.png`` and
``1.wav``.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

from edgemm.data.dataset import Dataset, Sample, from_splits
from edgemm.data.splits import spelling_notes, split_of
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError

IMAGES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif",
    ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".qoi", ".tga",
)  # fmt: skip
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")


def folder(config: DataConfig) -> Dataset:
    """Splits by the outer folders, labels by the inner ones, images and sounds told by their ending.

    Files of other endings are left out and counted by ending; names that begin with a dot don't count.

    Raises:
        DataError: no folder, files at different depths, two files for one modality of a sample, or no ``train``.
    """
    root = Path(str(config.root))
    if not root.is_dir():
        raise DataError(f"data.root: got {config.root}, expected a folder with a folder per class")
    files, others = _files(root)
    if not files:
        raise DataError(f"{root}: no image or sound in it; expected CLASS/FILE or SPLIT/CLASS/FILE")
    depths = {len(path.relative_to(root).parts): path for path in reversed(files)}
    if odd := next((path for depth, path in depths.items() if depth not in (2, 3)), None):
        raise DataError(f"{odd}: expected CLASS/FILE or SPLIT/CLASS/FILE in {root}")
    if len(depths) == 2:
        raise DataError(f"{depths[2]} and {depths[3]} lie at different depths; expected a folder per split or none")
    spelt: dict[str, None] = {}
    found: dict[str, dict[tuple[str, str], dict[str, Path]]] = {}
    for path in files:
        *split, label, name = path.relative_to(root).parts
        modality = "image" if path.suffix.lower() in IMAGES else "audio"
        spelt[split[0] if split else "train"] = None
        parts = found.setdefault(split_of(split[0]) if split else "train", {}).setdefault((label, Path(name).stem), {})
        if modality in parts:
            raise DataError(f"{path}: a second {modality} beside {parts[modality].name}; give it a name of its own")
        parts[modality] = path
    if "train" not in found:
        raise DataError(f"{root}: no folder 'train'; found {', '.join(found)}")
    splits = {
        split: [
            Sample(
                f"{split}/{label}/{stem}",
                image=parts.get("image"),
                audio=parts.get("audio"),
                label=unicodedata.normalize("NFC", label),
            )
            for (label, stem), parts in samples.items()
        ]
        for split, samples in found.items()
    }
    counts = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in sorted(others.items()))
    left_out = (f"{root}: files that are no image or sound by their ending: {counts}",) if others else ()
    return replace(from_splits(splits), broken=(*left_out, *spelling_notes(spelt, where=str(root))))


def _files(root: Path) -> tuple[list[Path], Counter[str]]:
    """Images and sounds in a fixed order, and how many files have which other ending."""
    files: list[Path] = []
    others: Counter[str] = Counter()
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts) or not path.is_file():
            continue
        if path.suffix.lower() in (*IMAGES, *SOUNDS):
            files.append(path)
        else:
            others[path.suffix.lower()] += 1
    return files, others

"""VQA-RAD: questions that clinicians asked about radiographs. Source: Lau et al. 2018, Scientific Data."""

from __future__ import annotations

from pathlib import Path

from edgemm.data import Dataset, Sample, root_of
from edgemm.data.dataset import distinct_labels
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from edgemm.runtime.fields import json_value


def answer_label(answer: object) -> str:
    """Answers as classes: lower case, single spaces, no full stop at the end."""
    return " ".join(str(answer).lower().split()).rstrip(".")


def vqa_rad(config: DataConfig) -> Dataset:
    """Splits ``train`` and ``test``; label is the answer, group ``open`` or ``closed``.

    Test answers that the train split never gives stay in and count as errors, as in the published protocol.

    Raises:
        DataError: the folder or one of its files isn't there or has other fields.
    """
    root = root_of(config, "the folder with images/, trainset.json and testset.json")
    splits = {"train": _split(root, "trainset.json"), "test": _split(root, "testset.json")}
    return Dataset(splits, labels=distinct_labels(splits["train"]), evaluate=("test",))


def _split(root: Path, name: str) -> list[Sample]:
    path = root / name
    try:
        rows = json_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"data.root: can't read {path} ({error.strerror}); expected VQA-RAD's folder") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    try:
        return [
            Sample(
                id=f"{name.removesuffix('set.json')}/{row['qid']}",
                image=root / "images" / row["image_name"],
                text=" ".join(str(row["question"]).split()),
                label=answer_label(row["answer"]),
                group=str(row["answer_type"]).strip().lower(),
            )
            for row in rows
        ]
    except (KeyError, TypeError) as error:
        expected = "qid, image_name, question, answer and answer_type"
        raise DataError(f"{path}: a row lacks {error}; expected {expected}") from error

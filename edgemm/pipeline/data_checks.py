"""Data checks: whether the data can do what a recipe asks of it, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from edgemm.data import Dataset
from edgemm.data.dataset import OWN, distinct_labels
from edgemm.data.tensor import check_tensor
from edgemm.measure.accuracy import Needed
from edgemm.pipeline.pack import gallery_samples, golden_samples
from edgemm.recipe import DataConfig, ModelSection, Recipe
from edgemm.recipe.import_named import resolve
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import Classes, answer_of


def data_notes(recipe: Recipe, dataset: Dataset) -> list[str]:
    """Return what a user should know of the data before anything runs: one line each."""
    notes = [line if line.startswith("note: ") else f"left out: {line}" for line in dataset.broken]
    if "train" in dataset.evaluate:
        others = len(dataset.evaluate) > 1
        notes.append(
            f"note: accuracy {'on train ' if others else ''}is measured on the samples that are trained on, which says "
            "nothing about new ones" + ("" if others else '; hold some back, e.g. in a split "test"')
        )
    if recipe.kind.answers:  # the others name what they never saw, by its text or its identity
        notes += [line for split in dataset.evaluate if (line := unseen_classes(split, dataset))]
    return notes


def unseen_classes(split: str, dataset: Dataset) -> str | None:
    """Return the line on the samples that no model trained on this data can get right; None where there are none."""
    lacking = [x for s in dataset.split(split) if (x := set(distinct_labels([s])).difference(dataset.labels))]
    if not lacking:
        return None
    names = sorted(set().union(*lacking))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"note: {len(lacking)} of {len(dataset.split(split))} samples of split '{split}' are of classes that no "
        f"training sample has ({', '.join(repr(name) for name in names[:3])}{more}), and count as wrong"
    )


def check_data(recipe: Recipe, dataset: Dataset) -> None:
    """Hold the data against all that the recipe's stages will do with it.

    Raises:
        DataError: data without a modality of the models, or that can't be calibrated on, packed or measured on.
    """
    modalities = recipe.modalities
    check_modalities(recipe.data, dataset, modalities)
    check_shapes(recipe, dataset)
    if {"measure", "pack"} & set(recipe.stages):  # what packing needs of the data shows before a day of training
        golden_samples(dataset, modalities)
        if recipe.kind.searches and recipe.pack.gallery != "none":
            gallery_samples(dataset, recipe.pack)
    if "measure" in recipe.stages:
        for split in dataset.evaluate:
            resolve(recipe.kind.checked_by, what=f"family '{recipe.family}'")(
                Needed(
                    split,
                    dataset.split(split),
                    modalities,
                    answer=answer_of(recipe.task),
                    may_lack=modalities if recipe.student.fusion.missing == "placeholder" else (),
                    pairs=dataset.pairs.get(split, ()),
                )
            )
    check_calibration(recipe, dataset)
    if recipe.kind.answers and (recipe.teach.epochs or "distill" in recipe.stages):
        check_classes(recipe, dataset)


def check_classes(recipe: Recipe, dataset: Dataset) -> None:
    """Raise DataError where there is nothing to tell apart, or nothing of a split that can be told."""
    answer = answer_of(recipe.task)
    if not isinstance(answer, Classes):
        return
    if not answer.independent and len(dataset.labels) == 1:
        raise DataError(f"every training sample is of class '{dataset.labels[0]}'; a classifier needs two at least")
    for split in dataset.evaluate:
        if (names := set(distinct_labels(dataset.split(split)))) and names.isdisjoint(dataset.labels):
            raise DataError(
                f"split '{split}': no sample is of a class that a training sample has; expected the same classes, "
                "spelt the same"
            )


def check_modalities(config: DataConfig, dataset: Dataset, modalities: Sequence[str]) -> None:
    """Raise DataError for the first modality of the models that no sample of the data has."""
    for modality in modalities:
        if all(sample.raw(modality) is None for samples in dataset.splits.values() for sample in samples):
            where = config.root or config.kind
            known = modality in OWN
            how = f'name yours, data.columns.{modality} = "YOURS"' if known else f"name '{modality}' in data.tensors"
            raise DataError(
                f"{where}: no sample has '{modality}', and the recipe's models take {' and '.join(modalities)}; "
                + (f"add a column '{modality}', or {how}" if config.kind == "table" else "leave its tower out")
            )


def check_shapes(recipe: Recipe, dataset: Dataset) -> None:
    """Raise DataError for the first tensor that a tower takes in another shape than the data has it in."""
    sections: dict[str, ModelSection] = {"teacher": recipe.teacher} if recipe.teacher.source is None else {}
    if "distill" in recipe.stages:
        sections["student"] = recipe.student
    samples = [sample for found in dataset.splits.values() for sample in found]
    for role, section in sections.items():
        for name, tower in section.tensors.items():
            sample = next((s for s in samples if name in s.tensors), None)  # all others are alike
            if sample and (shape := check_tensor(sample.tensors[name].read_bytes())) != tower.shape:
                raise DataError(
                    f"{role}.tensors.{name}.shape: got {list(tower.shape)}, and sample '{sample.id}' has {list(shape)}"
                    "; make them equal"
                )


def check_calibration(recipe: Recipe, dataset: Dataset) -> None:
    """Raise DataError where a target is to be calibrated and the training samples lack a modality."""
    target = next((t for t in recipe.targets if t.precision != "float32"), None)
    if target is None or "quantize" not in recipe.stages:
        return
    for modality in recipe.modalities:
        if all(sample.raw(modality) is None for sample in dataset.split("train")):
            raise DataError(
                f"target '{target.name}': no sample of split 'train' has '{modality}', and {target.precision} is "
                'calibrated on real ones; give some, or set precision = "float32"'
            )

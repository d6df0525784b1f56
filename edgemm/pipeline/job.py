"""Job: a recipe and its data, which every stage is made from."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from edgemm.compress.bfloat16 import has_bfloat16
from edgemm.data import Dataset
from edgemm.pipeline.key_inputs import dataset_facts
from edgemm.pipeline.launch import threads_each
from edgemm.recipe import Recipe, TargetConfig
from edgemm.runtime.engines import compiles


class Job:
    """A recipe, its data, and what several stages ask of both."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe, self.dataset = recipe, dataset

    @cached_property
    def data(self) -> dict[str, Any]:
        """What of the data an output depends on."""
        return dataset_facts(self.dataset)

    @property
    def training(self) -> dict[str, Any]:
        """What a teacher's training depends on beside its sections."""
        recipe = self.recipe
        return {
            "family": recipe.family,
            "task": recipe.task,
            "seed": recipe.seed,
            "threads": threads_each(recipe.threads),
            "bfloat16": has_bfloat16(),  # what frozen towers compute in where the CPU can: other rows, other weights
            "data": self.data,
        }

    @cached_property
    def distilling(self) -> dict[str, Any]:
        """What a student's training depends on beside its sections."""
        return {**self.training, "data": dataset_facts(self.dataset, unlabelled=True)}

    @property
    def teachers_gallery(self) -> bool:
        """Whether the teacher embeds what a device searches in."""
        return self.recipe.pack.gallery_encoder == "teacher"

    @property
    def shipped(self) -> str:
        """Name of what ships in the tables, if it becomes what was asked for."""
        return "int8" if self.recipe.targets[0].precision == "int8" else "bundle"

    @property
    def int8_target(self) -> TargetConfig | None:
        """The first target that is int8 and runs graphs, which the teacher is quantized for as well; None without."""
        return next((t for t in self.recipe.targets if t.precision == "int8" and not compiles(t.engine)), None)

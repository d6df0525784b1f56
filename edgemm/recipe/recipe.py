"""The whole recipe, of all its sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgemm.recipe.data import DataConfig
from edgemm.recipe.families import FAMILIES, Family, FamilyName
from edgemm.recipe.messages import or_nearest
from edgemm.recipe.models import StudentSection, TeacherSection
from edgemm.recipe.section import Section
from edgemm.recipe.targets import BudgetConfig, CaptureConfig, MeasureConfig, PackConfig, QuantizeConfig, TargetConfig
from edgemm.recipe.training import DistillConfig, PruneConfig, TeachConfig
from edgemm.runtime.errors import RecipeError

Task = Literal["single-label", "multi-label", "regression"]
StageName = Literal["teach", "distill", "prune", "capture", "quantize", "build", "measure", "pack"]
STAGES: tuple[StageName, ...] = ("teach", "distill", "prune", "capture", "quantize", "build", "measure", "pack")


class Recipe(Section):
    """The whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name of the bundle, lower case.")
    family: FamilyName = Field(description="How the parts are joined.")
    task: Task = Field("single-label", description="What a fusion-classifier answers.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds every random draw.")
    threads: int = Field(
        2,
        ge=1,
        le=256,
        description="CPU threads of training, shared by the processes of a launch on one machine; sums depend on it in "
        "the last bit, so results do.",
    )
    stages: tuple[StageName, ...] = Field(
        STAGES, min_length=1, description="The stages to run, in the corridor's order."
    )
    data: DataConfig = Field(description="The samples.")
    teacher: TeacherSection = Field(TeacherSection(), description="The model to learn from.")
    student: StudentSection = Field(StudentSection(), description="The model that ships.")
    teach: TeachConfig = Field(TeachConfig(), description="Stage teach.")
    distill: DistillConfig = Field(DistillConfig(), description="Stage distill.")
    prune: PruneConfig = Field(PruneConfig(), description="Stage prune.")
    capture: CaptureConfig = Field(CaptureConfig(), description="Stage capture.")
    quantize: QuantizeConfig = Field(QuantizeConfig(), description="Stage quantize.")
    measure: MeasureConfig = Field(MeasureConfig(), description="Stage measure.")
    pack: PackConfig = Field(PackConfig(), description="Stage pack.")
    targets: tuple[TargetConfig, ...] = Field(
        (TargetConfig(name="cpu-int8"),),
        min_length=1,
        description="Where the bundle will run; the first is the default.",
    )
    budget: BudgetConfig = Field(BudgetConfig(), description="What the result must keep within.")

    @property
    def kind(self) -> Family:
        """The line of its family."""
        return FAMILIES[self.family]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the models as far as the recipe says them: of the student's towers, or the teacher's."""
        return tuple(self.student.towers or self.teacher.towers)

    @property
    def factories(self) -> tuple[str, ...]:
        """``module:factory`` of the Python code that the recipe names: all that a model's folder may name."""
        return (*self.teacher.factories, *self.student.factories)

    def target(self, name: str) -> TargetConfig:
        """Return the target of that name. Raises RecipeError naming the ones there are."""
        for target in self.targets:
            if target.name == name:
                return target
        raise RecipeError(f"no target '{name}'{or_nearest(name, [t.name for t in self.targets])}")

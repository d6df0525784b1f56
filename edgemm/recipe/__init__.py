"""Recipe: the TOML file that says everything, validated whole before anything runs.

Why: a wrong key must fail in the first second and name the right one, not after a day of training.
Standard library and pydantic only, so that validating, the JSON schema and ``edgemm plan`` need no torch.
Every field has a description: ``docs/recipe.md`` and the editors' schema are made from them.

What is in a recipe changes the output; how many workers or which device is used does not, and is not here.
Paths in a recipe file are relative to that file; paths given with ``--set`` are relative to the working folder.
"""

from edgemm.recipe.contradictions import part_names
from edgemm.recipe.data import DataConfig
from edgemm.recipe.families import FAMILIES, Family
from edgemm.recipe.fusions import FUSIONS, FusionMode, Joining
from edgemm.recipe.loading import load_recipe, recipe_from_values, recipe_values
from edgemm.recipe.messages import nearest
from edgemm.recipe.models import (
    AudioTower,
    ConvTower,
    Fusion,
    ImageTower,
    ModelSection,
    StudentSection,
    TeacherSection,
    TensorTower,
    TextTower,
)
from edgemm.recipe.paths import path_fields
from edgemm.recipe.recipe import STAGES, Recipe, StageName, Task
from edgemm.recipe.reference import docs_from_schema, recipe_schema
from edgemm.recipe.section import Section
from edgemm.recipe.targets import BudgetConfig, CaptureConfig, MeasureConfig, PackConfig, QuantizeConfig, TargetConfig
from edgemm.recipe.towers import TOWERS, Encoder
from edgemm.recipe.training import (
    AugmentConfig,
    Compared,
    DistillConfig,
    Loss,
    PruneConfig,
    TeachConfig,
    TrainingSection,
)

__all__ = [
    "FAMILIES",
    "FUSIONS",
    "STAGES",
    "TOWERS",
    "AudioTower",
    "AugmentConfig",
    "BudgetConfig",
    "CaptureConfig",
    "Compared",
    "ConvTower",
    "DataConfig",
    "DistillConfig",
    "Encoder",
    "Family",
    "Fusion",
    "FusionMode",
    "ImageTower",
    "Joining",
    "Loss",
    "MeasureConfig",
    "ModelSection",
    "PackConfig",
    "PruneConfig",
    "QuantizeConfig",
    "Recipe",
    "Section",
    "StageName",
    "StudentSection",
    "TargetConfig",
    "Task",
    "TeachConfig",
    "TeacherSection",
    "TensorTower",
    "TextTower",
    "TrainingSection",
    "docs_from_schema",
    "load_recipe",
    "nearest",
    "part_names",
    "path_fields",
    "recipe_from_values",
    "recipe_schema",
    "recipe_values",
]

"""Stages: which stage runs a recipe needs. One file each: what it reads, what its key holds, what it does.

The code that a key holds is what ``run`` of the stage's file reaches (``code_digest.py``). What a stage calls
in the rooms below is imported inside ``run``, so that a run in which everything is cached never loads torch.
"""

from __future__ import annotations

from dataclasses import replace

from edgemm.data import Dataset
from edgemm.pipeline.data_checks import check_data
from edgemm.pipeline.job import Job
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.pipeline.stages import build, capture, distill, draft, measure, pack, prune, quantize, report, teach
from edgemm.recipe import Recipe


def planned_stages(recipe: Recipe, dataset: Dataset) -> list[PlannedStage]:
    """Return the stage runs of a recipe, in an order in which each finds its inputs made.

    Raises:
        DataError: data without a modality of the models, or that can't be calibrated on, packed or measured on.
    """
    check_data(recipe, dataset)
    job = Job(recipe, dataset)
    trained = [teach.planned(job), distill.planned(job), prune.planned(job)]
    together = tuple(node.work for node in trained)  # a teacher's features are its students' as well
    models = [replace(node, cached_with=together) for node in trained if node.stage in recipe.stages]
    if "capture" not in recipe.stages:
        return models
    graphs = _graphs(job, models)
    nodes = [*models, *graphs]
    measured, packed = "measure" in recipe.stages, "pack" in recipe.stages
    if measured or packed:
        nodes.append(draft.planned(job, graphs[-1].name))
    if measured:
        nodes.append(measure.planned(job, [node.name for node in graphs]))
    if packed:
        nodes.append(pack.planned(job))
    if measured and packed:
        nodes.append(report.planned(job))
    return nodes


def _graphs(job: Job, models: list[PlannedStage]) -> list[PlannedStage]:
    """Return a float32 bundle of every model; of the last one, the graphs and plans that the targets need."""
    stages = job.recipe.stages
    nodes = [
        capture.planned(job, model)
        for model in models
        if model is models[-1] or "measure" in stages or (model.name == "teach" and job.teachers_gallery)
    ]
    if "quantize" in stages:
        teacher = nodes[0].name
        nodes.append(quantize.planned(job, nodes[-1].name))
        if job.int8_target is not None and teacher == "capture:teacher" and "distill" in stages:
            nodes.insert(1, quantize.planned_for_teacher(job, teacher))  # the last ones are those that ship
    if build.targets(job):
        nodes.append(build.planned(job, nodes[-1].name))
    return nodes

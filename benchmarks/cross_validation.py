"""Cross-validation of a recipe's teacher: settings are chosen on the training split, and not by the test split.

    python benchmarks/cross_validation.py RECIPE [--folds 4] [--split train] [--set a.b=value ...]

Concepts (dual encoders) or clusters of samples (classifiers) are split into folds by their names; a teacher is taught
without one fold and asked about it. Prints recall at rank 1 for every two modalities, or accuracy and macro F1, over
all folds together, and the spread between the folds. With the test split too (``--split train --split unseen``) it
is the figure for all the data, once the settings are chosen.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from edgemm.compress.teach import teach_
from edgemm.compress.tower_inputs import feeds_of
from edgemm.compress.training import Training
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset, Sample, open_dataset
from edgemm.models.builders import build_model
from edgemm.models.model import Model
from edgemm.pipeline.own_code import load_with_code
from edgemm.recipe import Recipe
from edgemm.runtime.outputs import answer_of, answers_in
from edgemm.stage import Context

CACHE = Path(".edgemm/cross-validation")


def outputs(
    model: Model, dataset: Dataset, split: str, context: Context
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the model makes of every sample of a split, and (N,) bool which samples have each modality."""
    corpus = corpus_of(dataset, split, answer=next(iter(answers_in(model.outputs).values()), None))
    frozen = [part.name for part in model.chain if part.role in ("frontend", "tower")]
    feeds = feeds_of(model, corpus, context, frozen=frozen, title="teacher")
    present = {m: corpus.present(m, torch.arange(len(corpus))) for m in feeds.modalities}
    values: dict[str, Tensor] = {}
    for modality, there in present.items():
        for name, made in feeds.values(modality, corpus.choose(modality, torch.arange(len(corpus)), None)).items():
            stand_in = model.placeholders.get(name)
            values[name] = made if there.all() or stand_in is None else torch.where(there[:, None], made, stand_in)
    with torch.no_grad():
        return model.eval()(values), present


def retrieved(
    made: Mapping[str, Tensor], present: Mapping[str, Tensor], samples: list[Sample]
) -> dict[str, list[bool]]:
    """For every query, whether the nearest item of the other modality has its label; a label's text is there once."""
    labels = np.array([s.label for s in samples])
    found = {}
    for query, item in permutations(present, 2):
        rows = {m: np.flatnonzero(present[m]) for m in (query, item)}
        for m in rows:
            if m == "text":
                rows[m] = rows[m][np.unique(labels[rows[m]], return_index=True)[1]]
        scores = made[f"{query}_embedding"][rows[query]] @ made[f"{item}_embedding"][rows[item]].T
        nearest = labels[rows[item]][scores.argmax(1).numpy()]
        askable = np.isin(labels[rows[query]], labels[rows[item]])
        found[f"R@1 {query}→{item}"] = list((nearest == labels[rows[query]])[askable])
    return found


def taught(recipe: Recipe, dataset: Dataset, texts: list[str], seed: int, context: Context) -> Model:
    """The recipe's teacher, taught on split ``train``."""
    model = build_model(
        recipe.teacher, family=recipe.family, answer=answer_of(recipe.task, dataset.labels), texts=texts, seed=seed
    )
    teach_(model, recipe.teach, Training(dataset, context, seed=seed), section=recipe.teacher)
    return model.requires_grad_(False)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--split", action="append")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    recipe = load_with_code(given.recipe, given.set)
    torch.set_num_threads(recipe.threads)
    CACHE.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(recipe.data, cache=CACHE / "data")
    samples = [sample for name in given.split or ["train"] for sample in dataset.split(name)]
    dual = recipe.family == "dual-encoder"
    names = [str(s.label) if dual else s.drawn_with() for s in samples]
    fold_of = [int(hashlib.md5(Path(name).name.encode()).hexdigest(), 16) % given.folds for name in names]
    folds: list[dict[str, float]] = []
    hits: dict[str, list[bool]] = {}
    truth, said = [], []
    for fold in range(given.folds):
        apart = [[s for s, f in zip(samples, fold_of, strict=True) if (f == fold) == held] for held in (False, True)]
        split = replace(dataset, splits={"train": apart[0], "held out": apart[1]})
        with tempfile.TemporaryDirectory() as scratch:
            context = Context(scratch=Path(scratch), cache=CACHE)
            model = taught(recipe, split, dataset.all_texts(), fold, context)
            made, present = outputs(model, split, "held out", context)
        if dual:
            found = retrieved(made, present, apart[1])
        else:
            answers = [model.outputs["logits"].labels[i] for i in made["logits"].argmax(1)]
            truth += [s.label for s in apart[1]]
            said += answers
            found = {"accuracy": [a == s.label for a, s in zip(answers, apart[1], strict=True)]}
        folds.append({name: float(np.mean(right)) for name, right in found.items()})
        for name, right in found.items():
            hits.setdefault(name, []).extend(right)
        print(f"fold {fold + 1} of {given.folds}: {len(apart[1])} samples held out", flush=True)
    for name, right in hits.items():
        spread = sorted(fold[name] for fold in folds)
        print(f"{name}: {100 * np.mean(right):.1f} % (folds {100 * spread[0]:.1f} to {100 * spread[-1]:.1f})")
    if truth:
        print(f"macro F1: {100 * f1_score(truth, said, average='macro'):.1f} %")


if __name__ == "__main__":
    main()

"""Stage prune: remove structure part by part, recover with the distillation loss, prove that what is saved runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgemm.compress.distill import distillation
from edgemm.compress.objective import Fed
from edgemm.compress.structure import macs_and_parameters, prune_part_
from edgemm.compress.teach import schedule_of
from edgemm.compress.trainer import train_
from edgemm.compress.training import Training
from edgemm.models.model import Model
from edgemm.models.store import load_model, save_model
from edgemm.recipe import DistillConfig, PruneConfig
from edgemm.runtime.errors import ModelError


def run(
    config: PruneConfig,
    training: Training,
    out: Path,
    *,
    teacher: Path,
    student: Path,
    distill: DistillConfig,
    factories: Collection[str] = (),
) -> None:
    """Prune the model in the folder ``student``, recover it from ``teacher``, save it in ``out``, run what was saved.

    Args:
        distill: the losses of the recovery; epochs, batch and learning rate are ``config``'s.
        factories: the Python factories that both may come from; see ``load_model``.

    Raises:
        ModelError: a ratio for a part that doesn't exist or has nothing to remove, or a model that computes
            something else after it was saved and loaded.
    """
    training.set_threads()
    context, seed = training.context, training.seed
    taught_by, pruned = (load_model(folder, factories=factories) for folder in (teacher, student))
    for name, ratio in config.ratios.items():
        pruned.part(name)
        if not 0 <= ratio < 1:
            raise ModelError(f"prune.ratios.{name}: got {ratio}, expected at least 0 and less than 1")
    recovery = distill.model_copy(
        update={"epochs": config.epochs, "batch": config.batch, "learning_rate": config.learning_rate}
    )
    objective = distillation(pruned, taught_by, recovery, training)
    examples = _examples(objective, pruned)
    before = {
        name: macs_and_parameters(pruned.part(name), examples[name]) for name in config.ratios if name in examples
    }
    if config.importance == "taylor":
        _accumulate_gradients_(
            objective,
            [name for name, ratio in config.ratios.items() if ratio],
            batches=config.batches,
            batch=config.batch,
            seed=seed,
        )
    for name, ratio in config.ratios.items():
        prune_part_(
            pruned.part(name), examples[name], ratio=ratio, importance=config.importance, round_to=config.round_to,
            floor=config.floor,
        )  # fmt: skip
    pruned.zero_grad(set_to_none=True)
    for name, (old_macs, old_parameters) in before.items():
        macs, parameters = macs_and_parameters(pruned.part(name), examples[name])
        context.progress.say(
            f"prune: {name}: {old_parameters:,} → {parameters:,} parameters, "
            f"{old_macs / 1e6:.1f} → {macs / 1e6:.1f} million multiply-accumulates"
        )
    train_(
        objective,
        schedule_of(recovery),
        samples=len(objective.corpus),
        seed=seed + 1,
        scratch=context.scratch,
        progress=context.progress,
        title="prune: recover",
    )
    pruned.eval()
    save_model(pruned, out)
    _check_reloaded(pruned, out, examples, factories=factories)


def _examples(objective: Fed, student: Model) -> dict[str, tuple[Tensor, ...]]:
    """Inputs of every part but the frontends, from one sample; part name -> tensors with batch 1."""
    student.eval()
    with torch.no_grad():
        given = objective.examples(torch.Generator().manual_seed(0))
        return {part.name: tuple(feeds.values()) for part, feeds, _ in student.trace(given) if part.role != "frontend"}


def _accumulate_gradients_(objective: Fed, pruned: Iterable[str], *, batches: int, batch: int, seed: int) -> None:
    """Leave the gradient of the loss over a few batches in the parameters (batch norms keep their statistics)."""
    objective.eval()
    objective.zero_grad(set_to_none=True)
    count = len(objective.corpus)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    size = min(batch, count)
    for step in range(min(batches, count // size)):
        generator = torch.Generator().manual_seed(seed * 1009 + step)
        objective(order[step * size : (step + 1) * size], generator).backward()
    for name in pruned:
        if all(p.grad is None for p in objective.model.part(name).module.parameters()):
            raise ModelError(
                f"prune.ratios.{name}: no sample of the first {batches} batches has what its channels are ranked by; "
                'raise prune.batches, or set prune.importance = "l2"'
            )


def _check_reloaded(
    model: Model, folder: Path, examples: Mapping[str, tuple[Tensor, ...]], *, factories: Collection[str]
) -> None:
    """What was saved has to load and compute the same, bit for bit. Raises ModelError naming the part."""
    again = load_model(folder, factories=factories)
    with torch.no_grad():
        for name, values in examples.items():
            expected, got = model.part(name).module(*values), again.part(name).module(*values)
            if not torch.equal(expected, got):
                error = (expected - got).abs().max().item()
                raise ModelError(
                    f"prune: part '{name}' computes something else after it was saved and loaded ({error})"
                )

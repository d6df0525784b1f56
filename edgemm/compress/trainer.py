"""Trainer: one training loop for all stages, which a SIGKILL at any moment does not change by a bit.

Every random draw of a step comes from a seed made of (seed, step), never from what happened before; so a run resumed
from a checkpoint at step k draws what an undisturbed run draws, and ends in the same weights (same machine, same
thread count). A checkpoint is one safetensors file, replaced atomically, whose header holds the step as JSON, and a
digest of it all: training doesn't go on from one that was damaged.

`accelerate` is underneath: the processes of a launch (``torchrun``, on GPUs ``accelerate launch`` as well) split each
batch among them; process 0 alone writes.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemm.runtime.disk import replacing
from edgemm.runtime.errors import ModelError
from edgemm.stage import Progress

CHECKPOINT = "checkpoint.safetensors"
FEW_STEPS = 20
"""Fewer steps than these teach hardly anything, which is said."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Args:
        epochs: passes over the samples.
        batch: samples in a batch; the last, smaller one of an epoch is dropped unless it is the only one.
        learning_rate: peak, reached after the warm-up and followed by half a cosine to zero.
        weight_decay: AdamW's, on matrices and convolutions only.
        warmup: fraction of the steps in which the rate rises linearly.
        clip: largest norm of the gradient.
        ema: decay of the exponential moving average of the weights, which is the result; 0 for none.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 5.0
    ema: float = 0.0

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of one step, counted from 0."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Objective(nn.Module):
    """What is minimised: holds the trained modules, and turns rows of the training data into a loss."""

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of a batch.

        Args:
            rows: (B,) int64 rows of the training data.
            generator: seeded by the step; the only source of randomness beside torch's default generator, which is
                seeded likewise.

        Returns:
            Scalar.
        """
        raise NotImplementedError

    def rates(self) -> Mapping[str, float]:
        """Prefix of parameter names -> factor of their learning rate; the longest prefix wins, 1 without any."""
        return {}


def train_(
    objective: Objective,
    schedule: Schedule,
    *,
    samples: int,
    seed: int,
    scratch: Path,
    progress: Progress,
    title: str,
    checkpoint_seconds: float = 20.0,
) -> None:
    """Train in place; with an EMA the averaged weights are left in ``objective``.

    Args:
        samples: rows of the training data.
        scratch: folder of the checkpoint; a checkpoint of the same run found there is resumed, one of another run
            is passed over.
        title: names the run in progress and messages.
        checkpoint_seconds: at least so long between two checkpoints.

    Raises:
        ModelError: no samples, or the loss is not finite.
    """
    if samples < 1:
        raise ModelError(f"{title}: no samples to train on; the split 'train' is empty")
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if schedule.epochs == 0 or not trained:
        return
    keep_freed_memory()
    objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time for a CNN on CPUs
    # a batch in which no sample has some modality leaves that tower's parameters without a gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
    batch = min(schedule.batch, samples)
    per_epoch = samples // batch
    steps = per_epoch * schedule.epochs
    if steps < FEW_STEPS and accelerator.is_main_process:
        progress.say(
            f"{title}: only {steps} step{'s' if steps > 1 else ''} ({samples} samples, batch {batch}, epochs "
            f"{schedule.epochs}); that teaches little, lower its batch or raise its epochs"
        )
    optimizer = torch.optim.AdamW(
        _groups(trained, objective.rates(), schedule.weight_decay), lr=schedule.learning_rate, fused=True
    )
    factors = [group["factor"] for group in optimizer.param_groups]
    names = [name for group in optimizer.param_groups for name in group["names"]]
    averaged = _averaged(objective) if schedule.ema else {}
    identity = _identity(schedule, samples=samples, seed=seed, world=accelerator.num_processes, names=names)
    found = _checkpoint(scratch / CHECKPOINT, identity=identity)
    if found == "damaged" and accelerator.is_main_process:
        progress.say(f"{title}: {scratch / CHECKPOINT}: damaged since it was written; training starts again")
    first = _resume_(found, objective, optimizer, names, averaged) if isinstance(found, _Checkpoint) else 0
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    wrapped.train()
    _train_only_trained_(objective)
    saved = time.monotonic()
    order, order_epoch = torch.empty(0, dtype=torch.int64), -1
    smooth = float("nan")
    with progress.task(title, total=steps) as task:
        if first:
            task.advance(first, note=f"resumed at step {first} of {steps}")
        for step in range(first, steps):
            epoch, turn = divmod(step, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = torch.randperm(samples, generator=_generator(seed, "epoch", epoch)), epoch
            rows = order[turn * batch : (turn + 1) * batch]
            rows = rows[accelerator.process_index :: accelerator.num_processes]
            generator = _generator(seed, f"step of process {accelerator.process_index}", step)
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            rate = schedule.rate(step, steps)
            for group, factor in zip(optimizer.param_groups, factors, strict=True):
                group["lr"] = rate * factor
            loss = wrapped(rows, generator)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(
                    f"{title}: the loss is {value} at step {step + 1} of {steps} (epoch {epoch + 1}); "
                    f"lower its learning_rate (now {schedule.learning_rate}), or look for broken samples"
                )
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(list(trained.values()), schedule.clip)
            optimizer.step()
            if averaged:
                _average_(averaged, objective, min(schedule.ema, (1 + step) / (10 + step)))
            smooth = value if math.isnan(smooth) else 0.9 * smooth + 0.1 * value
            task.advance(1, note=f"loss {smooth:.3f}")
            # The end of a short epoch alone is no reason to write hundreds of megabytes.
            waited = time.monotonic() - saved
            due = waited >= checkpoint_seconds or (turn == per_epoch - 1 and waited >= 2.0)
            if due and step + 1 < steps and accelerator.is_main_process:
                _save(scratch / CHECKPOINT, objective, optimizer, names, averaged, step + 1, identity=identity)
                saved = time.monotonic()
    accelerator.wait_for_everyone()
    if averaged:
        _assign_(objective, averaged)
    objective.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    objective.eval()


def told_by_first(text: str) -> str:
    """Return what the first process of a launch gave, in every one of them; they wait for each other here."""
    PartialState(cpu=not torch.cuda.is_available())
    told = [text]
    broadcast_object_list(told, from_process=0)
    return told[0]


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of handing it back; a no-op elsewhere.

    A convolutional network frees and takes the same megabytes in every layer, and each time the kernel has to clear
    the pages again: EfficientNet-Lite0 at batch 32 took 2.2 times as long without this.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _generator(seed: int, purpose: str, count: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{purpose}/{count}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _groups(
    trained: Mapping[str, nn.Parameter], rates: Mapping[str, float], weight_decay: float
) -> list[dict[str, object]]:
    """AdamW's groups: by factor of the learning rate, and decayed (two or more dims) or not."""
    groups: dict[tuple[float, bool], list[str]] = {}
    for name, parameter in trained.items():
        prefix = max((p for p in rates if name.startswith(p)), key=len, default=None)
        factor = 1.0 if prefix is None else rates[prefix]
        groups.setdefault((factor, parameter.ndim >= 2), []).append(name)
    return [
        {
            "params": [trained[name] for name in names],
            "names": names,
            "factor": factor,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (factor, decayed), names in groups.items()
    ]


def _train_only_trained_(objective: nn.Module) -> None:
    """Put modules without a trained parameter of their own below them into evaluation mode (frozen batch norms)."""
    for module in objective.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


# --- the moving average ----------------------------------------------------------------------------------------------


def _state(objective: nn.Module) -> dict[str, Tensor]:
    """Return every tensor of the objective, by name; the tensors themselves, not copies."""
    return dict(objective.state_dict(keep_vars=False))


def _averaged(objective: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in _state(objective).items()}


@torch.no_grad()
def _average_(averaged: Mapping[str, Tensor], objective: nn.Module, decay: float) -> None:
    for name, value in _state(objective).items():
        if value.is_floating_point():
            averaged[name].lerp_(value.to(averaged[name].device), 1 - decay)
        else:
            averaged[name].copy_(value)


@torch.no_grad()
def _assign_(objective: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in _state(objective).items():
        value.copy_(values[name])


# --- the checkpoint --------------------------------------------------------------------------------------------------


def _identity(schedule: Schedule, *, samples: int, seed: int, world: int, names: list[str]) -> str:
    """Return what must agree for a checkpoint to be this run's."""
    facts = {**asdict(schedule), "samples": samples, "seed": seed, "world": world, "names": names}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _save(
    path: Path,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: list[str],
    averaged: Mapping[str, Tensor],
    step: int,
    *,
    identity: str,
) -> None:
    tensors = {f"weights/{name}": value for name, value in _state(objective).items()}
    tensors |= {f"averaged/{name}": value for name, value in averaged.items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        for moment, value in optimizer.state[parameter].items():
            tensors[f"{moment}/{name}"] = value
    # clone: safetensors refuses tensors that share memory
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    digest = _digest(plain, step=json.dumps(step), identity=identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(plain, partial, metadata={"step": json.dumps(step), "identity": identity, "sha256": digest})


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    tensors: Mapping[str, Tensor]
    step: int


def _checkpoint(path: Path, *, identity: str) -> _Checkpoint | Literal["damaged"] | None:
    """Return the checkpoint of that run; None where there is none, or one of another run."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError):
        return "damaged"
    facts = {name: metadata.get(name, "") for name in ("step", "identity")}
    if metadata.get("sha256") != _digest(tensors, **facts):
        return "damaged"
    return _Checkpoint(tensors, int(facts["step"])) if facts["identity"] == identity else None


def _digest(tensors: Mapping[str, Tensor], *, step: str, identity: str) -> str:
    """Return sha256 (64 hex digits) of what a checkpoint holds."""
    digest = hashlib.sha256(f"{step} {identity}\n".encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _resume_(
    checkpoint: _Checkpoint,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: list[str],
    averaged: dict[str, Tensor],
) -> int:
    """Restore everything from the checkpoint; returns the next step."""
    tensors = checkpoint.tensors
    _assign_(objective, {n.removeprefix("weights/"): t for n, t in tensors.items() if n.startswith("weights/")})
    for name in averaged:
        averaged[name].copy_(tensors[f"averaged/{name}"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        # in the parameter's own memory layout: another one takes other loops, which round differently
        optimizer.state[parameter] = {
            "step": tensors[f"step/{name}"].clone(),
            "exp_avg": torch.empty_like(parameter).copy_(tensors[f"exp_avg/{name}"]),
            "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"exp_avg_sq/{name}"]),
        }
    return checkpoint.step

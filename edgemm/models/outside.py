"""Teachers from outside: Hugging Face models, folders saved by edgemm, and one's own Python factory."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from edgemm.models.huggingface import Encoder, model_from_hub
from edgemm.models.model import Model, Part
from edgemm.models.part_kinds import kinds
from edgemm.models.store import load_model
from edgemm.runtime.errors import ModelError
from edgemm.runtime.fields import one_line
from edgemm.runtime.outputs import TASKS, Classes, answers_in, embeddings_in, recognised
from edgemm.runtime.readers import TensorInput
from edgemm.runtime.signature import Signature


def teacher_from_source(
    source: str, *, family: str | None = None, labels: Sequence[str] = (), task: str | None = None
) -> Model:
    """Return the model that ``source`` names.

    Args:
        source: ``hf:NAME_OR_FOLDER`` (see ``edgemm.models.huggingface``), ``folder:PATH`` (saved by ``save_model``), or
            ``python:module:factory``, where ``factory()`` returns a ``Model``, or an ``nn.Module`` with an attribute
            ``signature``, which becomes a model of one part.
        family: what the recipe expects, and of BLIP what it is taken for; None takes any.
        labels: the data's classes, which a classifier has to share, in an order of its own; empty takes any.
        task: of a model from a module without a word of its own on what its answer means; see ``outputs.TASKS``.

    Raises:
        ModelError: what, where, and what was expected.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "hf" and rest:
        model = model_from_hub(rest, family=family, answers=labels)
        _independent_as_(model, task)
    elif scheme == "folder" and rest:
        model = load_model(Path(rest))
    elif scheme == "python" and rest.count(":") == 1 and all(rest.split(":")):
        model = _from_factory(rest, task=task, where=f"teacher.source '{source}'")
    else:
        raise ModelError(
            f"teacher.source: got '{source}', expected hf:NAME_OR_FOLDER, folder:PATH or python:module:factory"
        )
    if model.family == "outside" and family is not None:
        model.family = _family_of(model)
    if labels:
        _take_labels_(model, labels, source=source)
    if family is not None and model.family != family:
        raise ModelError(f"teacher.source '{source}' is of family '{model.family}', the recipe says '{family}'")
    for output in model.outputs.values():
        if isinstance(output, Classes) and labels and (odd := sorted(set(output.labels) ^ set(labels))):
            few = f"; expected {', '.join(repr(label) for label in output.labels)}" if len(output.labels) < 10 else ""
            raise ModelError(
                f"teacher.source '{source}': its {len(output.labels)} classes are not the data's {len(labels)}; "
                f"'{odd[0]}' is in only one of them{few}; label the data as the teacher does, or leave those samples "
                "out"
            )
    return model


def _family_of(model: Model) -> str:
    """Return what a model of unknown family is, by what it puts out."""
    if answers_in(model.outputs):
        return "fusion-classifier"
    embeddings = [name for name in embeddings_in(model.outputs) if name.endswith("_embedding")]
    return "dual-encoder" if len(embeddings) > 1 else "embedder" if embeddings else "outside"


def _independent_as_(model: Model, task: str | None) -> None:
    """Take the classes of a checkpoint, which says nothing of it, for independent ones where the task says so."""
    wanted = TASKS[task] if task is not None else None
    for name, output in model.outputs.items():
        if isinstance(output, Classes) and isinstance(wanted, Classes):
            model.outputs[name] = replace(output, independent=wanted.independent)


def _take_labels_(model: Model, labels: Sequence[str], *, source: str) -> None:
    """Name the classes of a classifier that doesn't name them itself, in place."""
    widths = {spec.name: spec.shape[-1] for part in model.chain for spec in part.signature.outputs}
    for name, output in model.outputs.items():
        if not isinstance(output, Classes) or output.labels:
            continue
        if widths[name] != len(labels):
            raise ModelError(
                f"teacher.source '{source}': its {name} have {widths[name]} classes, the data {len(labels)} labels"
            )
        model.outputs[name] = replace(output, labels=tuple(labels))


# --- python ----------------------------------------------------------------------------------------------------------


def _from_factory(path: str, *, task: str | None, where: str) -> Model:
    made = _call(path, where=where)
    if isinstance(made, Model):
        model = Model(
            made.family, _named_after(path, made), inputs=made.inputs, outputs=made.outputs,
            placeholders=dict(made.placeholders.items()),
        )  # fmt: skip
        model.tokenizer_json = made.tokenizer_json
        return model.eval()
    signature = getattr(made, "signature", None)
    if not isinstance(signature, Signature):
        raise ModelError(
            f"{where}: got {type(made).__name__}; expected an edgemm Model, or an nn.Module with an attribute "
            "'signature' (edgemm.runtime.signature.Signature)"
        )
    made.eval()
    part = Part("model", "tower", None, "python", {"factory": path}, signature, made)
    inputs = {spec.name: TensorInput(spec.name) for spec in signature.inputs}
    return Model("outside", [part], inputs=inputs, outputs=recognised(signature.outputs, task=task))


def _named_after(path: str, made: Model) -> list[Part]:
    """A factory's parts: of a kind that a config rebuilds, or of kind ``python``, which the factory makes again."""
    return [
        part
        if part.kind in kinds() and part.kind != "python"  # another factory's is this one's now: this one is named
        else replace(part, kind="python", config={"factory": path, "part": part.name})
        for part in made.chain
    ]


def tower_from_factory(weights: str, *, modality: str) -> nn.Module | Encoder:
    """Return a tower that the user's own code makes: weights of another library, or an architecture of its own.

    Args:
        weights: ``python:module:factory``, where ``factory()`` returns an ``nn.Module``, which sees what the recipe's
            frontend of the modality makes, or a ``Model`` of that one modality with its own frontend and tokenizer,
            whose output is ``<modality>_features``.

    Returns:
        The module; or the Model's frontend, tower, raw input and tokenizer.

    Raises:
        ModelError: code that can't be run, or that makes something else.
    """
    path, where = weights.removeprefix("python:"), f"{modality}.weights '{weights}'"
    if path.count(":") != 1 or not all(path.split(":")):
        raise ModelError(f"{where}: expected python:module:factory")
    made = _call(path, where=where)
    if not isinstance(made, Model):
        if modality == "text":
            raise ModelError(
                f"{where}: returned {type(made).__name__}, which has no tokenizer; expected an edgemm Model with a "
                "tokenizer_json"
            )
        return made.eval()
    parts = _named_after(path, made)
    got = ([*made.inputs], [part.role for part in parts], [*made.outputs])
    if got not in [([modality], roles, [f"{modality}_features"]) for roles in (["tower"], ["frontend", "tower"])]:
        raise ModelError(
            f"{where}: returned a Model of {', '.join(got[0])} with parts {', '.join(got[1])} that makes "
            f"{', '.join(got[2])}; expected one of {modality} with a tower, and a frontend before it where it needs "
            f"one, that makes {modality}_features"
        )
    if modality == "text" and made.tokenizer_json is None:
        raise ModelError(f"{where}: the Model that it returned has no tokenizer_json")
    tower = replace(parts[-1], name=modality)  # whatever its author calls it
    frontend = replace(parts[0], name=f"{modality}_frontend") if len(parts) == 2 else None
    return Encoder(frontend, tower, made.inputs[modality], made.tokenizer_json)


def module_from_factory(*, factory: str, part: str | None = None) -> nn.Module:
    """Return a part that the user's own code makes (kind ``python``). Raises ModelError."""
    made = _call(factory, where=f"'python:{factory}'")
    if part is None:
        return made
    if not isinstance(made, Model):
        raise ModelError(f"'python:{factory}' returned {type(made).__name__}, expected an edgemm Model as before")
    return made.part(part).module


def _call(path: str, *, where: str) -> nn.Module:
    name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(
            f"{where}: can't import '{name}' ({one_line(error)}); is it in the working folder, or on PYTHONPATH?"
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ModelError(f"{where}: module '{name}' has no '{attribute}'")
    try:
        made = factory()
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(f"{where}: the factory failed with {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{where}: returned {type(made).__name__}, expected an nn.Module or an edgemm Model")
    return made

"""A student that starts from its teacher: towers made smaller, joints where they fit, word rows by vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from edgemm.models.builders import build_model
from edgemm.models.heads import Projection
from edgemm.models.model import Model
from edgemm.models.smaller import inheriting
from edgemm.models.text import TextTransformer
from edgemm.models.tokenizer import nearest_tokens, tokenizer_from_json
from edgemm.recipe import StudentSection
from edgemm.runtime.outputs import Classes, answers_in
from edgemm.runtime.readers import ImageInput


def build_student(
    section: StudentSection,
    teacher: Model,
    *,
    family: str,
    texts: Sequence[str] = (),
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> Model:
    """Return the student of a recipe, on the teacher's labels, with what can be inherited inherited.

    Text is read with the teacher's tokenizer, or by a tower with weights of its own with theirs.

    Args:
        section: the student's towers.
        teacher: where labels, tokenizer and weights come from.
        family: a name in ``edgemm.recipe.FAMILIES``.
        texts: what a trimmed vocabulary has to cover.
        seed: of what isn't inherited.
        say: told for each part that should inherit how much of it did.

    Raises:
        ModelError: a section that contradicts itself.
    """
    student = build_model(
        section,
        family=family,
        answer=next(iter(answers_in(teacher.outputs).values()), Classes()),
        texts=texts,
        tokenizer_json=teacher.tokenizer_json,
        token_order=token_order(teacher, texts),
        text_like=_pooled_like(teacher),
        smaller=True,
        seed=seed,
    )
    for modality, raw in student.inputs.items():
        seen = teacher.inputs.get(modality)
        if isinstance(seen, ImageInput):
            student.inputs[modality] = raw.in_range(seen.grey_range)
    drawn = {part.name: _weights(part.module) for part in student.chain}
    parts = {part.name: part.module for part in teacher.chain}
    loaded = {modality for modality, tower in section.towers.items() if getattr(tower, "weights", None) is not None}
    for modality in section.towers:
        if section.inherit not in ("all", modality):
            continue
        source, target = parts.get(modality), student.part(modality).module
        if modality not in loaded and source is not None:
            _inherit_tower_(student, teacher, target, source)
        _inherit_projection_(target, parts.get(f"{modality}_projection"))
    if section.inherit == "all":
        _inherit_joints_(student, teacher)
    for part in student.chain:
        if drawn[part.name] and part.name not in loaded and section.inherit in ("all", part.name):
            say(f"{part.name}: {_how_much(drawn[part.name], _weights(part.module))}")
    return student


def _inherit_tower_(student: Model, teacher: Model, target: torch.nn.Module, source: torch.nn.Module) -> None:
    """Towers of one kind; what has no rule here, or is of another kind, keeps its random weights."""
    if rule := inheriting(target, source):
        ours, theirs = student.tokenizer_json, teacher.tokenizer_json
        rule(target, source, shared_rows(ours, theirs) if ours and theirs else ())
    elif _shapes(source) == _shapes(target):
        target.load_state_dict(source.state_dict())


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weight of every layer that has one of two or more dimensions; norms follow their layer."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.dim() > 1}


def _how_much(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """Return how many of a part's layers inheriting has changed, in words."""
    count = sum(not torch.equal(weight, after[name]) for name, weight in before.items())
    if count == 0:
        return f"none of its {len(before)} layers fits the teacher's; it starts from random weights"
    if count == len(before):
        return f"all {count} layers start from the teacher's"
    return f"{count} of {len(before)} layers start from the teacher's, the rest from random weights"


def _pooled_like(teacher: Model) -> dict[str, object]:
    """Return how the teacher's own text tower pools: weights that are inherited from it were trained for that."""
    config = next((part.config for part in teacher.chain if isinstance(part.module, TextTransformer)), {})
    return {key: config[key] for key in ("pooling", "norm_eps") if key in config}


def token_order(teacher: Model, texts: Sequence[str]) -> list[str]:
    """Tokens of the teacher's vocabulary, nearest to ``texts`` first; none where its text tower shows no word table."""
    tower = next((part.module for part in teacher.chain if part.name == "text"), None)
    if not isinstance(tower, TextTransformer) or teacher.tokenizer_json is None or not texts:
        return []
    with torch.no_grad():
        table = tower.words.weight if tower.widen is None else tower.widen(tower.words.weight)
    return nearest_tokens(teacher.tokenizer_json, texts, table.detach().float().numpy())


def _inherit_projection_(tower: torch.nn.Module, source: torch.nn.Module | None) -> None:
    """Copy a teacher's linear projection part into a student's tower, where all its features are there."""
    target = getattr(tower, "projection", None)
    if not isinstance(target, torch.nn.Linear) or not isinstance(source, Projection) or source.up is not None:
        return
    if target.weight.shape == source.linear.weight.shape:
        target.load_state_dict(source.linear.state_dict())


def _inherit_joints_(student: Model, teacher: Model) -> None:
    """Copy fusion, heads and placeholders where the towers' features are as wide as the teacher's: all shapes agree."""
    sources = {part.name: part for part in teacher.chain}
    for part in student.chain:
        source = sources.get(part.name)
        if part.role not in ("fusion", "head") or source is None or source.kind != part.kind:
            continue
        if _shapes(source.module) == _shapes(part.module):
            part.module.load_state_dict(source.module.state_dict())
    with torch.no_grad():
        for name, value in student.placeholders.items():
            if name in teacher.placeholders and teacher.placeholders[name].shape == value.shape:
                value.copy_(teacher.placeholders[name])


def shared_rows(student_tokenizer: str, teacher_tokenizer: str) -> list[int]:
    """Return for every id of the student's vocabulary the teacher's id of the same token, or of the unknown token."""
    teacher = tokenizer_from_json(teacher_tokenizer).get_vocab(with_added_tokens=True)
    student = tokenizer_from_json(student_tokenizer).get_vocab(with_added_tokens=True)
    unknown = teacher.get("[UNK]", 0)
    tokens = sorted(student, key=student.__getitem__)
    return [teacher.get(token, unknown) for token in tokens]

"""Contradictions: what no single field can see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from edgemm.recipe.data_kinds import READERS, reader_of
from edgemm.recipe.families import read_by
from edgemm.recipe.fusions import FUSIONS
from edgemm.recipe.messages import or_nearest
from edgemm.recipe.models import AudioTower, ImageTower, ModelSection, TensorTower, TextTower
from edgemm.recipe.paths import path_fields
from edgemm.recipe.recipe import STAGES, Recipe, StageName
from edgemm.recipe.section import Section
from edgemm.runtime.engines import ENGINES, compiles
from edgemm.runtime.manifest import RESERVED


def contradictions(recipe: Recipe) -> Iterator[str]:
    """Yield what single fields can't see: stages out of order, targets that can't be made."""
    order = [STAGES.index(stage) for stage in recipe.stages]
    if order != sorted(set(order)):
        yield f"stages: expected each once and in the order {list(STAGES)}, got {list(recipe.stages)}"
    needs: dict[str, tuple[StageName, ...]] = {
        "distill": ("teach",),
        "prune": ("teach", "distill"),
        "capture": ("teach",),
        "quantize": ("capture",),
        "build": ("capture",),
        "measure": ("capture",),
        "pack": ("capture",),
    }
    for stage in recipe.stages:
        if missing := [need for need in needs.get(stage, ()) if need not in recipe.stages]:
            yield f"stages: '{stage}' needs {', '.join(repr(m) for m in missing)} before it"
    yield from _towers_named(recipe)
    parts = part_names(recipe)
    for name in recipe.prune.ratios:
        if name not in parts:
            yield f"prune.ratios.{name}: no part of the student{or_nearest(name, parts)}"
    yield from _impossible_models(recipe)
    if recipe.data.pairs is not None:
        if not reader_of(recipe.data.kind).takes_pairs:
            kinds = " or ".join(repr(kind) for kind, line in READERS.items() if line.takes_pairs)
            yield f"data.pairs: for data of kind {kinds}, got '{recipe.data.kind}'"
        if recipe.kind.answers or recipe.kind.searches:
            yield f"data.pairs: for an embedder, which is measured by verification; {_a(recipe.family)} is not"
    yield from _unread_options(recipe)
    if "distill" in recipe.stages:
        yield from _useless_losses(recipe)
    if recipe.pack.gallery_encoder == "teacher":
        if not recipe.kind.searches or "distill" not in recipe.stages:
            yield "pack.gallery_encoder: 'teacher' is for a dual-encoder that is distilled from one"
        elif not recipe.distill.feature and not recipe.distill.interactive:
            yield (
                "pack.gallery_encoder: 'teacher' needs a student in the teacher's space; give distill.feature or "
                "distill.interactive a weight"
            )
    seen: set[str] = set()
    ships = "measure" in recipe.stages or "pack" in recipe.stages
    for index, target in enumerate(recipe.targets):
        at = f"targets.{index}"
        if target.name in seen:
            yield f"{at}.name: '{target.name}' is there twice; each target needs a name of its own"
        seen.add(target.name)
        gpu, precisions = compiles(target.engine), ENGINES[target.engine].precisions
        if gpu and target.compute_capability is None:
            yield f"{at}.compute_capability: missing; engine '{target.engine}' builds for one, e.g. \"8.6\""
        if not gpu and target.compute_capability is not None:
            yield f"{at}.compute_capability: only for {_compiling()}, got engine '{target.engine}'"
        if gpu and ships and "build" not in recipe.stages:
            yield f"{at}: engine '{target.engine}' needs the stage 'build', which is not in stages"
        if target.precision not in precisions:
            takes = " or ".join(precisions)
            yield f"{at}.precision: '{target.precision}' is for {_compiling()}; '{target.engine}' takes {takes}"
        if target.precision == "int8" and ships and "quantize" not in recipe.stages:
            yield f"{at}.precision: 'int8' needs the stage 'quantize', which is not in stages"


def _compiling() -> str:
    return " and ".join(name for name in ENGINES if compiles(name))


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


_READ_BY_FUSIONS: Mapping[str, tuple[str, ...]] = {  # of edgemm's own; one from outside takes what it likes
    "concat": ("hadamard",),
    "query": ("cross-attention",),
    "layers": ("early",),
    "heads": ("cross-attention", "early"),
    "norm": ("hadamard", "concat", "sum", "mean", "gated", "hierarchical", "hybrid"),
}


def _unread_options(recipe: Recipe) -> Iterator[str]:
    """Options that are given, and that nothing reads: of another family, another task or another fusion."""
    sections = {"teach": recipe.teach, "distill": recipe.distill}
    for stage in [name for name in ("teach", "distill") if name in recipe.stages]:
        for option, families in read_by(stage).items():
            if recipe.family not in families and _is_given(sections[stage], option):
                read = " or ".join(_a(family) for family in families)
                yield f"{stage}.{option}: for {read}; {_a(recipe.family)} doesn't read it, leave it out"
    for option in ("label_smoothing", "balance"):
        if recipe.kind.answers and recipe.task != "single-label" and _is_given(recipe.teach, option):
            yield f"teach.{option}: for the task 'single-label', got '{recipe.task}'; leave it out"
    for name, section in (("teacher", recipe.teacher), ("student", recipe.student)):
        mode = section.fusion.mode
        if not recipe.kind.answers or not (FUSIONS[mode].made_by or "edgemm.").startswith("edgemm."):
            continue
        for option, modes in _READ_BY_FUSIONS.items():
            if mode not in modes and _is_given(section.fusion, option):
                yield f"{name}.fusion.{option}: for mode {' or '.join(modes)}; '{mode}' doesn't read it, leave it out"


def _is_given(section: Section, option: str) -> bool:
    """Return whether the recipe says something by it: neither what holds anyway, nor nothing."""
    value = getattr(section, option)
    return bool(value) and value != type(section).model_fields[option].default


def _useless_losses(recipe: Recipe) -> Iterator[str]:
    """Losses that are missing where something is to be learnt, or that can't be."""
    distill, answers = recipe.distill, recipe.kind.answers
    features = bool(distill.feature or any(distill.losses("features" if answers else "embeddings")))
    if answers:
        taught = features or distill.teaches_joints
    else:
        pairs = [option for option in ("affinity", "interactive", "contrastive") if option in recipe.kind.distill]
        taught = features or bool(distill.hidden) or any(getattr(distill, option) for option in pairs)
    if distill.epochs and not taught:
        yield f"distill: no loss of {_a(recipe.family)} has a weight; give one a weight, or set distill.epochs = 0"
    if answers and not distill.teaches_joints:
        if distill.mixed:
            yield "distill.mixed: it is for what the teacher answers; give distill.kd a weight, or set it to 0"
        for name in recipe.prune.ratios:
            if name not in recipe.student.towers:
                yield (
                    f"prune.ratios.{name}: no loss of [distill] teaches it, so nothing would rank or recover its "
                    "channels; give distill.kd or distill.task a weight, or leave it out"
                )
    if recipe.student.text is None:
        for option in ("extra_texts", "mixed"):
            if getattr(distill, option):
                yield f"distill.{option}: the student has no text tower; set it to 0"
    elif distill.extra_texts and not (distill.feature if answers else features or distill.hidden):
        yield "distill.extra_texts: nothing compares student and teacher on them; give distill.feature a weight"


def part_names(recipe: Recipe) -> list[str]:
    """Return names of the student's parts that may have something to prune."""
    modalities = list(recipe.student.towers)
    if recipe.kind.answers:
        joining = FUSIONS[recipe.student.fusion.mode]
        voices = [f"{m}_head" for m in modalities] if joining.voices else []
        return [*modalities, *voices, *(["fusion", "head"] if joining.made_by else [])]
    projections = [f"{m}_projection" for m in modalities] if recipe.student.projection == "part" else []
    return modalities + projections


def _towers_named(recipe: Recipe) -> Iterator[str]:
    """Yield which modalities the models have: enough for the family, the same in both, and known to the data."""
    low, high = recipe.kind.towers
    for name in recipe.data.tensors:  # a modality names parts, and their files
        if not re.fullmatch(r"\w[\w-]*", name):
            plain = re.sub(r"[^\w-]+", "_", name).strip("_-") or "sensor"
            yield (
                f"data.tensors: got '{name}', expected a name of letters, digits, '_' and '-'; call it '{plain}', and "
                f'say data.columns.{plain} = "{name}"'
            )
        if name in RESERVED:
            yield f"data.tensors: '{name}' is a name that the bundle's 'predict' takes for itself; take another"
    built: list[tuple[str, ModelSection]] = [("student", recipe.student)] if "distill" in recipe.stages else []
    if recipe.teacher.source is None:
        built.insert(0, ("teacher", recipe.teacher))
    for name, section in built:
        count, modalities = len(section.towers), list(section.towers)
        if not low <= count <= high:
            expected = f"{low} tower" + ("s or more" if high > low and low > 1 else " or more" if high > low else "")
            yield (
                f"{name}: names {count} towers ({', '.join(modalities) or 'none'}), {_a(recipe.family)} has {expected}"
                f": [{name}.image], [{name}.text], [{name}.audio] or [{name}.tensors.NAME]"
            )
        if odd := sorted(set(section.tensors) - set(recipe.data.tensors)):
            yield f"{name}.tensors.{odd[0]}: not among data.tensors {list(recipe.data.tensors)}"
        if name_taken := sorted({"image", "text", "audio"} & set(section.tensors)):
            yield f"{name}.tensors.{name_taken[0]}: this name is for a tower of its own kind; take another"
        fusion = section.fusion
        if recipe.kind.answers and fusion.mode == "cross-attention" and fusion.query not in modalities:
            yield f"{name}.fusion.query: '{fusion.query}' is no tower of it{or_nearest(fusion.query, modalities)}"
    if len(built) == 2 and set(recipe.teacher.towers) != set(recipe.student.towers):
        yield (
            f"student: its towers are {sorted(recipe.student.towers)}, the teacher's {sorted(recipe.teacher.towers)}; "
            "expected the same modalities"
        )
    for stage, config in (("teach", recipe.teach), ("distill", recipe.distill)):
        role, model = ("teacher", recipe.teacher) if stage == "teach" else ("student", recipe.student)
        if config.modality_dropout and (not recipe.kind.answers or model.fusion.missing == "error"):
            yield (
                f'{stage}.modality_dropout: needs a fusion-classifier with {role}.fusion.missing = "placeholder", '
                "which stands in for what is taken away"
            )
    if recipe.task != "single-label" and not recipe.kind.answers:
        yield f"task: '{recipe.task}' is for a fusion-classifier; {_a(recipe.family)} has none"


_OF_OWN_CODE: Mapping[type, set[str]] = {  # what still counts beside a factory: the frontend before it
    ImageTower: {"input_size", "mean", "std", "resample", "fit"},
    AudioTower: {"sample_rate", "longest_s", "mels"},
    TextTower: set(),
    TensorTower: {"shape"},
}


def _impossible_models(recipe: Recipe) -> Iterator[str]:
    """Widths that don't fit each other, where the recipe alone says them."""
    for keys, source in path_fields(recipe):
        module, _, factory = source.removeprefix("python:").partition(":")
        if source.startswith("python:") and not all(name.isidentifier() for name in (*module.split("."), factory)):
            yield f"{'.'.join(keys)}: got '{source}', expected python:module:factory"
    own_towers = recipe.teacher.source is None
    for name, section in (("teacher", recipe.teacher), ("student", recipe.student)):
        for modality, tower in section.towers.items():
            if tower.weights and tower.weights.startswith("python:"):
                if odd := sorted(tower.model_fields_set - _OF_OWN_CODE[type(tower)] - {"weights"}):
                    yield (
                        f"{name}.{modality}.{odd[0]}: the tower is what {tower.weights} makes, which nothing else "
                        "changes; leave it out"
                    )
                continue
            if isinstance(tower, TextTower):
                continue
            if isinstance(tower, ImageTower | AudioTower):
                for scale, given in (("width", "channels"), ("depth", "blocks")):
                    if getattr(tower, scale) != 1 and getattr(tower, given):
                        yield f"{name}.{modality}.{scale}: {given} says that already; leave one of them out"
            if tower.weights and tower.kind != type(tower).model_fields["kind"].default:
                yield f"{name}.{modality}: a tower of kind '{tower.kind}' loads no weights; leave out kind or weights"
        text = section.text
        if text is None:
            continue
        known = text.weights is None  # else what is left out comes from the weights
        width, heads = text.width or (384 if known else None), text.heads or (12 if known else None)
        if (name == "student" or own_towers) and (text.width or text.heads) and width and heads and width % heads:
            yield f"{name}.text: width {width} is no multiple of heads {heads}; change one of them"
    losses = [key for key in ("feature", "interactive") if getattr(recipe.distill, key)]
    if (
        not recipe.kind.answers
        and "distill" in recipe.stages
        and (recipe.distill.epochs or "prune" in recipe.stages)
        and own_towers
        and losses
        and recipe.student.embed_dim != recipe.teacher.embed_dim
    ):
        yield (
            f"student.embed_dim: {recipe.student.embed_dim}, and the teacher's is {recipe.teacher.embed_dim}, which "
            f"distill.{' and distill.'.join(losses)} compare; make them equal, or set those to 0"
        )

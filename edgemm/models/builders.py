"""Families: how towers, fusion and head of a recipe become a Model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edgemm.models.fusion import fusion as fusion_from
from edgemm.models.fusion import fusion_class
from edgemm.models.model import Model, Part
from edgemm.models.parts import part
from edgemm.models.towers import Tower, tower_of
from edgemm.recipe import FUSIONS, ModelSection
from edgemm.recipe.families import family_of
from edgemm.recipe.import_named import resolve
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import VALUES, Answer, Classes, Embedding, Quantity
from edgemm.runtime.readers import TensorInput, TextInput
from edgemm.runtime.signature import TensorSpec


def dual_encoder(towers: Sequence[Tower], section: ModelSection, answer: Answer) -> Model:  # noqa: ARG001
    """Return every tower ends in a unit vector of the joint space."""
    return embedding_model("dual-encoder", towers, section)


def embedder(towers: Sequence[Tower], section: ModelSection, answer: Answer) -> Model:  # noqa: ARG001
    """Return the one tower ends in a unit vector."""
    return embedding_model("embedder", towers, section)


def embedding_model(family: str, towers: Sequence[Tower], section: ModelSection) -> Model:
    """Every tower ends in a unit vector of the joint space, by a projection of its own where it has none inside."""
    parts: list[Part] = []
    for tower in towers:
        parts += tower.parts
        if len(tower.features.shape) != 2:
            raise ModelError(f'{family}: the {tower.modality} tower needs output = "pooled"')
        if tower.features.name != f"{tower.modality}_embedding":
            parts.append(_projection(tower, section))
    outputs = {f"{tower.modality}_embedding": Embedding() for tower in towers}
    return Model(family, parts, inputs={tower.modality: tower.raw for tower in towers}, outputs=outputs)


def _projection(tower: Tower, section: ModelSection) -> Part:
    config = {
        "width": tower.width,
        "embed_dim": section.embed_dim,
        "hidden": section.projection_hidden,
        "dropout": section.dropout,
    }
    spec = TensorSpec(f"{tower.modality}_embedding", "float32", ("batch", section.embed_dim))
    return part(f"{tower.modality}_projection", "head", tower.modality, "projection", config, [tower.features], spec)


def fusion_classifier(towers: Sequence[Tower], section: ModelSection, answer: Answer) -> Model:
    """Towers, then one fusion and its head; or a head for each modality and a decision of them; or both."""
    if isinstance(answer, Classes) and not answer.labels:
        raise ModelError("fusion-classifier: the data has no labels; name a label column")
    mode = section.fusion.mode
    joining = FUSIONS[mode]
    parts = [part for tower in towers for part in tower.parts]
    output = VALUES[answer.kind]
    voices: list[TensorSpec] = []
    if joining.made_by is not None:
        fused = _fusion(towers, section)
        parts.append(fused)
        parts.append(
            _head(
                "head",
                None,
                fused.signature.outputs[0],
                section,
                answer,
                f"fused_{output}" if joining.voices else output,
            )
        )
        voices.append(parts[-1].signature.outputs[0])
    if joining.voices:
        for tower in towers:
            if len(tower.features.shape) != 2:
                raise ModelError(f"fusion-classifier: fusion.mode '{mode}' needs {tower.modality}.output = \"pooled\"")
            parts.append(
                _head(
                    f"{tower.modality}_head",
                    tower.modality,
                    tower.features,
                    section,
                    answer,
                    f"{tower.modality}_{output}",
                )
            )
            voices.append(parts[-1].signature.outputs[0])
        one = isinstance(answer, Classes) and not answer.independent
        decided = TensorSpec(output, "float32", voices[0].shape)
        parts.append(
            part("decision", "fusion", None, "decision", {"voices": len(voices), "one_of_all": one}, voices, decided)
        )
    placeholders = {}
    if section.fusion.missing == "placeholder":
        for tower in towers:
            shape = [1 if isinstance(d, str) else d for d in tower.features.shape]
            placeholders[tower.features.name] = torch.zeros(shape)
    return Model(
        "fusion-classifier",
        parts,
        inputs={tower.modality: tower.raw for tower in towers},
        outputs={output: answer},
        placeholders=placeholders,
    )


def _fusion(towers: Sequence[Tower], section: ModelSection) -> Part:
    fusion = section.fusion
    takes = fusion_class(fusion.mode).takes
    for tower in towers:
        tokens = len(tower.features.shape) == 3
        asks = fusion.mode == "cross-attention" and tower.modality == fusion.query
        if tokens and (takes == "pooled" or asks):
            raise ModelError(
                f"fusion-classifier: fusion.mode '{fusion.mode}' needs {tower.modality}.output = \"pooled\""
            )
        if not tokens and takes == "tokens" and not asks and not isinstance(tower.raw, TensorInput):
            raise ModelError(
                f"fusion-classifier: fusion.mode '{fusion.mode}' needs {tower.modality}.output = \"tokens\""
            )
    config: dict[str, Any] = {
        "mode": fusion.mode,
        "widths": {tower.modality: tower.width for tower in towers},
        "width": fusion.width,
        "heads": fusion.heads,
        "layers": fusion.layers,
        "query": fusion.query,
        "concat": fusion.concat,
        "norm": fusion.norm,
        "dropout": section.dropout,
    }
    spec = TensorSpec("fused", "float32", ("batch", fusion_from(**config).out_width))
    longest = max((tower.raw.max_tokens for tower in towers if isinstance(tower.raw, TextInput)), default=0)
    dims = {name: size for tower in towers for name, size in tower.parts[-1].signature.dims.items()}
    seen = [tower.features for tower in towers]
    return part("fusion", "fusion", None, "fusion", config, seen, spec, tokens=longest, dims=dims)


def _head(
    name: str, modality: str | None, features: TensorSpec, section: ModelSection, answer: Answer, output: str
) -> Part:
    classes = len(answer.labels) if isinstance(answer, Classes) else 1
    config = {
        "width": features.shape[-1],
        "classes": classes,
        "hidden": section.head_hidden,
        "dropout": section.dropout,
        "quantity": isinstance(answer, Quantity),
    }
    return part(
        name, "head", modality, "mlp-head", config, [features], TensorSpec(output, "float32", ("batch", classes))
    )


UNNAMED = Classes()

Builder = Callable[[Sequence[Tower], ModelSection, Answer], Model]
"""What joins the towers of a family into a Model."""


def build_model(
    section: ModelSection,
    *,
    family: str,
    answer: Answer = UNNAMED,
    texts: Sequence[str] = (),
    tokenizer_json: str | None = None,
    token_order: Sequence[str] = (),
    text_like: Mapping[str, object] | None = None,
    smaller: bool = False,
    seed: int,
) -> Model:
    """Return the model that a recipe's section describes, with pretrained towers where it names weights.

    Args:
        section: towers and what joins them.
        family: a name in ``FAMILIES``.
        answer: what a fusion-classifier says.
        texts: what a trimmed vocabulary has to cover.
        tokenizer_json: for a text tower without weights of its own (a student takes its teacher's).
        token_order: which tokens a trimmed vocabulary keeps first, before its own order.
        text_like: pooling and norm_eps of a text tower without weights of its own, where they aren't the default.
        smaller: towers may be smaller than the weights that they name, and then start from what of them matters most.
        seed: of all random weights; the global generator is left as it was.

    Raises:
        ModelError: a section that contradicts itself, or weights that don't fit.
    """
    line = family_of(family)
    build: Builder = resolve(line.built_by, what=f"family '{family}'")
    inside = not line.answers and section.projection == "tower"
    embed_dim = section.embed_dim if inside else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers: list[Tower] = []
        for modality, tower in section.towers.items():
            made = tower_of(
                modality, tower, embed_dim=embed_dim, smaller=smaller, texts=texts, tokenizer_json=tokenizer_json,
                token_order=token_order, text_like=text_like,
            )  # fmt: skip
            towers.append(made)
        model = build(towers, section, answer)
    model.tokenizer_json = next((t.tokenizer_json for t in towers if t.tokenizer_json is not None), None)
    model.eval()
    return model

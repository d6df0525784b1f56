"""What a text tower is fed, frozen or not: never fewer tokens than it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgemm.compress.tower_inputs import feeds_of
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset
from edgemm.models.builders import build_model
from edgemm.models.model import Model, Part
from edgemm.recipe import TeacherSection
from edgemm.stage import Context

FEWEST = 6


class Strict(torch.nn.Module):
    """The tower, refusing fewer tokens than its signature says."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert ids.shape[1] >= FEWEST
        return self.tower(ids, mask)


@pytest.fixture
def strict(teacher_section: TeacherSection) -> Model:
    """A dual encoder whose text tower takes 6 to 8 tokens, which no text of the data has."""
    model = build_model(teacher_section, family="dual-encoder", seed=0)

    def at_least(part: Part) -> Part:
        signature = part.signature
        if "input_ids" not in signature.input_names:
            return part
        dims = {**signature.dims, "tokens": replace(signature.dims["tokens"], min=FEWEST)}
        return replace(part, signature=replace(signature, dims=dims), module=Strict(part.module))

    made = Model(model.family, map(at_least, model.chain), inputs=model.inputs, outputs=model.outputs)
    made.tokenizer_json = model.tokenizer_json
    return made


def test_texts_are_padded_to_what_a_tower_takes_at_least(
    tmp_path: Path, shapes: Dataset, strict: Model, teacher_section: TeacherSection
) -> None:
    corpus, some = corpus_of(shapes), torch.arange(3)
    context = Context(scratch=tmp_path, cache=tmp_path)
    trained = feeds_of(strict, corpus, context, frozen=[], title="x").values("text", some)
    assert {value.shape for value in trained.values()} == {(3, FEWEST)}
    assert trained["attention_mask"].sum(1).tolist() == [4, 4, 4]  # [CLS] red square [SEP]
    plain = build_model(teacher_section, family="dual-encoder", seed=0)
    theirs, ours = (
        feeds_of(model, corpus, context, frozen=[p.name for p in model.chain], title="x").values("text", some)
        for model in (plain, strict)
    )
    for name, value in theirs.items():  # padding is not attended to
        torch.testing.assert_close(ours[name], value, atol=2e-3, rtol=0)

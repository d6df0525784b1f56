"""Every fusion, of two and three modalities: shapes, gradients, padding, and the models they stand in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgemm.models.builders import build_model
from edgemm.models.fusion import Early, Fusion, fusion, fusion_class
from edgemm.models.heads import Decision
from edgemm.models.store import load_model, save_model
from edgemm.recipe import FUSIONS, TeacherSection
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes, Quantity, answer_of

WIDTHS = {"image": 6, "text": 4, "audio": 5}
WIDE = {
    "hadamard": 8, "concat": 24, "sum": 8, "mean": 8, "gated": 8, "hierarchical": 8, "cross-attention": 40, "early": 8,
    "hybrid": 24,
}  # fmt: skip


def test_every_line_of_the_table_names_a_fusion_of_this_package() -> None:
    assert set(WIDE) == {mode for mode, joining in FUSIONS.items() if joining.made_by is not None}
    for mode in WIDE:
        assert issubclass(fusion_class(mode), Fusion)
        assert fusion_class(mode).__module__.startswith("edgemm.models.")  # whose code a stage's key holds


def test_a_mode_that_joins_no_features_is_no_fusion() -> None:
    with pytest.raises(ModelError, match="mode 'late'; expected one of hadamard, concat"):
        fusion(mode="late", widths=WIDTHS, width=8)


@pytest.mark.parametrize("mode", WIDE)
def test_every_fusion_joins_all_sides(mode: str) -> None:
    torch.manual_seed(0)
    module = fusion(mode=mode, widths=WIDTHS, width=8, heads=2, layers=1, query="text")
    sides = [torch.randn(3, width, requires_grad=True) for width in WIDTHS.values()]
    fused = module(*sides)
    assert fused.shape == (3, module.out_width) == (3, WIDE[mode])
    for gradient in torch.autograd.grad((fused**2).sum(), sides):
        assert gradient.abs().sum() > 0


def test_a_product_keeps_its_factors_beside_it_on_request() -> None:
    module = fusion(mode="hadamard", widths=WIDTHS, width=8, concat=True, norm=True)
    fused = module(*(torch.randn(2, width) for width in WIDTHS.values()))
    torch.testing.assert_close(fused[:, :8], fused[:, 8:16] * fused[:, 16:24] * fused[:, 24:])


def test_a_closed_gate_lets_nothing_through() -> None:
    module = fusion(mode="gated", widths={"a": 3, "b": 3}, width=4)
    with torch.no_grad():
        for gate, bias in zip(module.gates, (-50.0, 50.0), strict=True):  # type: ignore[arg-type]
            gate.bias.fill_(bias)
    b = torch.randn(2, 3)
    torch.testing.assert_close(module(torch.randn(2, 3), b), module(torch.randn(2, 3), b))


def test_cross_attention_follows_the_question_and_takes_tokens_as_a_set() -> None:
    torch.manual_seed(0)
    module = fusion(mode="cross-attention", widths={"image": 6, "text": 4}, width=8, heads=2).eval()
    image = torch.randn(1, 9, 6)
    one, other = module(image, torch.randn(1, 4)), module(image, torch.randn(1, 4))
    assert one.shape == (1, 24)
    assert not torch.allclose(one[:, 8:16], other[:, 8:16])
    torch.testing.assert_close(module(image, text := torch.randn(1, 4)), module(image.flip(1), text))


@pytest.mark.parametrize("mode", ["cross-attention", "early"])
def test_rows_of_zeros_are_padding(mode: str) -> None:
    torch.manual_seed(0)
    module = fusion(mode=mode, widths={"image": 6, "text": 4}, width=8, heads=2, query="text").eval()
    image, text = torch.randn(2, 5, 6), torch.randn(2, 4)
    padded = torch.cat((image, torch.zeros(2, 3, 6)), dim=1)
    torch.testing.assert_close(module(padded, text), module(image, text), atol=1e-5, rtol=1e-5)


def test_early_tells_modalities_apart() -> None:
    torch.manual_seed(0)
    module = Early({"a": 4, "b": 4}, width=8, heads=2)
    with torch.no_grad():
        module.sides[1].load_state_dict(module.sides[0].state_dict())
    a, b = torch.randn(1, 4), torch.randn(1, 4)
    assert not torch.allclose(module(a, b), module(b, a), atol=1e-4)


def test_late_fusion_is_the_weighted_mean_of_the_voices() -> None:
    decision = Decision(voices=2)
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    expected = (torch.softmax(a, -1) + torch.softmax(b, -1)) / 2
    torch.testing.assert_close(torch.softmax(decision(a, b), -1), expected)
    with torch.no_grad():
        decision.weights.copy_(torch.tensor([100.0, 0.0]))
    torch.testing.assert_close(torch.softmax(decision(a, b), -1), torch.softmax(a, -1))
    torch.testing.assert_close(Decision(voices=2, one_of_all=False)(a, b), (a + b) / 2)


def section(mode: str, **fusion_fields: object) -> TeacherSection:
    tokens = "tokens" if mode in ("early", "cross-attention") else "pooled"
    conv = {"blocks": [1, 1], "channels": [8, 16], "features": 12, "output": tokens}
    values: dict[str, Any] = {
        "image": {"input_size": 32, **conv},
        "audio": {"sample_rate": 8000, "longest_s": 0.5, "mels": 16, **conv},
        "tensors": {"sensor": {"shape": [7], "features": 10}},
        "fusion": {"mode": mode, "width": 16, "heads": 2, "layers": 1, "query": "sensor", **fusion_fields},
        "head_hidden": 0,
    }
    return TeacherSection.model_validate(values)


def values(count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (count, 40, 30, 3), dtype=torch.uint8, generator=generator),
        "waveform": torch.randn(count, 3000, generator=generator),
        "sensor": torch.randn(count, 7, generator=generator),
    }


@pytest.mark.parametrize("mode", FUSIONS)
def test_a_model_of_every_fusion_answers_and_is_what_was_saved(mode: str, tmp_path: Path) -> None:
    model = build_model(section(mode), family="fusion-classifier", answer=Classes(("no", "yes", "maybe")), seed=0)
    save_model(model, tmp_path)
    with torch.no_grad():
        made, again = model(values()), load_model(tmp_path)(values())
    assert made["logits"].shape == (2, 3)
    assert all(torch.equal(made[name], again[name]) for name in made)


@pytest.mark.parametrize("mode", ["concat", "late", "hybrid", "early"])
def test_a_placeholder_stands_in_for_what_is_missing(mode: str, tmp_path: Path) -> None:
    model = build_model(
        section(mode, missing="placeholder"), family="fusion-classifier", answer=Classes(("a", "b")), seed=0
    )
    with torch.no_grad():
        for value in model.placeholders.values():
            value.normal_()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    given = values()
    without = {name: value for name, value in given.items() if name != "waveform"}
    with torch.no_grad():
        whole, part = loaded(given)["logits"], loaded(without)
        features = model.placeholders["audio_features"].expand(2, *model.placeholders["audio_features"].shape[1:])
        torch.testing.assert_close(part["logits"], model({**without, "audio_features": features})["logits"])
    assert not torch.allclose(whole, part["logits"])
    strict = build_model(section(mode), family="fusion-classifier", answer=Classes(("a", "b")), seed=0)
    assert "logits" not in strict(without)


def test_features_of_the_wrong_form_are_told() -> None:
    changed = section("concat")
    assert changed.image is not None
    tokens = changed.model_copy(update={"image": changed.image.model_copy(update={"output": "tokens"})})
    with pytest.raises(ModelError, match=r"fusion.mode 'concat' needs image.output = \"pooled\""):
        build_model(tokens, family="fusion-classifier", answer=Classes(("a",)), seed=0)


def test_a_regression_ends_in_one_value() -> None:
    model = build_model(section("gated"), family="fusion-classifier", answer=answer_of("regression", ()), seed=0)
    assert model.outputs == {"value": Quantity()}
    assert model(values())["value"].shape == (2, 1)


def test_an_embedder_is_one_tower_of_unit_vectors() -> None:
    one = TeacherSection.model_validate({"image": {"input_size": 32, "blocks": [1], "channels": [8], "features": 12}})
    model = build_model(one, family="embedder", seed=0)
    made = model({"image": values()["image"]})["image_embedding"]
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(2))

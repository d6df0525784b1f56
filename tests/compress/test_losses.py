"""Each loss against a plain reference: loops over rows in float64, as the papers write them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgemm.compress import losses

# float32 sums over at most 64 terms of size 1..50 against float64
TOLERANCE = 2e-5


def unit(seed: int, rows: int = 6, width: int = 5) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def softmax_row(logits: list[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(v - top) for v in logits]
    return [p / sum(powers) for p in powers]


def cross_entropy_rows(logits: list[list[float]], target: list[list[float]]) -> float:
    total = 0.0
    for row, wanted in zip(logits, target, strict=True):
        total -= sum(t * math.log(p) for t, p in zip(wanted, softmax_row(row), strict=True) if t)
    return total / len(logits)


def similarities(a: Tensor, b: Tensor, scale: float) -> list[list[float]]:
    return (scale * a.double() @ b.double().T).tolist()


def transposed(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def test_info_nce_is_clips_loss_where_every_concept_stands_once() -> None:
    image, text = unit(0), unit(1)
    got = losses.info_nce(image, text, torch.arange(6), scale=20.0)
    logits = 20.0 * image @ text.T
    expected = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    assert got.item() == pytest.approx(expected.item(), abs=TOLERANCE)


def test_info_nce_spreads_its_target_over_all_samples_of_a_concept() -> None:
    image, text = unit(0), unit(1)
    concepts = [0, 1, 0, 2, 2, 2]
    target = [[1 / concepts.count(a) if a == b else 0.0 for b in concepts] for a in concepts]
    logits = similarities(image, text, 10.0)
    expected = (cross_entropy_rows(logits, target) + cross_entropy_rows(transposed(logits), target)) / 2
    got = losses.info_nce(image, text, torch.tensor(concepts), scale=10.0)
    assert got.item() == pytest.approx(expected, abs=TOLERANCE)


def test_affinity_mimicking_is_the_cross_entropy_of_both_directions() -> None:
    student, teacher = (unit(0), unit(1)), (unit(2, width=7), unit(3, width=7))
    ours, theirs = similarities(*student, 50.0), similarities(*teacher, 50.0)
    expected = (
        cross_entropy_rows(ours, [softmax_row(row) for row in theirs])
        + cross_entropy_rows(transposed(ours), [softmax_row(row) for row in transposed(theirs)])
    ) / 2
    assert losses.affinity_mimicking(*student, *teacher, scale=50.0).item() == pytest.approx(expected, rel=TOLERANCE)


def test_affinity_mimicking_has_no_gradient_where_the_student_is_the_teacher() -> None:
    image, text = unit(0).requires_grad_(), unit(1).requires_grad_()
    losses.affinity_mimicking(image, text, image.detach(), text.detach(), scale=50.0).backward()
    assert image.grad is not None
    assert image.grad.abs().max() < TOLERANCE


def test_interactive_contrastive_crosses_student_and_teacher() -> None:
    si, st, ti, tt = unit(0), unit(1), unit(2), unit(3)
    concepts = torch.arange(6)
    expected = (losses.info_nce(si, tt, concepts, scale=20.0) + losses.info_nce(ti, st, concepts, scale=20.0)) / 2
    got = losses.interactive_contrastive(si, st, ti, tt, concepts, scale=20.0)
    assert got.item() == pytest.approx(expected.item(), abs=TOLERANCE)


def test_feature_distance_is_half_the_squared_distance_of_unit_vectors() -> None:
    student, teacher = unit(0), unit(1)
    expected = ((student - teacher) ** 2).sum(1).mean() / 2
    assert losses.feature_distance(3.0 * student, teacher).item() == pytest.approx(expected.item(), abs=TOLERANCE)


def test_classifier_kd_is_the_divergence_of_softened_rows_times_the_squared_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(4, 9, generator=generator), torch.randn(4, 9, generator=generator)
    total = 0.0
    for ours, theirs in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p, q = softmax_row([v / 4 for v in theirs]), softmax_row([v / 4 for v in ours])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    got = losses.classifier_kd(student, teacher, temperature=4.0)
    assert got.item() == pytest.approx(16 * total / 4, rel=1e-4)


def test_a_quantitys_single_voices_are_compared_in_units_of_its_spread() -> None:
    student, teacher, spread = torch.tensor([[3.0], [7.0]]), torch.tensor([[1.0], [7.0]]), torch.tensor(2.0)
    for compare in (losses.answer_kd, losses.voice_kd):
        got = compare(student, teacher, task="regression", temperature=4.0, spread=spread)
        assert got.item() == pytest.approx(0.5)


def test_classifier_kd_is_nothing_where_the_logits_differ_by_a_constant() -> None:
    teacher = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    assert abs(losses.classifier_kd(teacher + 3, teacher, temperature=2.0).item()) < TOLERANCE

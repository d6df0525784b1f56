"""Each loss against a plain reference: loops over rows in float64, as the papers write them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgemm.compress import losses, outputs
from edgemm.runtime.outputs import Quantity, answer_of

# float32 sums over at most 64 terms of size 1..50 against float64
TOLERANCE = 2e-5

Compare = Callable[..., Tensor]


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
    for compare in (outputs.answer_kd, outputs.voice_kd):
        got = compare(student, teacher, output=Quantity(), temperature=4.0, spread=spread)
        assert got.item() == pytest.approx(0.5)


def test_classifier_kd_is_nothing_where_the_logits_differ_by_a_constant() -> None:
    teacher = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    assert abs(losses.classifier_kd(teacher + 3, teacher, temperature=2.0).item()) < TOLERANCE


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def mean_squared_difference_of_cosines(ours: list[list[float]], theirs: list[list[float]]) -> float:
    pairs = [(i, j) for i in range(len(ours)) for j in range(len(ours))]
    return sum((cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j])) ** 2 for i, j in pairs) / len(pairs)


def turned(value: Tensor) -> Tensor:
    """By one rotation, and three times as long."""
    rotation, _ = torch.linalg.qr(random(9, value.shape[-1], value.shape[-1]))
    return 3 * value @ rotation


def test_similarity_distance_by_hand() -> None:
    right, same = torch.eye(2), torch.ones(2, 2)  # cosines 0 and 1 off the diagonal: two of four differ by one
    assert losses.similarity_distance(right, same).item() == pytest.approx(0.5)


def test_similarity_distance_compares_cosines_across_widths() -> None:
    student, teacher = random(0, 6, 5), random(1, 6, 7)
    expected = mean_squared_difference_of_cosines(student.double().tolist(), teacher.double().tolist())
    assert losses.similarity_distance(student, teacher).item() == pytest.approx(expected, rel=TOLERANCE)


def test_token_gram_distance_compares_the_tokens_of_each_sample_alone() -> None:
    student, teacher = random(0, 3, 4, 5), random(1, 3, 4, 7)
    each = [
        mean_squared_difference_of_cosines(ours, theirs)
        for ours, theirs in zip(student.double().tolist(), teacher.double().tolist(), strict=True)
    ]
    assert losses.token_gram_distance(student, teacher).item() == pytest.approx(sum(each) / 3, rel=TOLERANCE)


def test_token_gram_distance_leaves_padding_out_and_counts_every_sample_alike() -> None:
    student, teacher, lengths = random(0, 3, 4, 5), random(1, 3, 4, 7), (4, 1, 2)
    for row, length in enumerate(lengths):
        teacher[row, length:] = 0
    each = [
        mean_squared_difference_of_cosines(ours[:length], theirs[:length])
        for ours, theirs, length in zip(student.double().tolist(), teacher.double().tolist(), lengths, strict=True)
    ]
    for compare in (losses.token_gram_distance, losses.gram_distance):
        for most in (4, 6):  # whatever both are padded to
            ours, theirs = (F.pad(value, (0, 0, 0, most - 4)) for value in (student, teacher))
            assert compare(ours, theirs).item() == pytest.approx(sum(each) / 3, rel=TOLERANCE)


@pytest.mark.parametrize("compare", [losses.similarity_distance, losses.token_gram_distance, losses.gram_distance])
def test_distances_of_similarities_ignore_turns_and_lengths_and_nothing_else(compare: Compare) -> None:
    shape = (6, 5) if compare is losses.similarity_distance else (3, 6, 5)
    teacher = random(1, *shape)
    assert compare(teacher, teacher).item() == 0
    assert compare(turned(teacher), teacher).item() == pytest.approx(0, abs=TOLERANCE)
    assert compare(teacher + 1, teacher).item() > 0.01


def test_gram_distance_is_of_tokens_where_there_are_equally_many_else_of_their_mean() -> None:
    student, teacher, fewer = random(0, 3, 4, 5), random(1, 3, 4, 7), random(2, 3, 6, 7)
    assert losses.gram_distance(student, teacher).item() == losses.token_gram_distance(student, teacher).item()
    pooled = [[sum(column) / len(column) for column in zip(*tokens, strict=True)] for tokens in fewer.double().tolist()]
    for ours in (student.mean(1), student):
        expected = mean_squared_difference_of_cosines(student.double().mean(1).tolist(), pooled)
        assert losses.gram_distance(ours, fewer).item() == pytest.approx(expected, rel=TOLERANCE)


def certainty(logits: list[float]) -> float:
    row = softmax_row(logits)
    return 1 + sum(p * math.log(p) for p in row) / math.log(len(row))


def divergence(ours: list[float], theirs: list[float], temperature: float) -> float:
    p, q = (softmax_row([v / temperature for v in row]) for row in (theirs, ours))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_unimodal_kd_weighs_each_rows_divergence_by_the_teachers_certainty() -> None:
    student, teacher = random(0, 4, 9), 3 * random(1, 4, 9)
    total = sum(
        certainty(theirs) * divergence(ours, theirs, 4.0)
        for ours, theirs in zip(student.double().tolist(), teacher.double().tolist(), strict=True)
    )
    got = losses.unimodal_kd(student, teacher, temperature=4.0)
    assert got.item() == pytest.approx(16 * total / 4, rel=1e-4)


def test_a_voice_that_knows_nothing_teaches_nothing_and_one_that_is_sure_teaches_as_classifier_kd() -> None:
    student = random(0, 3, 5)
    assert losses.unimodal_kd(student, torch.zeros(3, 5), temperature=2.0).item() == pytest.approx(0, abs=TOLERANCE)
    sure = 60 * F.one_hot(torch.tensor([0, 3, 1]), 5).float()
    expected = losses.classifier_kd(student, sure, temperature=2.0).item()
    assert losses.unimodal_kd(student, sure, temperature=2.0).item() == pytest.approx(expected, rel=TOLERANCE)


def test_multi_label_kd_is_the_binary_cross_entropy_of_each_class_times_the_squared_temperature() -> None:
    student, teacher = random(0, 4, 3), random(1, 4, 3)
    total = 0.0
    for ours, theirs in zip(student.double().flatten().tolist(), teacher.double().flatten().tolist(), strict=True):
        p, q = (1 / (1 + math.exp(-v / 4)) for v in (theirs, ours))
        total -= p * math.log(q) + (1 - p) * math.log(1 - q)
    got = losses.multi_label_kd(student, teacher, temperature=4.0)
    assert got.item() == pytest.approx(16 * total / 12, rel=TOLERANCE)


@pytest.mark.parametrize("compare", [losses.unimodal_kd, losses.multi_label_kd])
def test_a_divergence_is_least_where_the_student_says_what_the_teacher_says(compare: Compare) -> None:
    teacher = random(0, 4, 5)
    student = teacher.clone().requires_grad_()
    least = compare(student, teacher, temperature=3.0)
    least.backward()
    assert student.grad is not None
    assert student.grad.abs().max() < TOLERANCE
    assert compare(teacher + random(1, 4, 5), teacher, temperature=3.0).item() > least.item() + 0.01


def test_an_answer_is_compared_as_its_task_says() -> None:
    student, teacher, spread = random(0, 4, 5), random(1, 4, 5), torch.tensor(2.0)
    of_answers = {"single-label": losses.classifier_kd, "multi-label": losses.multi_label_kd}
    of_voices = {"single-label": losses.unimodal_kd, "multi-label": losses.multi_label_kd}
    for of, by_task in ((outputs.answer_kd, of_answers), (outputs.voice_kd, of_voices)):
        for task, expected in by_task.items():
            got = of(student, teacher, output=answer_of(task), temperature=3.0, spread=spread)
            assert got.item() == expected(student, teacher, temperature=3.0).item()


def test_angular_margin_by_hand() -> None:
    embedding, prototypes = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 5.0]])  # 45 and 90 degrees
    got = losses.angular_margin(embedding, prototypes, torch.tensor([0]), margin=math.pi / 12, scale=1.0)
    own, other = math.cos(math.pi / 3), 0.0
    assert got.item() == pytest.approx(-math.log(math.exp(own) / (math.exp(own) + math.exp(other))), abs=TOLERANCE)


def test_angular_margin_widens_the_angle_to_ones_own_prototype_only() -> None:
    embedding, prototypes, identity = unit(0), random(1, 4, 5), [0, 3, 1, 1, 2, 0]
    logits = []
    for row, own in zip(embedding.double().tolist(), identity, strict=True):
        angles = [math.acos(cosine(row, prototype)) for prototype in prototypes.double().tolist()]
        logits.append([16.0 * math.cos(a + (0.3 if i == own else 0.0)) for i, a in enumerate(angles)])
    target = [[float(i == own) for i in range(4)] for own in identity]
    got = losses.angular_margin(embedding, prototypes, torch.tensor(identity), margin=0.3, scale=16.0)
    assert got.item() == pytest.approx(cross_entropy_rows(logits, target), rel=TOLERANCE)


def test_without_a_margin_it_is_the_cross_entropy_of_cosines_of_prototypes_of_any_length() -> None:
    embedding, prototypes, identity = unit(0), random(1, 4, 5), torch.tensor([0, 3, 1, 1, 2, 0])
    expected = F.cross_entropy(16 * embedding @ F.normalize(prototypes, dim=-1).T, identity).item()
    for length in (1.0, 7.0):
        got = losses.angular_margin(embedding, length * prototypes, identity, margin=0.0, scale=16.0)
        assert got.item() == pytest.approx(expected, rel=TOLERANCE)


def test_angular_margin_has_finite_gradients_where_an_embedding_is_its_prototype_or_the_opposite() -> None:
    embedding = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    prototypes = torch.eye(2, requires_grad=True)
    losses.angular_margin(embedding, prototypes, torch.tensor([0, 0]), margin=0.3, scale=16.0).backward()
    for grad in (embedding.grad, prototypes.grad):
        assert grad is not None
        assert grad.isfinite().all()


STUDENT_AND_TEACHER = {
    "similarity": (losses.similarity_distance, (6, 5), {}),
    "token gram": (losses.token_gram_distance, (3, 4, 5), {}),
    "gram": (losses.gram_distance, (3, 4, 5), {}),
    "unimodal": (losses.unimodal_kd, (6, 5), {"temperature": 2.0}),
    "multi-label": (losses.multi_label_kd, (6, 5), {"temperature": 2.0}),
}


@pytest.mark.parametrize("name", STUDENT_AND_TEACHER)
def test_every_row_of_the_student_has_a_gradient_that_leads_to_the_teacher(name: str) -> None:
    compare, shape, options = STUDENT_AND_TEACHER[name]
    student, teacher = random(0, *shape).requires_grad_(), random(1, *shape)
    before = compare(student, teacher, **options)
    before.backward()
    assert student.grad is not None
    assert (student.grad.flatten(1).abs().sum(1) > 0).all()
    assert compare(student.detach() - 0.1 * student.grad, teacher, **options) < before

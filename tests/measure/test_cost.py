"""What it costs: what is worse by more than chance, on every task, split and metric, the worst first."""

from __future__ import annotations

import numpy as np
import pytest

from edgemm.measure import metrics
from edgemm.measure.cost import cost_lines, costs
from edgemm.measure.measurement import Environment, Measurement, Measurements
from edgemm.measure.scores import headline_task
from edgemm.measure.table import rows

HERE = Environment({"cpu": "x"})
QUERIES = 100


def measured(
    figures: dict[tuple[str, str, str, str], tuple[list[float], list[float]]], **details: object
) -> Measurements:
    """(kind, split, task, unit) -> samples of the teacher and of int8, each query its own cluster."""
    found = []
    for i, variant in enumerate(("teacher", "int8")):
        sha = str(i) * 64

        def add(kind: str, subject: str, unit: str, samples: list[float], **more: object) -> None:
            found.append(Measurement(kind, variant, "cpu", sha, subject, unit, tuple(samples), HERE.digest, more))  # type: ignore[arg-type]  # noqa: B023

        add("size", "artifact", "bytes", [10.0], engine="onnxruntime", precision="float32", parameters=1)
        add("latency", "end to end", "ns", [1e6 + k for k in range(64)])
        for (kind, split, task, unit), both in figures.items():
            clusters = [str(k) for k in range(len(both[0]))]
            add(kind, f"{split}: {task}", unit, both[i], split=split, task=task, clusters=clusters, **details)
    return Measurements({HERE.digest: HERE}, tuple(found))


def first(count: int, *, beyond: float = 20.0) -> list[float]:
    """Ranks of a hundred queries of which ``count`` find theirs first."""
    return [1.0] * count + [beyond] * (QUERIES - count)


def test_the_cost_is_the_one_worked_by_hand() -> None:
    found = costs(rows(measured({("ranks", "new", "image→image", "rank"): (first(60), first(40))})))
    # R@1 and R@10 of 60 and 40 of 100: -20 points. A query's difference is -1 with p = 1/5, else 0, so that the mean of
    # 100 has the standard error sqrt(0.2 * 0.8 / 100) = 0.04 and the interval is near -0.2 -+ 1.96 * 0.04.
    assert [(c.after.metric, c.before.estimate.value, c.after.estimate.value) for c in found.worse[:2]] == [
        ("R@1", 0.6, 0.4),
        ("R@10", 0.6, 0.4),
    ]
    cost = found.worse[0].difference
    assert cost.value == pytest.approx(-0.2)
    assert cost.low == pytest.approx(-0.2 - 1.96 * 0.04, abs=0.011)  # one query more or less is 0.01
    assert cost.high == pytest.approx(-0.2 + 1.96 * 0.04, abs=0.011)
    independent = metrics.difference(
        metrics.mean_of(np.repeat([1.0, 0.0], [40, 60])), metrics.mean_of(np.repeat([1.0, 0.0], [60, 40])),
        clusters=[str(k) for k in range(QUERIES)],
    )  # fmt: skip
    assert (cost.low, cost.high) == (independent.low, independent.high)


def test_every_task_and_split_is_compared_and_the_worst_comes_first() -> None:
    same = (first(50), first(50))
    found = costs(
        rows(
            measured(
                {
                    ("ranks", "new", "text→image", "rank"): same,
                    ("ranks", "new", "image→image", "rank"): (first(70), first(60)),
                    ("ranks", "old", "image→image, teacher's gallery", "rank"): (first(90), first(55)),
                    ("ranks", "old", "image→text", "rank"): (first(50), first(80)),
                }
            )
        )
    )
    lines = cost_lines(found, most=3)
    # R@1 and R@10 lost alike; the model's own gallery, where the teacher's is searched too, doesn't ship
    assert [line.split(" [")[0] for line in lines] == ["image→image, teacher's gallery, old: R@1 −35.0 points"]
    assert [(c.after.task, c.after.metric) for c in found.worse[:3]] == [
        ("image→image, teacher's gallery", "R@1"), ("image→image, teacher's gallery", "R@10"), ("image→image", "R@1"),
    ]  # fmt: skip
    assert found.compared == 12
    assert found.better >= 2  # both recalls of image→text
    assert not [c for c in found.worse if c.after.task in ("text→image", "image→text")]


def test_a_task_is_led_by_the_metric_that_lost_most() -> None:
    ninth = [1.0] * 40 + [9.0] * 60  # found among ten, not first
    found = costs(rows(measured({("ranks", "old", "image→text, teacher's gallery", "rank"): (first(90), ninth)})))
    lines = [line.split(" [")[0] for line in cost_lines(found, most=3)]
    assert lines == ["image→text, teacher's gallery, old: R@1 −50.0 points"]


def test_a_loss_that_chance_may_have_made_is_none() -> None:
    swapped = [20.0, *first(QUERIES)[1:50], *([20.0] * 50)]
    found = costs(rows(measured({("ranks", "new", "image→text", "rank"): (first(50), swapped)})))
    assert not [c for c in found.worse if c.after.is_share]


def test_an_error_that_grows_is_a_loss_and_one_that_shrinks_is_none() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=80)
    near, far = truth + 0.1 * rng.normal(size=80), truth + 0.5 * rng.normal(size=80)
    key = ("values", "test", "answers", "value")
    details = {"truth": truth.tolist(), "groups": [None] * 80}
    lost = costs(rows(measured({key: (near.tolist(), far.tolist())}, **details)))
    assert {c.after.metric for c in lost.worse} == {"R²", "MAE", "RMSE", "Pearson", "Spearman"}
    assert cost_lines(lost, most=2)[0].startswith("test: RMSE ")  # 0.1 to 0.5, five times as large
    assert len(cost_lines(lost, most=2)) == 1
    gained = costs(rows(measured({key: (far.tolist(), near.tolist())}, **details)))
    assert not gained.worse
    assert gained.better == gained.compared == 5


def test_what_is_missing_is_counted_and_leads_no_line() -> None:
    truth = [k % 2 for k in range(QUERIES)]
    right, wrong = [float(t) for t in truth], [float(1 - t) for t in truth]
    most = [*wrong[:30], *right[30:]]
    both = {("answers", "test", "answers", "class"): (right, most)}
    alone = {("answers", "test", "answers, without audio", "class"): (right, wrong)}
    found = costs(rows(measured(both | alone, truth=truth, groups=[None] * QUERIES)))
    assert found.worse[0].after.task == "answers, without audio"
    assert [line.split(" [")[0] for line in cost_lines(found, most=3)] == ["test: accuracy −30.0 points"]


def test_one_variant_costs_nothing() -> None:
    found = measured({("ranks", "new", "image→text", "rank"): (first(50), first(10))})
    alone = Measurements(found.environments, tuple(m for m in found.measurements if m.variant == "teacher"))
    assert costs(rows(alone)).compared == 0


def test_the_task_that_stands_for_a_bundle_is_between_two_and_in_the_gallery_that_ships() -> None:
    of_teacher = ", teacher's gallery"
    assert headline_task(["image→image", "image→audio", f"image→image{of_teacher}", f"image→audio{of_teacher}"]) == (
        f"image→audio{of_teacher}"
    )
    assert headline_task(["text→text", "text→audio", "audio→text"]) == "text→audio"
    assert headline_task(["image→image"]) == "image→image"

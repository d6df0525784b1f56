"""The measurement core on numbers whose answer is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edgemm.runtime.environment import environment
from edgemm.runtime.timing import paired_ratio, quantile_ranks, sample_latencies, summary, warm_until_stable


def test_quantiles_below_their_floor_are_not_given() -> None:
    for count, given in ((9, (0, 0, 0)), (10, (1, 0, 0)), (64, (1, 1, 0)), (661, (1, 1, 0)), (662, (1, 1, 1))):
        made = summary(np.arange(count) * 1_000_000)
        assert [q is not None for q in (made.p50, made.p90, made.p99)] == [bool(g) for g in given]
        assert made.count == count


def test_quantiles_are_in_milliseconds_and_inside_their_interval() -> None:
    made = summary(np.arange(1, 1001) * 1_000_000)
    assert made.p50 is not None
    assert made.p50.value_ms == pytest.approx(500.5)
    for estimate in (made.p50, made.p90, made.p99):
        assert estimate is not None
        assert estimate.low_ms < estimate.value_ms < estimate.high_ms


def test_ranks_of_the_median_of_ten_are_the_textbooks() -> None:
    assert quantile_ranks(10, 0.5) == (2, 9)  # covers with 97.9 %


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_intervals_cover_the_true_quantile_as_often_as_they_say(p: float) -> None:
    rng = np.random.default_rng(0)
    low, high = quantile_ranks(700, p)
    truth = -np.log(1 - p)
    samples = np.sort(rng.exponential(size=(2000, 700)), axis=1)
    covered = np.mean((samples[:, low - 1] <= truth) & (truth <= samples[:, high - 1]))
    assert covered > 0.94  # 95 % at least, less two standard errors of 2000 trials


def test_equal_calls_show_no_difference() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(0, 0.2, (2, 500))
    ratio = paired_ratio(a, b)
    assert ratio.verdict == "no difference"
    assert ratio.low <= 1 <= ratio.high


def test_a_difference_smaller_than_a_graph_has_to_itself_is_none() -> None:
    rng = np.random.default_rng(3)
    b = rng.lognormal(0, 0.001, 500)
    assert paired_ratio(0.985 * b, b).verdict == "no difference"
    assert paired_ratio(0.975 * b, b).verdict == "faster"


def test_a_difference_survives_drift_that_meets_both() -> None:
    rng = np.random.default_rng(2)
    drift = np.linspace(1, 3, 500)
    a, b = drift * rng.lognormal(0, 0.05, (2, 500)) * np.array([[1.1], [1.0]])
    assert paired_ratio(a, b).verdict == "slower"
    assert paired_ratio(b, a).verdict == "faster"
    assert paired_ratio(a, b).value == pytest.approx(1.1, rel=0.02)


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="two equal numbers"):
        paired_ratio(np.ones(3), np.ones(4))


def test_rounds_interleave_every_call_in_a_seeded_order() -> None:
    seen: list[str] = []
    calls = {name: (lambda n=name: seen.append(n)) for name in "abc"}
    taken = sample_latencies(calls, min_seconds=0, min_samples=50, seed=3)
    assert {name: len(samples) for name, samples in taken.items()} == {"a": 50, "b": 50, "c": 50}
    rounds = [tuple(seen[i : i + 3]) for i in range(0, 150, 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) == 6
    first = list(seen)
    seen.clear()
    sample_latencies(calls, min_seconds=0, min_samples=50, seed=3)
    assert seen == first


def test_sampling_lasts_for_the_minimum_time_and_stops_at_the_maximum() -> None:
    calls = {"sleep": lambda: time.sleep(0.001)}
    began = time.perf_counter()
    sample_latencies(calls, min_seconds=0.1, min_samples=1)
    assert time.perf_counter() - began >= 0.1
    assert len(sample_latencies(calls, min_seconds=9, min_samples=10**9, max_seconds=0.05)["sleep"]) < 100


class Clock:
    """Time that passes in ``sleep`` alone: what a machine does beside the test is no part of it."""

    def __init__(self) -> None:
        self.ns = 0

    def perf_counter_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("edgemm.runtime.timing.time", made)
    return made


def test_warm_up_outlasts_a_slow_start(clock: Clock) -> None:
    runs = 0

    def call() -> None:
        nonlocal runs
        runs += 1
        clock.sleep(0.004 if runs <= 25 else 0.0005)

    warm = warm_until_stable(call, min_seconds=0.0, max_seconds=20)
    assert warm.stable
    assert warm.runs > 40
    assert warm.first_ms == 4


def test_warm_up_that_never_settles_says_so(clock: Clock) -> None:
    pause = 0.0001

    def call() -> None:
        nonlocal pause
        pause *= 1.05
        clock.sleep(pause)

    assert not warm_until_stable(call, max_seconds=0.5).stable


def test_the_environment_names_machine_and_versions() -> None:
    found = environment()
    assert found["cores"] >= 1
    assert {"numpy", "onnxruntime"} <= set(found["versions"])


def test_untimed_calls_come_right_before_the_timed_one_of_the_same_thing() -> None:
    made: list[str] = []
    calls = {name: (lambda name=name: made.append(name)) for name in ("a", "b")}
    taken = sample_latencies(calls, min_seconds=0, min_samples=20, untimed=2)
    assert len(taken["a"]) == len(taken["b"]) == len(made) / 6
    assert all(len(set(made[i : i + 3])) == 1 for i in range(0, len(made), 3))

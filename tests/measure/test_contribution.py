"""Shapley values by hand and against one-by-one predictions; who is ignored gets nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from colour_bundles import question_samples
from family_bundles import joint, said_by_three

from edgemm.data.dataset import Sample
from edgemm.measure import accuracy, contribution
from edgemm.measure.contribution import (
    MEAN,
    PLACEHOLDER,
    SHUFFLED,
    answers,
    contributions,
    losses,
    mean_within,
    right,
    shapley,
    steps,
)
from edgemm.measure.metrics import estimate
from edgemm.measure.outputs import ACCURACY, ERROR, PROBABILITY, R_SQUARED
from edgemm.measure.shuffle import other_items
from edgemm.runtime.archive import seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import DataError
from edgemm.runtime.manifest import ClassesEntry, Manifest
from edgemm.runtime.readers import TensorInput
from tests.bundles import graph, signature, write_bundle

BOTH, NONE = frozenset(("image", "text")), frozenset()


def test_shapley_values_of_a_game_worked_by_hand() -> None:
    # Two left gloves and one right one: a pair is worth 1. The right glove gets 2/3, each left one 1/6.
    def worth(members: frozenset[str]) -> np.ndarray:
        return np.array([float("right" in members and len(members) > 1)])

    players = ("left", "other left", "right")
    game = {frozenset(p for p, taken in zip(players, bits, strict=True) if taken): None for bits in np.ndindex(2, 2, 2)}
    found = shapley({members: worth(members) for members in game}, players)
    assert {p: float(v[0]) for p, v in found.items()} == pytest.approx(
        {"left": 1 / 6, "other left": 1 / 6, "right": 2 / 3}
    )


def test_shapley_values_are_the_mean_over_all_orders_and_sum_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    players = ("a", "b", "c", "d")
    game = {
        frozenset(p for p, taken in zip(players, bits, strict=True) if taken): rng.normal(size=7)
        for bits in np.ndindex(2, 2, 2, 2)
    }
    found = shapley(game, players)
    for player in players:
        added = []
        for order in permutations(players):
            before = frozenset(order[: order.index(player)])
            added.append(game[before | {player}] - game[before])
        np.testing.assert_allclose(found[player], np.mean(added, axis=0), atol=1e-12)
    np.testing.assert_allclose(sum(found.values()), game[frozenset(players)] - game[frozenset()], atol=1e-12)


def test_every_coalition_is_what_predictions_one_by_one_give(good_classifier: Path, tmp_path: Path) -> None:
    samples = question_samples(tmp_path)
    bundle = Bundle.open(good_classifier)
    found = contributions(bundle, "test", samples, shuffles=2)
    pictures = list(dict.fromkeys(s.image for s in samples))
    which = np.array([pictures.index(s.image) for s in samples])
    for present, images in ((BOTH, [which, which]), (frozenset(["text"]), [other_items(which, s) for s in (0, 1)])):
        right, sure = [], []
        for chosen in images:
            for sample, index in zip(samples, chosen, strict=True):
                logits = bundle.predict(image=pictures[index], text=sample.text).outputs["logits"][0].astype(float)
                truth = ["no", "yes"].index(str(sample.label))
                right.append(float(logits.argmax() == truth))
                sure.append(np.exp(logits[truth]) / np.exp(logits).sum())
        for measure, values in ((ACCURACY, right), (PROBABILITY, sure)):
            expected = np.reshape(values, (2, -1)).mean(axis=0)
            np.testing.assert_allclose(found.values[SHUFFLED, measure][present], expected, atol=1e-6)


def test_contributions_sum_to_what_is_lost_without_anything(good_classifier: Path, tmp_path: Path) -> None:
    found = contributions(Bundle.open(good_classifier), "test", question_samples(tmp_path))
    for measure in (ACCURACY, PROBABILITY):
        brought = sum(found.shapley(SHUFFLED, measure).values())
        np.testing.assert_allclose(brought, found.full(SHUFFLED, measure) - found.empty(SHUFFLED, measure), atol=1e-12)
    assert found.full(SHUFFLED, ACCURACY).mean() == 1.0
    for values in found.shapley(SHUFFLED, ACCURACY).values():
        assert values.mean() > 0.1  # neither the question nor the picture alone says whether it is yes


def test_a_model_that_looks_at_nothing_gets_nothing_from_either(blind_classifier: Path, tmp_path: Path) -> None:
    found = contributions(Bundle.open(blind_classifier), "test", question_samples(tmp_path))
    for values in found.shapley(SHUFFLED, PROBABILITY).values():
        np.testing.assert_array_equal(values, 0.0)


def sensors(folder: Path, weights: dict[str, float], *, placeholders: bool = False) -> Path:
    """A classifier of numbers: class 1 where the weighted sum of one-number sensors is positive."""
    from onnx import helper

    names = list(weights)
    scale = {name: np.array([[w]], np.float32) for name, w in weights.items()}
    towers = {
        name: (
            "tower",
            name,
            (
                sig := signature([(name, "float32", ("batch", 1))], (f"{name}_features", ("batch", 1))),
                graph([helper.make_node("MatMul", [name, "w"], [f"{name}_features"])], sig, {"w": scale[name]}),
            ),
        )
        for name in names
    }
    sig = signature([(f"{n}_features", "float32", ("batch", 1)) for n in names], ("logits", ("batch", 2)))
    head = graph(
        [
            helper.make_node("Sum", [f"{n}_features" for n in names], ["total"]),
            helper.make_node("MatMul", ["total", "sides"], ["logits"]),
        ],
        sig,
        {"sides": np.array([[-1, 1]], np.float32)},
    )
    manifest: Manifest = write_bundle(
        folder,
        family="fusion_classifier",
        parts={**towers, "head": ("head", None, (sig, head))},  # type: ignore[dict-item]
        inputs={name: TensorInput(name) for name in names},
        outputs={"logits": ClassesEntry()},
        golden=[],
        targets=("cpu",),
    )
    (folder / "labels.json").write_text('["minus", "plus"]')
    held = {}
    if placeholders:
        for name in names:
            held[f"{name}_features"] = f"{name}.npy"
            np.save(folder / f"{name}.npy", np.zeros((1, 1), np.float32))
    seal(folder, replace(manifest, placeholders=held))
    return folder


def readings(folder: Path, names: tuple[str, ...], count: int = 40) -> list[Sample]:
    """Readings of -1 or 1; the label is the sign of the first sensor."""
    rng = np.random.default_rng(3)
    samples = []
    for i in range(count):
        paths = {}
        for name in names:
            paths[name] = folder / f"{name}-{i}.npy"
            np.save(paths[name], rng.choice([-1.0, 1.0], size=1).astype(np.float32))
        first = float(np.load(paths[names[0]])[0])
        samples.append(Sample(f"r{i}", tensors=paths, label="plus" if first > 0 else "minus"))
    return samples


def test_a_modality_that_is_ignored_brings_exactly_nothing(tmp_path: Path) -> None:
    bundle = Bundle.open(sensors(tmp_path / "one", {"heard": 1.0, "ignored": 0.0}))
    found = contributions(bundle, "test", readings(tmp_path, ("heard", "ignored")))
    brought = found.shapley(SHUFFLED, PROBABILITY)
    np.testing.assert_array_equal(brought["ignored"], 0.0)
    assert found.full(SHUFFLED, ACCURACY).mean() == 1.0
    assert brought["heard"].mean() > 0.2


def test_a_placeholder_is_a_second_way_to_be_absent(tmp_path: Path) -> None:
    bundle = Bundle.open(sensors(tmp_path / "held", {"a": 1.0, "b": 0.5}, placeholders=True))
    found = contributions(bundle, "test", readings(tmp_path, ("a", "b")))
    assert found.absences == (SHUFFLED, PLACEHOLDER)
    # With both placeholders (zeros) the logits are 0 and 0: half the probability is the truth's, whatever the truth.
    np.testing.assert_allclose(found.empty(PLACEHOLDER, PROBABILITY), 0.5)
    # With a alone the logits are -+1 for a = 1, its sign is the truth: 1 / (1 + e^-2).
    np.testing.assert_allclose(found.values[PLACEHOLDER, PROBABILITY][frozenset("a")], 1 / (1 + np.exp(-2)), rtol=1e-6)


def test_a_sample_that_lacks_a_modality_takes_the_placeholder_or_is_named(tmp_path: Path) -> None:
    samples = readings(tmp_path, ("a", "b"), 6)
    samples[2] = replace(samples[2], tensors={"a": samples[2].tensors["a"]})
    bundle = Bundle.open(sensors(tmp_path / "held", {"a": 1.0, "b": 0.5}, placeholders=True))
    found = contributions(bundle, "test", samples)
    alone = bundle.predict(a=np.load(samples[2].tensors["a"])).outputs["logits"][0]
    np.testing.assert_array_equal(found.outputs[2], alone)
    strict = Bundle.open(sensors(tmp_path / "strict", {"a": 1.0, "b": 0.5}))
    with pytest.raises(DataError, match="split 'test', sample 'r2': no b, and the bundle has no placeholder"):
        contributions(strict, "test", samples)


def test_more_than_four_modalities_are_refused(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e")
    bundle = Bundle.open(sensors(tmp_path / "five", dict.fromkeys(names, 1.0)))
    with pytest.raises(DataError, match="got 5 modalities, contributions are of 1 to 4"):
        contributions(bundle, "test", readings(tmp_path, names, 3))


def test_samples_without_labels_are_refused(good_classifier: Path, tmp_path: Path) -> None:
    samples = [replace(s, label=None) for s in question_samples(tmp_path)]
    with pytest.raises(DataError, match="contributions need labels"):
        contributions(Bundle.open(good_classifier), "test", samples)


def test_independent_classes_count_each_class(tmp_path: Path) -> None:
    folder = sensors(tmp_path / "many", {"a": 1.0})
    bundle = Bundle.open(folder)
    seal(folder, replace(bundle.manifest, outputs={"logits": ClassesEntry("labels.json", independent=True)}, files={}))
    samples = [replace(s, labels=(str(s.label),), label=None) for s in readings(tmp_path, ("a",), 8)]
    found = contributions(Bundle.open(folder), "test", samples)
    sigmoid = 1 / (1 + np.exp(-1.0))  # logits are -1 and 1, and the one above zero is right
    np.testing.assert_allclose(found.full(SHUFFLED, PROBABILITY), sigmoid, rtol=1e-6)
    np.testing.assert_array_equal(found.full(SHUFFLED, ACCURACY), 1.0)
    np.testing.assert_allclose(losses(found, samples), -np.log(sigmoid), rtol=1e-6)
    assert answers(found, samples)[0] == (samples[0].labels[0], f"probability {sigmoid:.2f}")


def test_the_loss_is_the_cross_entropy_and_infinite_without_a_class(good_classifier: Path, tmp_path: Path) -> None:
    samples = question_samples(tmp_path)
    samples[1] = replace(samples[1], label="perhaps")
    found = contributions(Bundle.open(good_classifier), "test", samples)
    lost = losses(found, samples)
    assert lost[1] == np.inf
    assert lost[0] == pytest.approx(-np.log(found.full(SHUFFLED, PROBABILITY)[0]))
    assert answers(found, samples)[0][0] == samples[0].label


def test_what_a_modality_takes_off_a_regressions_error_is_in_its_unit(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path)  # each of three says a third of the value, and a placeholder says nothing
    found = contributions(Bundle.open(joint(tmp_path / "b", "regression")), "test", samples)
    truth = np.array([s.value for s in samples])
    np.testing.assert_allclose(found.full(PLACEHOLDER, ERROR), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.empty(PLACEHOLDER, ERROR), -truth, atol=1e-5)
    for brought in found.shapley(PLACEHOLDER, ERROR).values():
        np.testing.assert_allclose(brought, truth / 3, atol=1e-5)
    assert found.measure == ERROR


def test_a_regression_that_ignores_a_modality_gives_it_nothing(tmp_path: Path) -> None:
    samples = [replace(s, value=float(i)) for i, s in enumerate(said_by_three(tmp_path))]
    bundle = Bundle.open(joint(tmp_path / "b", "regression", deaf=True, placeholders=False))
    found = contributions(bundle, "test", samples)
    for absent, measure in found.values:
        np.testing.assert_allclose(found.shapley(absent, measure)["sensor"], 0.0, atol=1e-12)  # means of shuffles
    missed = found.outputs[:, 0] - [s.value for s in samples]
    np.testing.assert_allclose(losses(found, samples), np.abs(missed))
    np.testing.assert_array_equal(right(found), np.abs(missed) <= np.abs(missed).mean())
    said, error = answers(found, samples)[0]
    assert (said, error) == ("2.00", "error +2.00")
    r_squared = 1 - (missed**2).sum() / ((np.arange(18) - 8.5) ** 2).sum()
    assert found.full(SHUFFLED, R_SQUARED).mean() == pytest.approx(r_squared)
    same = contributions(bundle, "test", [replace(s, value=1.0) for s in samples])
    assert {measure for _, measure in same.values} == {ERROR}  # no spread, no R²


def test_without_placeholders_the_mean_stands_in_as_in_the_table_of_accuracy(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path)
    bundle = Bundle.open(joint(tmp_path / "b", "regression", placeholders=False))
    found = contributions(bundle, "test", samples)
    assert found.absences == (SHUFFLED, MEAN)
    truth = np.array([s.value for s in samples])
    np.testing.assert_allclose(found.empty(MEAN, ERROR), -np.abs(truth - truth.mean()), atol=1e-5)
    scored = {s.task: np.array(s.samples) for s in accuracy.score(bundle, "test", samples)}
    alone = scored["image only (text and sensor mean)"]
    expected = -np.abs(alone - truth)
    np.testing.assert_allclose(found.values[MEAN, ERROR][frozenset(["image"])], expected, atol=1e-5)


def test_features_that_have_no_mean_are_only_shuffled(good_classifier: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(contribution, "can_average", lambda _: False)  # tokens, as many as there are words
    bundle, samples = Bundle.open(good_classifier), question_samples(tmp_path)
    told: list[int] = []
    assert contributions(bundle, "test", samples, advance=told.append).absences == (SHUFFLED,)
    assert sum(told) == steps(bundle, "test", samples)


def test_steps_says_how_many_there_are(good_classifier: Path, tmp_path: Path) -> None:
    bundle, samples = Bundle.open(good_classifier), question_samples(tmp_path)
    told: list[int] = []
    contributions(bundle, "test", samples, advance=told.append)
    assert sum(told) == steps(bundle, "test", samples)


def test_a_group_is_estimated_on_its_own_samples() -> None:
    values = np.array([0.0, 1.0, 1.0, 1.0])
    inside = np.array([True, True, False, False])
    assert estimate(mean_within(values, inside), clusters=["a", "b"]).value == 0.5


def test_a_contribution_of_nothing_is_no_share_that_was_never_seen() -> None:
    nothing, everyone = np.zeros(4), np.ones(4, bool)
    brought = estimate(mean_within(nothing, everyone, signed=True), clusters=list("abcd"))
    assert (brought.low, brought.high) == (0.0, 0.0)
    assert estimate(mean_within(nothing, everyone), clusters=list("abcd")).high > 0.3  # an accuracy of 0 in 4


def test_no_sample_is_given_its_own_item() -> None:
    which = np.array([0, 0, 1, 2, 2, 3, -1])
    for seed in range(20):
        turned = other_items(which, seed)
        assert (turned[:-1] != which[:-1]).all()
        assert turned[-1] == -1
        np.testing.assert_array_equal(np.bincount(turned[:-1]), np.bincount(which[:-1]))

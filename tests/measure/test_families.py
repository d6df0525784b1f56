"""Every family on real bundles: three modalities that may be missing, several labels, values, zero-shot, identities."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import audio_and_sensor
from colour_bundles import COLOURS, picture, retrieval_samples
from family_bundles import PURE, embedder, faces, joint, said_by_three, triple
from sklearn.metrics import roc_auc_score

from edgemm.data.dataset import Pair, Sample
from edgemm.measure import accuracy
from edgemm.measure.accuracy import Needed
from edgemm.measure.answers import droppable
from edgemm.measure.blame import blame
from edgemm.measure.scores import Scored, headline_metric, headline_task, statistics
from edgemm.measure.zeroshot import zero_shot
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import answer_of


def value_of(scored: Scored, metric: str) -> float:
    found = statistics(scored)[metric]
    return float(found.statistic(np.ones((1, len(found.clusters))))[0])


def by_task(bundle: Path, samples: list[Sample], **more: object) -> dict[str, Scored]:
    return {s.task: s for s in accuracy.score(Bundle.open(bundle), "test", samples, **more)}  # type: ignore[arg-type]


def test_three_modalities_are_measured_with_each_alone_and_each_missing(tmp_path: Path) -> None:
    found = by_task(joint(tmp_path / "b"), said_by_three(tmp_path))
    assert set(found) == {
        "answers",
        *(f"{kept} only ({others} {how})" for how in ("shuffled", "mean") for kept, others in (
            ("image", "text and sensor"), ("text", "image and sensor"), ("sensor", "image and text"))),
        *(f"answers, without {m}" for m in ("image", "text", "sensor")),
        *(f"answers, without {two}" for two in ("image and text", "image and sensor", "text and sensor")),
    }  # fmt: skip
    for task in ("answers", "answers, without image", "answers, without text and sensor"):
        assert value_of(found[task], "accuracy") == 1.0, task
    assert value_of(found["sensor only (image and text shuffled)"], "accuracy") < 1.0
    assert found["answers"].details["labels"] == list(PURE)


def test_a_model_that_ignores_a_modality_is_lost_where_only_that_is_left(tmp_path: Path) -> None:
    deaf = by_task(joint(tmp_path / "b", deaf=True), said_by_three(tmp_path))
    assert value_of(deaf["answers"], "accuracy") == 1.0
    alone = deaf["answers, without image and text"]  # all logits are equal: always the first class
    assert value_of(alone, "accuracy") == pytest.approx(1 / 3)


def test_a_sample_without_a_modality_gets_the_placeholder_as_predict_gives_it(tmp_path: Path) -> None:
    path = joint(tmp_path / "b")
    samples = said_by_three(tmp_path)
    samples[0] = replace(samples[0], image=None)
    samples[1] = replace(samples[1], text=None, tensors={})
    bundle = Bundle.open(path)
    assert droppable(bundle) == ("image", "text", "sensor")
    logits = [
        bundle.predict(
            **{m: np.load(raw) if m == "sensor" else raw for m in ("image", "text", "sensor") if (raw := s.raw(m))}
        )
        for s in samples
    ]
    found = by_task(path, samples)
    assert list(found["answers"].samples) == [p.outputs["logits"][0].argmax() for p in logits]
    multi = by_task(joint(tmp_path / "m", "multi-label"), samples)["answers"]
    expected = [1 / (1 + np.exp(-p.outputs["logits"][0].astype(float))) for p in logits]
    np.testing.assert_allclose(np.reshape(multi.samples, (-1, 3)), expected, atol=1e-5)  # six figures are kept


def test_without_placeholders_a_missing_modality_is_an_error_that_names_the_sample(tmp_path: Path) -> None:
    path = joint(tmp_path / "b", placeholders=False)
    samples = said_by_three(tmp_path)
    assert not [task for task in by_task(path, samples) if "without" in task]
    samples[4] = replace(samples[4], tensors={})
    with pytest.raises(DataError, match=r"split 'test', sample 'green1': no sensor, which others .* no placeholder"):
        by_task(path, samples)
    with pytest.raises(DataError, match="no sample has sensor, which the model takes"):
        by_task(path, [replace(s, tensors={}) for s in samples])
    bare = replace(samples[0], image=None, text=None, tensors={})
    with pytest.raises(DataError, match="sample 'red0': has none of image, text, sensor"):
        by_task(joint(tmp_path / "c"), [bare, *samples])


def test_answers_on_one_cluster_are_not_independent(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path, count=2)
    path = joint(tmp_path / "b")
    apart = by_task(path, samples)["answers"].details["clusters"]
    together = by_task(path, [replace(s, cluster=s.label) for s in samples])["answers"].details["clusters"]
    assert len(set(apart)) == len({s.image for s in samples}) == 6
    assert len(set(together)) == 3


def test_several_labels_are_right_as_computed_by_hand(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path, count=2)
    samples[0] = replace(samples[0], labels=("red", "blue"))  # the model only ever gives one
    samples[1] = replace(samples[1], labels=("green", "violet"))  # which training never gave
    answers = by_task(joint(tmp_path / "b", "multi-label"), samples)["answers"]
    assert answers.kind == "probabilities"
    assert answers.details["truth"][:3] == [[0, 2], [-1, 1], [2]]
    assert value_of(answers, "subset accuracy") == pytest.approx(4 / 6)
    assert value_of(answers, "micro F1") == pytest.approx(2 * 6 / (6 + 8))
    assert value_of(answers, "macro F1") == pytest.approx((1 + 1 + 2 * 2 / (2 + 3) + 0) / 4)
    assert headline_metric(answers) == "macro average precision"
    blue = (1 + 1) / 3 + 3 / 6 / 3  # the two blue pictures first, and the red one's place among four equal others
    assert value_of(answers, "macro average precision") == pytest.approx((1 + 1 + blue) / 3)


def test_values_are_measured_by_their_errors(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path)
    samples[0] = replace(samples[0], value=5.0)  # the three say red: 1 + 1 + 1 = 3
    answers = by_task(joint(tmp_path / "b", "regression"), samples)["answers"]
    assert list(answers.samples) == [3.0, 6.0, 9.0] * 6
    assert value_of(answers, "MAE") == pytest.approx(2 / 18)
    assert value_of(answers, "RMSE") == pytest.approx(np.sqrt(4 / 18))
    assert headline_metric(answers) == "R²"
    with pytest.raises(DataError, match="sample 'green0': no value"):
        by_task(joint(tmp_path / "c", "regression"), [samples[0], replace(samples[1], value=None)])


def test_every_pair_of_three_modalities_is_searched_on_the_samples_that_have_both(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path, count=2)
    samples = [replace(s, tensors={}) if i % 2 else s for i, s in enumerate(samples)]  # sensors of red, blue, green
    found = by_task(triple(tmp_path / "b"), samples)
    names = ("image", "text", "sensor")
    assert [t for t in found if len(set(t.split("→"))) > 1] == [f"{a}→{b}" for a in names for b in names if a != b]
    assert found["text→image"].details["gallery"] == 6
    assert found["text→sensor"].details["gallery"] == 3
    assert found["sensor→image"].details["gallery"] == 3
    assert all(set(s.samples) == {1.0} for s in found.values())
    apart = [replace(s, image=None, text=None) if s.tensors else replace(s, text=None) for s in samples]
    with pytest.raises(DataError, match="no sample has two of image, text, sensor"):
        by_task(triple(tmp_path / "c"), apart)


def test_sounds_and_sensors_are_ranked_as_one_by_one_predictions_are(tmp_path: Path) -> None:
    import soundfile

    audio_and_sensor(tmp_path / "b")
    rng = np.random.default_rng(0)
    samples = []
    for i in range(5):
        soundfile.write(tmp_path / f"{i}.wav", rng.uniform(-1, 1, 400 + 50 * i).astype(np.float32), 16000)
        np.save(tmp_path / f"{i}.npy", rng.normal(size=6).astype(np.float32))
        samples.append(Sample(f"{i}", audio=tmp_path / f"{i}.wav", tensors={"sensor": tmp_path / f"{i}.npy"}))
    bundle = Bundle.open(tmp_path / "b")
    found = by_task(tmp_path / "b", samples)
    assert headline_task(found) == "audio→sensor"
    sounds = np.concatenate([bundle.predict(audio=s.audio).outputs["audio_embedding"] for s in samples])
    sensors = np.concatenate(
        [bundle.predict(sensor=np.load(s.tensors["sensor"])).outputs["sensor_embedding"] for s in samples]
    )
    sensors /= np.linalg.norm(sensors, axis=1, keepdims=True)
    scores = sounds @ sensors.T
    expected = [1 + sum(row[j] >= row[i] for j in range(5) if j != i) for i, row in enumerate(scores)]
    assert list(found["audio→sensor"].samples) == expected


def test_labels_as_sentences_classify_unseen_images(noisy_retriever: Path, tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path)
    prompts = ("it is {}", "is it {}", "{}")
    found = by_task(noisy_retriever, samples, prompts=prompts)
    assert [task for task in found if task.startswith("zero-shot")] == ["zero-shot image"]
    zero = found["zero-shot image"]
    bundle = Bundle.open(noisy_retriever)
    names = sorted(COLOURS)

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v)

    classes = []
    for name in names:
        texts = [bundle.predict(text=p.format(name)).outputs["text_embedding"][0] for p in prompts]
        classes.append(unit(np.mean([unit(t) for t in texts], axis=0)))
    expected = []
    for s in samples:
        scores = np.array(classes) @ unit(bundle.predict(image=s.image).outputs["image_embedding"][0])
        own = names.index(str(s.label))
        expected.append(1 + sum(scores[j] >= scores[own] for j in range(5) if j != own))
    assert list(zero.samples) == expected
    assert zero.details["chance"] == pytest.approx({"top-1": 0.2, "top-5": 1.0})
    assert value_of(zero, "top-1") == pytest.approx(np.mean(np.array(expected) == 1))
    assert accuracy.encodings(bundle, samples, prompts=prompts) == 10 + 5 + 15
    assert zero_shot(bundle, "t", samples, {}, prompts=()) == []


def test_an_embedder_is_measured_by_pairs_and_by_whose_a_sample_is(tmp_path: Path) -> None:
    samples = faces(tmp_path)
    samples.append(Sample("alone", image=picture(tmp_path, "alone", (1, 2, 250)), label="alone"))
    path = embedder(tmp_path / "b")
    found = by_task(path, samples)
    assert list(found) == ["verification", "identification"]
    bundle = Bundle.open(path)
    vectors = np.concatenate([bundle.predict(image=s.image).outputs["embedding"] for s in samples])
    labels = np.array([s.label for s in samples])
    one, other = np.triu_indices(len(samples), 1)
    truth, cosines = labels[one] == labels[other], (vectors @ vectors.T)[one, other]
    pairs = found["verification"]
    assert (pairs.details["genuine"], pairs.details["different"]) == (8 * 6, 33 * 32 // 2 - 48)
    np.testing.assert_allclose(pairs.samples, cosines, atol=2e-6)  # six decimals are kept
    area = statistics(pairs)["ROC-AUC"]
    assert len(area.clusters) == 9
    assert area.statistic(np.ones((1, 9)))[0] == pytest.approx(roc_auc_score(truth, np.round(cosines, 6)), abs=1e-4)
    assert not [name for name in statistics(pairs) if name.startswith("TAR")]  # 480 different pairs are too few
    np.fill_diagonal(scores := vectors @ vectors.T, -np.inf)
    nearest = labels[scores.argmax(axis=1)]
    ranks = found["identification"]
    assert len(ranks.samples) == 32  # who is alone is nobody's answer
    assert value_of(ranks, "rank-1") == pytest.approx(np.mean((nearest == labels)[:32]))
    assert headline_task(found) == "identification"


def test_an_embedder_needs_identities(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 image samples of 4 identities; verification needs two"):
        by_task(embedder(tmp_path / "b"), faces(tmp_path, identities=4, each=1))


def test_blame_finds_the_spoiled_part_of_each_family(tmp_path: Path) -> None:
    people = faces(tmp_path / "faces")
    good = embedder(tmp_path / "good")
    bad = embedder(tmp_path / "bad", spoiled=np.diag([1, 0, 0]).astype(np.float32))
    found = blame(bad, good, split="test", samples=people)
    assert (found.task, found.metric) == ("identification", "rank-1")
    assert [p.part for p in found.parts] == ["image_head"]
    assert found.parts[0].gain.value > 0
    samples = said_by_three(tmp_path)
    whole, deaf = joint(tmp_path / "r", "regression"), joint(tmp_path / "d", "regression", deaf=True)
    lost = blame(deaf, whole, split="test", samples=samples)
    assert (lost.metric, [p.part for p in lost.parts]) == ("R²", ["head"])
    assert lost.compressed.value + lost.parts[0].gain.value == pytest.approx(1.0)


def test_what_is_missing_is_said_before_training(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path)
    three = ("image", "text", "sensor")
    accuracy.check_answers(Needed("test", samples, three, answer=answer_of("regression")))
    accuracy.check_search(Needed("test", samples, three))
    accuracy.check_verification(Needed("test", samples, ("image",)))
    lacking = [replace(samples[0], text=None, label=None, labels=(), value=None), *samples[1:]]
    with pytest.raises(DataError, match="sample 'red0': no text"):
        accuracy.check_answers(Needed("test", lacking, three, answer=answer_of("multi-label")))
    accuracy.check_answers(Needed("test", lacking, three, answer=answer_of("multi-label"), may_lack=("text",)))
    for task, said in (("single-label", "no label"), ("regression", "no value")):
        with pytest.raises(DataError, match=said):
            accuracy.check_answers(Needed("t", lacking, ("image",), answer=answer_of(task)))
    with pytest.raises(DataError, match="no sample has labels"):
        accuracy.check_answers(Needed("t", lacking[:1], ("image",), answer=answer_of("multi-label")))
    with pytest.raises(DataError, match="the text 'red' stands under two labels"):
        accuracy.check_search(Needed("t", [replace(samples[0], image=None, label="x"), *samples], three))
    with pytest.raises(DataError, match="split 't': no samples to measure on"):
        Needed("t", [], three)


def test_the_digest_of_samples_sees_every_field(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path)
    before = accuracy.samples_digest("u", samples)
    other = {"image": samples[-1].image, "audio": samples[0].image, "tensors": {}, "labels": ("x",), "value": 1.0}
    for field in dataclasses.fields(Sample):
        changed = replace(samples[0], **{field.name: other.get(field.name, "x")})
        assert accuracy.samples_digest("u", [changed, *samples[1:]]) != before, field.name
    np.save(samples[0].tensors["sensor"], np.zeros(3, np.float32))
    assert accuracy.samples_digest("u", samples) != before


def test_all_pairs_given_are_as_good_as_none_given(tmp_path: Path) -> None:
    samples = faces(tmp_path)
    path = embedder(tmp_path / "b")
    every = [Pair(a.id, b.id, a.label == b.label) for i, a in enumerate(samples) for b in samples[i + 1 :]]
    plain, given = by_task(path, samples), by_task(path, samples, pairs=every)
    assert given["verification"].samples == plain["verification"].samples
    assert given["verification"].details == {**plain["verification"].details, "given": True}
    assert given["identification"] == plain["identification"]


def test_the_pairs_given_and_no_others_are_compared(tmp_path: Path) -> None:
    samples = faces(tmp_path)
    rng = np.random.default_rng(1)
    drawn = [(samples[i], samples[j]) for i, j in rng.integers(0, len(samples), (200, 2)) if i != j]
    pairs = [Pair(a.id, b.id, a.label == b.label, str(n % 4)) for n, (a, b) in enumerate(drawn)]
    path = embedder(tmp_path / "b", spoiled=np.diag([1.0, 0.3, 0.0]).astype(np.float32))
    found = by_task(path, samples, pairs=pairs)
    bundle = Bundle.open(path)
    vectors = {s.id: bundle.predict(image=s.image).outputs["embedding"][0] for s in samples}
    cosines = np.array([vectors[p.a] @ vectors[p.b] for p in pairs])
    np.testing.assert_allclose(found["verification"].samples, cosines, atol=2e-6)
    same = np.array([p.same for p in pairs])
    assert value_of(found["verification"], "ROC-AUC") == pytest.approx(roc_auc_score(same, cosines), abs=1e-4)
    scored = found["verification"]
    shares = []
    for fold in "0123":  # every threshold tried on the other folds by hand, the highest of the best kept
        held = np.array([p.fold == fold for p in pairs])
        seen = np.asarray(scored.samples)
        tried = sorted({np.inf, *seen[~held]}, reverse=True)
        best = max(tried, key=lambda t: ((seen[~held] >= t) == same[~held]).sum())
        shares.append(((seen[held] >= best) == same[held]).mean())
    assert value_of(scored, "accuracy over folds") == pytest.approx(np.mean(shares))
    assert statistics(scored)["accuracy over folds"].chance == pytest.approx(max(same.mean(), 1 - same.mean()))
    assert by_task(path, samples, pairs=pairs)["identification"] == by_task(path, samples)["identification"]


def test_a_pair_of_a_sample_without_the_modality_is_told(tmp_path: Path) -> None:
    samples = [*faces(tmp_path), Sample("bare", text="no picture", label="person 0")]
    pairs = [Pair("0/0", "bare", True), Pair("0/0", "1/0", False)]
    with pytest.raises(DataError, match=r"split 'test', sample 'bare': in a pair of data.pairs, and has no image"):
        by_task(embedder(tmp_path / "b"), samples, pairs=pairs)

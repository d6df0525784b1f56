"""Accuracy through the bundle's own runtime, against one-by-one predictions and answers known by construction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colour_bundles import question_samples, retrieval_samples, retriever

from edgemm.measure import accuracy
from edgemm.measure.encode import combine, encode, split_chain
from edgemm.measure.retrieval import embeddings
from edgemm.measure.scores import TEACHERS
from edgemm.measure.shuffle import other_items
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import BundleError, DataError


def test_ranks_are_those_of_one_by_one_predictions(noisy_retriever: Path, tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path)
    bundle = Bundle.open(noisy_retriever)
    found = {s.task: s for s in accuracy.score(bundle, "unseen", samples)}
    assert set(found) == {"text→image", "image→text", "image→image"}
    images = np.concatenate([bundle.predict(image=s.image).outputs["image_embedding"] for s in samples])
    words = list(dict.fromkeys(s.text for s in samples))
    texts = np.concatenate([bundle.predict(text=w).outputs["text_embedding"] for w in words])
    expected = []
    for w, vector in zip(words, texts, strict=True):
        scores = images @ vector
        best = max(score for score, s in zip(scores, samples, strict=True) if s.label == w)
        expected.append(1 + sum(score >= best for score, s in zip(scores, samples, strict=True) if s.label != w))
    assert list(found["text→image"].samples) == expected
    assert len(found["image→text"].samples) == len(samples)
    assert found["text→image"].details["gallery"] == 10


def test_chance_is_that_of_a_random_order(noisy_retriever: Path, tmp_path: Path) -> None:
    scored = {s.task: s for s in accuracy.score(Bundle.open(noisy_retriever), "u", retrieval_samples(tmp_path))}
    # 2 positives of 10: 1 - C(8,1)/C(10,1) = .2; 5 texts, one positive: 1/5; ten drawn of ten always hold one
    assert scored["text→image"].details["chance"] == pytest.approx({"R@1": 0.2, "R@10": 1.0})
    assert scored["image→text"].details["chance"] == pytest.approx({"R@1": 0.2, "R@10": 1.0})


def test_examples_show_only_groups_that_may_be_shown(good_retriever: Path, tmp_path: Path) -> None:
    scored = accuracy.score(
        Bundle.open(good_retriever), "u", retrieval_samples(tmp_path), examples=3, shown_groups=("a",)
    )
    for task in scored:
        assert len(task.examples) == (0 if task.task == "image→image" else 3)
        for example in task.examples:
            assert example["hits"][0]["right"] is True
            assert len(example["hits"]) == 5  # five pictures of maker "a", and every text
            pictures = [item for h in example["hits"] if (item := h["item"]).endswith(".png")]
            assert all(Path(p).name.startswith("a-") for p in pictures)
            assert "examples" not in task.details


def test_a_classifier_is_scored_with_each_modality_alone(
    good_classifier: Path, blind_classifier: Path, tmp_path: Path
) -> None:
    samples = question_samples(tmp_path)

    def share(bundle: Path) -> dict[str, float]:
        return {
            s.task: float(np.mean(np.array(s.samples) == np.tile(s.details["truth"], s.details.get("repeats", 1))))
            for s in accuracy.score(Bundle.open(bundle), "test", samples)
        }

    seeing, blind = share(good_classifier), share(blind_classifier)
    assert seeing["answers"] == 1.0
    assert seeing["text only (image shuffled)"] < 0.7
    assert seeing["image only (text shuffled)"] < 0.7
    assert list(blind.values()) == pytest.approx([2 / 3] * 5)  # always "no": nothing changes without the picture
    alone = (
        "text only (image shuffled)",
        "text only (image mean)",
        "image only (text shuffled)",
        "image only (text mean)",
    )
    assert set(seeing) == {"answers", *alone}


def test_a_shuffle_gives_no_sample_its_own_item_and_uses_each_as_often() -> None:
    which = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 4])
    for seed in range(20):
        turned = other_items(which, seed)
        assert not (turned == which).any()
        assert sorted(turned) == sorted(which)


def test_an_answer_that_training_never_gave_counts_as_wrong(good_classifier: Path, tmp_path: Path) -> None:
    samples = question_samples(tmp_path)
    samples[0] = replace(samples[0], label="maybe")
    answers = accuracy.score(Bundle.open(good_classifier), "test", samples)[0]
    assert answers.details["truth"][0] == -1
    assert answers.samples[0] in (0.0, 1.0)


def test_joining_kept_rows_is_what_predict_answers(good_classifier: Path, tmp_path: Path) -> None:
    samples = question_samples(tmp_path)[:9]
    bundle = Bundle.open(good_classifier)
    chain = split_chain(bundle, ("image", "text"))
    assert [p.name for p in chain.joint] == ["fusion", "head"]
    assert chain.alone == {"image": ("pixels",), "text": ("text_features",)}
    rows = {"pixels": encode(bundle, "image", [s.image for s in samples], ("pixels",))["pixels"]}
    rows["text_features"] = encode(bundle, "text", [s.text for s in samples], ("text_features",))["text_features"]
    together = combine(bundle, chain.joint, rows, "logits")
    alone = np.concatenate([bundle.predict(image=s.image, text=s.text).outputs["logits"] for s in samples])
    np.testing.assert_allclose(together, alone, atol=1e-6)  # float32 sums of 3 terms, in another batch size


def test_samples_that_lack_a_modality_are_refused(good_classifier: Path, tmp_path: Path) -> None:
    samples = question_samples(tmp_path)
    samples[3] = replace(samples[3], text=None)
    with pytest.raises(DataError, match=r"split 'test', sample 'red0\?.*|no text, which others"):
        accuracy.score(Bundle.open(good_classifier), "test", samples)
    with pytest.raises(DataError, match="no samples"):
        accuracy.score(Bundle.open(good_classifier), "test", [])
    with pytest.raises(DataError, match=r"no sample has a label, .* data\.columns"):
        accuracy.score(Bundle.open(good_classifier), "test", [replace(samples[0], label=None)])


def test_an_embedding_that_is_not_finite_is_named(tmp_path: Path) -> None:
    broken = retriever(tmp_path / "b", noise=float("inf"))
    with pytest.raises(BundleError, match=r"value 'image_embedding' of .* holds NaN or infinity"):
        accuracy.score(Bundle.open(broken), "u", retrieval_samples(tmp_path / "p"))


def test_the_digest_of_samples_sees_contents_and_labels(tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path)
    before = accuracy.samples_digest("u", samples)
    assert before == accuracy.samples_digest("u", samples)
    assert before != accuracy.samples_digest("v", samples)
    assert before != accuracy.samples_digest("u", [replace(samples[0], label="x"), *samples[1:]])
    samples[0].image.write_bytes(samples[1].image.read_bytes())  # type: ignore[union-attr]
    assert before != accuracy.samples_digest("u", samples)


def test_a_gallery_of_the_teacher_is_searched_with_the_bundles_own_queries(
    good_retriever: Path, tmp_path: Path
) -> None:
    samples = retrieval_samples(tmp_path)
    teacher, bundle = Bundle.open(good_retriever), Bundle.open(retriever(tmp_path / "n", noise=0.5, wide=64))
    gallery = embeddings(teacher, "u", samples)
    own = embeddings(bundle, "u", samples)
    found = {s.task: s for s in accuracy.score(bundle, "u", samples, gallery=gallery)}
    assert set(found) == {f"{t}{g}" for t in ("text→image", "image→text", "image→image") for g in ("", TEACHERS)}
    words = list(dict.fromkeys(s.text for s in samples))
    for task, vectors in (("text→image", own), ("text→image, teacher's gallery", gallery)):
        assert found[task].details["task"] == task
        for rank, word, query in zip(found[task].samples, words, own["text"], strict=True):
            scores = vectors["image"] @ query
            best = max(score for score, s in zip(scores, samples, strict=True) if s.label == word)
            assert rank == 1 + sum(score >= best for score, s in zip(scores, samples, strict=True) if s.label != word)
    # known embeddings are not made again, and a teacher searches its own gallery
    same = {s.task: s.samples for s in accuracy.score(teacher, "u", samples, own=gallery, gallery=gallery)}
    assert same["text→image"] == same["text→image, teacher's gallery"]
    # a picture is never found by itself: each label has two pictures, and the other one counts
    assert len(found["image→image"].samples) == len(samples)
    assert found["image→image"].details["chance"]["R@1"] == pytest.approx(1 / 10)


def test_a_gallery_in_another_space_is_refused(good_retriever: Path, tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path)
    gallery = {m: np.zeros((len(v), 7), np.float32) for m, v in
               embeddings(Bundle.open(good_retriever), "u", samples).items()}  # fmt: skip
    with pytest.raises(BundleError, match=r'dimensions, those of the gallery have 7; .*gallery_encoder = "bundle"'):
        accuracy.score(Bundle.open(good_retriever), "u", samples, gallery=gallery)

"""Towers of two bundles search each other: against cosines by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colour_bundles import picture, retrieval_samples, retriever
from family_bundles import embedder, faces

from edgemm.measure import accuracy
from edgemm.measure.swapped_towers import embed, searches
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import BundleError, DataError


def test_ranks_with_a_swapped_tower_are_those_of_its_embeddings(tmp_path: Path) -> None:
    good = retriever(tmp_path / "good", wide=8)
    bad = retriever(tmp_path / "bad", wide=8, noise=0.5)
    samples = retrieval_samples(tmp_path)
    embedded = {path.name: embed(Bundle.open(path), "test", samples) for path in (good, bad)}
    found = {(s.query, s.query_of, s.gallery_of): s for s in searches(embedded)}
    assert len(found) == 8
    words = list(dict.fromkeys(s.text for s in samples))
    texts = np.concatenate([Bundle.open(good).predict(text=w).outputs["text_embedding"] for w in words])
    images = np.concatenate([Bundle.open(bad).predict(image=s.image).outputs["image_embedding"] for s in samples])
    ranks = []
    for word, scores in zip(words, texts @ images.T, strict=True):
        right = np.array([s.label == word for s in samples])
        ranks.append(1 + int((scores[~right] >= scores[right].max()).sum()))
    assert found["text", "good", "bad"].ranks.tolist() == ranks
    # The text towers are the same, so swapping them changes nothing.
    np.testing.assert_array_equal(found["text", "good", "bad"].ranks, found["text", "bad", "bad"].ranks)
    assert found["text", "good", "bad"].ranks.sum() > found["text", "good", "good"].ranks.sum()


def test_what_is_nearest_holds_only_groups_that_may_be_shown(good_retriever: Path, tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path)
    embedded = {"one": embed(Bundle.open(good_retriever), "test", samples)}
    for search in searches(embedded, shown_groups=("a",)):
        groups = {embedded["one"][search.gallery].groups[i] for i in search.nearest.ravel()}
        assert search.gallery == "text" or groups == {"a"}
    everything = searches(embedded)
    np.testing.assert_array_equal(everything[0].ranks, searches(embedded, shown_groups=("a",))[0].ranks)


def test_bundles_of_two_spaces_are_refused(good_retriever: Path, tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path)
    narrow = retriever(tmp_path / "narrow", wide=4)
    embedded = {p.name: embed(Bundle.open(p), "test", samples) for p in (good_retriever, narrow)}
    with pytest.raises(BundleError, match=r"embeddings of different widths, 'good' of \[64\], 'narrow' of \[4\]"):
        searches(embedded)


def test_a_label_that_the_gallery_lacks_is_named(good_retriever: Path, tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path)
    samples = [replace(s, text=None) if s.label == "red" else s for s in samples]
    with pytest.raises(
        DataError, match="image→text: nothing of 'red' in the gallery; give it a text too, or leave out its image"
    ):
        searches({"one": embed(Bundle.open(good_retriever), "test", samples)})


def test_one_item_under_two_labels_is_named(good_retriever: Path, tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path)
    samples[1] = replace(samples[1], text="red")
    with pytest.raises(DataError, match="split 'test': the text 'red' stands under two labels, 'red' and 'green'"):
        embed(Bundle.open(good_retriever), "test", samples)


def test_one_modality_alone_is_not_taken_for_an_embedders(good_retriever: Path, tmp_path: Path) -> None:
    samples = [replace(s, text=None) for s in retrieval_samples(tmp_path)]
    with pytest.raises(DataError, match=r"the samples have 'image' alone, and no text to find or be found by; give"):
        embed(Bundle.open(good_retriever), "test", samples)


def test_an_embedders_samples_search_each_other_as_identification_does(tmp_path: Path) -> None:
    samples = faces(tmp_path)
    samples.append(replace(samples[0], id="alone", image=picture(tmp_path, "alone", (9, 9, 9)), label="alone"))
    bundle = Bundle.open(embedder(tmp_path / "b"))
    embedded = embed(bundle, "test", samples)
    (search,) = searches({"b": embedded})
    scored = {s.task: s for s in accuracy.score(bundle, "test", samples)}["identification"]
    assert search.ranks.tolist() == list(scored.samples)
    assert search.asked.tolist() == list(range(32))  # one of its kind asks nothing
    cosines = embedded["image"].vectors @ embedded["image"].vectors.T
    for place, margin, nearest in zip(search.asked, search.margins, search.nearest, strict=True):
        same = np.array([label == samples[place].label for label in embedded["image"].labels])
        others = np.arange(33) != place
        assert margin == pytest.approx(cosines[place][same & others].max() - cosines[place][~same].max())
        assert place not in nearest
        assert len(nearest) == 5
    assert ((search.margins > 0) == (search.ranks == 1)).all()


def test_embedders_of_two_spaces_stand_side_by_side(tmp_path: Path) -> None:
    samples = faces(tmp_path)
    bundles = {
        "one": embedder(tmp_path / "one"),
        "two": embedder(tmp_path / "two", spoiled=np.eye(3, dtype=np.float32)[::-1]),
    }
    found = searches({name: embed(Bundle.open(path), "test", samples) for name, path in bundles.items()})
    assert [(s.query_of, s.gallery_of) for s in found] == [("one", "one"), ("two", "two")]


def test_an_embedder_needs_identities(tmp_path: Path) -> None:
    samples = [replace(s, label=s.id) for s in faces(tmp_path)]
    with pytest.raises(DataError, match="verification needs two identities"):
        embed(Bundle.open(embedder(tmp_path / "b")), "test", samples)

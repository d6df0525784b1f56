"""A split as arrays: each image and text once, names of one concept exchangeable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgemm.compress.training_rows import corpus_of, made_up_texts
from edgemm.data import Dataset, Sample
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import Classes, answer_of


def dataset(samples: list[Sample], **more: dict[str, tuple[str, ...]]) -> Dataset:
    checksums = {s.image: str(s.image) for s in samples if s.image is not None}
    labels = tuple(sorted({s.label for s in samples if s.label is not None}))
    return Dataset({"train": samples}, labels=labels, evaluate=("train",), checksums=checksums, **more)


def test_each_image_and_text_stands_once() -> None:
    a, b = Path("a.png"), Path("b.png")
    corpus = corpus_of(
        dataset(
            [
                Sample("1", image=a, text="what", label="yes"),
                Sample("2", image=a, text="where", label="no"),
                Sample("3", image=b, text="what", label="yes"),
            ]
        )
    )
    assert corpus.files == {"image": (a, b)}
    assert corpus.texts == ("what", "where")
    assert corpus.rows["image"].tolist() == [0, 0, 1]
    assert corpus.choose("text", torch.arange(3), None).tolist() == [0, 1, 0]
    assert corpus.label.tolist() == [1, 0, 1]


def test_other_names_of_a_concept_are_drawn_as_often_as_its_own() -> None:
    samples = [
        Sample("1", image=Path("a"), text="cat", label="cat"),
        Sample("2", image=Path("b"), text="dog", label="dog"),
    ]
    corpus = corpus_of(dataset(samples, texts={"cat": ("cat", "kitten", "puss"), "dog": ("dog",)}), names=True)
    rows = torch.zeros(3000, dtype=torch.int64)
    drawn = corpus.choose("text", rows, torch.Generator().manual_seed(0)).bincount(minlength=4) / 3000
    # own: 1/2 + 1/2 * 1/3; three standard errors of 3000 draws are under .03
    assert drawn.tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6, 0], abs=0.03)
    assert corpus.choose(
        "text", torch.ones(50, dtype=torch.int64), torch.Generator().manual_seed(0)
    ).unique().tolist() == [3]


def test_what_a_sample_lacks_is_marked_and_can_be_required() -> None:
    corpus = corpus_of(
        dataset([Sample("1", image=Path("a"), text="x"), Sample("2", image=Path("b")), Sample("3", text="y")])
    )
    rows = torch.arange(3)
    assert corpus.present("image", rows).tolist() == [True, True, False]
    assert corpus.present("text", rows).tolist() == [True, False, True]
    assert corpus.present("audio", rows).tolist() == [False, False, False]
    with pytest.raises(DataError, match="teach: 2 of 3 samples of split 'train' have 'text'; expected all"):
        corpus.require(["text"], stage="teach")


def test_several_labels_and_quantities_become_rows_of_numbers() -> None:
    several = [Sample("1", text="x", labels=("b", "a")), Sample("2", text="y", labels=())]
    data = Dataset({"train": several}, labels=("a", "b", "c"), evaluate=("train",))
    truth = corpus_of(data, answer=answer_of("multi-label")).truth
    assert truth is not None
    assert truth.tolist() == [[1, 1, 0], [0, 0, 0]]
    amounts = Dataset(
        {"train": [Sample("1", text="x", value=2.5), Sample("2", text="y")]}, labels=(), evaluate=("train",)
    )
    with pytest.raises(DataError, match="sample '2': no value"):
        corpus_of(amounts, answer=answer_of("regression"))


def test_labels_of_another_task_are_not_taken_for_none() -> None:
    one, several, none = Sample("1", text="x", label="a"), Sample("2", text="y", labels=("b",)), Sample("3", text="z")
    bare = Sample("4", text="w")

    def truth(task: str, *samples: Sample) -> object:
        splits = {"train": list(samples), "unlabelled": [bare]}
        data = Dataset(splits, labels=("a", "b"), evaluate=("train",))
        made = corpus_of(data, answer=answer_of(task), unlabelled=True).truth
        return None if made is None else made.tolist()

    with pytest.raises(DataError, match="sample '2': labels and no label, which a single-label classifier learns from"):
        truth("single-label", several)
    with pytest.raises(DataError, match="sample '1': label and no labels, which a multi-label classifier learns from"):
        truth("multi-label", one)
    with pytest.raises(DataError, match="split 'train': no sample has label, which a single-label classifier"):
        truth("single-label", none)
    with pytest.raises(DataError, match="split 'train': no sample has labels, which a multi-label classifier"):
        truth("multi-label", none)
    assert truth("single-label", one, none) is None
    assert truth("multi-label", several, none) == [[0, 1], [0, 0], [0, 0]]  # of the second no class is right


def test_classes_are_counted_in_the_order_of_the_model_that_learns_them() -> None:
    data = Dataset(
        {"train": [Sample("1", text="x", label="no match"), Sample("2", text="y", label="match")]},
        labels=("match", "no match"), evaluate=("train",),
    )  # fmt: skip
    assert corpus_of(data).label.tolist() == [1, 0]
    assert corpus_of(data, answer=Classes(("no match", "match"))).label.tolist() == [0, 1]
    several = Dataset({"train": [Sample("1", text="x", labels=("a",))]}, labels=("a", "b"), evaluate=("train",))
    truth = corpus_of(several, answer=answer_of("multi-label", ("b", "a"))).truth
    assert truth is not None
    assert truth.tolist() == [[0, 1]]


def test_extra_texts_stand_at_the_end_and_never_repeat_a_sample() -> None:
    corpus = corpus_of(dataset([Sample("1", image=Path("a"), text="cat")]), extra_texts=["cat", "house", "house"])
    assert corpus.texts == ("cat", "house")
    assert corpus.extra == 1


def test_made_up_texts_are_words_then_exchanged_and_random_ones_and_never_what_is_evaluated() -> None:
    def made(seed: int) -> list[str]:
        return made_up_texts(
            ["red", "apple", "sky"], ["big tree"], count=60, seed=seed, without=["apple", "red apple", "big apple"]
        )

    texts = made(0)
    assert len(texts) == 60
    assert texts[:2] == ["red", "sky"]
    assert "big sky" in texts
    assert not {"apple", "red apple", "big apple"} & set(texts)
    assert texts == made(0) != made(1)


def test_a_sample_of_no_class_is_one_among_others_whatever_else_it_has() -> None:
    samples = [Sample("1", text="x", label="group", labels=("a",)), Sample("2", text="y", label="group")]
    data = Dataset({"train": samples}, labels=("a", "b"), evaluate=("train",))
    truth = corpus_of(data, answer=answer_of("multi-label")).truth
    assert truth is not None
    assert truth.tolist() == [[1, 0], [0, 0]]

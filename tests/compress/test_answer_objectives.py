"""What a classifier is taught by: rare classes brought up, and modalities taken away."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgemm.compress import losses
from edgemm.compress.answer_objectives import AnswerTeaching
from edgemm.compress.distill import distillation
from edgemm.compress.objective import Drawn
from edgemm.compress.outputs import answer_of_model
from edgemm.compress.tower_inputs import feeds_of
from edgemm.compress.training import Training
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset, open_dataset
from edgemm.data.batches import text_encoder
from edgemm.models.builders import build_model
from edgemm.models.model import Model
from edgemm.recipe import AugmentConfig, DataConfig, DistillConfig, Fusion, TeachConfig, TeacherSection
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes, answer_of
from edgemm.stage import Context

COUNTS = {"common": 12, "middle": 3, "rare": 1}
FIRST = {label: sum(list(COUNTS.values())[:index]) for index, label in enumerate(COUNTS)}
MODALITIES = ("image", "text", "audio")


@pytest.fixture(scope="module")
def uneven(table: Path) -> Dataset:
    """Pictures and texts of three classes, twelve, three and one of each."""
    rows = [json.loads(line) for line in table.read_text().splitlines()][: sum(COUNTS.values())]
    labels = [label for label, count in COUNTS.items() for _ in range(count)]
    path = table.with_name("uneven.jsonl")
    made = [{**row, "label": label, "split": "train"} for row, label in zip(rows, labels, strict=True)]
    path.write_text("\n".join(json.dumps(row) for row in made))
    return open_dataset(DataConfig(kind="table", root=str(path)), cache=path.parent / "cache")


def teaching(
    folder: Path, dataset: Dataset, section: TeacherSection, *, task: Any = "single-label", **config: Any
) -> AnswerTeaching:
    model = build_model(section, family="fusion-classifier", answer=answer_of(task, dataset.labels), seed=0)
    still = AugmentConfig(zoom=0, shift=0, rotate=0, colour=0)
    corpus = corpus_of(dataset, answer=answer_of_model(model)[1])
    feeds = feeds_of(model, corpus, Context(scratch=folder, cache=folder), frozen=("image", "text"), title="teacher")
    return AnswerTeaching(feeds, TeachConfig(augment=still, **config)).eval()


def test_weights_count_each_class_by_its_inverse_frequency(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection
) -> None:
    objective = teaching(tmp_path, uneven, teacher_section, balance="weights")
    # 16 samples / (3 classes * their count): the mean over the samples is 1
    expected = [16 / (3 * count) for count in COUNTS.values()]
    assert objective.class_weights is not None
    assert objective.class_weights.tolist() == pytest.approx(expected)
    answer = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    each = F.cross_entropy(answer, objective.corpus.label, reduction="none").tolist()
    by_class = [sum(each[i] for i in range(FIRST[c], FIRST[c] + n)) / n for c, n in COUNTS.items()]
    got = objective.error(answer, torch.arange(16)).item()
    assert got == pytest.approx(sum(by_class) / 3, rel=1e-5)  # each class as one
    assert got != pytest.approx(sum(each) / 16, rel=1e-2)


def test_without_balance_each_sample_counts_once(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection
) -> None:
    objective = teaching(tmp_path, uneven, teacher_section)
    answer = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(answer, objective.corpus.label).item()
    assert objective.error(answer, torch.arange(16)).item() == pytest.approx(expected)


def drawn_labels(objective: AnswerTeaching, batches: int, *, seed: int = 0) -> list[int]:
    """The label of each sample that the batches hold, in epochs that give every row once."""
    seen: list[int] = []
    draw = objective.draw

    def noted(rows: torch.Tensor, generator: torch.Generator) -> dict[str, Drawn]:
        seen.extend(objective.corpus.label[rows].tolist())
        return draw(rows, generator)

    objective.draw = noted  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(batches):
            objective(torch.arange(16), generator)
    return seen


def test_sampling_draws_each_class_as_often(tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection) -> None:
    batches = 150
    drawn = Counter(drawn_labels(teaching(tmp_path, uneven, teacher_section, balance="sampling"), batches))
    # 2400 draws of three equally likely classes: 800 each, standard deviation 23
    assert [drawn[label] for label in range(3)] == pytest.approx([800] * 3, abs=4 * 23.1)
    plain = Counter(drawn_labels(teaching(tmp_path, uneven, teacher_section), 2))
    assert [plain[label] for label in range(3)] == [2 * count for count in COUNTS.values()]


def test_sampling_follows_the_seed_and_leaves_the_loss_unweighted(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection
) -> None:
    objective = teaching(tmp_path, uneven, teacher_section, balance="sampling")
    assert objective.class_weights is None
    first, again, other = (drawn_labels(objective, 2, seed=seed)[:32] for seed in (1, 1, 2))
    assert first == again != other


def test_a_sample_without_a_label_counts_for_no_class(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection
) -> None:
    samples = [replace(s, label=None) if s.label == "middle" else s for s in uneven.split("train")]
    unlabelled = replace(uneven, splits={"train": samples})
    weights = teaching(tmp_path, unlabelled, teacher_section, balance="weights").class_weights
    assert weights is not None
    assert weights.tolist()[::2] == pytest.approx([13 / (3 * 12), 13 / (3 * 1)])
    assert set(drawn_labels(teaching(tmp_path, unlabelled, teacher_section, balance="sampling"), 10)) == {0, 2}


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balance_is_refused_where_a_sample_has_several_classes(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection, balance: str
) -> None:
    several = [replace(s, label=None, labels=(str(s.label),)) for s in uneven.split("train")]
    uneven = replace(uneven, splits={"train": several})
    with pytest.raises(ModelError, match=rf"teach.balance: '{balance}' is for single-label classes, .* multi-label"):
        teaching(tmp_path, uneven, teacher_section, task="multi-label", balance=balance)


def forgetful(folder: Path, dataset: Dataset, section: TeacherSection, rate: float) -> AnswerTeaching:
    fusion = Fusion(mode="concat", width=32, missing="placeholder")
    made = teaching(
        folder, dataset, section.model_copy(update={"fusion": fusion}), modality_dropout=rate, balance="none"
    )
    assert made.replaceable == {"image", "text"}
    made.replaceable = set(MODALITIES)  # the batches below have one more
    return made


def batch(**absent: list[int]) -> Mapping[str, Drawn]:
    """4000 samples of three modalities, some of which lack one."""
    rows = torch.arange(4000)
    return {m: Drawn(rows, ~torch.isin(rows, torch.tensor(absent.get(m, []))), rows) for m in MODALITIES}


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_a_modality_is_taken_away_at_its_rate_and_never_all(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection, rate: float
) -> None:
    kept = forgetful(tmp_path, uneven, teacher_section, rate).kept(batch(), torch.Generator().manual_seed(0))
    there = torch.stack([kept[m] for m in MODALITIES])
    assert there.any(0).all()
    # where all three would go, all three stay
    expected = rate - rate**3
    for m in MODALITIES:
        assert 1 - kept[m].float().mean().item() == pytest.approx(expected, abs=4 * (0.25 / 4000) ** 0.5)
    together = (~kept["image"] & ~kept["text"]).float().mean().item()
    assert together == pytest.approx(rate**2 * (1 - rate), abs=4 * (0.25 / 4000) ** 0.5)


def test_a_modality_that_nothing_stands_in_for_is_kept(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection
) -> None:
    objective = forgetful(tmp_path, uneven, teacher_section, 0.5)
    objective.replaceable = {"text"}
    kept = objective.kept(batch(), torch.Generator().manual_seed(0))
    assert kept["image"].all()
    assert kept["audio"].all()
    assert not kept["text"].all()


def test_what_a_sample_lacks_is_not_kept_and_its_last_modality_is(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection
) -> None:
    only_text = list(range(2000))
    drawn = batch(image=only_text, audio=only_text)
    kept = forgetful(tmp_path, uneven, teacher_section, 0.9).kept(drawn, torch.Generator().manual_seed(0))
    assert kept["text"][:2000].all()
    assert not kept["image"][:2000].any()
    assert not kept["audio"][:2000].any()
    assert not kept["text"][2000:].all()


def test_dropout_follows_the_seed_and_without_it_all_stay_and_nothing_is_drawn(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection
) -> None:
    objective = forgetful(tmp_path, uneven, teacher_section, 0.5)
    first, again, other = (objective.kept(batch(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[m], again[m]) for m in MODALITIES)
    assert not all(torch.equal(first[m], other[m]) for m in MODALITIES)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    plain = forgetful(tmp_path, uneven, teacher_section, 0.0).kept(batch(text=[3]), generator)
    assert torch.equal(generator.get_state(), before)
    assert plain["image"].all()
    assert (~plain["text"]).nonzero().flatten().tolist() == [3]


def test_a_modality_that_is_taken_away_is_its_placeholder(
    tmp_path: Path, uneven: Dataset, teacher_section: TeacherSection
) -> None:
    objective = forgetful(tmp_path, uneven, teacher_section, 0.5)
    generator = torch.Generator().manual_seed(0)
    drawn = objective.draw(torch.arange(16), generator)
    kept = objective.kept(drawn, generator)
    with torch.no_grad():
        made = objective.features(drawn, kept, generator)
    for modality in drawn:
        name = f"{modality}_features"
        stands_in = (made[name] == objective.model.placeholders[name]).all(1)
        assert 0 < int(stands_in.sum()) < 16
        assert torch.equal(~stands_in, kept[modality])


@pytest.fixture
def wordy(tmp_path: Path, table: Path) -> Dataset:
    """Seven samples of two words, and one of four."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    long = table.with_name("long.jsonl")
    rows = [{**row, "split": "train"} for row in rows[:8]]
    made = [*rows[:7], {**rows[7], "text": f"{rows[7]['text']} what colour"}]
    long.write_text("\n".join(json.dumps(row) for row in made))
    return open_dataset(DataConfig(kind="table", root=str(long)), cache=tmp_path / "data")


def of_tokens(teacher_section: TeacherSection) -> TeacherSection:
    """The teacher, joined by its towers' tokens."""
    assert teacher_section.image is not None
    assert teacher_section.text is not None
    tokens = {"output": "tokens"}
    return teacher_section.model_copy(
        update={
            "image": teacher_section.image.model_copy(update=tokens),
            "text": teacher_section.text.model_copy(update=tokens),
            "fusion": Fusion(mode="early", width=16, heads=2, layers=1),
        }
    )


def test_features_of_texts_are_compared_without_their_padding(
    tmp_path: Path, wordy: Dataset, teacher_section: TeacherSection
) -> None:
    section, dataset = of_tokens(teacher_section), wordy
    student, teacher = (
        build_model(section, family="fusion-classifier", answer=Classes(dataset.labels), seed=0) for _ in "ab"
    )
    pooled = build_model(teacher_section, family="fusion-classifier", answer=Classes(dataset.labels), seed=0)
    still = AugmentConfig(zoom=0, shift=0, rotate=0, colour=0)
    config = DistillConfig(task=0, kd=0, feature=1.0, gram=1.0, augment=still)
    context = Context(scratch=tmp_path, cache=tmp_path)
    objective = distillation(student, teacher, config, Training(dataset, context)).eval()
    with torch.no_grad():  # the teacher's are padded to the longest of all, the student's to that of the batch
        short = objective(torch.arange(4), torch.Generator().manual_seed(0))
        whole = objective(torch.arange(8), torch.Generator().manual_seed(0))
    assert float(short) < 2e-3
    assert float(whole) < 2e-3
    for one, other in ((student, pooled), (pooled, teacher)):  # tokens beside what is pooled
        answering = config.model_copy(update={"kd": 1.0})
        mixed = distillation(one, other, answering, Training(dataset, context)).eval()
        with torch.no_grad():
            assert torch.isfinite(mixed(torch.arange(4), torch.Generator().manual_seed(0)))


STILL = AugmentConfig(zoom=0, shift=0, rotate=0, colour=0)
GRAM = DistillConfig(task=0, kd=0, feature=0, gram=1.0, augment=STILL)


def gram_of_text(student: Model, teacher: Model, dataset: Dataset, folder: Path, rows: Tensor) -> Tensor:
    """``distill.gram`` of a batch, without what it counts of the image."""
    context = Context(scratch=folder, cache=folder)
    objective = distillation(student, teacher, GRAM, Training(dataset, context)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = {"text": objective.draw(rows, generator)["text"]}
        kept = objective.kept(drawn, generator)
        return objective._of_features(objective.features(drawn, kept, generator), objective._given(drawn), drawn, kept)


def test_grams_of_texts_are_of_one_formula_whatever_is_the_longest_of_a_batch(
    tmp_path: Path, wordy: Dataset, teacher_section: TeacherSection
) -> None:
    section = of_tokens(teacher_section)
    student, teacher = (
        build_model(section, family="fusion-classifier", answer=Classes(wordy.labels), seed=0) for _ in "ab"
    )
    with torch.no_grad():
        for parameter in student.part("text").module.layers.parameters():
            parameter.mul_(1.5)
    made = []
    for model in (student, teacher):
        for text in [sample.text for sample in wordy.split("train")]:
            ids, mask = text_encoder(model, model.inputs["text"]).encode([text])
            with torch.no_grad():
                made.append(model.part("text").module(torch.from_numpy(ids), torch.from_numpy(mask)))
    each = torch.stack([losses.token_gram_distance(a, b) for a, b in zip(made[:8], made[8:], strict=True)])
    assert each.min() > 0.01
    for rows in (torch.arange(4), torch.arange(8), torch.tensor([7])):
        got = gram_of_text(student, teacher, wordy, tmp_path, rows)
        assert got.item() == pytest.approx(each[rows].mean().item(), rel=0.05)  # the teacher's are made in bfloat16


def test_texts_that_student_and_teacher_split_otherwise_are_compared_pooled(
    tmp_path: Path, wordy: Dataset, teacher_section: TeacherSection
) -> None:
    section = of_tokens(teacher_section)
    student, teacher = (
        build_model(section, family="fusion-classifier", answer=Classes(wordy.labels), seed=0) for _ in "ab"
    )
    assert teacher.tokenizer_json is not None
    student.tokenizer_json = teacher.tokenizer_json.replace('"square"', '"squared"')  # as many tokens, one unknown
    with torch.no_grad():
        for parameter in student.part("text").module.layers.parameters():
            parameter.mul_(1.5)
    rows = torch.tensor([0, 7])  # as long as the longest
    made = []
    for model in (student, teacher):
        texts = [wordy.split("train")[row].text for row in rows]
        ids, mask = text_encoder(model, model.inputs["text"]).encode(texts)
        with torch.no_grad():
            tokens = model.part("text").module(torch.from_numpy(ids), torch.from_numpy(mask))
        made.append(losses.pooled(tokens, padded=True))
    expected = losses.similarity_distance(*made).item()
    assert expected > 1e-4
    assert gram_of_text(student, teacher, wordy, tmp_path, rows).item() == pytest.approx(expected, rel=0.05)

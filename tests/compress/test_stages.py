"""Teach, distill and prune end to end on a world of coloured shapes, in both families."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgemm.compress import distill, prune, teach
from edgemm.compress.tower_inputs import feeds_of
from edgemm.compress.training import Training
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset
from edgemm.models.inherit import build_student
from edgemm.models.store import load_model
from edgemm.recipe import AugmentConfig, DistillConfig, PruneConfig, StudentSection, TeachConfig, TeacherSection
from edgemm.runtime.errors import ModelError
from edgemm.runtime.readers import ImageInput
from edgemm.stage import Context, Silent

SMALL = AugmentConfig(zoom=0.05, shift=0.02, rotate=0, colour=0.02)
# batch norms average over about a hundred steps, so there have to be a few hundred
TEACH = TeachConfig(epochs=50, batch=8, learning_rate=4e-3, freeze="none", augment=SMALL)
DISTILL = DistillConfig(epochs=40, batch=8, learning_rate=4e-3, augment=SMALL, extra_texts=20, extra_batch=4)
PRUNE = PruneConfig(ratios={"image": 0.3, "text": 0.5}, epochs=20, batch=8, learning_rate=2e-3)


def context(folder: Path) -> Context:
    return Context(scratch=folder / "scratch", cache=folder / "cache")


def recall(folder: Path, dataset: Dataset, split: str, tmp_path: Path) -> float:
    """Share of images whose own name is nearest."""
    model = load_model(folder)
    corpus = corpus_of(dataset, split)
    feeds = feeds_of(model, corpus, context(tmp_path), frozen=[], title="")
    with torch.no_grad():
        image = model(feeds.values("image", corpus.rows["image"]))["image_embedding"]
        text = model(feeds.values("text", corpus.choose("text", torch.arange(len(corpus)), None)))["text_embedding"]
    nearest = corpus.concept[(image @ text.T).argmax(1)]
    return float((nearest == corpus.concept).float().mean())


def accuracy(folder: Path, dataset: Dataset, split: str, tmp_path: Path) -> float:
    model = load_model(folder)
    corpus = corpus_of(dataset, split)
    feeds = feeds_of(model, corpus, context(tmp_path), frozen=[], title="")
    with torch.no_grad():
        values = feeds.values("image", corpus.rows["image"])
        values |= feeds.values("text", corpus.choose("text", torch.arange(len(corpus)), None))
        return float((model(values)["logits"].argmax(1) == corpus.label).float().mean())


@pytest.mark.corridor
def test_a_dual_encoder_is_taught_distilled_and_pruned(
    tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection, student_section: StudentSection
) -> None:
    paths = {name: tmp_path / name for name in ("teacher", "student", "pruned")}
    teach.run(
        TEACH,
        Training(shapes, context(tmp_path / "1"), threads=1),
        paths["teacher"],
        teacher=teacher_section,
        family="dual-encoder",
    )
    distill.run(
        DISTILL,
        Training(shapes, context(tmp_path / "2"), threads=1),
        paths["student"],
        teacher=paths["teacher"],
        student=student_section,
        family="dual-encoder",
    )
    prune.run(
        PRUNE,
        Training(shapes, context(tmp_path / "3"), threads=1),
        paths["pruned"],
        teacher=paths["teacher"],
        student=paths["student"],
        distill=DISTILL,
    )
    # chance is 1/12; on what was learnt, since a hundred steps on 24 pictures teach no more
    for name, least in (("teacher", 0.7), ("student", 0.6), ("pruned", 0.5)):
        assert recall(paths[name], shapes, "train", tmp_path / name) >= least, name
    before, after = load_model(paths["student"]), load_model(paths["pruned"])
    for part in ("image", "text"):
        assert sum(p.numel() for p in after.part(part).module.parameters()) < 0.9 * sum(
            p.numel() for p in before.part(part).module.parameters()
        )
        assert after.part(part).signature == before.part(part).signature


@pytest.mark.corridor
def test_a_classifier_of_image_and_text_is_taught_distilled_and_pruned(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection, student_section: StudentSection
) -> None:
    paths = {name: tmp_path / name for name in ("teacher", "student", "pruned")}
    family = "fusion-classifier"
    teach.run(
        TEACH,
        Training(questions, context(tmp_path / "1"), threads=1),
        paths["teacher"],
        teacher=teacher_section,
        family=family,
    )
    distill.run(
        DISTILL,
        Training(questions, context(tmp_path / "2"), threads=1),
        paths["student"],
        teacher=paths["teacher"],
        student=student_section,
        family=family,
    )
    pruning = PRUNE.model_copy(update={"ratios": {"image": 0.3, "text": 0.5, "head": 0.5}})
    prune.run(
        pruning,
        Training(questions, context(tmp_path / "3"), threads=1),
        paths["pruned"],
        teacher=paths["teacher"],
        student=paths["student"],
        distill=DISTILL,
    )
    # the more frequent kind of answer alone gives 1/6
    for name, least in (("teacher", 0.6), ("student", 0.5), ("pruned", 0.5)):
        assert accuracy(paths[name], questions, "train", tmp_path / name) >= least, name


def test_frozen_towers_keep_their_weights_and_are_encoded_once(
    tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection
) -> None:
    untaught = tmp_path / "untaught"
    teach.run(
        TeachConfig(epochs=0),
        Training(shapes, context(tmp_path / "0"), threads=1),
        untaught,
        teacher=teacher_section,
        family="dual-encoder",
    )
    config, section = TeachConfig(epochs=2, batch=24, views=2), TeacherSection(source=f"folder:{untaught}")
    for again in ("a", "b"):
        teach.run(
            config,
            Training(shapes, Context(scratch=tmp_path / f"scratch-{again}", cache=tmp_path / "cache"), threads=1),
            tmp_path / again,
            teacher=section,
            family="dual-encoder",
        )
        rows = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
        if again == "a":
            first = rows
    assert rows == first
    assert len(rows) == 3  # two views of the images, and the texts
    for part in ("image", "text"):
        taught, plain = (load_model(p).part(part).module.state_dict() for p in (tmp_path / "a", untaught))
        assert all(torch.equal(value, plain[name]) for name, value in taught.items())
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() == (
        tmp_path / "b" / "weights.safetensors"
    ).read_bytes()


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_only_towers_with_weights_are_frozen(tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection) -> None:
    heard = Heard()
    for folder, epochs in (("untaught", 0), ("taught", 1)):
        teach.run(
            TeachConfig(epochs=epochs, batch=8),
            Training(shapes, Context(scratch=tmp_path, progress=heard), threads=1),
            tmp_path / folder,
            teacher=teacher_section,
            family="dual-encoder",
        )
    before, after = (load_model(tmp_path / folder) for folder in ("untaught", "taught"))
    changed = {
        name: any(not torch.equal(value, after.part(name).module.state_dict()[key]) for key, value in state.items())
        for name, state in ((part.name, part.module.state_dict()) for part in before.chain if part.role != "frontend")
    }
    assert changed == {"image": True, "image_projection": True, "text": False, "text_projection": True}
    assert "teach: trained, since there are no weights to keep: the tower of image" in heard.lines


def test_embeddings_of_different_widths_are_an_error_that_names_the_way_out(
    tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection, student_section: StudentSection
) -> None:
    teach.run(
        TeachConfig(epochs=0),
        Training(shapes, context(tmp_path), threads=1),
        tmp_path / "t",
        teacher=teacher_section,
        family="dual-encoder",
    )
    with pytest.raises(ModelError, match=r"set student\.embed_dim = 16, or distill\.feature = 0"):
        distill.run(
            DISTILL,
            Training(shapes, context(tmp_path), threads=1),
            tmp_path / "s",
            teacher=tmp_path / "t",
            student=student_section.model_copy(update={"embed_dim": 24}),
            family="dual-encoder",
        )
    assert not (tmp_path / "s").exists()


def test_a_part_without_channels_to_remove_is_an_error(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection
) -> None:
    teach.run(
        TeachConfig(epochs=0),
        Training(questions, context(tmp_path), threads=1),
        tmp_path / "t",
        teacher=teacher_section,
        family="fusion-classifier",
    )
    with pytest.raises(ModelError, match="part 'fusion' of kind 'fusion' has no channels to remove"):
        prune.run(
            PRUNE.model_copy(update={"ratios": {"fusion": 0.2}}),
            Training(questions, context(tmp_path), threads=1),
            tmp_path / "p",
            teacher=tmp_path / "t",
            student=tmp_path / "t",
            distill=DISTILL,
        )
    with pytest.raises(ModelError, match="no part 'fusoin'"):
        prune.run(
            PRUNE.model_copy(update={"ratios": {"fusoin": 0.2}}),
            Training(questions, context(tmp_path), threads=1),
            tmp_path / "p",
            teacher=tmp_path / "t",
            student=tmp_path / "t",
            distill=DISTILL,
        )


def test_a_learning_rate_that_blows_up_says_so_and_leaves_nothing(
    tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection
) -> None:
    with pytest.raises(ModelError, match=r"teach: the loss is (nan|inf) at step \d+ of \d+ .*learning_rate"):
        teach.run(
            TEACH.model_copy(update={"learning_rate": 1e30, "warmup": 0.0}),
            Training(shapes, context(tmp_path), threads=1),
            tmp_path / "t",
            teacher=teacher_section,
            family="dual-encoder",
        )
    assert not (tmp_path / "t").exists()


def test_teacher_and_student_read_grey_in_the_range_that_the_data_says(
    tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection, student_section: StudentSection
) -> None:
    section = teacher_section
    teach.run(
        TeachConfig(epochs=0),
        Training(replace(shapes, grey_range=(0.0, 4095.0)), context(tmp_path / "1"), threads=1),
        tmp_path / "t",
        teacher=section,
        family="dual-encoder",
    )
    teacher = load_model(tmp_path / "t")
    texts = shapes.all_texts()
    student = build_student(student_section, teacher, family="dual-encoder", texts=texts, seed=0)
    for model in (teacher, student):
        assert model.inputs["image"] == ImageInput(grey_range=(0.0, 4095.0))

"""Objectives of fusion classifiers and regressors: towers are run per modality, what joins them on the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from edgemm.compress import losses
from edgemm.compress.objective import Drawn, Fed, weighted
from edgemm.compress.outputs import answer_of_model, learnt
from edgemm.compress.tower_inputs import Feeds
from edgemm.models.model import Model, Part
from edgemm.models.tokenizer import limit_, tokenizer_from_json
from edgemm.recipe import DistillConfig, TeachConfig
from edgemm.runtime import chain
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes, task_of
from edgemm.runtime.readers import TextInput

USUAL_DROPOUT = 0.2


class _Answering(Fed):
    """What teaching and distilling share: features of every modality, with placeholders for what is missing."""

    def __init__(self, feeds: Feeds, config: TeachConfig | DistillConfig) -> None:
        super().__init__(feeds, config)
        usual = USUAL_DROPOUT if self.model.placeholders else 0.0  # else nothing would teach what stands in
        self.modality_dropout = usual if config.modality_dropout is None else config.modality_dropout
        own = {m: [p for p in self.model.chain if p.role == "tower" and p.modality == m] for m in self.model.inputs}
        stand_ins = set(self.model.placeholders)
        self.replaceable = {m for m, parts in own.items() if parts and stand_ins >= {*parts[-1].signature.output_names}}
        self.output, self.answer = answer_of_model(self.model)
        self.spread = torch.ones(())
        if self.corpus.truth is not None:  # quantities come in any scale: the loss sees them in units of their spread
            known = self.corpus.known(torch.arange(len(self.corpus)))
            self.spread = learnt(self.answer).spread(self.corpus.truth[known])

    def kept(self, drawn: Mapping[str, Drawn], generator: torch.Generator) -> dict[str, Tensor]:
        """Modality -> (B,) bool: present, and not taken away by modality dropout, which leaves at least one."""
        kept = {m: one.present for m, one in drawn.items()}
        if not self.modality_dropout:
            return kept
        count = len(next(iter(kept.values())))
        stay = {m: torch.rand(count, generator=generator) >= self.modality_dropout for m in kept}
        for modality in stay.keys() - self.replaceable:
            stay[modality][:] = True
        some = torch.stack([kept[m] & stay[m] for m in kept]).any(0)
        return {m: kept[m] & (stay[m] | ~some) for m in kept}

    def features(
        self, drawn: Mapping[str, Drawn], kept: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What the towers make of a batch: name -> (B, ...), placeholders where a sample's modality isn't kept."""
        made: dict[str, Tensor] = {}
        for modality, one in drawn.items():
            there = kept[modality].nonzero().flatten()
            if len(there) == 0:
                continue
            items, views = one.items[there], one.views[there]
            # many questions, few images: each distinct file of the batch goes through the tower once
            texts = self.feeds.sources[modality].texts
            distinct, place = (items, None) if texts else torch.unique(items, return_inverse=True)
            shown = views if place is None else views.new_zeros(len(distinct)).scatter(0, place, views)
            tower = partial(tower_values, self.model, modality)
            for name, value in self.through(modality, distinct, shown, generator, tower).items():
                # index_select: the gradient of value[place] is summed in whatever order the threads come
                rows = value if place is None else value.index_select(0, place.to(value.device))
                made[name] = self._filled(name, rows, there, len(one.items))
        return made

    def _filled(self, name: str, rows: Tensor, there: Tensor, count: int) -> Tensor:
        """(n, ...) rows at places ``there`` of (count, ...), the placeholder elsewhere."""
        if len(there) == count:
            return rows
        stand_in = self.model.placeholders[name]
        everywhere = stand_in.expand(count, *rows.shape[1:])
        filled: Tensor = everywhere.index_copy(0, there.to(rows.device), rows.to(stand_in.dtype))
        return filled


def tower_values(model: Model, modality: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What one modality's frontend and tower make for the parts that join them; raw values where they take those."""
    own = [part for part in model.chain if part.modality == modality and part.role in ("frontend", "tower")]
    wanted = chain.handed_over(own, model.chain)
    return {name: value for name, value in chain.run_all(own, values, Part.run).items() if name in wanted}


def pieces(model: Model, texts: Sequence[str]) -> list[list[str]]:
    """Return the tokens of texts, as strings, that a model is given."""
    raw = model.inputs["text"]
    assert isinstance(raw, TextInput)
    tokenizer = tokenizer_from_json(model.tokenizer_json or "")
    tokenizer.no_padding()
    limit_(tokenizer, raw.max_tokens)
    return [encoding.tokens for encoding in tokenizer.encode_batch(texts)]


class AnswerTeaching(_Answering):
    """Cross-entropy, binary cross-entropy or squared error, by what the model answers.

    Rare classes count for more where ``balance`` is ``"weights"``, and come more often where it is ``"sampling"``.
    """

    def __init__(self, feeds: Feeds, config: TeachConfig) -> None:
        super().__init__(feeds, config)
        self.label_smoothing = config.label_smoothing
        self.class_weights: Tensor | None = None
        self.sample_weights: Tensor | None = None
        if config.balance != "none":
            if not isinstance(self.answer, Classes) or self.answer.independent:
                raise ModelError(
                    f"teach.balance: '{config.balance}' is for single-label classes, the task is {task_of(self.answer)}"
                )
            known = self.corpus.label >= 0
            counts = torch.bincount(self.corpus.label[known], minlength=len(self.answer.labels)).clamp(min=1).float()
            weights = known.sum() / (len(counts) * counts)  # their mean over the samples is 1
            if config.balance == "weights":
                self.class_weights = weights
            else:
                self.sample_weights = weights[self.corpus.label] * known

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        if self.sample_weights is not None:
            rows = torch.multinomial(self.sample_weights, len(rows), replacement=True, generator=generator)
        drawn = self.draw(rows, generator)
        answer: Tensor = self.model(self.features(drawn, self.kept(drawn, generator), generator))[self.output]
        return self.error(answer, rows)

    def error(self, answer: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of an answer (B, classes) for samples ``rows``."""
        return answer_loss(self, answer, rows, label_smoothing=self.label_smoothing, weights=self.class_weights)


def answer_loss(
    objective: _Answering,
    answer: Tensor,
    rows: Tensor,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the loss of an answer, by its kind; of samples whose truth is known."""
    corpus = objective.corpus
    known = corpus.known(rows)
    if not known.any():
        return answer.sum() * 0
    if not known.all():
        answer, rows = answer.index_select(0, known.nonzero().flatten().to(answer.device)), rows[known]
    truth = (corpus.label if corpus.truth is None else corpus.truth)[rows].to(answer.device)
    return learnt(objective.answer).error(
        answer, truth, spread=objective.spread, label_smoothing=label_smoothing, weights=weights
    )


class AnswerDistillation(_Answering):
    """The task's loss, the divergence to the teacher's answers, and what its features and its single voices say.

    The teacher sees every modality that a sample has, also where the student has to do without.

    Args:
        teacher: its parts that join modalities are run on the cached features of each batch.
        teacher_feeds: the cache; None where the teacher has no towers of its own, and ``answers`` holds what it says.
        answers: (N, classes) of the teacher for every sample.
    """

    def __init__(
        self,
        feeds: Feeds,
        config: DistillConfig,
        *,
        teacher: Model,
        teacher_feeds: Feeds | None,
        answers: Tensor | None = None,
    ) -> None:
        super().__init__(feeds, config)
        self.config, self.teacher_feeds, self.answers = config, teacher_feeds, answers
        object.__setattr__(self, "teacher", teacher)  # no submodule: it is neither trained nor saved
        if config.mixed and teacher_feeds is None:
            raise ModelError("distill.mixed: this teacher joins its modalities in one part; set distill.mixed = 0")
        options = {"output": self.answer, "task": task_of(self.answer), "spread": self.spread}
        self.of_answers = weighted(config, "answers", **options)
        self.of_voices = weighted(config, "voices", **options)
        self.of_features = weighted(config, "features", **options)
        self.voices = self._voices() if self.of_voices else []
        if self.of_voices and not self.voices:
            key = " and ".join(f"distill.{key}" for key, _, _ in config.losses("voices"))
            raise ModelError(
                f"{key}: teacher and student have no decisions of single modalities in common; give both "
                f'fusion.mode = "late" or "hybrid", or set {key} = 0'
            )
        self.adapters = nn.ModuleDict()
        self.centres: dict[str, Tensor] = {}  # pooled features share a large mean, which would hide what differs
        made = {spec.name: spec for part in self.model.chain for spec in part.signature.outputs}
        theirs = {spec.name: spec for part in teacher.chain for spec in part.signature.outputs}
        sized = [s.name for s in (*made.values(), *theirs.values()) if any(isinstance(n, str) for n in s.shape[1:])]
        self.padded = {"text_features", *sized}  # of as many tokens as a text or a sound has
        self.same_tokens = self._same_tokens() if self.of_features else set()
        sources = teacher_feeds.sources.values() if teacher_feeds is not None else ()
        for source, name, rows in [(s, name, rows) for s in sources for name, rows in s.rows.items()]:
            if config.feature and name in made and rows.is_floating_point():
                width = made[name].shape[-1]
                assert isinstance(width, int)
                # of one width they should be the same features, as a fusion that was inherited expects
                self.adapters[name] = nn.Linear(width, rows.shape[-1]) if width != rows.shape[-1] else nn.Identity()
                real = rows[: len(rows) - self.corpus.extra] if source.texts else rows
                each = real.flatten(0, -len(theirs[name].shape))  # views of files are samples too
                chunks = [self._compared(name, chunk.float()).sum(0) for chunk in torch.split(each, 256)]
                self.centres[name] = torch.stack(chunks).sum(0) / len(each)

    def _voices(self) -> list[str]:
        """Return values in which single modalities decide, in student and teacher."""
        names = [f"{modality}_{self.output}" for modality in self.model.inputs]
        ours, theirs = (
            {n for part in m.chain for n in part.signature.output_names} for m in (self.model, self._teacher)
        )
        return [name for name in names if name in ours and name in theirs]

    def _same_tokens(self) -> set[str]:
        """Padded features whose tokens are the same ones in student and teacher."""
        models = (self.model, self._teacher)
        ours, theirs = (
            {s.name: [p.signature.dims.get(str(n)) for n in s.shape] for p in m.chain for s in p.signature.outputs}
            for m in models
        )
        same = {name for name in self.padded & ours.keys() if ours[name] == theirs.get(name)}
        if len(ours.get("text_features", ())) == len(theirs.get("text_features", ())) == 3:
            # with a trimmed vocabulary a word may be other pieces
            texts = self.corpus.texts[: len(self.corpus.texts) - self.corpus.extra]
            alike = pieces(models[0], texts) == pieces(models[1], texts)
            same = same | {"text_features"} if alike else same - {"text_features"}
        return same

    @property
    def _teacher(self) -> Model:
        teacher: Model = self.__dict__["teacher"]
        if next(teacher.parameters()).device != self.device:  # it goes where the objective is trained
            teacher.to(self.device)
        return teacher

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        config = self.config
        drawn = self.draw(rows, generator)
        kept = self.kept(drawn, generator)
        made = self.features(drawn, kept, generator)
        answered = self.model(made)
        given = self._given(drawn)
        if self.answers is not None:
            target = {self.output: self.answers[rows].to(self.device)}
        else:
            with torch.no_grad():
                target = self._teacher(given)
        loss: Tensor = answered[self.output].new_zeros(())
        if config.task:
            loss = loss + config.task * answer_loss(self, answered[self.output], rows)
        for weight, compare in self.of_answers:
            loss = loss + weight * compare(answered[self.output], target[self.output])
        for name in self.voices:
            for weight, compare in self.of_voices:
                loss = loss + weight / len(self.voices) * compare(answered[name], target[name])
        if config.mixed and "text" in drawn:
            loss = loss + self._mixed(made, given, len(rows), generator)
        if self.corpus.extra:
            loss = loss + self._of_made_up_texts(generator)
        return loss + self._of_features(made, given, drawn, kept)

    def _given(self, drawn: Mapping[str, Drawn]) -> dict[str, Tensor]:
        """Return the teacher's cached features of a batch, its placeholders where a sample lacks a modality."""
        given: dict[str, Tensor] = {}
        if self.teacher_feeds is None:
            return given
        for modality, one in drawn.items():
            for name, value in self.teacher_feeds.values(modality, one.items, views=one.views).items():
                lacking = ~one.present
                if lacking.any():
                    value = value.clone()
                    value[lacking] = self._teacher.placeholders[name].detach().to(value)
                given[name] = value.to(self.device)
        return given

    def _of_features(
        self,
        made: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        drawn: Mapping[str, Drawn],
        kept: Mapping[str, Tensor],
    ) -> Tensor:
        """Distances of the towers' features to the teacher's, where the student was given the modality."""
        loss = torch.zeros((), device=self.device)
        where = {f"{modality}_features": kept[modality] for modality in drawn}
        for name in self.adapters:
            if name not in made:
                continue
            rows = where.get(name, torch.ones(len(made[name]), dtype=torch.bool))
            if not rows.any():
                continue
            loss = loss + self._distance(name, made[name][rows], given[name][rows])
        for name, rows in where.items():
            if name in made and name in given and rows.any():
                ours, theirs = self._alike(name, made[name][rows], given[name][rows])
                for weight, compare in self.of_features:
                    loss = loss + weight / len(where) * compare(ours, theirs)
        return loss

    def _alike(self, name: str, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, ...) of student and teacher: the tokens that a batch has where they are the same, else pooled.

        Each is padded to the longest it was made with, which says nothing of the other.
        """
        if name not in self.padded or ours.ndim != 3 or theirs.ndim != 3:
            return ours, theirs
        if name in self.same_tokens:
            longest = min(ours.shape[1], theirs.shape[1])
            return ours[:, :longest], theirs[:, :longest]
        return losses.pooled(ours, padded=True), losses.pooled(theirs, padded=True)

    def _distance(self, name: str, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return what the loss counts of the distance between features (n, ...) of student and teacher."""
        centre = self.centres[name].to(self.device)
        distance = losses.feature_distance(
            self.adapters[name](self._compared(name, ours)) - centre, self._compared(name, theirs) - centre
        )
        return self.config.feature * distance / len(self.adapters)

    def _compared(self, name: str, features: Tensor) -> Tensor:
        """(B, W): features that are pooled, or the mean over tokens; over those that are no padding where there is."""
        return losses.pooled(features, padded=name in self.padded)

    def _of_made_up_texts(self, generator: torch.Generator) -> Tensor:
        """Distances of features of made-up texts, which the text tower alone is run for."""
        assert self.teacher_feeds is not None
        items = self.draw_made_up(self.config.extra_batch, generator)
        made = tower_values(self.model, "text", self.values("text", items, torch.zeros_like(items), generator))
        given = self.teacher_feeds.values("text", items)
        loss = torch.zeros((), device=self.device)
        for name in self.adapters:  # in their order: a set's would be another in each process
            if name in made and name in given:
                loss = loss + self._distance(name, made[name], given[name].to(self.device))
        return loss

    def _mixed(
        self, made: Mapping[str, Tensor], given: Mapping[str, Tensor], count: int, generator: torch.Generator
    ) -> Tensor:
        """Return the losses of answers on samples with other samples' texts, which no label is needed for.

        The towers' outputs are used again, so it costs a run of fusion and head only.
        """
        assert self.teacher_feeds is not None
        moved = {n for part in self.model.chain if part.modality == "text" for n in part.signature.output_names}
        stay = torch.arange(count).repeat(self.config.mixed)
        move = torch.cat([torch.randperm(count, generator=generator) for _ in range(self.config.mixed)])
        places = {n: (move if n in moved else stay).to(value.device) for n, value in made.items()}
        student = self.model({n: value.index_select(0, places[n]) for n, value in made.items()})[self.output]
        raw = self._teacher.inputs["text"]
        assert isinstance(raw, TextInput)
        texts = {*self.teacher_feeds.cached.get("text", ()), raw.ids, raw.mask}
        with torch.no_grad():
            mixed = {n: value[move if n in texts else stay] for n, value in given.items()}
            target = self._teacher(mixed)[self.output]
        loss: Tensor = student.new_zeros(())
        for weight, compare in self.of_answers:
            loss = loss + weight * compare(student, target)
        return loss

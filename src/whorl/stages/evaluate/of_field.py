"""What evaluation makes of one field's held-out documents: scores, baselines, comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.environments import PlayTask
from whorl.core.errors import DataError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.intervals import on_documents, paired_interval, score_of
from whorl.core.metrics import Metric
from whorl.core.ports import Engine, Field, HeldoutDocument, QualityMeasure, Score
from whorl.core.records import Record
from whorl.core.rows import RowSet
from whorl.core.tasks import ChoiceTask, WritingTask
from whorl.core.variants import Variant
from whorl.spec.resolved import EvaluateConfig
from whorl.stages.evaluate.baselines import (
    TokenDocuments,
    TokenStream,
    decoded,
    ngram_nats,
    read_stream,
    rows_of_field,
    rows_seen,
)
from whorl.stages.evaluate.generate import graded, written
from whorl.stages.evaluate.groups import scores_by_group
from whorl.stages.evaluate.measure import Asked, ask, grades, measure, select_documents
from whorl.stages.evaluate.ngram import ORDER
from whorl.stages.evaluate.play import played

__all__ = ["FURTHER", "FieldEvaluation"]

MAX_ROWS_BYTES = 256 * 2**20  # of token rows handed to a field's baselines
ID_BYTES = 8
Grades = list[Mapping[Metric, tuple[float, float]]]  # of each document
FURTHER = "/"  # between a field and another metric of its answers


@dataclass(frozen=True)
class FieldEvaluation:
    """One field of a recipe, and what is asked of its held-out documents."""

    context: StageContext
    config: EvaluateConfig
    name: str  # as the recipe's data names the field; "intents/slot_f1" of its further metrics
    field: Field
    tokens: Tokens
    num_heldout: int
    asked: Asked
    metric: Metric  # of the scores
    # Shared by the parts of one field: what each model wrote, or what its choices are worth, and
    # the field's own baselines.
    answers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    grades: dict[str, Grades] = dataclasses.field(default_factory=dict)
    others: list[Score] = dataclasses.field(default_factory=list)

    @classmethod
    def of(
        cls,
        context: StageContext,
        config: EvaluateConfig,
        name: str,
        field: Field,
        heldout: HeldoutDocuments,
        tokens: Tokens,
    ) -> FieldEvaluation:
        """heldout: of all fields. Raises DataError if no document of this one is among them."""
        documents = heldout.of_field(name)
        if not len(documents):
            raise DataError(
                f"no document of field {name} is held out", do="raise prepare.heldout_share"
            )
        tokens = tokens.of_field(name)
        numbers = select_documents(documents, config.max_bytes, config.max_documents)
        asked = ask(field.task, tokens, documents, numbers)
        if told := asked.too_long(tokens.contract.stop_ids):
            context.log(f"{name}: {told}")
        metric = field.task.metric
        return cls(context, config, name, field, tokens, len(documents), asked, metric)

    def with_further(self) -> list[FieldEvaluation]:
        """This one, and one for each other metric of the same answers or choices."""
        task = self.asked.task
        further = task.further if isinstance(task, WritingTask | ChoiceTask) else ()
        if isinstance(task, WritingTask):  # of other documents alone there may be none
            names = [document.name for document in self.asked.documents]
            further = tuple(m for m in further if any(task.is_of(m, name) for name in names))
        if isinstance(task, PlayTask):
            further = task.further_of(self.asked.documents)
        others = [
            replace(self, name=f"{self.name}{FURTHER}{metric.name}", metric=metric)
            for metric in further
        ]
        return [self, *others]

    def score_model(self, engine: Engine, variant: Variant) -> Score:
        """A model's score through its engine."""
        return replace(self._scored(engine, str(variant)), variant=variant)

    def score_base(self, engine: Engine, variant: Variant, base: str) -> Score:
        """That of the model it was trained from, to compare with."""
        return self._scored(engine, f"its base, {variant}", f"{base}, before training")

    def _scored(self, engine: Engine, name: str, note: str = "") -> Score:
        task, documents, window = self.asked.task, self.asked.documents, self.config.window
        shown = self.context.progress
        if isinstance(task, WritingTask):
            if name not in self.answers:
                self.answers[name] = written(
                    engine, self.tokens, task, documents, window=window, progress=shown
                )
            found = graded(task, self.metric, documents, self.answers[name], self.tokens)
        elif isinstance(task, PlayTask):
            found = self._played(engine, name, task)
        elif isinstance(task, ChoiceTask) and task.further:
            if name not in self.grades:
                self.grades[name] = grades(
                    engine, self.tokens, task, self.asked, window=window, progress=shown
                )
            numbers = np.array([grade[self.metric] for grade in self.grades[name]], np.float64)
            names = tuple(document.name for document in documents)
            found = QualityMeasure(self.metric, names, *numbers.T)
        else:
            found = measure(engine, self.tokens, self.asked, window=window, progress=shown)
        return self._score(name, found, note)

    def _played(self, engine: Engine, name: str, task: PlayTask) -> QualityMeasure:
        """What was chosen beside the right actions, or what came of playing."""
        window, shown = self.config.window, self.context.progress
        if self.metric == task.metric:
            return measure(engine, self.tokens, self.asked, window=window, progress=shown)
        documents, key = self._measured(), f"{name} {self.metric.name}"
        if key not in self.grades:  # what is played gives all metrics of these documents
            found = played(engine, self.tokens, task, documents, window=window, progress=shown)
            self.grades.update({f"{name} {metric.name}": found for metric in found[0]})
        numbers = np.array([grade[self.metric] for grade in self.grades[key]], np.float64)
        return QualityMeasure(self.metric, tuple(each.name for each in documents), *numbers.T)

    def _measured(self) -> tuple[HeldoutDocument, ...]:
        """The documents that count in this metric."""
        task, documents = self.asked.task, self.asked.documents
        if not isinstance(task, PlayTask):
            return documents
        return tuple(each for each in documents if task.measures(each, self.metric))

    def baselines(self, rows: RowSet, trained: Record | None) -> list[Score]:
        """Those of the field, and n-gram models of its rows where nothing is chosen."""
        mine = rows_of_field(rows, self.name.partition(FURTHER)[0])
        whole = read_stream(rows, self.tokens, mine)
        scores = []
        if not any(self.asked.questions) and not isinstance(self.asked.task, WritingTask):
            seen = mine if trained is None else np.intersect1d(mine, _seen_rows(rows, trained))
            if 0 < len(seen) < len(mine):
                part = read_stream(rows, self.tokens, seen)
                scores.append(self._ngram(part, "the tokens the model saw"))
            scores.append(self._ngram(whole, "all training tokens"))
        if not self.others:
            train = TokenDocuments(whole, self.tokens)
            held = decoded(self.asked.documents, self.tokens)
            fits = len(mine) * (rows.seq_len + 1) * ID_BYTES <= MAX_ROWS_BYTES
            ids = rows.read(mine).ids if fits else None
            self.context.progress.start(f"other methods on the same documents: {self.name}", None)
            self.others.extend(self.field.baselines(train, held, ids))
            self.context.progress.finish()
        for score in self.others:
            measured = score.measure
            if score.metric != self.metric:
                continue
            if measured is not None:  # with this evaluation's number of samples
                score = self._score(score.name, measured, score.note)
            scores.append(score)
        return scores

    def _ngram(self, stream: TokenStream, what: str) -> Score:
        self.context.progress.start(f"{ORDER}-gram model of {what}", None)
        found = self.asked.judged(ngram_nats(stream, self.tokens, self.asked.documents))
        self.context.progress.finish()
        note = f"{len(stream.ids):,} tokens"
        return self._score(f"{ORDER}-gram Kneser-Ney, {what}", found, note)

    def _score(self, name: str, found: QualityMeasure, note: str = "") -> Score:
        return score_of(
            name, found, samples=self.config.bootstrap_samples, seed=self.config.seed, note=note
        )

    # ---------------------------------------------------------------- as plain values

    @property
    def _num_counted(self) -> int:
        """Documents that count in this metric."""
        task, documents = self.asked.task, self.asked.documents
        if not isinstance(task, WritingTask):
            return len(self._measured())
        return sum(task.is_of(self.metric, document.name) for document in documents)

    def summary(self) -> dict[str, Any]:
        """How much was asked, in which metric the answers are scored, and which method that would
        stand beside them is not installed."""
        absent = getattr(self.field, "absent", None)
        is_first = self.metric == self.asked.task.metric  # it is told once
        told = absent() if absent is not None and is_first and self.config.baselines else ""
        return {
            **({"absent": told} if told else {}),
            "field": self.name,
            "metric": self.metric.name,
            "num_documents": self._num_counted,
            "num_heldout_documents": self.num_heldout,
            "num_cut_questions": self.asked.num_cut(self.config.window),
            "num_bytes": sum(document.num_bytes for document in self.asked.documents),
        }

    def by_group(self, scores: Sequence[Score]) -> list[dict[str, Any]]:
        """The scores of each of the task's groups of documents, where it has any."""
        group_of = getattr(self.asked.task, "group", None)
        samples, seed = self.config.bootstrap_samples, self.config.seed
        return scores_by_group(self.name, group_of, scores, samples=samples, seed=seed)

    def comparisons(self, first: Score, others: Sequence[Score]) -> list[dict[str, Any]]:
        """The first model against each other score that is known per document, on its documents:
        some methods answer a part of them, such as the directions that they translate."""
        assert first.measure is not None
        sign = self.metric.sign
        comparisons = []
        for other in others:
            mine = other.measure and on_documents(first.measure, other.measure.document_names)
            if other.measure is None or mine is None:
                continue
            found = paired_interval(
                mine,
                other.measure,
                samples=self.config.bootstrap_samples,
                seed=self.config.seed,
            )
            better = {1: first.name, -1: other.name, 0: None}[sign * found.sign]
            comparisons.append(
                {
                    "field": self.name,
                    "first": first.name,
                    "second": other.name,
                    "difference": found.value,
                    "low": found.low,
                    "high": found.high,
                    "better": better,
                }
            )
        return comparisons


def _seen_rows(rows: RowSet, trained: Record) -> NDArray[np.int64]:
    """Numbers of the rows a training run was given, from the config in its record."""
    config = trained.config["train"]
    rows_per_step = config["batch_tokens"] // config["seq_len"]
    return rows_seen(rows, config["steps"], rows_per_step, config["seed"])

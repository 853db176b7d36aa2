"""evaluate: any number of models, and other methods, on the same held-out documents.

scores.json         every score with its interval, every pair with the interval of its difference
per_document.json   what they are sums of, to pair them with models to come
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.digests import canonical_json, write_bytes
from whorl.core.errors import DataError, SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.intervals import paired_interval, score_of
from whorl.core.plugins import packages_of
from whorl.core.ports import Engine, Field, QualityMeasure, Score
from whorl.core.records import Record, RecordKey, RecordWriter
from whorl.core.rows import RowSet
from whorl.core.variants import Variant
from whorl.model.folder import read_card
from whorl.spec.resolved import EvaluateConfig
from whorl.stages.evaluate.baselines import (
    TokenDocuments,
    TokenStream,
    decoded,
    ngram_nats,
    read_stream,
    rows_seen,
)
from whorl.stages.evaluate.measure import Asked, ask, measure, select_documents
from whorl.stages.evaluate.ngram import ORDER

__all__ = ["LOGIC_VERSION", "evaluate_key", "run"]

LOGIC_VERSION = 3  # raised when the same models and documents would give other scores
MAX_ROWS_BYTES = 256 * 2**20  # of token rows handed to a field's baselines
ID_BYTES = 8

OpenEngine = Callable[[Path, Variant], Engine]
Models = Mapping[Variant, Path]


def evaluate_key(
    config: EvaluateConfig,
    field: Field,
    prepared: Record,
    models: Models,
    trained: Record | None = None,
    engine: str = "auto",
) -> RecordKey:
    """The key of the record this work makes: the folders' contents, not their places."""
    named = {str(variant): read_card(folder).digest for variant, folder in models.items()}
    value = {
        "evaluate": config.model_dump(mode="json"),
        "field": {"name": field.name, "logic_version": field.logic_version},
        "task": field.task.name,
        "models": named,
        "engine": engine,
        **packages_of(
            {
                "whorl.fields": [field.name],
                "whorl.metrics": [field.task.metric.name],
                "whorl.engines": [engine],
            }
        ),
    }
    inputs = {"prepare": prepared.digest}
    if trained is not None:
        inputs["train"] = trained.digest
    return RecordKey("evaluate", value, inputs, LOGIC_VERSION)


def run(
    context: StageContext,
    config: EvaluateConfig,
    field: Field,
    prepared: Record,
    models: Models,
    engines: OpenEngine,
    trained: Record | None = None,
    engine: str = "auto",
) -> Record:
    """The record of these models' scores, made now unless it exists.

    models: variant -> its folder; the first is what baselines are compared with.
    trained: the record of train, so that an n-gram model is given the same rows.
    engine: serve.engine, which `engines` opens where it serves the variant.

    Raises SpecError without a model, RecordError if a model's tokens are not those of `prepared`,
    DataError when the documents do not fit the field's metric.
    """
    if not models:
        raise SpecError("evaluate needs at least one model")
    key = evaluate_key(config, field, prepared, models, trained, engine)
    if (found := context.store.find(key)) is not None:
        return found
    start = time.monotonic()
    work = _Evaluation.of(context, config, field, prepared)
    scores = [work.score_model(*model, engines) for model in models.items()]
    baselines = work.baselines(trained) if config.baselines else []
    with context.store.write(key) as writer:
        work.write(writer, scores, baselines)
        writer.run.update(duration_s=time.monotonic() - start, engines=work.engines)
    return context.store.published(key)


@dataclass(frozen=True)
class _Evaluation:
    context: StageContext
    config: EvaluateConfig
    field: Field
    prepared: Record
    tokens: Tokens
    num_heldout: int
    asked: Asked
    engines: dict[str, str] = dataclasses.field(default_factory=dict)  # variant -> what scored it

    @classmethod
    def of(
        cls, context: StageContext, config: EvaluateConfig, field: Field, prepared: Record
    ) -> _Evaluation:
        documents = HeldoutDocuments.open(prepared)
        numbers = select_documents(documents, config.max_bytes)
        tokens = Tokens.load(prepared.folder("tokens"))
        asked = ask(field.task, tokens, documents, numbers)
        return cls(context, config, field, prepared, tokens, len(documents), asked)

    def score_model(self, variant: Variant, folder: Path, engines: OpenEngine) -> Score:
        engine = engines(folder, variant)
        self.engines[str(variant)] = engine.name
        try:
            found = measure(
                engine,
                self.tokens,
                self.asked,
                window=self.config.window,
                progress=self.context.progress,
            )
        finally:
            engine.close()
        return replace(self._score(str(variant), found), variant=variant)

    def baselines(self, trained: Record | None) -> list[Score]:
        """Those of the field, and of n-grams where nothing is chosen."""
        rows = RowSet.open(self.prepared)
        whole = read_stream(rows, self.tokens)
        scores = []
        if not any(self.asked.questions):
            seen = None if trained is None else _seen_rows(rows, trained)
            if seen is not None and len(seen) < rows.num_rows:
                part = read_stream(rows, self.tokens, seen)
                scores.append(self._ngram(part, "the tokens the model saw"))
            scores.append(self._ngram(whole, "all training tokens"))
        train = TokenDocuments(whole, self.tokens)
        held = decoded(self.asked.documents, self.tokens)
        fits = rows.num_rows * (rows.seq_len + 1) * ID_BYTES <= MAX_ROWS_BYTES
        ids = rows.read(np.arange(rows.num_rows)).ids if fits else None
        for score in self.field.baselines(train, held, ids):
            measured = score.measure
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

    # ---------------------------------------------------------------- writing

    def write(
        self, writer: RecordWriter, models: Sequence[Score], baselines: Sequence[Score]
    ) -> None:
        """scores.json, per_document.json and the metrics of the record."""
        everything = [*models, *baselines]
        names = [score.name for score in everything]
        if len(set(names)) != len(names):
            raise DataError("two scores have one name", found=names)
        scores = {
            "metric": self.field.task.metric.name,
            "num_documents": len(self.asked.documents),
            "num_heldout_documents": self.num_heldout,
            "num_cut_questions": self.asked.num_cut(self.config.window),
            "scores": [_described(score, "model") for score in models]
            + [_described(score, "baseline") for score in baselines],
            "comparisons": self._comparisons(models[0], everything[1:]),
        }
        measured = {score.name: score.measure for score in everything if score.measure is not None}
        first = models[0].measure
        assert first is not None
        per_document = {
            "metric": self.field.task.metric.name,
            "documents": list(first.document_names),
            "denominator": first.denominator.tolist(),
            "numerators": {name: found.numerator.tolist() for name, found in measured.items()},
        }
        for name, value in (("scores.json", scores), ("per_document.json", per_document)):
            write_bytes(writer.path / name, canonical_json(value).encode())
        writer.metrics.update(
            {
                "metric": self.field.task.metric.name,
                "num_documents": len(self.asked.documents),
                "num_cut_questions": self.asked.num_cut(self.config.window),
                "num_bytes": sum(document.num_bytes for document in self.asked.documents),
                "scores": {score.name: score.value for score in everything},
            }
        )

    def _comparisons(self, first: Score, others: Sequence[Score]) -> list[dict[str, Any]]:
        """The first model against each other score that is known per document."""
        assert first.measure is not None
        sign = self.field.task.metric.sign
        comparisons = []
        for other in others:
            if other.measure is None:
                continue
            found = paired_interval(
                first.measure,
                other.measure,
                samples=self.config.bootstrap_samples,
                seed=self.config.seed,
            )
            low, high = sorted(sign * (end or 0.0) for end in (found.low, found.high))
            better = first.name if low > 0 else other.name if high < 0 else None
            comparisons.append(
                {
                    "first": first.name,
                    "second": other.name,
                    "difference": found.value,
                    "low": found.low,
                    "high": found.high,
                    "better": better,
                }
            )
        return comparisons


def _described(score: Score, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": score.name,
        "metric": score.metric.name,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "num_documents": score.num_documents,
        "note": score.note,
        "variant": None if score.variant is None else asdict(score.variant),
    }


def _seen_rows(rows: RowSet, trained: Record) -> NDArray[np.int64]:
    """Numbers of the rows a training run was given, from the config in its record."""
    config = trained.config["train"]
    rows_per_step = config["batch_tokens"] // config["seq_len"]
    return rows_seen(rows, config["steps"], rows_per_step, config["seed"])

"""evaluate: any number of models, and other methods, on the same held-out documents.

Documents of every field of the recipe are scored by that field's task, apart from the others.

scores.json         per field what was asked, and how much of it is in the training rows; every
                    score with its interval, every pair of scores of one field with the interval of
                    its difference
per_document.json   per field what they are sums of, to pair them with models to come
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.digests import canonical_json, write_bytes
from whorl.core.errors import DataError, SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.plugins import packages_of
from whorl.core.ports import Engine, Field, Score
from whorl.core.records import Record, RecordKey, RecordWriter
from whorl.core.rows import RowSet
from whorl.core.variants import Variant
from whorl.model.folder import peek_card
from whorl.spec.resolved import EvaluateConfig
from whorl.stages.evaluate.beside import ALONE, ByItself, scores_beside
from whorl.stages.evaluate.contamination import seen_shares, summary_of
from whorl.stages.evaluate.forgetting import Forgetting, ForgettingProbe
from whorl.stages.evaluate.of_field import FURTHER, FieldEvaluation

__all__ = ["LOGIC_VERSION", "evaluate_key", "run"]

LOGIC_VERSION = 7  # raised when the same models and documents would give other scores or files

OpenEngine = Callable[[Path, Variant], Engine]
Models = Mapping[Variant, Path]
Fields = Mapping[str, Field]
NOTHING: Mapping[str, ByItself] = {}


def evaluate_key(
    config: EvaluateConfig,
    fields: Fields,
    prepared: Record,
    models: Models,
    trained: Record | None = None,
    engine: str = "auto",
    probe: ForgettingProbe | None = None,
    beside: Mapping[str, ByItself] = NOTHING,
) -> RecordKey:
    """The key of the record this work makes: the folders' contents, not their places.

    Their files are verified when they are opened.
    """
    named = {str(variant): peek_card(folder).digest for variant, folder in models.items()}
    described = [
        {"name": field.name, "logic_version": field.logic_version, "task": field.task.name}
        for field in fields.values()
    ]
    value: dict[str, Any] = {
        "evaluate": config.model_dump(mode="json"),
        "fields": described,
        "models": named,
        "engine": engine,
        **packages_of(
            {
                "whorl.fields": [field.name for field in fields.values()],
                "whorl.metrics": [field.task.metric.name for field in fields.values()],
                "whorl.engines": [engine],
            }
        ),
    }
    if probe is not None:
        value["forgetting"] = probe.describe()
    if beside:
        value["alone"] = {name: found.record.digest for name, found in beside.items()}
    inputs = {"prepare": prepared.digest}
    if trained is not None:
        inputs["train"] = trained.digest
    return RecordKey("evaluate", value, inputs, LOGIC_VERSION)


def run(
    context: StageContext,
    config: EvaluateConfig,
    fields: Fields,
    prepared: Record,
    models: Models,
    engines: OpenEngine,
    trained: Record | None = None,
    engine: str = "auto",
    probe: ForgettingProbe | None = None,
    beside: Mapping[str, ByItself] = NOTHING,
) -> Record:
    """The record of these models' scores, made now unless it exists.

    models: variant -> its folder; the first is what baselines are compared with.
    trained: the record of train, so that an n-gram model is given the same rows.
    engine: serve.engine, which `engines` opens where it serves the variant.
    probe: of a model that was trained from a base, general text before and after.
    beside: field -> a model of it alone, to compare with.

    Raises SpecError without a model, RecordError if a model's tokens are not those of `prepared`,
    DataError when the documents do not fit their field's metric.
    """
    if not models:
        raise SpecError("evaluate needs at least one model")
    key = evaluate_key(config, fields, prepared, models, trained, engine, probe, beside)
    if (known := context.store.find(key)) is not None:
        return known
    start = time.monotonic()
    heldout, tokens = HeldoutDocuments.open(prepared), Tokens.load(prepared.folder("tokens"))
    rows = RowSet.open(prepared)
    parts: list[FieldEvaluation | Forgetting] = [
        part
        for name, field in fields.items()
        for part in FieldEvaluation.of(context, config, name, field, heldout, tokens).with_further()
    ]
    if probe is not None:
        parts.append(Forgetting.of(context, config, probe, tokens, rows))
    scores: list[list[Score]] = [[] for _ in parts]
    opened_names = {}
    for variant, folder in models.items():
        with closing(engines(folder, variant)) as opened:
            opened_names[str(variant)] = opened.name
            for part, of_part in zip(parts, scores, strict=True):
                of_part.append(part.score_model(opened, variant))
    if probe is not None:
        _before_and_after(parts, scores, engines, probe, models)
    seen = _seen(context, config, parts, rows, tokens)
    for part, of_part in zip(parts, scores, strict=True):
        if isinstance(part, FieldEvaluation):
            if (found := beside.get(part.name.partition(FURTHER)[0])) is not None:
                assert of_part[0].measure is not None
                of_part += scores_beside(found, part.name, of_part[0].measure.document_names)
            if config.baselines:
                of_part += part.baselines(rows, trained)
    with context.store.write(key) as writer:
        _write(writer, parts, scores, seen)
        writer.run.update(duration_s=time.monotonic() - start, engines=opened_names)
    return context.store.published(key)


def _seen(
    context: StageContext,
    config: EvaluateConfig,
    parts: Sequence[FieldEvaluation | Forgetting],
    rows: RowSet,
    tokens: Tokens,
) -> list[list[float | None]]:
    """Per field and document the share of its text in the training rows; [] where nobody looks."""
    if not config.contamination:
        return [[] for _ in parts]
    context.progress.start("training text in the held-out documents", None)
    seen = [
        [] if isinstance(part, Forgetting) else seen_shares(rows, tokens, part.asked.documents)
        for part in parts
    ]
    context.progress.finish()
    return seen


def _before_and_after(
    parts: Sequence[FieldEvaluation | Forgetting],
    scores: Sequence[list[Score]],
    engines: OpenEngine,
    probe: ForgettingProbe,
    models: Models,
) -> None:
    """Adds general text by the trained model, if it is none of those scored, and what the model it
    was trained from answers to every part's questions."""
    variant, folder = probe.after
    if variant not in models:
        with closing(engines(folder, variant)) as engine:
            for part, of_part in zip(parts, scores, strict=True):
                if isinstance(part, Forgetting):
                    of_part.append(part.score_model(engine, variant))
    variant, folder = probe.before
    with closing(engines(folder, variant)) as engine:
        for part, of_part in zip(parts, scores, strict=True):
            of_part.append(part.score_base(engine, variant, probe.base))


def _write(
    writer: RecordWriter,
    parts: Sequence[FieldEvaluation | Forgetting],
    scores: Sequence[Sequence[Score]],
    seen: Sequence[Sequence[float | None]],
) -> None:
    """scores.json, per_document.json and the metrics of the record.

    seen: per field and document the share of its text that is in the training rows; [] if nobody
    looked.
    """
    told: dict[str, Any] = {"fields": [], "scores": [], "comparisons": [], "groups": []}
    per_document = {}
    for part, of_part, shares in zip(parts, scores, seen, strict=True):
        names = [score.name for score in of_part]
        if len(set(names)) != len(names):
            raise DataError("two scores have one name", found=names)
        told["fields"].append(part.summary())
        if shares:
            told["fields"][-1]["contamination"] = summary_of(part.asked.documents, shares)
        told["scores"] += [_described(score, part.name) for score in of_part]
        told["comparisons"] += part.comparisons(of_part[0], of_part[1:])
        per_document[part.name] = _sums(of_part)
        if isinstance(part, FieldEvaluation):
            told["groups"] += part.by_group(of_part)
        if isinstance(part, Forgetting):
            told["forgetting"] = writer.metrics["forgetting"] = part.told(of_part)
        if shares:
            per_document[part.name]["seen_shares"] = list(shares)
    for name, value in (("scores.json", told), ("per_document.json", per_document)):
        write_bytes(writer.path / name, canonical_json(value).encode())
    writer.metrics.update(
        fields=told["fields"],
        scores={
            part.name: {score.name: score.value for score in of_part}
            for part, of_part in zip(parts, scores, strict=True)
        },
    )


def _sums(scores: Sequence[Score]) -> dict[str, Any]:
    """Of one field's documents: their denominators, and every score's numerators."""
    first = scores[0].measure
    assert first is not None
    measured = {score.name: score.measure for score in scores if score.measure is not None}
    return {
        "metric": first.metric.name,
        "documents": list(first.document_names),
        "denominator": first.denominator.tolist(),
        "numerators": {name: found.numerator.tolist() for name, found in measured.items()},
    }


def _kind(score: Score) -> str:
    if score.variant is not None:
        return "model"
    return "alone" if score.name.startswith(ALONE) else "baseline"


def _described(score: Score, field: str) -> dict[str, Any]:
    return {
        "field": field,
        "kind": _kind(score),
        "name": score.name,
        "metric": score.metric.name,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "num_documents": score.num_documents,
        "note": score.note,
        "variant": None if score.variant is None else asdict(score.variant),
    }

"""A field's score in the model of all fields beside that of a model of the field alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whorl.core.measures import measure_of_some
from whorl.core.metrics import find_metric
from whorl.core.ports import QualityMeasure, Score
from whorl.core.records import Record

__all__ = ["ALONE", "ByItself", "scores_beside"]

ALONE = "alone, "  # before the name of a variant


@dataclass(frozen=True)
class ByItself:
    """record: evaluation of the model that was trained on one field; note: on how much."""

    record: Record
    note: str


def scores_beside(found: ByItself, field: str, documents: Sequence[str]) -> list[Score]:
    """The models' scores of a field or of a further metric of it; [] if it has none there.

    documents: names of those that are scored here. Where they are scored there too, the two models
    can be compared document by document.
    """
    rows = json.loads(found.record.file("scores.json").read_bytes())["scores"]
    told = json.loads(found.record.file("per_document.json").read_bytes()).get(field)
    return [
        _score(row, told, documents, found.note)
        for row in rows
        if row["field"] == field and row["kind"] == "model" and told is not None
    ]


def _score(
    row: Mapping[str, Any], told: Mapping[str, Any], documents: Sequence[str], note: str
) -> Score:
    metric = find_metric(row["metric"])
    places = {name: place for place, name in enumerate(told["documents"])}
    measure = None
    if len(places) == len(told["documents"]) and set(documents) <= places.keys():
        chosen = [places[name] for name in documents]
        arrays = (told["numerators"][row["name"]], told["denominator"])
        sides = (np.array(each, np.float64) for each in arrays)
        whole = QualityMeasure(metric, tuple(told["documents"]), *sides)
        measure = measure_of_some(whole, chosen)
    ends = row["value"], row["low"], row["high"]
    return Score(ALONE + row["name"], metric, *ends, row["num_documents"], note, measure=measure)

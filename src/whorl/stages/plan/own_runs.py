"""What own trainings on this machine took against their plans: they correct the next plan."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.core.errors import RecordError
from whorl.core.records import Record, RecordStore
from whorl.spec.recipe import Recipe
from whorl.stages.plan.plan import Plan

__all__ = ["NO_RUNS", "OwnRuns", "corrected"]

LEAST, NEWEST = 3, 9  # runs: fewer say nothing, older ones are of older software
FIGURES = ("step_s", "peak_bytes")
Kind = tuple[Any, ...]


@dataclass(frozen=True)
class OwnRuns:
    """Medians of actual over planned, without the correction that a plan had already."""

    runs: int = 0
    step_s: float = 1.0
    peak_bytes: float = 1.0

    @property
    def note(self) -> str:
        """What a reader is told; empty without runs."""
        if not self.runs:
            return ""
        return (
            f"corrected by {self.runs} own runs of this kind on this machine: time x "
            f"{self.step_s:.2f}, memory x {self.peak_bytes:.2f}"
        )

    def values(self) -> dict[str, float]:
        return {"runs": self.runs, **{name: getattr(self, name) for name in FIGURES}}


NO_RUNS = OwnRuns()


def corrected(store: RecordStore, identity: str, recipe: Recipe, has_base: bool) -> OwnRuns:
    """From the newest runs of any recipe in the home that were planned for this machine and are
    of this kind: objective, adapters or all weights, a base or none."""
    train = recipe.train
    kind = (train.objective, train.lora is not None, has_base)
    ratios = list(_ratios(store, identity, kind))
    if len(ratios) < LEAST:
        return NO_RUNS
    medians = {name: statistics.median(row[name] for row in ratios) for name in FIGURES}
    return OwnRuns(len(ratios), **medians)


def _ratios(store: RecordStore, identity: str, kind: Kind) -> Iterator[Mapping[str, float]]:
    """Of each run, newest first; what is damaged or has no such plan is passed over."""
    plans: dict[str, dict[str, Plan]] = {}
    given = 0
    for path in _newest(store.home):
        recipe = path.parents[1].name
        with suppress(RecordError, OSError, KeyError, TypeError, ValueError):
            record = Record.load(path)
            config = record.config["train"]
            of_run = (config["objective"], config.get("lora") is not None, "base" in record.inputs)
            if of_run != kind:
                continue
            if recipe not in plans:
                plans[recipe] = _plans(RecordStore(store.home, recipe))
            plan = plans[recipe][_same(config)]
            if plan.machine["identity"] != identity:
                continue
            rows, before = record.run["plan_vs_actual"], plan.machine.get("corrected", {})
            found = {name: before.get(name, 1.0) * rows[name]["ratio"] for name in FIGURES}
            if all(0 < ratio < math.inf for ratio in found.values()):
                given += 1
                yield found
        if given == NEWEST:
            return


def _newest(home: Path) -> list[Path]:
    found = [path for folder in home.glob("*/train") for path in
             RecordStore(home, folder.parent.name).all("train")]  # fmt: skip
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _plans(store: RecordStore) -> dict[str, Plan]:
    """The plans of a recipe, by what train was told."""
    found = {}
    for path in store.all("plan"):
        with suppress(RecordError):
            plan = Plan.load(Record.load(path))
            found[_same(plan.decisions.train.model_dump(mode="json", exclude_none=True))] = plan
    return found


def _same(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)

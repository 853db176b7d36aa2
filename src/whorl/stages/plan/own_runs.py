"""What own trainings on this machine took against their plans: they correct the next plan."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.core.errors import RecordError
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.stages.plan.plan import Plan

if TYPE_CHECKING:
    from whorl.stages.plan.situation import Situation

__all__ = ["NO_RUNS", "OwnRuns", "corrected"]

LEAST, NEWEST = 3, 9  # runs: fewer say nothing, older ones are of older software
FIGURES = ("step_s", "peak_bytes")
MOST = 3.0  # times, up or down: beyond, another thing was wrong than the planner


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


def corrected(store: RecordStore, situation: Situation, logic_version: int) -> OwnRuns:
    """From the newest runs of any recipe in the home that this logic planned for this machine, as
    it is calibrated, and that are of this kind."""
    machine, train = situation.machine, situation.recipe.train
    made_with = {
        "identity": machine.facts.identity,
        "calibration": machine.calibration.digest,
        "rehearsed": situation.is_rehearsed,
    }
    stored = train.lora and train.lora.base
    ways = (situation.ways["precision"], situation.optimizer)
    kind = (train.objective, stored, situation.base is not None, *ways)
    ratios = list(islice(_ratios(store.home, kind, made_with, logic_version), NEWEST))
    if len(ratios) < LEAST:
        return NO_RUNS
    medians = {name: statistics.median(row[name] for row in ratios) for name in FIGURES}
    return OwnRuns(len(ratios), **medians)


def _ratios(
    home: Path, kind: tuple[Any, ...], made_with: Mapping[str, Any], logic_version: int
) -> Iterator[Mapping[str, float]]:
    """Of each run, newest first; what is damaged or has no such plan is passed over."""
    plans: dict[str, list[Plan]] = {}
    for path in _newest(home):
        recipe = path.parents[1].name
        with suppress(RecordError, OSError, KeyError, TypeError, ValueError):
            record = Record.load(path)
            config, rows = record.config["train"], record.run["plan_vs_actual"]
            stored = (config.get("lora") or {}).get("base")
            ways = (config["precision"], config["optimizer"])
            of_run = (config["objective"], stored, "base" in record.inputs, *ways)
            if of_run != kind:
                continue
            if recipe not in plans:
                plans[recipe] = list(_plans(RecordStore(home, recipe), made_with, logic_version))
            plan = next((plan for plan in plans[recipe] if _is_of(plan, config, rows)), None)
            if plan is not None:
                before = plan.machine.get("corrected", {})
                found = {name: before.get(name, 1.0) * rows[name]["ratio"] for name in FIGURES}
                if all(0 < ratio < math.inf for ratio in found.values()):
                    yield {n: min(MOST, max(1 / MOST, ratio)) for n, ratio in found.items()}


def _newest(home: Path) -> list[Path]:
    found = [path for folder in home.glob("*/train") for path in
             RecordStore(home, folder.parent.name).all("train")]  # fmt: skip
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _plans(store: RecordStore, made_with: Mapping[str, Any], logic_version: int) -> Iterator[Plan]:
    for path in store.all("plan"):
        with suppress(RecordError):
            record = Record.load(path)
            key = RecordKey("plan", record.config, record.inputs, logic_version)
            plan = Plan.load(record)
            if key.digest == record.digest and made_with.items() <= plan.machine.items():
                yield plan


def _is_of(plan: Plan, config: Mapping[str, Any], rows: Mapping[str, Any]) -> bool:
    """Whether a run was told this and predicted this: plans of other corrections tell the same."""
    told = plan.decisions.train.model_dump(mode="json", exclude_none=True)
    return told == config and all(
        plan.predictions[name].value == rows[name]["predicted"] for name in FIGURES
    )

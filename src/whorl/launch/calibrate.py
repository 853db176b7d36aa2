"""Measure this machine in a few seconds, and keep the figures beside the records.

A fresh process measures, so that what the caller has loaded changes nothing; it tells every try as
it is done, and a deadline ends it whatever it is doing: what was measured by then counts. The
figures are kept as sealed JSON in <home>/machine/calibration-<identity>.json until that file is
deleted.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from whorl.core.digests import read_sealed, write_sealed
from whorl.core.disk import check_writable
from whorl.core.errors import MissingExtra, PlanError, RecordError
from whorl.launch.apart import Ran, run_apart
from whorl.launch.candidates import (
    CHOICE_STEP,
    DTYPE_NAMES,
    choices,
    muon_dtypes,
    muon_name,
    product_name,
    ways_tried,
)
from whorl.launch.figures import (
    REFERENCE_STEPS,
    found_rates,
    rates_of,
    reference_name,
    reference_step,
    usual_steps,
)
from whorl.launch.machine import machine_facts
from whorl.launch.measuring import MEMORY
from whorl.launch.turns import Tries, Try
from whorl.stages.plan.hardware import (
    BUSY_SHARE,
    Calibration,
    Machine,
    MachineFacts,
    ReferenceStep,
    settings_of,
)

__all__ = ["LIMIT_S", "calibration_of", "calibration_path", "kept_calibration", "this_machine"]

LIMIT_S = 20.0  # of all measuring, whatever runs beside it
MEASURE_S = 16.5  # of the process that measures, which ends by itself then
END_S = 2.5  # for one that was killed to be gone, and for the figures, on a machine that is busy
VERSION = int(Calibration.model_fields["version"].default)
BUSY_WINDOW_S = 0.5  # before anything is measured
USUAL_MEMORY_BYTES = 340 * 2**20  # of a process that has loaded torch, where it was not told


def calibration_path(home: Path, facts: MachineFacts) -> Path:
    return home / "machine" / f"calibration-{facts.identity}.json"


def this_machine(home: Path, *, fresh: bool = False) -> Machine:
    """Facts and figures of this machine, measured now unless they are kept already.

    What was measured while the machine was busy is measured again once it is quiet: a plan by
    times that are too long trains too little. Raises PlanError when measuring fails, MissingExtra
    without torch, RecordError when the kept figures are damaged, ResourceError, before measuring,
    when they could not be kept.
    """
    facts = machine_facts()
    path = calibration_path(home, facts)
    kept = _read(path) if path.exists() and not fresh else None
    if kept is not None and not (_can_be_bettered(kept) and os.access(path.parent, os.W_OK)):
        return Machine(facts=facts, calibration=kept)
    check_writable(path.parent)
    calibration = _measure_apart(facts)
    if kept is not None and _badness(calibration) >= _badness(kept):
        calibration = kept
    write_sealed(path, calibration.model_dump(mode="json"))
    return Machine(facts=facts, calibration=calibration)


def kept_calibration(home: Path) -> Calibration | None:
    """The figures of this machine, where they are kept; nothing is measured. Raises RecordError."""
    path = calibration_path(home, machine_facts())
    return _read(path) if path.exists() else None


def _read(path: Path) -> Calibration | None:
    """None: of an earlier version, to be measured again."""
    found = read_sealed(path)
    if isinstance(found, dict) and found.get("version") != VERSION:
        return None
    try:
        return Calibration.model_validate(found)
    except ValidationError as error:
        raise RecordError(
            f"{path} is not a calibration of this version", do="delete it: it is measured again"
        ) from error


def _can_be_bettered(kept: Calibration) -> bool:
    """Measured on a busy machine, which is quiet now."""
    return kept.was_busy and _used_share() <= BUSY_SHARE


def _badness(calibration: Calibration) -> tuple[float, ...]:
    missing = calibration.wanted - calibration.measured
    return missing, max(0.0, calibration.busy - BUSY_SHARE), calibration.noise


def _used_share() -> float:
    """What others use of all cores now."""
    return float(psutil.cpu_percent(BUSY_WINDOW_S)) / 100


def _measure_apart(facts: MachineFacts) -> Calibration:
    """In a process of its own, which is ended after LIMIT_S."""
    begin_s = time.perf_counter()
    busy = _used_share()
    left_s = LIMIT_S - END_S - (time.perf_counter() - begin_s)
    work = {"facts": facts.model_dump(mode="json"), "limit_s": min(MEASURE_S, left_s)}
    threads = str(facts.cores)
    ran = run_apart("whorl.launch.measuring", work, left_s, OMP_NUM_THREADS=threads)
    _check(ran)
    return calibration_of(facts, dict(_tries(ran.out)), busy, time.perf_counter() - begin_s)


def _check(ran: Ran) -> None:
    """Raises MissingExtra without torch, PlanError where measuring failed."""
    if "No module named 'torch'" in ran.errors:
        raise MissingExtra.of("torch", "train", "measuring the machine")
    if ran.code:
        raise PlanError("measuring the machine failed", found=ran.last_words)


def _tries(told: str) -> Iterator[tuple[str, Tries]]:
    """By name. The last line may be cut: its process was ended."""
    found: dict[str, list[Try]] = {}
    for line in told.splitlines(keepends=True):
        if line.endswith("\n"):
            name, wall_s, cpu_s = json.loads(line)
            found.setdefault(name, []).append(Try(wall_s, cpu_s))
    return ((name, Tries(tuple(each))) for name, each in found.items())


def calibration_of(
    facts: MachineFacts, tries: Mapping[str, Tries], busy: float, took_s: float
) -> Calibration:
    """What was tried as figures; what was not, as of a usual machine of that speed.

    busy: share of all cores that others used before.
    """
    timed = {name: each for name, each in tries.items() if name != MEMORY}
    waited = [each.waited_share for each in timed.values() if each.cpu_s is not None]
    busy = max([busy, *([statistics.median(waited)] if waited else [])])
    chosen = choices(facts, timed, _why(busy))
    taken = settings_of(chosen)
    rates = rates_of(facts.bf16, taken["muon_dtype"])
    wanted = [
        *(way.name for way in ways_tried(facts, timed, chosen[0].settings)),
        *map(product_name, DTYPE_NAMES),
        *map(muon_name, muon_dtypes(timed)),
        *(rate.name for rate in rates),
        *map(reference_name, REFERENCE_STEPS),
    ]
    spreads = [each.spread(not each.was_left_alone) for each in timed.values()]
    memory = tries.get(MEMORY)
    calibration = Calibration(
        identity=facts.identity,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        torch=_version("torch"),
        threads=taken["threads"],
        **found_rates(rates, timed, max(1, taken["threads"] // taken["lanes"])),
        base_memory_bytes=USUAL_MEMORY_BYTES if memory is None else round(memory.wall_s),
        choices=chosen,
        steps=_steps(facts, timed, taken),
        busy=busy,
        noise=statistics.median(spreads) if spreads else 0.0,
        measured=sum(name in timed for name in wanted),
        wanted=len(wanted),
        took_s=took_s,
    )
    if calibration.steps:
        return calibration
    return calibration.model_copy(update={"steps": usual_steps(calibration, taken)})


def _why(busy: float) -> str:
    """What kept something from being tried."""
    if busy > BUSY_SHARE:
        return f"the machine was busy: others used {busy:.0%} of it"
    return f"the {LIMIT_S:.0f} s for it were over"


def _steps(
    facts: MachineFacts, timed: Mapping[str, Tries], taken: Mapping[str, Any]
) -> tuple[ReferenceStep, ...]:
    """Whole steps that were timed; without any, that of the way that was taken."""
    found = [
        reference_step(values, taken, _seconds(timed[reference_name(values)]))
        for values in REFERENCE_STEPS
        if reference_name(values) in timed
    ]
    for way in () if found else ways_tried(facts, timed, taken):
        *sizes, _, masked = CHOICE_STEP
        if way.name in timed and all(taken[key] == way.settings[key] for key in way.settings):
            values = (*sizes, max(1, way.rows // taken["lanes"]), masked)
            found.append(reference_step(values, taken, _seconds(timed[way.name])))
    return tuple(found)


def _seconds(tries: Tries) -> float:
    return tries.seconds(not tries.was_left_alone)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

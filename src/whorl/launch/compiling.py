"""Whether compiled blocks are faster on this machine, and what compiling them takes.

Timed apart from the rest of the calibration, and only before a long training: compiling takes
longer than all other measuring. A fresh process compiles into an empty folder.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from whorl.core.digests import write_sealed
from whorl.core.disk import check_writable
from whorl.core.errors import ResourceError
from whorl.core.scratch import hold
from whorl.launch.apart import given, run_apart
from whorl.launch.calibrate import calibration_path
from whorl.launch.figures import reference_step, step_config
from whorl.launch.turns import Trial, Try, Turns, seconds_of
from whorl.stages.plan.hardware import Machine, MeasuredChoice, ReferenceStep
from whorl.stages.plan.step_time import reference_load

__all__ = ["KEY", "LIMIT_S", "with_compiled"]

KEY = "train.compiled"
LIMIT_S = 90.0  # of compiling and timing
WORTH = 0.97  # compiled blocks are taken if a step needs less than this share of the time
SHAPE = (4, 128, 64, 384, 2048, 256, 4, False)  # as figures.REFERENCE_STEPS
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # torch's variable


def with_compiled(home: Path, machine: Machine) -> Machine:
    """The machine with that choice made, and kept; as it is if it is there already."""
    if machine.calibration.choice(KEY) is not None:
        return machine
    calibration = machine.calibration
    check_writable(calibration_path(home, machine.facts).parent)
    found = measured_apart(calibration.settings)
    if isinstance(found, str):
        choice = _choice({}, found)
        update: dict[str, Any] = {"choices": (*calibration.choices, choice)}
    else:
        steps, compiling_s = found
        seconds = {_name(step.compiled): step.step_s for step in steps}
        update = {
            "choices": (*calibration.choices, _choice(seconds, f"compiling {compiling_s:.0f} s")),
            "compiled_steps": steps,
            "compiling_s": compiling_s,
        }
    machine = machine.model_copy(update={"calibration": calibration.model_copy(update=update)})
    kept = machine.calibration.model_dump(mode="json")
    write_sealed(calibration_path(home, machine.facts), kept)
    return machine


def measured_apart(
    settings: Mapping[str, Any], limit_s: float = LIMIT_S
) -> tuple[tuple[ReferenceStep, ReferenceStep], float] | str:
    """(a step both ways, seconds of compiling), or why there is none."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        hold(Path(folder))
        environment = {CACHE: folder, "OMP_NUM_THREADS": str(settings["threads"])}
        work = {"settings": dict(settings)}
        ran = run_apart("whorl.launch.compiling", work, limit_s, **environment)
    if ran.code is None:
        return f"compiling took more than {limit_s:.0f} s"
    if ran.code:
        return f"compiling failed: {ran.last_words}"
    found = json.loads(ran.out)
    if "why_not" in found:
        return str(found["why_not"])
    plain, compiled = (ReferenceStep.model_validate(step) for step in found["steps"])
    return (plain, compiled), float(found["compiling_s"])


def _choice(seconds: Mapping[str, float], note: str) -> MeasuredChoice:
    plain, compiled = _name(False), _name(True)
    worth = bool(seconds) and seconds[compiled] < WORTH * seconds[plain]
    layers, width, *_ = SHAPE
    return MeasuredChoice(
        key=KEY,
        what=f"a step of {layers} layers of width {width}",
        taken=_name(worth),
        seconds=dict(seconds),
        settings={"compiled": worth},
        note=note,
    )


def _name(compiled: bool) -> str:
    return "compiled blocks" if compiled else "blocks as written"


def main() -> None:
    """Measure with the settings given as JSON; print what was found."""
    from whorl.stages.train.process import training_process

    settings = given()["settings"]
    found: dict[str, Any]
    with training_process(step_config(1, 1, settings)):
        try:
            found = _both_ways(settings)
        except ResourceError as error:
            found = {"why_not": str(error.found)}
    sys.stdout.write(json.dumps(found))


def _both_ways(settings: Mapping[str, Any]) -> dict[str, Any]:
    from whorl.launch.probes import timed_step

    making_s: dict[bool, float] = {}

    def ready(compiled: bool) -> Callable[[], Try]:
        """Begun and done once, which is what compiling takes."""
        begin_s = time.perf_counter()
        ways = {**settings, "compiled": compiled}
        step = reference_step(SHAPE, ways)
        run = timed_step(reference_load(step).shape, step_config(step.rows, step.seq_len, ways))
        run()
        making_s[compiled] = time.perf_counter() - begin_s
        return run

    turns = Turns(time.monotonic() + LIMIT_S)
    turns.take([Trial(_name(compiled), partial(ready, compiled)) for compiled in (False, True)])
    seconds, _ = seconds_of(turns.known)
    if len(seconds) < 2:
        return {"why_not": f"compiling took more than {LIMIT_S:.0f} s"}
    steps = [
        reference_step(SHAPE, {**settings, "compiled": compiled}, seconds[_name(compiled)])
        for compiled in (False, True)
    ]
    told = [step.model_dump(mode="json") for step in steps]
    return {"steps": told, "compiling_s": making_s[True] - making_s[False]}


if __name__ == "__main__":
    main()

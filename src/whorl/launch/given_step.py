"""A step of a given model, done on this machine in a process of its own: its time, its memory.

`python -m whorl.launch.given_step` prints what it found as JSON. It is kept as sealed JSON in
<home>/machine/given-<identity>-<digest>.json until that file is deleted.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from whorl.arch.shape import ModelShape, shape_from_json, shape_values
from whorl.core.digests import digest_value, read_sealed, write_sealed
from whorl.core.errors import MissingExtra, RecordError
from whorl.launch.apart import given, run_apart
from whorl.launch.machine import machine_facts
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.given import NotRehearsed, Rehearsal

__all__ = ["rehearsal_of"]

LOGIC_VERSION = 3  # raised when the same step would be timed in another way
TIMEOUT_S = 300
STEPS, MOST_STEPS, PATIENCE_S = 2, 5, 30.0  # after one that is not counted; more if they differ
MOST_REASON_CHARS = 300
ALIKE = 1.1  # the second fastest over the fastest
# What changes neither a step's time nor its memory.
PLAIN = {
    "steps": 1000,
    "seed": 0,
    "warmup_steps": 0,
    "decay_steps": 0,
    "checkpoint_every_steps": 100,
    "validate_every_steps": 100,
    "validate_rows": 1,
}
MOST_SHARES = 20  # that are told apart of the share of tokens that are trained


def rehearsal_of(
    home: Path,
    shape: ModelShape,
    config: TrainConfig,
    mixed_rows: int,
    trained_share: float = 1.0,
) -> Rehearsal | NotRehearsed:
    """A step of this load, done now unless it was before; or why it cannot be done.

    Of made-up rows of which as large a share is trained; what a teacher says is made up too.

    The load must fit the memory. Raises MissingExtra without torch, RecordError when what was kept
    is damaged.
    """
    plain = config.model_copy(update=PLAIN | _objective(config)).model_dump(mode="json")
    share = math.ceil(MOST_SHARES * trained_share) / MOST_SHARES
    work = {
        "shape": shape_values(shape),
        "train": plain,
        "mixed_rows": mixed_rows,
        "trained_share": share,
    }
    digest = digest_value(work | {"logic_version": LOGIC_VERSION})[:16]
    path = home / "machine" / f"given-{machine_facts().identity}-{digest}.json"
    if path.exists():
        try:
            return Rehearsal.model_validate(read_sealed(path))
        except ValidationError as error:
            raise RecordError(f"{path} is not a rehearsal", do="delete it") from error
    found = _apart(work)
    if isinstance(found, Rehearsal) and not found.was_disturbed:  # else again, when it is quiet
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, found.model_dump(mode="json"))
    return found


def _objective(config: TrainConfig) -> dict[str, Any]:
    """What is learned, where it makes a step another one; next tokens stand in for a package's."""
    if config.distil is not None:
        return {"distil": config.distil.model_copy(update={"teacher": "made up"})}
    return {} if config.objective == "dpo" else {"objective": "pretrain"}


def _apart(work: Mapping[str, Any]) -> Rehearsal | NotRehearsed:
    threads = str(work["train"]["threads"])
    ran = run_apart("whorl.launch.given_step", work, TIMEOUT_S, OMP_NUM_THREADS=threads)
    if ran.code is None:
        return NotRehearsed(reason=f"it was not done after {TIMEOUT_S:g} s")
    if "No module named 'torch'" in ran.errors:
        raise MissingExtra.of("torch", "train", "rehearsing a step of the base")
    if ran.code == -signal.SIGKILL:  # it says nothing then
        reason = "its process was killed, as the system does when memory runs out"
        return NotRehearsed(reason=reason)
    if ran.code:
        return NotRehearsed(reason=ran.last_words[:MOST_REASON_CHARS])
    return Rehearsal.model_validate_json(ran.out)


def _goes_on(seconds: Sequence[tuple[float, float]], since_s: float) -> bool:
    """Until two steps took as long as the fastest; the first one does not count."""
    fastest = sorted(seconds[1:])[:2]
    if len(seconds) < 1 + STEPS:
        return True
    alike = fastest[1][0] < ALIKE * fastest[0][0]
    return not alike and len(seconds) < 1 + MOST_STEPS and since_s < PATIENCE_S


def main() -> None:
    """Do the steps of the work on stdin; print what they took."""
    work = given()
    begin_s = time.perf_counter()
    from whorl.launch.rehearsal import merged, rehearsed
    from whorl.stages.train.process import peak_memory_bytes, training_process
    from whorl.stages.train.session import PROBE_ROWS, PROBE_TOKENS

    config = TrainConfig.model_validate(work["train"])
    shape = shape_from_json(work["shape"])
    seconds: list[tuple[float, float]] = []  # of a step by the clock, and of all its threads' work
    with training_process(config) as device:
        trainer, batch = rehearsed(shape, config, work["mixed_rows"], work["trained_share"])
        while _goes_on(seconds, time.perf_counter() - begin_s):
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            trainer.step(len(seconds), batch)
            step_s = time.perf_counter() - start_s
            seconds.append((step_s, time.process_time() - start_cpu_s))
        end_s = time.perf_counter()
        merged(trainer, PROBE_ROWS, min(PROBE_TOKENS, config.seq_len))
        ending_s = time.perf_counter() - end_s
        peak_bytes = peak_memory_bytes(device)["process"]
    took_s = time.perf_counter() - begin_s
    step_s, cpu_s = min(seconds[1:])
    found = Rehearsal(
        step_s=step_s,
        cpu_share=cpu_s / (step_s * config.threads),
        peak_bytes=peak_bytes,
        took_s=took_s,
        ending_s=ending_s,
    )
    sys.stdout.write(found.model_dump_json())


if __name__ == "__main__":
    main()

"""Everything that a plan of one recipe on this machine depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import MATRIX_MOMENTS
from whorl.core.errors import SpecError
from whorl.core.plugins import find_part
from whorl.spec.recipe import Recipe
from whorl.spec.train_keys import OPTIMIZERS
from whorl.stages.plan import rules
from whorl.stages.plan.data import DataFacts
from whorl.stages.plan.given import MIN_STEPS, GivenBase
from whorl.stages.plan.hardware import Machine
from whorl.stages.plan.law import Law
from whorl.stages.plan.memory import HELD_BYTES
from whorl.stages.plan.own_runs import NO_RUNS, OwnRuns
from whorl.stages.plan.step_time import Level

__all__ = ["Situation"]

MOST_THREADS_PER_CORE = 8  # more than one repeats the bits of a larger machine, slowly


@dataclass(frozen=True)
class Situation:
    """Everything a choice depends on."""

    recipe: Recipe
    machine: Machine
    level: Level
    data: DataFacts
    law: Law
    base: GivenBase | None = None  # whose shape is taken as it is
    time_ratio: float = 1.0  # of what its rehearsed step took to what is predicted of it
    memory_ratio: float = 1.0
    ending_s: float = 0.0  # of merging adapters and comparing what both say, as rehearsed
    own: OwnRuns = NO_RUNS  # whose residuals correct both, rehearsed or not
    was_disturbed: bool = False  # that rehearsal, by other work
    unrehearsed: str = ""  # why the step that is planned was not rehearsed

    @property
    def least_steps(self) -> int:
        """Below which a training is not worth beginning."""
        return rules.MIN_STEPS if self.base is None else MIN_STEPS

    @cached_property
    def teacher(self) -> ModelShape | None:
        """What distil learns from."""
        return None if self.base is None else self.base.find_teacher()

    @property
    def is_rehearsed(self) -> bool:
        return self.time_ratio != 1.0

    @property
    def process_bytes(self) -> int:
        """What the process holds before the model is made."""
        return self.machine.calibration.base_memory_bytes + self.held_bytes

    @property
    def held_bytes(self) -> int:
        """Of that, what a rehearsal's process does not have."""
        return HELD_BYTES + (0 if self.base is None else self.base.left_bytes)

    @property
    def optimizer(self) -> str:
        said, usual = self.recipe.train.optimizer, "muon" if self.base is None else "adamw"
        return usual if said == "auto" else said

    @cached_property
    def matrix_moments(self) -> int:
        """What the optimiser keeps for each element of the blocks' matrices, as it says itself.

        Raises SpecError if it says nothing of the kind.
        """
        if self.optimizer in OPTIMIZERS:
            return MATRIX_MOMENTS[self.optimizer]
        said = getattr(find_part("whorl.optimizers", self.optimizer, {}), "matrix_moments", None)
        if not isinstance(said, int) or said < 0:
            raise SpecError(
                f"the optimizer {self.optimizer} does not say what it keeps",
                found=f"matrix_moments {said}",
                expected="a whole number: values of state for each element of a matrix",
            )
        return said

    @property
    def ways(self) -> dict[str, Any]:
        """How this machine computes: fields of TrainConfig, measured unless the recipe says.

        Raises SpecError if the recipe asks for more lanes than threads, or threads than there
        is use for.
        """
        said, measured = self.recipe.train.said, self.machine.calibration.settings
        taken = {name: said.get(name, value) for name, value in measured.items()}
        cores = self.machine.facts.cores
        if said.get("threads", 0) > MOST_THREADS_PER_CORE * cores:
            raise SpecError(
                "train.threads is more than this machine can use",
                found=said["threads"],
                expected=f"at most {MOST_THREADS_PER_CORE * cores}: it has {cores} cores",
                do="leave it out, or give as many threads as there are cores",
            )
        if said.get("lanes", 0) > taken["threads"]:
            raise SpecError(
                "train.lanes is more than train.threads",
                found=said["lanes"],
                expected=f"at most {taken['threads']}",
            )
        del taken["compiled"]  # a choice of each candidate
        return taken | {"lanes": min(taken["lanes"], taken["threads"])}

    @property
    def compiled_ways(self) -> tuple[bool, ...]:
        """Whether blocks may be compiled: as the recipe says, else both if it is faster here."""
        said = self.recipe.train.compiled
        if said != "auto" or self.base is not None:
            return (said is True,)
        return (False, True) if self.machine.calibration.settings["compiled"] else (False,)

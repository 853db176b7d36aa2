"""A step of the base done here takes the place of what operators' rates say of it."""

from __future__ import annotations

from dataclasses import replace

from whorl.core.units import format_duration
from whorl.stages.plan.candidate import fastest_step_s, load_of
from whorl.stages.plan.choose import choose
from whorl.stages.plan.given import NotRehearsed
from whorl.stages.plan.memory import peak_memory
from whorl.stages.plan.settings import train_config
from whorl.stages.plan.situation import Situation

__all__ = ["rehearsed"]

STEPS, LONGEST_S = 3, 120.0  # a base that is slower is planned unrehearsed
MOST_REHEARSALS = 2


def rehearsed(situation: Situation) -> Situation:
    """The situation with what a step of the base really took here, where one was done.

    Another time buys another number of tokens, and may call for another batch: that is rehearsed
    too.
    """
    base, done = situation.base, None
    if base is None or base.rehearse is None:
        return situation
    for _ in range(MOST_REHEARSALS):
        candidate, _ = choose(situation)
        load = load_of(situation, candidate)
        if load == done:
            break
        if STEPS * candidate.step_s > LONGEST_S:
            reason = f"a step takes about {format_duration(candidate.step_s)} here"
            return replace(situation, unrehearsed=reason)
        config = train_config(situation, candidate)
        trained_share = situation.data.for_vocab(candidate.shape.vocab_size).trained_share
        mixed_rows = round(load.mixed_share * load.rows)
        found = base.rehearse(candidate.shape, config, mixed_rows, trained_share)
        if isinstance(found, NotRehearsed):
            return replace(situation, unrehearsed=found.reason)
        peak = peak_memory(load, situation.process_bytes).total
        beside = situation.held_bytes + (0 if situation.teacher is None else load.beside_bytes)
        situation = replace(
            situation,
            time_ratio=found.quiet_step_s / fastest_step_s(situation, load),
            memory_ratio=(found.peak_bytes + beside) / peak,
            ending_s=found.ending_s,
            was_disturbed=found.was_disturbed,
        )
        done = load
    return situation

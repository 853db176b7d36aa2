"""Environments played through an engine: at each step the most probable action is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np

from whorl.codecs.contract import Tokens
from whorl.core.context import NoProgress
from whorl.core.environments import Environment, PlayTask, Step
from whorl.core.errors import DataError
from whorl.core.metrics import RETURN, SUCCESS, Metric
from whorl.core.ports import Engine, HeldoutDocument, Progress

__all__ = ["played"]


def played(
    engine: Engine,
    tokens: Tokens,
    task: PlayTask,
    documents: Sequence[HeldoutDocument],
    *,
    window: int,
    progress: Progress | None = None,
) -> list[Mapping[Metric, tuple[float, float]]]:
    """Success and sum of rewards of each document's environment, played from its seed.

    Only actions of the environment are chosen among. An episode that shows what no codec of the
    model takes has failed there, which is said at the end. Raises DataError if an environment
    cannot be opened or the model knows none of its actions.
    """
    failed: list[DataError] = []
    shown, grades = progress or NoProgress(), list[Mapping[Metric, tuple[float, float]]]()
    shown.start(f"episodes played by {engine.name}", len(documents), "episodes")
    for document in documents:
        world = task.open_world(document.name)
        if world is None:
            raise DataError(f"there is no environment of {document.name}")
        environment, seed = world
        with closing(environment):
            succeeded, total = _episode(engine, tokens, task, environment, seed, window, failed)
        grades.append({SUCCESS: (float(succeeded), 1.0), RETURN: (total, 1.0)})
        shown.advance()
    shown.finish(f"{len(failed):,} failed by what they showed: {failed[0]}" if failed else "")
    return grades


def _episode(
    engine: Engine,
    tokens: Tokens,
    task: PlayTask,
    environment: Environment,
    seed: int,
    window: int,
    failed: list[DataError],
) -> tuple[bool, float]:
    """(whether it went well, the sum of its rewards). failed: gets why it could not go on."""
    ids = _ids_of_actions(tokens, task, environment)
    actions = [action for action in environment.actions if action in ids]
    candidates = [(ids[action],) for action in actions]
    seen, steps, total = environment.reset(seed), list[Step](), 0.0
    for _ in range(task.max_steps):
        try:
            asked = tokens.encode_parts(task.ask(steps, seen))
        except DataError as error:
            failed.append(error)
            return False, total
        prompt = [*tokens.contract.start_ids, *asked]
        nats = engine.score(candidates, prompt[max(0, len(prompt) + 1 - window) :])
        action = actions[int(np.argmax([found[0] for found in nats]))]
        steps.append((seen, action))
        outcome = environment.step(action)
        seen, total = outcome.observation, total + outcome.reward
        if outcome.has_ended:
            return outcome.has_succeeded, total
    return False, total


def _ids_of_actions(tokens: Tokens, task: PlayTask, environment: Environment) -> dict[str, int]:
    """Those that the model knows: an action that no demonstration has is never taken."""
    codec = tokens.codecs[task.codec]
    first = next(each.id_start for each in tokens.contract.codecs if each.name == task.codec)
    known = {str(codec.decode([place])): first + place for place in range(codec.num_ids)}
    found = {action: known[action] for action in environment.actions if action in known}
    if not found:
        raise DataError(
            f"the model knows no action of {environment.name}",
            found=", ".join(list(known)[:12]),
            expected=", ".join(environment.actions[:12]),
        )
    return found

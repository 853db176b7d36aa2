"""Environments played through an engine: at each step the most probable action is taken, of those
that are possible then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from whorl.codecs.contract import Tokens
from whorl.core.context import NoProgress
from whorl.core.environments import Environment, PlayTask, Step
from whorl.core.errors import DataError
from whorl.core.metrics import Metric
from whorl.core.ports import Engine, HeldoutDocument, Part, Progress

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
    """What came of each document's environment, played from its seed, in metrics of the task.

    Only actions that are possible are chosen among. An episode that shows what no codec of the
    model takes has failed there, which is said at the end. Raises DataError if an environment
    cannot be opened or the model knows none of its actions.
    """
    failed: list[DataError] = []
    known: dict[str, list[int]] = {}
    shown, grades = progress or NoProgress(), list[Mapping[Metric, tuple[float, float]]]()
    shown.start(f"episodes played by {engine.name}", len(documents), "episodes")
    for document in documents:
        world = task.open_world(document.name)
        if world is None:
            raise DataError(f"there is no environment of {document.name}")
        environment, seed = world
        with closing(environment):
            game = _Episode(engine, tokens, task, environment, known, window, failed)
            succeeded, total = game.play(seed)
        grades.append(task.played(document, succeeded, total))
        shown.advance()
    shown.finish(f"{len(failed):,} failed by what they showed: {failed[0]}" if failed else "")
    return grades


@dataclass(frozen=True)
class _Episode:
    engine: Engine
    tokens: Tokens
    task: PlayTask
    environment: Environment
    known: dict[str, list[int]]  # action -> its ids; [] of one that the model does not know
    window: int
    failed: list[DataError]  # gets why it could not go on

    def play(self, seed: int) -> tuple[bool, float]:
        """(whether it went well, the sum of its rewards)."""
        seen, steps, total = self.environment.reset(seed), list[Step](), 0.0
        for _ in range(self.task.max_steps):
            actions = self._possible()
            try:
                asked = self.tokens.encode_parts(self.task.ask(steps, seen))
            except DataError as error:
                self.failed.append(error)
                return False, total
            prompt = [*self.tokens.contract.start_ids, *asked]
            candidates = [self.known[action] for action in actions]
            room = self.window - max(map(len, candidates))
            nats = self.engine.score(candidates, prompt[max(0, len(prompt) - room) :])
            action = actions[int(np.argmax([found.sum() for found in nats]))]
            steps.append((seen, action))
            outcome = self.environment.step(action)
            seen, total = outcome.observation, total + outcome.reward
            if outcome.has_ended:
                return outcome.has_succeeded, total
        return False, total

    def _possible(self) -> list[str]:
        """Actions that are possible and that the model knows: others it never takes."""
        for action in self.environment.actions:
            if action not in self.known:
                try:
                    ids = self.tokens.encode_parts([Part(self.task.codec, action)])
                except DataError:
                    ids = []
                self.known[action] = ids
        found = [action for action in self.environment.actions if self.known[action]]
        if not found:
            codec = self.tokens.codec(self.task.codec)
            raise DataError(
                f"the model knows no action of {self.environment.name}",
                found=", ".join(str(codec.decode([n])) for n in range(min(12, codec.num_ids))),
                expected=", ".join(self.environment.actions[:12]),
            )
        return found

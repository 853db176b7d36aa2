"""Environments played through an engine: at each step the most probable action is taken, of those
that are possible then.

Episodes are played side by side. What the open ones ask is scored together, then each takes its
step: an episode is the same as if it were played alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from whorl.codecs.contract import Tokens
from whorl.core.context import NoProgress
from whorl.core.environments import Environment, Observation, PlayTask, Step
from whorl.core.errors import DataError
from whorl.core.metrics import Metric
from whorl.core.ports import Engine, HeldoutDocument, Part, Progress
from whorl.core.scoring import Continuations, score_together, totals

__all__ = ["played"]

MOST_OPEN = 32  # episodes at once: each holds an environment


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
    player = _Player(engine, tokens, task, window)
    shown, grades = progress or NoProgress(), dict[int, Mapping[Metric, tuple[float, float]]]()
    shown.start(f"episodes played by {engine.name}", len(documents), "episodes")
    unopened, episodes = list(enumerate(documents))[::-1], list[_Episode]()
    with task.worlds() as open_world:
        try:
            while unopened or episodes:
                while unopened and len(episodes) < MOST_OPEN:
                    place, document = unopened.pop()
                    world = open_world(document.name)
                    if world is None:
                        raise DataError(f"there is no environment of {document.name}")
                    episodes.append(_Episode(place, world[0]))
                    episodes[-1].seen = world[0].reset(world[1])
                player.step(episodes)
                for episode in [each for each in episodes if each.has_ended]:
                    episodes.remove(episode)
                    episode.environment.close()
                    result = episode.has_succeeded, episode.total
                    grades[episode.place] = task.played(documents[episode.place], *result)
                    shown.advance()
        finally:
            for episode in episodes:
                episode.environment.close()
    failed = [player.failed[place] for place in sorted(player.failed)]
    shown.finish(f"{len(failed):,} failed by what they showed: {failed[0]}" if failed else "")
    return [grades[place] for place in range(len(documents))]


@dataclass(eq=False)
class _Episode:
    """total: the sum of its rewards so far."""

    place: int  # of its document
    environment: Environment
    seen: Observation = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    total: float = 0.0
    has_ended: bool = False
    has_succeeded: bool = False

    def take(self, action: str) -> None:
        self.steps.append((self.seen, action))
        outcome = self.environment.step(action)
        self.seen, self.total = outcome.observation, self.total + outcome.reward
        self.has_ended = outcome.has_ended
        self.has_succeeded = outcome.has_ended and outcome.has_succeeded


@dataclass(frozen=True)
class _Player:
    engine: Engine
    tokens: Tokens
    task: PlayTask
    window: int
    known: dict[str, list[int]] = field(default_factory=dict)  # ids of an action; []: not known
    failed: dict[int, DataError] = field(default_factory=dict)  # why an episode could not go on

    def step(self, episodes: Sequence[_Episode]) -> None:
        """One action of each."""
        asked: list[tuple[_Episode, list[str], Continuations]] = []
        for episode in episodes:
            actions = self._possible(episode.environment)
            try:
                parts = self.tokens.encode_parts(self.task.ask(episode.steps, episode.seen))
            except DataError as error:
                self.failed[episode.place], episode.has_ended = error, True
                continue
            prompt = [*self.tokens.contract.start_ids, *parts]
            candidates = [self.known[action] for action in actions]
            room = self.window - max(map(len, candidates))
            question = Continuations(prompt[max(0, len(prompt) - room) :], candidates)
            asked.append((episode, actions, question))
        scores = score_together(self.engine, [question for _, _, question in asked])
        for (episode, actions, _), nats in zip(asked, scores, strict=True):
            episode.take(actions[int(np.argmax(totals(nats)))])
            episode.has_ended |= len(episode.steps) == self.task.max_steps

    def _possible(self, environment: Environment) -> list[str]:
        """Actions that are possible and that the model knows: others it never takes."""
        for action in environment.actions:
            if action not in self.known:
                try:
                    ids = self.tokens.encode_parts([Part(self.task.codec, action)])
                except DataError:
                    ids = []
                self.known[action] = ids
        found = [action for action in environment.actions if self.known[action]]
        if not found:
            codec = self.tokens.codec(self.task.codec)
            raise DataError(
                f"the model knows no action of {environment.name}",
                found=", ".join(str(codec.decode([n])) for n in range(min(12, codec.num_ids))),
                expected=", ".join(environment.actions[:12]),
            )
        return found

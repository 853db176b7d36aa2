"""What was seen and what was done: which action comes next?

Sources are demonstrations as jsonl, or an environment of Gymnasium by its name, which a teacher
plays for training and the model for evaluation, from seeds that nobody trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.label import LabelCodec
from whorl.codecs.table import Cell, TableCodec
from whorl.core.environments import Environment, Observation, PlayTask, Step
from whorl.core.intervals import score_of
from whorl.core.metrics import ACCURACY, RETURN, SUCCESS
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Task
from whorl.core.reasons import Place, Reason
from whorl.core.sources import DatasetItem
from whorl.fields import gymnasium_worlds as worlds
from whorl.fields.episode_files import SUFFIXES, episodes_of
from whorl.fields.teachers import AUTO, IDLE, IDLE_ACTION, RANDOM, Shown, demonstration, teacher_of
from whorl.fields.whole import (
    begins,
    check_sides,
    files_of,
    number_of,
    share_of,
    share_option,
    whole_items,
)

__all__ = ["FIELD", "EpisodesField", "question_of"]

ROW, ACTION = "row", "action"
AT_ONCE = 25  # episodes of one item, which one process plays
ASKED_FROM = 10**8  # the first seed that is held out
BINS = 32  # of a column of numbers
HISTORY = 7  # steps before the one that is asked


def question_of(steps: Sequence[Step], seen: Observation) -> tuple[Part, ...]:
    """The last steps and what is seen now: what the next action is asked after."""
    parts = []
    for before, action in steps[-HISTORY:]:
        parts += [Part(ROW, before, trained=False), Part(ACTION, action)]
    return (*parts, Part(ROW, seen, trained=False))


def _world_of(name: str) -> tuple[str, int] | None:
    """The name of a document's environment and its seed; None: it is of no environment."""
    world, _, seed = name.rpartition("#")
    if not world.startswith(worlds.PREFIX) or not seed.isdecimal():
        return None
    return world.removeprefix(worlds.PREFIX), int(seed)


def open_world(name: str) -> tuple[Environment, int] | None:
    """The environment of a document and its seed; None: it is of no environment."""
    found = _world_of(name)
    return None if found is None else (worlds.open_world(found[0]), found[1])


def world_of(name: str) -> str:
    """The environment of a document, as sources name it; "": it is of no environment."""
    found = _world_of(name)
    return "" if found is None else f"{worlds.PREFIX}{found[0]}"


TASK = PlayTask(
    open_world=open_world,
    ask=question_of,
    codec=ACTION,
    world_of=world_of,
    group=world_of,
)


@dataclass(frozen=True)
class EpisodesField:
    """A document per eight steps; the actions are learned."""

    name: str = "episodes"
    task: Task = TASK
    logic_version: int = 1
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            **{"episodes": "2000", "asked": "100", "teacher": AUTO, "astray": "0"},
            **{"heldout": "0.1", "seed": "0"},
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when there are no files, MissingExtra or SpecError on an environment."""
        if not source.source.startswith(worlds.PREFIX):
            return list(whole_items(source, SUFFIXES))
        name = source.source.removeprefix(worlds.PREFIX)
        worlds.open_world(name).close()
        options = {**self.options, **source.options}
        count = -(-number_of(options, "episodes", 1) // AT_ONCE)
        identity = worlds.identity_of(name)
        return [DatasetItem(place, f"{identity}, part {place}") for place in range(count + 1)]

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError or SpecError. Item 0 of an environment is what is held out."""
        options = {**self.options, **source.options}
        if isinstance(item, DatasetItem):
            yield from _demonstrated(source.source, item.number, options, reject)
        elif begins(item, reject):
            yield from _of_files(source, options, reject)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """Bins and words of what was seen, and the actions."""
        columns: dict[str, list[Cell]] = {}
        actions, count = set(), 0
        for document in documents:
            for part in document.parts:
                if part.codec == ACTION:
                    actions.add(part.value)
                elif part.codec == ROW:
                    for name, cell in part.value.items():
                        mine = columns.setdefault(name, [None] * count)
                        mine += [None] * (count - len(mine))
                        mine.append(cell)
                    count += 1
        for mine in columns.values():
            mine += [None] * (count - len(mine))
        return {ROW: TableCodec.fit(columns, BINS), ACTION: LabelCodec.fit(actions, ACTION)}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """The commonest action; where all are of environments also their teachers, if each has one,
        actions at random, and none at all where that is an action, played."""
        actions = Counter(
            p.value for d in train for p in d.parts if p.codec == ACTION and p.trained
        )
        best = min(actions, key=lambda action: (-actions[action], action))
        last = [[p.value for p in d.parts if p.codec == ACTION][-1] for d in heldout]
        names, ones = tuple(document.name for document in heldout), np.ones(len(heldout))
        hits = np.array([action == best for action in last], np.float64)
        scores = [score_of("commonest action", QualityMeasure(ACCURACY, names, hits, ones))]
        played = [world for world in map(_world_of, names) if world is not None]
        if len(played) < len(names):
            return scores
        own = [teacher_of(world) for world, _ in played]
        known = [teacher for teacher in own if teacher is not None]
        shown = {who: [who] * len(names) for who in (RANDOM, *[IDLE] * (IDLE_ACTION in actions))}
        if len(known) == len(names):
            shown = {" and ".join(sorted(set(known))): known, **shown}
        for name, teachers in shown.items():
            each = [_result(*world, who) for world, who in zip(played, teachers, strict=True)]
            for metric, numbers in zip((SUCCESS, RETURN), np.array(each, float).T, strict=True):
                scores.append(score_of(name, QualityMeasure(metric, names, numbers, ones)))
        return scores


def _result(world: str, seed: int, teacher: str) -> tuple[bool, float]:
    """(success, sum of rewards) of a teacher from a seed on."""
    with closing(worlds.open_world(world)) as opened:
        for _ in demonstration(opened, teacher, seed):
            pass
        return opened.has_succeeded, opened.total


def _demonstrated(
    name: str, part: int, options: Mapping[str, str], reject: Callable[[str], None]
) -> Iterator[Document]:
    """Episodes of a teacher: of part 0 those that are asked, with their first steps alone.

    What failed is not learned from, and counted.
    """
    seed, episodes = number_of(options, "seed"), number_of(options, "episodes", 1)
    astray = share_option(options, "astray") if options["astray"] != "0" else 0.0
    first = ASKED_FROM if part == 0 else (part - 1) * AT_ONCE
    count = number_of(options, "asked", 1) if part == 0 else min(AT_ONCE, episodes - first)
    first += seed * 10**6
    with closing(worlds.open_world(name.removeprefix(worlds.PREFIX))) as world:
        for number in range(first, first + count):
            wrong = astray if part else 0.0
            steps = tuple(demonstration(world, options["teacher"], number, wrong))
            split = "heldout" if part == 0 else "train"
            documents = _documents(f"{name}#{number}", steps, split, reject)
            if part == 0:
                yield next(documents)
            elif world.has_succeeded:
                yield from documents
            else:
                reject(
                    Reason("demonstration that failed", "passed over", Place(f"{name}#{number}"))
                )


def _documents(
    name: str, steps: Sequence[Shown], split: str, reject: Callable[[str], None]
) -> Iterator[Document]:
    """What was done at random is seen, and not learned."""
    for start in range(0, len(steps), HISTORY + 1):
        some = steps[start : start + HISTORY + 1]
        place = f"+{start}" if start else ""
        if not any(step.is_taught for step in some):
            reject(Reason("steps at random alone", "passed over", Place(f"{name}{place}")))
            continue
        parts = [
            part
            for step in some
            for part in (
                Part(ROW, step.seen, trained=False),
                Part(ACTION, step.action, trained=step.is_taught),
            )
        ]
        yield Document(f"{name}{place}", tuple(parts), split, whole=True)  # type: ignore[arg-type]


def _of_files(
    source: Source, options: Mapping[str, str], reject: Callable[[str], None]
) -> Iterator[Document]:
    """Raises DataError if there is nothing to learn or to ask."""
    share, seed = share_option(options, "heldout"), number_of(options, "seed")
    found = list(episodes_of(files_of(source, SUFFIXES), reject))
    has_test = any(each.is_test for each in found)
    held = [e.is_test if has_test else share_of(seed, repr(e.steps)) < share for e in found]
    check_sides(source, "episodes", held.count(False), held.count(True))
    known = {action for each, out in zip(found, held, strict=True) if not out
             for _, action in each.steps}  # fmt: skip
    for each, is_held in zip(found, held, strict=True):
        if is_held and not {action for _, action in each.steps} <= known:
            reject("held-out episode with an action that nothing trains")
            continue
        steps = [Shown(*step) for step in each.steps]
        yield from _documents(each.name, steps, "heldout" if is_held else "train", reject)


FIELD = EpisodesField()

"""What is to be timed takes turns, until it is known well enough or the time for it is over.

Other processes make a try slower, never faster, and rarely for long: each way is therefore tried
again and again between the others, and its best try counts. On a machine whose cores are all taken
no try is left alone; then the processor's own time of it counts, which waiting for a core does not
add to. That is the right measure of threads that compute and wait asleep. Threads that wait by
spinning use the processor for nothing while another process keeps the one they wait for: of them
there is only the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Trial", "Tries", "Try", "Turns", "seconds_of"]

LEFT_ALONE = 1.15  # the clock over the processor's time, at most, where others took no core
ENOUGH, MOST = 4, 12  # tries of each
ALIKE = 1.05  # the second best over the best of what is known well
KNOWN_SHARE = 0.8  # of all that take turns


@dataclass(frozen=True)
class Try:
    """Seconds of one time."""

    wall_s: float
    cpu_s: float | None = None  # of the thread that all others wait for; None: threads that spin


@dataclass(frozen=True)
class Trial:
    """Something to be timed. begin: makes ready; what it gives does the thing once."""

    name: str
    begin: Callable[[], Callable[[], Try]]


@dataclass(frozen=True)
class Tries:
    """All tries of one thing; at least one."""

    each: tuple[Try, ...]

    @property
    def wall_s(self) -> float:
        return min(one.wall_s for one in self.each)

    @property
    def cpu_s(self) -> float | None:
        return min((one.cpu_s for one in self.each if one.cpu_s is not None), default=None)

    @property
    def was_left_alone(self) -> bool:
        """Whether others took no core at least once; of threads that spin nobody knows."""
        return self.cpu_s is None or self.wall_s <= LEFT_ALONE * self.cpu_s

    @property
    def waited_share(self) -> float:
        """Of the clock's time, what was spent waiting for a core; in the middle one."""
        shares = [1 - one.cpu_s / one.wall_s for one in self.each if one.cpu_s and one.wall_s]
        return max(0.0, statistics.median(shares)) if shares else 0.0

    def seconds(self, by_processor: bool) -> float:
        """Of the best try, by the processor's time where there is one."""
        return self.cpu_s if by_processor and self.cpu_s is not None else self.wall_s

    def spread(self, by_processor: bool) -> float:
        """(middle - best) / best."""
        values = [Tries((one,)).seconds(by_processor) for one in self.each]
        return statistics.median(values) / max(min(values), 1e-12) - 1


def seconds_of(tries: Mapping[str, Tries]) -> tuple[dict[str, float], bool]:
    """Of each, and whether by the processor's time: what is compared is measured alike."""
    by_processor = not all(found.was_left_alone for found in tries.values())
    return {name: found.seconds(by_processor) for name, found in tries.items()}, by_processor


@dataclass
class Turns:
    """tell: hears every try as it is done, in case this process does not live to its end."""

    ends_s: float  # by the clock
    tell: Callable[[str, Try], None] = lambda name, one: None
    clock: Callable[[], float] = time.monotonic
    known: dict[str, Tries] = field(default_factory=dict)

    def take(self, trials: Sequence[Trial], until_s: float | None = None, most: int = MOST) -> None:
        """Each once, the first of them first, then all again in turns.

        Before a thing is counted it is done once. until_s: after which all have had enough; most:
        tries of each.
        """
        ends_s = self.ends_s if until_s is None else min(until_s, self.ends_s)
        ready: dict[str, Callable[[], Try]] = {}
        for count in range(most):
            for trial in trials:
                if self.clock() >= ends_s:
                    return
                if trial.name not in ready:
                    ready[trial.name] = trial.begin()
                    ready[trial.name]()
                    if self.clock() >= self.ends_s:
                        return
                self.note(trial.name, ready[trial.name]())
            if count + 1 >= ENOUGH and self._is_known(trial.name for trial in trials):
                return

    def note(self, name: str, found: Try) -> None:
        """One more try."""
        before = self.known[name].each if name in self.known else ()
        self.known[name] = Tries((*before, found))
        self.tell(name, found)

    def _is_known(self, names: Iterable[str]) -> bool:
        """Whether most have been as fast as their best a second time."""
        alike = []
        for name in names:
            found = self.known[name]
            best = sorted(Tries((one,)).seconds(by_processor=True) for one in found.each)[:2]
            alike.append(len(best) > 1 and best[1] <= ALIKE * best[0])
        return sum(alike) >= KNOWN_SHARE * len(alike)

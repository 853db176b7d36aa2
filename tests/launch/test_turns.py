"""Turns, on a clock that only what is done moves: the best try counts, and the budget holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import pytest

from whorl.launch.turns import ENOUGH, MOST, Trial, Tries, Try, Turns, seconds_of


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def trial(self, name: str, tries: Sequence[Try], order: list[str] | None = None) -> Trial:
        """One that takes these, the first once more before it counts, then from the start."""

        def begin() -> Callable[[], Try]:
            left: Iterator[Try] = cycle([tries[0], *tries])
            return lambda: self.do(name, next(left), order)

        return Trial(name, begin)

    def do(self, name: str, one: Try, order: list[str] | None) -> Try:
        self.now_s += one.wall_s
        if order is not None:
            order.append(name)
        return one


def alone(*seconds: float) -> tuple[Try, ...]:
    return tuple(Try(each, each) for each in seconds)


def test_each_has_its_turn_between_the_others() -> None:
    clock, order = Clock(), list[str]()
    turns = Turns(100.0, clock=lambda: clock.now_s)
    names = ("a", "b", "c")
    turns.take([clock.trial(name, alone(1.0), order) for name in names])
    assert order == [*"aabbcc", *"abc" * (ENOUGH - 1)]  # each is done once before it counts
    assert {name: len(found.each) for name, found in turns.known.items()} == dict.fromkeys(
        names, ENOUGH
    )


def test_the_best_try_counts_and_unlike_ones_are_repeated() -> None:
    clock = Clock()
    turns = Turns(1000.0, clock=lambda: clock.now_s)
    falling = alone(*(9.0 - 0.6 * number for number in range(MOST)))
    turns.take([clock.trial("falling", falling)])
    found = turns.known["falling"]
    assert len(found.each) == MOST and found.wall_s == pytest.approx(9.0 - 0.6 * (MOST - 1))


def test_a_disturbance_spoils_no_way_alone() -> None:
    """Other work for ten of thirty seconds: each way has tries before and after it."""
    clock = Clock()
    turns = Turns(60.0, clock=lambda: clock.now_s)

    def trial(name: str, seconds: float) -> Trial:
        def once() -> Try:
            longer = 4.0 if 5 < clock.now_s < 15 else 1.0
            clock.now_s += seconds * longer
            return Try(seconds * longer)  # of threads that spin: only the clock

        return Trial(name, lambda: once)

    turns.take([trial("slow", 1.1), trial("fast", 1.0)])
    seconds, by_processor = seconds_of(turns.known)
    assert seconds == {"slow": pytest.approx(1.1), "fast": pytest.approx(1.0)}
    assert not by_processor


@pytest.mark.parametrize("ends_s", [0.0, 3.0, 7.0, 20.0])
def test_the_budget_is_over_with_the_try_that_was_begun(ends_s: float) -> None:
    clock, told = Clock(), list[str]()
    turns = Turns(ends_s, lambda name, one: told.append(name), lambda: clock.now_s)
    trials = [clock.trial(str(number), alone(2.0, 3.0)) for number in range(50)]
    turns.take(trials)
    turns.take(trials)
    assert clock.now_s <= ends_s + 3.0
    assert told == [name for name, found in turns.known.items() for _ in found.each]
    assert list(turns.known) == [str(number) for number in range(len(turns.known))]


def test_until_ends_a_part_of_the_budget() -> None:
    clock = Clock()
    turns = Turns(100.0, clock=lambda: clock.now_s)
    turns.take([clock.trial("a", alone(1.0, 2.0, 3.0)), clock.trial("b", alone(50.0))], 4.0)
    assert clock.now_s < 110 and set(turns.known) == {"a", "b"}
    turns.take([clock.trial("late", alone(1.0))], 4.0)
    assert "late" not in turns.known


def test_the_processors_time_counts_where_others_took_the_cores() -> None:
    quiet = Tries((Try(1.05, 1.0), Try(9.0, 1.1)))
    busy = Tries((Try(8.0, 0.8), Try(5.0, 0.9)))
    spinning = Tries((Try(2.0), Try(3.0)))
    assert quiet.was_left_alone and not busy.was_left_alone and spinning.was_left_alone
    assert seconds_of({"quiet": quiet}) == ({"quiet": 1.05}, False)
    # what is compared is measured alike, but for what only the clock can tell
    both = {"quiet": quiet, "busy": busy, "spinning": spinning}
    assert seconds_of(both) == ({"quiet": 1.0, "busy": 0.8, "spinning": 2.0}, True)
    assert busy.waited_share == pytest.approx((0.9 + 0.82) / 2)
    assert spinning.waited_share == 0 and Tries(alone(1.0)).waited_share == 0
    assert quiet.spread(False) == pytest.approx((1.05 + 9.0) / 2 / 1.05 - 1)
    assert quiet.spread(True) == pytest.approx(0.05)

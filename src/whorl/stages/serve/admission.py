"""Who gets in: places of the engine, a bounded queue, and when a refused client should come back.

A request costs tokens: its prompt, and as many of its `max_tokens` as answers have used of late.
What is inside, against the tokens that the engine has lately read and written in a second, says how
long it will take; a request that would wait longer than `max_wait` is refused at once with the
time when there is room. Others are let in before that only where they leave it a place. Engines
begin requests in the order they were sent, max_running at once.
"""

from __future__ import annotations

import bisect
import heapq
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.errors import ApiError

__all__ = ["Admission", "Ticket"]

MEMORY_S = 20.0  # measured speed is forgotten with this time constant
LEAST_BUSY_S = 0.2  # of measurement, before a speed is believed
SMOOTHING = 0.1  # weight of the newest answer in the mean share of max_tokens
LEAST_SHARE = 0.02
KEPT_S = 2.0  # a place is kept so long for one who was told to come back
MOST_LOOKED_AT = 100  # of those who come back later, before one is let in
LEAST_PROMISED = 2  # places to come, of each key however many there are
ENDS_KEPT_S = 0.02
EARLY_S = 1.0  # Retry-After is in whole seconds


class _Speed:
    """Tokens per busy second, the newest counting most."""

    def __init__(self, now_s: float) -> None:
        self._tokens, self._busy_s, self._at_s = 0.0, 0.0, now_s

    def pass_to(self, now_s: float, busy: bool) -> None:
        elapsed_s, self._at_s = now_s - self._at_s, now_s
        if busy:
            kept = math.exp(-elapsed_s / MEMORY_S)
            self._tokens, self._busy_s = self._tokens * kept, self._busy_s * kept + elapsed_s

    def add(self, num_tokens: int) -> None:
        self._tokens += num_tokens

    @property
    def per_s(self) -> float | None:
        if self._busy_s < LEAST_BUSY_S or self._tokens <= 0:
            return None
        return self._tokens / self._busy_s


@dataclass(eq=False)
class Ticket:
    """One request inside, from its admission until the engine gave it back."""

    who: str
    came_s: float
    came_back: bool = False  # as it was told to, by a Retry-After
    prompt_tokens: int = 0
    max_tokens: int = 0
    left: float = 0.0  # predicted tokens that are not done
    num_tokens: int = 0  # generated
    placed_s: float | None = None  # when the engine began it, by the order of places


@dataclass(frozen=True, order=True)
class _Promise:
    due_s: float
    who: str
    places: int


@dataclass
class Admission:
    """At most max_running + max_waiting inside, and none that would wait over max_wait.

    Those who come back when they were told to are let in beyond that, up to half of max_waiting.
    """

    config: ServeConfig
    on_placed: Callable[[float], None] = lambda waited_s: None
    clock: Callable[[], float] = time.monotonic
    share: float = 1.0  # of max_tokens that answers use
    _mean_tokens: float = 0.0  # of requests that ended, prompt and answer
    _last_place_s: float = 0.0  # when the last one who was told to come back finds his place
    _inside: dict[Ticket, None] = field(default_factory=dict)
    _placed: int = 0
    _left: float = 0.0
    _promises: list[_Promise] = field(default_factory=list)  # a heap: those to come
    _due: list[_Promise] = field(default_factory=list)  # whose time has come, and is not over

    def __post_init__(self) -> None:
        self._ends: tuple[float, list[float]] | None = None  # when found, see _ends_s
        self.max_running = self.config.max_running  # fewer or more where the model's promise is
        self._speed = _Speed(self.clock())

    # ---------------------------------------------------------------- what is inside

    @property
    def inside(self) -> int:
        return len(self._inside)

    @property
    def places(self) -> int:
        """Of those that run, and those that wait."""
        return self.max_running + self.config.max_waiting

    @property
    def waiting(self) -> int:
        return len(self._inside) - self._placed

    @property
    def left_tokens(self) -> float:
        return self._left

    @property
    def held_tokens(self) -> int:
        """Prompts and answers so far of those that run: their keys and values fill the cache."""
        running = (ticket for ticket in self._inside if ticket.placed_s is not None)
        return sum(ticket.prompt_tokens + ticket.num_tokens for ticket in running)

    @property
    def tokens_per_s(self) -> float | None:
        """Read and written per second of work, of late; None: not known yet."""
        self._speed.pass_to(self.clock(), bool(self._inside))
        return self._speed.per_s

    # ---------------------------------------------------------------- one request

    def enter(self, who: str, answers: int = 1) -> list[Ticket]:
        """Before anything is done for it: a ticket of each answer that is asked for.

        Raises ApiError 429 when there are not so many places.
        """
        now_s = self.clock()
        own = self._checked(who, answers, now_s)
        if own is not None:
            self._due.remove(own)
        self._speed.pass_to(now_s, bool(self._inside))
        tickets = [Ticket(who, now_s, came_back=own is not None) for _ in range(answers)]
        self._inside |= dict.fromkeys(tickets)
        self._ends = None
        return tickets

    def check_room(self, who: str) -> None:
        """Before anything is read of it: raises ApiError 429 where `enter` would."""
        self._checked(who, 1, self.clock())

    def _checked(self, who: str, answers: int, now_s: float) -> _Promise | None:
        """The promise by which it comes in, if there is one. Raises as `enter`."""
        self._look_at_promises(now_s)
        own = next((each for each in self._due if each.who == who), None)
        # who comes back as told may stand where the queue ends: times are in whole seconds
        room = self.places - self.inside
        room += 0 if own is None else max(1, self.config.max_waiting // 2)
        if answers > room or not (own is not None or self._leaves_room(answers)):
            told = f"{self.places} requests run or wait"
            raise self._refused(who, answers, 0.0, "server_full", told)
        return own

    def price(
        self, tickets: Sequence[Ticket], sizes: Sequence[tuple[int, int]], deadline_s: float
    ) -> None:
        """What each will take, now that prompts are tokens: (prompt tokens, max_tokens).

        Raises ApiError 429 where they would wait over max_wait, or longer than deadline_s: then
        they have left.
        """
        speed = self.tokens_per_s if self._placed >= self.max_running else None
        wait_s = 0.0 if speed is None else self._left / speed
        costs = [prompt + most * self.share for prompt, most in sizes]
        most_s = min(self.config.max_wait, deadline_s)
        if wait_s > (deadline_s if tickets[0].came_back else most_s):
            for ticket in tickets:
                self.leave(ticket, finished=False)
            told = f"a new request would wait {wait_s:.0f} s"
            raise self._refused(tickets[0].who, len(tickets), sum(costs), "queue_too_long", told)
        for ticket, cost, (prompt_tokens, max_tokens) in zip(tickets, costs, sizes, strict=True):
            ticket.prompt_tokens, ticket.max_tokens, ticket.left = prompt_tokens, max_tokens, cost
            self._left += cost
        self._ends = None
        self._place_next()

    def progress(self, ticket: Ticket, num_tokens: int) -> None:
        """The engine generated so many; the first ones also say that the prompt was read."""
        now_s = self.clock()
        self._speed.pass_to(now_s, True)
        if ticket.num_tokens == 0 and num_tokens:
            self._done(ticket, ticket.prompt_tokens)
        ticket.num_tokens += num_tokens
        self._done(ticket, num_tokens)

    def leave(self, ticket: Ticket, finished: bool = True) -> None:
        """It was given back, or never given. Harmless when repeated."""
        if ticket not in self._inside:
            return
        self._speed.pass_to(self.clock(), True)
        del self._inside[ticket]
        self._ends = None
        self._left = max(0.0, self._left - ticket.left) if self._inside else 0.0
        if ticket.placed_s is not None:
            self._placed -= 1
        if finished and ticket.max_tokens:
            used = ticket.num_tokens / ticket.max_tokens
            self.share += SMOOTHING * (max(LEAST_SHARE, min(1.0, used)) - self.share)
            num_tokens = ticket.prompt_tokens + ticket.num_tokens
            self._mean_tokens += SMOOTHING * (num_tokens - self._mean_tokens)
        self._place_next()

    def _done(self, ticket: Ticket, num_tokens: int) -> None:
        self._speed.add(num_tokens)
        done = min(ticket.left, float(num_tokens))
        ticket.left -= done
        self._left = max(0.0, self._left - done)

    def _place_next(self) -> None:
        if self._placed >= self.max_running or self._placed == len(self._inside):
            return
        now_s = self.clock()
        for ticket in self._inside:
            if ticket.placed_s is None and ticket.max_tokens:
                ticket.placed_s = now_s
                self._placed += 1
                self.on_placed(now_s - ticket.came_s)
                if self._placed >= self.max_running:
                    return

    # ---------------------------------------------------------------- coming back

    def _refused(self, who: str, answers: int, cost: float, code: str, told: str) -> ApiError:
        wait_s = self._free_in_s(answers, cost)
        most_s = self.config.max_time  # by then all who are inside have left
        after_s = max(1, math.ceil(min(wait_s, most_s)))
        if wait_s <= most_s and self._may_be_promised(who):
            now_s = self.clock()
            self._last_place_s = now_s + wait_s
            heapq.heappush(self._promises, _Promise(now_s + after_s, who, answers))
        return ApiError(
            429,
            f"the server is full: {told}; try again in {after_s} s",
            code=code,
            headers={"Retry-After": str(after_s)},
        )

    def _may_be_promised(self, who: str) -> bool:
        """Whoever asks again and again gets no more places to come than others."""
        promised = [*self._due, *self._promises]
        share = self.places // len({who, *(each.who for each in promised)})
        own = sum(each.places for each in promised if each.who == who)
        return own < max(LEAST_PROMISED, share)

    def _look_at_promises(self, now_s: float) -> None:
        while self._promises and self._promises[0].due_s - EARLY_S <= now_s:
            self._due.append(heapq.heappop(self._promises))
        self._due = [each for each in self._due if each.due_s + KEPT_S > now_s]

    def _leaves_room(self, answers: int) -> bool:
        """Whether all who were told to come back will find a place if these come in before them.

        As long as the engine has places that nobody uses, whoever is there gets one.
        """
        promises = [*self._due, *heapq.nsmallest(MOST_LOOKED_AT, self._promises)]
        if not promises or self.inside + answers <= self.max_running:
            return True
        if (speed := self.tokens_per_s) is None:
            return True
        ends, now_s = self._ends_s(speed), self.clock()
        last_s = ends[-1] if ends else 0.0
        room = self.places - self.inside - answers
        number = 0
        for promise in promises:
            number += promise.places
            after_s = promise.due_s - now_s
            if number > room + bisect.bisect_right(ends, after_s) and after_s <= last_s:
                return False
        return True

    def _free_in_s(self, answers: int, cost: float) -> float:
        """When there is room for so many more, after all those who were told to come back."""
        speed, now_s = self.tokens_per_s, self.clock()
        promised = sum(each.places for each in (*self._promises, *self._due))
        missing = max(1, answers - (self.places - self.inside))
        number = promised + missing
        if speed is None:  # nothing was measured yet: they are spread, by a guess
            return 1.0 + (number - 1) / self.max_running
        ends = self._ends_s(speed)
        place_s = ends[min(number, len(ends)) - 1] if ends else 0.0
        if promised:  # those who come back follow each other as those who leave do
            after_s = missing * self._mean_tokens / speed
            place_s = max(place_s, self._last_place_s - now_s + after_s)
        return max(place_s, (self._left + cost) / speed - self.config.max_wait)

    def _ends_s(self, speed: float) -> list[float]:
        """When each request inside will have ended, soonest first.

        Those that are placed share the speed; one that leaves gives its place to the next. What was
        found stays for a moment: a server that is overrun says no more often than that.
        """
        now_s = self.clock()
        if self._ends is None or now_s >= self._ends[0] + ENDS_KEPT_S:
            self._ends = now_s, self._found_ends_s(speed)
        return self._ends[1]

    def _found_ends_s(self, speed: float) -> list[float]:
        queue = iter([ticket.left for ticket in self._inside])
        running = [left for _, left in zip(range(self.max_running), queue, strict=False)]
        heapq.heapify(running)
        now_s, done, ends = 0.0, 0.0, []  # done: tokens that each of those running has got
        while running:
            least = heapq.heappop(running)
            now_s += (least - done) * (len(running) + 1) / speed
            done = least
            ends.append(now_s)
            if (left := next(queue, None)) is not None:
                heapq.heappush(running, done + left)
        return ends

"""Several engines of one model as one: what begins alike goes to the one that has read it.

Who shares a beginning, and which of them, is found by the digests of its blocks; where that engine
has much more to do than the least busy one, the latter takes the request. One that dies takes its
answers begun with it; what had not begun is answered by another.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import EngineError
from whorl.core.ports import Engine, EngineStats, GenerateRequest, TokenEvent
from whorl.core.scoring import Continuations, Scores, score_together

__all__ = ["Replicas"]

BLOCK_TOKENS, MAX_BLOCKS = 32, 64  # of a prompt that are looked at
MAX_KNOWN = 100_000  # blocks that are remembered, the newest
MOST_AHEAD = 4  # requests that an engine may have more than another before its beginnings move
OnEvent = Callable[[TokenEvent], None]


class Replicas:
    """core.ports.Engine over engines of the same model."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        first = self._engines[0]
        self.name, self.contract_digest = first.name, first.contract_digest
        self.unable: frozenset[str] = frozenset().union(*(each.unable for each in engines))
        self.reads_singles_once = all(getattr(one, "reads_singles_once", False) for one in engines)
        self._lock = threading.Lock()
        self._inside: dict[str, int] = {}  # request_id -> engine
        self._cancelled: set[str] = set()
        self._known: OrderedDict[bytes, int] = OrderedDict()  # digest of blocks -> engine

    # -------------------------------------------------------------- the port

    def submit(self, request: GenerateRequest, on_event: OnEvent) -> None:
        """Raises EngineError if no engine takes it."""
        self._submit(request, on_event, frozenset())

    def cancel(self, request_id: str) -> None:
        with self._lock:
            number = self._inside.get(request_id)
            if number is None:
                return
            self._cancelled.add(request_id)
        self._engines[number].cancel(request_id)

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        with self._lock:
            number = self._least_busy(frozenset())
        return self._engines[number].score(sequences, prefix)

    def score_together(self, questions: Sequence[Continuations]) -> list[Scores]:
        """See core.scoring: shared out among those that are up."""
        with self._lock:
            self._least_busy(frozenset())  # raises if none is up
            up = [engine for engine in self._engines if _is_up(engine)]
        shares = [questions[number :: len(up)] for number in range(len(up))]
        with ThreadPoolExecutor(len(up)) as pool:
            parts = list(pool.map(score_together, up, shares))
        return [parts[place % len(up)][place // len(up)] for place in range(len(questions))]

    def stats(self) -> EngineStats:
        found = [engine.stats() for engine in self._engines]
        ages = [each.last_token_age_s for each in found if each.last_token_age_s is not None]
        return EngineStats(
            sum(each.running for each in found),
            sum(each.waiting for each in found),
            sum(each.generated_tokens for each in found),
            max(ages, default=None),
        )

    @property
    def failure(self) -> str | None:
        """Why none of them takes a request any more; None: one does, or will."""
        found = [getattr(engine, "failure", None) for engine in self._engines]
        return None if None in found else found[0]

    def limit_running(self, max_running: int) -> None:
        """Of all together."""
        for engine in self._engines:
            if hasattr(engine, "limit_running"):
                engine.limit_running(-(-max_running // len(self._engines)))

    def close(self) -> None:
        with ThreadPoolExecutor(len(self._engines)) as pool:
            list(pool.map(lambda engine: engine.close(), self._engines))

    # -------------------------------------------------------------- which one

    def _submit(self, request: GenerateRequest, on_event: OnEvent, tried: frozenset[int]) -> None:
        """tried: engines that failed it already."""
        request_id, has_begun = request.request_id, False

        def listen(event: TokenEvent) -> None:
            nonlocal has_begun
            has_begun |= bool(event.token_ids)
            if event.finish_reason is not None:
                with self._lock:
                    self._inside.pop(request_id, None)
                    was_cancelled = request_id in self._cancelled
                    self._cancelled.discard(request_id)
                is_lost = event.finish_reason == "error" and not _is_up(self._engines[number])
                if is_lost and was_cancelled:
                    event = TokenEvent(request_id, (), "cancelled")
                elif is_lost and not has_begun:
                    try:
                        return self._submit(request, on_event, tried | {number})
                    except EngineError:  # none is left: told as it came
                        pass
            on_event(event)

        while True:
            with self._lock:
                number = self._choose(request, tried)
                self._inside[request_id] = number
            try:
                return self._engines[number].submit(request, listen)
            except EngineError:
                with self._lock:
                    self._inside.pop(request_id, None)
                if _is_up(self._engines[number]):
                    raise  # of the request, whoever answers it
                tried |= {number}

    def _choose(self, request: GenerateRequest, tried: frozenset[int]) -> int:
        """Called with the lock held."""
        blocks = list(_blocks(request))
        least = self._least_busy(tried)
        busy = list(self._inside.values())
        number = least
        for digest in reversed(blocks):  # the longest beginning that is known
            known = self._known.get(digest)
            if known is not None and known not in tried and _is_up(self._engines[known]):
                if busy.count(known) <= busy.count(least) + MOST_AHEAD:
                    number = known
                break
        for digest in blocks:
            self._known[digest] = number
            self._known.move_to_end(digest)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return number

    def _least_busy(self, tried: frozenset[int]) -> int:
        """Raises EngineError if none is up that was not tried."""
        up = [
            number
            for number, engine in enumerate(self._engines)
            if number not in tried and _is_up(engine)
        ]
        if not up:
            raise EngineError("no engine takes requests now", do="try again soon")
        busy = list(self._inside.values())
        return min(up, key=busy.count)


def _is_up(engine: Engine) -> bool:
    return bool(getattr(engine, "is_up", True))


def _blocks(request: GenerateRequest) -> Iterator[bytes]:
    """Digests of longer and longer beginnings, of the request's cache_key alone."""
    digest = blake2b(request.cache_key.encode(), digest_size=16)
    ids = request.prompt_ids[: BLOCK_TOKENS * MAX_BLOCKS]
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        digest.update(np.asarray(ids[start : start + BLOCK_TOKENS], np.int64).tobytes())
        yield digest.digest()

"""vLLM as an engine: ids in and out of its completions route, one stream for every request.

What it is asked and what it tells is as its documentation of `/v1/completions` says:
`return_token_ids`, `return_tokens_as_token_ids`, `prompt_logprobs`, `cache_salt`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from whorl.codecs.contract import TEXT, Tokens
from whorl.core.errors import EngineError
from whorl.core.ports import EngineStats, GenerateRequest, TokenEvent, TokenLogprob
from whorl.core.scoring import Continuations, Scores
from whorl.engines.grammar import MODULE, Grammars
from whorl.engines.limits import Limits
from whorl.engines.setup import EngineSetup
from whorl.engines.vllm_scores import VllmScores
from whorl.engines.vllm_server import BAD_REQUESTS, RefusedError, VllmServer
from whorl.engines.vllm_words import ENDS, body_of, logprobs_of, messages_of
from whorl.model.folder import TOKENS, FolderCard

__all__ = ["VllmEngine", "open_vllm"]

LOG = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 10.0
OnEvent = Callable[[TokenEvent], None]


def open_vllm(folder: Path, card: FolderCard, setup: EngineSetup) -> VllmEngine:
    """An engine over a verified Hugging Face folder. Raises EngineError if vLLM does not take it,
    MissingExtra if there is none."""
    tokens = Tokens.load(folder / TOKENS)
    limits = Limits(setup.max_running, card.shape.max_seq_len, card.shape.vocab_size)
    unable = frozenset[str]() if TEXT in tokens.codecs else frozenset({"grammar"})
    check = Grammars(tokens).check if find_spec(MODULE) else None  # else vLLM says it, later
    return VllmEngine(VllmServer(folder, card, setup), card.contract_digest, limits, unable, check)


@dataclass
class _Place:
    request: GenerateRequest
    on_event: OnEvent
    task: asyncio.Task[None] | None = None
    is_cancelled: bool = False
    is_running: bool = False
    is_over: bool = False  # it was told how it ended


class VllmEngine:
    """core.ports.Engine over a VllmServer. Events come on its one thread."""

    def __init__(
        self,
        server: VllmServer,
        contract_digest: str,
        limits: Limits,
        unable: frozenset[str] = frozenset(),
        check: Callable[[GenerateRequest], object] | None = None,
    ) -> None:
        """check: raises EngineError on a request that is none, in the thread that submits it."""
        self.name, self.contract_digest, self.limits = "vllm", contract_digest, limits
        self.unable, self._check = unable, check
        self._server = server
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._closing = False
        self._generated_tokens, self._last_token_at = 0, time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._room = asyncio.Condition()
        self._busy = 0  # answers and scores under way
        self._scores = VllmScores(self._choice)
        self._thread = threading.Thread(target=self._loop.run_forever, name="whorl-vllm")
        self._thread.daemon = True
        self._thread.start()

    # -------------------------------------------------------------- the port

    def submit(self, request: GenerateRequest, on_event: OnEvent) -> None:
        """Raises EngineError when it cannot be answered, or vLLM is gone."""
        self.limits.check(request, self.name, self.unable)
        if self._check is not None:
            self._check(request)
        place = _Place(request, on_event)
        with self._lock:
            self._check_alive()
            if request.request_id in self._places:
                raise EngineError(f"request {request.request_id} is running already")
            if not self._places:
                self._last_token_at = time.monotonic()
            self._places[request.request_id] = place
        self._loop.call_soon_threadsafe(self._begin, place)

    def cancel(self, request_id: str) -> None:
        """Unknown or finished requests are ignored."""
        with self._lock:
            place = self._places.get(request_id)
        if place is not None:
            self._loop.call_soon_threadsafe(self._cancel, place)

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> Scores:
        """See Engine.score; beside the answers that run. Raises EngineError."""
        return self.score_together([Continuations(prefix, sequences)])[0]

    def score_together(self, questions: Sequence[Continuations]) -> list[Scores]:
        """See core.scoring. Raises EngineError."""
        if threading.current_thread() is self._thread:
            raise EngineError("score was called from an event: it would wait for itself")
        checked = [self.limits.check_scored(each) for each in questions]
        with self._lock:
            self._check_alive()
        asked = [
            self._scores.find(
                [tuple(ids) for ids in each.sequences],
                tuple(each.prefix),
                self._scores.salt_of(given.prefix),
            )
            for given, each in zip(questions, checked, strict=True)
        ]
        future: Future[list[Scores]] = asyncio.run_coroutine_threadsafe(_all(asked), self._loop)
        return future.result()

    def stats(self) -> EngineStats:
        with self._lock:
            running = sum(place.is_running for place in self._places.values())
            age_s = time.monotonic() - self._last_token_at if running else None
            return EngineStats(running, len(self._places) - running, self._generated_tokens, age_s)

    def close(self) -> None:
        """End every request with "cancelled", then vLLM; harmless when repeated."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            places = list(self._places.values())
        for place in places:
            self._loop.call_soon_threadsafe(self._cancel, place)
        try:
            asyncio.run_coroutine_threadsafe(self._emptied(), self._loop).result(CLOSE_TIMEOUT_S)
        except TimeoutError:
            LOG.warning("requests of vLLM had not ended when it was closed")
        finally:
            self._server.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_TIMEOUT_S)
            self._loop.close()

    @property
    def failure(self) -> str | None:
        """Why it takes no request any more, and never will; None: it does, or was closed."""
        return self._server.failure

    def limit_running(self, max_running: int) -> None:
        """From now on at most so many run together; those that run already go on."""
        self.limits = replace(self.limits, max_running=max_running)

    def _check_alive(self) -> None:
        """Raises EngineError. Called with the lock held."""
        if self._closing:
            raise EngineError("the engine is closed", do="open it again")
        if (failure := self.failure) is not None:
            raise EngineError("the engine stopped", found=failure, do="open it again")

    # -------------------------------------------------------------- on its thread

    def _begin(self, place: _Place) -> None:
        place.task = self._loop.create_task(self._answer(place))
        place.task.add_done_callback(functools.partial(self._ended, place))
        if place.is_cancelled:
            place.task.cancel()

    def _cancel(self, place: _Place) -> None:
        place.is_cancelled = True
        if place.task is not None:
            place.task.cancel()

    def _ended(self, place: _Place, task: asyncio.Task[None]) -> None:
        """However it ended, it is told, once."""
        error = None if task.cancelled() else task.exception()
        if not place.is_over:
            told = self.failure or (None if error is None else str(error) or repr(error))
            finish: Any = "cancelled" if told is None else "error"
            self._tell(place, TokenEvent(place.request.request_id, (), finish, told))

    async def _emptied(self) -> None:
        while tasks := [place.task for place in self._places.values() if place.task is not None]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # for their callbacks

    def _tell(self, place: _Place, event: TokenEvent) -> None:
        """A listener that raises loses its request, the others go on."""
        with self._lock:
            self._generated_tokens += len(event.token_ids)
            self._last_token_at = time.monotonic()
            if event.finish_reason is not None:
                place.is_over = True
                self._places.pop(event.request_id, None)
        try:
            place.on_event(event)
        except Exception:
            LOG.exception("the listener of request %s failed", event.request_id)
            with self._lock:
                place.is_over = True
                self._places.pop(event.request_id, None)
            self._cancel(place)

    async def _answer(self, place: _Place) -> None:
        async with self._place():
            place.is_running = True
            async for event in self._events(place.request):
                if not place.is_over:
                    self._tell(place, event)
            if not place.is_over:
                raise EngineError("vLLM ended an answer without saying why")

    async def _events(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        try:
            async for event in self._told(request):
                yield event
        except RefusedError as error:
            if request.grammar is None or error.status not in BAD_REQUESTS:
                raise
            what = f"this {request.grammar.kind} cannot be used"
            raise EngineError(what, found=error.found) from error

    async def _told(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        async for chunk in messages_of(self._server.ask(body_of(request))):
            if "error" in chunk:
                told = chunk["error"]
                raise RefusedError("vLLM failed", told.get("message"), told.get("code"))
            for choice in chunk.get("choices", ()):
                ids = tuple(choice.get("token_ids") or ())
                finish = ENDS.get(choice.get("finish_reason"))
                logprobs: tuple[TokenLogprob, ...] = ()
                if request.logprobs is not None and ids:
                    logprobs = logprobs_of(ids, choice["logprobs"], request.logprobs)
                if ids or finish is not None:
                    yield TokenEvent(request.request_id, ids, finish, logprobs=logprobs)

    # -------------------------------------------------------------- places

    async def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        async with self._place():
            parts = [part async for part in self._server.ask(body)]
        (choice,) = json.loads(b"".join(parts))["choices"]
        found: dict[str, Any] = choice
        return found

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the engine's places, waited for."""
        async with self._room:
            try:
                await self._room.wait_for(lambda: self._busy < self.limits.max_running)
            except BaseException:
                self._room.notify()  # it may have been its turn
                raise
            self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            async with self._room:
                self._room.notify(max(0, self.limits.max_running - self._busy))


async def _all(asked: Sequence[Awaitable[Scores]]) -> list[Scores]:
    return list(await asyncio.gather(*asked))

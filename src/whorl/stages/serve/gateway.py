"""Between HTTP and the engine: admission, what is submitted, progress, and cancelling.

Everything here runs on the event loop; only the engine's events come from its thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import secrets
import time
import uuid
from collections.abc import Callable

from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.ask import Ask, Chat
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.generation import Generation, Run
from whorl.stages.serve.prompts import PromptReader
from whorl.stages.serve.stops import StopFinder

__all__ = ["Gateway"]

MAX_RETRY_AFTER_S = 60
SMOOTHING = 0.2  # weight of the newest request in the mean duration


class Gateway:
    """At most max_running + max_waiting answers are inside; more are refused at once."""

    def __init__(
        self,
        engine: Engine,
        tokens: Tokens,
        card: ModelCard,
        config: ServeConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.tokens, self.card, self.config = engine, tokens, card, config
        self.clock = clock
        self.prompts = PromptReader(tokens, card.context_tokens)
        self.stopping = False
        self._inside = 0  # admitted, and not yet given back by the engine
        self._submitted: dict[str, float] = {}  # request id -> when
        self._last_progress_s = clock()
        self._mean_request_s = 1.0
        self._stop_ids = tuple(sorted(set(tokens.contract.stop_ids)))

    @property
    def has_text(self) -> bool:
        """Whether the model reads text."""
        return self.prompts.has_text

    # ---------------------------------------------------------------- health

    @property
    def inside(self) -> int:
        """Answers admitted that the engine has not given back."""
        return self._inside

    @property
    def stall_s(self) -> float | None:
        """Seconds since the engine last did anything while requests are inside it; else None."""
        if not self._submitted:
            return None
        return self.clock() - self._last_progress_s

    @property
    def is_stalled(self) -> bool:
        stall_s = self.stall_s
        return stall_s is not None and stall_s > self.config.stall_s

    def refuse(self) -> None:
        """Take no new requests."""
        self.stopping = True

    def stop(self) -> None:
        """Take no new requests and end the running ones."""
        self.stopping = True
        for request_id in list(self._submitted):
            self.engine.cancel(request_id)

    # ---------------------------------------------------------------- one request

    async def start(self, ask: Ask, caller: str = "") -> Generation:
        """Check, admit, encode and submit. Raises ApiError: 400, 404, 429 or 503.

        caller: whose request it is; prefixes are shared only between requests of one caller.
        """
        self._check(ask)
        answers = len(ask.prompts) * ask.n
        self._admit(answers)
        unsubmitted = answers
        try:
            request_id = uuid.uuid4().hex
            requests = await self._requests(ask, request_id, caller)
            queue: asyncio.Queue[TokenEvent] = asyncio.Queue()
            runs: list[Run] = []
            try:
                for prompt, request in requests:
                    continues = not isinstance(prompt, Chat) or prompt.goes_on
                    decoder = self.tokens.decode_stream(continues=continues)
                    stops = StopFinder((*ask.stops, *self.tokens.contract.stop_strings))
                    self._submit(request, queue)
                    unsubmitted -= 1
                    runs.append(Run(self.engine, request, stops, decoder))
            except BaseException:
                for run in runs:
                    run.close()
                raise
        except BaseException:
            self._inside -= unsubmitted
            raise
        return Generation(
            *(runs, queue, self.config.stall_s, lambda: self.is_stalled),
            request_id=request_id,
            model=self.card.name,
            num_prompts=len(ask.prompts),
        )

    async def _requests(
        self, ask: Ask, request_id: str, caller: str
    ) -> list[tuple[object, GenerateRequest]]:
        """(prompt, request) of every answer, in order."""
        found: list[tuple[object, GenerateRequest]] = []
        for prompt in ask.prompts:
            prompt_ids = await self.prompts.encode(prompt, ask.subject)
            seed = secrets.randbits(31) if ask.seed is None else ask.seed
            first = GenerateRequest(
                request_id=f"{request_id}-{len(found)}",
                prompt_ids=prompt_ids,
                max_tokens=self.prompts.answer_room(len(prompt_ids), ask, self.config.max_tokens),
                temperature=ask.temperature,
                top_p=ask.top_p,
                seed=seed,
                stop_ids=() if ask.ignores_stop_ids else self._stop_ids,
                allowed_ids=self.prompts.allowed_ids(ask),
                top_k=ask.top_k,
                min_p=ask.min_p,
                presence_penalty=ask.presence_penalty,
                frequency_penalty=ask.frequency_penalty,
                repetition_penalty=ask.repetition_penalty,
                logit_bias=self.prompts.logit_bias(ask),
                logprobs=ask.logprobs,
                grammar=ask.grammar,
                cache_key=caller,
            )
            self._check_able(first, ask)
            found += [
                (
                    prompt,
                    dataclasses.replace(
                        first,
                        request_id=f"{request_id}-{len(found) + number}",
                        seed=(seed + number) % 2**63,
                    ),
                )
                for number in range(ask.n)
            ]
        return found

    def check_model(self, name: str) -> None:
        """Raises ApiError 404 if it is not the model that is served."""
        if name != self.card.name:
            raise ApiError(
                404,
                f"there is no model {name[:80]!r} here; this server has {self.card.name!r}",
                code="model_not_found",
                param="model",
            )

    def _check(self, ask: Ask) -> None:
        self.check_model(ask.model)
        if ask.max_tokens is not None and ask.max_tokens > self.config.max_tokens:
            raise invalid(
                f"{ask.limit_name}: {str(ask.max_tokens)[:40]} is over this server's limit of "
                f"{self.config.max_tokens}",
                ask.limit_name,
            )
        answers, most = len(ask.prompts) * ask.n, self.config.max_running + self.config.max_waiting
        if answers > most:
            field = "n" if ask.n > 1 else ask.subject
            raise invalid(
                f"{field}: {answers} answers in one request are over this server's limit of {most}",
                field,
            )
        if self.stopping:
            raise ApiError(503, "the server is stopping", code="stopping")

    def _check_able(self, request: GenerateRequest, ask: Ask) -> None:
        """Raises ApiError 400 if the engine does not honour a field that was asked for."""
        unable = set(self.engine.unable)
        if (request.logprobs or 0) > 1 and "logprobs>1" in unable:
            unable.add("logprobs")
        for info in dataclasses.fields(GenerateRequest):
            is_asked = info.name in ask.names and getattr(request, info.name) != info.default
            if info.name in unable and is_asked:
                name = ask.names[info.name]
                most = ", more than 1" if "logprobs" not in self.engine.unable else ""
                told = most if info.name == "logprobs" else ""
                raise invalid(
                    f"{name}{told}: the engine {self.engine.name} cannot do that; leave it out, or "
                    "serve the model by another engine",
                    name,
                    "unsupported_by_engine",
                )

    def _admit(self, answers: int) -> None:
        limit = self.config.max_running + self.config.max_waiting
        if self._inside + answers > limit:
            raise ApiError(
                429,
                f"the server is full: {limit} requests are running or waiting; try again later",
                code="server_full",
                headers={"Retry-After": str(self._retry_after_s())},
            )
        self._inside += answers

    def _retry_after_s(self) -> int:
        """When a place should be free: the mean time of a request, shared by those running."""
        waiting_s = self._mean_request_s / self.config.max_running
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(waiting_s)))

    def _submit(self, request: GenerateRequest, queue: asyncio.Queue[TokenEvent]) -> None:
        loop = asyncio.get_running_loop()

        def on_event(event: TokenEvent) -> None:  # on the engine's thread
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._deliver, event, queue)

        if not self._submitted:
            self._last_progress_s = self.clock()
        self._submitted[request.request_id] = self.clock()
        try:
            self.engine.submit(request, on_event)
        except EngineError as error:
            del self._submitted[request.request_id]
            raise ApiError(503, f"the engine refused: {error}", code="engine_failed") from error

    def _deliver(self, event: TokenEvent, queue: asyncio.Queue[TokenEvent]) -> None:
        self._last_progress_s = self.clock()
        if event.finish_reason is not None:
            started = self._submitted.pop(event.request_id, None)
            if started is not None:
                self._inside -= 1
                self._mean_request_s += SMOOTHING * (self.clock() - started - self._mean_request_s)
        queue.put_nowait(event)

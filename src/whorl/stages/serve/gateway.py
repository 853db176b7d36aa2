"""Between HTTP and the engine: admission, stop strings, progress, and cancelling.

Everything here runs on the event loop; only the engine's events come from its thread.
"""

from __future__ import annotations

import asyncio
import base64
import math
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from whorl.codecs.contract import Tokens
from whorl.codecs.decoding import DecodeStream
from whorl.codecs.parts import token_space
from whorl.core.errors import DataError, EngineError, WhorlError
from whorl.core.ports import Engine, GenerateRequest, Part, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.request import Body, ChatBody, CompletionBody, PartBody
from whorl.stages.serve.stops import StopFinder

__all__ = ["Gateway", "Generation", "Piece"]

MAX_RETRY_AFTER_S = 60
SMOOTHING = 0.2  # weight of the newest request in the mean duration


@dataclass(frozen=True)
class Piece:
    """Some text, how many tokens it took, and on the last one why it ended."""

    text: str
    num_tokens: int
    finish_reason: Literal["stop", "length"] | None = None


class Gateway:
    """At most max_running + max_waiting requests are inside; more are refused at once."""

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
        self.stopping = False
        self._inside = 0  # admitted, and not yet given back by the engine
        self._submitted: dict[str, float] = {}  # request id -> when
        self._last_progress_s = clock()
        self._mean_request_s = 1.0
        self._stop_ids = tuple(sorted(set(tokens.contract.stop_ids)))
        self.has_text = any(entry.name == "text" for entry in tokens.contract.codecs)

    # ---------------------------------------------------------------- health

    @property
    def inside(self) -> int:
        """Requests admitted that the engine has not given back."""
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

    async def start(self, body: Body) -> Generation:
        """Check, admit, encode and submit. Raises ApiError: 400, 404, 429 or 503."""
        self._check(body)
        self._admit()
        try:
            prompt_ids = await self._encode(body)
            room = self.card.context_tokens - len(prompt_ids)
            max_tokens = body.limit[1] or max(1, min(self.config.max_tokens, room))
            self._check_length(body.subject, len(prompt_ids), max_tokens)
            request = GenerateRequest(
                request_id=f"cmpl-{uuid.uuid4().hex}",
                prompt_ids=prompt_ids,
                max_tokens=max_tokens,
                temperature=body.temperature,
                top_p=body.top_p,
                seed=secrets.randbits(31) if body.seed is None else body.seed,
                stop_ids=self._stop_ids,
                allowed_ids=self._allowed(body),
            )
            stops = StopFinder((*body.stops, *self.tokens.contract.stop_strings))
            decoder = self.tokens.decode_stream(continues=not isinstance(body, ChatBody))
            return self._submit(request, stops, decoder)
        except BaseException:
            self._inside -= 1
            raise

    def check_model(self, name: str) -> None:
        """Raises ApiError 404 if it is not the model that is served."""
        if name != self.card.name:
            raise ApiError(
                404,
                f"there is no model {name[:80]!r} here; this server has {self.card.name!r}",
                code="model_not_found",
                param="model",
            )

    def _check(self, body: Body) -> None:
        self.check_model(body.model)
        field, max_tokens = body.limit
        if max_tokens is not None and max_tokens > self.config.max_tokens:
            raise invalid(
                f"{field}: {str(max_tokens)[:40]} is over this server's limit of "
                f"{self.config.max_tokens}",
                field,
            )
        if body.stream_options is not None and not body.stream:
            raise invalid("stream_options: only with stream", "stream_options")
        if self.stopping:
            raise ApiError(503, "the server is stopping", code="stopping")

    def _admit(self) -> None:
        limit = self.config.max_running + self.config.max_waiting
        if self._inside >= limit:
            raise ApiError(
                429,
                f"the server is full: {limit} requests are running or waiting; try again later",
                code="server_full",
                headers={"Retry-After": str(self._retry_after_s())},
            )
        self._inside += 1

    def _retry_after_s(self) -> int:
        """When a place should be free: the mean time of a request, shared by those running."""
        waiting_s = self._mean_request_s / self.config.max_running
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(waiting_s)))

    async def _encode(self, body: Body) -> tuple[int, ...]:
        if isinstance(body, ChatBody):
            encode, now = self.tokens.encode_chat, datetime.now()
            try:
                chat_ids, _ = await asyncio.to_thread(encode, body.chat, True, now)
            except DataError as error:
                raise invalid(f"messages: {error}", "messages") from None
            except WhorlError as error:  # of the template, or of what renders it
                told = f"this server cannot chat: {error}"
                raise ApiError(501, told, code="no_chat", param="messages") from error
            return tuple(chat_ids.tolist())
        assert isinstance(body, CompletionBody)
        prompt = body.question
        if isinstance(prompt, str):
            if not self.has_text:
                raise invalid("prompt: this model takes no text; send parts or ids", "prompt")
            prompt = [PartBody(codec="text", text=prompt)]
        ids = [item for item in prompt if isinstance(item, int)]
        if ids:
            self._check_ids(ids, "prompt")
            return tuple(ids)
        parts = [item for item in prompt if isinstance(item, PartBody)]
        try:
            found = await asyncio.to_thread(
                lambda: self.tokens.encode_parts([self._part(part) for part in parts])
            )
        except DataError as error:
            raise invalid(f"prompt: {error}", "prompt") from None
        return (*self.tokens.contract.start_ids, *found)

    def _part(self, part: PartBody) -> Part:
        """Raises DataError on a codec that the model has not, or data that is not its."""
        if part.data is None:
            return Part(part.codec, part.text)
        codec = self.tokens.codecs.get(part.codec)
        if codec is None:
            names = ", ".join(self.tokens.codecs)
            raise DataError(f"this model has no codec {part.codec}", expected=names)
        try:
            data = base64.b64decode(part.data, validate=True)
        except ValueError as error:
            raise DataError(f"the data of a part ({part.codec}) is not base64") from error
        return Part(part.codec, codec.from_bytes(data))

    def _allowed(self, body: Body) -> tuple[int, ...] | None:
        """The ids that alone may be generated; None: any."""
        if not isinstance(body, CompletionBody):
            return None
        if body.allowed_token_ids is not None and body.answer_codec is not None:
            raise invalid("answer_codec: not beside allowed_token_ids", "answer_codec")
        if body.allowed_token_ids is not None:
            self._check_ids(body.allowed_token_ids, "allowed_token_ids")
            return tuple(dict.fromkeys(body.allowed_token_ids))
        if body.answer_codec is None:
            return None
        ranges = token_space(self.tokens).ranges
        if body.answer_codec not in ranges:
            names = ", ".join(ranges)
            raise invalid(f"answer_codec: this model has the codecs {names}", "answer_codec")
        return tuple(ranges[body.answer_codec])

    def _check_ids(self, ids: list[int], field: str) -> None:
        vocab_size = self.tokens.contract.vocab_size
        if (largest := max(ids)) >= vocab_size:
            raise invalid(f"{field}: id {largest} is not below {vocab_size}", field)

    def _check_length(self, field: str, prompt_tokens: int, max_tokens: int) -> None:
        if prompt_tokens == 0:
            raise invalid(f"{field}: no token of it is left; this model needs at least one", field)
        room = self.card.context_tokens - prompt_tokens
        if max_tokens <= room:
            return
        advice = f"set max_tokens to at most {room}" if room >= 1 else "shorten the prompt"
        raise invalid(
            f"{field}: {prompt_tokens} tokens and max_tokens {max_tokens} are over this model's "
            f"context of {self.card.context_tokens} tokens; {advice}",
            field,
            "context_length_exceeded",
        )

    def _submit(
        self, request: GenerateRequest, stops: StopFinder, decoder: DecodeStream
    ) -> Generation:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[TokenEvent] = asyncio.Queue()

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
        return Generation(self, request, queue, stops, decoder)

    def _deliver(self, event: TokenEvent, queue: asyncio.Queue[TokenEvent]) -> None:
        self._last_progress_s = self.clock()
        if event.finish_reason is not None:
            started = self._submitted.pop(event.request_id, None)
            if started is not None:
                self._inside -= 1
                self._mean_request_s += SMOOTHING * (self.clock() - started - self._mean_request_s)
        queue.put_nowait(event)


class Generation:
    """One submitted request. Its place is free once `pieces` ended or was closed, or by `close`."""

    def __init__(
        self,
        gateway: Gateway,
        request: GenerateRequest,
        queue: asyncio.Queue[TokenEvent],
        stops: StopFinder,
        decoder: DecodeStream,
    ) -> None:
        self.request = request
        self._gateway, self._queue, self._stops, self._decoder = gateway, queue, stops, decoder
        self.created = int(time.time())
        self._ids: list[int] = []  # so far
        self._ends: list[int] = []  # of each id: characters of text up to its end
        self._num_shown = 0  # characters given out
        self._ended = False

    @property
    def kept_ids(self) -> list[int]:
        """The ids so far; of a text cut by a stop string those that end before the cut."""
        if not self._stops.found:
            return list(self._ids)
        ends = zip(self._ids, self._ends, strict=True)
        return [number for number, end in ends if end <= self._num_shown]

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Text as it comes. Raises ApiError 500/503 if the engine fails or stalls."""
        try:
            while not self._ended:
                event = await self._next_event()
                self._ended = event.finish_reason is not None
                piece = self._piece(event)
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what still runs; also where `pieces` was never begun. Harmless when repeated."""
        if not self._ended:
            self._ended = True
            self._gateway.engine.cancel(self.request.request_id)

    async def _next_event(self) -> TokenEvent:
        while True:
            try:
                async with asyncio.timeout(self._gateway.config.stall_s):
                    return await self._queue.get()
            except TimeoutError:
                if self._gateway.is_stalled:
                    raise ApiError(
                        503, "the engine makes no progress", code="engine_stalled"
                    ) from None

    def _piece(self, event: TokenEvent) -> Piece:
        if event.finish_reason == "error":
            raise ApiError(500, f"the engine failed: {event.error}", code="engine_failed")
        if event.finish_reason == "cancelled":
            raise ApiError(503, "the request was cancelled by the server", code="cancelled")
        text, before = "", self._ends[-1] if self._ends else 0
        for number in event.token_ids:
            text += self._decoder.push((number,))
            self._ids.append(number)
            self._ends.append(before + len(text))
        if event.finish_reason is not None:
            text += self._decoder.finish()
        text = self._stops.push(text)
        self._num_shown += len(text)
        num_tokens = len(event.token_ids)
        if self._stops.found:
            return Piece(text, num_tokens, "stop")
        if event.finish_reason is None:
            return Piece(text, num_tokens)
        return Piece(text + self._stops.finish(), num_tokens, event.finish_reason)

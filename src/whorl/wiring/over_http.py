"""An engine asked as clients ask a server: over HTTP, all at once, in streams."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, BrokenBarrierError
from typing import Any

from whorl.codecs.contract import Tokens
from whorl.core.collect import Answer
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.card import ModelCard

__all__ = ["Ask", "asked_over_http"]

Ask = Callable[[Sequence[Sequence[int]], int], list[Answer]]  # (prompts, tokens of an answer)
START_S = 20.0


class _Heard:
    """The engine, and when the first token of each of its requests was there.

    The server's clients see text, which a token may not have yet: half a character waits.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.firsts: dict[str, float] = {}  # time.monotonic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
        def heard(event: TokenEvent) -> None:
            if event.token_ids:  # before its client may know of it
                self.firsts.setdefault(event.request_id, time.monotonic())
            on_event(event)

        self._engine.submit(request, heard)


@contextmanager
def asked_over_http(
    engine: Engine, tokens: Tokens, card: ModelCard, config: ServeConfig, users: int
) -> Iterator[Ask]:
    """A server of this engine for nobody else, on a port of its own, until the context ends.

    Its `Ask` sends all prompts at the same moment and raises EngineError if one is not answered.
    """
    from whorl.stages.serve.app import create_app
    from whorl.stages.serve.exercise import request_completion
    from whorl.stages.serve.server import running_server

    changes = {"host": "127.0.0.1", "port": 0, "max_running": users, "grace_s": 0.0}
    own, key = config.model_copy(update=changes), secrets.token_urlsafe(32)
    heard = _Heard(engine)
    app = create_app(heard, tokens, card, own, key)

    def ask(prompts: Sequence[Sequence[int]], most: int) -> list[Answer]:
        ready = Barrier(len(prompts) + 1)

        def one(prompt: Sequence[int]) -> tuple[int, float]:
            try:
                ready.wait(START_S)
            except BrokenBarrierError:
                raise EngineError("the server was not asked in time") from None
            fields = {"model": card.name, "max_tokens": most, "temperature": 0, "ignore_eos": True}
            answer = request_completion(url, key, prompt, **fields)
            return answer.num_tokens, answer.ended_s

        heard.firsts.clear()
        with ThreadPoolExecutor(len(prompts)) as pool:
            asked = [pool.submit(one, prompt) for prompt in prompts]
            ready.wait(START_S)
            begin_s = time.monotonic()
            ends = sorted((each.result() for each in asked), key=lambda found: found[1])
        firsts = sorted(heard.firsts.values())
        if len(firsts) < len(ends):
            raise EngineError("the engine gave no tokens", do="try another engine or variant")
        return [
            Answer([0] * num_tokens, "length", first_s - begin_s, end_s - begin_s)
            for first_s, (num_tokens, end_s) in zip(firsts, ends, strict=True)
        ]

    with running_server(app, own) as url:
        yield ask

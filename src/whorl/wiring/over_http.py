"""An engine asked as clients ask a server: over HTTP, all at once, in streams."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from whorl.codecs.contract import Tokens
from whorl.core.children import start_child
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.card import ModelCard
from whorl.wiring.clients import TIMEOUT_S, Heard

__all__ = ["AnswerTimes", "Ask", "asked_over_http"]


class AnswerTimes(NamedTuple):
    """One answer. Seconds since all were asked."""

    num_tokens: int
    token_s: float  # the server had a first token, of this or another answer
    first_s: float  # the client had the first event; of what is whole at its end: as `token_s`
    end_s: float


Ask = Callable[[Sequence[Sequence[int]], int], list[AnswerTimes]]  # (prompts, tokens of an answer)


class _Watched:
    """The engine, and when the first token of each of its requests was there.

    Clients see text, which a token may not have yet: half a character waits, a sound is whole.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.firsts: dict[str, float] = {}  # time.monotonic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
        def watched(event: TokenEvent) -> None:
            if event.token_ids:  # before its client may know of it
                self.firsts.setdefault(event.request_id, time.monotonic())
            on_event(event)

        self._engine.submit(request, watched)


def _limits(users: int) -> ServeConfig:
    """Of the server that is measured: nothing that is asked of it is beyond them."""
    return ServeConfig(
        host="127.0.0.1",
        port=0,
        max_running=users,
        max_connections=2 * users,  # those before may not be closed yet
        max_time=TIMEOUT_S,
        stall_s=TIMEOUT_S,
        receive_s=TIMEOUT_S,
        send_s=TIMEOUT_S,
        grace_s=0.0,
    )


def _told(heard: Heard, token_s: float, begin_s: float) -> AnswerTimes:
    first_s = token_s if heard.first_s is None else heard.first_s - begin_s
    return AnswerTimes(heard.num_tokens, token_s, first_s, heard.end_s - begin_s)


@contextmanager
def asked_over_http(engine: Engine, tokens: Tokens, card: ModelCard, users: int) -> Iterator[Ask]:
    """A server of this engine for nobody else, on a port of its own, until the context ends.

    Its `Ask` sends all prompts at the same moment, from a process beside the server's, and raises
    EngineError as soon as one is not answered. The limits are not those of the server to come.
    """
    from whorl.stages.serve.app import create_app
    from whorl.stages.serve.server import running_server

    limits, key = _limits(users), secrets.token_urlsafe(32)
    watched = _Watched(engine)
    app = create_app(watched, tokens, card, limits, key)

    def ask(prompts: Sequence[Sequence[int]], most: int) -> list[AnswerTimes]:
        fields = {"model": card.name, "max_tokens": most, "temperature": 0, "ignore_eos": True}
        bodies = [fields | {"prompt": list(prompt)} for prompt in prompts]
        watched.firsts.clear()
        asked = {"host": address.hostname, "port": address.port, "key": key, "bodies": bodies}
        assert clients.stdin is not None and clients.stdout is not None
        try:
            print(json.dumps(asked), file=clients.stdin, flush=True)
            told = json.loads(clients.stdout.readline() or '{"error": "its clients ended"}')
        except OSError as error:
            told = {"error": repr(error)}
        if "error" in told:
            raise EngineError(
                "the server was not measured",
                found=told["error"],
                do="start it again; a lower serve.max_running asks less of the machine",
            )
        heard = sorted((Heard(*each) for each in told["heard"]), key=lambda each: each.end_s)
        firsts = [at_s - told["begin_s"] for at_s in sorted(watched.firsts.values())]
        if len(firsts) < len(heard):
            raise EngineError("the engine gave no tokens", do="try another engine or variant")
        return [
            _told(each, token_s, told["begin_s"])
            for token_s, each in zip(firsts, heard, strict=True)
        ]

    with start_child("whorl.wiring.clients:answer") as clients, running_server(app, limits) as url:
        address = urlsplit(url)
        try:
            yield ask
        finally:
            clients.kill()  # also while it waits for answers

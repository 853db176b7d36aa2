"""The process that an engine runs in: it opens what its first line says, then does as it is told.

See engines/apart.py, which speaks with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from whorl.core.children import SWITCH_S
from whorl.core.errors import WhorlError
from whorl.core.ports import GenerateRequest, Grammar, TokenEvent
from whorl.core.scoring import score_together
from whorl.core.variants import Variant
from whorl.engines.apart import CLOSE_TIMEOUT_S
from whorl.engines.loop import EngineLoop
from whorl.engines.open import open_engine
from whorl.engines.score_lines import questions_of, scores_told
from whorl.engines.setup import EngineSetup

__all__ = ["answer", "answer_soon"]

LOOK_EVERY_S = 0.2  # whether the engine has stopped
TOGETHER_S = 0.025  # nobody reads more than forty pieces of text a second


def answer_soon() -> None:
    """As `answer`, of a process that begins before anyone knows what it will open: until then it
    loads what is likely to be needed."""

    def load() -> None:
        from whorl.engines import openvino_engine  # noqa: F401
        from whorl.engines.quiet import load_genai

        load_genai()
        importlib.import_module("openvino_tokenizers")

    answer(load)


def answer(before: Callable[[], None] = lambda: None) -> None:
    """The engine's process: opens what its first line says, then does as it is told.

    before: done until that line comes; what cannot be loaded then is told where it is needed.
    """
    commands = sys.stdin
    output = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no message
    with contextlib.suppress(Exception):
        before()
    line = commands.readline()
    if not line:
        return  # nobody ever knew
    opening = json.loads(line)
    variant, cache = opening["variant"], opening["cache_folder"]
    try:
        engine = open_engine(
            Path(opening["folder"]),
            None if variant is None else Variant(**variant),
            opening["name"],
            EngineSetup(**opening["setup"]),
            None if cache is None else Path(cache),
        )
    except WhorlError as error:
        output.write(json.dumps({"error": str(error), "kind": type(error).__name__}) + "\n")
        return
    facts = {
        "name": engine.name,
        "contract_digest": engine.contract_digest,
        "unable": sorted(engine.unable),
        "reads_singles_once": getattr(engine, "reads_singles_once", False),
    }
    output.write(json.dumps(facts) + "\n")
    gc.freeze()  # what stays is not looked through again: that takes tens of ms
    threading.Thread(target=_end_with, args=(engine,), daemon=True).start()
    sys.setswitchinterval(SWITCH_S)  # a step keeps Python's lock: readers ask for it meanwhile
    lock = threading.Lock()

    def send(*message: Any) -> None:
        data = json.dumps(message)
        with lock, contextlib.suppress(BrokenPipeError):
            output.write(data + "\n")

    _obey(engine, commands, send)
    engine.close()
    os._exit(0)


def _end_with(engine: Any) -> None:
    """An engine that stopped takes this process with it, what it started (which may hold a GPU's
    memory) before: then another one is started."""
    while getattr(engine, "failure", None) is None:
        time.sleep(LOOK_EVERY_S)
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(CLOSE_TIMEOUT_S)
    os._exit(1)


def _obey(engine: Any, commands: Iterable[str], send: Callable[..., None]) -> None:
    """Until there are no commands any more."""
    gone: set[str] = set()  # cancelled while their grammars were read
    reading: dict[str, threading.Thread] = {}
    has_turns = isinstance(engine, EngineLoop)
    teller = _Teller(send)

    def on_event(event: TokenEvent) -> None:  # on the engine's thread
        try:
            teller.add(event)
        except Exception as error:  # whatever it is, nobody may wait for ever
            told = f"the engine gave an event that is none: {error or repr(error)}"
            teller.add(TokenEvent(event.request_id, (), "error", told))
            raise
        finally:
            if not has_turns:
                teller.tell(at_once=True)

    def submit(request: GenerateRequest) -> None:
        try:
            engine.submit(request, on_event)
        except Exception as error:  # whatever it is, nobody may wait for ever
            send("events", [[request.request_id, (), "error", str(error) or repr(error), []]])
        if request.request_id in gone:
            gone.discard(request.request_id)
            engine.cancel(request.request_id)

    if has_turns:
        engine.on_turn = teller.tell
        engine.on_delay = lambda: teller.tell(at_once=True)
    for line in commands:
        kind, *rest = json.loads(line)
        if kind == "submit":
            request = _request(rest[0])
            if request.grammar is None:
                submit(request)
                continue
            reading = {name: each for name, each in reading.items() if each.is_alive()}
            thread = threading.Thread(target=submit, args=(request,), daemon=True)
            reading[request.request_id] = thread
            thread.start()
        elif kind == "cancel":
            if rest[0] in reading and reading[rest[0]].is_alive():
                gone.add(rest[0])
            engine.cancel(rest[0])
        elif kind == "limit" and hasattr(engine, "limit_running"):
            engine.limit_running(rest[0])
        elif kind == "score":
            threading.Thread(target=_score, args=(engine, send, *rest), daemon=True).start()


class _Teller:
    """Sends the events of a turn in one line, and those of fast turns together: a line wakes the
    reader, and each event of a request costs the server and its client about as much as a token.

    A request's first event and its last go at once, without those of others. These go after
    TOGETHER_S at the latest, or with the next turn's where its step takes longer; before a turn
    that reads a prompt or scores, all.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._rows: dict[str, list[Any]] = {}  # by request
        self._begun: set[str] = set()
        self._urgent: set[str] = set()
        self._last_s = 0.0

    def add(self, event: TokenEvent) -> None:
        """Raises TypeError or ValueError on what JSON has no words for, and keeps nothing of it."""
        name, finish = event.request_id, event.finish_reason
        ids = [int(number) for number in event.token_ids]
        logprobs = [
            (
                int(each.token_id),
                float(each.logprob),
                tuple((int(i), float(p)) for i, p in each.top),
            )
            for each in event.logprobs
        ]
        row = self._rows.setdefault(name, [name, [], None, None, []])
        row[1] += ids
        row[2], row[3] = finish, None if event.error is None else str(event.error)
        row[4] += logprobs
        if finish is not None or name not in self._begun:
            self._urgent.add(name)
        self._begun.add(name)
        if finish is not None:
            self._begun.discard(name)

    def tell(self, at_once: bool = False) -> None:
        now_s = time.monotonic()
        told = self._urgent
        if at_once or now_s - self._last_s >= TOGETHER_S:
            told, self._last_s = set(self._rows), now_s
        rows = [self._rows.pop(name) for name in list(self._rows) if name in told]
        self._urgent = set()
        if rows:
            self._send("events", rows)


def _request(values: Mapping[str, Any]) -> GenerateRequest:
    """JSON has lists for tuples."""
    kept: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    kept["logit_bias"] = tuple((number, bias) for number, bias in kept["logit_bias"])
    if kept["grammar"] is not None:
        kept["grammar"] = Grammar(**kept["grammar"])
    return GenerateRequest(**kept)


def _score(engine: Any, send: Callable[..., None], number: int, asked: list[Any]) -> None:
    try:
        found = scores_told(score_together(engine, questions_of(asked)))
    except Exception as error:  # whatever it is, nobody may wait for ever
        send("failed", number, str(error) or repr(error))
        return
    send("scores", number, found)

"""What a model has answered is not asked again: answers are kept by all that they depend on.

That is the model (`FolderCard.content`), the engine with its packages' versions and whorl's, the
processor's instructions, and the question: a greedy request's prompt, length, stop ids and grammar,
or the sequences of one call of `score`. What else was asked at the same time is no part of it.
Kernels add up in an order that depends on how many requests run, so that an answer may be another
one where two ids are nearly as probable: the one that came first is kept.

<folder>/<digest of model and engine>.answers    a line for each answer, behind a digest of it

Each line is written by one call, after the end of the one before: processes may write at the same
time, and what one that was killed left amid a line is passed over alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np

from whorl import __version__
from whorl.core.digests import digest_bytes, digest_value
from whorl.core.ports import Engine, EngineStats, GenerateRequest, TokenEvent
from whorl.core.processor import instructions
from whorl.core.scoring import Continuations, Scores, score_together
from whorl.engines.open import Openable
from whorl.engines.setup import EngineSetup

__all__ = ["KeptAnswers", "open_keeping"]

VERSION = 1  # raised when an engine of ours would answer the same question otherwise
PACKAGES = {"openvino": ("openvino", "openvino-genai"), "torch": ("torch",)}
GRAMMARS = "xgrammar"  # which engines apply where it is installed
ENDING = ".answers"
MOST_BYTES, MOST_FILES = 2**24, 32  # of a file, and how many are left when another is begun
Log = Callable[[str], None]
OnEvent = Callable[[TokenEvent], None]


def open_keeping(openable: Openable, setup: EngineSetup, folder: Path, log: Log) -> Engine:
    """An engine whose answers are kept in the folder, opened when it is asked something new.

    As it is, and opened now, where nobody knows of which version it is: vLLM's server has packages
    of its own, and so may an engine from outside.
    """
    name = openable.factory.name
    try:
        versions = {package: version(package) for package in PACKAGES[name]}
    except (KeyError, PackageNotFoundError):
        return openable.open(setup)
    with contextlib.suppress(PackageNotFoundError):
        versions[GRAMMARS] = version(GRAMMARS)
    made_by = {
        "model": openable.card.content,
        "engine": name,
        "packages": versions,
        "instructions": instructions(),
        "whorl": __version__,
        "version": VERSION,
    }
    path = folder / f"{digest_value(made_by)[:32]}{ENDING}"
    lines = _Lines(path, log)
    asked = KeptAnswers(name, openable.card.contract_digest, lambda: openable.open(setup), lines)
    return cast(Engine, asked)  # its `unable` cannot be set, which nobody does


class KeptAnswers:
    """core.ports.Engine over another one, which is opened when it is needed.

    What is known is told by the thread that submits it, before `submit` returns.
    """

    def __init__(
        self, name: str, contract_digest: str, opened: Callable[[], Engine], lines: _Lines
    ) -> None:
        self.name, self.contract_digest = name, contract_digest
        self._open, self._lines = opened, lines
        self._opening = threading.Lock()  # those who ask at the same time get one engine
        self._opened: Engine | None = None

    @property
    def _engine(self) -> Engine:
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    @property
    def unable(self) -> frozenset[str]:
        return self._engine.unable

    def knows(self, request: GenerateRequest) -> bool:
        """Whether it is answered from what is kept."""
        return _is_kept(request) and self._lines.get(_question(request)) is not None

    def submit(self, request: GenerateRequest, on_event: OnEvent) -> None:
        if not _is_kept(request):
            return self._engine.submit(request, on_event)
        question, ids = _question(request), list[int]()
        if (known := self._lines.get(question)) is not None:
            return on_event(TokenEvent(request.request_id, tuple(known["ids"]), known["end"]))

        def listen(event: TokenEvent) -> None:
            ids.extend(event.token_ids)
            if event.finish_reason in ("stop", "length"):
                self._lines.put(question, {"ids": ids, "end": event.finish_reason})
            on_event(event)

        self._engine.submit(request, listen)

    def cancel(self, request_id: str) -> None:
        if self._opened is not None:
            self._opened.cancel(request_id)

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> Scores:
        return self.score_together([Continuations(prefix, sequences)])[0]

    def score_together(self, questions: Sequence[Continuations]) -> list[Scores]:
        """See core.scoring: those that are known are not asked again."""
        names = [_scored(question) for question in questions]
        known = [self._lines.get(name) for name in names]
        missing = [place for place, answer in enumerate(known) if answer is None]
        found = [
            [] if answer is None else [np.array(row, np.float64) for row in answer["nats"]]
            for answer in known
        ]
        if missing:
            told = score_together(self._engine, [questions[place] for place in missing])
            for place, scores in zip(missing, told, strict=True):
                found[place] = scores
                if all(np.isfinite(row).all() for row in scores):  # others whoever asked refuses
                    self._lines.put(names[place], {"nats": [row.tolist() for row in scores]})
        return found

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._lines.close()


def _scored(question: Continuations) -> str:
    rows = [[int(i) for i in ids] for ids in question.sequences]
    return digest_value({"scored": rows, "prefix": [int(i) for i in question.prefix]})[:32]


def _is_kept(request: GenerateRequest) -> bool:
    """Whether it is greedy, and steered by nothing but what `_question` reads."""
    bare = replace(request, request_id="", prompt_ids=(), max_tokens=0, stop_ids=(), grammar=None)
    return bare == GenerateRequest("", (), 0)


def _question(request: GenerateRequest) -> str:
    """The order of stop ids means nothing."""
    grammar = None if request.grammar is None else asdict(request.grammar)
    asked = {"prompt": request.prompt_ids, "most": request.max_tokens, "grammar": grammar}
    return digest_value({**asked, "stop": sorted(request.stop_ids)})[:32]


class _Lines:
    """Answers by the digest of their question, in one file; beyond MOST_BYTES none is added.

    A disk that cannot be read or written costs what would be kept, and is told once.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path, self._log = path, log
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._is_faulty = False

    @cached_property
    def _known(self) -> dict[str, Any]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._tell_fault(error)
            return {}
        lines = [line for line in data.split(b"\n") if line]
        found = [pair for line in lines if (pair := _read(line)) is not None]
        if damaged := len(lines) - len(found):
            self._log(
                f"{self._path}: {damaged:,} of {len(lines):,} kept answers are damaged; their "
                "questions are asked again"
            )
        return dict(reversed(found))  # of two answers to one question the first

    def get(self, question: str) -> Any:
        """None: it was not asked."""
        with self._lock:
            return self._known.get(question)

    def put(self, question: str, answer: Any) -> None:
        """Keeps it, unless one is kept already."""
        with self._lock:
            if question in self._known:
                return
            self._known[question] = answer
            if self._is_faulty:
                return
            data = _line(question, answer)
            try:
                if self._descriptor is None:
                    self._descriptor = self._begun()
                if os.fstat(self._descriptor).st_size + len(data) <= MOST_BYTES:
                    os.write(self._descriptor, data)
            except OSError as error:
                self._tell_fault(error)

    def _begun(self) -> int:
        """The open file. Where it is new, the oldest of too many others go."""
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            others = sorted(self._path.parent.glob(f"*{ENDING}"), key=_written_s)
            for path in others[: 1 - MOST_FILES]:
                path.unlink(missing_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _tell_fault(self, error: OSError) -> None:
        self._is_faulty = True
        self._log(f"answers are not kept in {self._path}: {error.strerror}")

    def close(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None


def _line(question: str, answer: Any) -> bytes:
    """It begins with the end of the one before, which may have been cut."""
    body = json.dumps([question, answer]).encode()
    return b"\n" + _check(body) + b" " + body


def _read(line: bytes) -> tuple[str, Any] | None:
    """(question, answer) of a line; None: it is damaged."""
    check, _, body = line.partition(b" ")
    if check != _check(body):
        return None
    question, answer = json.loads(body)
    return question, answer


def _check(body: bytes) -> bytes:
    return digest_bytes(body)[:16].encode()


def _written_s(path: Path) -> float:
    """0 of a file that has gone meanwhile."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0

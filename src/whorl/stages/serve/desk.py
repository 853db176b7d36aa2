"""What a server keeps beside its model: keys and their use, who waits, figures, the log of answers.

A `Visit` is one request from its admission to the end of its last answer; everything that is
counted, held or written down of it is settled there, once, however it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from whorl.codecs.contract import Tokens
from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.admission import Admission, Ticket
from whorl.stages.serve.answers_log import AnswersLog
from whorl.stages.serve.ask import Chat, Prompt
from whorl.stages.serve.errors import is_grammar_fault
from whorl.stages.serve.keys import FOLDER, KeyRing, keys_file
from whorl.stages.serve.limits import Caller, Ledger, Spending
from whorl.stages.serve.metrics import Meters
from whorl.stages.serve.served import Served

__all__ = ["Desk", "Visit"]

USE_FILE = "use.json"
MOST_REMEMBERED = 10_000  # answers whose version is known without their log


class AnswerIds(Protocol):
    """One answer of a request."""

    request: GenerateRequest
    said: str | None
    has_called: bool

    @property
    def kept_ids(self) -> list[int]: ...


@dataclass
class Desk:
    """Of one server process."""

    admission: Admission
    meters: Meters
    ledger: Ledger
    keys: KeyRing | None = None
    answers: AnswersLog | None = None
    clock: Callable[[], float] = time.monotonic
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id, of late answers

    @classmethod
    def of(
        cls,
        config: ServeConfig,
        home: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Desk:
        """Of a home: its keys, their use so far and its log; without one, none of these.

        Raises RecordError if what was used so far is damaged, ResourceError if the home cannot be
        written.
        """
        meters = Meters()
        use = None if home is None else home / FOLDER / USE_FILE
        desk = cls(
            Admission(config, meters.queue_s.observe, clock),
            meters,
            Ledger(use, config.usd_per_million_tokens, clock),
            clock=clock,
        )
        if home is not None:
            desk.keys = KeyRing(keys_file(home))
            desk.answers = AnswersLog(home / FOLDER, config.log_text)
        admission = desk.admission
        running = lambda: float(admission.inside - admission.waiting)  # noqa: E731
        meters.gauge(
            "whorl_places", "Requests that run together", lambda: float(admission.max_running)
        )
        meters.gauge("whorl_running", "Requests that have a place", running)
        meters.gauge("whorl_waiting", "Requests that wait", lambda: float(admission.waiting))
        meters.gauge(
            "whorl_cache_tokens",
            "Tokens of running requests, whose keys and values are kept",
            lambda: float(admission.held_tokens),
        )
        meters.gauge(
            "whorl_predicted_tokens",
            "Tokens still to do for those inside",
            lambda: admission.left_tokens,
        )
        meters.gauge(
            "whorl_tokens_per_second",
            "Read and written per second of work, of late",
            lambda: admission.tokens_per_s or 0.0,
        )
        return desk

    def refused(self, code: str) -> None:
        """Counts a request that was refused."""
        self.meters.refused.labels(code).inc()

    def remember(self, request_id: str, version: dict[str, Any]) -> None:
        """Which version answered whom: another may have taken its place when that is asked."""
        self.versions[request_id] = version
        if len(self.versions) > MOST_REMEMBERED:
            del self.versions[next(iter(self.versions))]

    def visit(self, served: Served, caller: Caller, answers: int, max_time: float) -> Visit:
        """Raises ApiError 429 when there is no place."""
        tickets = self.admission.enter(caller.who, answers)
        served.take()
        return Visit(self, served, caller, tickets, max_time)


@dataclass(eq=False)
class Visit:
    """One request."""

    desk: Desk
    served: Served
    caller: Caller
    free_tickets: list[Ticket]
    max_time: float
    asked: tuple[Prompt, ...] = ()
    began_s: float = field(init=False)
    first_s: float | None = None
    prompt_tokens: int = 0
    num_tokens: int = 0
    scored_tokens: int = 0  # of candidates, which are read and not generated
    _tickets: dict[str, Ticket] = field(default_factory=dict)  # by id of the engine's request
    _spending: Spending | None = None
    _whole: set[str] = field(default_factory=set)  # ids of the engine's requests, as `_tickets`
    _is_told: bool = False
    _is_refused: bool = False
    _has_failed: bool = False
    _is_settled: bool = False

    def __post_init__(self) -> None:
        self.began_s = self.desk.clock()

    @property
    def left_s(self) -> float:
        """Until it must have ended."""
        return self.began_s + self.max_time - self.desk.clock()

    def price(self, sizes: Sequence[tuple[int, int]], prompt_tokens: int) -> None:
        """Raises ApiError 429 if it would wait too long, or is over its key's limits.

        sizes: of each answer, (prompt tokens, most tokens). prompt_tokens: of each prompt once,
        however many answers it gets.
        """
        self.desk.admission.price(self.free_tickets, sizes, self.left_s)
        self.prompt_tokens = prompt_tokens
        most = prompt_tokens + sum(tokens for _, tokens in sizes)
        self._spending = self.desk.ledger.spend(self.caller, most)

    def submitted(self, request_id: str) -> None:
        self.served.health.began()
        self._tickets[request_id] = self.free_tickets.pop()

    def refused(self, request_id: str) -> None:
        """The engine did not take it."""
        self.served.health.ended()
        self.free_tickets.append(self._tickets.pop(request_id))

    def is_whole(self, request_id: str) -> None:
        """Its client has all of it, whatever the engine says of it later."""
        self._whole.add(request_id)

    def event(self, event: TokenEvent) -> None:
        """The engine made tokens, or gave a request back."""
        desk, num_tokens = self.desk, len(event.token_ids)
        ticket = self._tickets.get(event.request_id)
        if ticket is not None and num_tokens:
            desk.admission.progress(ticket, num_tokens)
        if num_tokens or event.finish_reason in ("stop", "length"):
            self.served.health.saw_token()
        if num_tokens:
            self.num_tokens += num_tokens
            if self.first_s is None:
                self.first_s = desk.clock()
                desk.meters.ttft_s.observe(self.first_s - self.began_s)
        if event.finish_reason is not None and ticket is not None:
            del self._tickets[event.request_id]
            self.served.health.ended()
            finished = event.finish_reason in ("stop", "length") or event.request_id in self._whole
            # a ranking does all that was asked for, which says nothing of how long answers are
            desk.admission.leave(ticket, finished and not self.scored_tokens)
            self._has_failed |= event.finish_reason == "error"
            if event.finish_reason == "error" and not is_grammar_fault(event.error or ""):
                self.served.health.saw_failure(event.error or "an error")
            self._settle()

    def scored(self, request_id: str, num_tokens: int) -> None:
        """The engine scored candidates of so many tokens, after the prompt."""
        self.scored_tokens += num_tokens
        self.desk.admission.progress(self._tickets[request_id], num_tokens)
        self.served.health.saw_token()

    def give_up(self) -> None:
        """It was refused: nothing more of it will be submitted, and it costs nothing."""
        self._is_refused = True
        for ticket in self.free_tickets:
            self.desk.admission.leave(ticket, finished=False)
        self.free_tickets.clear()
        self._settle()

    def end(self, request_id: str, finish_reason: str, answers: Sequence[AnswerIds]) -> None:
        """Its client has the last of it, or left. Only the first time counts."""
        if self._is_told:
            return
        self._is_told = True
        desk, now_s = self.desk, self.desk.clock()
        total_s = now_s - self.began_s
        desk.meters.answers.labels(finish_reason).inc()
        desk.meters.answer_s.observe(total_s)
        desk.meters.tokens.labels("prompt").inc(self.prompt_tokens + self.scored_tokens)
        desk.meters.tokens.labels("answer").inc(self.num_tokens)
        if self.first_s is not None and self.num_tokens > 1:
            desk.meters.token_s.observe((now_s - self.first_s) / (self.num_tokens - 1))
        card = self.served.card
        version = {
            "version": card.version,
            "variant": card.variant,
            "contract": card.contract_digest,
            "records": card.lineage,
        }
        desk.remember(request_id, version | {"caller": self.caller.who})
        if desk.answers is not None:
            ttft_s = None if self.first_s is None else round(self.first_s - self.began_s, 4)
            desk.answers.add(
                {
                    "id": request_id,
                    "model": card.name,
                    **version,
                    "caller": self.caller.who,
                    "prompt_tokens": self.prompt_tokens,
                    "tokens": self.num_tokens,
                    **({"scored_tokens": self.scored_tokens} if self.scored_tokens else {}),
                    "finish_reason": finish_reason,
                    "ttft_s": ttft_s,
                    "total_s": round(total_s, 4),
                    **self._texts(answers),
                }
            )

    def _texts(self, answers: Sequence[AnswerIds]) -> dict[str, Any]:
        """What was asked and answered, where that is kept."""
        log, tokens = self.desk.answers, self.served.tokens
        if log is None or not log.with_text:
            return {}
        prompts = dict.fromkeys(each.request.prompt_ids for each in answers)
        return {
            "prompts": [tokens.decode(ids, skip_special=False) for ids in prompts],
            "texts": [_shown(tokens, each) for each in answers],
            **_asked(self.asked),
        }

    def _settle(self) -> None:
        """When nothing of it is inside any more: what it used is counted, its model is free.

        What was refused, or failed before its first token, used nothing.
        """
        if self._tickets or self.free_tickets or self._is_settled:
            return
        self._is_settled = True
        if self._spending is not None:
            made = self.num_tokens + self.scored_tokens
            is_free = self._is_refused or (self._has_failed and not made)
            self._spending.end(0 if is_free else self.prompt_tokens + made)
        self.served.give_back()


def _shown(tokens: Tokens, answer: AnswerIds) -> str | None:
    """An answer as its reader saw it; None: it calls functions, and is no text."""
    if answer.has_called:
        return None
    return tokens.decode(answer.kept_ids) if answer.said is None else answer.said


def _asked(prompts: tuple[Prompt, ...]) -> dict[str, Any]:
    """A text, or the messages of a chat, as they were sent: what a template wrote of them teaches
    another model nothing."""
    asked = prompts[0] if len(prompts) == 1 else None
    if isinstance(asked, str):
        return {"prompt": asked}
    if not isinstance(asked, Chat) or asked.has_images:
        return {}
    tools = {} if asked.tools is None else {"tools": list(asked.tools.functions)}
    return {"messages": list(asked.messages), **tools}

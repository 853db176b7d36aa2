"""/v1/rank: which candidates go on from a prompt best. Items, links, moves, labels, or texts.

The prompt is read once, whatever the number of candidates: where each is one id, all of them are
read off the scores of what follows it.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import Field
from starlette.requests import Request

from whorl.codecs.contract import TEXT, Tokens
from whorl.codecs.parts import token_space
from whorl.core.errors import DataError, EngineError
from whorl.core.ports import Part, TokenEvent
from whorl.core.scoring import Scores, totals
from whorl.stages.serve.access import caller_of
from whorl.stages.serve.ask import Ask, PartBody, Prompt, TokenIds
from whorl.stages.serve.desk import Visit
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.exchange import ClientGone, or_gone, read_parsed
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.limits import max_time_of
from whorl.stages.serve.request import Body

__all__ = ["PATH", "Questions", "RankBody", "Ranked", "Vocabularies", "add_ranking", "rank_all"]

PATH = "/v1/rank"
ID = "rank-"  # how the ids of answers begin
MAX_CANDIDATES = 16_384  # of a request; of the model's own there may be any number
MAX_TEXT_TOKENS = 65_536  # of all candidates of several ids together
PIECE_TOKENS = 4_096  # of those that the engine is given at once: it says nothing before their end
MAX_NAME = 1_000
Names = Annotated[
    list[Annotated[str, Field(max_length=MAX_NAME)]],
    Field(max_length=MAX_CANDIDATES, fail_fast=True),
]
Piece = Sequence[tuple[int, ...]]  # candidates that are scored together


class RankBody(Body):
    """A prompt, and what may follow it."""

    stream: Literal[False] = Field(False, description="false: the answer comes whole")
    prompt: str | TokenIds | Annotated[list[PartBody], Field(min_length=1, fail_fast=True)] = Field(
        description="a string, a list of token ids, or a list of parts"
    )
    codec: str | None = Field(
        None, description="the name of the candidates' codec; left out: the model's only one"
    )
    candidates: Annotated[Names, Field(min_length=1)] | None = Field(
        None, description="a list of at least one value of the codec; left out: all it has"
    )
    exclude: Names = Field([], description="a list of values that are not ranked")
    top: int | None = Field(
        None, ge=1, lt=2**31, description="a whole number: so many of the best are told"
    )

    @property
    def question(self) -> Prompt:
        """The prompt as the reader of prompts takes it."""
        if isinstance(self.prompt, str):
            return self.prompt
        ids = tuple(item for item in self.prompt if isinstance(item, int))
        return ids or tuple(item for item in self.prompt if isinstance(item, PartBody))


@dataclass(frozen=True)
class _Candidates:
    names: list[str]
    ids: list[tuple[int, ...]]


class Vocabularies:
    """All values of a model's codecs, written out once: a question for thousands is common."""

    def __init__(self) -> None:
        self._known: tuple[Tokens | None, dict[str, dict[str, tuple[int, ...]]]] = None, {}

    def of(self, tokens: Tokens, codec: str) -> dict[str, tuple[int, ...]]:
        """value -> its id, in the order of ids; not to be changed. From any thread."""
        owner, values = self._known
        if owner is not tokens:
            values = {}
            self._known = tokens, values
        if codec not in values:
            ids, decode = token_space(tokens).ranges[codec], tokens.codecs[codec].decode
            values[codec] = {str(decode([place])): (i,) for place, i in enumerate(ids)}
        return values[codec]


@dataclass(frozen=True)
class Questions:
    """Prompts, each of which the same candidates are ranked after, by what the client calls it."""

    body: RankBody  # of which candidates, whatever its prompt is
    prompts: Sequence[tuple[str, Prompt]]


Asking = Callable[[Tokens], Questions]  # of the tokens of the model that answers; by a thread


def add_ranking(app: FastAPI, gateway: Gateway) -> None:
    """One route."""
    vocabularies = Vocabularies()

    @app.post(PATH, summary="Candidates after a prompt, the likeliest first")
    async def rank(request: Request) -> Response:
        body = await read_parsed(gateway, request, RankBody)
        max_time = max_time_of(request.headers.get("x-request-timeout"))
        gateway.check_model(body.model, caller_of(request))
        questions = Questions(body, [("prompt", body.question)])
        ranked = await rank_all(
            gateway, vocabularies, body.model, lambda tokens: questions, request, max_time
        )
        (found,) = ranked.answers(body.top)
        told = {
            "id": f"{ID}{ranked.request_id}",
            "object": "rank",
            "model": body.model,
            "num_candidates": len(ranked.names),
            "candidates": found,
            "usage": ranked.usage,
        }
        return JSONResponse(told, headers={"X-Request-Id": ranked.request_id})


@dataclass(frozen=True)
class Ranked:
    """What a request for rankings found."""

    request_id: str
    names: list[str]  # of the candidates, in the order they were given in, or of their ids
    nats: list[NDArray[np.float64]]  # of each prompt [N]: ln p of each candidate after it
    prompt_tokens: int
    candidate_tokens: int

    def answers(self, top: int | None) -> list[list[dict[str, Any]]]:
        """Of each prompt the best candidates first; those alike in their order."""
        return [_ranking(self.names, nats, top) for nats in self.nats]

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": 0,
            "candidate_tokens": self.candidate_tokens,
            "total_tokens": self.prompt_tokens + self.candidate_tokens,
        }


async def rank_all(
    gateway: Gateway,
    vocabularies: Vocabularies,
    name: str,
    asking: Asking,
    request: Request,
    max_time: float | None,
) -> Ranked:
    """Every candidate after every prompt: one request, of one place, one price and one deadline,
    by the model of that name.

    All of it is checked before the engine is asked for anything, so that what is refused costs
    nothing. Raises ApiError: 400, 429, 500, 503 or 504; ClientGone.
    """
    visit = gateway.visit(name, caller_of(request), 1, max_time)
    request_id = uuid.uuid4().hex
    try:
        asked = await asyncio.to_thread(asking, visit.served.tokens)
        found = await asyncio.to_thread(
            _candidates_of, visit.served.tokens, vocabularies, asked.body
        )
        reading = _encoded_prompts(visit, asked, found)
        prompts = await or_gone(request.receive, reading)  # their files may take long
        at_once = getattr(visit.served.engine, "reads_singles_once", False)
        pieces = list(_pieces_of(found.ids, at_once))
        work = sum(map(_work_of, pieces)) * len(prompts)
        num_tokens = sum(map(len, prompts))
        visit.price([(num_tokens, work)], num_tokens)
    except BaseException:
        visit.give_up()
        raise
    finish_reason = "error"
    try:
        scored = _scored(gateway, visit, request_id, pieces, prompts)
        nats = await or_gone(request.receive, scored)
        if not all(np.isfinite(each).all() for each in nats):
            told = "the model gave scores that are not finite"
            raise ApiError(500, told, code="engine_failed")
        finish_reason = "stop"
    except ClientGone:
        finish_reason = "left"
        raise
    except TimeoutError:
        finish_reason = "deadline_exceeded"
        raise ApiError(504, "the deadline came first", code="deadline_exceeded") from None
    finally:
        visit.end(request_id, finish_reason, ())
    return Ranked(request_id, found.names, nats, num_tokens, work)


async def _encoded_prompts(
    visit: Visit, asked: Questions, found: _Candidates
) -> list[tuple[int, ...]]:
    """Raises ApiError where one is wrong, or leaves no room for the longest candidate."""
    model, longest, reader = asked.body.model, max(map(len, found.ids)), visit.served.prompts
    encoded = []
    for subject, prompt in asked.prompts:
        ask = Ask(model, (prompt,), subject, max_tokens=longest, limit_name="candidates")
        encoded.append(await reader.encode(prompt, ask, visit.left_s))
        reader.answer_room(len(encoded[-1]), ask, longest)
    return encoded


async def _scored(
    gateway: Gateway,
    visit: Visit,
    request_id: str,
    pieces: Sequence[Piece],
    prompts: Sequence[tuple[int, ...]],
) -> list[NDArray[np.float64]]:
    """Of each prompt [N]: ln p of each candidate after it. Raises ApiError 503, TimeoutError.

    The engine cannot be called back: the piece that it has begun goes on after the deadline, or
    when the client has left, and its place is not free before.
    """
    visit.submitted(request_id)
    is_over = threading.Event()
    work = asyncio.create_task(_score(gateway, visit, request_id, pieces, prompts, is_over))
    try:
        async with asyncio.timeout(visit.left_s):
            return await asyncio.shield(work)
    finally:
        is_over.set()
        work.add_done_callback(asyncio.Task.exception)  # or asyncio says that nobody asked for it


async def _score(
    gateway: Gateway,
    visit: Visit,
    request_id: str,
    pieces: Sequence[Piece],
    prompts: Sequence[tuple[int, ...]],
    is_over: threading.Event,
) -> list[NDArray[np.float64]]:
    """As `_scored`; each piece and the end are told to the visit. is_over: nobody waits for it.

    Only the prompts that the engine was given are paid for.
    """
    ended = TokenEvent(request_id, (), "cancelled")
    loop, nats = asyncio.get_running_loop(), list[NDArray[np.float64]]()
    visit.prompt_tokens = 0
    try:
        for prompt in prompts:
            if is_over.is_set():
                raise TimeoutError
            visit.prompt_tokens += len(prompt)
            values = list[NDArray[np.float64]]()
            for piece in pieces:
                if gateway.stopped:
                    raise ApiError(503, "the server is stopping", code="stopping")
                rows = await loop.run_in_executor(
                    gateway.ranking_threads, _score_piece, visit, piece, prompt, is_over
                )
                values.append(totals(rows))
                visit.scored(request_id, _work_of(piece))
            nats.append(np.concatenate(values))
        ended = TokenEvent(request_id, (), "stop")
    except EngineError as error:
        ended = TokenEvent(request_id, (), "error", error=str(error))
        raise ApiError(503, f"the engine refused: {error}", code="engine_failed") from error
    finally:
        visit.event(ended)
    return nats


def _score_piece(
    visit: Visit, piece: Piece, prompt_ids: tuple[int, ...], is_over: threading.Event
) -> Scores:
    """In a thread, which may have come free too late. Raises EngineError, TimeoutError."""
    if is_over.is_set() or visit.left_s <= 0:
        raise TimeoutError
    return visit.served.engine.score(piece, prompt_ids)


def _pieces_of(candidates: Sequence[tuple[int, ...]], at_once: bool) -> Iterator[Piece]:
    """In their order, each of at most PIECE_TOKENS or of one candidate.

    at_once: single ids cost the engine nothing, it reads all of them from one forward.
    """
    piece: list[tuple[int, ...]] = []
    room = PIECE_TOKENS
    for ids in candidates:
        cost = 0 if at_once and len(ids) == 1 else len(ids)
        if piece and cost > room:
            yield piece
            piece, room = [], PIECE_TOKENS
        piece.append(ids)
        room -= cost
    yield piece


def _work_of(piece: Piece) -> int:
    """Tokens that the engine reads beside the prompt; at least one, as of an answer."""
    return sum(len(ids) for ids in piece if len(ids) > 1) or 1


def _candidates_of(tokens: Tokens, known: Vocabularies, body: RankBody) -> _Candidates:
    """Those of the request, else all values of the codec; less what is excluded."""
    name = _codec_of(tokens, body)
    excluded = set(body.exclude)
    for value in excluded:  # a wrong one is told with the nearest name
        _encoded(tokens, name, value, "exclude")
    named: dict[str, tuple[int, ...]]
    if body.candidates is None:
        if tokens.codecs[name].value_ids != 1:
            told = f"candidates: codec {name} has no closed set of values; give a list"
            raise invalid(told, "candidates")
        named = known.of(tokens, name)
    else:
        times = Counter(body.candidates)
        if twice := next((value for value in times if times[value] > 1), None):
            raise invalid(f"candidates: {twice!r} is there twice", "candidates")
        named = {
            value: _encoded(tokens, name, value, "candidates")
            for value in body.candidates
            if value not in excluded
        }
    kept = {value: found for value, found in named.items() if value not in excluded}
    if not kept:
        raise invalid("exclude: no candidate is left", "exclude")
    if sum(len(found) for found in kept.values() if len(found) > 1) > MAX_TEXT_TOKENS:
        told = f"candidates: together they have more than {MAX_TEXT_TOKENS:,} tokens"
        raise invalid(told, "candidates")
    return _Candidates(list(kept), list(kept.values()))


def _codec_of(tokens: Tokens, body: RankBody) -> str:
    """The codec that is asked for, or the one that is meant where none is."""
    if body.codec is not None:
        if body.codec in tokens.codecs:
            return body.codec
        raise invalid(f"codec: this model has the codecs {', '.join(tokens.codecs)}", "codec")
    closed = [name for name, codec in tokens.codecs.items() if codec.value_ids == 1]
    if len(closed) == 1:
        return closed[0]
    if not closed and TEXT in tokens.codecs:
        return TEXT
    told = f"codec: say which of {', '.join(closed or tokens.codecs)} the candidates are of"
    raise invalid(told, "codec")


def _encoded(tokens: Tokens, codec: str, value: str, field: str) -> tuple[int, ...]:
    try:
        ids = tuple(tokens.encode_parts([Part(codec, value)]))
    except (DataError, TypeError, ValueError) as error:
        raise invalid(f"{field}: {error}", field) from None
    if not ids:
        raise invalid(f"{field}: {value!r} has no token", field)
    return ids


def _ranking(
    names: Sequence[str], nats: NDArray[np.float64], top: int | None
) -> list[dict[str, Any]]:
    order = np.argsort(-nats, kind="stable")[:top]
    shares = np.exp(nats - nats.max())
    shares /= shares.sum()
    places: list[int] = order.tolist()
    return [
        {
            "candidate": names[place],
            "rank": rank,
            "logprob": float(nats[place]),
            "probability": float(shares[place]),  # among these candidates
        }
        for rank, place in enumerate(places, 1)
    ]

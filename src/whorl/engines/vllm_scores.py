"""Log-probabilities of ids by vLLM's completions route.

vLLM reads a prompt whole when it is asked for the log-probabilities of the prompt's own ids,
whatever of it is cached. Candidates after a long prefix are therefore told id by id: what stands
before an id is the prompt, the ids that may follow it are told by an answer of one id, and every
such prompt begins with the prefix that the first one left in the cache. Beginnings that candidates
share are asked once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import EngineError, WhorlError
from whorl.core.ports import GenerateRequest
from whorl.core.scoring import Scores
from whorl.engines.vllm_words import SCORED, body_of, id_of

__all__ = ["VllmScores"]

MOST_IDS = 128  # whose log-probabilities are told by one answer
BLOCK_TOKENS = 128  # at most so many ids behind the last whole block of the cache are read again
MOST_SALTS = 8
Ids = tuple[int, ...]
Choice = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]  # body -> the one choice told


class VllmScores:
    """choice: asks vLLM, in one of the engine's places."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._salts: list[tuple[Sequence[int], str]] = []

    def salt_of(self, prefix: Sequence[int]) -> str:
        """The same for the pieces of one question, which bring the same object as their prefix.

        What one caller asked is never told to another by the time that it takes.
        """
        known = next((salt for seen, salt in self._salts if seen is prefix), None)
        if known is None:
            known = secrets.token_hex()
            self._salts = [(prefix, known), *self._salts[: MOST_SALTS - 1]]
        return known

    async def find(self, rows: Sequence[Ids], prefix: Ids, salt: str) -> Scores:
        """Of each row, of each id after the prefix; without one, of each id but the first.

        One that fails ends the others. Raises EngineError.
        """
        ways = _ways(rows, prefix)
        asked = [(path, ids) for path in ways for ids in _pieces(ways[path])]
        known: dict[tuple[Ids, int], float] = {}

        async def tell(path: Ids, ids: Sequence[int]) -> None:
            for number, value in (await self._next(prefix + path, ids, salt)).items():
                known[path, number] = value

        try:
            if asked:
                await tell(*asked[0])  # alone: the others find the prefix in the cache
            async with asyncio.TaskGroup() as group:
                for each in asked[1:]:
                    group.create_task(tell(*each))
                wholes = [
                    None if _is_told(row, ways) else group.create_task(self._whole(prefix, row))
                    for row in rows
                ]
        except ExceptionGroup as errors:
            if isinstance(first := errors.exceptions[0], WhorlError):
                raise first from None
            raise EngineError("vLLM failed", found=repr(first)) from errors
        return [
            np.array([known[row[:place], number] for place, number in enumerate(row)], np.float64)
            if whole is None
            else whole.result()
            for row, whole in zip(rows, wholes, strict=True)
        ]

    async def _next(self, prompt: Ids, ids: Sequence[int], salt: str) -> dict[int, float]:
        """id -> what it has after a prompt. A vLLM that does not know `logprob_token_ids` tells one
        alone; then each is asked for."""
        asked = GenerateRequest(
            "score", prompt, 1, allowed_ids=tuple(ids), logprobs=0, cache_key=salt
        )
        words = {"stream": False, "logprob_token_ids": list(ids)}
        told = (await self._choice(body_of(asked) | words))["logprobs"]
        (drawn,), (value,), (others,) = (
            told[name] for name in ("tokens", "token_logprobs", "top_logprobs")
        )
        if len(ids) == 1:
            return {ids[0]: value}
        named = {id_of(name): other for name, other in {**others, drawn: value}.items()}
        found = {number: named[number] for number in ids if number in named}
        for number in ids:
            if number not in found:
                found |= await self._next(prompt, (number,), salt)
        return found

    async def _whole(self, prefix: Ids, ids: Ids) -> NDArray[np.float64]:
        """The last id's value is that of an answer which may be nothing else: a sequence may be as
        long as the context, a prompt may not."""
        whole = prefix + ids
        if len(whole) < 2 or not ids:
            return np.zeros(0)
        asked = GenerateRequest("score", whole[:-1], 1, allowed_ids=whole[-1:], logprobs=0)
        choice = await self._choice(body_of(asked) | SCORED)
        values = [
            each[str(number)]["logprob"]
            for number, each in zip(whole[1:-1], choice["prompt_logprobs"][1:], strict=True)
        ]
        values.append(choice["logprobs"]["token_logprobs"][0])
        return np.asarray(values[-len(ids) :] if prefix else values, np.float64)


def _ways(rows: Sequence[Ids], prefix: Ids) -> dict[Ids, list[int]]:
    """What stands behind the prefix -> the ids that are asked for after it, the shortest first.

    Rows of several ids are among them only if fewer tokens are read so than by reading each row
    whole, with its prefix.
    """
    if not prefix:
        return {}
    singles, several = ([row for row in rows if (len(row) > 1) is more] for more in (False, True))
    paths = {row[:place] for row in several for place in range(1, len(row))}
    by_id = sum(len(path) + BLOCK_TOKENS for path in paths)
    whole = sum(len(prefix) + len(row) for row in several)
    found: dict[Ids, dict[int, None]] = {}
    for row in [*singles, *(several if by_id < whole else ())]:
        for place, number in enumerate(row):
            found.setdefault(row[:place], {})[number] = None
    return {path: list(found[path]) for path in sorted(found, key=len)}


def _is_told(row: Ids, ways: dict[Ids, list[int]]) -> bool:
    """Whether all of a row is told id by id."""
    return bool(row) and all(
        number in ways.get(row[:place], ()) for place, number in enumerate(row)
    )


def _pieces(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[start : start + MOST_IDS] for start in range(0, len(ids), MOST_IDS))

"""What vLLM's completions route is asked, and what it tells, in its words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from whorl.core.ports import GenerateRequest, TokenLogprob
from whorl.engines.sampling import is_greedy

__all__ = ["ENDS", "SCORED", "body_of", "id_of", "logprobs_of", "messages_of"]

GRAMMARS = {"json_schema": "json", "regex": "regex", "ebnf": "grammar"}  # vLLM's words
ENDS: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
_TOKEN_IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}
SCORED = {"stream": False, "prompt_logprobs": 0}


def body_of(request: GenerateRequest) -> dict[str, Any]:
    """Every field; an end-of-text token is none unless it is among the stop ids."""
    greedy = is_greedy(request.temperature)
    body: dict[str, Any] = {
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_tokens,
        "stream": True,
        "temperature": 0.0 if greedy else request.temperature,
        "top_p": 1.0 if greedy else request.top_p,
        "top_k": 0 if greedy else request.top_k,
        "min_p": 0.0 if greedy else request.min_p,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "stop_token_ids": list(request.stop_ids),
        "ignore_eos": request.grammar is None or bool(request.stop_ids),
        **_TOKEN_IDS,
    }
    if request.allowed_ids is not None:
        body["allowed_token_ids"] = list(request.allowed_ids)
    if request.logit_bias:
        body["logit_bias"] = {str(number): bias for number, bias in request.logit_bias}
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if request.grammar is not None:
        body["structured_outputs"] = {GRAMMARS[request.grammar.kind]: request.grammar.text}
    if request.cache_key:
        body["cache_salt"] = request.cache_key
    return body


async def messages_of(parts: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Of a stream of server-sent events, up to `[DONE]`."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield json.loads(data)


def logprobs_of(ids: Sequence[int], told: dict[str, Any], num_top: int) -> tuple[TokenLogprob, ...]:
    """vLLM counts the drawn token among the best, wherever it stands."""
    found = []
    for number, value, others in zip(
        ids, told["token_logprobs"], told["top_logprobs"], strict=True
    ):
        known = [(id_of(name), other) for name, other in others.items()]
        best = sorted(known, key=lambda pair: (-pair[1], pair[0]))[:num_top]
        found.append(TokenLogprob(number, value, tuple(best)))
    return tuple(found)


def id_of(name: str) -> int:
    return int(name.removeprefix("token_id:"))

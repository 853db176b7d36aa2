"""What is asked, as requests of the engine: one for every answer."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time

from whorl.core.errors import SpecError
from whorl.core.ports import Engine, GenerateRequest, Grammar
from whorl.stages.serve.ask import Ask, Chat, Prompt
from whorl.stages.serve.errors import invalid
from whorl.stages.serve.formats.choose import call_schema
from whorl.stages.serve.served import Served

__all__ = ["requests_of"]


async def requests_of(
    served: Served, ask: Ask, request_id: str, cache_key: str, most_tokens: int, ends_s: float
) -> list[tuple[Prompt, GenerateRequest]]:
    """(prompt, request) of every answer, in order; most_tokens: the server's limit of an answer.

    ends_s: when all must have been answered, by time.monotonic. Raises ApiError that names the
    field which cannot be: 400, of a model without chats 501; 504 where files take too long to read.
    """
    found: list[tuple[Prompt, GenerateRequest]] = []
    reader = served.prompts
    for prompt in ask.prompts:
        grammar = _grammar(served, ask, prompt)
        prompt_ids = await reader.encode(prompt, ask, ends_s - time.monotonic())
        room = reader.answer_room(len(prompt_ids), ask, most_tokens)
        seed = secrets.randbits(31) if ask.seed is None else ask.seed
        first = GenerateRequest(
            request_id=f"{request_id}-{len(found)}",
            prompt_ids=prompt_ids,
            max_tokens=1 if reader.is_one_choice(prompt) else room,
            temperature=ask.temperature,
            top_p=ask.top_p,
            seed=seed,
            stop_ids=_stop_ids(served, ask),
            allowed_ids=reader.allowed_ids(ask, prompt),
            top_k=ask.top_k,
            min_p=ask.min_p,
            presence_penalty=ask.presence_penalty,
            frequency_penalty=ask.frequency_penalty,
            repetition_penalty=ask.repetition_penalty,
            logit_bias=reader.logit_bias(ask),
            logprobs=ask.logprobs,
            grammar=grammar,
            cache_key=cache_key,
        )
        _check_able(served.engine, first, ask)
        for number in range(ask.n):
            each = dataclasses.replace(
                first,
                request_id=f"{request_id}-{len(found)}",
                seed=(seed + number) % 2**63,
            )
            found.append((prompt, each))
    return found


def _stop_ids(served: Served, ask: Ask) -> tuple[int, ...]:
    if ask.stop_ids:
        served.prompts.check_ids(ask.stop_ids, "stop_token_ids")
    return tuple(sorted({*ask.stop_ids, *(() if ask.ignores_stop_ids else served.stop_ids)}))


def _grammar(served: Served, ask: Ask, prompt: Prompt) -> Grammar | None:
    """The one that was asked for, or that of a call which must be made."""
    tools = prompt.tools if isinstance(prompt, Chat) else None
    if tools is None:
        return ask.grammar
    calls = served.prompts.dialogue.calls
    if calls is None:
        raise invalid("tools: this model's chat template shows no tools to it", "tools")
    if ask.grammar is not None:
        name = ask.names.get("grammar", "grammar")
        raise invalid(f"{name}: not beside tools, whose calls it would forbid", name)
    if not tools.must_call:
        return None
    try:
        schema = call_schema(calls, tools.functions, tools.only)
    except SpecError as error:
        raise invalid(f"tool_choice: {error}", "tool_choice") from None
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


def _check_able(engine: Engine, request: GenerateRequest, ask: Ask) -> None:
    """Raises ApiError 400 if the engine does not honour a field that was asked for."""
    unable = set(engine.unable)
    if (request.logprobs or 0) > 1 and "logprobs>1" in unable:
        unable.add("logprobs")
    for info in dataclasses.fields(GenerateRequest):
        is_asked = info.name in ask.names and getattr(request, info.name) != info.default
        if info.name in unable and is_asked:
            name = ask.names[info.name]
            most = ", more than 1" if "logprobs" not in engine.unable else ""
            told = most if info.name == "logprobs" else ""
            raise invalid(
                f"{name}{told}: the engine {engine.name} cannot do that; leave it out, or "
                "serve the model by another engine",
                name,
                "unsupported_by_engine",
            )

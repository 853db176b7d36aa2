"""The serve stage of `whorl up`: serve on a free port, ask real questions through HTTP, stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.ports import Field
from whorl.core.records import Record, RecordKey
from whorl.core.rows import HeldoutDocuments
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.exercise import exercise, request_completion
from whorl.stages.serve.server import running_server

__all__ = ["Samples", "run", "samples_of"]

LOGIC_VERSION = 1
NUM_PROMPTS = 5
SAMPLES_PER_PROMPT = 4
SAMPLE_TEMPERATURE = 0.7
MAX_TOKENS = 64
CONCURRENCY = (1, 16)

Accepts = Callable[[str, str], bool | None]


@dataclass(frozen=True)
class Samples:
    """What to ask, and who judges the answers. texts[i] shows prompts[i] to a person."""

    prompts: Sequence[str | Sequence[int]]
    texts: Sequence[str]
    accepts: Accepts | None = None  # None: answers are not judged
    checker: str = ""  # what acceptance means, in words


def samples_of(field: Field, prepared: Record) -> Samples:
    """The field's own prompts, or the beginnings of held-out documents, up to the answer."""
    prompts = getattr(field, "prompts", ())
    if prompts:
        accepts = getattr(field, "accepts", None)
        judged = accepts is not None and accepts(prompts[0], "\n") is not None
        checker = getattr(field, "checker", f"the check of the field {field.name}")
        return Samples(prompts, prompts, accepts if judged else None, checker)
    documents = HeldoutDocuments.open(prepared)
    tokens = Tokens.load(prepared.folder("tokens"))
    asked, texts = [], []
    for number in range(min(NUM_PROMPTS, len(documents))):
        answer = int(documents.mask(number)[1:].argmax()) + 1  # the first trained target
        asked.append([int(token) for token in documents.ids(number)[:answer]])
        texts.append(f"{documents.names[number]}: {tokens.decode(asked[-1])} ")
    return Samples(asked, texts)


def run(
    context: StageContext,
    config: ServeConfig,
    inputs: dict[str, str],
    variant: str,
    samples: Samples,
    open_app: Callable[[], tuple[FastAPI, Callable[[], None]]],
) -> Record:
    """The record of a short service: greedy answers, judged samples; speeds are in its run.json.

    open_app gives the service and a function that closes its engine; it is called only if there is
    work to do. Raises EngineError when a request fails, BusyError when no port is free.
    """
    asked = {"prompts": [_plain(prompt) for prompt in samples.prompts], "variant": variant}
    limits = {"max_running": config.max_running, "engine": config.engine}
    key = RecordKey("serve", {**asked, **limits}, inputs, LOGIC_VERSION)
    if record := context.store.find(key):
        return record
    local = config.model_copy(update={"host": "127.0.0.1", "port": 0})
    with context.store.write(key) as writer:
        app, close = open_app()
        try:
            with running_server(app, local) as base_url:
                metrics, speeds = _ask(context, app, base_url, samples)
        finally:
            close()
        writer.metrics.update(metrics, variant=variant)
        writer.run.update(speeds)
    return context.store.published(key)


def _plain(prompt: str | Sequence[int]) -> str | list[int]:
    return prompt if isinstance(prompt, str) else [int(number) for number in prompt]


def _ask(
    context: StageContext, app: FastAPI, base_url: str, samples: Samples
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(answers, speeds) of a running service."""
    card, api_key = app.state.gateway.card, app.state.access.api_key
    prompts = [_plain(prompt) for prompt in samples.prompts]
    max_tokens = max(1, min(MAX_TOKENS, card.context_tokens - _longest(samples)))
    num_judged = len(prompts) * SAMPLES_PER_PROMPT if samples.accepts else 0
    context.progress.start("serve", 1 + num_judged, "requests")
    found = exercise(
        base_url, api_key, card.name, prompts, max_tokens=max_tokens, concurrency=CONCURRENCY
    )
    context.progress.advance()
    judged = []
    for number in range(num_judged):
        at = number % len(prompts)
        answer = request_completion(
            base_url,
            api_key,
            prompts[at],
            model=card.name,
            max_tokens=max_tokens,
            temperature=SAMPLE_TEMPERATURE,
            seed=number,
        )
        assert samples.accepts is not None
        judged.append(bool(samples.accepts(samples.texts[at], answer.text)))
        context.progress.advance()
    context.progress.finish(f"{len(prompts)} prompts, {num_judged} judged samples")
    completions = [
        {**completion, "prompt": text}
        for completion, text in zip(found["completions"], samples.texts, strict=True)
    ]
    metrics: dict[str, Any] = {"completions": completions}
    if judged:
        metrics |= {"accepted": sum(judged), "asked": len(judged), "checker": samples.checker}
    return metrics, {"throughput": found["throughput"], "engine": app.state.gateway.engine.name}


def _longest(samples: Samples) -> int:
    """An upper bound of the tokens of a prompt: a byte is at most one token."""
    sizes = [
        len(prompt.encode()) + 1 if isinstance(prompt, str) else len(prompt)
        for prompt in samples.prompts
    ]
    return max(sizes)

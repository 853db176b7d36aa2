"""The serve stage of `whorl up`: serve on a free port, ask real questions through HTTP, stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI

from whorl.codecs.contract import Tokens
from whorl.codecs.parts import answer_in_words, in_words, token_space
from whorl.core.context import StageContext
from whorl.core.heldout import HeldoutDocuments
from whorl.core.plugins import packages_of
from whorl.core.ports import Choice, HeldoutDocument, Task
from whorl.core.records import Record, RecordKey
from whorl.core.tasks import WritingTask
from whorl.core.variants import Variant
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.card import GREEDY, SAMPLING, Sampling
from whorl.stages.serve.exercise import ServedAnswer, exercise, request_completion
from whorl.stages.serve.passages import Passage, continue_passages, passages_of
from whorl.stages.serve.server import running_server

__all__ = ["Samples", "run", "samples_of"]

LOGIC_VERSION = 7  # 7: all codecs are told in words, right answers too
NUM_PROMPTS = 5
SAMPLES_PER_PROMPT = 4
MAX_TOKENS = 64
MAX_TRUTH = 400  # signs of a right answer that are shown
MAX_ANSWERS = 4_096  # named in a request: beyond, an answer may be anything
CONCURRENCY = (1, 16)

Accepts = Callable[[str, str], bool | None]


@dataclass(frozen=True)
class Samples:
    """What to ask, and who judges the answers. texts[i] shows prompts[i] to a person.

    names, truths: of prompts out of held-out documents; () of others. A truth is "" where all of a
    document is learned: what it goes on with is one of many right answers.
    """

    prompts: Sequence[str | Sequence[int]]
    texts: Sequence[str]
    accepts: Accepts | None = None  # None: answers are not judged
    checker: str = ""  # what acceptance means, in words
    sampling: Sampling = SAMPLING
    answer_ids: Sequence[int] = ()  # that alone may be the answer, of one id; (): any text
    passages: Sequence[Passage] = ()  # of held-out text
    names: Sequence[str] = ()
    truths: Sequence[str] = ()


def samples_of(name: str, task: Task, prepared: Record) -> Samples:
    """The task's own prompts, or the beginnings of a field's held-out documents, up to the answer.

    Of a choice, and of a task whose answers are written and graded, the answer is the most probable
    one; others are drawn as a person would be shown them.
    """
    documents = HeldoutDocuments.open(prepared).of_field(name)
    tokens = Tokens.load(prepared.folder("tokens")).of_field(name)
    passages = passages_of(documents, tokens)
    if task.prompts:
        judged = task.accepts(task.prompts[0], "\n") is not None
        verdict = task.accepts if judged else None
        return Samples(task.prompts, task.prompts, verdict, task.checker, passages=passages)
    shown = [documents.document(number) for number in range(min(NUM_PROMPTS, len(documents)))]
    space = token_space(tokens)
    questions = [task.question(document, space) for document in shown]
    num_start = max(1, len(tokens.contract.start_ids))
    halves = [_halves(*pair, num_start) for pair in zip(shown, questions, strict=True)]
    asked = [before for before, _ in halves]
    told: dict[str, Any] = {
        "texts": [in_words(tokens, ids) for ids in asked],
        "names": [document.name for document in shown],
        "truths": [_shortened(in_words(tokens, ids)) for _, ids in halves],
        "passages": passages,
    }
    candidates = [ids for question in questions if question for ids in question.candidates]
    if not candidates:
        drawn = GREEDY if isinstance(task, WritingTask) else SAMPLING
        return Samples(asked, sampling=drawn, **told)
    one_id = max(len(ids) for ids in candidates) == 1
    answers = sorted({int(ids[0]) for ids in candidates}) if one_id else []
    if len(answers) > MAX_ANSWERS:
        answers = []
    return Samples(asked, sampling=GREEDY, answer_ids=answers, **told)


def _halves(
    document: HeldoutDocument, question: Choice | None, num_start: int
) -> tuple[list[int], list[int]]:
    """(what is asked, the right answer): up to the first trained target, and from it on as far as
    ids are trained; the answer is [] where nothing but start ids stand before it."""
    if question is not None:
        return list(question.prompt_ids), [int(i) for i in question.candidates[question.right]]
    ids, mask = [int(token) for token in document.ids], document.mask
    first = int(mask[1:].argmax()) + 1
    left_out = np.flatnonzero(~mask[first:])
    end = first + int(left_out[0]) if len(left_out) else len(ids)
    return ids[:first], ids[first:end] if first > num_start else []


def _shortened(words: str) -> str:
    return words if len(words) <= MAX_TRUTH else f"{words[:MAX_TRUTH]} …"


def run(
    context: StageContext,
    config: ServeConfig,
    inputs: dict[str, str],
    variant: Variant,
    samples: Mapping[str, Samples],
    open_app: Callable[[], tuple[FastAPI, Callable[[], None]]],
) -> Record:
    """The record of a short service: answers, judged samples; speeds are in its run.json.

    samples: of each field of the model. open_app gives the service and a function that closes its
    engine; it is called only if there is work to do. Raises EngineError when a request fails,
    BusyError when no port is free.
    """
    asked = {field: _described(part) for field, part in samples.items()}
    settings = {
        "variant": str(variant),
        "max_running": config.max_running,
        "max_tokens": min(MAX_TOKENS, config.max_tokens),
        "engine": config.engine,
    }
    packages = packages_of({"whorl.engines": [config.engine]})
    key = RecordKey("serve", {"samples": asked, **settings, **packages}, inputs, LOGIC_VERSION)
    if record := context.store.find(key):
        return record
    local = config.model_copy(update={"host": "127.0.0.1", "port": 0})
    with context.store.write(key) as writer:
        app, close = open_app()
        try:
            with running_server(app, local) as base_url:
                held = [
                    _Conversation(context, app, base_url, field, part).hold()
                    for field, part in samples.items()
                ]
                gateway = app.state.gateway
                places = gateway.desk.admission.max_running  # not always those asked for
        finally:
            close()
        writer.metrics.update(
            completions=[row for found in held for row in found["completions"]],
            continuations=[row for found in held for row in found["continuations"]],
            judged=[found["judged"] for found in held if found["judged"]],
            num_cut_prompts=sum(found["num_cut_prompts"] for found in held),
            variant=str(variant),
        )
        throughput = [row for found in held for row in found["throughput"]]
        writer.run.update(throughput=throughput, engine=gateway.engine.name, places=places)
    return context.store.published(key)


def _described(samples: Samples) -> dict[str, Any]:
    """What the record depends on."""
    return {
        "prompts": [_plain(prompt) for prompt in samples.prompts],
        "passages": [asdict(passage) for passage in samples.passages],
        "sampling": samples.sampling.model_dump(),
        "answer_ids": list(samples.answer_ids),
    }


def _plain(prompt: str | Sequence[int]) -> str | list[int]:
    return prompt if isinstance(prompt, str) else [int(number) for number in prompt]


def _ids_of(prompt: str | Sequence[int], tokens: Tokens) -> list[int]:
    """The ids that the service reads."""
    return tokens.encode_prompt(prompt) if isinstance(prompt, str) else [int(i) for i in prompt]


def _with_words(
    completions: Sequence[Mapping[str, Any]], samples: Samples
) -> Iterator[dict[str, Any]]:
    """Rows with their prompts in words, and of held-out documents with name and right answer."""
    unknown = [""] * len(samples.texts)
    names, truths = samples.names or unknown, samples.truths or unknown
    for row, text, name, truth in zip(completions, samples.texts, names, truths, strict=True):
        known = {"document": name, "truth": truth}
        yield {**row, "prompt": text, **{key: words for key, words in known.items() if words}}


@dataclass(frozen=True)
class _Conversation:
    """Everything of one field that is asked of a running service."""

    context: StageContext
    app: FastAPI
    base_url: str
    field: str
    samples: Samples

    def hold(self) -> dict[str, Any]:
        """Answers, what was judged, speeds."""
        gateway, samples, progress = self.app.state.gateway, self.samples, self.context.progress
        context_tokens = gateway.card.context_tokens
        limit = min(MAX_TOKENS, gateway.config.max_tokens)
        encoded = [_ids_of(prompt, gateway.tokens) for prompt in samples.prompts]
        room = max(context_tokens - max(map(len, encoded)), context_tokens // 2)
        max_tokens = 1 if samples.answer_ids else max(1, min(limit, room))
        room = context_tokens - max_tokens
        prompts = [
            _plain(prompt) if len(ids) <= room else ids[-room:]
            for prompt, ids in zip(samples.prompts, encoded, strict=True)
        ]
        num_judged = len(samples.prompts) * SAMPLES_PER_PROMPT if samples.accepts else 0
        num_requests = 1 + num_judged + len(samples.passages)
        progress.start(f"serve, {self.field}", num_requests, "requests")
        found = exercise(
            self.base_url,
            self.app.state.access.api_key,
            gateway.card.name,
            prompts,
            max_tokens=max_tokens,
            concurrency=CONCURRENCY,
            sampling=samples.sampling,
            answer_ids=samples.answer_ids,
        )
        progress.advance()
        of_field = {"field": self.field}
        answers: dict[str, Any] = {
            "completions": [
                {**of_field, **row, "text": answer_in_words(gateway.tokens, row["text"])}
                for row in _with_words(found["completions"], samples)
            ],
            "continuations": [
                {**of_field, **row}
                for row in continue_passages(
                    samples.passages, gateway.tokens, context_tokens, limit, self._complete
                )
            ],
            "num_cut_prompts": sum(len(ids) > room for ids in encoded),
            "judged": self._judge(prompts, num_judged, max_tokens),
            "throughput": [{**of_field, **row} for row in found["throughput"]],
        }
        continued = len(samples.passages)
        progress.finish(
            f"{len(samples.prompts)} prompts, {continued} held-out documents, "
            f"{num_judged} judged samples"
        )
        return answers

    def _judge(
        self, prompts: Sequence[str | list[int]], num_judged: int, max_tokens: int
    ) -> dict[str, Any]:
        """How many of several samples per prompt the field accepts; nothing if it does not ask."""
        samples = self.samples
        if samples.accepts is None:
            return {}
        accepted = 0
        for number in range(num_judged):
            at = number % len(prompts)
            answer = self._complete(prompts[at], max_tokens, number)
            accepted += bool(samples.accepts(samples.texts[at], answer.text))
        return {
            "field": self.field,
            "accepted": accepted,
            "asked": num_judged,
            "checker": samples.checker,
        }

    def _complete(self, prompt: str | Sequence[int], max_tokens: int, number: int) -> ServedAnswer:
        """One completion, drawn with a seed of its own number."""
        sampling = self.samples.sampling
        fields = sampling.model_dump() | {"seed": sampling.seed + number}
        name, api_key = self.app.state.gateway.card.name, self.app.state.access.api_key
        answer = request_completion(
            self.base_url, api_key, prompt, model=name, max_tokens=max_tokens, **fields
        )
        self.context.progress.advance()
        return answer

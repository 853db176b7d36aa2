"""What guessing ids does to a variant's answers: measured beside the same without, interleaved.

Questions are held-out documents of the recipe's own fields, up to what is trained of them, or to
their middle: how much of an answer stands in its prompt differs from field to field.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from whorl.codecs.contract import Tokens
from whorl.core.collect import run_requests
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import Engine, GenerateRequest, HeldoutDocument
from whorl.core.records import Record
from whorl.core.rounding import Guessing, Texts
from whorl.core.variants import Variant
from whorl.model.folder import TOKENS, peek_card
from whorl.wiring.speed import TOGETHER, ask_child

__all__ = ["guessing_of", "heldout_questions", "measure_guesses"]

GUESSES = (2, 4, 8)  # ids at a time
MOST_PROMPT, ANSWER_TOKENS = 512, 48
ALONE = 8  # questions asked one at a time
ORDER = (False, True, True, False)  # with guesses or without: what else runs here hits both
TIMEOUT_S = 1800.0
Answers = list[list[int]]


def heldout_questions(prepared: Record, fields: Sequence[str], context: int) -> Texts:
    """Prompts of held-out documents, as many of each field, evenly spaced; at most one of each."""
    documents = HeldoutDocuments.open(prepared)
    each = -(-max(TOGETHER) // len(fields))
    most = max(1, min(MOST_PROMPT, context - ANSWER_TOKENS))
    prompts = []
    for name in fields:
        mine = documents.of_field(name)
        numbers = np.unique(np.linspace(0, len(mine) - 1, min(each, len(mine))).astype(int))
        prompts += [_beginning(mine.document(int(number)), most) for number in numbers]
    return [prompt for prompt in prompts if prompt]


def _beginning(document: HeldoutDocument, most: int) -> list[int]:
    """The last ids of at most so many before the answer; of text the first of its half."""
    ids = [int(token) for token in document.ids]
    first = int(document.mask.argmax())
    if first <= 1:  # nothing is asked: all of it is trained
        return ids[: min(most, max(1, len(ids) // 2))]
    return ids[max(0, first - most) : first]


def guessing_of(
    prepared: Record, fields: Sequence[str], folder: Path, variant: Variant
) -> list[Guessing]:
    """On held-out questions of these fields. Raises as `measure_guesses`."""
    tokens, shape = Tokens.load(folder / TOKENS), peek_card(folder).shape
    questions = heldout_questions(prepared, fields, shape.max_seq_len)
    return measure_guesses(folder, variant, questions, tokens.contract.stop_ids)


def measure_guesses(
    folder: Path, variant: Variant, questions: Texts, stop_ids: Sequence[int]
) -> list[Guessing]:
    """One for each number of GUESSES. Raises EngineError if its process failed."""
    asked = {"prompts": [list(ids) for ids in questions], "stop_ids": list(stop_ids)}
    rows = ask_child(f"{__name__}:answer", folder, variant, asked, TIMEOUT_S)
    return [Guessing(**row) for row in rows]


def answer() -> None:
    """The child's side: a question on its input, the figures on its output."""
    print(json.dumps([asdict(each) for each in _answer(json.load(sys.stdin))]))


def _answer(question: dict[str, Any]) -> list[Guessing]:
    from whorl.engines.open import open_engine
    from whorl.engines.setup import EngineSetup

    def opened(guesses: int) -> Engine:
        setup = EngineSetup(max_running=max(TOGETHER), lookup=guesses)
        return open_engine(Path(question["folder"]), Variant(**question["variant"]), setup=setup)

    prompts = [tuple(ids) for ids in question["prompts"]]
    stops = tuple(question["stop_ids"])
    found, without = [], opened(0)
    try:
        for guesses in GUESSES:
            engine = opened(guesses)
            try:
                found.append(_compared((without, engine), prompts, stops, guesses))
            finally:
                engine.close()
    finally:
        without.close()
    return found


def _compared(
    engines: tuple[Engine, Engine],
    prompts: Sequence[tuple[int, ...]],
    stop_ids: tuple[int, ...],
    guesses: int,
) -> Guessing:
    """engines: without guesses, and with them."""
    alone = [[prompts[number % len(prompts)]] for number in range(min(ALONE, len(prompts)))]
    for engine in engines:
        _ask(engine, alone[0], stop_ids)  # what is made with the first request
    rates, answers, num_steps = _rates(engines, alone, stop_ids)
    ratio, together = rates[True] / rates[False], None
    if ratio > 1:
        many = [prompts[number % len(prompts)] for number in range(max(TOGETHER))]
        crowd, others, _ = _rates(engines, [many], stop_ids)
        together = crowd[True] / crowd[False]
        answers = {key: answers[key] + others[key] for key in answers}
    num_ids = sum(map(len, answers[True][: len(alone)]))
    pairs = list(zip(answers[False], answers[True], strict=True))
    num_same = sum(one == other for one, other in pairs)
    return Guessing(guesses, num_ids / max(1, num_steps), ratio, together, len(pairs), num_same)


def _rates(
    engines: tuple[Engine, Engine],
    rounds: Sequence[Sequence[tuple[int, ...]]],
    stop_ids: tuple[int, ...],
) -> tuple[dict[bool, float], dict[bool, Answers], int]:
    """({with guesses: tokens/s}, answers likewise, steps that gave ids with guesses)."""
    took_s, num_ids = {False: 0.0, True: 0.0}, {False: 0, True: 0}
    answers: dict[bool, Answers] = {}
    steps = 0
    for prompts in rounds:
        mine: dict[bool, Answers] = {}
        for guessed in ORDER:
            found, seconds, events = _ask(engines[guessed], prompts, stop_ids)
            took_s[guessed] += seconds
            num_ids[guessed] += sum(map(len, found))
            steps += events if guessed and guessed not in mine else 0
            mine[guessed] = found
        for guessed, found in mine.items():
            answers.setdefault(guessed, []).extend(found)
    return {key: num_ids[key] / took_s[key] for key in took_s}, answers, steps


def _ask(
    engine: Engine, prompts: Sequence[tuple[int, ...]], stop_ids: tuple[int, ...]
) -> tuple[Answers, float, int]:
    """(answers, seconds until the last one ended, steps that gave ids)."""
    requests = [
        GenerateRequest(f"guess-{number}", ids, ANSWER_TOKENS, stop_ids=stop_ids)
        for number, ids in enumerate(prompts)
    ]
    found = run_requests(engine, requests)
    ids = [each.token_ids for each in found]
    return ids, max(each.end_s for each in found), sum(each.steps for each in found)

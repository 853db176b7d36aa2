"""Where two models differ: answers side by side, and what each document's score becomes.

The same prompts are answered by both, greedily, and the same documents scored, each model in its
own tokens; bits per byte of a document can be compared whatever the tokens are. Documents are those
held out when the first model's data was prepared, where its record is in the home, or a file's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import CHAT, TEXT, Tokens
from whorl.core.collect import run_requests
from whorl.core.context import NoProgress
from whorl.core.errors import DataError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.intervals import paired_interval
from whorl.core.ports import (
    Document,
    Engine,
    GenerateRequest,
    HeldoutDocument,
    Part,
    Progress,
    QualityMeasure,
)
from whorl.core.records import Record
from whorl.core.tasks import LikelihoodTask
from whorl.core.variants import Variant
from whorl.engines.open import CACHE, open_engine
from whorl.engines.runtimes import QUESTION, TEXTS
from whorl.model.folder import TOKENS, read_card
from whorl.stages.evaluate.baselines import decoded
from whorl.stages.evaluate.measure import Asked, measure, select_documents

__all__ = ["Compared", "SharedQuestion", "compare_models", "read_examples"]

BEGINNING = 0.25  # of a document's text, that is its prompt
MAX_PROMPT_CHARS = 400
MAX_WINDOW = 1024  # ids that are scored together


@dataclass(frozen=True)
class SharedQuestion:
    """What both models are asked. Only one of the two may be missing."""

    name: str
    prompt: str | Mapping[str, Any] | None  # a text that goes on, or a chat that is answered
    document: Document | None  # what is scored


@dataclass(frozen=True)
class Compared:
    """One of the two models. variant: None for what its folder holds."""

    label: str
    folder: Path
    variant: Variant | None = None


@dataclass(frozen=True)
class _Opened:
    """A model as the comparison needs it."""

    label: str
    folder: Path
    variant: str
    tokens: Tokens
    engine: Engine
    max_tokens: int  # of a sequence


def compare_models(
    first: Compared,
    second: Compared,
    *,
    home: Path,
    examples: Sequence[SharedQuestion] | None = None,
    num_answers: int = 8,
    answer_tokens: int = 64,
    max_bytes: int = 60_000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Plain data: both models, answers side by side, scores, what got worse.

    examples: None for the documents that were held out from the first, else fixed prompts. Raises
    DataError on a prompt that does not fit into a model.
    """
    with _opened(first, home) as one, _opened(second, home) as other:
        asked = examples
        if asked is None:
            asked = _held_out(one, home, max_bytes) or _fixed(one.tokens, other.tokens)
        return _difference(one, other, asked, num_answers, answer_tokens, progress or NoProgress())


@contextmanager
def _opened(model: Compared, home: Path) -> Iterator[_Opened]:
    card, tokens = read_card(model.folder), Tokens.load(model.folder / TOKENS)
    engine = open_engine(model.folder, model.variant, cache_folder=home / CACHE)
    try:
        shown, most = str(model.variant or card.variant), card.shape.max_seq_len
        yield _Opened(model.label, model.folder, shown, tokens, engine, most)
    finally:
        engine.close()


# ------------------------------------------------------------------ what is asked


def read_examples(path: Path) -> list[SharedQuestion]:
    """A prompt a line (.txt), or objects with "prompt", "text" or "messages" (.jsonl).

    A chat whose last turn is the assistant's is asked without it, and scored on it. Raises
    DataError naming the line that is none of these.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # JSON may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read", found=error) from error
    examples = []
    for number, line in enumerate(lines, 1):
        name = f"{path.name}:{number}"
        if line.strip():
            is_text = path.suffix not in (".jsonl", ".ndjson")
            examples.append(SharedQuestion(name, line, None) if is_text else _row(name, line))
    if not examples:
        raise DataError(f"{path} holds no prompts")
    return examples


def _row(name: str, line: str) -> SharedQuestion:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{name} is no JSON", found=error.msg) from error
    row = row if isinstance(row, dict) else {}
    if isinstance(messages := row.get("messages"), list) and messages:
        is_answered = isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant"
        scored = Document(name, (Part(CHAT, row),)) if is_answered else None
        before = messages[:-1] if is_answered else messages
        asked = {**row, "messages": before} if before else None
        return SharedQuestion(name, asked, scored)
    if isinstance(prompt := row.get("prompt"), str) and prompt:
        return SharedQuestion(name, prompt, None)
    if isinstance(text := row.get("text"), str) and text:
        return _of_text(name, text)
    raise DataError(f"{name} holds nothing to ask", expected='"prompt", "text" or "messages"')


def _of_text(name: str, text: str) -> SharedQuestion:
    """Its beginning is the prompt, all of it is scored."""
    length = max(1, min(MAX_PROMPT_CHARS, int(BEGINNING * len(text))))
    return SharedQuestion(name, text[:length], Document(name, (Part(TEXT, text),)))


def _held_out(model: _Opened, home: Path, max_bytes: int) -> list[SharedQuestion]:
    """Documents of text held out from the model; [] if its prepared record is not in this home."""
    digest = str(read_card(model.folder).lineage.get("prepare", ""))
    found = sorted(home.glob(f"*/prepare/{digest}")) if digest.isalnum() else []
    if not found:
        return []
    documents = HeldoutDocuments.open(Record.load(found[0]))
    numbers = select_documents(documents, max_bytes)
    texts = [documents.document(n) for n in numbers if documents.num_bytes(n)]
    kept = [each for each in decoded(texts, model.tokens) if each.text]
    return [_of_text(each.name, each.text or "") for each in kept]


def _fixed(*tokens: Tokens) -> list[SharedQuestion]:
    examples = [
        SharedQuestion(f"text {number}", text, None) for number, text in enumerate(TEXTS, 1)
    ]
    if all(each.contract.chat_template is not None for each in tokens):
        examples.append(SharedQuestion("question", QUESTION, None))
    return examples


# ------------------------------------------------------------------ what they say


def _difference(
    first: _Opened,
    second: _Opened,
    examples: Sequence[SharedQuestion],
    num_answers: int,
    answer_tokens: int,
    progress: Progress,
) -> dict[str, Any]:
    prompts = [each for each in examples if each.prompt is not None][:num_answers]
    documents = [each.document for each in examples if each.document is not None]
    told: dict[str, Any] = {
        key: {"model": each.label, "variant": each.variant, "folder": str(each.folder)}
        for key, each in (("first", first), ("second", second))
    }
    answers = [_answers(each, prompts, answer_tokens, progress) for each in (first, second)]
    told["answers"] = [
        _side_by_side(example, *both) for example, *both in zip(prompts, *answers, strict=True)
    ]
    if documents:
        told["scores"] = _scores(first, second, documents, progress)
    return told


def _answers(
    model: _Opened, examples: Sequence[SharedQuestion], max_tokens: int, progress: Progress
) -> list[str]:
    progress.start(f"answers of {model.label}", None)
    requests = []
    for number, example in enumerate(examples):
        if isinstance(example.prompt, str):
            ids = model.tokens.encode_prompt(example.prompt)
        else:
            ids = model.tokens.encode_chat(example.prompt, ask=True)[0].tolist()
        room = model.max_tokens - len(ids)
        if room < 1 or not ids:
            raise DataError(
                f"{example.name} does not fit into {model.label}",
                found=f"{len(ids)} ids",
                expected=f"1 to {model.max_tokens - 1}",
            )
        stops = model.tokens.contract.stop_ids
        asked = min(room, max_tokens)
        requests.append(GenerateRequest(f"diff-{number}", tuple(ids), asked, stop_ids=stops))
    answers = run_requests(model.engine, requests)
    progress.finish()
    return [model.tokens.decode(answer.token_ids) for answer in answers]


def _side_by_side(example: SharedQuestion, first: str, second: str) -> dict[str, Any]:
    """parts_at: characters that are the same; None if all are."""
    prompt = example.prompt if isinstance(example.prompt, str) else _last(example.prompt)
    pairs = zip(first, second, strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return {
        "name": example.name,
        "prompt": prompt,
        "first": first,
        "second": second,
        "parts_at": None if first == second else common,
    }


def _last(chat: Mapping[str, Any] | None) -> str:
    return str((chat or {}).get("messages", [{}])[-1].get("content", ""))


# ------------------------------------------------------------------ scores


def _scores(
    first: _Opened, second: _Opened, documents: Sequence[Document], progress: Progress
) -> dict[str, Any]:
    """Bits per byte of both, the paired difference, and each document's own."""
    window = min(first.max_tokens, second.max_tokens, MAX_WINDOW)
    one, other = (
        measure(each.engine, each.tokens, _asked(each.tokens, documents), window=window, progress=p)
        for each, p in ((first, progress), (second, progress))
    )
    change = paired_interval(other, one)
    rows: list[dict[str, Any]] = [
        {"name": name, "first": before, "second": after, "difference": after - before}
        for name, before, after in zip(one.document_names, _each(one), _each(other), strict=True)
    ]
    rows.sort(key=lambda row: -row["difference"])
    return {
        "metric": one.metric.name,
        "documents": len(documents),
        "first": one.value,
        "second": other.value,
        **{f"difference_{key}": value for key, value in asdict(change).items()},
        "better": {1: "first", -1: "second", 0: None}[change.sign],  # less is better
        "num_worse": sum(row["difference"] > 0 for row in rows),
        "per_document": rows,  # what the second loses most on first
    }


def _each(found: QualityMeasure) -> list[float]:
    values: NDArray[np.float64] = found.numerator / found.denominator
    return [float(value) for value in values]


def _asked(tokens: Tokens, documents: Sequence[Document]) -> Asked:
    """Every document in a model's ids, to be scored as it is."""
    encoded = []
    for document in documents:
        ids, mask = tokens.encode_arrays(document)
        num_bytes = sum(_num_bytes(part) for part in document.parts)
        encoded.append(HeldoutDocument(document.name, ids, mask, num_bytes))
    return Asked(LikelihoodTask(), tuple(encoded), (None,) * len(encoded))


def _num_bytes(part: Part) -> int:
    """Of a text, or of the assistant's turns of a chat, which are what is scored of it."""
    if isinstance(part.value, str):
        return len(part.value.encode())
    turns = [turn for turn in part.value["messages"] if turn.get("role") == "assistant"]
    return max(1, sum(len(str(turn.get("content") or "").encode()) for turn in turns))

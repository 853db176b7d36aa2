"""What people said of a server's answers, as rows that `dpo` and `sft` learn from.

    <home>/.serving/feedback.jsonl      what was said, with the question and the answer
    <home>/.serving/answers.jsonl*      both of them once more, where `serve.log_text` keeps them

A text is used where its reader sent it with the opinion, or where the server's log keeps texts; of
any other there is none. All that was said of one answer counts as one opinion, its last words
first (see `_join`). What makes no row is counted by reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whorl.core.digests import digest_value

__all__ = ["Collected", "collect", "name_of", "read_feedback"]

FEEDBACK, ANSWERS = "feedback.jsonl", "answers.jsonl"
ASKED = ("messages", "tools", "prompt")  # of an answer of the log, whichever it has
ID_CHARS = 32  # of a request, at the end of what its clients are told
REQUEST_ID = re.compile(rb'"id": "([0-9a-f]{32})"')  # quotes in texts are escaped

CORRECTED = "corrected: the correction is chosen, the answer rejected"
PREFERRED = "better than another answer: it is chosen, the other rejected"
GOOD = "rated good"
CORRECTION_ALONE = "corrected, the answer not kept: the correction alone"
COMPLETION = "corrected completion: learned as text"
AGAIN = "the same row again"
BAD = "rated bad without a correction: nothing says what would be better"
NO_QUESTION = "question not sent with the opinion, nor in the log (serve.log_text) as one text"
NO_ANSWER = "answer not sent with the opinion, nor in the log (serve.log_text) as one text"
NO_TEXT = "question is no text"
EMPTY, EMPTY_ANSWER = "correction is empty", "answer without text"
OTHER_MODEL, OTHER_VERSION = "of another model", "of another version"
BROKEN = "line that is no opinion"

Values = Mapping[str, Any]


@dataclass
class Collected:
    """rows: in the order of what was said. used, left: opinions by what became of them.

    versions: (version, variant, contract) -> what was said of its answers.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    versions: dict[tuple[int, str, str], Counter[str]] = field(default_factory=dict)

    @property
    def num_pairs(self) -> int:
        return sum("chosen" in row for row in self.rows)


def read_feedback(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """(lines of the feedback in a server's folder, how many others there are); a missing file has
    none."""
    path = folder / FEEDBACK
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        parsed = [_parsed(line) for line in file]
    lines = [line for line in parsed if isinstance(line, dict) and _is_opinion(line)]
    return lines, len(parsed) - len(lines)


def _is_opinion(line: Values) -> bool:
    """Others may have been written by hand."""
    texts = ("id", "model", "over", "answer", "correction")
    is_text = all(isinstance(line[key], str) for key in texts if key in line)
    return is_text and {"id", "model"} <= line.keys()


def name_of(line: Values) -> str:
    """Of the model that is meant; one served beside another is called mine@2 or mine:hf-f32."""
    return re.split("[@:]", str(line["model"]))[0]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def collect(folder: Path, name: str, version: int | None = None) -> Collected:
    """What was said of a model's answers, of one version or (None) of all.

    folder: of the server. Texts do not depend on the token contract that an answer was given under,
    so those of all are taken; `versions` tells which there are.
    """
    found = Collected()
    lines, broken = read_feedback(folder)
    found.left[BROKEN] += broken
    opinions: dict[str, dict[str | None, dict[str, Any]]] = {}  # by request and answer
    for line in lines:
        if name not in (line["model"], name_of(line)):
            found.left[OTHER_MODEL] += 1
        elif version is not None and line.get("version") != version:
            found.left[OTHER_VERSION] += 1
        else:
            _join(opinions.setdefault(line["id"][-ID_CHARS:], {}), line)
    joined = [each for of_request in opinions.values() for each in of_request.values()]
    answers = _texts(folder, joined)
    seen: set[str] = set()
    for opinion in joined:
        said = {**answers[opinion["id"][-ID_CHARS:]], **opinion}
        _count(found, said)
        what, row = _example(said, answers)
        if row is None:
            found.left[what] += 1
        elif (digest := digest_value(row)) in seen:
            found.left[AGAIN] += 1
        else:
            seen.add(digest)
            found.used[what] += 1
            about = {key: said[key] for key in ("id", "version", "caller", "time") if key in said}
            found.rows.append({**row, "feedback": about})
    found.left += Counter()  # without zeros
    return found


def _join(of_request: dict[str | None, dict[str, Any]], line: dict[str, Any]) -> None:
    """One more line of a request, whose several answers are told apart by their texts.

    Good takes an earlier correction back; that an answer is better than another stays true.
    """
    answer = line.get("answer")
    if answer is None and of_request:
        answer = next(reversed(of_request))
    elif answer is not None and None in of_request:
        of_request[answer] = of_request.pop(None)
    before = of_request.get(answer, {})
    if line.get("rating") == "up":
        before.pop("correction", None)
    of_request[answer] = {**before, **line}


def _count(found: Collected, said: Values) -> None:
    key = int(said.get("version", 0)), str(said.get("variant", "")), str(said.get("contract", ""))
    counts = found.versions.setdefault(key, Counter())
    counts["opinions"] += 1
    counts["good"] += said.get("rating") == "up"
    counts["bad"] += said.get("rating") == "down"
    counts["corrected"] += "correction" in said


# ------------------------------------------------------------------ texts


def _texts(folder: Path, opinions: Sequence[Values]) -> dict[str, dict[str, Any]]:
    """What is known of answers by their requests' ids: "messages" (with "tools") or "prompt", and
    "answer"; of opinions, and of the log where they do not say."""
    known: dict[str, dict[str, Any]] = {}
    keys = ("messages", "prompt", "answer")
    for opinion in opinions:
        texts = {key: opinion[key] for key in keys if opinion.get(key) is not None}
        known.setdefault(opinion["id"][-ID_CHARS:], {}).update(texts)
        if (other := opinion.get("over")) is not None:
            known.setdefault(other[-ID_CHARS:], {})
    lacking = {
        request_id
        for request_id, texts in known.items()
        if "answer" not in texts or not texts.keys() & {"messages", "prompt"}
    }
    for request_id, logged in _logged(folder, lacking):
        known[request_id] = {**logged, **known[request_id]}
    return known


def _logged(folder: Path, wanted: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, texts) of those of the wanted answers that the log keeps texts of."""
    for path in sorted(folder.glob(f"{ANSWERS}*")) if wanted else ():
        with path.open("rb") as file:
            for line in file:
                told = REQUEST_ID.search(line)
                if told is None or told[1].decode() not in wanted:
                    continue
                found = _parsed(line)
                if isinstance(found, dict) and "texts" in found:
                    texts = {key: found[key] for key in ASKED if key in found}
                    if len(found["texts"]) == 1 and found["texts"][0] is not None:
                        texts["answer"] = found["texts"][0]  # of several nobody says which
                    yield told[1].decode(), texts


# ------------------------------------------------------------------ rows


def _example(said: Values, answers: Mapping[str, Values]) -> tuple[str, dict[str, Any] | None]:
    """(what an opinion is, its row), or (why there is none, None)."""
    answer: str | None = said.get("answer")
    correction: str | None = said.get("correction")
    is_chat = bool(said.get("messages"))
    if correction is None and (
        said.get("rating") == "down" or not {"rating", "over"} & said.keys()
    ):
        return BAD, None
    if not is_chat and said.get("prompt") is None:
        return NO_QUESTION, None
    if not is_chat and not isinstance(said["prompt"], str):
        return NO_TEXT, None
    if correction is not None and correction != answer:
        if not correction.strip():
            return EMPTY, None
        if not is_chat:
            return COMPLETION, _row(said, correction)
        if answer is None or not answer.strip():
            return CORRECTION_ALONE, _row(said, correction)
        return CORRECTED, _row(said, correction, answer)
    if answer is None:
        return NO_ANSWER, None
    if not answer.strip():
        return EMPTY_ANSWER, None
    other: str = answers.get(str(said.get("over", ""))[-ID_CHARS:], {}).get("answer", "")
    if is_chat and other.strip() and other != answer:
        return PREFERRED, _row(said, answer, other)
    return GOOD, _row(said, answer)


def _row(said: Values, better: str, worse: str | None = None) -> dict[str, Any]:
    """A pair, a chat, or the text of a completion, as the field `chat` reads them."""
    if not (messages := list(said.get("messages") or ())):
        return {"text": said["prompt"] + better}
    before, begun = messages, ""
    if messages[-1].get("role") == "assistant":  # the answer went on with it
        before, begun = messages[:-1], str(messages[-1].get("content") or "")
    turns = [[{"role": "assistant", "content": begun + text}] for text in (better, worse or "")]
    tools = {"tools": said["tools"]} if said.get("tools") else {}
    if worse is None:
        return {"messages": [*before, *turns[0]], **tools}
    return {"prompt": before, "chosen": turns[0], "rejected": turns[1], **tools}

"""Rows to learn from: each by hand beside what was said; nothing is lost on the way."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from whorl.fields.chat_shapes import recognised
from whorl.stages.improve import feedback
from whorl.stages.improve.feedback import Collected, collect

USER = {"role": "user", "content": "Where do shells grow?"}
TOLD = {"version": 1, "variant": "hf f32", "contract": "ab" * 16, "caller": "key a"}


def line(number: int, kind: str = "chatcmpl-", **said: Any) -> dict[str, Any]:
    return {"id": f"{kind}{number:032x}", "model": "mine", **TOLD, **said}


def collected(
    folder: Path, *lines: Mapping[str, Any], log: tuple[Mapping[str, Any], ...] = (), **asked: Any
) -> Collected:
    for name, content in ((feedback.FEEDBACK, lines), (feedback.ANSWERS, log)):
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in content))
    return collect(folder, "mine", **asked)


def bare(found: Collected) -> list[dict[str, Any]]:
    """The rows without where they come from."""
    return [{key: row[key] for key in row if key != "feedback"} for row in found.rows]


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_what_each_opinion_becomes(tmp_path: Path) -> None:
    chat: dict[str, Any] = {"messages": [USER], "answer": "In trees."}
    begun = [USER, answer("At ")]
    found = collected(
        tmp_path,
        line(1, **chat, rating="down"),
        line(1, **chat, correction="At the rim."),
        line(2, messages=[USER], answer="At their rim.", rating="up"),
        line(3, messages=[USER], answer="At the edge.", rating="up", over=line(1)["id"]),
        line(4, messages=begun, answer="the top.", correction="the rim."),
        line(5, "cmpl-", prompt="Shells grow", answer=" up", correction=" at the rim"),
        line(6, "cmpl-", prompt="Shells", answer=" grow", rating="up"),
        line(7, messages=[USER], correction="At the mouth."),
        line(8, messages=[USER], answer="As it is.", correction="As it is."),
    )
    assert bare(found) == [
        {"prompt": [USER], "chosen": [answer("At the rim.")], "rejected": [answer("In trees.")]},
        {"messages": [USER, answer("At their rim.")]},
        {"prompt": [USER], "chosen": [answer("At the edge.")], "rejected": [answer("In trees.")]},
        {"prompt": [USER], "chosen": [answer("At the rim.")], "rejected": [answer("At the top.")]},
        {"text": "Shells grow at the rim"},
        {"text": "Shells grow"},
        {"messages": [USER, answer("At the mouth.")]},
        {"messages": [USER, answer("As it is.")]},
    ]
    assert not found.left and found.num_pairs == 3
    assert found.rows[0]["feedback"] == {"id": line(1)["id"], "version": 1, "caller": "key a"}
    ((key, counts),) = found.versions.items()
    assert key == (1, "hf f32", "ab" * 16)
    assert counts == {"opinions": 8, "good": 3, "bad": 1, "corrected": 5}
    told: list[str] = []
    for row in found.rows:
        shape = recognised(row, "text", told.append)  # as prepare reads them
        last = [chat["messages"][-1]["content"] for chat in shape.chats] or [shape.text]
        assert last[0] in json.dumps(row)
    assert not told


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"messages": [USER], "answer": "No.", "rating": "down"}, feedback.BAD),
        ({"rating": "down"}, feedback.BAD),
        ({"rating": "up"}, feedback.NO_QUESTION),
        ({"messages": [], "rating": "up", "answer": "x"}, feedback.NO_QUESTION),
        ({"messages": [USER], "rating": "up"}, feedback.NO_ANSWER),
        ({"messages": [USER], "answer": " ", "rating": "up"}, feedback.EMPTY_ANSWER),
        ({"messages": [USER], "answer": "x", "correction": "\n"}, feedback.EMPTY),
        ({"prompt": [1, 2, 3], "answer": "x", "correction": "y"}, feedback.NO_TEXT),
        ({"model": "other", "rating": "up"}, feedback.OTHER_MODEL),
        ({"version": 2, "rating": "up"}, feedback.OTHER_VERSION),
    ],
)
def test_what_makes_no_row_is_told(tmp_path: Path, said: dict[str, Any], reason: str) -> None:
    found = collected(tmp_path, line(1, **said), version=1)
    assert not found.rows and found.left == {reason: 1}


def test_what_was_served_beside_it_is_the_same_model(tmp_path: Path) -> None:
    """By the names that `whorl serve --beside` gives; of a pair each side has its own."""
    said: dict[str, Any] = {"messages": [USER], "rating": "up"}
    lines = [
        line(1, **said, answer="a"),
        line(2, **said, answer="b", over=line(1)["id"]) | {"model": "mine@2", "version": 2},
        line(3, **said, answer="c") | {"model": "mine:hf-f32"},
        line(4, **said, answer="d") | {"model": "mine2@1"},
    ]
    found = collected(tmp_path, *lines)
    assert found.left == {feedback.OTHER_MODEL: 1} and len(found.rows) == 3
    assert found.num_pairs == 1 and sorted(key[0] for key in found.versions) == [1, 2]
    assert len(collected(tmp_path, *lines, version=2).rows) == 1


def test_the_last_word_on_an_answer_counts(tmp_path: Path) -> None:
    """Also where one of its opinions did not say which of the answers is meant."""
    chat: dict[str, Any] = {"messages": [USER], "answer": "In trees."}
    for lines, left in (
        ([{"rating": "up"}, {"rating": "down"}], {feedback.BAD: 1}),
        ([{"rating": "down"}, {"rating": "up"}], {}),
    ):
        found = collected(tmp_path, *(line(1, **chat, **each) for each in lines))
        assert found.left == left and len(found.rows) == 1 - len(left)
    found = collected(tmp_path, line(1, rating="up"), line(1, **chat, correction="No."))
    assert [sorted(row) for row in bare(found)] == [["chosen", "prompt", "rejected"]]
    for again, wanted in (
        ({"rating": "up"}, ["messages"]),
        ({"rating": "up", "over": line(2)["id"]}, ["messages"]),
        ({"rating": "down"}, ["chosen", "prompt", "rejected"]),
    ):
        found = collected(tmp_path, line(1, **chat, correction="No."), line(1, **again))
        assert [sorted(row) for row in bare(found)] == [wanted]
        assert found.versions[1, "hf f32", "ab" * 16]["corrected"] == ("chosen" in wanted)
    better = line(1, messages=[USER], answer="b", over=line(2)["id"])
    other = line(2, messages=[USER], answer="a", rating="down")
    (row,) = bare(collected(tmp_path, other, better, line(1, rating="up")))
    assert row["chosen"] == [answer("b")] and row["rejected"] == [answer("a")]
    two = [line(1, messages=[USER], answer=text, rating="up") for text in ("a", "b")]
    assert len(collected(tmp_path, *two).rows) == 2  # answers of one request


def test_the_same_row_is_taken_once(tmp_path: Path) -> None:
    same: dict[str, Any] = {"messages": [USER], "answer": "a", "correction": "b"}
    found = collected(tmp_path, *(line(number, **same) for number in range(3)))
    assert len(found.rows) == 1 and found.left == {feedback.AGAIN: 2}


def test_the_log_fills_in_what_was_not_sent(tmp_path: Path) -> None:
    """Where it keeps texts; of an answer of several nobody knows which one is meant."""
    tools = [{"name": "tide", "parameters": {"type": "object"}}]
    logged = {"messages": [USER], "tools": tools, "texts": ["In trees."], "prompts": ["<u>…"]}
    log = (
        {"id": f"{1:032x}", **logged},
        {"id": f"{2:032x}", "prompt": "Shells", "texts": [" grow"]},
        {"id": f"{3:032x}", "prompt": "Shells", "texts": [" grow", " go"]},
        {"id": f"{4:032x}", "tokens": 5},
        {"id": f"{5:032x}", **logged},
        {"id": f"{7:032x}", **logged, "texts": [None]},  # a call of a tool
    )
    found = collected(
        tmp_path,
        line(1, correction="At the rim."),
        line(2, "cmpl-", rating="up"),
        line(3, "cmpl-", rating="up"),
        line(4, rating="up"),
        line(6, messages=[USER], answer="Up.", rating="up", over=line(5)["id"]),
        line(7, rating="up"),
        log=log,
    )
    assert bare(found) == [
        {
            "prompt": [USER],
            "chosen": [answer("At the rim.")],
            "rejected": [answer("In trees.")],
            "tools": tools,
        },
        {"text": "Shells grow"},
        {"prompt": [USER], "chosen": [answer("Up.")], "rejected": [answer("In trees.")]},
    ]
    assert found.left == {feedback.NO_ANSWER: 2, feedback.NO_QUESTION: 1}
    assert recognised(found.rows[0], "text", print).chats[0]["tools"][0]["function"] == tools[0]


def test_every_opinion_is_counted_once(tmp_path: Path, trials: Callable[[int], int]) -> None:
    """Of random files: as many as there are answers that were spoken of, and lines of no such."""
    for seed in range(trials(40)):
        draw = random.Random(seed)
        lines: list[dict[str, Any]] = []
        for _ in range(draw.randrange(30)):
            said: dict[str, Any] = {"answer": draw.choice("ab "), "version": draw.randrange(2)}
            optional = {
                "rating": draw.choice(["up", "down"]),
                "correction": draw.choice(["a", "c", ""]),
                "messages": [USER],
                "prompt": draw.choice(["p", [1]]),
                "over": line(draw.randrange(4))["id"],
                "model": "other",
            }
            said |= {key: value for key, value in optional.items() if draw.random() < 0.4}
            lines.append(line(draw.randrange(6), **said))
        found = collected(tmp_path, *lines, version=1)
        with (tmp_path / feedback.FEEDBACK).open("a") as file:
            file.write("half a line")
        answers = {
            (each["id"], each["answer"])
            for each in lines
            if (each["model"], each["version"]) == ("mine", 1)
        }
        others = sum((each["model"], each["version"]) != ("mine", 1) for each in lines)
        counted = found.used.total() + found.left.total()
        assert counted == len(answers) + others, seed
        assert found.used.total() == len(found.rows)
        assert sum(each["opinions"] for each in found.versions.values()) == len(answers)
        assert collect(tmp_path, "mine", 1).left[feedback.BROKEN] == 1


def test_a_file_of_opinions_is_no_data() -> None:
    """An answer that was rated bad would be learned as one."""
    said = line(1, prompt="Where?", answer="Nowhere.", rating="down")
    with pytest.raises(ValueError, match="opinion of a server") as refused:
        recognised(said, "text", print)
    assert "whorl improve" in refused.value.args[1]
    of_calls = {"caller": "Ann", "contract": "gold", "id": 7, "prompt": "Hi?", "completion": "Hi."}
    assert recognised(of_calls, "text", print).chats


@pytest.mark.parametrize(
    ("key", "value"),
    [("id", 7), ("id", None), ("model", []), ("over", 7), ("answer", {}), ("correction", 1)],
)
def test_a_line_that_was_written_by_hand_is_counted(tmp_path: Path, key: str, value: Any) -> None:
    good = line(1, messages=[USER], answer="Up.", rating="up")
    found = collected(tmp_path, {**good, key: value}, good)
    assert len(found.rows) == 1 and found.left == {feedback.BROKEN: 1}

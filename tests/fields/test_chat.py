"""Chats as people have them: every format gives the same chat; every kind of damage is counted."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from whorl.core.ports import Document, Source
from whorl.core.reasons import Reason, table_rows
from whorl.fields.chat import FIELD
from whorl.fields.text import FIELD as TEXT

USER, ANSWER = "What is 2 + 2?", "It is 4."
ASKED = {"role": "user", "content": USER}
ANSWERED = {"role": "assistant", "content": ANSWER}
PLAIN = {"messages": [ASKED, ANSWERED]}
SYSTEM = {"role": "system", "content": "Be short."}
WITH_SYSTEM = {"messages": [SYSTEM, ASKED, ANSWERED]}
WORSE = {"role": "assistant", "content": "It is 5."}
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}},
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
CALLED = [
    {"role": "user", "content": "Add 2 and 2."},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", **CALL}]},
    {"role": "tool", "content": "4", "tool_call_id": "call_1"},
    {"role": "assistant", "content": "4"},
]


def read(path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    source, reasons = Source(str(path), "chat", options=options), Counter[str]()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    found = [d for item in FIELD.items(source) for d in FIELD.read(source, item, reject)]
    return found, reasons


def of(tmp_path: Path, *rows: Any) -> tuple[list[Document], Counter[str]]:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return read(path)


def values(documents: list[Document]) -> list[Any]:
    return [part.value for document in documents for part in document.parts]


@pytest.mark.parametrize(
    ("row", "shape", "chat"),
    [
        (PLAIN, "OpenAI messages", PLAIN),
        ({"id": 3, "dialog": [ASKED, ANSWERED]}, "OpenAI messages", PLAIN),
        ({"anything": [ASKED, ANSWERED]}, "OpenAI messages", PLAIN),
        ({"messages": json.dumps([ASKED, ANSWERED])}, "OpenAI messages", PLAIN),
        (WITH_SYSTEM, "OpenAI messages", WITH_SYSTEM),
        ({"system": "Be short.", **PLAIN}, "OpenAI messages", WITH_SYSTEM),
        (
            {"messages": [{"role": "developer", "content": "Be short."}, ASKED, ANSWERED]},
            "OpenAI messages",
            WITH_SYSTEM,
        ),
        (
            {"messages": [{**ASKED, "content": [{"type": "text", "text": USER}]}, ANSWERED]},
            "OpenAI messages",
            PLAIN,
        ),
        (
            {"conversations": [{"from": "human", "value": USER}, {"from": "gpt", "value": ANSWER}]},
            "ShareGPT",
            PLAIN,
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": USER},
                    {"from": "gpt", "value": ANSWER},
                ],
                "system": "Be short.",
            },
            "ShareGPT",
            WITH_SYSTEM,
        ),
        ({"instruction": USER, "input": "", "output": ANSWER}, "Alpaca", PLAIN),
        (
            {"instruction": "Add.", "input": "2, 2", "output": "4"},
            "Alpaca",
            {
                "messages": [
                    {"role": "user", "content": "Add.\n\n2, 2"},
                    {"role": "assistant", "content": "4"},
                ]
            },
        ),
        (
            {"instruction": USER, "output": ANSWER, "history": [["Hi", "Hello."]]},
            "Alpaca",
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello."},
                    ASKED,
                    ANSWERED,
                ]
            },
        ),
        (
            {
                "prompt": USER,
                "response": ANSWER,
                "history": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello."},
                ],
            },
            "prompt/completion",
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello."},
                    ASKED,
                    ANSWERED,
                ]
            },
        ),
        (
            {"question": "Add.", "input": "2", "context": "and 2", "answer": "4"},
            "prompt/completion",
            {
                "messages": [
                    {"role": "user", "content": "Add.\n\n2\n\nand 2"},
                    {"role": "assistant", "content": "4"},
                ]
            },
        ),
        ({"prompt": USER, "completion": ANSWER}, "prompt/completion", PLAIN),
        ({"prompt": [ASKED], "completion": [ANSWERED]}, "prompt/completion", PLAIN),
        ({"question": USER, "answer": ANSWER, "id": 7}, "prompt/completion", PLAIN),
        ({"prompt": "Say []", "completion": '{"a": []}'}, "prompt/completion", None),
        ({"text": "Only a text."}, "plain text", "Only a text."),
    ],
)
def test_every_format_gives_the_same_chat(
    tmp_path: Path, row: dict[str, Any], shape: str, chat: Any
) -> None:
    documents, reasons = of(tmp_path, row)
    if chat is not None:
        assert values(documents) == [chat]
    assert reasons == {shape: 1} and reasons.keys() == {shape}
    (told,) = table_rows(reasons)
    assert (told["what"], told["example"]) == ("read", "rows.jsonl, line 1")


def test_tools_come_as_templates_read_them(tmp_path: Path) -> None:
    text = {**CALL["function"], "arguments": json.dumps(CALL["function"]["arguments"])}
    openai = [CALLED[0], {**CALLED[1], "tool_calls": [{"id": "call_1", "function": text}]}]
    older = [CALLED[0], {"role": "assistant", "content": None, "function_call": text}]
    older += [{"role": "function", "name": "add", "content": "4"}, CALLED[3]]
    sharegpt = [
        {"from": "human", "value": "Add 2 and 2."},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "4"},
    ]
    documents, reasons = of(
        tmp_path,
        {"messages": [*openai, *CALLED[2:]], "tools": [TOOL]},
        {"messages": older, "functions": [TOOL["function"]]},
        {"conversations": sharegpt, "tools": json.dumps([TOOL["function"]])},
    )
    first, second, third = values(documents)
    assert first == {"messages": CALLED, "tools": [TOOL]}
    assert second["messages"][1]["tool_calls"] == [CALL] == third["messages"][1]["tool_calls"]
    assert [m["role"] for m in second["messages"]] == [m["role"] for m in third["messages"]]
    assert second["tools"] == third["tools"] == [TOOL]
    assert reasons["function_call of OpenAI's older API read as tool_calls"] == 1


PAIR = [PLAIN, {"messages": [ASKED, WORSE]}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": USER, "chosen": ANSWER, "rejected": WORSE["content"]},
        {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [WORSE]},
        {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, WORSE]},
        {"prompt": USER, "chosen": [ASKED, ANSWERED], "rejected": [ASKED, WORSE]},
        {"prompt": USER, "chosen": ANSWERED, "rejected": WORSE},
        {"question": USER, "chosen": ANSWER, "rejected": WORSE["content"], "system": ""},
        {
            "input": {"messages": [ASKED]},
            "preferred_output": [ANSWERED],
            "non_preferred_output": [WORSE],
        },
        {
            "conversations": [{"from": "human", "value": USER}],
            "chosen": {"from": "gpt", "value": ANSWER},
            "rejected": {"from": "gpt", "value": WORSE["content"]},
        },
        {
            "chosen": f"\n\nHuman: {USER}\n\nAssistant: {ANSWER}",
            "rejected": f"\n\nHuman: {USER}\n\nAssistant: {WORSE['content']}",
        },
    ],
)
def test_preferences_are_two_chats_of_one_prompt(tmp_path: Path, row: dict[str, Any]) -> None:
    documents, reasons = of(tmp_path, row)
    assert len(documents) == 1 and values(documents) == PAIR
    assert reasons == {"preferences (chosen/rejected)": 1}


def test_nothing_of_a_preference_is_left_out(tmp_path: Path) -> None:
    """The system's words beside whole conversations; an answer that writes of speakers."""
    speaking = f"{ANSWER}\n\nHuman: Thanks.\n\nAssistant: Gladly."
    documents, _ = of(
        tmp_path,
        {"system": "Be short.", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, WORSE]},
        {"prompt": USER, "chosen": speaking, "rejected": WORSE["content"]},
    )
    first, second, chosen, _ = values(documents)
    assert [first["messages"][0], second["messages"][0]] == [SYSTEM, SYSTEM]
    assert chosen["messages"] == [ASKED, {"role": "assistant", "content": speaking}]


def test_answers_of_the_prompt_and_of_weight_0_are_context(tmp_path: Path) -> None:
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    documents, _ = of(
        tmp_path,
        {"chosen": [*before, ASKED, ANSWERED], "rejected": [*before, ASKED, WORSE]},
        {"messages": [before[0], {**before[1], "weight": 0}, ASKED, ANSWERED]},
        {"messages": [before[0], {**before[1], "weight": 1}, ASKED, ANSWERED]},
    )
    assert [value.get("untrained") for value in values(documents)] == [[0], [0], [0], None]


BROKEN = json.dumps(PLAIN)[:-9]
DAMAGE: list[tuple[Any, str, str]] = [
    ({"messages": []}, "a chat without messages", ""),
    ({"messages": "hello"}, "messages are no list", "it is a text"),
    ({"messages": [ASKED, "hello"]}, "a message is no object", "it is a text"),
    ({"messages": [ASKED, {"content": "x"}]}, "a message without a role", "it has content"),
    ({"messages": [ASKED, {**ANSWERED, "role": "robot"}]}, "a role that is not known", "'robot'"),
    ({"messages": [{"role": "user"}, ANSWERED]}, "a message without content", "of user"),
    ({"messages": [{**ASKED, "content": "  "}, ANSWERED]}, "a user's turn is empty", ""),
    ({"messages": [{**ASKED, "content": 7}, ANSWERED]}, "content is not a text", "a number"),
    (
        {"messages": [{**ASKED, "content": [{"type": "image_url"}]}, ANSWERED]},
        "content is not a text",
        "image_url",
    ),
    ({"messages": [ASKED]}, "no turn of the assistant", ""),
    ({"messages": [ASKED, {**ANSWERED, "weight": 0}]}, "no turn of the assistant", "weight of 0"),
    ({"messages": [ASKED, {**ANSWERED, "content": ""}]}, "a turn of the assistant is empty", ""),
    ({"messages": [ANSWERED, ASKED, ANSWERED]}, "roles out of order", "assistant comes first"),
    ({"messages": [ASKED, ASKED, ANSWERED]}, "roles out of order", "user after user, message 2"),
    ({"messages": [ASKED, SYSTEM, ANSWERED]}, "roles out of order", "system after user"),
    ({"messages": [ASKED, ANSWERED, ANSWERED]}, "roles out of order", "assistant after assistant"),
    (
        {"messages": [ASKED, ANSWERED, {"role": "tool", "content": "4"}, ANSWERED]},
        "roles out of order",
        "tool after assistant",
    ),
    (
        {
            "messages": [
                ASKED,
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "add", "arguments": "{a: 2}"}}],
                },
            ]
        },
        "arguments of a tool call are no JSON object",
        "{a: 2}",
    ),
    (
        {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "a tool call without a name",
        "",
    ),
    ({"messages": [ASKED, {**ANSWERED, "tool_calls": "add"}]}, "tool_calls are no list", "a text"),
    (
        {"messages": [*CALLED[:2], {**CALLED[2], "tool_call_id": "call_9"}, CALLED[3]]},
        "an answer to no tool call",
        "message 3",
    ),
    ({**PLAIN, "tools": [{"type": "function"}]}, "tools are no list of functions", "no name"),
    ({**PLAIN, "tools": "add"}, "tools are no list of functions", "a text"),
    ({"conversations": [{"from": "gpt", "value": ANSWER}]}, "roles out of order", "comes first"),
    ({"instruction": "", "output": "x"}, "a user's turn is empty", ""),
    ({"prompt": USER, "completion": ""}, "a turn of the assistant is empty", ""),
    ({"prompt": USER, "chosen": "a", "rejected": "a"}, "chosen and rejected are the same", ""),
    ({"chosen": "a", "rejected": "b"}, "chosen and rejected without a prompt", ""),
    (
        {"chosen": [ASKED, ANSWERED], "rejected": [{**ASKED, "content": "?"}, ANSWERED]},
        "chosen and rejected have not one prompt",
        "",
    ),
    (
        {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED, ASKED, WORSE]},
        "of chosen and rejected one is the beginning of the other",
        "",
    ),
    (ASKED, "a message without its conversation", '{"messages": [message, …]}'),
    ({"score": 3, "name": "x"}, "no chat that is known", "it has score, name"),
    ({}, "no chat that is known", "it is empty"),
    (
        {"prompt": USER, "response": "x", "history": 5},
        "history is no list of [question, answer]",
        "",
    ),
    ({"text": "  "}, "empty", ""),
    (BROKEN, "JSON ends too early", ""),
    ('"hello"', "JSON but not an object", "it is a text"),
]


@pytest.mark.parametrize(("row", "words", "hint"), DAMAGE)
def test_damage_is_refused_with_its_place(tmp_path: Path, row: Any, words: str, hint: str) -> None:
    documents, reasons = of(tmp_path, PLAIN, row, WITH_SYSTEM)
    assert values(documents) == [PLAIN, WITH_SYSTEM], "the rows beside it are read"
    (refused,) = (r for r in reasons if isinstance(r, Reason) and r.kind == "refused")
    assert (str(refused), reasons[refused]) == (words, 1)
    assert refused.place is not None and refused.place.line == 2 and hint in refused.hint


def test_what_is_mended_is_told(tmp_path: Path) -> None:
    documents, reasons = of(
        tmp_path,
        {"messages": [ASKED, ANSWERED, ASKED]},
        [ASKED, ANSWERED],
        {"messages": [ASKED, {**ANSWERED, "content": "It\0 is 4.\ud800"}]},
    )
    assert values(documents)[:2] == [PLAIN, PLAIN]
    assert values(documents)[2]["messages"][1]["content"] == "It is 4.\ufffd"
    assert {str(r) for r in reasons if isinstance(r, Reason) and r.kind == "mended"} == {
        "what follows the last turn of the assistant left out",
        "a line that is a list of messages read as one chat",
        "NUL taken out of the text",
        "half a sign (lone surrogate) replaced in the text",
    }


def test_a_folder_of_many_formats(tmp_path: Path) -> None:
    rows = [PLAIN, WITH_SYSTEM]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(PLAIN).encode()))
    (tmp_path / "c.csv").write_text(f"instruction,output\n{USER},{ANSWER}\n")
    with_nulls = [{"messages": CALLED, "tools": None}, {"messages": rows[1]["messages"]}]
    table = pyarrow.Table.from_pylist(with_nulls)  # every message gets the keys of all
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    (tmp_path / "e.txt").write_text("Only a text.")
    (tmp_path / "f.bin").write_bytes(b"\0")
    documents, reasons = read(tmp_path)
    assert values(documents) == [*rows, PLAIN, PLAIN, {"messages": CALLED}, rows[1], "Only a text."]
    kinds = {(row["what"], row["reason"]): row["count"] for row in table_rows(reasons)}
    assert kinds["read", "OpenAI messages"] == 5
    assert kinds["read", "Alpaca"] == kinds["read", "plain text"] == 1
    assert kinds["mended", "rows in an array"] == 2 and ("passed over", "suffix .bin") in kinds


def test_the_field_of_text_names_this_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": USER, "output": ANSWER}))
    source, reasons = Source(str(path), "text"), list[str]()
    assert not [d for item in TEXT.items(source) for d in TEXT.read(source, item, reasons.append)]
    (reason,) = reasons
    assert isinstance(reason, Reason) and "but a chat" in reason and "field: chat" in reason.hint

"""Answers written in each format by hand, and read again however they are cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whorl.stages.serve.formats.choose import call_schema, dialogue_of
from whorl.stages.serve.formats.events import (
    CallBegun,
    CallEnded,
    CallWritten,
    Event,
    Reader,
    Said,
    SayingReader,
    Thought,
    joined,
)
from whorl.stages.serve.formats.hermes import HermesReader
from whorl.stages.serve.formats.mistral import MistralReader
from whorl.stages.serve.formats.plain_json import PlainJsonReader
from whorl.stages.serve.formats.think import ThinkReader

NAMES = ("get_weather", "f", "größe")
MAKERS: dict[str, Callable[[], Reader]] = {
    "hermes": HermesReader,
    "mistral": MistralReader,
    "json": lambda: PlainJsonReader(NAMES),
    "llama3": lambda: PlainJsonReader(NAMES, "<|python_tag|>"),
    "think": lambda: ThinkReader(SayingReader()),
    "thinking": lambda: ThinkReader(HermesReader(), begun=True),
}
# What the formats are made of, and what only looks like it.
SCRAPS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>"),
    *("<|python_tag|>", "```json\n", "```", "<tool", "_call>", "[TOOL", "</th", "{", "}", "["),
    *("]", ",", ";", ":", '"', "\\", "\n", "  ", "a", "é🎉", "null", "get_weather", '"name": '),
    '{"name": "f", "arguments": {"a": [1, "}"]}}',
    '{"name": "f", "parameters": null}',
    '{"arguments": {"b": 2} , "name": "get_weather"}',
    '{"name": "other", "arguments": {}}',
    '{"name": "f", "arguments": "{\\"q\\": 1}"}',
    '{"name": 5, "arguments": {}}',
    '"f"',
]
texts = st.lists(st.sampled_from(SCRAPS), max_size=8).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
calls = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=4), values, max_size=3)),
    min_size=1,
    max_size=3,
)
words = st.text("ab <[{ö\n", max_size=8).map(str.strip)
plain = st.text("ab [{ö\n", max_size=8).map(str.strip)


def read(maker: Callable[[], Reader], pieces: Sequence[str]) -> list[Event]:
    reader = maker()
    events = [event for piece in pieces for event in reader.push(piece)]
    return joined([*events, *reader.finish()])


def pieces_of(text: str, places: Sequence[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(edges)]


def called(events: Sequence[Event]) -> list[tuple[str, Any]]:
    """(name, arguments) of each call; all of them complete."""
    found: list[tuple[str, Any]] = []
    begun = [event for event in events if isinstance(event, CallBegun)]
    assert len(begun) == sum(isinstance(event, CallEnded) for event in events)
    for event in events:
        if isinstance(event, CallBegun):
            found.append((event.name, None))
        elif isinstance(event, CallWritten):
            found[-1] = (found[-1][0], json.loads(event.text))
    return found


def said(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Said))


@pytest.mark.parametrize("name", MAKERS)
@given(texts, st.lists(st.integers(0, 400), max_size=5))
@example('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [11, 12, 20, 40])
@example('[TOOL_CALLS][{"name": "f", "arguments": {}}] x', [1, 13, 14])
@example("<tool_call>{<tool_call>", [3])
def test_events_do_not_depend_on_the_cuts(name: str, text: str, places: list[int]) -> None:
    whole = read(MAKERS[name], [text])
    assert read(MAKERS[name], pieces_of(text, places)) == whole
    assert read(MAKERS[name], list(text)) == whole


@pytest.mark.parametrize("name", MAKERS)
@given(st.text(st.sampled_from('ab<>[]{}"`\\:,\n tool_calthink/|'), max_size=30))
def test_what_is_no_call_is_text_to_the_last_character(name: str, text: str) -> None:
    events = read(MAKERS[name], [text])
    if name.startswith("think"):
        given_out = "".join(getattr(event, "text", "") for event in events)
        assert "".join(given_out.split()) in "".join(text.split())
    elif not any(isinstance(event, CallBegun) for event in events):
        assert said(events) == text


@given(calls, words, words)
def test_hermes(written: list[tuple[str, Any]], before: str, between: str) -> None:
    if "<tool_call>" in before + between:
        return
    blocks = [
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': value})}\n</tool_call>"
        for name, value in written
    ]
    events = read(HermesReader, list(before + "\n" + f"\n{between}\n".join(blocks) + "\n"))
    assert called(events) == written
    assert said(events) == before + between * (len(written) - 1)


@given(calls, words, st.booleans())
def test_mistral(written: list[tuple[str, Any]], before: str, as_list: bool) -> None:
    listed = json.dumps([{"name": name, "arguments": value} for name, value in written])
    named = "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(value)}" for name, value in written)
    text = f"{before} [TOOL_CALLS] {listed}" if as_list else before + named
    events = read(MistralReader, list(text))
    assert called(events) == written and said(events) == before


@given(calls, st.sampled_from(["", "<|python_tag|>", "```json\n"]), st.booleans())
def test_json_without_marks(written: list[tuple[str, Any]], head: str, is_list: bool) -> None:
    objects = [json.dumps({"name": name, "parameters": value}) for name, value in written]
    text = f"[{', '.join(objects)}]" if is_list else "; ".join(objects)
    events = read(MAKERS["llama3"], list(head + text))
    assert called(events) == written and not said(events)


@given(
    calls, words.filter(lambda text: "<" not in text), words.filter(lambda text: "<" not in text)
)
def test_thoughts_before_calls(written: list[tuple[str, Any]], thought: str, text: str) -> None:
    block = json.dumps({"name": written[0][0], "arguments": written[0][1]})
    rest = f"\n{thought}\n</think>\n\n{text}\n<tool_call>\n{block}\n</tool_call>"
    for maker, whole in (
        (MAKERS["thinking"], rest),
        (lambda: ThinkReader(HermesReader()), f"<think>{rest}"),
    ):
        events = read(maker, list(whole))
        assert "".join(e.text for e in events if isinstance(e, Thought)) == thought
        assert said(events) == text and called(events) == written[:1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json", '{"name": "other", "arguments": {}}'),
        ("json", '{"weather": "f"}'),
        ("json", '{"name": "f", "argum'[:12]),
        ("llama3", "{ is a brace"),
        ("hermes", "<tool_call>get_weather()</tool_call>"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("mistral", "[TOOL_CALLS] are what I write"),
        ("mistral", "a [TOOL_CALLS][1, 2] b"),
    ],
)
def test_what_only_looks_like_a_call_is_said(name: str, text: str) -> None:
    assert read(MAKERS[name], list(text)) == [Said(text)]


def test_arguments_are_given_out_as_they_are_written() -> None:
    reader = HermesReader()
    reader.push('<tool_call>\n{"name": "f", "arg')
    assert reader.push('uments": {"city": "Par') == [CallWritten('{"city": "Par')]
    assert reader.push('is"} ') == [CallWritten('is"}')]
    assert reader.push("}") == [CallEnded()]


@pytest.mark.parametrize("cut", [45, 50, 55])
def test_a_call_that_is_cut_short_keeps_what_was_written(cut: int) -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {"city": "Paris"}}'[:cut]
    begun, written = read(HermesReader, list(text))
    assert begun == CallBegun("f")
    assert isinstance(written, CallWritten) and text.endswith(written.text)


@pytest.mark.parametrize(
    ("template", "calls", "thinks"),
    [
        ("{% if tools %}<tool_call>{% endif %}", "hermes", False),
        ("{% if tools %}<tool_call>{% endif %}<think></think>", "hermes", True),
        ("{{ tools }}[TOOL_CALLS]", "mistral", False),
        ('{{ tools }} {"name": …, "parameters": dictionary of argument …}', None, False),
        ("{{ tools }}<|python_tag|>", "llama3_json", False),
        ("{{ tools }}", "json", False),
        ("{{ messages }}", None, False),
        (None, None, False),
    ],
)
def test_the_template_says_the_format(template: str, calls: str | None, thinks: bool) -> None:
    found = dialogue_of(template)
    if template and "dictionary" in template:
        calls = "llama3_json"
    assert (found.calls and found.calls.name, found.thinks) == (calls, thinks)


def test_the_schema_of_a_call_keeps_references_apart() -> None:
    """Checked by jsonschema: two functions whose definitions have one name."""
    import jsonschema

    def function(name: str, kind: str) -> dict[str, Any]:
        place = {"$ref": "#/$defs/Place"}
        parameters = {
            "type": "object",
            "properties": {"at": {"type": "array", "items": place}},
            "required": ["at"],
            "$defs": {"Place": {"type": kind}},
        }
        return {"name": name, "parameters": parameters}

    dialogue = dialogue_of("{{ tools }}<tool_call>")
    assert dialogue.calls is not None
    functions = [function("f", "string"), function("g", "integer")]
    check = jsonschema.Draft202012Validator(call_schema(dialogue.calls, functions, None))
    for name, place, right in (("f", "x", True), ("f", 5, False), ("g", 5, True), ("h", 5, False)):
        assert check.is_valid({"name": name, "arguments": {"at": [place]}}) == right
    only = jsonschema.Draft202012Validator(call_schema(dialogue.calls, functions, "g"))
    assert not only.is_valid({"name": "f", "arguments": {"at": ["x"]}})
    assert only.is_valid({"name": "g", "arguments": {"at": [1]}})

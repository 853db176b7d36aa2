"""Every cell of docs/conformance.md, by the official clients: what is used reaches the engine, what
is taken changes nothing, what is refused raises the client's own error with the field's name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.policy.conftest import ROOT
from tests.stages.serve.conftest import API_KEY
from tests.stages.serve.dialects.conftest import WEATHER, Scripted
from whorl.core.ports import GenerateRequest

ASK = [{"role": "user", "content": "Hi"}]
BEGUN = [*ASK, {"role": "assistant", "content": "It is"}]
COMPLETIONS, CHAT, RESPONSES, MESSAGES = (
    f"/v1/{name}" for name in ("completions", "chat/completions", "responses", "messages")
)
BASE: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "a shell", "max_tokens": 4},
    CHAT: {"messages": ASK, "max_tokens": 4},
    RESPONSES: {"input": "a shell", "max_output_tokens": 4},
    MESSAGES: {"messages": ASK, "max_tokens": 4},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": WEATHER}
FLAT_TOOL = {"type": "function", **WEATHER}
ANTHROPIC_TOOL = {"name": WEATHER["name"], "input_schema": WEATHER["parameters"]}
NAMED = {"name": "a", "schema": SCHEMA}
# parameter -> (a value by route, "" of every route; field of GenerateRequest; what it is then)
ENGINE: dict[str, tuple[dict[str, Any], str, Any]] = {
    "allowed_token_ids": ({"": [20, 21]}, "allowed_ids", (20, 21)),
    "frequency_penalty": ({"": 0.5}, "frequency_penalty", 0.5),
    "guided_grammar": ({"": 'root ::= "a"'}, "grammar.text", 'root ::= "a"'),
    "guided_json": ({"": SCHEMA}, "grammar.text", json.dumps(SCHEMA)),
    "guided_regex": ({"": "a+"}, "grammar.text", "a+"),
    "guided_choice": ({"": ["a", "b"]}, "grammar.kind", "ebnf"),
    "ignore_eos": ({"": True}, "stop_ids", ()),
    "logit_bias": ({"": {"20": 3}}, "logit_bias", ((20, 3.0),)),
    "logprobs": ({COMPLETIONS: 2, CHAT: True}, "logprobs", ...),
    "max_completion_tokens": ({"": 3}, "max_tokens", 3),
    "max_output_tokens": ({"": 3}, "max_tokens", 3),
    "max_tokens": ({"": 3}, "max_tokens", 3),
    "min_p": ({"": 0.2}, "min_p", 0.2),
    "output_config": (
        {"": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "grammar.text",
        json.dumps(SCHEMA),
    ),
    "presence_penalty": ({"": 0.5}, "presence_penalty", 0.5),
    "repetition_penalty": ({"": 1.5}, "repetition_penalty", 1.5),
    "response_format": (
        {"": {"type": "json_schema", "json_schema": NAMED}},
        "grammar.text",
        json.dumps(SCHEMA),
    ),
    "seed": ({"": 77}, "seed", 77),
    "stop_token_ids": ({"": [30]}, "stop_ids", ...),
    "structured_outputs": ({"": {"regex": "a+"}}, "grammar.text", "a+"),
    "temperature": ({"": 0.25}, "temperature", 0.25),
    "text": (
        {"": {"format": {"type": "json_schema", **NAMED}}},
        "grammar.text",
        json.dumps(SCHEMA),
    ),
    "top_k": ({"": 7}, "top_k", 7),
    "top_p": ({"": 0.75}, "top_p", 0.75),
}
# parameter -> (fields by route, "" of every route): what it does is tested where it is written
ELSEWHERE: dict[str, dict[str, Any]] = {
    "answer_codec": {"": {"answer_codec": "text"}},
    "chat_template_kwargs": {"": {"chat_template_kwargs": {"enable_thinking": False}}},
    "continue_final_message": {"": {"continue_final_message": True, "messages": BEGUN}},
    "input": {"": {}},
    "instructions": {"": {"instructions": "Be short."}},
    "messages": {"": {}},
    "metadata": {"": {"metadata": {"a": "b"}}},
    "model": {"": {}},
    "n": {"": {"n": 2}},
    "parallel_tool_calls": {"": {"parallel_tool_calls": False}},
    "prompt": {"": {}},
    "stop": {"": {"stop": ["zz"]}},
    "stop_sequences": {"": {"stop_sequences": ["zz"]}},
    "stream": {"": {"stream": True}},
    "stream_options": {
        "": {"stream": True, "stream_options": {"include_usage": True}},
        RESPONSES: {"stream": True, "stream_options": {"include_obfuscation": False}},
    },
    "system": {"": {"system": "Be short."}},
    "thinking": {"": {"thinking": {"type": "disabled"}}},
    "tool_choice": {
        CHAT: {"tools": [TOOL], "tool_choice": "none"},
        RESPONSES: {"tools": [FLAT_TOOL], "tool_choice": "none"},
        MESSAGES: {"tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "none"}},
    },
    "tools": {
        CHAT: {"tools": [TOOL]},
        RESPONSES: {"tools": [FLAT_TOOL]},
        MESSAGES: {"tools": [ANTHROPIC_TOOL]},
    },
    "top_logprobs": {"": {"top_logprobs": 2}, CHAT: {"logprobs": True, "top_logprobs": 2}},
}
OBJECTS = ("metadata", "cache_control")  # of what is taken, else a text


def _cells() -> Iterator[tuple[str, str, str]]:
    lines = (ROOT / "docs/conformance.md").read_text("utf-8").splitlines()
    rows = lines[lines.index(next(line for line in lines if "| parameter" in line)) + 2 :]
    for row in rows:
        if not row.startswith("| `"):
            return
        name, *cells = (cell.strip() for cell in row.split("|")[1:-2])
        for path, cell in zip(BASE, cells, strict=True):
            if cell:
                yield name.strip("`"), path, cell


@pytest.fixture(scope="module")
def ask(scripted: Scripted) -> Iterator[Any]:
    """ask(path, fields): by the client whose route it is; all else goes in its `extra_body`."""
    base_url = scripted.running.base_url
    with (
        openai.OpenAI(
            api_key=API_KEY,
            base_url=f"{base_url}/v1",
            http_client=httpx.Client(trust_env=False),
            max_retries=0,
        ) as theirs,
        anthropic.Anthropic(
            api_key=API_KEY,
            base_url=base_url,
            http_client=anthropic.DefaultHttpxClient(trust_env=False),
            max_retries=0,
        ) as others,
    ):
        calls = {
            COMPLETIONS: theirs.completions.create,
            CHAT: theirs.chat.completions.create,
            RESPONSES: theirs.responses.create,
            MESSAGES: others.messages.create,
        }

        def send(path: str, fields: dict[str, Any]) -> GenerateRequest:
            body = BASE[path] | fields
            typed = {key: value for key, value in body.items() if key in (*BASE[path], "stream")}
            answer = calls[path](
                model="tiny",
                **typed,
                extra_body={key: value for key, value in body.items() if key not in typed},
            )
            if fields.get("stream"):
                assert list(answer)
            return scripted.asked

        yield send


def value_of(found: GenerateRequest, path: str) -> Any:
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("name", "path", "cell"), [*_cells()], ids=lambda value: value.strip("/"))
def test_a_cell_is_true(scripted: Scripted, ask: Any, name: str, path: str, cell: str) -> None:
    scripted.say("fine")
    refusals = (openai.BadRequestError, anthropic.BadRequestError)
    if cell == "used" and name in ENGINE:
        values, where, expected = ENGINE[name]
        before = value_of(ask(path, {}), where.partition(".")[0])
        fields = {name: values.get(path, values.get(""))}
        if name == "max_completion_tokens":  # instead of the other, which is the same
            fields["max_tokens"] = None
        found = value_of(ask(path, fields), where)
        assert found == expected if expected is not ... else found != before
    elif cell == "used":
        fields = ELSEWHERE[name]
        ask(path, fields.get(path, fields.get("", {})))
    elif cell == "taken":
        plain = ask(path, {"seed": 5} if path in (COMPLETIONS, CHAT) else {})
        value: Any = {"a": "b"} if name in OBJECTS else "a text"
        value = True if name == "store" else value
        marked = ask(path, {name: value} | ({"seed": 5} if path in (COMPLETIONS, CHAT) else {}))
        assert marked.prompt_ids == plain.prompt_ids
        assert marked.max_tokens == plain.max_tokens
        with pytest.raises(refusals) as refused:
            ask(path, {name: 5})
        assert name in str(refused.value)
    else:
        accepted = (
            [json.loads(part.strip(" `")) for part in cell.removeprefix("only ").split("`, `")]
            if cell != "no"
            else []
        )
        for value in accepted:
            ask(path, {name: value})
        before_count = len(scripted.running.engine.submitted)
        with pytest.raises(refusals) as refused:
            ask(path, {name: {"no such": "value"}})
        assert name in str(refused.value) and refused.value.status_code == 400
        assert len(scripted.running.engine.submitted) == before_count


def test_no_used_parameter_is_left_out() -> None:
    used = {name for name, _, cell in _cells() if cell == "used"}
    assert used == {*ENGINE, *ELSEWHERE}

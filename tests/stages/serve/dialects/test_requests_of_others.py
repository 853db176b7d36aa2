"""Requests as llama.cpp's and vLLM's servers document them, and what becomes of them here.

Theirs that ask for more than OpenAI's interfaces have are answered, or refused by their name.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.stages.serve.dialects.conftest import WEATHER, Scripted

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TALK = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "What is the best book?"},
]
TOOL = {"type": "function", "function": WEATHER}


# ------------------------------------------------------------------ llama.cpp


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_object", "schema": {"const": "42"}}, {"const": "42"}),
        ({"type": "json_object", "schema": {"items": [{"type": "integer"}]}}, ...),
        ({"type": "json_schema", "json_schema": {"schema": {"const": "foo"}}}, {"const": "foo"}),
        ({"type": "text"}, None),
    ],
)
def test_response_formats_of_llama_cpp(scripted: Scripted, form: Any, schema: Any) -> None:
    scripted.say("{}")
    response = scripted.post(CHAT, messages=TALK, max_tokens=8, response_format=form)
    assert response.status_code == 200, response.text
    grammar = scripted.asked.grammar
    found = None if grammar is None else json.loads(grammar.text)
    assert found == (form["schema"] if schema is ... else schema)


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": 123},
        {"type": "json_schema", "json_schema": "x"},
        {"type": "json_object", "json_schema": {}},
        {"type": "sound"},
        {},
    ],
)
def test_response_formats_that_are_none(scripted: Scripted, form: Any) -> None:
    refused = scripted.post(CHAT, messages=TALK, max_tokens=8, response_format=form)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith("response_format")


@pytest.mark.parametrize(
    "messages",
    [
        *(None, "a text", {}, 5, [], [123], [None], ["a text"]),
        *([{}], [{"content": "no role"}], [{"role": 123, "content": "x"}]),
        *([{"role": "system", "content": 123}], [{"role": "user", "content": {"a": 1}}]),
        *([{"role": "user", "content": [None]}], [{"role": "user", "content": [{"type": 1}]}]),
    ],
)
def test_messages_that_are_none(scripted: Scripted, messages: Any) -> None:
    refused = scripted.post(CHAT, messages=messages, max_tokens=8)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith("messages")


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (COMPLETIONS, {"prompt": [12, 34, "text", 56]}, "prompt"),
        (COMPLETIONS, {"prompt": {"prompt_string": "x"}}, "prompt"),
        (COMPLETIONS, {"prompt": "x", "n_predict": 4}, "n_predict"),
        (COMPLETIONS, {"prompt": "x", "grammar": 'root ::= "a"'}, "grammar"),
        (COMPLETIONS, {"prompt": "x", "cache_prompt": True}, "cache_prompt"),
        (CHAT, {"messages": TALK, "timings_per_token": True}, "timings_per_token"),
        (CHAT, {"messages": TALK, "mirostat": 2}, "mirostat"),
    ],
)
def test_what_llama_cpp_alone_has_is_refused_by_name(
    scripted: Scripted, path: str, fields: Any, param: str
) -> None:
    refused = scripted.post(path, **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param, refused.text


def test_prompts_of_llama_cpp(scripted: Scripted) -> None:
    scripted.say("one")
    ids = scripted.tokens.encode_prompt("I believe")
    for prompt, asked in (("I believe", [ids]), (ids, [ids]), (["I believe", "a"], None)):
        answer = scripted.post(COMPLETIONS, prompt=prompt, max_tokens=4).json()
        if asked is not None:
            assert [list(scripted.asked.prompt_ids)] == asked
        assert [choice["index"] for choice in answer["choices"]] == list(
            range(1 if asked else len(prompt))
        )


# ------------------------------------------------------------------ vLLM


@pytest.mark.parametrize(
    "text", ["no JSON", '{"a": 1, "a": 2}', '{"not": ' * 200 + "{}" + "}" * 200]
)
def test_a_schema_in_a_text_is_read_as_strictly_as_a_body(scripted: Scripted, text: str) -> None:
    """How long one takes to be read grows with the cube of its depth."""
    for fields in ({"guided_json": text}, {"structured_outputs": {"json": text}}):
        refused = scripted.post(CHAT, messages=TALK, max_tokens=8, **fields)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, "invalid_grammar")
        assert error["param"].startswith(next(iter(fields))) and "the schema" in error["message"]
    scripted.say("{}")
    assert scripted.post(CHAT, messages=TALK, max_tokens=8, guided_json='{"const": 5}').is_success
    assert scripted.asked.grammar is not None and scripted.asked.grammar.text == '{"const": 5}'


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (COMPLETIONS, {"prompt": "x", "logprobs": 21}, "logprobs"),
        (COMPLETIONS, {"prompt": "x", "logprobs": -1}, "logprobs"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
        (COMPLETIONS, {"prompt": "x", "seed": 2**63}, "seed"),
        (COMPLETIONS, {"prompt": "x", "seed": -(2**63) - 1}, "seed"),
        (COMPLETIONS, {"prompt": "x", "min_tokens": 3}, "min_tokens"),
        (COMPLETIONS, {"prompt": "x", "best_of": 2}, "best_of"),
        (COMPLETIONS, {"prompt": "x", "use_beam_search": True}, "use_beam_search"),
        (COMPLETIONS, {"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
        (COMPLETIONS, {"prompt": "x", "truncate_prompt_tokens": 4}, "truncate_prompt_tokens"),
        (COMPLETIONS, {"prompt": "x", "allowed_token_ids": []}, "allowed_token_ids"),
        (COMPLETIONS, {"prompt": "x", "allowed_token_ids": [9999]}, "allowed_token_ids"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {"9999": 1}}, "logit_bias"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias"),
        (COMPLETIONS, {"prompt": "x", "structured_outputs": {}}, "structured_outputs"),
        (CHAT, {"messages": TALK, "tool_choice": "required"}, "tool_choice"),
        (CHAT, {"messages": TALK, "tool_choice": WEATHER, "tools": [TOOL]}, "tool_choice"),
        (
            CHAT,
            {
                "messages": TALK,
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "other"}},
            },
            "tool_choice",
        ),
        (CHAT, {"messages": TALK, "top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": TALK, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"messages": TALK, "continue_final_message": True}, "continue_final_message"),
        (CHAT, {"messages": TALK, "guided_json": {}, "guided_regex": "a"}, "guided_regex"),
        (CHAT, {"messages": TALK, "chat_template": "{{ x }}"}, "chat_template"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    scripted: Scripted, path: str, fields: Any, param: str
) -> None:
    before = len(scripted.running.engine.submitted)
    refused = scripted.post(path, **fields, **({} if "seed" in fields else {"seed": 1}))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param, refused.text
    assert len(scripted.running.engine.submitted) == before


@pytest.mark.parametrize("count", [0, 1, 5])
def test_logprobs_of_completions(scripted: Scripted, count: int) -> None:
    scripted.say("one two")
    answer = scripted.post(COMPLETIONS, prompt="x", max_tokens=3, logprobs=count).json()
    told = answer["choices"][0]["logprobs"]
    assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["top_logprobs"]) == 3
    assert all(len(top) <= max(1, count) for top in told["top_logprobs"])


@pytest.mark.parametrize(("n", "texts"), [(1, 1), (2, 1), (2, 2)])
def test_batches_streamed_are_those_that_are_whole(scripted: Scripted, n: int, texts: int) -> None:
    scripted.say("one two", "three")
    fields = {"prompt": ["Hello"] * texts, "n": n, "max_tokens": 6, "temperature": 0}
    whole = [each["text"] for each in scripted.post(COMPLETIONS, **fields).json()["choices"]]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    lines = scripted.post(COMPLETIONS, **fields, **options).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    joined = [""] * len(whole)
    for piece in pieces[:-1]:
        assert piece["usage"] is None
        for choice in piece["choices"]:
            joined[choice["index"]] += choice["text"]
    assert joined == whole and len(whole) == n * texts
    last = pieces[-1]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0


def test_tokens_of_chats_and_texts(scripted: Scripted) -> None:
    """As vLLM's pages have them: with and without special tokens, a chat and one that goes on."""
    text = "This is a test prompt."
    start = list(scripted.tokens.contract.start_ids)
    with_special = scripted.post("/tokenize", prompt=text).json()
    bare = scripted.post("/tokenize", prompt=text, add_special_tokens=False).json()
    assert with_special["tokens"] == start + bare["tokens"]
    assert with_special["count"] == len(with_special["tokens"])
    assert with_special["max_model_len"] == 2048
    assert scripted.post("/detokenize", tokens=bare["tokens"]).json() == {"prompt": text}
    begun = [*TALK, {"role": "assistant", "content": "It is"}]
    scripted.say("x")
    for messages, goes_on in ((TALK, False), (begun, True)):
        told = scripted.post("/tokenize", messages=messages, continue_final_message=goes_on).json()
        scripted.post(CHAT, messages=messages, max_tokens=2)
        assert tuple(told["tokens"]) == scripted.asked.prompt_ids

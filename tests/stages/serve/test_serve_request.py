"""The body of a completion: what is taken, what is refused by name, and a mutator."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest

from whorl.stages.serve.dialects.chat import ChatBody
from whorl.stages.serve.dialects.completions import CompletionBody
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.request import parse_body

TRIALS = 400 * int(os.environ.get("WHORL_TRIALS", "1"))
GOOD = {"model": "m", "prompt": "p"}


def encode(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def refusal(data: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_body(data, CompletionBody)
    assert caught.value.status == 400
    json.dumps(caught.value.body, ensure_ascii=False).encode()
    return caught.value


def test_defaults_are_those_of_openai() -> None:
    body = parse_body(encode(), CompletionBody)
    assert (body.max_tokens, body.temperature, body.top_p, body.stops) == (16, 1.0, 1.0, ())
    assert body.seed is None and not body.stream


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("p", ("p",)),
        (["p"], ("p",)),
        (["p", ""], ("p", "")),
        ([5, 6], ((5, 6),)),
        ([[5, 6]], ((5, 6),)),
        ([[5], [6, 7]], ((5,), (6, 7))),
        ("", ("",)),
        ([""], ("",)),
    ],
)
def test_every_form_of_a_prompt(prompt: Any, expected: Any) -> None:
    assert parse_body(encode(prompt=prompt), CompletionBody).prompts == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "best_of": 1, "echo": False, "presence_penalty": 0, "frequency_penalty": 0.0},
        {"logprobs": None, "suffix": None, "logit_bias": {}, "stop": None, "seed": None},
        {"temperature": 0, "top_p": 1, "stop": ["a", "b", "c", "d"], "stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {
            "stop": "",
            "suffix": "",
            "logprobs": False,
            "n": 1.0,
            "seed": 3.0,
            "top_k": -1,
            "min_p": 0.0,
        },
        {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"user": None, "metadata": None, "store": False, "safety_identifier": "x"},
        {"response_format": {"type": "text"}, "modalities": ["text"], "parallel_tool_calls": True},
    ],
)
def test_neutral_values_of_openais_fields_are_taken(fields: dict[str, Any]) -> None:
    assert parse_body(encode(**fields), CompletionBody).prompt == "p"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 16_384}, "best_of"),
        ({"echo": True}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": "1"}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 0.5}, "logprobs"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"structured_outputs": {"xml": "x"}}, "structured_outputs.xml"),
        ({"guided_choice": []}, "guided_choice"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"user": 5}, "user"),
        ({"metadata": "x"}, "metadata"),
        ({"store": 1}, "store"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"stream_options": {"chat_template": "x"}}, "stream_options.chat_template"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, None),  # admitted by type, refused by the server's limit
        ({"max_tokens": "8"}, "max_tokens"),
        ({"max_tokens": 8.5}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop": {}}, "stop"),
        ({"stop": ["", 1]}, "stop"),
        ({"stop": list("abcde")}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": 1}, "stream"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [2**40]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"model": 5}, "model"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    if param is None:
        parse_body(encode(**fields), CompletionBody)
        return
    error = refusal(encode(**fields))
    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    ("stop", "stops"),
    [("", ()), (None, ()), ([], ()), ([""], ()), (["a", ""], ("a",)), ("a", ("a",))],
)
def test_empty_strings_stop_nothing(stop: Any, stops: tuple[str, ...]) -> None:
    assert parse_body(encode(stop=stop), CompletionBody).stops == stops


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1}, "temperature: expected a number from 0 to 2; found: -1"),
        ({"n": 300}, "n: expected a whole number from 1 to 128; found: 300"),
        ({"best_of": 3}, "best_of: not supported, only 1; found: 3"),
        ({"echo": True}, "echo: not supported, only false; found: true"),
        ({"functions": [1]}, "functions: not supported; leave it out; found: [1]"),
        ({"user": 5}, "user: expected a string; found: 5"),
        ({"stream": "yes"}, 'stream: expected true or false; found: "yes"'),
    ],
)
def test_a_refusal_says_what_is_expected_and_what_was_found(
    fields: dict[str, Any], message: str
) -> None:
    assert refusal(encode(**fields)).message == message


def test_a_byte_order_mark_is_no_part_of_the_body() -> None:
    assert parse_body(b"\xef\xbb\xbf" + encode(), CompletionBody).prompt == "p"


@pytest.mark.parametrize("depth", [30, 60, 70, 900, 5_000, 100_000])
def test_depth(depth: int) -> None:
    """What is read later may recurse: deep bodies are refused, others come through."""
    body = b'{"model": "m", "messages": [{"role": "user", "content": "x", "y": %s}]}'
    data = body % (b"[" * depth + b"]" * depth)
    if depth < 64 - 3:
        assert parse_body(data, ChatBody).messages[0]["role"] == "user"
    else:
        with pytest.raises(ApiError, match="nested"):
            parse_body(data, ChatBody)


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    assert "did you mean max_tokens?" in refusal(encode(max_token=5)).message


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "JSON"),
        (b"[1]", "object"),
        (b"null", "object"),
        (b'{"model": "m", "model": "m", "prompt": "p"}', "twice"),
        (b'{"model": "m", "prompt": "p", "temperature": NaN}', "NaN"),
        (b'{"model": "m", "prompt": "p", "temperature": -Infinity}', "Infinity"),
        (b'{"model": "m", "prompt": "p", "temperature": 1e999}', "too large"),
        (b'{"model": "m", "prompt": "p", "max_tokens": ' + b"9" * 5000 + b"}", "JSON"),
        (b'{"model": "m", "prompt": "\\ud800"}', "surrogate"),
        (b'{"model": "m", "prompt": "p", "\\udfff": 1}', "surrogate"),
        (b'{"model": "m", "prompt": "\xff"}', "UTF-8"),
        (b"[" * 200_000, "nested"),
        (b'{"a":' * 40_000 + b"1" + b"}" * 40_000, "nested"),
        (json.dumps(GOOD).encode("utf-16"), "UTF-8"),
        (b'{"model": "m", "prompt": "p"} x', "JSON"),
    ],
)
def test_malformed_bodies(data: bytes, word: str) -> None:
    assert word in refusal(data).message


def test_the_message_is_short_whatever_was_sent() -> None:
    assert len(refusal(encode(**{"x" * 100_000: 1})).message) < 500
    assert len(refusal(encode(prompt=["y" * 100_000, 5])).message) < 500


SCRAPS = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"\\ud83d", b"\x00", b"\xff"),
    *(
        b"NaN",
        b"1e400",
        b"-0",
        b"null",
        b"true",
        b'"n":1,',
        b'"stop":',
        b"\xed\xa0\x80",
        b"1" * 400,
    ),
]


def mutate(data: bytes, chooser: random.Random) -> bytes:
    for _ in range(chooser.randrange(1, 6)):
        at = chooser.randrange(len(data) + 1)
        span = chooser.randrange(0, 8)
        match chooser.randrange(4):
            case 0:
                data = data[:at] + data[at + span :]
            case 1:
                data = data[:at] + chooser.choice(SCRAPS) + data[at:]
            case 2:
                data = data[:at] + data[at : at + span] * 3 + data[at:]
            case _:
                data = data[:at] + bytes([chooser.randrange(256)]) + data[at + 1 :]
    return data


def test_mutated_bodies_are_parsed_or_refused() -> None:
    base = encode(max_tokens=4, temperature=0.5, stop=["a"], seed=3, stream=False, top_p=0.9)
    outcomes = set()
    for number in range(10 * TRIALS):
        data = mutate(base, random.Random(number))
        try:
            parse_body(data, CompletionBody)
        except ApiError as error:
            assert error.status == 400
            json.dumps(error.body, ensure_ascii=False).encode()
            outcomes.add(error.code)
        else:
            outcomes.add("parsed")
    assert {"parsed", "invalid_json", "unknown_parameter", "invalid_value"} <= outcomes

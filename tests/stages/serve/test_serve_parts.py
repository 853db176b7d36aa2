"""Requests made of parts, answers limited to some ids, answers that are no text."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whorl.codecs.contract import Tokens
from whorl.codecs.parts import token_space
from whorl.core.errors import DataError
from whorl.core.ports import GenerateRequest, Part


@pytest.fixture
def picture(mixed: Tokens) -> np.ndarray:
    image: Any = mixed.codecs["image"]
    decoded: np.ndarray = image.decode([3, 1, 4, 1])
    return decoded


@pytest.fixture
def server(start: Any, mixed: Tokens) -> Iterator[Any]:
    with start(reply=lambda request: request.prompt_ids[1:], contract=mixed) as running:
        yield running


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def asked(server: Any) -> GenerateRequest:
    request: GenerateRequest = server.engine.submitted[-1]
    return request


def test_parts_become_the_ids_of_their_codecs(
    server: Any, mixed: Tokens, picture: np.ndarray
) -> None:
    prompt = [
        {"codec": "text", "text": "Which? "},
        {"codec": "image", "data": encoded(mixed.codecs["image"].to_bytes(picture))},
        {"codec": "special", "text": "<|answer|>"},
        {"codec": "label", "data": encoded(b"dog")},
    ]
    answer = server.complete(prompt=prompt)
    assert answer.status_code == 200, answer.text
    parts = [
        Part("text", "Which? "),
        Part("image", picture),
        Part("special", "<|answer|>"),
        Part("label", "dog"),
    ]
    assert list(asked(server).prompt_ids) == [*mixed.contract.start_ids, *mixed.encode_parts(parts)]
    whole = server.complete(prompt="Which? ")
    assert whole.status_code == 200 and "parts" not in whole.json()["choices"][0]
    assert list(asked(server).prompt_ids) == mixed.encode_prompt("Which? ")


def test_an_answer_that_is_no_text_comes_as_files(
    server: Any, mixed: Tokens, picture: np.ndarray
) -> None:
    prompt = [
        {"codec": "image", "data": encoded(mixed.codecs["image"].to_bytes(picture))},
        {"codec": "label", "text": "cat"},
    ]
    choice = server.complete(prompt=prompt, max_tokens=5).json()["choices"][0]
    image, label = choice["parts"]  # the engine says the prompt again
    assert (image["codec"], image["media_type"]) == ("image", "image/png")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["data"]))))
    np.testing.assert_allclose(shown, np.round(picture / 16 * 255), atol=0)
    assert base64.b64decode(label["data"]) == b"cat"
    ids = [token_space(mixed).ranges["image"].start] * 5
    choice = server.complete(prompt=[0, *ids], max_tokens=5).json()["choices"][0]
    assert [part["codec"] for part in choice["parts"]] == ["image", "image"]  # four ids and one


def test_a_run_of_labels_is_as_many_parts(server: Any) -> None:
    answer = server.complete(answer_codec="label")  # the fake says its first id often
    assert answer.status_code == 200, answer.text
    parts = answer.json()["choices"][0]["parts"]
    assert [base64.b64decode(part["data"]) for part in parts] == [b"cat"] * len(parts)
    assert len(parts) == answer.json()["usage"]["completion_tokens"] > 1


def test_parts_that_are_no_files_are_told(
    server: Any, mixed: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(value: Any) -> bytes:
        raise DataError("no file of this")

    monkeypatch.setattr(mixed.codecs["label"], "to_bytes", refuse)
    choice = server.complete(answer_codec="label").json()["choices"][0]
    assert choice["parts"] is None and "no file of this" in choice["parts_error"]


def test_a_stream_ends_with_the_parts(server: Any) -> None:
    fields: dict[str, Any] = {"answer_codec": "label", "max_tokens": 3}
    whole = server.complete(**fields).json()["choices"][0]["parts"]
    lines = server.complete(stream=True, **fields).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]  # then [DONE], ""
    assert [event["choices"][0].get("parts") for event in events] == [None, None, whole]
    assert len(whole) == 3


def test_parts_end_where_a_stop_string_cuts_the_text(server: Any, mixed: Tokens) -> None:
    label = token_space(mixed).ranges["label"]
    text = mixed.encode_prompt("x")[-1]
    stop = mixed.codecs["text"].decode([text - token_space(mixed).ranges["text"].start])
    ids = [label[0], label[1], text, label[0]]
    choice = server.complete(prompt=[0, *ids], max_tokens=4, stop=stop).json()["choices"][0]
    assert choice["finish_reason"] == "stop" and stop not in choice["text"]
    assert [base64.b64decode(part["data"]) for part in choice["parts"]] == [b"cat", b"dog"]


def test_answers_are_limited_to_ids_or_to_a_codec(server: Any, mixed: Tokens) -> None:
    labels = tuple(token_space(mixed).ranges["label"])
    answer = server.complete(answer_codec="label", max_tokens=1)
    assert answer.json()["choices"][0]["text"] == "cat"  # the fake takes the first allowed id
    assert asked(server).allowed_ids == labels
    server.complete(allowed_token_ids=[40, 41, 40, 40])  # each is weighed once
    assert asked(server).allowed_ids == (40, 41)
    server.complete()
    assert asked(server).allowed_ids is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": [{"codec": "image", "data": encoded(b"no image")}]}, "no image"),
        ({"prompt": [{"codec": "image", "data": "&&&"}]}, "not base64"),
        ({"prompt": [{"codec": "sound", "data": ""}]}, "no codec sound"),
        ({"prompt": [{"codec": "label", "text": "cow"}]}, "no label"),
        ({"prompt": [{"codec": "special", "text": "<|no|>"}]}, "no special token"),
        ({"prompt": [{"codec": "text"}]}, "text or data"),
        ({"prompt": [{"codec": "text", "text": "a", "data": "YQ=="}]}, "text or data"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [320]}, "not below 320"),
        ({"answer_codec": "sound"}, "codecs text, image, label"),
        ({"answer_codec": "label", "allowed_token_ids": [40]}, "not beside"),
    ],
)
def test_what_cannot_be_is_refused(server: Any, fields: dict[str, Any], message: str) -> None:
    answer = server.complete(**fields)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text
    assert server.complete().status_code == 200 and server.gateway.inside == 0


def test_models_tell_media_types(server: Any) -> None:
    codecs = server.client.get("/v1/models").json()["data"][0]["codecs"]
    told = {codec["name"]: codec["media_type"] for codec in codecs}
    assert told == {
        "text": "text/plain",
        "image": "image/png",
        "label": "application/x-choice",
    }

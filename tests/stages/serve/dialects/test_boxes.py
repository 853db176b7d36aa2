"""Boxes over HTTP: a chat about an image by OpenAI's client, and parts of completions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import openai
import pytest

from tests.stages.serve.conftest import API_KEY, Running, Start
from tests.stages.serve.dialects.test_classifying import (
    asked_of,
    chat,
    image_part,
    pictures,
    url_of,
)
from whorl.codecs.boxes import Box, BoxesCodec, box_lines
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.core.ports import GenerateRequest, Part

FOUND = [Box(0.0, 0.25, 0.5, 0.75, "boot"), Box(0.5, 0.0, 1.0, 0.5, "coat")]


@pytest.fixture(scope="module")
def finding() -> Tokens:
    image = fit_image_codec(pictures(), 12, 4, white=255.0, stretched=True)
    return Tokens.build({"image": image, "boxes": BoxesCodec(["boot", "coat"], 8)}, 96)


@pytest.fixture
def server(start: Start, finding: Tokens) -> Iterator[Running]:
    answer = finding.encode_parts([Part("boxes", box_lines(FOUND)), Part("special", "<|end|>")])

    def reply(request: GenerateRequest) -> list[int]:
        return answer[:-1]  # one shorter than max_tokens ends

    with start(reply=reply, contract=finding) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=API_KEY, max_retries=0) as made:
        yield made


def test_a_chat_about_an_image_is_answered_with_boxes(
    server: Running, client: openai.OpenAI, finding: Tokens
) -> None:
    (pixels,) = pictures(1)
    (choice,) = chat(client, image_part(url_of(pixels)), temperature=0).choices
    rows = [json.loads(line) for line in choice.message.content.splitlines()]
    assert rows == [{"box": list(box.sides), "label": box.label} for box in FOUND]
    request = server.engine.submitted[-1]
    assert request.prompt_ids == asked_of(finding, Part("image", pixels))
    assert request.allowed_ids is None and request.max_tokens > 10
    stream = chat(client, image_part(url_of(pixels)), stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces).strip() == choice.message.content.strip()


def test_completions_give_the_boxes_as_a_part(server: Running) -> None:
    data = url_of(pictures(1)[0]).partition(",")[2]
    prompt = [{"codec": "image", "data": data}, {"codec": "special", "text": "<|answer|>"}]
    answer = server.complete(prompt=prompt, max_tokens=40).json()
    (part,) = answer["choices"][0]["parts"]
    assert (part["codec"], part["media_type"]) == ("boxes", "application/x-ndjson")
    lines = base64.b64decode(part["data"]).decode().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["boot", "coat"]
    server.complete(prompt=prompt, max_tokens=40, answer_codec="boxes")
    allowed = set(server.engine.submitted[-1].allowed_ids or ())
    contract = server.gateway.tokens.contract
    (entry,) = [each for each in contract.codecs if each.name == "boxes"]
    assert allowed == {*range(entry.id_start, entry.id_end), *contract.stop_ids}  # it may end


def test_a_photo_of_another_shape_is_stretched(server: Running, finding: Tokens) -> None:
    """So that shares of its sides are those of the whole photo."""
    import numpy as np

    wide = np.full((8, 16), 200, np.uint8)
    assert (
        finding.codecs["image"].from_bytes(base64.b64decode(url_of(wide).partition(",")[2])).min()
        > 190
    )

"""/v1/classify and images in chats: what is asked of the engine, what is told, what is refused."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from tests.stages.serve.conftest import API_KEY, Running, Start
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.parts import token_space
from whorl.codecs.table import Column, TableCodec
from whorl.core.ports import Part
from whorl.stages.serve.keys import add_key, keys_file

CLASSES = ["boot", "coat", "shirt"]


def pictures(count: int = 30, size: int = 8) -> np.ndarray:
    shape = (count, size, size)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def clothes() -> Tokens:
    image = fit_image_codec(pictures(), 12, 4, white=255.0)
    return Tokens.build({"image": image, "label": LabelCodec(CLASSES)}, 48)


@pytest.fixture(scope="module")
def rows() -> Tokens:
    row = TableCodec((Column.of_numbers("age", [float(n) for n in range(20)], 4),))
    return Tokens.build({"row": row, "label": LabelCodec(CLASSES)}, 48)


def likes_the_second(running: Running) -> None:
    """An engine that scores ids of the vocabulary by their distance from the second class."""
    running.engine.asked = []  # type: ignore[attr-defined]
    first = token_space(running.gateway.tokens).ranges["label"][1]

    def score(sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> list[Any]:
        running.engine.asked.append(tuple(prefix))  # type: ignore[attr-defined]
        return [-np.abs(np.array(ids, float) - first) for ids in sequences]

    running.engine.score = score  # type: ignore[method-assign]


@pytest.fixture
def server(start: Start, clothes: Tokens) -> Iterator[Running]:
    with start(contract=clothes) as running:
        likes_the_second(running)
        yield running


def url_of(pixels: np.ndarray, kind: str = "PNG") -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def classify(server: Running, given: Any, **fields: Any) -> Any:
    return server.client.post("/v1/classify", json={"model": "tiny", "input": given, **fields})


def asked_of(tokens: Tokens, part: Part) -> tuple[int, ...]:
    mark = Part("special", "<|answer|>")
    return (*tokens.contract.start_ids, *tokens.encode_parts([part, mark]))


def test_an_image_gets_the_probability_of_every_class(server: Running, clothes: Tokens) -> None:
    (pixels,) = pictures(1)
    answer = classify(server, url_of(pixels))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    weights = np.exp([-1.0, 0.0, -1.0])
    (found,) = told["data"]
    assert (found["index"], found["label"], found["num_classes"]) == (0, "coat", 3)
    assert found["probs"] == pytest.approx(weights / weights.sum())  # in the order of the ids
    assert [each["label"] for each in found["classes"]] == ["coat", "boot", "shirt"]
    assert found["classes"][0]["probability"] == pytest.approx(1 / weights.sum())
    expected = asked_of(clothes, Part("image", pixels))
    assert server.engine.asked == [expected]  # type: ignore[attr-defined]
    assert told["usage"]["prompt_tokens"] == len(expected)
    assert server.wait_until(lambda: server.gateway.inside == 0)


def test_every_way_to_send_an_image_is_the_same_question(server: Running) -> None:
    (pixels,) = pictures(1)
    url = url_of(pixels)
    ways = [
        url,
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"codec": "image", "data": url.partition(",")[2]},
        url_of(np.kron(pixels, np.ones((4, 4), np.uint8)), "WEBP"),
    ]
    told = classify(server, ways[:3]).json()["data"]
    assert [each["index"] for each in told] == [0, 1, 2]
    assert len(set(server.engine.asked)) == 1  # type: ignore[attr-defined]
    assert classify(server, ways[3], top=1).json()["data"][0]["classes"][0]["label"] == "coat"


def test_a_row_of_a_table_is_an_object(start: Start, rows: Tokens) -> None:
    with start(contract=rows) as running:
        likes_the_second(running)
        told = classify(running, [{"age": 3}, {"age": None}]).json()
        assert [each["label"] for each in told["data"]] == ["coat", "coat"]
        (three, none) = running.engine.asked  # type: ignore[attr-defined]
        assert three == asked_of(rows, Part("row", {"age": 3.0})) != none
        answer = classify(running, {"agee": 3})
        assert answer.status_code == 400 and "age" in answer.json()["error"]["message"]
        assert classify(running, url_of(pictures(1)[0])).status_code == 400


WRONG: list[tuple[Any, str]] = [
    ("https://example.org/cat.png", "reads no text"),
    ({"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}, "fetches nothing"),
    ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "fetches nothing"),
    ({"type": "image_url", "image_url": "data:image/png;base64,AA=="}, "must be"),
    ({"type": "image_url", "image_url": {"url": "x", "size": 3}}, "size is unknown"),
    ("data:text/html;base64,AAAA", "fetches nothing"),
    ("data:image/png;base64,", "fetches nothing"),
    ("data:image/png;base64,AAA=A", "fetches nothing"),
    ("data:image/png;base64,AAAA", "no image"),
    ({"codec": "sound", "data": "AAAA"}, "no codec sound"),
    ({"codec": "image"}, "text or data"),
    ({"age": 3}, "no rows of a table"),
    ([], "input"),
    ([["a"]], "input"),
    (7, "input"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_cannot_be_classified_is_refused(server: Running, given: Any, message: str) -> None:
    answer = classify(server, given)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text
    assert server.wait_until(lambda: server.gateway.inside == 0)


def test_what_is_wrong_is_named_by_its_place(server: Running) -> None:
    good, wrong = url_of(pictures(1)[0]), "data:image/png;base64,AAAA"
    error = classify(server, [good, wrong]).json()["error"]
    assert error["param"] == "input[1]" and error["message"].startswith("input[1]: ")


def test_all_inputs_share_one_deadline(server: Running) -> None:
    url, real = url_of(pictures(1)[0]), server.engine.score

    def slow(*asked: Any) -> Any:
        time.sleep(0.2)
        return real(*asked)

    server.engine.score = slow  # type: ignore[method-assign]
    body, patient = {"model": "tiny", "input": [url] * 20}, {"X-Request-Timeout": "1"}
    answer = server.client.post("/v1/classify", json=body, headers=patient)
    assert answer.status_code == 504
    assert len(server.engine.asked) < 10  # type: ignore[attr-defined]
    assert server.wait_until(lambda: server.gateway.inside == 0)


@pytest.fixture
def paying(start: Start, clothes: Tokens, tmp_path: Path) -> Iterator[tuple[Running, Any, Any]]:
    """A server, what it takes of one key, and how that key asks."""
    entry, key = add_key(keys_file(tmp_path), "alice", tokens_per_min=100)
    with start(contract=clothes, home=tmp_path) as running:
        likes_the_second(running)

        def ask(inputs: Sequence[str], **headers: str) -> Any:
            body = {"model": "tiny", "input": inputs}
            answer = running.client.post(
                "/v1/classify", json=body, headers={"Authorization": f"Bearer {key}", **headers}
            )
            assert running.wait_until(lambda: running.gateway.inside == 0)
            return answer

        yield running, lambda: running.gateway.desk.ledger.caller(entry).account.used.tokens, ask


def test_inputs_of_a_refused_request_are_neither_read_nor_paid_for(paying: Any) -> None:
    running, used, ask = paying
    good = url_of(pictures(1)[0])
    assert ask([good, good, "data:image/png;base64,AAAA"]).status_code == 400
    assert ask([good] * 20).status_code in (400, 403, 429)  # more than a minute's tokens
    assert used() == 0 and running.engine.asked == []
    answer = ask([good, good])
    assert answer.status_code == 200 and len(running.engine.asked) == 2
    assert used() == answer.json()["usage"]["total_tokens"] == 2 * (6 + 1)


def test_of_inputs_that_were_not_all_read_those_are_paid_for_that_were(paying: Any) -> None:
    running, used, ask = paying
    good, real = url_of(pictures(1)[0]), running.engine.score

    def slow(*asked: Any) -> Any:
        time.sleep(0.2)
        return real(*asked)

    running.engine.score = slow
    assert ask([good] * 10, **{"X-Request-Timeout": "0.5"}).status_code == 504
    assert 1 <= len(running.engine.asked) < 6
    assert used() == len(running.engine.asked) * (6 + 1)


def test_the_answer_is_told_by_an_id_that_the_log_has(server: Running) -> None:
    answer = classify(server, [url_of(pictures(1)[0])] * 2)
    assert answer.json()["id"] == f"classify-{answer.headers['X-Request-Id']}"


def test_probabilities_are_bounded(start: Start) -> None:
    image = fit_image_codec(pictures(), 12, 4, white=255.0)
    many = LabelCodec([f"class {number}" for number in range(20_000)])
    with start(contract=Tokens.build({"image": image, "label": many}, 20_100)) as running:
        answer = classify(running, [url_of(pictures(1)[0])] * 60)
        assert answer.status_code == 400 and "at most 52" in answer.json()["error"]["message"]


def test_photos_as_they_are_fit_into_a_body(server: Running) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (700, 700), np.uint8)
    assert len(url := url_of(noise)) > 256 * 2**10
    assert classify(server, url).status_code == 200


def test_other_fields_are_refused_by_their_names(server: Running) -> None:
    url = url_of(pictures(1)[0])
    for fields, message in (
        ({"codec": "image"}, "codec"),
        ({"top": 0}, "top"),
        ({"stream": True}, "stream"),
        ({"truncate": True}, "truncate"),
    ):
        answer = classify(server, url, **fields)
        assert answer.status_code == 400 and message in answer.json()["error"]["message"]
    assert classify(server, [url] * 65).status_code == 400
    assert classify(server, url, model="other").status_code == 404


# ------------------------------------------------------------------ chats, by OpenAI's client


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=API_KEY, max_retries=0) as made:
        yield made


def chat(client: openai.OpenAI, *parts: dict[str, Any], **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": list(parts)}]
    return client.chat.completions.create(model="tiny", messages=messages, **fields)


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_a_chat_about_an_image_is_answered_with_its_class(
    server: Running, client: openai.OpenAI, clothes: Tokens
) -> None:
    (pixels,) = pictures(1)
    answer = chat(client, image_part(url_of(pixels)), temperature=0)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("boot", "stop")  # the fake's first
    request = server.engine.submitted[-1]
    assert request.prompt_ids == asked_of(clothes, Part("image", pixels))
    assert request.allowed_ids == tuple(token_space(clothes).ranges["label"])
    assert request.max_tokens == 1 and answer.usage.completion_tokens == 1
    stream = chat(client, image_part(url_of(pixels)), stream=True)
    pieces = [(c.choices[0].delta.content or "", c.choices[0].finish_reason) for c in stream]
    assert "".join(text for text, _ in pieces) == "boot" and pieces[-1][1] == "stop"


def test_what_a_model_of_images_cannot_read_is_told(client: openai.OpenAI) -> None:
    url = url_of(pictures(1)[0])
    for parts, message in (
        ([{"type": "text", "text": "What is it?"}, image_part(url)], "one image and no text"),
        ([image_part(url), image_part(url)], "one image and no text"),
        ([image_part("https://example.org/cat.png")], "fetches nothing"),
        ([image_part("data:image/png;base64,AAAA")], "no image"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            chat(client, *parts)


def test_a_model_of_text_says_that_it_reads_no_images(start: Start) -> None:
    with (
        start() as running,
        openai.OpenAI(base_url=f"{running.base_url}/v1", api_key=API_KEY) as made,
        pytest.raises(openai.BadRequestError, match="reads no images"),
    ):
        chat(made, image_part(url_of(pictures(1)[0])))

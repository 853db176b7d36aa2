"""/v1/rank: all candidates of a codec or those of the request, each scored as the engine says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.stages.serve.conftest import Running, Start
from whorl.codecs.contract import Tokens
from whorl.codecs.label import LabelCodec
from whorl.codecs.parts import token_space
from whorl.codecs.text import train_text_codec
from whorl.core.errors import EngineError
from whorl.testing.corpus import tiny_texts

FILMS = [f"film {number:02d}" for number in range(30)]
PROMPT = [{"codec": "film", "text": "film 03"}, {"codec": "film", "text": "film 07"}]


@pytest.fixture(scope="module")
def films() -> Tokens:
    codecs = {
        "film": LabelCodec(FILMS, "film"),
        "text": train_text_codec(tiny_texts(5), 280),
    }
    return Tokens.build(codecs, 330)


@pytest.fixture
def server(start: Start, films: Tokens) -> Iterator[Running]:
    """An engine that likes an id the better the smaller it is, less so after longer prompts."""
    with start(contract=films) as running:
        running.engine.asked = []  # type: ignore[attr-defined]

        def score(sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> list[Any]:
            running.engine.asked.append(tuple(prefix))  # type: ignore[attr-defined]
            return [-np.array(ids, float) / 100 - len(prefix) for ids in sequences]

        running.engine.score = score  # type: ignore[method-assign]
        yield running


def rank(server: Running, **fields: Any) -> Any:
    return server.client.post("/v1/rank", json={"model": "tiny", "prompt": PROMPT, **fields})


def test_all_candidates_of_the_codec_come_ranked_after_one_prompt(
    server: Running, films: Tokens
) -> None:
    answer = rank(server)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    ids = token_space(films).ranges["film"]
    assert [each["candidate"] for each in told["candidates"]] == FILMS
    assert [each["rank"] for each in told["candidates"]] == list(range(1, 31))
    expected = [-i / 100 - 3 for i in ids]  # <bos> and two films are before it
    assert [each["logprob"] for each in told["candidates"]] == pytest.approx(expected)
    shares = [each["probability"] for each in told["candidates"]]
    assert sum(shares) == pytest.approx(1) and shares[1] / shares[0] == pytest.approx(np.exp(-0.01))
    assert told["num_candidates"] == 30 and told["usage"]["prompt_tokens"] == 3
    (prefix,) = server.engine.asked  # type: ignore[attr-defined]
    assert prefix == (*films.contract.start_ids, ids[3], ids[7])
    assert server.wait_until(lambda: server.gateway.inside == 0)


def test_the_request_chooses_candidates_and_how_many_are_told(server: Running) -> None:
    told = rank(server, candidates=["film 09", "film 04", "film 20"], top=2).json()
    assert [each["candidate"] for each in told["candidates"]] == ["film 04", "film 09"]
    assert told["num_candidates"] == 3
    told = rank(server, exclude=FILMS[:28]).json()
    assert [each["candidate"] for each in told["candidates"]] == FILMS[28:]
    texts = rank(server, codec="text", candidates=["the shell", "a ladder"]).json()
    assert texts["num_candidates"] == 2 and texts["candidates"][0]["logprob"] < -3


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"candidates": ["film 99"]}, "candidates: there is no film 'film 99'; did you mean film"),
    ({"candidates": []}, "candidates"),
    ({"exclude": ["flim 03"]}, "exclude: there is no film 'flim 03'; did you mean film 03"),
    ({"exclude": FILMS}, "exclude: no candidate is left"),
    ({"candidates": ["film 01"], "exclude": ["film 01"]}, "exclude: no candidate is left"),
    ({"codec": "films"}, "codec: this model has the codecs"),
    ({"codec": "text"}, "candidates: codec text has no closed set"),
    ({"codec": "text", "candidates": [""]}, "candidates"),
    ({"codec": "text", "candidates": ["a b c " * 150]}, "context"),
    ({"prompt": [{"codec": "film", "text": "film 3"}]}, "prompt: there is no film"),
    ({"prompt": [99_999]}, "prompt"),
    ({"top": 0}, "top"),
    ({"stream": True}, "stream"),
    ({"candidate": ["film 01"]}, "candidate"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_what_is_wrong_is_refused_by_its_name(
    server: Running, fields: dict[str, Any], message: str
) -> None:
    answer = rank(server, **fields)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text
    assert server.wait_until(lambda: server.gateway.inside == 0)
    assert rank(server, top=1).status_code == 200


def test_who_may_not_or_cannot_is_told(server: Running) -> None:
    assert rank(server, model="other").status_code == 404
    plain = server.client.post("/v1/rank", json={}, headers={"Authorization": "Bearer wrong"})
    assert plain.status_code == 401

    def fails(sequences: Any, prefix: Any = ()) -> list[Any]:
        raise EngineError("the engine is closed")

    server.engine.score = fails  # type: ignore[method-assign]
    assert rank(server).status_code == 503
    server.engine.score = lambda s, prefix=(): [np.array([np.nan])] * len(s)  # type: ignore[method-assign]
    assert rank(server).status_code == 500
    assert server.wait_until(lambda: server.gateway.inside == 0)


def test_a_model_of_several_vocabularies_asks_which(start: Start) -> None:
    codecs = {name: LabelCodec(["a", "b"], name) for name in ("entity", "relation")}
    tokens = Tokens.build(codecs, 32)
    with start(contract=tokens) as running:
        prompt = [{"codec": "entity", "text": "a"}, {"codec": "relation", "text": "b"}]
        refused = rank(running, prompt=prompt)
        assert refused.status_code == 400 and "entity, relation" in refused.text
        told = rank(running, prompt=prompt, codec="entity").json()
        assert [each["candidate"] for each in told["candidates"]] == ["a", "b"]

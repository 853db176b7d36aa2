"""/v1/rank: all candidates of a codec or those of the request, each scored as the engine says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from tests.stages.serve.conftest import Running, Start
from whorl.codecs.contract import Tokens
from whorl.codecs.label import LabelCodec
from whorl.codecs.parts import token_space
from whorl.codecs.text import train_text_codec
from whorl.core.errors import EngineError
from whorl.core.ports import Part
from whorl.stages.serve.dialects import ranking
from whorl.stages.serve.dialects.ranking import RankBody
from whorl.stages.serve.dialects.tokenizing import DetokenizeBody
from whorl.stages.serve.keys import add_key, keys_file
from whorl.stages.serve.request import Body
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
    ({"candidates": ["flim 07"]}, "candidates: there is no film 'flim 07'; did you mean film 07?"),
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


def test_a_wrong_candidate_is_refused_and_none_is_merged(server: Running) -> None:
    some = ["film 01", "film 02"]
    for fields, message in (
        ({"candidates": [*some, "film 01"]}, "candidates: 'film 01' is there twice"),
        ({"candidates": some, "exclude": ["flim 02"]}, "exclude: there is no film 'flim 02'"),
    ):
        answer = rank(server, **fields)
        assert answer.status_code == 400 and message in answer.json()["error"]["message"]
    assert len(rank(server, candidates=some, exclude=["film 09"]).json()["candidates"]) == 2


@pytest.mark.parametrize("field", ["prompt", "candidates", "exclude", "tokens"])
def test_of_a_thousand_wrong_items_one_is_looked_at(field: str) -> None:
    kind: type[Body] = DetokenizeBody if field == "tokens" else RankBody
    wrong: list[Any] = [-1] * 1_000
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"model": "tiny", "prompt": "a"} | {field: wrong})
    told = [each for each in caught.value.errors() if field in each["loc"]]
    assert 1 <= len(told) <= 3  # of the prompt's three forms one each


def test_a_deadline_is_no_fault_of_the_engine_and_holds_the_place(server: Running) -> None:
    gate, begun = threading.Event(), threading.Event()

    def waits(sequences: Sequence[Any], prefix: Any = ()) -> list[Any]:
        begun.set()
        gate.wait(10)
        return [np.zeros(len(ids)) for ids in sequences]

    server.engine.score = waits  # type: ignore[method-assign]
    answer = server.client.post(
        "/v1/rank",
        json={"model": "tiny", "prompt": PROMPT},
        headers={"X-Request-Timeout": "0.2"},
    )
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
    assert begun.is_set() and server.gateway.inside == 1  # the engine is still at work
    assert server.gateway.served.health.failure is None
    gate.set()
    assert server.wait_until(lambda: server.gateway.inside == 0)
    assert server.gateway.served.health.failure is None
    assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize("at_once", [False, True])
def test_single_ids_are_cut_into_pieces_unless_the_engine_reads_them_at_once(
    server: Running, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """One that reads each alone would say nothing before the end of thousands."""
    monkeypatch.setattr(ranking, "PIECE_TOKENS", 8)
    monkeypatch.setattr(server.engine, "reads_singles_once", at_once, raising=False)
    told = rank(server).json()
    assert told["num_candidates"] == 30 and told["candidates"][0]["candidate"] == FILMS[0]
    asked = server.engine.asked  # type: ignore[attr-defined]
    assert len(asked) == (1 if at_once else 4) and len(set(asked)) == 1


def test_no_piece_is_begun_after_the_deadline_and_each_is_progress(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "PIECE_TOKENS", 8)
    sizes: list[int] = []

    def slow(sequences: Sequence[Any], prefix: Any = ()) -> list[Any]:
        sizes.append(sum(map(len, sequences)))
        time.sleep(0.1)
        return [-np.arange(1.0, len(ids) + 1) for ids in sequences]

    server.engine.score = slow  # type: ignore[method-assign]
    texts = [f"the shell {number} adds a ladder" for number in range(20)]
    body = {"model": "tiny", "prompt": PROMPT, "codec": "text", "candidates": texts}
    late = server.client.post("/v1/rank", json=body, headers={"X-Request-Timeout": "0.25"})
    assert late.status_code == 504
    assert server.wait_until(lambda: server.gateway.inside == 0)
    assert 2 <= len(sizes) < 10
    token_at_s = server.gateway.served.health.token_at_s
    assert token_at_s is not None  # of its pieces: there was no other work
    sizes.clear()
    whole = rank(server, codec="text", candidates=texts).json()
    assert len(sizes) > 5 and whole["num_candidates"] == 20
    assert whole["usage"]["candidate_tokens"] == sum(sizes)
    later_s = server.gateway.served.health.token_at_s
    assert later_s is not None and later_s > token_at_s


def test_a_client_that_leaves_ends_its_ranking(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "PIECE_TOKENS", 8)
    sizes: list[int] = []

    def slow(sequences: Sequence[Any], prefix: Any = ()) -> list[Any]:
        sizes.append(len(sequences))
        time.sleep(0.1)
        return [np.zeros(len(ids)) for ids in sequences]

    server.engine.score = slow  # type: ignore[method-assign]
    texts = [f"the shell {number} adds a ladder" for number in range(40)]
    body = {"model": "tiny", "prompt": PROMPT, "codec": "text", "candidates": texts}
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/v1/rank", json=body, timeout=0.3)
    assert server.wait_until(lambda: server.gateway.inside == 0)
    assert 1 <= len(sizes) < 20
    assert server.gateway.served.health.failure is None
    assert 'whorl_answers_total{finish_reason="left"} 1.0' in server.client.get("/metrics").text


def test_a_full_server_refuses_before_it_reads(start: Start, films: Tokens) -> None:
    with start(contract=films, max_running=1, max_waiting=0) as running:
        gate = threading.Event()
        running.engine.score = lambda s, prefix=(): (  # type: ignore[method-assign]
            gate.wait(10),
            [np.zeros(1)] * len(s),
        )[1]
        first = threading.Thread(target=lambda: rank(running))
        first.start()
        assert running.wait_until(lambda: running.gateway.inside == 1)
        refused = running.client.post("/v1/rank", content=b"not JSON at all")
        assert refused.status_code == 429 and "Retry-After" in refused.headers
        gate.set()
        first.join(10)
        assert running.client.post("/v1/rank", content=b"not JSON at all").status_code == 400


def test_admission_and_the_log_know_what_a_ranking_took(
    start: Start, films: Tokens, tmp_path: Path
) -> None:
    texts = ["the shell adds", "a ladder"]
    with start(contract=films, home=tmp_path) as running:
        admission = running.gateway.desk.admission
        share, mean = admission.share, admission._mean_tokens
        answer = rank(running, codec="text", candidates=texts)
        rank(running, candidates=["film 99"])
        rank(running)
        assert running.wait_until(lambda: admission.inside == 0)
        assert (admission.share, admission._mean_tokens) == (share, mean)
        assert admission.left_tokens == 0
        metrics = running.client.get("/metrics").text
    work = sum(len(films.encode_parts([Part("text", each)])) for each in texts)
    assert answer.json()["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 0,
        "candidate_tokens": work,
        "total_tokens": 3 + work,
    }
    assert f'whorl_tokens_total{{kind="prompt"}} {3 + work + 3 + 1}.0' in metrics
    log = (tmp_path / ".serving" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["scored_tokens"] for line in log] == [work, 1]


def test_a_key_pays_for_the_prompt_and_the_candidates(
    start: Start, films: Tokens, tmp_path: Path
) -> None:
    entry, key = add_key(keys_file(tmp_path), "alice", tokens_per_min=1_000)
    headers = {"Authorization": f"Bearer {key}"}
    with start(contract=films, home=tmp_path) as running:
        texts = ["the shell adds", "a ladder"]
        body = {"model": "tiny", "prompt": PROMPT, "codec": "text", "candidates": texts}
        answer = running.client.post("/v1/rank", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert running.wait_until(lambda: running.gateway.inside == 0)
        used = running.gateway.desk.ledger.caller(entry).account
        assert used is not None and used.used.tokens == answer.json()["usage"]["total_tokens"]
        assert used.used.tokens > 3 + 2


def test_rankings_that_wait_leave_the_server_its_threads(start: Start, films: Tokens) -> None:
    with start(contract=films, max_running=64) as running:
        gate, names = threading.Event(), set[str]()

        def waits(sequences: Sequence[Any], prefix: Any = ()) -> list[Any]:
            names.add(threading.current_thread().name.rpartition("_")[0])
            gate.wait(10)
            return [np.zeros(1)] * len(sequences)

        running.engine.score = waits  # type: ignore[method-assign]
        askers = [threading.Thread(target=rank, args=(running,)) for _ in range(40)]
        for asker in askers:
            asker.start()
        assert running.wait_until(lambda: running.gateway.inside == 40)
        long = running.client.post(
            "/tokenize", json={"prompt": "a shell", "add_special_tokens": False}, timeout=5
        )
        assert long.status_code == 200
        gate.set()
        for asker in askers:
            asker.join(10)
        assert names == {"whorl-rank"}
        threads = running.gateway.ranking_threads
    with pytest.raises(RuntimeError, match="shutdown"):
        threads.submit(print)

"""Opinions of answers: one line each, tied to the answer and the version, whatever is sent."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stages.serve.conftest import API_KEY
from whorl.stages.serve import feedback
from whorl.stages.serve.keys import add_key, keys_file
from whorl.stages.serve.served import Served


@pytest.fixture
def server(start: Any, tmp_path: Path) -> Any:
    with start(home=tmp_path) as running:
        yield running


def lines_of(home: Path) -> list[dict[str, Any]]:
    path = home / ".serving" / "feedback.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def test_a_line_says_which_answer_of_which_version(server: Any, tmp_path: Path) -> None:
    answer, other = server.complete().json(), server.complete().json()
    asked = {"id": answer["id"], "model": "tiny", "prompt": "a shell", "answer": "x\u2028漢\n🎉"}
    for opinion in (
        {"rating": "up"},
        {"rating": "down", "comment": "too short"},
        {"correction": "a shell grows"},
        {"rating": "up", "over": other["id"], "messages": [{"role": "user", "content": "hi"}]},
    ):
        response = server.client.post("/v1/feedback", json={**asked, **opinion})
        assert response.status_code == 200, response.text
        line = lines_of(tmp_path)[-1]
        assert line.items() >= {**asked, **opinion}.items()
        assert line["caller"] == "given key"
        assert line["records"] == {"train": "ab" * 16}
        assert line["contract"] == server.app.state.gateway.tokens.contract.digest
        assert line["time"].startswith("20") and line["time"].endswith("+00:00")
    path = tmp_path / ".serving" / "feedback.jsonl"
    assert len(lines_of(tmp_path)) == 4 and os.stat(path).st_mode & 0o077 == 0


def test_the_version_is_that_which_answered_not_the_one_of_now(server: Any, tmp_path: Path) -> None:
    old = server.gateway.served
    answers = [server.complete().json()]
    card = old.card.model_copy(update={"version": 7, "lineage": {"train": "cd" * 16}})
    server.gateway.take_over(Served(old.engine, old.tokens, card))
    answers.append(server.complete().json())
    for is_known in (True, False):  # then only by the log, as after a restart
        for answer in answers:
            body = {"id": answer["id"], "model": "tiny", "rating": "up"}
            assert server.client.post("/v1/feedback", json=body).status_code == 200
        lines = [(line["version"], line["records"]) for line in lines_of(tmp_path)[-2:]]
        assert lines == [(0, {"train": "ab" * 16}), (7, {"train": "cd" * 16})], is_known
        server.gateway.desk.versions.clear()


def test_who_was_not_given_an_answer_has_no_opinion_of_it(start: Any, tmp_path: Path) -> None:
    (_, alice), (_, bob) = (add_key(keys_file(tmp_path), name) for name in ("alice", "bob"))
    with start(home=tmp_path) as running:

        def ask(key: str, path: str, body: dict[str, Any]) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            response: httpx.Response = running.client.post(path, json=body, headers=headers)
            return response

        hers = ask(alice, "/v1/completions", running.body()).json()["id"]
        his = ask(bob, "/v1/completions", running.body()).json()["id"]
        for key, answer_id, over, status in (
            *((alice, hers, None, 200), (bob, hers, None, 404), (bob, his, hers, 404)),
            *((alice, "cmpl-" + "0" * 32, None, 404), (alice, "cmpl-1", None, 404)),
            *((API_KEY, hers, his, 200), (API_KEY, "cmpl-1", None, 404)),  # the owner's
        ):
            body = {"id": answer_id, "model": "tiny", "rating": "up", "over": over}
            for forget in (False, True):
                if forget:
                    running.gateway.desk.versions.clear()
                told = ask(key, "/v1/feedback", body)
                assert told.status_code == status, told.text
            if status == 404:
                error = told.json()["error"]
                assert error["code"] == "answer_not_found"
                assert error["param"] == ("over" if over else "id")
    assert [line["caller"] for line in lines_of(tmp_path)[:2]] == [f"key {alice.split('-')[1]}"] * 2
    assert len(lines_of(tmp_path)) == 4


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"id": "a", "model": "tiny"}, 400, "rating"),
        ({"id": "a", "model": "tiny", "rating": "fine"}, 400, "rating"),
        ({"id": "", "model": "tiny", "rating": "up"}, 400, "id"),
        ({"id": "a" * 201, "model": "tiny", "rating": "up"}, 400, "id"),
        ({"id": "a", "model": "other", "rating": "up"}, 404, "other"),
        ({"id": "a", "model": "tiny", "rating": "up", "ratng": 1}, 400, "ratng"),
        ({"id": "a", "model": "tiny", "correction": 5}, 400, "correction"),
        ({"id": "a", "model": "tiny", "correction": "x" * 300_000}, 413, "limit"),
        ([], 400, "object"),
    ],
)
def test_what_is_no_opinion_is_refused(
    server: Any, tmp_path: Path, body: Any, status: int, named: str
) -> None:
    response = server.client.post("/v1/feedback", json=body)
    assert response.status_code == status and named in response.text
    assert not (tmp_path / ".serving" / "feedback.jsonl").exists()


def test_broken_bytes_are_refused(server: Any) -> None:
    whole = b'{"id": "a", "model": "tiny", "rating": "up", "messages": [{"n": 1}]}'
    for data in (
        *(b"", b"{", b"\xff\xfe", whole.replace(b'"a"', b'"\\ud800"')),
        *(whole.replace(b"1", b"NaN"), whole.replace(b"1", b"1e999")),  # no JSON of a line
        whole.replace(b"{", b'{"id": "b", ', 1),
    ):
        assert server.client.post("/v1/feedback", content=data).status_code == 400


def test_no_key_no_opinion(server: Any) -> None:
    response = server.client.post("/v1/feedback", json={}, headers={"Authorization": ""})
    assert response.status_code == 401


def test_many_at_once_leave_whole_lines(server: Any, tmp_path: Path) -> None:
    given = server.complete().json()["id"]

    def send(number: int) -> None:
        body = {"id": given, "model": "tiny", "correction": str(number) * 5000}
        assert server.client.post("/v1/feedback", json=body).status_code == 200

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = {line["correction"] for line in lines_of(tmp_path)}
    assert found == {str(number) * 5000 for number in range(12)}


def test_what_cannot_be_kept_is_said(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"id": server.complete().json()["id"], "model": "tiny", "rating": "up"}
    monkeypatch.setattr(feedback, "MAX_FILE_BYTES", 50)
    statuses = [server.client.post("/v1/feedback", json=body).status_code for _ in range(3)]
    assert statuses == [200, 507, 507]
    (tmp_path / ".serving" / "feedback.jsonl").unlink()
    (tmp_path / ".serving" / "feedback.jsonl").mkdir()
    response = server.client.post("/v1/feedback", json=body)
    assert response.status_code == 507 and response.json()["error"]["code"] == "not_stored"

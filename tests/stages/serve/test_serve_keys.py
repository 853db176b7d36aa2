"""Keys of `whorl keys`: hashed, scoped, taken and revoked while the server runs."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.errors import RecordError, SpecError
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.keys import KeyRing, add_key, keys_file, list_keys, revoke_key
from whorl.stages.serve.server import running_server
from whorl.testing.engine import FakeEngine

BODY = {"model": "tiny", "prompt": "a shell", "max_tokens": 8}


@contextlib.contextmanager
def server(home: Path, tokens: Tokens, **config: Any) -> Iterator[tuple[str, Any]]:
    settings = ServeConfig(port=0, grace_s=1, **config)
    digest = tokens.contract.digest
    engine = FakeEngine(digest, max_running=settings.max_running)
    card = ModelCard(
        name="tiny", contract_digest=digest, context_tokens=256, version=3, lineage={"train": "ab"}
    )
    desk = Desk.of(settings, home)
    app = create_app(engine, tokens, card, settings, None, desk)
    try:
        with running_server(app, settings) as base_url:
            yield base_url, app
    finally:
        engine.close()


def ask(base_url: str, key: str, path: str = "/v1/completions", **body: Any) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=20) as client:
        headers = {"Authorization": f"Bearer {key}"}
        if path == "/v1/completions":
            return client.post(base_url + path, json=BODY | body, headers=headers)
        return client.get(base_url + path, headers=headers)


def test_a_key_is_taken_and_revoked_while_the_server_runs(tmp_path: Path, tokens: Tokens) -> None:
    path = keys_file(tmp_path)
    _, first = add_key(path, "alice")
    with server(tmp_path, tokens) as (base_url, app):
        assert app.state.access.api_key is None  # no other key was made
        assert ask(base_url, first).status_code == 200
        entry, second = add_key(path, "bob")
        assert ask(base_url, second).status_code == 200
        revoke_key(path, entry.key_id)
        assert ask(base_url, second).status_code == 401
        assert ask(base_url, first).status_code == 200
        path.unlink()  # all are gone: nobody is let in
        assert ask(base_url, first).status_code == 401


def test_no_key_is_on_the_disk_and_the_folder_is_its_owners(tmp_path: Path) -> None:
    path = keys_file(tmp_path)
    texts = [add_key(path, f"user {number}")[1] for number in range(5)]
    stored = path.read_text()
    for text in texts:
        assert text not in stored and text.rpartition("-")[2] not in stored
    assert path.parent.stat().st_mode & 0o077 == 0
    salts = [key.salt for key in list_keys(path)]
    assert len(set(salts)) == 5 and not any(salt in repr(list_keys(path)) for salt in salts)


def test_nearly_right_keys_are_not_right(tmp_path: Path) -> None:
    path = keys_file(tmp_path)
    entry, text = add_key(path, "alice")
    _, other = add_key(path, "bob")
    ring = KeyRing(path)
    assert ring.find(text) == entry
    mixed = f"{text.rpartition('-')[0]}-{other.rpartition('-')[2]}"
    for wrong in ("", "x", text[:-1], text + "0", text.upper(), f" {text}", mixed, entry.digest):
        assert ring.find(wrong) is None


def test_a_damaged_file_leaves_the_keys_of_before_and_says_so_once(tmp_path: Path) -> None:
    path = keys_file(tmp_path)
    entry, text = add_key(path, "alice")
    told: list[str] = []
    ring = KeyRing(path, told.append)
    assert ring.find(text) == entry
    path.write_text(path.read_text().replace("alice", "mallory"))
    assert ring.find(text) == entry and ring.find(text) == entry
    assert len(told) == 1 and "damaged" in told[0]
    with pytest.raises(RecordError, match="damaged"):
        list_keys(path)


def test_routes_and_models_of_a_key(tmp_path: Path, tokens: Tokens) -> None:
    path = keys_file(tmp_path)
    _, scraper = add_key(path, "prometheus", routes=("/metrics",))
    _, other = add_key(path, "other", models=("large*",))
    with server(tmp_path, tokens) as (base_url, _):
        assert ask(base_url, scraper, "/metrics").status_code == 200
        for route in ("/v1/models", "/", "/v1/completions", "/metrics/x", "/nothing"):
            refused = ask(base_url, scraper, route)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_scope")
        refused = ask(base_url, other)
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "model")
        assert ask(base_url, other, "/v1/models").status_code == 200
        for path, body in (
            ("/tokenize", {"model": "tiny", "prompt": "a"}),
            ("/detokenize", {"model": "tiny", "tokens": [5]}),
            ("/tokenize", {"prompt": "a"}),
        ):
            headers = {"Authorization": f"Bearer {other}"}
            refused = httpx.post(base_url + path, json=body, headers=headers, trust_env=False)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_scope")


@pytest.mark.parametrize(
    "fields", [{"routes": ("",)}, {"routes": ("/a*b",)}, {"tokens_per_min": 0}, {"max_usd": -1.0}]
)
def test_limits_that_are_none_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="cannot be made"):
        add_key(keys_file(tmp_path), "alice", **fields)
    assert list_keys(keys_file(tmp_path)) == ()


def test_names_in_use_and_keys_that_are_not_there(tmp_path: Path) -> None:
    path = keys_file(tmp_path)
    add_key(path, "alice")
    with pytest.raises(SpecError, match="in use"):
        add_key(path, "alice")
    with pytest.raises(SpecError, match="no key bob in use"):
        revoke_key(path, "bob")
    revoke_key(path, "alice")
    add_key(path, "alice")
    assert [key.revoked is None for key in list_keys(path)] == [False, True]


def test_many_at_once_lose_no_key(tmp_path: Path) -> None:
    path = keys_file(tmp_path)
    made: list[str] = []

    def add(number: int) -> None:
        for _ in range(200):  # another is at work: again
            with contextlib.suppress(Exception):
                made.append(add_key(path, f"user {number}")[1])
                return

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ring = KeyRing(path)
    assert len(made) == 6 and all(ring.find(text) is not None for text in made)


# ------------------------------------------------------------------ what is written down


def test_every_answer_has_a_line_and_no_secret_is_in_any(
    tmp_path: Path, tokens: Tokens, capfd: pytest.CaptureFixture[str]
) -> None:
    path = keys_file(tmp_path)
    entry, key = add_key(path, "alice")
    with server(tmp_path, tokens) as (base_url, app):
        answers = [ask(base_url, key).json() for _ in range(3)]
        streamed = ask(base_url, key, stream=True).text
        ask(base_url, key[:-1])
        ask(base_url, key, model="other")
        access = app.state.access
        metrics = ask(base_url, key, "/metrics").text
    lines = [json.loads(line) for line in (path.parent / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for line, answer in zip(lines, answers, strict=False):
        assert line["id"] in answer["id"]
        assert line["tokens"] == answer["usage"]["completion_tokens"]
        assert line["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert all(line["id"] in streamed for line in lines[3:])
    for line in lines:
        assert (line["model"], line["version"], line["records"]) == ("tiny", 3, {"train": "ab"})
        assert line["contract"] == tokens.contract.digest
        assert line["caller"] == f"key {entry.key_id}" and line["finish_reason"] == "length"
        assert 0 <= line["ttft_s"] <= line["total_s"]
        assert "prompts" not in line and "texts" not in line
    written = "".join(file.read_text() for file in path.parent.iterdir())
    told = capfd.readouterr()
    everything = written + told.out + told.err + metrics
    secrets = (key, key.rpartition("-")[2], access.page_token, access.session, access.cookie)
    assert not any(secret in everything for secret in secrets)
    assert "a shell" not in everything
    assert re.search(r'whorl_refused_total\{code="invalid_api_key"\} 1\.0', metrics)
    assert re.search(r'whorl_refused_total\{code="model_not_found"\} 1\.0', metrics)
    assert re.search(r'whorl_tokens_total\{kind="answer"\} 32\.0', metrics)


def test_texts_are_kept_where_that_is_asked_for(tmp_path: Path, tokens: Tokens) -> None:
    path = keys_file(tmp_path)
    _, key = add_key(path, "alice")
    with server(tmp_path, tokens, log_text=True) as (base_url, _):
        answer = ask(base_url, key).json()
    (line,) = [
        json.loads(line) for line in (path.parent / "answers.jsonl").read_text().split("\n") if line
    ]
    assert line["texts"] == [answer["choices"][0]["text"]]
    assert "a shell" in line["prompts"][0]


def test_a_full_disk_costs_lines_not_answers(tmp_path: Path, tokens: Tokens) -> None:
    path = keys_file(tmp_path)
    _, key = add_key(path, "alice")
    with server(tmp_path, tokens) as (base_url, app):
        log = app.state.gateway.desk.answers
        log.path = tmp_path / "gone" / "answers.jsonl"
        assert ask(base_url, key).status_code == 200
        assert log.num_lost == 1


def test_prefixes_are_shared_by_one_key_alone(tmp_path: Path, tokens: Tokens) -> None:
    path = keys_file(tmp_path)
    keys = [add_key(path, name)[1] for name in ("alice", "bob")]
    with server(tmp_path, tokens) as (base_url, app):
        for key in (*keys, keys[0]):
            assert ask(base_url, key).status_code == 200
        marks = [request.cache_key for request in app.state.gateway.engine.submitted]
    assert marks[0] == marks[2] != marks[1] and all(marks)

"""What keys may use: of a minute, in all, and of several servers together."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stages.serve.test_serve_keys import ask, server
from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError, RecordError
from whorl.stages.serve import limits
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.keys import add_key, keys_file
from whorl.stages.serve.limits import Ledger, Minute


def test_requests_a_minute(tmp_path: Path, tokens: Tokens) -> None:
    path = keys_file(tmp_path)
    _, key = add_key(path, "alice", requests_per_min=3)
    _, free = add_key(path, "bob")
    with server(tmp_path, tokens) as (base_url, _):
        assert [ask(base_url, key).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        refused = ask(base_url, key, "/v1/models")  # whatever it asks
        assert refused.json()["error"]["code"] == "requests_per_min"
        assert 55 <= int(refused.headers["Retry-After"]) <= 60
        assert ask(base_url, free).status_code == 200


def test_tokens_a_minute_count_what_was_used_not_what_was_asked(
    tmp_path: Path, tokens: Tokens
) -> None:
    prompt_tokens = len(tokens.encode_prompt("a shell"))
    path = keys_file(tmp_path)
    _, key = add_key(path, "alice", tokens_per_min=3 * (prompt_tokens + 8) + 7)
    with server(tmp_path, tokens) as (base_url, app):
        for _ in range(3):
            answer = ask(base_url, key)
            assert answer.json()["usage"]["total_tokens"] == prompt_tokens + 8
        refused = ask(base_url, key)
        assert refused.json()["error"]["code"] == "tokens_per_min"
        assert 55 <= int(refused.headers["Retry-After"]) <= 60
        assert ask(base_url, key, max_tokens=7 - prompt_tokens).status_code == 200
        never = ask(base_url, key, max_tokens=200)
        assert never.status_code == 429 and "Retry-After" not in never.headers
        (account,) = app.state.gateway.desk.ledger._accounts.values()
        assert account.used.tokens == 3 * (prompt_tokens + 8) + 7


def test_what_a_key_may_cost_in_all_outlives_the_server(tmp_path: Path, tokens: Tokens) -> None:
    total = len(tokens.encode_prompt("a shell")) + 8
    path = keys_file(tmp_path)
    _, key = add_key(path, "alice", max_usd=2.5 * total / 1e6)
    with server(tmp_path, tokens, usd_per_million_tokens=1.0) as (base_url, _):
        assert [ask(base_url, key).status_code for _ in range(3)] == [200, 200, 429]
    with server(tmp_path, tokens, usd_per_million_tokens=1.0) as (base_url, _):
        refused = ask(base_url, key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert "Retry-After" not in refused.headers  # it would not help


def test_servers_of_one_home_add_up_what_a_key_uses(tmp_path: Path, tokens: Tokens) -> None:
    """Against the sum of what both told their clients; and a limit holds for both together."""
    total = len(tokens.encode_prompt("a shell")) + 8
    _, key = add_key(keys_file(tmp_path), "alice", max_usd=5.5 * total / 1e6)
    price = {"usd_per_million_tokens": 1.0}
    with server(tmp_path, tokens, **price) as one, server(tmp_path, tokens, **price) as two:
        ledgers = [app.state.gateway.desk.ledger for _, app in (one, two)]
        for base_url, _ in (one, two, two):
            assert ask(base_url, key).status_code == 200
        for ledger in (*ledgers, *ledgers):  # as every few seconds
            ledger.save()
        (used,) = [entry.used for entry in ledgers[0]._accounts.values()]
        assert used.tokens == 3 * total and used.usd == pytest.approx(3 * total / 1e6)
        assert [ask(one[0], key).status_code for _ in range(3)] == [200, 200, 429]
    kept = Ledger(tmp_path / ".serving/use.json")._accounts.values()
    assert [account.used.tokens for account in kept] == [5 * total]


def test_ledgers_that_save_at_once_lose_nothing(tmp_path: Path) -> None:
    entry, _ = add_key(keys_file(tmp_path), "alice")
    path = tmp_path / ".serving/use.json"
    ledgers = [Ledger(path) for _ in range(4)]

    def use(ledger: Ledger) -> None:
        for _ in range(20):
            ledger.spend(ledger.caller(entry), 9).end(7)
            ledger.save()

    threads = [threading.Thread(target=use, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Ledger(path).caller(entry).account.used.tokens == 4 * 20 * 7  # type: ignore[union-attr]


def test_savings_of_one_ledger_at_once_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a server stops while one of its regular savings is at work."""
    entry, _ = add_key(keys_file(tmp_path), "alice")
    path = tmp_path / ".serving/use.json"
    ledger, writing = Ledger(path), threading.Event()
    ledger.spend(ledger.caller(entry), 9).end(7)
    write = limits.write_sealed

    def slowly(*rest: Any) -> None:
        writing.set()
        time.sleep(0.2)
        write(*rest)

    monkeypatch.setattr(limits, "write_sealed", slowly)
    regular = threading.Thread(target=ledger.save)
    regular.start()
    assert writing.wait(5)
    ledger.save()
    regular.join()
    assert Ledger(path).caller(entry).account.used.tokens == 7  # type: ignore[union-attr]


def test_use_that_cannot_be_written_is_told_once_and_written_later(tmp_path: Path) -> None:
    entry, _ = add_key(keys_file(tmp_path), "alice")
    path, told = tmp_path / ".serving/use.json", list[str]()
    ledger = Ledger(path, tell=told.append)
    ledger.spend(ledger.caller(entry), 9).end(7)
    path.write_text("{}")  # damaged meanwhile
    ledger.save()
    ledger.save()
    assert len(told) == 1 and "not written down" in told[0]
    path.unlink()
    ledger.save()
    assert Ledger(path).caller(entry).account.used.tokens == 7  # type: ignore[union-attr]


def test_what_was_refused_or_failed_costs_nothing(tmp_path: Path, tokens: Tokens) -> None:
    _, key = add_key(keys_file(tmp_path), "alice", tokens_per_min=10_000)
    with server(tmp_path, tokens) as (base_url, app):
        engine, ledger = app.state.gateway.engine, app.state.gateway.desk.ledger

        def used() -> tuple[int, float]:
            (account,) = ledger._accounts.values()
            return account.used.tokens, sum(held for _, held in account.tokens._entries)

        assert ask(base_url, key).status_code == 200
        before = used()
        reply = engine.reply

        def refuse(request: Any) -> Any:
            raise EngineError("no")

        engine.reply = refuse  # once it was admitted, priced and held
        assert ask(base_url, key).status_code == 503
        assert used() == before
        engine.reply, engine.stalled = reply, True
        thread = threading.Thread(target=ask, args=(base_url, key))
        thread.start()
        while not engine.stats().running:
            time.sleep(0.005)
        engine.fail("it broke")
        engine.stalled = False
        thread.join()
        assert used() == before


def test_tokenizing_counts_for_the_minute_and_costs_nothing(tmp_path: Path, tokens: Tokens) -> None:
    text = "a shell grows by adding to its edge " * 4
    num_tokens = len(tokens.encode_prompt(text))
    _, key = add_key(keys_file(tmp_path), "alice", tokens_per_min=2 * num_tokens + 3)
    with server(tmp_path, tokens) as (base_url, app):

        def post(path: str, **body: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(
                base_url + path, json={"model": "tiny"} | body, headers=headers, trust_env=False
            )

        assert post("/tokenize", prompt=text).json()["count"] == num_tokens
        assert post("/detokenize", tokens=[5] * num_tokens).status_code == 200
        assert post("/detokenize", tokens=[5] * 3).status_code == 200
        for path, body in (
            ("/tokenize", {"prompt": "a"}),
            ("/detokenize", {"tokens": [5]}),
            ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "a"}]}),
        ):
            refused = post(path, **body)
            assert refused.status_code == 429 and 55 <= int(refused.headers["Retry-After"]) <= 60
        assert ask(base_url, key).json()["error"]["code"] == "tokens_per_min"
        (account,) = app.state.gateway.desk.ledger._accounts.values()
        assert account.used.tokens == 0


def test_a_limit_in_usd_without_a_price_is_no_licence(tmp_path: Path, tokens: Tokens) -> None:
    _, key = add_key(keys_file(tmp_path), "alice", max_usd=1.0)
    with server(tmp_path, tokens) as (base_url, _):
        refused = ask(base_url, key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "no_price")


def test_damaged_use_is_not_a_fresh_start(tmp_path: Path) -> None:
    path = tmp_path / "use.json"
    path.write_text("{}")
    with pytest.raises(RecordError):
        Ledger(path)


def test_many_at_once_cannot_pass_the_limit(tmp_path: Path) -> None:
    """What may be used is held before the first token."""
    entry, _ = add_key(keys_file(tmp_path), "alice", tokens_per_min=100)
    ledger = Ledger()
    caller = ledger.caller(entry)
    held = [ledger.spend(caller, 30) for _ in range(3)]
    with pytest.raises(ApiError, match="100 tokens a minute"):
        ledger.spend(caller, 30)
    held[0].end(5)
    held[0].end(5)  # once
    held.append(ledger.spend(caller, 30))
    with pytest.raises(ApiError):
        ledger.spend(caller, 6)


@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 8)), max_size=40),
)
def test_no_60_seconds_hold_more_than_the_limit(limit: int, steps: list[tuple[float, int]]) -> None:
    """Against counting all that was let in; who waits as told gets in, who comes sooner not."""
    window, now_s, let_in = Minute(limit), 0.0, list[tuple[float, int]]()

    def fits(amount: int, when_s: float) -> bool:
        return sum(a for s, a in let_in if when_s - 60 < s) + amount <= limit

    for wait_s, amount in steps:
        now_s += wait_s
        told_s = window.wait_s(amount, now_s)
        if amount > limit:
            assert told_s == float("inf")
        elif told_s == 0:
            assert fits(amount, now_s)
            window.add(amount, now_s)
            let_in.append((now_s, amount))
        else:
            assert not fits(amount, now_s + told_s - 1e-6) and fits(amount, now_s + told_s + 1e-6)

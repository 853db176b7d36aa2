"""`whorl keys` and `whorl torture`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whorl.cli.main import build_app
from whorl.core.errors import SpecError
from whorl.stages.serve.keys import KeyRing, keys_file


def whorl(*arguments: str) -> str:
    done = CliRunner().invoke(build_app(), arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_a_key_is_shown_once_listed_and_revoked(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path))
    text = whorl("keys", "add", "alice", "--route", "/v1/*", "--tokens-per-min", "100", *home)
    key = text.strip()
    ring = KeyRing(keys_file(tmp_path))
    entry = ring.find(key)
    assert entry is not None and (entry.routes, entry.tokens_per_min) == (("/v1/*",), 100)
    shown = whorl("keys", *home) + whorl("keys", "list", "--json", *home)
    assert "alice" in shown and entry.key_id in shown
    assert not any(secret in shown for secret in (key, entry.digest, entry.salt))
    whorl("keys", "revoke", entry.key_id, *home)
    assert ring.find(key) is None
    (row,) = json.loads(whorl("keys", "--json", *home))
    assert row["revoked"] is not None
    made = json.loads(whorl("keys", "add", "alice", "--json", *home))
    assert ring.find(made["key"]) is not None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["keys", "add"], "needs a name"),
        (["keys", "revoke"], "needs a name"),
        (["keys", "revoke", "nobody"], "nobody"),
        (["keys", "list", "--tokens-per-min", "5"], "keys add"),
        (["keys", "add", "x", "--max-usd", "-1"], "max_usd"),
        (["keys", "add", "x" * 200], "name"),
        (["torture", "serve", "http://127.0.0.1:1"], "--served-name"),
        (["torture", "serve", "mine", "--only", "C99"], "C99"),
    ],
)
def test_what_cannot_be_done_is_told(arguments: list[str], word: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=word):
        whorl(*arguments, "--home", str(tmp_path))

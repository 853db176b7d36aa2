"""What `whorl torture serve` says of a server that does not do as it is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from whorl.core.errors import EngineError
from whorl.torture import run
from whorl.torture.target import Attack, Outcome, Victim

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("page: http://127.0.0.1:9/?token=x")
print("API: http://127.0.0.1:9/v1  with a key")
print("model: mine", flush=True)
time.sleep(60)
"""


def test_a_server_that_does_not_stop_is_told_of_and_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "stubborn"
    program.write_text(f"#!{sys.executable}\n{STUBBORN}")
    program.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(program))
    monkeypatch.setattr(run, "STOP_S", 0.3)
    with (
        pytest.raises(EngineError, match=r"still running .* after SIGTERM; it is killed"),
        run.served("mine", tmp_path) as victim,
    ):
        assert victim.model == "mine"


def test_what_an_attack_raises_is_a_failure_of_it() -> None:
    """Such as an answer that is no JSON: the attacks after it are still made."""

    def attack(target: Victim, trials: int, seed: int, found: Outcome) -> None:
        raise ValueError("no JSON")

    one = Attack("C0", "nothing", "nothing", 1, 1, attack)
    outcome = one.outcome(Victim("http://127.0.0.1:9", "k", "mine"), 1, 0)
    assert outcome.num_failed == 1 and outcome.failures == ["ValueError: no JSON"]

"""The attacks on a server, in counts that fit a test run; `make torture` has those that figures
need. The server is a process of its own, and so is every client that is measured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.torture.orders import ORDERED
from tests.torture.server import FakeServer, fake_server
from whorl.core.errors import SpecError
from whorl.torture.run import ATTACKS, chosen_attacks, table
from whorl.torture.target import Attack, Outcome, Victim

SEED = 20261129


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    folder = tmp_path_factory.mktemp("home")
    with fake_server(folder, step_s=0.01, max_running=8, receive_s=1.0, max_wait=2.0) as running:
        yield running


@pytest.mark.parametrize("attack", [*ATTACKS, *ORDERED], ids=lambda attack: attack.number)
def test_the_server_survives(attack: Attack, target: FakeServer) -> None:
    outcome = attack.outcome(target, attack.short, SEED)
    print(outcome.figures, f"{outcome.trials} trials, {outcome.seconds:.1f} s")
    assert outcome.trials >= min(attack.short, 5)
    assert (outcome.num_failed, outcome.failures) == (0, [])


def test_an_attack_finds_what_is_wrong(target: FakeServer) -> None:
    """A check can fail: against a server of another key, none of the right answers come."""
    stranger = Victim(target.base_url, "whorl-wrong-key-0123456789", "tiny")
    (attack,) = chosen_attacks(["C16"])
    outcome = attack.outcome(stranger, 8, SEED)
    assert outcome.num_failed >= 8
    assert "| C16 |" in table([outcome]) and f"| {outcome.num_failed} | - |" in table([outcome])


def test_the_bound_is_that_of_no_failure() -> None:
    outcome = Outcome("C0", "nothing", "nothing")
    for _ in range(300):
        outcome.check(True, "")
    assert 0.0095 < outcome.most_likely_rate < 0.01  # "rule of three": 3 / 300


def test_an_unknown_attack_is_named() -> None:
    with pytest.raises(SpecError, match="C99"):
        chosen_attacks(["C99"])
    assert [attack.number for attack in chosen_attacks(["c4"])] == ["C4"]

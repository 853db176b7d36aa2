"""Every attack on a server, in order, and the table of what they found."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from whorl.core.errors import EngineError, SpecError
from whorl.torture import load, strangers, words
from whorl.torture.target import Attack, Outcome, Victim

__all__ = ["ATTACKS", "attack_all", "chosen_attacks", "served", "table"]

STOP_S = 60.0  # for a server that was told to stop
ATTACKS: tuple[Attack, ...] = (
    *load.ATTACKS[:3],
    *words.ATTACKS,
    *strangers.ATTACKS,
    *load.ATTACKS[3:],
)


def chosen_attacks(only: Sequence[str]) -> list[Attack]:
    """Those of these numbers, all of them if none is named. Raises SpecError for others."""
    numbers = [attack.number for attack in ATTACKS]
    unknown = [number for number in only if number.upper() not in numbers]
    if unknown:
        raise SpecError(
            f"there is no attack {unknown[0][:20]}",
            found=unknown[0][:20],
            expected=", ".join(numbers),
            do="name some of these, or none for all",
        )
    wanted = {number.upper() for number in only} or set(numbers)
    return [attack for attack in ATTACKS if attack.number in wanted]


def attack_all(
    target: Victim,
    attacks: Sequence[Attack],
    *,
    seed: int,
    report: bool,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """One after another. report: with the counts whose figures are told, not the short ones."""
    outcomes = []
    for attack in attacks:
        trials = attack.report if report else attack.short
        outcomes.append(attack.outcome(target, trials, seed))
        on_outcome(outcomes[-1])
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: what was tried, how often, what failed, the figures."""
    lines = [
        "| # | attack | must | trials | failed | rate below (95%) | seconds | figures |",
        "| --- | --- | --- | --: | --: | --: | --: | --- |",
    ]
    for each in outcomes:
        bound = f"{each.most_likely_rate:.2%}" if not each.num_failed else "-"
        figures = "; ".join(f"{name}: {value}" for name, value in sorted(each.figures.items()))
        lines.append(
            f"| {each.number} | {each.name} | {each.must} | {each.trials:,} | "
            f"{each.num_failed:,} | {bound} | {each.seconds:.0f} | {figures} |"
        )
    return "\n".join(lines) + "\n"


@contextmanager
def served(model: str, home: Path) -> Iterator[Victim]:
    """A `whorl serve` of its own on a free port of loopback, stopped at the end.

    Raises EngineError if it does not start, or does not stop as it is told.
    """
    key = f"whorl-{secrets.token_hex(24)}"
    command = [sys.executable, "-m", "whorl", "serve", model, "--port", "0", "--home", str(home)]
    environment = os.environ | {"WHORL_API_KEY": key}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield _started(process, key)
            process.terminate()
            if (how := _ending(process)) != "status 0":
                raise EngineError("the server did not stop as it was told", found=how)
        finally:
            process.kill()


def _ending(process: subprocess.Popen[str]) -> str:
    """How it ended, in words."""
    try:
        return f"status {process.wait(STOP_S)}"
    except subprocess.TimeoutExpired:
        return f"still running {STOP_S:.0f} s after SIGTERM; it is killed"


def _started(process: subprocess.Popen[str], key: str) -> Victim:
    told: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        name, _, value = line.partition(":")
        told[name] = value.strip()
        if name == "model":
            base_url = told["API"].partition("/v1")[0]
            return Victim(base_url, key, told["model"], pid=process.pid)
    raise EngineError("the server did not start", do="whorl serve says why")

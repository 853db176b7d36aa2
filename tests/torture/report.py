"""`make torture`: every attack with the counts that figures need, into docs/reliability.md.

What was found is kept in docs/reliability.json, so that attacks can be run one by one:
`python -m tests.torture.report --only C1 --share 0.5`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.torture.orders import ORDERED
from tests.torture.server import fake_server
from whorl.torture.run import ATTACKS, table
from whorl.torture.target import Outcome

DOCS = Path(__file__).parents[2] / "docs"
KEPT, PAGE = DOCS / "reliability.json", DOCS / "reliability.md"
CONFIG = {"step_s": 0.01, "max_running": 8, "max_wait": 2.0, "receive_s": 5.0}
EVERY = (*ATTACKS, *ORDERED)
TEXT = """# Reliability

*Written by `make torture` (seed {seed}); the attacks are `src/whorl/torture/` and
`tests/torture/`.*

What a server was put through, how often, and what came of it. It runs in a process of its own,
with an engine that hands out one token to each of {max_running} requests every {step_ms} ms and
costs nothing else: what is tried here is everything in front of the engine. `make test` runs each
attack in a few seconds; these are the counts of a longer run, of {machine}; `make torture` tries
most of it more often still, for an hour or two. `whorl torture serve
mine` runs those that need no fake engine against a server of your own model, and `whorl torture
serve http://…` against one that is up; both say exactly what was sent when something fails.

**rate below**: with no failure in n trials, the rate of failures is below this in 95 of 100
cases, `1 - 0.05^(1/n)`. Each attack ends by asking a right request and `/health`, which counts as
one more trial.

{table}
Not here: what a page makes of a model's output (C9) is tried in a browser by `tests/studio/`;
damaged and hostile model files (C11, C12) by `tests/model/`, `tests/core/` and
`tests/policy/test_forbidden.py`. TTFT of one key must not tell of another's prompts (C14): an
engine is handed the key with each request (`cache_key`), and shares prefixes only within one; how
it keeps to that is tested where engines are.
"""


def write_page(kept: dict[str, dict[str, object]], seed: int) -> None:
    order = sorted(kept, key=lambda number: int(number[1:]))
    outcomes = [Outcome(**kept[number]) for number in order]  # type: ignore[arg-type]
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    text = TEXT.format(
        seed=seed,
        max_running=CONFIG["max_running"],
        step_ms=round(float(CONFIG["step_s"]) * 1000),
        machine=machine,
        table=table(outcomes),
    )
    PAGE.write_text(text, "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="number of an attack")
    parser.add_argument("--share", type=float, default=1.0, help="of the counts of a report")
    parser.add_argument("--seed", type=int, default=20261129)
    given = parser.parse_args()
    chosen = [each for each in EVERY if not given.only or each.number in given.only]
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    failed = 0
    for attack in chosen:
        with tempfile.TemporaryDirectory() as folder, fake_server(Path(folder), **CONFIG) as victim:
            trials = max(attack.short, round(attack.report * given.share))
            outcome = attack.outcome(victim, trials, given.seed)
        told = f"{attack.number} {outcome.trials:,} trials, {outcome.num_failed:,} failed"
        print(f"{told}, {outcome.seconds:.0f} s {outcome.figures}", flush=True)
        for failure in outcome.failures[:5]:
            print(f"  {failure}", flush=True)
        failed += outcome.num_failed
        kept[attack.number] = asdict(outcome)
        KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")
        write_page(kept, given.seed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

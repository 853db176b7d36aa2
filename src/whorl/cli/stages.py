"""`whorl prepare|train|compress|evaluate`: one stage, and those before it if needed."""

from __future__ import annotations

from pathlib import Path

import typer

from whorl.cli.console import OUT, print_json
from whorl.cli.options import Debug, Home, Json, RecipePath, SetValues, Workers, open_session
from whorl.cli.report import print_scores, print_stage
from whorl.core.records import Record
from whorl.verbs import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    for command, example in (
        (prepare_command, "whorl prepare recipes/python-stdlib.yaml --workers 2"),
        (train_command, "whorl train recipes/python-stdlib.yaml"),
        (compress_command, "whorl compress recipes/python-stdlib.yaml"),
        (evaluate_command, "whorl evaluate recipes/python-stdlib.yaml --json"),
    ):
        name = command.__name__.removesuffix("_command")
        app.command(name, epilog=f"Example: `{example}`")(command)


def _print_record(record: Record, session: Session, json: bool) -> None:
    if json:
        print_json(
            {
                "stage": record.stage,
                "record": str(record.path),
                "reused": record.stage not in session.took_s,
                "metrics": record.metrics,
                "run": record.run,
            }
        )
    else:
        print_stage(record, session.took_s.get(record.stage))


def prepare_command(
    recipe: RecipePath,
    set_values: SetValues = None,
    home: Home = None,
    workers: Workers = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read, clean, deduplicate, split, tokenise and pack the data."""
    session = open_session(recipe, set_values, home, workers)
    _print_record(session.prepare(), session, json)


def train_command(
    recipe: RecipePath,
    set_values: SetValues = None,
    home: Home = None,
    workers: Workers = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the planned model; resumes exactly where it was stopped."""
    session = open_session(recipe, set_values, home, workers)
    _print_record(session.train(), session, json)


def compress_command(
    recipe: RecipePath,
    set_values: SetValues = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make smaller variants and measure what they lose; refuse those that lose too much."""
    session = open_session(recipe, set_values, home)
    _print_record(session.compress(), session, json)


def evaluate_command(
    recipe: RecipePath,
    set_values: SetValues = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score the model through its serving engine, beside baselines, with 95% intervals."""
    session = open_session(recipe, set_values, home)
    record = session.evaluate()
    if json:
        print_json({"record": str(record.path), "scores": session.scores()})
    else:
        print_scores(session.scores())
        OUT.print(f"record {Path(record.path)}", markup=False, soft_wrap=True)

"""Whatever is typed behind any flag or argument of any command is taken, or refused as a usage.

Commands, flags and arguments are found by walking the tree of commands: a new one is tried without
a change here. What would take long (a stage, a search of layouts) is replaced by an error that
says it was reached.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from whorl import planning, verbs
from whorl.cli.main import build_app
from whorl.core.errors import SpecError, WhorlError
from whorl.spec.load import load_recipe
from whorl.stages.plan.ask.layouts import parse_budget, parse_layout, parse_measured

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 12)
APP: Any = typer.main.get_command(build_app())
RECIPE = "name: r\ndata: [{source: notes}]\nbudget: {train_time: 5s}\n"
# What a command needs before the flag that is tried.
BASE: dict[str, list[str]] = {
    "plan": [
        *("--model", "llama-3-8b", "--device", "h100-sxm", "--count", "8"),
        *("--seq", "8192", "--global-batch-tokens", "1M"),
    ],
    "keys": ["add", "some"],
    "torture": ["serve", "nobody"],
}
INSTEAD = {  # flags that do not go with those above, and what they go with
    "--budget": ["--device", "h100-sxm", "--count", "8", "--seq", "2048"],
    "--vocab": ["--device", "h100-sxm", "--count", "8", "--seq", "2048", "--budget", "usd=100k"],
    **{name: [] for name in ("--compare", "--published", "RECIPE")},
    **{name: ["r.yaml"] for name in ("--set", "--home")},
}
POSITIONAL = {"recipe": "r.yaml", "name": "fresh", "what": "r", "model": "nobody"}
WORDS = st.sampled_from(
    [
        *("0", "-1", "1", "1.5", "1e3", "1e400", "nan", "inf", "-inf", "true", "999", "65536"),
        *("8k", "1,024", "1_000", " ", "", "8 ", "١٢", "abc", "=", ",", "=5", "5=", "a=b", "tp=0"),
        *(
            "99999999999",
            "9" * 250,
            "x" * 250,
            "../..",
            "~",
            "no",
            "null",
            "r.yaml",
            "é👩‍🚒",
            "{}",
        ),
        *("train.steps=5", "train.steps=-5", "data.0.share=1", "data.9.share=1", "data=x", "["),
    ]
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)


class Reached(WhorlError):
    """All flags were read; the work would begin."""


def flags() -> Iterator[tuple[str, Any]]:
    """(command, parameter that takes a value) of every command."""
    for name, command in APP.commands.items():
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False) and parameter.name != "help":
                yield name, parameter


ALL = list(flags())


@pytest.fixture(autouse=True)
def _reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_only(cls: type, recipe: Any, overrides: Any = (), **options: Any) -> Any:
        load_recipe(Path(recipe), overrides)
        raise Reached("a session")

    def no_search(*given: Any) -> Any:
        raise Reached("a search")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHORL_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(verbs.Session, "open", classmethod(open_only))
    monkeypatch.setattr(planning, "choose_layout", no_search)
    monkeypatch.setattr(planning, "buy", no_search)
    Path("r.yaml").write_text(RECIPE)


def command_line(command: str, parameter: Any, values: list[str]) -> list[str]:
    is_argument = parameter.param_type_name == "argument"
    name = parameter.opts[0] if not is_argument else parameter.name.upper()
    before = INSTEAD[name] if name in INSTEAD and command == "plan" else BASE.get(command, [])
    if command not in BASE:
        context = APP.commands[command]
        needed = [p for p in context.params if p.param_type_name == "argument" and p.required]
        before = [POSITIONAL.get(p.name, "some") for p in needed if p.name != parameter.name]
    if is_argument:
        return [command, *before, "--", *values]
    if name in before:  # what is tried replaces what is there
        at = before.index(name)
        before = before[:at] + before[at + 2 :]
    return [command, *before, f"{name}={values[0]}", *values[1:]]


def outcome(arguments: list[str]) -> BaseException | None:
    """What a command line ends in, as `whorl.cli.main` gets it."""
    try:
        APP.main(arguments, prog_name="whorl", standalone_mode=False)
    except (Exception, SystemExit) as error:
        return error
    return None


def test_all_commands_are_walked() -> None:
    assert {name for name, _ in ALL} >= {"plan", "train", "serve", "ladder", "new", "show"}
    assert len(ALL) > 50


@settings(
    max_examples=TRIALS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
@pytest.mark.parametrize(("command", "parameter"), ALL, ids=[f"{c}-{p.name}" for c, p in ALL])
def test_nothing_typed_is_a_defect(command: str, parameter: Any, data: st.DataObject) -> None:
    values = [data.draw(WORDS | TEXTS) for _ in range(max(1, parameter.nargs))]
    for fresh in Path().glob("*.yaml"):
        if fresh.name != "r.yaml":
            fresh.unlink()
    error = outcome(command_line(command, parameter, values))
    if isinstance(error, WhorlError):
        assert len(str(error).splitlines()) == 1
    else:  # None, or the refusal of typer, which says how the command is used
        assert error is None or hasattr(error, "format_message"), (values, repr(error))


@pytest.mark.parametrize("flag", ["--count", "--seq", "--global-batch-tokens", "--tokens"])
@pytest.mark.parametrize(
    "bad", ["0", "-1", "1.5", "1,024", "abc", "1e400", "nan", " ", "8 ", "١٢", "true", "9" * 30]
)
def test_a_bad_number_names_its_flag(flag: str, bad: str) -> None:
    parameter = next(p for c, p in ALL if c == "plan" and flag in p.opts)
    error = outcome(command_line("plan", parameter, [bad]))
    assert isinstance(error, SpecError) and error.what.startswith(flag)
    assert error.found is not None and error.expected is not None


@given(WORDS | TEXTS | st.from_regex(r"(tp|pp|mbs|users|usd|flops|time|step_s)=\S{0,5}"))
@example("tp=8;pp=1")
@example("recompute_parts=")
@example("tp=1,mbs=1,step_s=nan")
@example("vpp=2,tp=1e18")
def test_what_flags_hold_inside(text: str) -> None:
    for read in (
        parse_budget,
        lambda text: parse_layout(text, 8),
        lambda text: parse_measured(text, 8),
    ):
        try:
            read(text)
        except SpecError as error:
            assert len(str(error).splitlines()) == 1

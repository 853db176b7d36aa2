"""Every command and flag has help and an example, and stands in docs/cli.md."""

from __future__ import annotations

import re
from typing import Annotated, Any

import pytest
import typer

from tests.policy.conftest import ROOT, report

STAGES = {"plan", "prepare", "train", "compress", "evaluate", "serve"}
COMMANDS = STAGES | {
    "up",
    "import",
    "diff",
    "export",
    "harness",
    "ladder",
    "models",
    "improve",
    "doctor",
    "explain",
    "new",
    "ls",
    "show",
    "verify",
    "gc",
    "keys",
    "torture",
}
COMMON_FLAGS = {"--json": COMMANDS - {"new", "serve"}, "--debug": COMMANDS}


def walk(command: Any, path: str) -> list[tuple[str, Any]]:
    """(full name, command) of every command that does something."""
    children = getattr(command, "commands", {})
    found = [] if children else [(path, command)]
    for name, child in children.items():
        found += walk(child, f"{path} {name}")
    return found


def help_offenders(command: Any, path: str) -> list[str]:
    """Commands without help or example, and parameters without help."""
    offenders = []
    for name, leaf in walk(command, path):
        if not (leaf.help or "").strip():
            offenders.append(f"{name}: no help")
        spoken = f"{leaf.help or ''}\n{leaf.epilog or ''}"
        if "Example" not in spoken or f"{name} " not in f"{spoken} ".replace("`", " "):
            offenders.append(f"{name}: no example in --help")
        for parameter in leaf.params:
            if not (getattr(parameter, "help", None) or "").strip() and parameter.name != "help":
                offenders.append(f"{name}: {parameter.name}: no help")
    return offenders


def undocumented(command: Any, path: str, page: str) -> list[str]:
    """Commands and flags that the page's section of the command does not name."""
    sections = {
        title.strip(): text for title, text in re.findall(r"^## (.*)\n([^#]*)", page, re.MULTILINE)
    }
    offenders = []
    for name, leaf in walk(command, path):
        if name not in sections:
            offenders.append(f"docs/cli.md: no section {name}")
            continue
        for parameter in leaf.params:
            written = parameter.opts if parameter.param_type_name == "option" else []
            offenders += [
                f"docs/cli.md: {name}: no flag {flag}"
                for flag in [*written, *parameter.secondary_opts]
                if flag != "--help" and f"`{flag}`" not in sections[name]
            ]
    return offenders


@pytest.fixture(scope="module")
def whorl_command() -> Any:
    from whorl.cli.main import build_app

    return typer.main.get_command(build_app())


def test_commands_are_those_promised(whorl_command: Any) -> None:
    assert set(whorl_command.commands) == COMMANDS


def test_every_command_and_flag_has_help_and_an_example(whorl_command: Any) -> None:
    offenders = help_offenders(whorl_command, "whorl")
    assert not offenders, report(offenders)


def test_every_command_and_flag_is_in_the_docs(whorl_command: Any) -> None:
    offenders = undocumented(whorl_command, "whorl", (ROOT / "docs/cli.md").read_text("utf-8"))
    assert not offenders, report(offenders)


@pytest.mark.parametrize("flag", sorted(COMMON_FLAGS))
def test_common_flags_are_everywhere(whorl_command: Any, flag: str) -> None:
    offenders = [
        f"whorl {name}: no {flag}"
        for name in sorted(COMMON_FLAGS[flag])
        if not any(flag in parameter.opts for parameter in whorl_command.commands[name].params)
    ]
    assert not offenders, report(offenders)


def test_planted_violations_are_found() -> None:
    app = typer.Typer()

    @app.command(epilog="Example: `tool good --level 3`")
    def good(level: Annotated[int, typer.Option(help="How much.")] = 1) -> None:
        """Do it well."""

    @app.command()
    def bad(level: int = 1) -> None: ...

    command = typer.main.get_command(app)
    assert help_offenders(command, "tool") == [
        "tool bad: no help",
        "tool bad: no example in --help",
        "tool bad: level: no help",
    ]
    page = "# The command line\n\n## tool good\n\n| `--lever` |\n"
    assert undocumented(command, "tool", page) == [
        "docs/cli.md: tool good: no flag --level",
        "docs/cli.md: no section tool bad",
    ]

"""`whorl plan`: of a recipe on this machine, of any model on any devices, of published rows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from whorl.cli.console import ERR, OUT, print_json, say
from whorl.cli.options import Debug, Home, Json, SetValues, open_session
from whorl.cli.reading import preview_plan
from whorl.cli.report import print_plan, print_stage
from whorl.core.errors import SpecError
from whorl.stages.plan.ask.flags import FLAGS, Flag, take_words

if TYPE_CHECKING:
    from whorl.verbs import Session

__all__ = ["register"]

WORDS = "whorl.words"  # of other tools, in the meta of a context

EXAMPLES = """Example: `whorl plan recipes/python-stdlib.yaml --set budget.train_time=10min`

Example: `whorl plan --model llama-3.1-405b --device h100-sxm --count 16384 --seq 8192
--global-batch-tokens 16M --tokens 15T --html plan.html`

Example: `whorl plan --model llama-3.1-8b --device rtx-4090 --tune qlora --seq 2048
--per_device_train_batch_size 2 --gradient_accumulation_steps 8`

Example: `whorl plan --from axolotl.yaml --device a100-80 --count 8 --why-oom`"""

RECIPE = "A recipe (YAML), planned for its hardware: this machine if it names none."
COMPARE = "Two plans that --json wrote, side by side, with ratios."
PUBLISHED = "Predict every row of a CSV of published measurements."


def _option(item: Flag) -> Any:
    if item.kind is bool:
        return typer.Option(item.flag, help=item.help, show_default=False)
    return typer.Option(item.flag, help=item.help, metavar=item.metavar, show_default=False)


def _argument(help_text: str) -> Any:
    return typer.Argument(help=help_text, show_default=False)


def _parameters() -> Iterator[tuple[str, Any, Any]]:
    """(name, type, default) of the command: RECIPE, the flags of ask/flags.py, how to answer."""
    yield "context", typer.Context, inspect.Parameter.empty
    yield "recipe", Annotated[Path | None, _argument(RECIPE)], None
    for item in FLAGS:
        kind: Any = item.kind
        yield item.name, Annotated[kind | None, _option(item)], None
    pair = typer.Option("--compare", help=COMPARE, metavar="A B", show_default=False)
    yield "compare", Annotated[tuple[Path, Path] | None, pair], None
    rows = typer.Option("--published", help=PUBLISHED, metavar="FILE", show_default=False)
    yield "published", Annotated[Path | None, rows], None
    yield "set_values", SetValues, None
    yield "home", Home, None
    yield "json", Json, False
    yield "debug", Debug, False


class Words(TyperCommand):
    """The command, which also takes options by the names other tools give them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        rest, ctx.meta[WORDS] = take_words(args, {*own, "--help"})
        return super().parse_args(ctx, rest)


def register(app: typer.Typer) -> None:
    app.command("plan", cls=Words, epilog=EXAMPLES)(plan_command)


def plan_command(**values: Any) -> None:
    """Choose sizes for the budget; predict time, memory and quality; refuse what cannot fit.

    With --model and --device: the best layout on many devices, without torch. Options by the names
    of Hugging Face's Trainer are taken too: --per_device_train_batch_size 2 --optim
    paged_adamw_8bit.
    """
    model_word = None
    if words := values["context"].meta[WORDS]:
        from whorl.stages.plan.ask.files import read_words

        model_word = read_words(words).flags.get("--model")
    given = {item.flag: values[item.name] for item in FLAGS if values[item.name] is not None}
    recipe, compare, published = values["recipe"], values["compare"], values["published"]
    modes = {"RECIPE": recipe, "--compare": compare, "--published": published}
    modes["--model"] = given.get("--model", model_word)
    if modes["--model"] is None:
        modes["--from"] = given.get("--from")
    if not any(modes.values()):
        modes["--budget"] = given.get("--budget")
    extra = [name for name in (*given, *words) if name not in ("--model", "--from")]
    _check_modes([name for name, value in modes.items() if value is not None], extra)
    if recipe is None and (values["set_values"] or values["home"] is not None):
        raise SpecError("--set and --home need a RECIPE", do="leave them out")
    if compare is not None:
        _compare(compare, values["json"])
    elif published is not None:
        _published(published, values["json"])
    else:
        loaded = None
        if recipe is not None:
            loaded = open_session(recipe, values["set_values"], values["home"], plans_alone=True)
        if loaded is not None and not (given or words) and loaded.loaded.recipe.hardware.is_here:
            _plan_recipe(loaded, values["json"])
        else:
            _answer(loaded, given, words, values["json"])


plan_command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
        )
        for name, annotation, default in _parameters()
    ]
)


def _check_modes(modes: list[str], given: list[str]) -> None:
    """The command is about exactly one thing, or SpecError."""
    if len(modes) != 1:
        raise SpecError(
            "plan needs one of RECIPE, --model, --from, --budget, --compare and --published",
            found=" and ".join(modes) or "none",
            do="keep one of them" if modes else "give RECIPE, or --model NAME --device NAME …",
        )
    if given and modes[0] in ("--compare", "--published"):
        raise SpecError(f"{modes[0]} does not go with {', '.join(given)}", do="leave them out")


def _plan_recipe(session: Session, json: bool) -> None:
    record = session.plan()
    if json:
        print_json({"record": str(record.path), **session.planned.model_dump(mode="json")})
    else:
        print_plan(record)
        print_stage(record, session.took_s.get(record.stage))
        if record.stage in session.took_s:
            preview_plan(session)


def _answer(
    session: Session | None, given: dict[str, Any], words: dict[str, str], json: bool
) -> None:
    from whorl import planning
    from whorl.stages.plan.output.text import render

    recipe = None if session is None else session.loaded.recipe
    html, emit = given.pop("--html", None), given.pop("--emit", None)
    name = "" if session is None else str(session.loaded.path)
    found = planning.answer(given, words, recipe, name, say)
    if html is not None or emit is not None:
        _write_files(found, html, emit)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        OUT.print(render(found))
    for path in filter(None, (html, emit)):
        ERR.print(f"wrote {path}", markup=False, soft_wrap=True)


def _write_files(found: Any, html: Path | None, emit: Path | None) -> None:
    from whorl.stages.plan.output.page import render_page

    if found.kind != "cluster_plan":
        raise SpecError("--html and --emit write a training plan", found=found.kind)
    if html is not None:
        _write(html, render_page(found))
    if emit is not None:
        for name, text in found.commands.items():
            _write(emit / name, text)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise SpecError(f"{path} cannot be written", found=error) from error


def _compare(paths: tuple[Path, Path], json: bool) -> None:
    from whorl.stages.plan.output.compare import compare_plans, render_comparison
    from whorl.stages.plan.output.schema import load_plan

    comparison = compare_plans(load_plan(paths[0]), load_plan(paths[1]))
    if json:
        print_json({"a": str(paths[0]), "b": str(paths[1]), **comparison})
    else:
        OUT.print(render_comparison((str(paths[0]), str(paths[1])), comparison))


def _published(path: Path, json: bool) -> None:
    from whorl.stages.plan.lab.predict import predict_published
    from whorl.stages.plan.lab.scores import render_scores

    report = predict_published(path)
    if json:
        print_json(report)
    else:
        OUT.print(render_scores(report))

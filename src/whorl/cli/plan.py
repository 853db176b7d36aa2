"""`whorl plan`: of a recipe on this machine, of any model on any devices, of published rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json, SetValues, open_session
from whorl.cli.reading import preview_plan
from whorl.cli.report import print_plan, print_stage
from whorl.core.errors import SpecError

if TYPE_CHECKING:
    from whorl.verbs import Session

__all__ = ["register"]

CLUSTER_FLAGS = (
    *("device", "count", "seq", "global_batch_tokens", "precision", "optimizer", "stack"),
    *("tokens", "budget", "vocab", "unique_tokens", "served_tokens", "usd_per_device_hour"),
    *("layout", "measured", "tables", "serve", "html", "emit"),
)

EXAMPLES = """Example: `whorl plan recipes/python-stdlib.yaml --set budget.train_time=10min`

Example: `whorl plan --model llama-3.1-405b --device h100-sxm --count 16384 --seq 8192
--global-batch-tokens 16M --tokens 15T --html plan.html`"""


def _flag(flag: str, help_text: str, metavar: str = "TEXT") -> Any:
    return typer.Option(flag, help=help_text, metavar=metavar, show_default=False)


Text = str | None
RECIPE = "A recipe (YAML), planned for its hardware: this machine if it names none."
Recipe = Annotated[Path | None, typer.Argument(help=RECIPE, show_default=False)]
Model = Annotated[Text, _flag("--model", "A known model's name, or the path of a config.json.")]
Device = Annotated[Text, _flag("--device", "What to plan for, such as h100-sxm.")]
Count = Annotated[Text, _flag("--count", "How many devices.", "N")]
SEQ = "Tokens of one sequence; of lengths k is 1024 and M 2**20: 8k are 8192."
Seq = Annotated[Text, _flag("--seq", SEQ, "N")]
BATCH = "Tokens of one optimiser step; 16M are 16,777,216, of 8192 each 2,048 sequences."
Batch = Annotated[Text, _flag("--global-batch-tokens", BATCH, "N")]
Precision = Annotated[Text, _flag("--precision", "bf16 (default), fp8, fp8_block, mxfp8, …")]
OPTIMIZERS = "adamw (default), adamw_bf16, adamw_8bit, muon, sgd."
Optimizer = Annotated[Text, _flag("--optimizer", OPTIMIZERS)]
STACKS = "What trains: megatron (default), fsdp, xla (default of TPUs) or whorl (of CPUs)."
Stack = Annotated[Text, _flag("--stack", STACKS)]
TOKENS = "To train on: 15T are 15e12, k is 1000. Default: the scaling law's choice."
Tokens = Annotated[Text, _flag("--tokens", TOKENS, "N")]
BUDGET = "What to spend: usd=100k, time=30days, device_hours=50k or flops=1e24; without --model it "
Budget = Annotated[Text, _flag("--budget", BUDGET + "chooses the size.", "KIND=X")]
VOCAB = "Vocabulary of the model that a budget chooses; 128k are 131,072. Default: 128,256."
Vocab = Annotated[Text, _flag("--vocab", VOCAB, "N")]
UNIQUE = "Tokens there are: training on more repeats them."
UniqueTokens = Annotated[Text, _flag("--unique-tokens", UNIQUE, "N")]
SERVED = "Tokens read and written over its life: the size that is cheapest to train and serve."
ServedTokens = Annotated[Text, _flag("--served-tokens", SERVED, "N")]
PRICE = "Price. Default: the catalogue's."
Price = Annotated[Text, _flag("--usd-per-device-hour", PRICE, "X")]
LAYOUT = "Predict this layout instead of searching: tp=8,pp=16,mbs=1,recompute=full."
LayoutText = Annotated[Text, _flag("--layout", LAYOUT)]
MEASURED = (
    "One timed step, from which all is re-predicted: tp=4,pp=4,mbs=1,tokens_per_s=1638 (per "
    "device), or step_s=…; count=… if on other devices."
)
Measured = Annotated[Text, _flag("--measured", MEASURED)]
TABLES = "Time products by the measured kernels of whorl[tables], where the device has them."
Tables = Annotated[bool | None, typer.Option("--tables", help=TABLES, show_default=False)]
SERVE = "Plan serving too: users=100,ttft=1s,tokens_per_s=20,input=1024,output=256."
Serve = Annotated[Text, _flag("--serve", SERVE)]
Html = Annotated[Path | None, _flag("--html", "Write the plan as one page with plots.", "FILE")]
Emit = Annotated[Path | None, _flag("--emit", "Write what runs the choice.", "FOLDER")]
COMPARE = "Two plans that --json wrote, side by side, with ratios."
Compare = Annotated[tuple[Path, Path] | None, _flag("--compare", COMPARE, "A B")]
PUBLISHED = "Predict every row of a CSV of published measurements."
Published = Annotated[Path | None, _flag("--published", PUBLISHED, "FILE")]


def register(app: typer.Typer) -> None:
    app.command("plan", epilog=EXAMPLES)(plan_command)


def plan_command(
    recipe: Recipe = None,
    model: Model = None,
    device: Device = None,
    count: Count = None,
    seq: Seq = None,
    global_batch_tokens: Batch = None,
    precision: Precision = None,
    optimizer: Optimizer = None,
    stack: Stack = None,
    tokens: Tokens = None,
    budget: Budget = None,
    vocab: Vocab = None,
    unique_tokens: UniqueTokens = None,
    served_tokens: ServedTokens = None,
    usd_per_device_hour: Price = None,
    layout: LayoutText = None,
    measured: Measured = None,
    tables: Tables = None,
    serve: Serve = None,
    html: Html = None,
    emit: Emit = None,
    compare: Compare = None,
    published: Published = None,
    set_values: SetValues = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose sizes for the budget; predict time, memory and quality; refuse what cannot fit.

    With --model and --device: the best layout on many devices, without torch.
    """
    values = dict(locals())
    given = {
        f"--{name.replace('_', '-')}": values[name]
        for name in CLUSTER_FLAGS
        if values[name] is not None
    }
    modes = {"RECIPE": recipe, "--model": model, "--compare": compare, "--published": published}
    if not any(modes.values()):
        modes["--budget"] = budget
    _check_modes([name for name, value in modes.items() if value is not None], list(given))
    if recipe is None and (set_values or home is not None):
        raise SpecError("--set and --home need a RECIPE", do="leave them out")
    if compare is not None:
        _compare(compare, json)
    elif published is not None:
        _published(published, json)
    else:
        loaded = None if recipe is None else open_session(recipe, set_values, home)
        if loaded is not None and not given and loaded.loaded.recipe.hardware.is_here:
            _plan_recipe(loaded, json)
        else:
            _plan_cluster(model, loaded, given, json)


def _check_modes(modes: list[str], given: list[str]) -> None:
    """The command is about exactly one thing, or SpecError."""
    if len(modes) != 1:
        raise SpecError(
            "plan needs one of RECIPE, --model, --budget, --compare and --published",
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


def _plan_cluster(
    model: str | None, session: Session | None, given: dict[str, Any], json: bool
) -> None:
    from whorl import planning
    from whorl.stages.plan.output.page import render_page
    from whorl.stages.plan.output.text import render_cluster_plan

    recipe = None if session is None else session.loaded.recipe
    flags = given if recipe is None else planning.recipe_flags(recipe, given)
    shape = planning.read_shape(model, recipe, "--budget" in flags)
    name = model or (str(session.loaded.path) if session is not None else "")
    plan = planning.plan_cluster(name, shape, flags)
    html, emit = given.get("--html"), given.get("--emit")
    if html is not None:
        _write(html, render_page(plan))
    if emit is not None:
        for name, text in plan.commands.items():
            _write(emit / name, text)
    if json:
        print_json(plan.model_dump(mode="json"))
    else:
        OUT.print(render_cluster_plan(plan))
    for path in filter(None, (html, emit)):
        ERR.print(f"wrote {path}", markup=False, soft_wrap=True)


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

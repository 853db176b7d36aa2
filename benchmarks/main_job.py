"""The main job on this machine, once per seed: how good is what `whorl up` trains here?

    python benchmarks/main_job.py --seeds 5 --json

Plans, prepares, trains, compresses and evaluates the recipe with seeds 0 to N-1, each in a process
of its own; the seed decides the held-out documents too. The model is the full-precision one that is
served, its baselines are those of evaluate. Records found in --home are reused, and such seeds are
marked. Run it on a quiet machine: the recipe's budget of time decides how many tokens are seen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from whorl.core.processor import CPUINFO
from whorl.core.records import Record
from whorl.launch.machine import machine_facts

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "python-stdlib.yaml"
FULL_PRECISION = ("f32", "bf16", "f16", "hf")  # last words of the names of such scores
SAME_TOKENS, ALL_TOKENS = "the tokens the model saw", "all training tokens"
ONE_STREAM = "in one stream"
FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm", "sve", "sve2"),
)
COLUMNS = {  # of a seed -> its title
    "bits_per_byte": "bits per byte",
    "ngram_same_tokens": "5-gram, same tokens",
    "ngram_all_tokens": "5-gram, all tokens",
    "xz_one_stream": "xz, one stream",
    "train_tokens": "tokens trained on",
    "train_s": "training",
}
Launch = Callable[[Sequence[str]], str]  # arguments of whorl -> its standard output


def launch_whorl(arguments: Sequence[str]) -> str:
    """In a fresh process, its progress on our standard error. Raises SystemExit if it fails."""
    command = [sys.executable, "-m", "whorl", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


# ------------------------------------------------------------------ one seed


def run_seed(
    seed: int, recipe: Path, home: Path, overrides: Sequence[str], launch: Launch
) -> dict[str, Any]:
    """The row of one seed; `reused` says that its model had been trained before."""
    settings = [part for value in (*overrides, f"seed={seed}") for part in ("--set", value)]
    known = {path.resolve() for path in home.glob("*/train/*")}
    out = launch(["evaluate", str(recipe), *settings, "--home", str(home), "--json"])
    evaluated = json.loads(out)
    record = Record.load(Path(evaluated["record"]))
    trained = Record.load(record.path.parents[1] / "train" / record.inputs["train"])
    config = trained.config["train"]
    return {
        "seed": seed,
        **figures_of(evaluated["scores"]),
        "train_tokens": config["steps"] * config["batch_tokens"],
        "train_s": trained.run["train_s"],
        "reused": trained.path.resolve() in known,
    }


def figures_of(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Our bits per byte and the baselines'. Raises SystemExit if one is missing."""
    if any(score["metric"] != "bits_per_byte" for score in scores):
        raise SystemExit(f"the recipe is scored in {scores[0]['metric']}, not in bits per byte")
    models = [score for score in scores if score["kind"] == "model"]
    ours = [model for model in models if model["name"].split()[-1] in FULL_PRECISION]
    baselines = {score["name"]: score["value"] for score in scores if score["kind"] == "baseline"}

    def baseline(words: str) -> float | None:
        return next((value for name, value in baselines.items() if words in name), None)

    found = {
        "bits_per_byte": ours[0]["value"] if ours else None,
        # a model that saw every token has one n-gram model beside it
        "ngram_same_tokens": baseline(SAME_TOKENS) or baseline(ALL_TOKENS),
        "ngram_all_tokens": baseline(ALL_TOKENS),
        "xz_one_stream": baseline(ONE_STREAM),
    }
    figures = {key: value for key, value in found.items() if value is not None}
    if missing := found.keys() - figures.keys():
        names = ", ".join(score["name"] for score in scores)
        raise SystemExit(f"no score for {', '.join(sorted(missing))}; there are: {names}")
    return figures


# ------------------------------------------------------------------ all of them


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds, and how many are below the n-gram model of the same tokens."""
    medians = {f"median_{key}": statistics.median(row[key] for row in rows) for key in COLUMNS}
    below = sum(row["bits_per_byte"] < row["ngram_same_tokens"] for row in rows)
    return {**medians, "below_ngram_same_tokens": below}


def machine_here(cpuinfo: Path = CPUINFO) -> dict[str, Any]:
    """What of this machine decides speed and rounding."""
    import torch

    facts = machine_facts(cpuinfo=cpuinfo)
    return {
        "cpu": facts.cpu,
        "cores": facts.cores,
        "memory_bytes": facts.memory_bytes,
        "flags": flags_in(cpuinfo.read_text()) if cpuinfo.exists() else [],
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def flags_in(cpuinfo: str) -> list[str]:
    """Those of FLAGS that the first processor of /proc/cpuinfo has."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return [flag for flag in FLAGS if flag in value.split()]
    return []


def table_of(found: dict[str, Any]) -> Table:
    machine, rows = found["machine"], found["seeds"]
    title = f"{found['recipe']}: {machine['cpu']}, {machine['cores']} cores, "
    table = Table("seed", *COLUMNS.values(), "below the same-token 5-gram")
    table.title = f"{title}{machine['torch_cpu_capability']}"
    for row in rows:
        below = row["bits_per_byte"] < row["ngram_same_tokens"]
        name = f"{row['seed']} (reused)" if row["reused"] else str(row["seed"])
        table.add_row(name, *cells(row), "yes" if below else "[yellow]no[/yellow]")
    table.add_section()
    medians = {key: found[f"median_{key}"] for key in COLUMNS}
    table.add_row("median", *cells(medians), f"{found['below_ngram_same_tokens']} of {len(rows)}")
    return table


def cells(row: dict[str, Any]) -> list[str]:
    """The columns of a row, as text."""
    shown = {"train_tokens": ",.0f", "train_s": ".1f"}
    texts = [format(row[key], shown.get(key, ".3f")) for key in COLUMNS]
    return [*texts[:-1], f"{texts[-1]} s"]


def main(arguments: Sequence[str] | None = None, launch: Launch = launch_whorl) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, 2 …")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument(
        "--home", type=Path, default=Path("runs"), help="where records are kept, and reused"
    )
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="of the recipe"
    )
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error("--seeds: at least 1")
    rows = []
    for seed in range(given.seeds):
        print(f"seed {seed} ({seed + 1} of {given.seeds}) …", file=sys.stderr, flush=True)
        rows.append(run_seed(seed, given.recipe, given.home, given.set, launch))
        figures = ", ".join(f"{COLUMNS[key]} {rows[-1][key]:.3f}" for key in list(COLUMNS)[:4])
        note = " (reused)" if rows[-1]["reused"] else ""
        print(f"seed {seed}{note}: {figures}", file=sys.stderr, flush=True)
    found = {
        "recipe": given.recipe.stem,
        "set": given.set,
        "machine": machine_here(),
        "seeds": rows,
        **summary_of(rows),
    }
    if given.json:
        print(json.dumps(found))
    else:
        Console().print(table_of(found))


if __name__ == "__main__":
    main()

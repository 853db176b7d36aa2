"""The benchmark of every way of teaching: recipes, pairs, rows, table; no training."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import teaching
from rich.console import Console

from whorl.spec.load import parse_recipe

MIB = 2**20


def figure(planned: float, actual: float, ratio: float, within: bool = True) -> dict[str, Any]:
    return {"predicted": planned, "actual": actual, "ratio": ratio, "within": within}


COMPARED = {
    "step_s": figure(4.0, 5.0, 1.25, within=False),
    "train_s": figure(80.0, 88.0, 1.1),
    "peak_bytes": figure(2048 * MIB, 3072 * MIB, 1.5),
    "train_tokens": figure(10240, 10240, 1.0),
}
LARGE = COMPARED | {"peak_bytes": figure(8000 * MIB, 8192 * MIB, 1.02)}


class FakeWhorl:
    """Tells figures, and fails the ways it is told to."""

    def __init__(self, *fails: str) -> None:
        self.fails = fails
        self.commands: list[list[str]] = []
        self.trained: list[str] = []
        self.pairs: list[str] = []

    def __call__(self, arguments: Sequence[str]) -> str:
        self.commands.append(list(arguments))
        if arguments[0] != "train":
            return ""
        recipe = Path(arguments[1])
        value = json.loads(recipe.read_text())
        self.trained.append(value["name"])
        self.pairs = (recipe.parent / value["data"][0]["source"]).read_text().splitlines()
        if recipe.stem in self.fails:
            raise SystemExit(f"{recipe.stem} ended with 3")
        compared = LARGE if recipe.stem == "sft-full" else COMPARED
        return json.dumps({"reused": False, "run": {"plan_vs_actual": compared}})


def test_every_way_is_a_recipe() -> None:
    recipes = {way: parse_recipe(teaching.recipe_of(way, 7, "p.jsonl")).recipe
               for way in teaching.WAYS}  # fmt: skip
    assert {recipe.train.steps for recipe in recipes.values()} == {7}
    loras = {way: recipe.train.lora for way, recipe in recipes.items()}
    assert [way for way, lora in loras.items() if lora is None] == [
        "sft-full",
        "distil-full",
        "pruned-distil",
    ]
    assert [way for way, lora in loras.items() if lora and lora.dora] == ["sft-dora"]
    assert {way: lora.base for way, lora in loras.items() if lora and lora.base != "none"} == {
        "sft-int8": "int8",
        "sft-nf4": "nf4",
    }
    assert {way.partition("-")[0] for way in recipes} == {"sft", "dpo", "distil", "pruned"}
    for way, recipe in recipes.items():
        objective = "distil" if way == "pruned-distil" else way.partition("-")[0]
        assert recipe.train.objective == objective
        assert (recipe.model.prune is not None) == (way == "pruned-distil")
        if recipe.train.distil is not None:  # a student that is its teacher learns nothing
            assert recipe.train.distil.teacher != recipe.model.base or recipe.model.prune


def test_pairs() -> None:
    asked = [("a?", "A"), ("b?", "B"), ("c?", "B"), ("d?", "D")]
    assert list(teaching.pairs_of(asked)) == [
        {"prompt": "a?", "chosen": "A", "rejected": "B"},
        {"prompt": "c?", "chosen": "B", "rejected": "D"},
    ]


def test_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whorl = FakeWhorl()
    ways = ["--ways", "sft-full", "sft-nf4", "--steps", "3", "--set", "seed=5"]
    assert teaching.main([*ways, "--home", str(tmp_path), "--json"], whorl) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert out.count("\n") == 1 and found["steps"] == 3 and found["set"] == ["seed=5"]
    assert {"cpu", "cores"} <= found["machine"].keys()
    large, small = found["ways"]
    assert (large["way"], large["below_8_gib"]) == ("sft-full", False)  # 8 GiB are not below
    assert (small["way"], small["below_8_gib"]) == ("sft-nf4", True)
    assert small["step_s"] == COMPARED["step_s"] and "train_tokens" not in small
    home = ["--home", str(tmp_path)]
    assert whorl.commands[0] == ["import", teaching.BASE, *home]
    assert whorl.commands[1][2:] == ["--set", "seed=5", *home, "--json"]
    assert "sft-nf4" in err
    pairs = [json.loads(line) for line in whorl.pairs]
    assert len(pairs) == teaching.NUM_PAIRS
    assert len({pair["prompt"] for pair in pairs}) > 0.9 * len(pairs)
    assert max(len(pair["chosen"]) for pair in pairs) <= teaching.MOST_SIGNS


def test_a_student_is_made_first_and_once(tmp_path: Path) -> None:
    whorl = FakeWhorl()
    ways = ["--ways", "distil-full", "distil-lora", "sft-lora", "--home", str(tmp_path)]
    assert teaching.main([*ways, "--json"], whorl) == 0
    names = [f"teaching-{way}" for way in ("sft-lora", "distil-full", "distil-lora")]
    assert whorl.trained == names


def test_one_way_that_fails_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = ["--ways", "sft-dora", "sft-nf4", "--home", str(tmp_path), "--json"]
    assert teaching.main(ways, FakeWhorl("sft-dora")) == 1
    failed, done = json.loads(capsys.readouterr().out)["ways"]
    assert failed == {"way": "sft-dora", "failed": "sft-dora ended with 3"}
    assert done["way"] == "sft-nf4"
    without_peak = {key: value for key, value in COMPARED.items() if key != "peak_bytes"}
    with pytest.raises(SystemExit, match="sft-nf4: no plan beside peak_bytes"):
        teaching.row_of("sft-nf4", without_peak, False)


def test_the_table() -> None:
    rows = [
        teaching.row_of("sft-full", LARGE, reused=True),
        teaching.row_of("sft-nf4", COMPARED, reused=False),
        {"way": "sft-dora", "failed": "ended with 3"},
    ]
    machine = {"cpu": "A CPU", "cores": 2}
    out = io.StringIO()
    found = {"steps": 20, "machine": machine, "ways": rows}
    Console(file=out, width=200).print(teaching.table_of(found))
    lines = [line.replace("│", "").split() for line in out.getvalue().splitlines()]
    assert "20 steps" in out.getvalue() and "A CPU, 2 cores" in out.getvalue()
    figures = "4.00 → 5.00 (1.25 !) 80.0 → 88.0 (1.10)"
    assert f"sft-nf4 {figures} 2,048 → 3,072 (1.50) yes".split() in lines
    assert f"sft-full (reused) {figures} 8,000 → 8,192 (1.02) no".split() in lines
    assert any(line[:2] == ["sft-dora", "ended"] for line in lines)


def test_make_bench_leaves_it_out() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    (line,) = (line for line in makefile.splitlines() if line.startswith("LONG :="))
    assert "teaching" in line.split()

"""The adapter runs the command with the target's figures and reads its table: a fake command."""

from __future__ import annotations

import os
import stat
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from whorl.arch.known_models import known_model
from whorl.core.errors import PlanError
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.serving.aiconfigurator import covers
from whorl.stages.plan.serving.choose import plan_serving
from whorl.stages.plan.serving.target import ServingTarget

TARGET = ServingTarget(300, 1_024, 1_000, first_token_p95_s=1.5, tokens_per_s_per_user=40.0)
# The columns that version 0.12.0 wrote for Qwen3-32B on H200, without those we do not read.
HEADER = "model,concurrency,ttft,tpot,tokens/s/gpu,num_total_gpus,parallel,gemm,backend,version"
ROWS = {
    "agg_vllm": "Qwen/Qwen3-32B,160,326.473,25.0,2651.77,2,tp2pp1,bfloat16,vllm,0.24.0",
    "agg_trtllm": "Qwen/Qwen3-32B,96,200.0,20.0,2800.5,4,tp4pp1,fp8,trtllm,1.3.0",
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command that writes the tables under tmp_path/tables and remembers its arguments."""
    program = tmp_path / "bin" / "aiconfigurator"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, shutil, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "(here / 'arguments').write_text(chr(10).join(sys.argv[1:]))\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--save-dir') + 1])\n"
        "if (here / 'tables').exists(): shutil.copytree(here / 'tables', target / 'Qwen' / 'run')\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def write_tables(folder: Path, header: str = HEADER) -> None:
    for name, row in ROWS.items():
        path = folder / "tables" / name / "best_config_topn.csv"
        path.parent.mkdir(parents=True)
        path.write_text(f"{header}\n{row}\n")


def test_its_best_configuration_becomes_the_plan(fake: Path) -> None:
    write_tables(fake)
    shape = known_model("qwen3-32b")
    found = plan_serving(shape, device("h200"), TARGET, price=2.0, model_path="Qwen/Qwen3-32B")
    assert (found.method, found.engine, found.quantisation) == ("aiconfigurator", "trtllm", "fp8")
    assert found.devices_per_replica == 4 and found.max_running == 96
    assert found.replicas.value == 4  # 300 users, 96 each
    assert found.devices == 16 and found.usd_per_hour == 32.0
    assert found.tokens_per_s_per_user.value == pytest.approx(50.0)
    assert found.tokens_per_s.value == pytest.approx(300 * 1_000 / (0.2 + 1_000 * 0.020))
    arguments = (fake / "arguments").read_text().split("\n")
    asked = dict(pairwise(arguments))
    assert asked["--system"] == "h200_sxm" and asked["--model-path"] == "Qwen/Qwen3-32B"
    assert float(asked["--ttft"]) == 1_500 and float(asked["--tpot"]) == 25
    assert asked["--isl"] == "1024" and asked["--osl"] == "1000"


def test_a_model_it_does_not_know_falls_back_to_the_roofline(fake: Path) -> None:
    shape = known_model("qwen3-32b")
    found = plan_serving(shape, device("h200"), TARGET, model_path="made/up")
    assert (fake / "arguments").exists() and found.method == "roofline"


def test_a_table_of_another_version_is_refused(fake: Path) -> None:
    write_tables(fake, HEADER.replace("ttft", "first"))
    with pytest.raises(PlanError, match=r"without columns we read.*no ttft"):
        plan_serving(known_model("qwen3-32b"), device("h200"), TARGET, model_path="Qwen/Qwen3-32B")


def test_it_is_asked_only_where_it_has_tables(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert covers(device("h100")) and not covers(device("mi300x"))
    plan_serving(known_model("llama-3.1-8b"), device("mi300x"), TARGET, model_path="any")
    assert not (fake / "arguments").exists()
    monkeypatch.setenv("PATH", "")
    assert not covers(device("h100"))

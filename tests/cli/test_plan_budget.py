"""`whorl plan --budget`, recipes for other hardware, and what follows the device."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.cli.test_plan import SMALL, planned, run
from whorl.cli.main import build_app
from whorl.core.errors import PlanError
from whorl.stages.plan.output.schema import ClusterPlan

BOUGHT = ["--device", "h100-sxm", "--count", "64", "--seq", "8192", "--usd-per-device-hour", "2"]


@pytest.fixture(scope="module")
def bought() -> dict[str, Any]:
    return planned("--budget", "usd=100k", *BOUGHT)


def test_money_becomes_tokens_at_the_predicted_speed() -> None:
    model = ["--model", "llama-3-8b", *BOUGHT, "--global-batch-tokens", "4M"]
    plan = planned("--budget", "usd=100000", *model)
    # 100,000 USD at 2 USD an hour are 50,000 device-hours
    rate, useful = plan["chosen"]["step"]["tokens_per_s_per_device"], plan["job"]["goodput"]
    tokens = 50_000 * 3600 * rate * useful["value"]
    assert plan["loss"]["tokens"] == pytest.approx(tokens, rel=1e-3)
    assert plan["loss"]["tokens"] % (512 * 8192) == 0
    assert plan["budget"]["flops"] == pytest.approx(6 * 8_030_261_248 * tokens, rel=1e-3)
    assert plan["budget"]["parameters"] is None
    low, high = plan["budget"]["tokens"]["low"], plan["budget"]["tokens"]["high"]
    assert low < plan["loss"]["tokens"] < high
    # 31.25 days of 64 devices are 48,000 hours; 4% less than 50,000
    days = planned("--budget", "time=31.25days", *model)["loss"]["tokens"]
    hours = planned("--budget", "device_hours=48k", *model)["loss"]["tokens"]
    assert days == hours == pytest.approx(0.96 * tokens, rel=1e-3)
    flops = planned("--budget", "flops=1e22", *model)
    assert flops["loss"]["tokens"] == pytest.approx(1e22 / 6 / 8_030_261_248, rel=1e-3)


def test_a_budget_chooses_the_size_that_its_speed_makes_best(bought: dict[str, Any]) -> None:
    ClusterPlan.model_validate(bought)
    budget, job, loss = bought["budget"], bought["job"], bought["loss"]
    assert 99_000 <= job["usd"]["value"] <= 100_000
    assert budget["spent"] == pytest.approx(job["usd"])
    size = bought["model"]["parameters"]
    assert budget["flops"] == pytest.approx(6 * size * loss["tokens"])

    def besiroglu(params: float) -> float:  # 2404.10102, abstract of its table 1
        tokens = budget["flops"] / 6 / params
        return 1.8172 + 482.01 / params**0.3478 + 2085.43 / tokens**0.3658

    best = min(besiroglu(10 ** (k / 100)) for k in range(800, 1300))
    assert loss["loss"]["value"] == pytest.approx(besiroglu(size)) == pytest.approx(best, rel=1e-3)
    for found in (loss["loss"], budget["tokens"], budget["parameters"]):
        assert found["low"] < found["value"] < found["high"]
    # Li et al. 2025 (2503.04715), of the tokens; within what data parallelism can share
    batch = 0.58 * loss["tokens"] ** 0.571
    assert loss["best_batch_tokens"]["value"] == pytest.approx(batch)
    assert bought["question"]["global_batch"] * 8192 == pytest.approx(batch, rel=0.45)


def test_more_money_never_buys_less(bought: dict[str, Any]) -> None:
    less = planned("--budget", "usd=20k", *BOUGHT)
    more = planned("--budget", "usd=500k", *BOUGHT)
    for name in ("parameters", "tokens"):
        values = [plan["budget"][name]["value"] for plan in (less, bought, more)]
        assert values == sorted(set(values)), name
    losses = [plan["loss"]["loss"]["value"] for plan in (less, bought, more)]
    assert losses == sorted(losses, reverse=True)


def test_repeated_tokens_are_worth_less_and_serving_calls_for_a_smaller_model(
    tmp_path: Path,
) -> None:
    model = ["--model", "llama-3-8b", *BOUGHT, "--global-batch-tokens", "4M", "--tokens", "1T"]
    fresh = planned(*model, "--unique-tokens", "1T", "--served-tokens", "2T")["loss"]
    assert fresh["worth_tokens"] is None
    again = planned(*model, "--unique-tokens", "100B")["loss"]
    # Muennighoff et al. 2023, equation 5: ten passes are nine repetitions
    worth = 1e11 * (1 + 15.387756 * (1 - math.exp(-9 / 15.387756)))
    assert again["worth_tokens"] == pytest.approx(worth)
    assert again["loss"]["value"] > fresh["loss"]["value"]
    life = fresh["lifetime"]
    assert life["params"] < life["compute_optimal_params"] and 0 < life["saved_share"] < 1
    paid = 6 * life["params"] * life["tokens"] + 2 * life["params"] * 2e12
    other = life["compute_optimal_params"]
    unsaved = 6 * other * life["compute_optimal_tokens"] + 2 * other * 2e12
    assert life["saved_share"] == pytest.approx(1 - paid / unsaved, rel=1e-3)
    page = tmp_path / "plan.html"
    files = ["--html", str(page)]
    shown = run(*model, "--unique-tokens", "100B", "--served-tokens", "2T", *files)
    for text in (shown, page.read_text("utf-8")):
        assert "passes over the data" in text and "cheapest to train and serve" in text


def test_a_recipe_names_its_hardware_and_budget(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    keys = "hardware: {device: h100-sxm, count: 64, usd_per_device_hour: 2}\n"
    keys += "train: {seq_len: 8192}\n"
    start = f"name: r\ndata: [{{source: notes}}]\n{keys}"
    recipe.write_text(f"{start}budget: {{usd: 20000}}\n")
    assert planned(str(recipe))["budget"] == planned("--budget", "usd=20k", *BOUGHT)["budget"]
    hours = planned(str(recipe), "--set", "budget.usd=null", "--budget", "device_hours=10k")
    assert hours["loss"]["tokens"] == planned(str(recipe))["loss"]["tokens"]
    given = ["--global-batch-tokens", "4M"]
    sizes = "model: {layers: 32, width: 4096}\nprepare: {vocab_size: 32000}\n"
    recipe.write_text(f"{start}{sizes}budget: {{tokens: 1000000000}}\n")
    plan = planned(str(recipe), *given)
    assert plan["model"]["shape"]["layers"] == 32 and plan["loss"]["tokens"] == 1e9
    explained = CliRunner().invoke(
        build_app(), ["explain", str(recipe), "hardware.count", "--json"]
    )
    assert json.loads(explained.stdout)[0]["given"] == 64
    for command in ("prepare", "train"):
        result = CliRunner().invoke(
            build_app(), [command, str(recipe), "--home", str(tmp_path / "home")]
        )
        assert isinstance(result.exception, PlanError)
        assert "64 × h100-sxm" in str(result.exception) and "--set hardware=auto" in str(
            result.exception
        )


def test_the_stack_follows_the_device() -> None:
    small = planned(*SMALL)
    tpu = planned("--model", "llama-3-8b", "--device", "tpu-v5e", "--count", "64", *SMALL[6:])
    assert (small["question"]["stack"], tpu["question"]["stack"]) == ("megatron", "xla")
    assert list(tpu["commands"]) == ["launch.json"]
    assert any("XLA" in warning for warning in tpu["warnings"])


def test_a_tight_plan_names_a_safe_one_and_reasons_are_readable(bought: dict[str, Any]) -> None:
    tight = planned("--model", "llama-3.1-70b", *SMALL[2:4], "--count", "256", *SMALL[6:])
    limit, safe = tight["device"]["memory_bytes"], tight["safe"]
    assert tight["chosen"]["memory"]["high_bytes"] > limit >= safe["memory"]["high_bytes"]
    slower = safe["step"]["step_s"] / tight["chosen"]["step"]["step_s"] - 1
    assert slower >= 0 and f"{slower:+.1%} time" in safe["why"]
    assert bought["safe"] is None or bought["chosen"]["memory"]["high_bytes"] > limit
    whys = " ".join(other["why"] for other in tight["runners_up"])
    assert " s" in whys and "_" not in whys


def test_serving_is_told_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from whorl import planning_serving

    paths: list[str | None] = []
    real = planning_serving.plan_serving

    def noted(*arguments: Any, model_path: str | None, **options: Any) -> Any:
        paths.append(model_path)
        return real(*arguments, **options)

    monkeypatch.setattr(planning_serving, "plan_serving", noted)
    planned(*SMALL, "--serve", "users=5")
    planned("--model", "gpt3-6.7b", *SMALL[2:4], "--count", "8", "--seq", "2048",
            "--global-batch-tokens", "1M", "--serve", "users=5,input=512")  # fmt: skip
    assert paths == ["meta-llama/Meta-Llama-3-8B", None]

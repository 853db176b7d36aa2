"""`whorl plan` for any model on any devices: figures that must agree, files, clear errors."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from whorl.cli.main import build_app
from whorl.core.errors import DataError, MissingExtra, PlanError, SpecError, WhorlError
from whorl.stages.plan.output.schema import ClusterPlan

MODEL = ["--model", "llama-3-8b", "--device", "h100-sxm"]
SMALL = [*MODEL, "--count", "64", "--seq", "8192", "--global-batch-tokens", "4M"]
COLUMNS = [
    *("id", "source", "model", "params_b", "n_layers", "hidden", "n_heads", "n_kv_heads"),
    *("ffn_hidden", "vocab", "n_experts", "top_k", "moe_ffn", "seq_len", "gpu", "n_gpus"),
    *("precision", "global_batch_seqs", "micro_batch_seqs", "tp", "pp", "dp", "cp", "ep", "vpp"),
    *("zero_fsdp", "activation_recompute", "flag"),
]
# the 39B model of Narayanan et al. 2021 (2104.04473), table 1
GPT = {
    **{"id": "a-1", "source": "Narayanan 2021", "model": "gpt-39b", "n_layers": "48"},
    **{"hidden": "8192", "n_heads": "64", "n_kv_heads": "64", "ffn_hidden": "32768"},
    **{"vocab": "51200", "seq_len": "2048", "gpu": "a100-80", "n_gpus": "512"},
    **{"precision": "fp16", "global_batch_seqs": "1536", "micro_batch_seqs": "4", "tp": "8"},
    **{"pp": "2", "dp": "32", "activation_recompute": "full"},
}


def run(*arguments: str) -> str:
    """stdout of the command; its WhorlError is raised."""
    result = CliRunner().invoke(build_app(), ["plan", *arguments])
    if isinstance(result.exception, WhorlError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def planned(*arguments: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(run(*arguments, "--json"), parse_constant=refuse)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return planned(*SMALL, "--tokens", "1T", "--usd-per-device-hour", "2")


def test_figures_of_a_plan_agree_with_each_other(small: dict[str, Any]) -> None:
    ClusterPlan.model_validate(small)
    chosen, job = small["chosen"], small["job"]
    layout, step = chosen["layout"], chosen["step"]
    assert layout["tp"] * layout["pp"] * layout["cp"] * chosen["dp"] == 64 == layout["devices"]
    assert math.isclose(sum(step["parts_s"].values()), step["step_s"], rel_tol=0.01)
    rate = step["tokens_per_s_per_device"] * 64 * step["step_s"]
    assert rate == pytest.approx(512 * 8192, rel=1e-6)
    assert step["low_s"] < step["step_s"] < step["high_s"]
    assert step["mfu"] == pytest.approx(step["roofline_s"] / step["step_s"])
    memory = chosen["memory"]
    assert sum(memory["parts"].values()) == pytest.approx(memory["peak_bytes"], rel=1e-6)
    assert memory["peak_bytes"] <= small["device"]["memory_bytes"]
    assert job["usd"]["value"] == pytest.approx(2 * job["device_hours"]["value"])
    assert job["device_hours"]["value"] == pytest.approx(64 * 24 * job["days"]["value"])
    assert small["loss"]["steps"] == math.ceil(1e12 / (512 * 8192))
    assert job["days"]["value"] * 86400 >= small["loss"]["steps"] * step["step_s"]


def test_what_is_known_of_the_model(small: dict[str, Any]) -> None:
    assert small["model"]["parameters"] == 8_030_261_248  # Hugging Face's model page
    # at the 989.4 TFLOP/s of NVIDIA's data sheet: 6 N FLOPs a token, and some for attention
    floor_s = 6 * 7.5e9 * 512 * 8192 / (64 * 989.4e12)
    assert floor_s < small["chosen"]["step"]["roofline_s"] < 1.4 * floor_s


def test_the_choice_is_the_fastest_and_the_front_descends(small: dict[str, Any]) -> None:
    best = small["chosen"]["step"]["step_s"]
    assert small["runners_up"]
    assert all(other["step"]["step_s"] >= 0.99 * best for other in small["runners_up"])
    assert all(other["why"] for other in small["runners_up"])
    front = sorted(small["front"], key=lambda point: point["step_s"])
    peaks = [point["peak_bytes"] for point in front]
    assert peaks == sorted(peaks, reverse=True)
    assert small["considered"] >= small["fitting"] > len(front)


def test_a_runner_up_given_as_layout_costs_what_it_was_said_to(small: dict[str, Any]) -> None:
    other = small["runners_up"][0]
    again = planned(*SMALL, "--layout", other["label"])
    assert again["chosen"]["layout"] == other["layout"]
    assert again["chosen"]["step"] == other["step"]
    assert again["chosen"]["why"].startswith("as given")


def test_a_measured_step_moves_every_layout(small: dict[str, Any]) -> None:
    other = small["runners_up"][0]
    slow = 2 * other["step"]["step_s"]
    measured = f"{other['label']},step_s={slow}"
    here = planned(*SMALL, "--measured", measured, "--layout", other["label"])["chosen"]
    assert here["step"]["step_s"] == pytest.approx(slow, rel=0.15)
    chosen = ["--layout", small["chosen"]["label"]]
    elsewhere = planned(*SMALL, "--measured", measured, *chosen)["chosen"]["step"]
    before = small["chosen"]["step"]
    assert elsewhere["step_s"] > 1.3 * before["step_s"]
    assert elsewhere["high_s"] / elsewhere["low_s"] < before["high_s"] / before["low_s"]


def test_405b_on_16384_within_five_seconds(tmp_path: Path) -> None:
    start_s = time.process_time()
    page, folder = tmp_path / "a" / "plan.html", tmp_path / "run"
    out = run(
        *("--model", "llama-3.1-405b", "--device", "h100-sxm", "--count", "16384", "--seq", "8192"),
        *("--global-batch-tokens", "16M", "--html", str(page), "--emit", str(folder)),
    )
    assert time.process_time() - start_s < 5
    assert "2,048 sequences" in out and "405b" in out
    assert "<svg" in page.read_text("utf-8")
    names = {path.name for path in folder.iterdir()}
    assert names == {"launch.json", "megatron.sh", "torchtitan.sh"}
    launch = json.loads((folder / "launch.json").read_text("utf-8"))
    assert f"--tensor-model-parallel-size {launch['layout']['tp']}" in (
        folder / "megatron.sh"
    ).read_text("utf-8")


def test_a_config_file_and_a_recipe_give_the_model(tmp_path: Path) -> None:
    config = {
        **{"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4, "vocab_size": 1000},
        **{"num_attention_heads": 8, "intermediate_size": 1024, "max_position_embeddings": 512},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    rest = ["--device", "l40s", "--count", "1", "--seq", "512", "--global-batch-tokens", "8192"]
    plan = planned("--model", str(tmp_path / "config.json"), *rest)
    # by hand: tables, and per layer q, k, v, o, three of the feed-forward block, two norms
    assert plan["model"]["parameters"] == 2 * 512_000 + 512 + 4 * (
        4 * 512 * 512 + 3 * 512 * 1024 + 2 * 512
    )
    sizes = "{layers: 2, width: 64}\nprepare: {vocab_size: 512}\n"
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\ndata: [{{source: notes, field: text}}]\nmodel: {sizes}")
    shape = planned(str(recipe), *rest)["model"]["shape"]
    assert (shape["layers"], shape["width"], shape["vocab_size"]) == (2, 64, 512)
    recipe.write_text("name: r\ndata: [{source: notes, field: text}]\n")
    with pytest.raises(SpecError, match=r"model\.layers"):
        planned(str(recipe), *rest)


def test_serving_is_planned_too() -> None:
    target = "users=50,ttft=1s,tokens_per_s=20,input=500,output=100"
    served = planned(*SMALL, "--serve", target)["serving"]
    assert served["tokens_per_s_per_user"]["value"] >= 20
    assert served["replicas"]["value"] * served["max_running"] >= 50


def test_two_plans_side_by_side(tmp_path: Path, small: dict[str, Any]) -> None:
    other = planned(*SMALL[:-1], "8M", "--tokens", "1T", "--usd-per-device-hour", "2")
    for name, plan in (("a", small), ("b", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(plan))
    paths = ["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    found = json.loads(run(*paths, "--json"))
    assert found["differs"]["question.global_batch"] == [512, 1024]
    ratio = other["chosen"]["step"]["step_s"] / small["chosen"]["step"]["step_s"]
    assert found["figures"]["step_s"]["ratio"] == pytest.approx(ratio)
    assert "question.global_batch" in run(*paths)
    assert not any(key.startswith("model") for key in found["differs"])
    gpt2 = run("--model", "gpt2", *SMALL[2:], "--json")
    (tmp_path / "b.json").write_text(gpt2, "utf-8")
    differs = json.loads(run(*paths, "--json"))["differs"]
    assert differs["model.shape.attention.heads"] == [32, 12]


def write_rows(path: Path, rows: list[dict[str, str]], measured: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, measured], restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_published_rows_in_order_and_never_from_what_was_measured(tmp_path: Path) -> None:
    rate = "tokens_per_s_per_gpu_norm"
    rows = [
        GPT | {rate: "500"},
        GPT | {"id": "a-2", "gpu": "abacus"},
        GPT | {"id": "b-1", "source": "other", "precision": "bf16", rate: "1000"},
    ]
    first = planned("--published", str(write_rows(tmp_path / "a.csv", rows, rate)))
    assert [row["id"] for row in first["rows"]] == ["a-1", "a-2", "b-1"]
    assert {row["metric"] for row in first["rows"]} == {"tokens_per_s_per_device"}
    good, bad, _ = first["rows"]
    assert set(good) == {"id", "metric", "predicted", "low", "high", "refused"}
    assert good["low"] < good["predicted"] < good["high"] and good["refused"] is None
    assert bad["predicted"] is None and "abacus" in bad["refused"]
    # a rate above the peak of the device would be wrong: 6 x 39e9 FLOPs a token, 312 TFLOP/s
    assert 0.2 < good["predicted"] * 6 * 39e9 / 312e12 < 0.8
    assert first["by_source"]["Narayanan"]["rows"] == 2
    error = first["rows"][2]["predicted"] / 1000 - 1
    assert first["by_source"]["other"]["median_error"] == pytest.approx(abs(error))
    changed = [row | {rate: "1"} for row in rows]
    again = planned("--published", str(write_rows(tmp_path / "b.csv", changed, rate)))
    assert again["rows"] == first["rows"]
    assert "Narayanan" in run("--published", str(tmp_path / "a.csv"))


def test_published_memory_says_what_does_not_fit(tmp_path: Path) -> None:
    rows = [GPT | {"n_gpus": "16", "dp": "1"}, GPT | {"gpu": "rtx-4090", "id": "a-2"}]
    path = write_rows(tmp_path / "m.csv", rows, "peak_mem_gib")
    first, second = planned("--published", str(path))["rows"]
    assert first["metric"] == "peak_gib"
    # 39e9 parameters over 16 ranks, at least 2 bytes each
    assert first["predicted"] > 39e9 / 16 * 2 / 2**30
    assert "rtx-4090" in second["refused"] and second["predicted"] > 23


def test_published_files_as_spreadsheets_write_them(tmp_path: Path) -> None:
    good = planned("--published", str(write_rows(tmp_path / "a.csv", [GPT, GPT], "oom")))["rows"]
    assert good[0]["metric"] == "peak_gib"  # by its columns, with nothing measured in it
    text = (tmp_path / "a.csv").read_text("utf-8")
    path = tmp_path / "b.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # a byte order mark
    assert planned("--published", str(path))["rows"] == good
    header, first, second = text.splitlines()
    for broken, words in (
        (f"{header},tp\n{first},8\n", "two columns tp"),
        (f'{header}\n"{first}\n{second}\n', "cannot be read as CSV"),
    ):
        path.write_text(broken)
        with pytest.raises(DataError, match=words):
            run("--published", str(path))
    path.write_text(f"{header}\n{first},8\n{second}\n")
    row, after = planned("--published", str(path))["rows"]
    assert "more cells" in row["refused"] and row["predicted"] is None and after == good[1]


@pytest.mark.parametrize("text", ["inf", "nan", "abc", "-8", "1.5", "1e30", "0"])
@pytest.mark.parametrize("column", ["n_gpus", "n_layers", "tp"])
def test_a_published_count_that_is_none_refuses_its_row(
    tmp_path: Path, column: str, text: str
) -> None:
    rows = [GPT | {column: text}, GPT]
    bad, good = planned("--published", str(write_rows(tmp_path / "a.csv", rows, "oom")))["rows"]
    assert column in bad["refused"] or "layers" in bad["refused"]
    assert bad["predicted"] is None and good["predicted"] > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of RECIPE"),
        (["x.yaml", "--model", "gpt2"], "RECIPE and --model"),
        (["--model", "llama-3-8b"], "--device, --count, --seq, --global-batch-tokens"),
        ([*SMALL[:-2]], "needs --global-batch-tokens"),
        (["--model", "lama-3-8b", *SMALL[2:]], "llama-3-8b"),
        ([*SMALL[:3], "h1000", *SMALL[4:]], "did you mean h100"),
        ([*SMALL[:5], "-8", *SMALL[6:]], "--count"),
        ([*SMALL[:5], "0", *SMALL[6:]], "--count"),
        ([*SMALL[:-1], "5000"], "whole number of sequences"),
        ([*SMALL, "--layout", "tp=64"], "32 attention heads"),
        ([*SMALL, "--layout", "tp=3"], "not divisible"),
        ([*SMALL, "--layout", "mbs=3"], "not divisible by dp"),
        ([*SMALL, "--layout", "vpp=4"], "vpp needs pp above 1"),
        ([*SMALL, "--layout", "pp=4,vpp=4,schedule=1f1b"], "does not go with vpp=4"),
        ([*SMALL, "--layout", "pp=4,schedule=interleaved"], "does not go with vpp=1"),
        ([*SMALL, "--layout", "recompute=full,recompute_parts=mlp"], "keep one of the two"),
        ([*SMALL, "--layout", "shard=zero3,shard_devices=3"], "divisor of 64"),
        ([*SMALL, "--layout", "", "--serve", ""], "--layout, --serve: nothing is given"),
        # the whole cluster's rate in place of one device's: 64 x 9,000
        ([*SMALL, "--measured", "shard=zero3,tokens_per_s=576000"], "faster than the peak"),
        ([*SMALL, "--measured", "mbs=3,step_s=9"], "not divisible by dp"),
        (["--model", "absent.json", *SMALL[2:]], "absent.json; found: no such file"),
        ([*SMALL, "--precision", "bf17"], "bf16"),
        ([*SMALL, "--stack", "abacus"], "megatron"),
        ([*SMALL, "--optimizer", "luck"], "adamw"),
        ([*SMALL, "--usd-per-device-hour", "-1"], "from 0 to"),
        ([*SMALL, "--usd-per-device-hour", "nan"], "from 0 to"),
        ([*SMALL, "--tokens", "-5"], "--tokens"),
        ([*SMALL, "--tokens", "5B", "--budget", "usd=5"], "keep one"),
        ([*SMALL, "--budget", "usd=5,time=1h"], "several limits"),
        ([*SMALL, "--budget", "eur=5"], "eur is not known"),
        ([*SMALL, "--budget", "usd=-5"], "of at least 1e-09"),
        ([*SMALL, "--budget", "usd=nan"], "of at least 1e-09"),
        ([*SMALL, "--budget", "time=5"], "no unit"),
        ([*SMALL, "--budget", "usd=5", "--usd-per-device-hour", "0"], "costs nothing"),
        ([*SMALL, "--vocab", "5000"], "a model is given"),
        ([*SMALL, "--unique-tokens", "0"], "--unique-tokens"),
        ([*SMALL[:-2], "--budget", "usd=5", "--measured", "tp=2,step_s=1"], "needs --global-batch"),
        (["--budget", "usd=5"], "needs --device, --count, --seq"),
        (["--budget", "usd=5", *SMALL[2:], "--layout", "tp=2"], "chooses the size"),
        ([*SMALL, "--serve", "userz=3"], "did you mean users"),
        ([*SMALL, "--home", "x"], "--home"),
        (["--published", "x.csv", "--count", "3"], "does not go with --count"),
        (["--compare", "a", "b", "--model", "gpt2"], "keep one"),
    ],
)
def test_nonsense_gets_the_clear_error(arguments: list[str], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        run(*arguments)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"name": "my-package", "scripts": {}}')
    with pytest.raises(SpecError, match="model_type"):
        run("--model", str(tmp_path / "config.json"), *SMALL[2:])


def ways(caught: pytest.ExceptionInfo[PlanError]) -> list[str]:
    """What a refusal says to do, without the GiB and the price of each."""
    told = (caught.value.do or "").removesuffix("; --why-oom tells more").split("; or ")
    return [re.sub(r" \(.*% time\)$", "", way) for way in told]


def test_what_does_not_fit_is_refused_with_changes_that_help() -> None:
    with pytest.raises(PlanError) as caught:
        run("--model", "llama-3-70b", *SMALL[2:5], "8", *SMALL[6:])
    assert caught.value.exit_code == 4 and len(ways(caught)) == 3
    large = ["--model", "llama-3-70b", *SMALL[2:]]
    with pytest.raises(PlanError, match="does not fit") as caught:
        run(*large, "--layout", "tp=4,pp=4,mbs=8")
    *changes, best = ways(caught)
    assert best.endswith(", which the search finds") and changes
    run(*large, *best.removesuffix(", which the search finds").split())
    for change in changes:
        flags = change.split()
        parts = {"tp": "4", "pp": "4", "mbs": "8"}
        if "--layout" in flags:
            place = flags.index("--layout")
            parts |= dict(part.split("=") for part in flags[place + 1].split(","))
            del flags[place : place + 2]
        layout = ",".join(f"{key}={value}" for key, value in parts.items())
        run(*large, "--layout", layout, *flags)


def test_a_given_layout_that_fits_nowhere_is_told_what_it_lacks() -> None:
    one = [*MODEL, "--count", "1", *SMALL[6:], "--layout"]
    with pytest.raises(PlanError, match="offload_optimizer=1 does not fit") as caught:
        run(*one, "offload_optimizer=1")
    assert "--layout recompute=full" in ways(caught)
    run(*one, "offload_optimizer=1,recompute=full")


def test_a_rate_measured_by_ranks_that_do_not_divide_the_batch() -> None:
    # 512 sequences are no whole number for 24 ranks; a rate is as good
    found = planned(*SMALL, "--measured", "count=24,shard=zero3,tokens_per_s=9000")
    assert found["chosen"]["step"]["tokens_per_s_per_device"] == pytest.approx(9000, rel=0.1)


def test_sequences_beyond_the_positions_of_a_model_are_doubted(small: dict[str, Any]) -> None:
    far = planned("--model", "gpt2", *SMALL[2:])  # 1,024 learned positions
    assert any("1,024 tokens" in warning for warning in far["warnings"])
    assert not any("positions" in warning for warning in small["warnings"])


def test_each_kind_of_device_is_planned_with_what_runs_on_it() -> None:
    one = ["--model", "gpt2", "--count", "1", "--seq", "1024", "--global-batch-tokens", "64K"]
    for name, stack in (("tpu-v5p", "xla"), ("xeon-8480-2s", "whorl"), ("h100-sxm", "megatron")):
        assert planned(*one, "--device", name)["question"]["stack"] == stack
    far = planned(*one, "--device", "tpu-v5p", "--stack", "megatron")
    assert any("does not run on tpu-v5p" in warning for warning in far["warnings"])
    with pytest.raises(SpecError) as caught:
        run(*one, "--device", "cpu")
    assert "xeon-8480-2s" in str(caught.value.do) and "tpu" not in str(caught.value.do)


def test_time_that_is_not_counted_is_said() -> None:
    moved = planned(*SMALL, "--layout", "shard=zero3,offload_activations=1")
    assert any("not in time" in warning for warning in moved["warnings"])


def test_the_safe_layout_has_its_interval_too() -> None:
    safe = planned("--model", "llama-3.1-70b", *SMALL[2:5], "256", *SMALL[6:])["safe"]
    assert safe["step"]["low_s"] < 0.95 * safe["step"]["step_s"]
    assert safe["step"]["high_s"] > 1.05 * safe["step"]["step_s"]


def test_tables_that_are_not_installed_say_what_to_install() -> None:
    if importlib.util.find_spec("aiconfigurator_core") is not None:
        pytest.skip("the measured tables are installed here")
    with pytest.raises(MissingExtra, match=r"whorl\[tables\]"):
        run(*SMALL, "--tables")

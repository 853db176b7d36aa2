"""`whorl plan` in other tools' words, why memory runs out, serving alone; whorl.plan() the same."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

import whorl
from tests.cli.test_plan import planned, run
from whorl import planning
from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.output.schema import ClusterPlan, MemoryReport, ServingAnswer

CARD = ["--model", "llama-3.1-8b", "--device", "rtx-4090", "--count", "1"]
TUNED = [*CARD, "--seq", "2048", "--tune", "qlora"]
WORDS = [
    *("--per_device_train_batch_size", "2", "--gradient-accumulation-steps=8", "--bf16"),
    *("--optim", "paged_adamw_8bit", "--gradient_checkpointing", "true"),
]
AXOLOTL = """
base_model: meta-llama/Llama-3.1-8B
adapter: qlora
load_in_4bit: true
sequence_len: 4096
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: paged_adamw_8bit
gradient_checkpointing: true
bf16: auto
lora_r: 16
lora_target_linear: true
learning_rate: 0.0002
"""


@pytest.fixture
def axolotl(tmp_path: Path) -> Path:
    path = tmp_path / "axolotl.yaml"
    path.write_text(AXOLOTL)
    return path


def test_the_trainers_words_are_the_same_as_whorls() -> None:
    said = planned(*TUNED, *WORDS)
    flags = ["--global-batch-tokens", str(2 * 8 * 2048), "--optimizer", "paged_adamw_8bit"]
    layout = ["--layout", "mbs=2,recompute=full,shard=none", "--stack", "hf"]
    plain = planned(*TUNED, *flags, *layout, "--precision", "bf16")
    assert said["chosen"]["layout"] == plain["chosen"]["layout"]
    assert said["chosen"]["step"] == plain["chosen"]["step"]
    assert said["chosen"]["memory"] == plain["chosen"]["memory"]
    assert said["question"]["words"] == "trainer" and plain["question"]["words"] == ""
    assert "optim=paged_adamw_8bit: --optimizer paged_adamw_8bit" in said["question"]["became"]
    # of a fine-tuning without tokens there is no whole job, and no pretraining law's loss
    assert said["job"] is None and said["loss"] is None
    shown = run(*TUNED, *WORDS)
    assert "a million tokens take" in shown and "paged_adamw_8bit" in shown


def test_tokens_make_a_fine_tuning_a_whole_job() -> None:
    found = planned(*TUNED, *WORDS, "--tokens", "10M")
    rate = found["chosen"]["step"]["tokens_per_s_per_device"]
    assert found["job"]["ideal_days"]["value"] * 86400 == pytest.approx(10e6 / rate, rel=0.01)
    assert found["loss"] is None and "10M tokens" in run(*TUNED, *WORDS, "--tokens", "10M")


def test_a_file_of_another_tool(axolotl: Path) -> None:
    found = planned("--from", str(axolotl), "--device", "a100-80", "--count", "8")
    asked = found["question"]
    assert (asked["tune"], asked["rank"], asked["base_format"]) == ("qlora", 16, "nf4")
    assert asked["global_batch"] == 2 * 4 * 8 and asked["model"] == "meta-llama/Llama-3.1-8B"
    assert any("learning_rate" in line for line in asked["became"])


def test_why_memory_runs_out(axolotl: Path) -> None:
    """The parts and phases of the layout asked for, and ways out in the file's own words."""
    asked = ["--from", str(axolotl), "--device", "rtx-4090"]
    with pytest.raises(PlanError, match="does not fit") as caught:
        run(*asked)
    assert "logits" in str(caught.value.found) and "--why-oom" in str(caught.value.do)
    report = planned(*asked, "--why-oom")
    MemoryReport.model_validate(report)
    assert not report["fits"] and report["needed_bytes"] > report["limit_bytes"]
    parts = report["driver"]["parts"]
    assert sum(parts.values()) == pytest.approx(report["driver"]["peak_bytes"])
    assert report["allocated_bytes"] <= report["reserved_bytes"] <= report["driver"]["peak_bytes"]
    # logits by hand: 2 x 4096 tokens of 128,256 words, at 14 bytes in an eager loss
    assert parts["logits"] == pytest.approx(2 * 4096 * 128_256 * 14)
    words = [item["words"] for item in report["enough"]]
    assert "cut_cross_entropy: true" in words and all(item["fits"] for item in report["enough"])
    # and it does: the file with that line is planned
    axolotl.write_text(AXOLOTL + "cut_cross_entropy: true\n")
    assert planned(*asked)["chosen"]["memory"]["peak_bytes"] < report["limit_bytes"]
    shown = run(*asked, "--why-oom")
    assert "what the peak is made of" in shown and "nvidia-smi would show" in shown


def test_serving_alone_needs_no_training() -> None:
    found = planned(*CARD[:4], "--serve", "users=4,engine=vllm,tp=1,format=fp8")
    ServingAnswer.model_validate(found)
    assert (found["serving"]["engine"], found["serving"]["quantisation"]) == ("vllm", "fp8")
    assert "tokens/s of a user" in run(*CARD[:4], "--serve", "users=4")
    named = planned("--model", "Qwen/Qwen3-8B-AWQ", *CARD[2:4], "--serve", "users=4")
    assert named["serving"]["quantisation"] == "int4"
    with pytest.raises(SpecError, match="serving alone"):
        run(*CARD[:4], "--serve", "users=4", "--precision", "fp8")
    with pytest.raises(SpecError, match="--model and --device"):
        run(*CARD[:2], "--serve", "users=4")


def test_a_recipe_that_tunes_is_planned_as_it_tunes(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    lora = "{rank: 32, targets: [q_proj, v_proj], base: nf4, last_layers: 4}"
    recipe.write_text(
        "name: r\ndata: [{source: notes, field: chat}]\nmodel: {base: llama-3.1-8b}\n"
        f"train: {{objective: dpo, lora: {lora}, seq_len: 2048, batch_tokens: 16384}}\n"
        "hardware: {device: h100-sxm, count: 8}\n"
    )
    found = planned(str(recipe))
    asked = found["question"]
    assert (asked["tune"], asked["rank"], asked["targets"]) == ("qlora", 32, "qv")
    assert (asked["base_format"], asked["stack"]) == ("nf4", "whorl")
    told = " ".join(found["warnings"])
    assert asked["objective"] == "dpo" and asked["per_example"] == 2 and "last_layers" in told
    full = planned(str(recipe), "--tune", "full", "--layout", "mbs=1,shard=zero3")
    assert full["question"]["tune"] == "full" and full["question"]["rank"] == 0


RECIPE = """
name: r
data: [{source: notes, field: chat}]
model: {base: llama-3.1-8b}
train: {objective: sft, lora: {rank: 32, base: nf4}, seq_len: 2048, batch_tokens: 131072}
hardware: {device: h100-sxm, count: 8}
"""


def test_a_word_beside_a_recipe_changes_what_it_says_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    plain = planned(str(recipe))["question"]
    assert (plain["count"], plain["stack"], plain["global_batch"]) == (8, "whorl", 64)

    def differs(*words: str) -> dict[str, Any]:
        asked = planned(str(recipe), *words)["question"]
        own = ("words", "became", "layout")
        return {k: v for k, v in asked.items() if v != plain[k] and k not in own}

    assert differs("--optim", "adamw_8bit") == {"optimizer": "adamw_8bit"}
    assert differs("--gradient_checkpointing", "true") == {}
    assert differs("--per_device_train_batch_size", "2") == {}  # of the recipe's 64 sequences
    # 2 sequences x 2 passes x 8 devices; 100 such steps of 2048 tokens each
    passes = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    assert differs(*passes) == {"global_batch": 32}
    steps = {"global_batch": 32, "tokens": 100 * 32 * 2048}
    assert differs(*passes, "--max_steps", "100") == steps
    # adapters said by a word are that word's, not the recipe's
    eight = differs("--load_in_8bit", "true")
    assert eight == {"tune": "lora", "base_format": "int8", "rank": 8}
    found = planned(str(recipe), *passes)["chosen"]
    assert found["layout"]["micro_batch"] == 2 and found["layout"]["devices"] == 8


def test_a_pretraining_beside_a_word_keeps_its_software(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\ndata: [{source: stdlib-python, field: text}]\n"
        "model: {layers: 16, width: 2048}\nprepare: {vocab_size: 32000}\n"
        "train: {seq_len: 2048, batch_tokens: 262144}\n"
        "hardware: {device: h100-sxm, count: 16}\nbudget: {tokens: 1B}\n"
    )
    plain = planned(str(recipe))["question"]
    said = planned(str(recipe), "--gradient_checkpointing", "true")["question"]
    own = ("count", "stack", "global_batch", "tokens")
    assert [said[name] for name in own] == [plain[name] for name in own]
    assert said["stack"] == "megatron" and "recompute=full" in said["layout"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--from", "x.yaml"], "RECIPE and --from"),
        (["--model_name_or_path", "gpt2"], "RECIPE and --model"),
        (["--base_model", "gpt2"], "RECIPE and --model"),
    ],
)
def test_a_recipe_beside_another_model(words: list[str], found: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    with pytest.raises(SpecError) as caught:
        run(str(recipe), *words)
    assert caught.value.found == found


def test_every_word_for_a_model_is_one() -> None:
    rest = [*TUNED[2:], "--global-batch-tokens", "16384"]
    assert planned("--base_model", "llama-3.1-8b", *rest)["question"]["model"] == "llama-3.1-8b"


def test_python_takes_lists_and_mappings() -> None:
    options: dict[str, Any] = {"model": "llama-3.1-8b", "device": "h100-sxm", "count": 8}
    options |= {"seq": 2048, "tune": "lora", "per_device_train_batch_size": 2}
    found = whorl.plan(
        **options,
        fsdp=["full_shard", "auto_wrap"],
        fsdp_config={"activation_checkpointing": True},
        lora_target_modules=["q_proj", "v_proj"],
    )
    assert isinstance(found, ClusterPlan)
    layout = found.chosen.layout
    assert (layout.shard, layout.recompute, layout.micro_batch) == ("zero3", "full", 2)
    assert found.question.targets == "qv"


def test_python_mirrors_the_command(axolotl: Path) -> None:
    options: dict[str, Any] = {"model": "llama-3.1-8b", "device": "rtx-4090", "count": 1}
    options |= {"seq": 2048, "tune": "qlora", "per_device_train_batch_size": 2, "bf16": True}
    options |= {"gradient_accumulation_steps": 8, "gradient_checkpointing": True}
    found = whorl.plan(**options, optim="paged_adamw_8bit")
    assert isinstance(found, ClusterPlan)
    told = planned(*TUNED, *WORDS)
    mine = json.loads(found.model_dump_json())
    assert mine["chosen"] == told["chosen"] and mine["runners_up"] == told["runners_up"]
    report = whorl.plan(from_file=axolotl, device="rtx-4090", why_oom=True)
    assert isinstance(report, MemoryReport) and not report.fits
    assert isinstance(
        whorl.plan(model="gpt2", device="l40s", serve="users=1,input=99"), ServingAnswer
    )
    with pytest.raises(SpecError, match="did you mean --device"):
        whorl.plan(**options, divice="x")
    with pytest.raises(SpecError, match="need a recipe"):
        whorl.plan(**options, home=axolotl.parent)


def test_a_newcomers_words() -> None:
    """A switch with its value, no batch, the name of a kin, and torchtune's own 16 bits."""
    asked = [*CARD[:4], "--seq", "2k", "--tune", "qlora", "--stack", "ms-swift"]
    found = planned(*asked)
    assert (found["question"]["global_batch"], found["question"]["count"]) == (1, 1)
    assert found["question"]["stack"] == "hf"
    assert any("no batch is said" in line for line in found["warnings"])
    told = planned(*asked, "--global-batch-tokens", "2k", "--why-oom", "true")
    assert MemoryReport.model_validate(told).question.global_batch == 1
    plain = planned(*asked, "--why-oom", "false")
    assert plain["chosen"] == found["chosen"]
    tune = ["--model", "llama-3.2-3b", "--device", "a100-80", "--seq", "4k", "--stack", "torchtune"]
    full = planned(*tune, "--tune", "full", "--layout", "mbs=2,recompute=full,shard=none",
                   "--global-batch-tokens", "8k", "--loss", "chunked")  # fmt: skip
    gib = full["chosen"]["memory"]["peak_bytes"] / 2**30
    assert gib == pytest.approx(24.9, rel=0.2)  # its README
    served = planned(*CARD[:4], "--serve", "in=217,out=200")
    assert served["serve"] == "in=217,out=200"


def test_parts_of_a_batch_that_nobody_said() -> None:
    """By hand: micro-batch (1 where none is said) times accumulation times data-parallel ranks."""
    asked = ["--model", "smollm2-135m", *CARD[2:4], "--seq", "2k", "--tune", "qlora"]
    eight = planned(*asked, "--gradient_accumulation_steps", "8")
    assert eight["question"]["global_batch"] == 8
    assert eight["chosen"]["layout"]["micro_batch"] == 1
    two = planned(*asked, "--count", "2", "--gradient_accumulation_steps", "8")
    assert two["question"]["global_batch"] == 16
    assert not any("no batch is said" in line for line in eight["warnings"])
    four = planned(*asked, "--layout", "mbs=4")
    assert four["question"]["global_batch"] == 4
    assert any("no batch is said" in line and "mbs=4" in line for line in four["warnings"])
    long = planned(*asked, "--max_steps", "1000")
    assert long["question"]["tokens"] == 1000 * 2048
    three = planned(*asked, "--max_steps", "1000", "--layout", "mbs=3")
    assert three["question"]["tokens"] == 1000 * 3 * 2048


def test_an_accumulation_beside_a_file_that_says_no_micro_batch(tmp_path: Path) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text('{"gradient_accumulation_steps": 8, "zero_optimization": {"stage": 2}, '
                    '"bf16": {"enabled": true}}')  # fmt: skip
    asked = ["--from", str(path), "--model", "qwen3-0.6b", "--device", "h100", "--count", "2"]
    found = planned(*asked, "--tune", "full", "--seq", "2k")
    assert found["question"]["global_batch"] == 16


def test_steps_of_a_recipe_whose_batch_is_open(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\ndata: [{source: notes, field: chat}]\nmodel: {base: qwen3-0.6b}\n"
        "train: {objective: sft, lora: {rank: 8}, seq_len: 1024, steps: 100}\n"
        "hardware: {device: h100-sxm, count: 2}\n"
    )
    assert planned(str(recipe))["question"]["tokens"] == 100 * 2 * 1024
    given = planned(str(recipe), "--global-batch-tokens", "8k")
    assert given["question"]["tokens"] == 100 * 8192


def test_a_batch_that_was_put_in_is_told_where_the_question_is_refused() -> None:
    asked = {"--model": "llama-3.1-8b", "--device": "rtx-4090", "--seq": "2k", "--tune": "qlora"}
    told: list[str] = []
    with pytest.raises(SpecError, match="adamw_9bit"):
        planning.answer({**asked, "--optimizer": "adamw_9bit"}, tell=told.append)
    assert any("no batch is said" in line for line in told)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layot", "tp=2"], "did you mean --layout"),
        (["--per_device_batch_size", "2"], "did you mean --per_device_train_batch_size"),
        (["--optim", "adamw_9bit"], "paged_adamw_8bit"),
        (["--bf16", "maybe"], "true or false"),
        (["--dp", "3", "--count", "4"], "dp"),
        (["--from", "none.yaml"], "cannot be read"),
    ],
)
def test_words_that_are_none(arguments: list[str], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        run(*CARD[:4], "--seq", "2048", "--tune", "lora", *arguments)


# meta-pytorch/torchtune README: model, device, tokens of a sequence, flags, tokens/s, GiB;
# two sequences a pass and a step, bf16 throughout
TORCHTUNE: list[tuple[str, str, int, dict[str, Any], float, float]] = [
    ("llama-3.1-8b", "rtx-4090", 2048, {"tune": "lora"}, 3083, 16.2),
    ("llama-3.1-8b", "rtx-4090", 2048, {"tune": "qlora"}, 2413, 7.4),
    ("llama-3.2-3b", "a100-80", 4096, {"tune": "lora"}, 8210, 8.5),
    ("llama-3.2-3b", "a100-80", 4096, {"tune": "qlora"}, 8035, 4.6),
    ("llama-3.2-3b", "a100-80", 4096, {"tune": "full", "loss": "chunked"}, 7210, 24.9),
    (
        *("llama-3.2-3b", "a100-80", 4096),
        {"tune": "full", "loss": "chunked", "optimizer": "adamw_8bit", "step_in_backward": True},
        *(6960, 17.6),
    ),
    (
        *("llama-3.1-8b", "rtx-4090", 2048),
        {"tune": "full", "optimizer": "paged_adamw_8bit", "step_in_backward": True},
        *(1650, 18.9),
    ),
]


def test_flags_reach_what_people_measured() -> None:
    rates, peaks = [], []
    for model, device, seq_len, flags, rate, gib in TORCHTUNE:
        found = whorl.plan(
            model=model,
            device=device,
            seq=seq_len,
            global_batch_tokens=2 * seq_len,
            precision="bf16-true",
            stack="torchtune",
            layout="mbs=2,shard=none,recompute=full",
            **flags,
        )
        assert isinstance(found, ClusterPlan)
        rates.append(abs(found.chosen.step.tokens_per_s_per_device / rate - 1))
        peaks.append(abs(found.chosen.memory.peak_bytes / 2**30 / gib - 1))
    assert statistics.median(rates) < 0.2 and max(rates) < 0.45, rates
    assert statistics.median(peaks) < 0.2 and max(peaks) < 0.45, peaks

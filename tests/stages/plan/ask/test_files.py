"""Files of other tools, as their documentation has them, against what they mean counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.core.errors import SpecError
from whorl.stages.plan.ask.axolotl import AXOLOTL as AXOLOTL_RULES
from whorl.stages.plan.ask.deepspeed import DEEPSPEED as DEEPSPEED_RULES
from whorl.stages.plan.ask.files import as_flags, read_file, read_words
from whorl.stages.plan.ask.llamafactory import LLAMAFACTORY as LLAMAFACTORY_RULES
from whorl.stages.plan.ask.torchtitan import TORCHTITAN as TORCHTITAN_RULES
from whorl.stages.plan.ask.trainer import TRAINER as TRAINER_RULES

AXOLOTL = """
base_model: NousResearch/Meta-Llama-3.1-8B
load_in_8bit: false
load_in_4bit: true
datasets:
  - {path: mhenrichsen/alpaca_2k_test, type: alpaca}
val_set_size: 0
output_dir: ./outputs/qlora-out
adapter: qlora
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
tf32: false
gradient_checkpointing: true
flash_attention: true
warmup_ratio: 0.1
weight_decay: 0.0
special_tokens:
  pad_token: "<|end_of_text|>"
"""
LLAMAFACTORY = """
model_name_or_path: Qwen/Qwen2.5-7B-Instruct
stage: sft
do_train: true
finetuning_type: lora
lora_target: q_proj,v_proj
deepspeed: ds_z2_config.json
dataset: identity,alpaca_en_demo
template: qwen
cutoff_len: 2048
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
bf16: true
plot_loss: true
"""
DEEPSPEED = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "bf16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "overlap_comm": True,
        "stage3_max_live_parameters": 1e9,
    },
    "gradient_clipping": 1.0,
    "wall_clock_breakdown": False,
}
TRAINER = {
    "model_name_or_path": "meta-llama/Llama-3.2-3B",
    "output_dir": "out",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 8,
    "gradient_checkpointing": True,
    "optim": "adamw_torch_fused",
    "bf16": True,
    "fsdp": "full_shard auto_wrap",
    "max_steps": 1000,
    "max_length": 2048,
    "warmup_ratio": 0.03,
    "report_to": "wandb",
}
TORCHTITAN = """
[job]
dump_folder = "./outputs"
[model]
name = "llama3"
flavor = "70B"
converters = ["float8"]
[optimizer]
name = "AdamW"
lr = 1.5e-4
[training]
local_batch_size = 8
seq_len = 8192
steps = 1000
[parallelism]
data_parallel_replicate_degree = 1
data_parallel_shard_degree = -1
tensor_parallel_degree = 8
pipeline_parallel_degree = 1
context_parallel_degree = 1
[activation_checkpoint]
mode = "full"
[compile]
enable = true
"""


def read(path: Path, text: str, **given: Any) -> tuple[Any, dict[str, Any]]:
    path.write_text(text)
    said = read_file(path)
    return said, as_flags(said, {f"--{name}": value for name, value in given.items()})


def parts(flags: dict[str, Any]) -> dict[str, str]:
    return dict(part.split("=") for part in flags["--layout"].split(","))


def test_axolotl(tmp_path: Path) -> None:
    said, flags = read(tmp_path / "axolotl.yaml", AXOLOTL, count=8)
    assert said.tool == "axolotl"
    assert flags["--model"] == "NousResearch/Meta-Llama-3.1-8B"
    assert (flags["--tune"], flags["--rank"], flags["--targets"]) == ("qlora", "32", "all")
    assert (flags["--base-format"], flags["--optimizer"]) == ("nf4", "paged_adamw_8bit")
    assert flags["--seq"] == "4096" and flags["--precision"] == "bf16-true"
    # 2 sequences a pass, 4 passes, 8 devices
    assert int(flags["--global-batch-tokens"]) == 2 * 4 * 8 * 4096
    assert parts(flags) == {"mbs": "2", "recompute": "full", "shard": "none"}
    assert not said.warnings
    assert "lora_alpha" in said.passed and "learning_rate" in said.passed


def test_llamafactory_refers_to_deepspeed(tmp_path: Path) -> None:
    said, flags = read(tmp_path / "llamafactory.yaml", LLAMAFACTORY, count=2)
    assert said.tool == "llamafactory" and flags["--stack"] == "deepspeed"
    assert (flags["--tune"], flags["--targets"], flags["--rank"]) == ("lora", "qv", "8")
    # of its folder's file that is not here, the name says the stage; it recomputes by default
    assert parts(flags) == {"mbs": "1", "recompute": "full", "shard": "zero2"}
    assert int(flags["--global-batch-tokens"]) == 1 * 8 * 2 * 2048
    auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    left_open = DEEPSPEED | dict.fromkeys(auto, "auto")
    (tmp_path / "ds_z2_config.json").write_text(json.dumps(left_open))
    again = as_flags(read_file(tmp_path / "llamafactory.yaml"), {"--count": 2})
    assert parts(again) == {
        "mbs": "1", "recompute": "full", "shard": "zero3", "offload_optimizer": "1",
    }  # fmt: skip


def test_deepspeed_beside_flags(tmp_path: Path) -> None:
    said, flags = read(tmp_path / "deepspeed.json", json.dumps(DEEPSPEED), count=16, seq="4096")
    assert parts(flags) == {"mbs": "4", "shard": "zero3", "offload_optimizer": "1"}
    assert int(flags["--global-batch-tokens"]) == 4 * 2 * 16 * 4096
    assert flags["--optimizer"] == "adamw" and flags["--precision"] == "bf16"
    assert not said.warnings


def test_a_trainers_arguments(tmp_path: Path) -> None:
    said, flags = read(tmp_path / "trainer-args.json", json.dumps(TRAINER), count=4)
    assert said.tool == "trainer" and flags["--stack"] == "hf" and flags["--tune"] == "full"
    assert parts(flags) == {"mbs": "4", "recompute": "full", "shard": "zero3"}
    step = 4 * 8 * 4 * 2048
    assert int(flags["--global-batch-tokens"]) == step
    assert int(flags["--tokens"]) == 1000 * step
    assert not said.warnings


def test_what_the_trainer_writes_of_itself_warns_of_nothing(tmp_path: Path) -> None:
    """A part of TrainingArguments.to_json_string() of transformers, FSDP's settings beside."""
    written = {
        **{"output_dir": "out", "per_device_train_batch_size": 2, "num_train_epochs": 3},
        **{"max_steps": -1, "learning_rate": 5e-05, "lr_scheduler_type": "linear", "bf16": False},
        **{"warmup_steps": 0, "optim": "adamw_torch_fused", "optim_args": None, "fp16": False},
        **{"weight_decay": 0.0, "adam_beta1": 0.9, "adam_epsilon": 1e-08, "max_grad_norm": 1.0},
        **{"gradient_accumulation_steps": 4, "average_tokens_across_devices": True, "tf32": None},
        **{"gradient_checkpointing": True, "neftune_noise_alpha": None, "seed": 42, "fsdp": True},
        **{"gradient_checkpointing_kwargs": {"use_reentrant": False}, "torch_compile": False},
        **{"use_liger_kernel": False, "dataloader_num_workers": 4, "deepspeed": None},
        **{"train_sampling_strategy": "random", "local_rank": -1, "save_steps": 500},
        "accelerator_config": {"split_batches": False, "even_batches": True},
        "fsdp_config": {
            **{"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]},
            **{"reshard_after_forward": True, "cpu_ram_efficient_loading": True},
            **{"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"},
        },
    }
    said, flags = read(tmp_path / "args.json", json.dumps(written), count=2, seq="1024")
    assert said.warnings == [] and flags["--precision"] == "fp32"
    assert parts(flags) == {"mbs": "2", "recompute": "full", "shard": "zero3"}
    assert int(flags["--global-batch-tokens"]) == 2 * 4 * 2 * 1024 and "--tokens" not in flags


def test_torchtitan(tmp_path: Path) -> None:
    said, flags = read(tmp_path / "train.toml", TORCHTITAN, count=64)
    assert said.tool == "torchtitan" and flags["--model"] == "llama-3.1-70b"
    assert flags["--precision"] == "fp8" and "--tune" not in flags
    found = parts(flags)
    assert (found["tp"], found["mbs"], found["recompute"]) == ("8", "8", "full")
    assert found["shard"] == "zero3"
    assert int(flags["--global-batch-tokens"]) == 8 * (64 // 8) * 8192  # 8 ranks of data


def test_what_changes_memory_and_is_not_planned_is_told(tmp_path: Path) -> None:
    said, _ = read(tmp_path / "a.yaml", AXOLOTL + "rl: ppo\nbrand_new_kernel: 7\n", count=1)
    assert [line.partition("=")[0] for line in said.warnings] == ["rl", "brand_new_kernel"]
    off, _ = read(tmp_path / "a.yaml", AXOLOTL + "relora: false\nbrand_new: null\n", count=1)
    assert not off.warnings


def test_a_preference_is_two_sequences(tmp_path: Path) -> None:
    """DPO's chosen and rejected answers pass together; ORPO needs no reference model."""
    said, flags = read(tmp_path / "a.yaml", AXOLOTL + "rl: dpo\n", count=4)
    assert parts(flags)["mbs"] == "4" and flags["--objective"] == "dpo" and not said.warnings
    assert int(flags["--global-batch-tokens"]) == 2 * 2 * 4 * 4 * 4096
    of_pairs = LLAMAFACTORY.replace("stage: sft", "stage: dpo")
    _, flags = read(tmp_path / "b.yaml", of_pairs, count=2)
    assert parts(flags)["mbs"] == "2" and flags["--objective"] == "dpo"
    _, flags = read(tmp_path / "b.yaml", of_pairs + "pref_loss: simpo\n", count=2)
    assert flags["--objective"] == "dpo,reference=none"
    orpo, flags = read(tmp_path / "a.yaml", AXOLOTL + "rl: orpo\n", count=4)
    assert flags["--objective"] == "dpo,reference=none" and not orpo.warnings
    _, flags = read(tmp_path / "a.yaml", AXOLOTL + "rl: kto\n", count=4)
    assert parts(flags)["mbs"] == "2" and flags["--objective"] == "dpo,sequences=1"


def test_grpo_of_a_trainer_and_of_axolotl(tmp_path: Path) -> None:
    """TRL's batch counts completions; its prompts are taken to be as long as 512 tokens."""
    written = {"output_dir": "x", "per_device_train_batch_size": 8, "num_generations": 8,
               "max_completion_length": 256, "bf16": True, "beta": 0.04}  # fmt: skip
    _, flags = read(tmp_path / "a.json", json.dumps(written), count=2)
    assert flags["--objective"] == "grpo,reference=model,generations=8,completion=256"
    assert flags["--seq"] == "768" and parts(flags)["mbs"] == "8"
    text = AXOLOTL + "rl: grpo\ntrl:\n  use_vllm: true\n  vllm_mode: server\n  num_generations: 4\n"
    _, flags = read(tmp_path / "a.yaml", text, count=2)
    assert flags["--objective"] == "grpo,generations=4,completion=512,rollout=server"


def test_preferences_distillation_and_embeddings_of_a_trainer(tmp_path: Path) -> None:
    args = {"output_dir": "x", "per_device_train_batch_size": 2, "bf16": True}
    more: dict[str, dict[str, object]] = {
        "dpo,reference=stored": {"precompute_ref_log_probs": True, "max_length": 512},
        "distil,teacher=Qwen/Qwen2.5-7B": {"teacher_model_name_or_path": "Qwen/Qwen2.5-7B"},
        "embedding": {"batch_sampler": "no_duplicates"},
    }
    for text, keys in more.items():
        _, flags = read(tmp_path / "a.json", json.dumps(args | keys), count=2, seq="512")
        assert flags["--objective"] == text
        assert parts(flags)["mbs"] == ("2" if "distil" in text else "4")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.json", '{"name": "app", "scripts": {}}', "of no tool"),
        ("x.json", "{", "not JSON"),
        ("x.toml", "a = ", "not TOML"),
        ("x.sh", "echo hello", "no arguments of Megatron"),
        ("x.yaml", AXOLOTL.replace("paged_adamw_8bit", "adamw_9bit"), "adamw_9bit"),
        ("x.yaml", AXOLOTL.replace("micro_batch_size: 2", "micro_batch_size: two"), "micro_batch"),
        ("x.yaml", LLAMAFACTORY.replace("ds_z2_config", "mine"), "is no file"),
        ("x.yaml", "- a\n- b\n", "no keys"),
        ("none.yaml", "", "no keys"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        read(tmp_path / name, text)


def test_given_flags_go_before_the_file_and_say_so(tmp_path: Path) -> None:
    said, flags = read(tmp_path / "a.yaml", AXOLOTL, count=2, seq="2048", layout="mbs=1,zero=3")
    assert flags["--seq"] == "2048"
    assert parts(flags) == {"mbs": "1", "recompute": "full", "shard": "zero3"}
    assert int(flags["--global-batch-tokens"]) == 1 * 4 * 2 * 2048
    assert any("--seq 2048 goes before sequence_len" in line for line in said.became)


def test_words_on_the_command_line() -> None:
    said = read_words(
        {
            **{"per_device_train_batch_size": "2", "gradient_accumulation_steps": "8"},
            **{"gradient_checkpointing": "true", "optim": "paged_adamw_8bit", "dp": "4"},
            **{"bf16": "true", "load_in_4bit": "true", "max_seq_length": "1024"},
        }
    )
    flags = as_flags(said, {})
    assert flags["--count"] == "4" and flags["--tune"] == "qlora"
    assert int(flags["--global-batch-tokens"]) == 2 * 8 * 4 * 1024
    with pytest.raises(SpecError, match="did you mean --gradient_checkpointing"):
        read_words({"gradient_checkpoint": "true"})


def test_nothing_that_is_said_is_dropped() -> None:
    """Recomputation without a micro-batch, software that shards, a batch beside an accumulation."""
    alone = as_flags(
        read_words({"gradient_checkpointing": "true"}),
        {"--count": "2", "--seq": "1024", "--global-batch-tokens": "8192", "--stack": "fsdp2"},
    )
    assert parts(alone) == {"recompute": "full", "shard": "zero3", "mbs": "1"}
    said = read_words({"gradient_accumulation_steps": "4", "per_device_train_batch_size": "2"})
    flags = {"--count": "1", "--seq": "1024", "--global-batch-tokens": "16384"}
    assert as_flags(said, flags)["--global-batch-tokens"] == "16384"
    assert any("goes before 8 sequences" in line for line in said.became)


def test_words_go_before_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(AXOLOTL)
    words = {"gradient_accumulation_steps": "1", "bf16": "true", "packing": "true"}
    said = read_words(words, read_file(path))
    assert {"packing", "learning_rate"} <= set(said.passed)
    assert int(as_flags(said, {"--count": "8"})["--global-batch-tokens"]) == 2 * 1 * 8 * 4096


def assert_read_or_refused(path: Path) -> None:
    try:
        found = as_flags(read_file(path), {"--count": "8", "--seq": "2048"})
    except SpecError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert found["--count"] == "8" and all(found.values())


KEYS = {
    "a.yaml": [*AXOLOTL_RULES, *LLAMAFACTORY_RULES],
    "a.json": [*TRAINER_RULES, *DEEPSPEED_RULES],
    "a.toml": [*TORCHTITAN_RULES],
}
VALUES = st.sampled_from(
    [*(True, False, None, -1, 0, 1, 8, 3.5, 10**30, "", "x", "auto", "none", "8", "-1", "full"),
     *(["a", 1], [], {"b": {"c": 1}}, [{"a": 1}], "1e400", "nan", "é")]
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(KEYS))
def test_any_value_is_read_or_refused(name: str, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("any")

    @given(st.dictionaries(st.sampled_from(sorted(KEYS[name])), VALUES, max_size=6))
    @settings(max_examples=60, deadline=None)
    def try_it(values: dict[str, Any]) -> None:
        path = folder / name.replace(".toml", ".json")
        whole = {"output_dir": "x", **values}
        if name == "a.toml":
            whole = {"training.seq_len": 512, **values}
        path.write_text(json.dumps(whole))
        assert_read_or_refused(path)

    try_it()


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("devics", "--device"),  # not the Trainer's --devices beside it
        ("gradient_acumulation_steps", "--gradient_accumulation_steps"),
    ],
)
def test_a_flag_of_one_s_own_goes_before_words_of_other_tools(word: str, near: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_words({word: "1"})
    assert str(caught.value).endswith(f"did you mean {near}?")


@pytest.mark.parametrize(
    ("words", "learned"),
    [
        ({"beta": "0.1"}, "dpo"),
        (
            {"num_generations": 8, "max_completion_length": 256},
            "grpo,generations=8,completion=256",
        ),
        ({"num_generations": 8, "beta": 0.04}, "grpo,reference=model,generations=8,completion=512"),
    ],
)
def test_words_alone_say_what_is_learned(
    words: dict[str, object], learned: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(AXOLOTL)
    given = {"--count": "8", "--seq": "1024"}
    for said in (read_words(words), read_words(words, read_file(path))):
        assert as_flags(said, given)["--objective"] == learned

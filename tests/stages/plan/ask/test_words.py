"""Keys of other tools that change memory or time: mapped or told, with the tool's own defaults."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.plan.ask.test_files import AXOLOTL, DEEPSPEED, TORCHTITAN, TRAINER, parts, read
from whorl.arch.adapter_cost import is_adaptable
from whorl.arch.known_models import known_model, model_names
from whorl.arch.layers import layer_matrices
from whorl.core.errors import SpecError
from whorl.stages.plan.ask.files import read_file, read_words
from whorl.stages.plan.ask.layouts import parse_layout
from whorl.stages.plan.ask.said import nearest
from whorl.stages.plan.ask.trainer import TRAINER as TRAINER_RULES
from whorl.stages.plan.ask.trainer import targets

SCRIPT = "torchrun --nproc_per_node 8 pretrain_gpt.py --micro-batch-size 1 --seq-length 2048 "
ON_HOST = "the optimiser's states alone are"


def script(path: Path, more: str, **given: Any) -> tuple[Any, dict[str, Any]]:
    return read(path / "train.sh", SCRIPT + more, **given)


def told(said: Any) -> list[str]:
    return [line.partition("=")[0] for line in said.warnings]


def titan(path: Path, *changes: tuple[str, str], **given: Any) -> tuple[Any, dict[str, Any]]:
    text = TORCHTITAN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return read(path / "train.toml", text, **given)


def trainer(path: Path, more: dict[str, Any], **given: Any) -> tuple[Any, dict[str, Any]]:
    return read(path / "args.json", json.dumps(TRAINER | more), **{"count": 4} | given)


# Megatron


def test_an_unknown_argument_of_megatron_is_told_with_the_nearest(tmp_path: Path) -> None:
    said, _ = script(tmp_path, "--bf16 --tensor-model-parallel-sise 2 --brand-new 3")
    assert told(said) == ["tensor-model-parallel-sise", "brand-new"]
    assert "did you mean tensor-model-parallel-size?" in said.warnings[0]
    said, _ = script(tmp_path, "--bf16 --data-parallel-something 2")
    assert told(said) == ["data-parallel-something"]


def test_megatrons_own_example_warns_of_what_changes_memory_alone(tmp_path: Path) -> None:
    """Arguments of its examples/llama/train_llama3_8b_h100_fp8.sh."""
    more = (
        "--use-mcore-models --position-embedding-type rope --rotary-base 1000000 --bf16 "
        "--rotary-percent 1.0 --attention-dropout 0.0 --init-method-std 0.0134 --manual-gc "
        "--attention-backend fused --apply-layernorm-1p --disable-bias-linear --clip-grad 1.0 "
        "--grad-reduce-in-bf16 --calculate-per-token-loss --empty-unused-memory-level 1 "
        "--exit-duration-in-mins 235 --fp8-format hybrid --fp8-amax-history-len 1024 "
        "--fp8-amax-compute-algo max --fp8-param-gather --overlap-grad-reduce --mock-data "
        "--overlap-param-gather --tokenizer-type NullTokenizer --tiktoken-pattern v2 "
        "--no-create-attention-mask-in-dataloader --no-mmap-bin-files --ckpt-format torch_dist "
        "--log-throughput --distributed-timeout-minutes 60 --master_port 6000"
    )
    said, flags = script(tmp_path, more)
    assert sorted(told(said)) == ["fp8-param-gather", "grad-reduce-in-bf16"]
    assert flags["--precision"] == "fp8" and flags["--attention"] == "flash"
    assert "are taken to change neither memory nor time" in said.lines()[-1]


def test_megatron_without_a_precision_is_fp32(tmp_path: Path) -> None:
    said, flags = script(tmp_path, "")
    assert flags["--precision"] == "fp32" and any("fp32" in line for line in said.became)
    assert script(tmp_path, "--bf16")[1]["--precision"] == "bf16"


@pytest.mark.parametrize(
    ("method", "layers", "is_told"),
    [("uniform", 1, False), ("uniform", 4, True), ("block", 1, True)],
)
def test_layers_recomputed_together(
    tmp_path: Path, method: str, layers: int, is_told: bool
) -> None:
    said, _ = script(
        tmp_path,
        f"--bf16 --recompute-granularity full --recompute-method {method} "
        f"--recompute-num-layers {layers}",
    )
    assert bool(said.warnings) is is_told


def test_what_megatrons_fsdp_shards_its_strategy_says(tmp_path: Path) -> None:
    fsdp = "--bf16 --use-distributed-optimizer --use-megatron-fsdp "
    _, flags = script(tmp_path, fsdp + "--data-parallel-sharding-strategy optim_grads")
    assert parts(flags)["shard"] == "zero2"
    _, flags = script(tmp_path, fsdp + "--data-parallel-sharding-strategy optim_grads_params")
    assert parts(flags)["shard"] == "zero3"
    with pytest.raises(SpecError, match="optim_grads_params"):
        script(tmp_path, fsdp + "--data-parallel-sharding-strategy all")


# what was passed over


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[compile]", "[compile]", "compile.enable"),
        ("[parallelism]", "[parallelism]\ndisable_loss_parallel = true", "loss_parallel"),
        ("[parallelism]", "[parallelism]\nenable_async_tensor_parallel = true", "async_tensor"),
        ('mode = "full"', 'mode = "selective"\nselective_ac_option = "2"', "selective_ac_option"),
    ],
)
def test_torchtitans_keys_of_weight_are_told(tmp_path: Path, old: str, new: str, key: str) -> None:
    said, _ = titan(tmp_path, (old, new), count=64)
    assert any(key in line for line in said.warnings)
    assert not any(key in name for name in said.passed)


def test_torchtitans_defaults_warn_of_nothing(tmp_path: Path) -> None:
    defaults = 'mode = "selective"\nselective_ac_option = "op"\n'
    training = '[training]\nmixed_precision_param = "bfloat16"'
    changes = [('mode = "full"', defaults), ("[training]", training), ("enable = true", "")]
    said, flags = titan(tmp_path, *changes, count=64)
    assert not said.warnings and flags["--precision"] == "fp8"


@pytest.mark.parametrize(
    ("word", "pipeline", "shard"),
    [
        *(("never", 1, "zero2"), ("always", 1, "zero3"), ("default", 1, "zero3")),
        *(("default", 2, "zero2"), ("always", 2, "zero3")),
    ],
)
def test_weights_gathered_again(tmp_path: Path, word: str, pipeline: int, shard: str) -> None:
    """ "default" reshards where there is no pipeline: torchtitan's distributed/fsdp.py."""
    _, flags = titan(
        tmp_path,
        ("[parallelism]", f'[parallelism]\nfsdp_reshard_after_forward = "{word}"'),
        ("pipeline_parallel_degree = 1", f"pipeline_parallel_degree = {pipeline}"),
        count=64,
    )
    assert parts(flags)["shard"] == shard


def test_products_in_fp32(tmp_path: Path) -> None:
    training = '[training]\nmixed_precision_param = "float32"'
    changes = (("[training]", training), ('["float8"]', "[]"))
    assert titan(tmp_path, *changes, count=64)[1]["--precision"] == "fp32"


def test_trainers_keys_of_weight_are_told(tmp_path: Path) -> None:
    more = {"modules_to_save": ["lm_head"], "torch_compile": True, "tf32": True, "beta": 0.1}
    said, _ = trainer(tmp_path, more)
    assert sorted(told(said)) == sorted(more)
    assert "DPOConfig" in next(line for line in said.warnings if "beta" in line)


def test_what_a_model_is_loaded_with_is_read(tmp_path: Path) -> None:
    loaded = {"torch_dtype": "bfloat16", "attn_implementation": "eager", "brand_new": 3}
    said, flags = trainer(tmp_path, {"model_init_kwargs": loaded})
    assert (flags["--precision"], flags["--attention"]) == ("bf16-true", "eager")
    assert told(said) == ["model_init_kwargs.brand_new"]


def test_no_argument_of_the_trainer_looks_like_a_slip() -> None:
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        pytest.skip("transformers is not installed")
    tree = ast.parse(Path(found.origin).with_name("training_args.py").read_text("utf-8"))
    names = [
        item.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    assert len(names) > 80
    assert not [
        name for name in names if name not in TRAINER_RULES and nearest(name, TRAINER_RULES)
    ]


def test_a_slip_in_a_key_whose_words_weigh_nothing_is_told(tmp_path: Path) -> None:
    said, _ = trainer(tmp_path, {"load_in_4bits": True})
    assert "did you mean load_in_4bit?" in said.warnings[0]


# parameters on the host


def test_weights_on_the_host_are_told_by_every_tool(tmp_path: Path) -> None:
    found = [
        trainer(tmp_path, {"fsdp_config": {"offload_params": True}}),
        trainer(tmp_path, {"fsdp": "full_shard auto_wrap offload"}),
        titan(tmp_path, ("[training]", "[training]\nenable_cpu_offload = true"), count=64),
        read(
            tmp_path / "a.yaml",
            AXOLOTL + "fsdp_config:\n  fsdp_offload_params: true\n",
            count=8,
        ),
    ]
    for said, flags in found:
        assert parts(flags)["offload_optimizer"] == "1"
        assert any(ON_HOST in line for line in said.warnings)
    off, flags = trainer(tmp_path, {"fsdp_config": {"offload_params": False}})
    assert "offload_optimizer" not in parts(flags) and not off.warnings


# DeepSpeed


def test_deepspeed_alone_has_its_own_defaults(tmp_path: Path) -> None:
    bare = {"train_micro_batch_size_per_gpu": 2}
    path = tmp_path / "ds.json"
    said, flags = read(path, json.dumps(bare), count=4, seq="1024")
    assert flags["--precision"] == "fp32" and parts(flags)["shard"] == "none"
    assert any("zero_optimization.stage" in line for line in said.became)
    auto = bare | {"bf16": {"enabled": "auto"}}
    assert "--precision" not in read(path, json.dumps(auto), count=4, seq="1024")[1]


def test_deepspeeds_keys_of_weight(tmp_path: Path) -> None:
    offload = {"device": "cpu", "ratio": 0.3}
    values = DEEPSPEED | {"zero_optimization": {"stage": 3, "offload_optimizer": offload}}
    said, _ = read(tmp_path / "ds.json", json.dumps(values), count=4, seq="1024")
    assert told(said) == ["zero_optimization.offload_optimizer.ratio"]
    apex = {key: value for key, value in DEEPSPEED.items() if key != "bf16"}
    apex["amp"] = {"enabled": True, "opt_level": "O1"}
    said, flags = read(tmp_path / "ds.json", json.dumps(apex), count=4, seq="1024")
    assert told(said) == ["amp.enabled"] and flags["--precision"] == "fp16"
    slip = DEEPSPEED | {"zero_optimization": {"stagee": 3}}
    said, _ = read(tmp_path / "ds.json", json.dumps(slip), count=4, seq="1024")
    assert "did you mean zero_optimization.stage?" in said.warnings[0]


def test_a_trainers_deepspeed_file_is_read(tmp_path: Path) -> None:
    ds = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    (tmp_path / "ds.json").write_text(json.dumps(ds))
    _, flags = trainer(tmp_path, {"deepspeed": "ds.json", "fsdp": ""})
    assert flags["--stack"] == "deepspeed" and flags["--precision"] == "bf16"
    assert (parts(flags)["shard"], parts(flags)["offload_optimizer"]) == ("zero2", "1")
    for keys in (("fsdp", "deepspeed"), ("deepspeed", "fsdp")):  # fsdp: false says nothing of it
        values = {key: value for key, value in TRAINER.items() if key != "fsdp"}
        values |= {key: {"fsdp": False, "deepspeed": "ds.json"}[key] for key in keys}
        _, flags = read(tmp_path / "args.json", json.dumps(values), count=4)
        assert parts(flags)["shard"] == "zero2"
    assert read_words({"deepspeed": str(tmp_path / "ds.json")}).parts["shard"] == "zero2"
    with pytest.raises(SpecError, match="is no file"):
        trainer(tmp_path, {"deepspeed": "mine.json", "fsdp": ""})


# axolotl, the Trainer's FSDP, degrees


def test_axolotl_without_either_precision_is_fp32(tmp_path: Path) -> None:
    text = AXOLOTL.replace("bf16: auto", "bf16: false\nfp16: false")
    assert read(tmp_path / "a.yaml", text, count=1)[1]["--precision"] == "fp32"
    half = AXOLOTL.replace("bf16: auto", "bf16: false\nfp16: true")
    assert read(tmp_path / "a.yaml", half, count=1)[1]["--precision"] == "fp16"


@pytest.mark.parametrize("is_first", [True, False])
def test_fsdps_checkpointing_goes_before_the_trainers(tmp_path: Path, is_first: bool) -> None:
    fsdp = {"fsdp_config": {"activation_checkpointing": True}}
    off = {"gradient_checkpointing": False}
    base = {key: value for key, value in TRAINER.items() if key != "gradient_checkpointing"}
    values = base | (fsdp | off if is_first else off | fsdp)
    said, flags = read(tmp_path / "args.json", json.dumps(values), count=4)
    assert parts(flags)["recompute"] == "full"
    assert not any("recompute=none" in line for line in said.became)


def test_fsdp_config_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "fsdp.json").write_text('{"reshard_after_forward": "shard_grad_op"}')
    more = {"fsdp_config": "fsdp.json", "fsdp": ""}
    assert parts(trainer(tmp_path, more)[1])["shard"] == "zero2"
    with pytest.raises(SpecError, match="is no file"):
        trainer(tmp_path, {"fsdp_config": "other.json"})


def test_shards_times_replicas_are_devices(tmp_path: Path) -> None:
    alone = ("tensor_parallel_degree = 8", "tensor_parallel_degree = 1")
    twice = ("replicate_degree = 1", "replicate_degree = 2")
    eight = ("shard_degree = -1", "shard_degree = 8")
    _, flags = titan(tmp_path, alone, twice, eight)
    assert flags["--count"] == "16"
    assert parse_layout(flags["--layout"], 16).shard_devices == 8
    with pytest.raises(SpecError, match="16"):
        titan(tmp_path, alone, twice, eight, count=64)
    _, flags = titan(tmp_path, alone, twice, count=64)
    assert parse_layout(flags["--layout"], 64).shard_devices == 32
    # of two ranks of a context the shards span both: 4 x 2, torchtitan's dp_shard_cp
    four = ("shard_degree = -1", "shard_degree = 4")
    context = ("context_parallel_degree = 1", "context_parallel_degree = 2")
    _, flags = titan(tmp_path, alone, twice, four, context)
    assert flags["--count"] == "16"
    assert parse_layout(flags["--layout"], 16).shard_devices == 8
    with pytest.raises(SpecError, match="replicas=3"):
        parse_layout("shard=zero3,replicas=3", 16)


def test_axolotls_degrees_multiply(tmp_path: Path) -> None:
    more = "dp_replicate_size: 2\ndp_shard_size: 4\nfsdp_config:\n  reshard_after_forward: true\n"
    _, flags = read(tmp_path / "a.yaml", AXOLOTL + more)
    assert flags["--count"] == "8"
    assert parse_layout(flags["--layout"], 8).shard_devices == 4


# targets


def test_names_of_matrices_are_known_or_refused() -> None:
    with pytest.raises(SpecError, match="did you mean q_proj"):
        targets("q_prj,v_proj")
    with pytest.raises(SpecError, match="did you mean v_proj"):
        targets(r".*\.(q_proj|v_pro_proj)$")
    with pytest.raises(SpecError, match="--targets"):
        targets("banana")
    assert targets(r".*\.self_attn\.(q_proj|v_proj)$") == "qv"
    assert targets("model.layers.0.self_attn.q_proj") == "qv"
    assert targets("all-linear") == targets("gate_proj") == targets("fc1") == "all"


def test_every_linear_layer_that_a_recipe_may_name_is_known() -> None:
    names = {
        matrix.name
        for name in model_names()
        for kind in ("dense", "expert")
        if kind == "dense" or known_model(name).experts
        for matrix in layer_matrices(known_model(name), kind)
        if is_adaptable(matrix)
    }
    assert len(names) > 8
    assert {targets(name) for name in names} == {"qv", "attention", "all"}


@pytest.mark.parametrize(
    ("names", "is_told"),
    [
        (["q_proj", "v_proj"], False),
        (["q_proj", "k_proj", "v_proj", "o_proj"], False),
        (["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], False),
        ("all-linear", False),
        (["q_proj"], True),
        (["q_proj", "k_proj"], True),
        (["gate_proj", "up_proj", "down_proj"], True),
        (["all-linear", "lm_head"], True),
    ],
)
def test_a_subset_that_is_widened_is_told(tmp_path: Path, names: object, is_told: bool) -> None:
    path = tmp_path / "args.json"
    path.write_text(json.dumps(TRAINER | {"use_peft": True, "lora_target_modules": names}))
    said = read_file(path)
    assert any("planned as --targets" in line for line in said.warnings) is is_told

"""Words of published rows, each with what its own software means by it."""

from __future__ import annotations

import pytest

from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.rows import parse_row

ROW = {
    **{"id": "r1", "source": "someone/somewhere", "model": "llama-3.1-8b", "n_layers": "32"},
    **{"hidden": "4096", "n_heads": "32", "seq_len": "4096", "gpu": "h100", "n_gpus": "16"},
    **{"precision": "bf16", "tp": "1", "pp": "1", "global_batch_seqs": "64"},
    **{"micro_batch_seqs": "1", "activation_recompute": "none", "zero_fsdp": "zero1"},
}


def job(**changes: str) -> TrainingJob:
    row = parse_row({**ROW, **changes}, "tokens_per_s_per_device")
    assert row.job is not None, row.refused
    return row.job


@pytest.mark.parametrize(
    ("source", "gpu", "precision", "stack"),
    [
        ("NVIDIA/Megatron-LM README 2024-05", "h100", "bf16", "megatron"),
        ("a/b#7 Megatron-LM fork", "h100", "bf16", "megatron"),
        ("a/b#7 Megatron-LM fork", "a100", "bf16", "megatron"),
        ("a/b#7 Megatron-LM fork", "a100", "fp16", "megatron_2021"),
        ("NVIDIA/Megatron-LM images/tables.tex 2021-01", "v100", "fp16", "megatron_2021"),
        ("Narayanan 2021", "a100", "fp16", "megatron_2021"),
        ("pytorch/torchtitan docs", "h100", "bf16", "torchtitan"),
        ("meta-pytorch/torchtune README", "a100", "bf16", "torchtune"),
        ("unslothai/unsloth#1", "l4", "bf16", "unsloth"),
        ("huggingface/trl#2", "a100", "bf16", "hf"),
        ("someone/else DeepSpeed ZeRO-3", "a100", "bf16", "deepspeed"),
        ("NVIDIA-NeMo/Megatron-Bridge release 26.06", "b200", "bf16", "megatron_bridge"),
        ("AI-Hypercomputer/maxtext", "tpu-v5e", "bf16", "xla"),
        ("someone/unknown", "h100", "bf16", "megatron"),
    ],
)
def test_the_software_of_a_row(source: str, gpu: str, precision: str, stack: str) -> None:
    found = job(source=source, gpu=gpu, precision=precision)
    assert found.stack == stack
    assert found.flash_attention == (stack != "megatron_2021")


@pytest.mark.parametrize(
    ("text", "shard", "over"),
    [
        ("fsdp2", "zero3", 16),  # its second version, not groups of two
        ("fsdp1", "zero3", 16),
        ("fsdp", "zero3", 16),
        ("hsdp", "zero3", 8),  # within a node
        ("hsdp-4", "zero3", 4),
        ("megatron-fsdp8", "zero3", 8),
        ("fsdp-FULL_SHARD/PURE", "zero3", 16),
        ("fsdp-SHARD_GRAD_OP/DEFAULT", "zero2", 16),
        ("zero1-in-node8", "zero1", 8),
        ("dist-optimizer(zero1)", "zero1", 16),
        ("none", "none", 1),
    ],
)
def test_what_is_sharded_over_how_many(text: str, shard: str, over: int) -> None:
    layout = job(zero_fsdp=text).layout
    assert (layout.shard, layout.sharded_over) == (shard, over)


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("float8-tensorwise", "fp8"),
        ("float8-rowwise", "fp8"),
        ("fp8-mx/blockwise", "mxfp8"),
        ("bf16-mixed", "bf16"),
        ("16-mixed", "fp16"),
        ("amp_bf16", "bf16"),
        ("float32", "fp32"),
    ],
)
def test_precisions_by_their_tools_names(text: str, precision: str) -> None:
    assert job(precision=text).precision == precision


def test_what_is_not_stated_is_what_its_software_does() -> None:
    """Megatron-Core interleaves where the layers divide; a pipeline is given passes to fill it."""
    row = parse_row({**ROW, "pp": "4", "global_batch_seqs": ""}, "tokens_per_s_per_device")
    assert row.job is not None
    assert row.job.layout.vpp == 4 and {"vpp", "global_batch"} <= row.inferred
    assert row.job.micro_batches > 4
    assert job(pp="4", vpp="1").layout.vpp == 1
    assert job(pp="4", source="Narayanan 2021", gpu="a100", precision="fp16").layout.vpp == 1


@pytest.mark.parametrize(
    ("flag", "base"), [("base_quant=int4", "int4"), ("base_quant=awq", "int4"),
                       ("base_quant=bnb-nf4", "nf4"), ("base_quant=int8", "int8")],
)  # fmt: skip
def test_a_quantised_base_is_planned_as_one(flag: str, base: str) -> None:
    lora = job(flag=f"task=lora {flag} rank=64").lora
    assert lora is not None and (lora.base, lora.rank) == (base, 64)


def test_deepspeed_as_a_stack_has_time_and_memory() -> None:
    from whorl.stages.plan.cluster.memory import rank_memory
    from whorl.stages.plan.cluster.step import step_time

    found = job(stack="deepspeed", zero_fsdp="zero3")
    assert step_time(found).step_s > 0 and rank_memory(found).peak_bytes > 0


def test_xla_on_a_gpu_multiplies_as_fast_as_the_gpu_does() -> None:
    from whorl.stages.plan.cluster.step import step_time

    products = [step_time(job(stack=stack)).parts_s["efficiency"] for stack in ("xla", "megatron")]
    assert products[0] == pytest.approx(products[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stack": "mystack"}, "mystack"),
        ({"zero_fsdp": "zero9"}, "zero9"),
        ({"activation_recompute": "sometimes"}, "sometimes"),
        ({"precision": "int3"}, "int3"),
        ({"task": "sftt-ing"}, "column task"),
        ({"optimizer": "adamx"}, "adamx"),
        ({"flag": "task=lora base_quant=int3"}, "int3"),
        ({"n_gpu": "8"}, "column n_gpu is not known"),
    ],
    ids=str,
)
def test_values_and_columns_that_are_not_known_name_the_row(
    changes: dict[str, str], said: str
) -> None:
    row = parse_row({**ROW, **changes}, "tokens_per_s_per_device")
    if "task" in changes:  # sft is in it
        assert row.job is not None
        return
    assert row.job is None and row.refused is not None
    assert row.refused.startswith("row r1: ") and said in row.refused


def test_devices_of_the_core_are_not_read_as_old() -> None:
    with pytest.raises(SpecError, match="unknown training software"):
        from whorl.stages.plan.software import software

        software("megatron-2019")
    assert device("h100").year >= 2022

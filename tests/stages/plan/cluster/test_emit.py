"""Emitted command lines, read back with the options that the softwares really have."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from typing import Any

import pytest

from whorl.arch.known_models import known_model
from whorl.arch.shape import ModelShape
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.emit import Emitted, launch_file
from whorl.stages.plan.cluster.emit_megatron import megatron_command
from whorl.stages.plan.cluster.emit_torchtitan import torchtitan_command
from whorl.stages.plan.cluster.job import Layout, TrainingJob

# megatron/training/arguments.py of NVIDIA/Megatron-LM at commit
# 000c4ac24f61159c138b0975def722c65245983c: name -> type; a tuple: its choices; None: a switch.
MEGATRON: dict[str, Any] = {
    "num-layers": int, "hidden-size": int, "ffn-hidden-size": int, "num-attention-heads": int,
    "kv-channels": int, "group-query-attention": None, "num-query-groups": int,
    "softmax-type": ("learnable", "vanilla", "off-by-one"), "window-size": str,
    "window-attn-skip-freq": str, "max-position-embeddings": int,
    "position-embedding-type": ("learned_absolute", "rope", "mrope", "relative", "none"),
    "normalization": ("LayerNorm", "RMSNorm"), "swiglu": None, "disable-bias-linear": None,
    "add-qkv-bias": None, "untie-embeddings-and-output-weights": None, "qk-layernorm": None,
    "multi-latent-attention": None, "q-lora-rank": int, "kv-lora-rank": int, "qk-head-dim": int,
    "qk-pos-emb-head-dim": int, "v-head-dim": int, "mtp-num-layers": int,
    "attention-dropout": float, "hidden-dropout": float, "seq-length": int,
    "num-experts": int, "moe-router-topk": int, "moe-ffn-hidden-size": int, "moe-layer-freq": str,
    "moe-token-dispatcher-type": ("allgather", "alltoall", "flex"), "moe-grouped-gemm": None,
    "moe-permute-fusion": None, "moe-shared-expert-intermediate-size": int,
    "moe-router-score-function": ("softmax", "sigmoid"), "moe-router-enable-expert-bias": None,
    "expert-model-parallel-size": int, "expert-tensor-parallel-size": int,
    "tensor-model-parallel-size": int, "pipeline-model-parallel-size": int,
    "pipeline-model-parallel-layout": str, "num-virtual-stages-per-pipeline-rank": int,
    "context-parallel-size": int, "sequence-parallel": None, "micro-batch-size": int,
    "global-batch-size": int, "use-distributed-optimizer": None, "overlap-grad-reduce": None,
    "overlap-param-gather": None, "num-distributed-optimizer-instances": int,
    "use-megatron-fsdp": None, "ckpt-format": str,
    "data-parallel-sharding-strategy": ("no_shard", "optim", "optim_grads", "optim_grads_params"),
    "recompute-granularity": ("full", "selective"), "recompute-method": ("uniform", "block"),
    "recompute-num-layers": int, "recompute-modules": list, "bf16": None, "fp16": None,
    "fp8-format": ("e4m3", "hybrid"), "fp8-recipe": ("tensorwise", "delayed", "mxfp8", "blockwise"),
    "fp4-format": ("e2m1",), "fp4-recipe": ("nvfp4", "custom"), "grad-reduce-in-bf16": None,
    "optimizer": ("adam", "sgd", "muon", "dist_muon"), "use-precision-aware-optimizer": None,
    "exp-avg-dtype": ("fp32", "fp16", "bf16", "fp8"),
    "exp-avg-sq-dtype": ("fp32", "fp16", "bf16", "fp8"), "optimizer-cpu-offload": None,
    "overlap-cpu-optimizer-d2h-h2d": None, "train-iters": int, "lr": float, "eval-iters": int,
    "log-interval": int, "log-throughput": None, "mock-data": None, "tokenizer-type": str,
    "vocab-size": int,
}  # fmt: skip
# torchtitan 0.3.0, torchtitan/config/configs.py: fields of TrainingConfig and ParallelismConfig.
TORCHTITAN: dict[str, Any] = {
    "training.local_batch_size": int, "training.global_batch_size": int, "training.seq_len": int,
    "training.enable_cpu_offload": None, "training.disable_cuda_graphs": None,
    "training.dtype": ("bfloat16", "float32"),
    "parallelism.data_parallel_replicate_degree": int,
    "parallelism.data_parallel_shard_degree": int,
    "parallelism.fsdp_reshard_after_forward": ("default", "always", "never"),
    "parallelism.tensor_parallel_degree": int, "parallelism.no-enable-sequence-parallel": None,
    "parallelism.pipeline_parallel_degree": int, "parallelism.pipeline_parallel_schedule": str,
    "parallelism.pipeline_parallel_layers_per_stage": int,
    "parallelism.pipeline_parallel_first_stage_less_layers": int,
    "parallelism.pipeline_parallel_last_stage_less_layers": int,
    "parallelism.pipeline_parallel_microbatch_size": int,
    "parallelism.context_parallel_degree": int, "parallelism.expert_parallel_degree": int,
    "module": str, "config": str,
}  # fmt: skip


def read_back(emitted: Emitted, known: dict[str, Any], program: str) -> tuple[int, Any]:
    """(devices torchrun starts, the program's options). Exits on an option it does not have."""
    command = emitted.text[emitted.text.index("torchrun") :].replace("\\\n", " ")
    words = shlex.split(command)
    options = [word.split("=")[1] for word in words if word.startswith(("--nnodes", "--nproc"))]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("last", nargs="?")
    for name, kind in known.items():
        dest = name.replace("-", "_").replace(".", "_")
        if kind is None:
            parser.add_argument(f"--{name}", action="store_true", dest=dest)
        elif kind is list:
            parser.add_argument(f"--{name}", nargs="*", dest=dest)
        elif isinstance(kind, tuple):
            parser.add_argument(f"--{name}", choices=kind, dest=dest)
        else:
            parser.add_argument(f"--{name}", type=kind, dest=dest)
    found = parser.parse_args(words[words.index(program) + 1 :])
    return math.prod(int(option) for option in options), found


def job_of(name: str, layout: Layout, seq_len: int, batch: int, **changes: Any) -> TrainingJob:
    fields = {"device": device("h100-sxm"), "stack": "megatron", **changes}
    return TrainingJob(known_model(name), layout=layout, seq_len=seq_len, global_batch=batch,
                       **fields)  # fmt: skip


JOBS = [
    job_of("llama-3.1-8b", Layout(8, micro_batch=2), 8192, 64),
    job_of("llama-3.1-8b", Layout(8, shard="zero3", recompute="full"), 8192, 64, stack="fsdp"),
    job_of("llama-3.1-8b", Layout(4, shard="none", tp=4), 8192, 64, optimizer="adamw_8bit"),
    job_of("llama-3.1-70b", Layout(256, tp=4, pp=4, vpp=5, cp=2, schedule="interleaved",
           recompute="selective", recompute_parts=("mlp", "layernorm")), 8192, 512),
    job_of("llama-3.1-405b", Layout(16384, tp=8, pp=16, vpp=8, schedule="interleaved"), 8192, 2048,
           precision="fp8"),
    job_of("llama-3.1-405b", Layout(16384, tp=8, pp=16, vpp=4, schedule="interleaved"), 8192, 2048,
           precision="nvfp4", device=device("gb200")),
    job_of("qwen3-30b-a3b", Layout(64, tp=2, pp=2, ep=8, shard_devices=8), 4096, 512),
    job_of("qwen3-30b-a3b", Layout(64, ep=8, shard="zero3", shard_devices=8), 4096, 512,
           stack="fsdp", optimizer="muon"),
    job_of("deepseek-v3", Layout(2048, pp=16, ep=64, recompute="selective",
           recompute_parts=("mla_up_proj", "moe_act")), 4096, 15360, precision="fp8_block"),
    job_of("gpt-oss-20b", Layout(32, tp=2, ep=4, offload_optimizer=True), 4096, 256),
    job_of("gpt2", Layout(8, shard="none"), 1024, 64, precision="fp16"),
]  # fmt: skip


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.shape.name}-{job.layout.devices}")
def test_megatron_runs_the_planned_job(job: TrainingJob) -> None:
    devices, found = read_back(megatron_command(job), MEGATRON, "pretrain_gpt.py")
    layout = job.layout
    assert devices == layout.devices
    size = (found.tensor_model_parallel_size * found.pipeline_model_parallel_size
            * found.context_parallel_size)  # fmt: skip
    dp = devices // size
    assert dp == layout.dp
    assert found.global_batch_size * found.seq_length == job.tokens_per_step
    assert found.global_batch_size % (dp * found.micro_batch_size) == 0
    assert found.global_batch_size // (dp * found.micro_batch_size) == job.micro_batches
    assert found.use_distributed_optimizer == (layout.shard != "none")
    assert (found.recompute_granularity or "none") == layout.recompute
    assert tuple(found.recompute_modules or ()) == layout.recompute_parts
    assert found.max_position_embeddings >= found.seq_length  # its own check
    assert found.vocab_size + 1 == job.shape.vocab_size  # NullTokenizer's end of document
    if job.shape.experts is not None:
        ranks = dp * found.context_parallel_size * found.tensor_model_parallel_size
        assert ranks % (found.expert_model_parallel_size * found.expert_tensor_parallel_size) == 0


@pytest.mark.parametrize("job", [job for job in JOBS if job.layout.pp > 1])
def test_megatron_pipeline_holds_every_layer_once(job: TrainingJob) -> None:
    _, found = read_back(megatron_command(job), MEGATRON, "pretrain_gpt.py")
    layers, stages = job.shape.layers, job.layout.pp * job.layout.vpp
    if found.pipeline_model_parallel_layout is None:
        assert found.num_layers % stages == 0
        assert (found.num_virtual_stages_per_pipeline_rank or 1) == job.layout.vpp
        return
    assert found.num_virtual_stages_per_pipeline_rank is None  # one of the two, its own check
    parts = found.pipeline_model_parallel_layout.split("|")
    assert len(parts) == stages
    assert "".join(parts) == "E" + "t" * layers + "L"
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def parameters_of(found: Any, vocab_size: int) -> int:
    """Parameters of Megatron's model, from its options: biases off, RMS norms, gated."""
    width, layers = found.hidden_size, found.num_layers
    if found.multi_latent_attention:
        head = found.qk_head_dim + found.qk_pos_emb_head_dim
        heads = found.num_attention_heads
        attention = width * found.q_lora_rank + found.q_lora_rank * (heads * head + 1)
        attention += width * (found.kv_lora_rank + found.qk_pos_emb_head_dim) + found.kv_lora_rank
        attention += found.kv_lora_rank * heads * (found.qk_head_dim + found.v_head_dim)
        attention += heads * found.v_head_dim * width
    else:
        groups = found.num_query_groups or found.num_attention_heads
        inner = found.num_attention_heads * found.kv_channels
        attention = width * (2 * inner + 2 * groups * found.kv_channels)
        attention += 2 * found.kv_channels if found.qk_layernorm else 0
    dense, mixed = 3 * width * found.ffn_hidden_size, 0
    dense_layers = layers
    if found.num_experts:
        first = (found.moe_layer_freq or "[0]*0+").split("*")[1].split("+")[0]
        dense_layers = int(first)
        mixed = found.num_experts * (3 * width * found.moe_ffn_hidden_size + width)
        mixed += 3 * width * (found.moe_shared_expert_intermediate_size or 0)
        mixed += found.num_experts if found.moe_router_enable_expert_bias else 0
    tables = 2 if found.untie_embeddings_and_output_weights else 1
    blocks = layers * (attention + 2 * width) + dense_layers * dense
    return int(blocks + (layers - dense_layers) * mixed + (tables * vocab_size + 1) * width)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # of the released checkpoints
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-405b", 405_853_388_800),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("deepseek-v3", 671_026_419_200),
    ],
)
def test_megatron_options_describe_the_model(name: str, parameters: int) -> None:
    job = job_of(name, Layout(8), 4096, 64)
    _, found = read_back(megatron_command(job), MEGATRON, "pretrain_gpt.py")
    assert parameters_of(found, found.vocab_size + 1) == parameters


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.shape.name}-{job.layout.devices}")
def test_torchtitan_runs_the_planned_job(job: TrainingJob) -> None:
    devices, found = read_back(torchtitan_command(job), TORCHTITAN, "torchtitan.train")
    layout = job.layout
    batch = found.parallelism_data_parallel_replicate_degree
    batch *= found.parallelism_data_parallel_shard_degree
    size = (found.parallelism_tensor_parallel_degree * found.parallelism_context_parallel_degree
            * found.parallelism_pipeline_parallel_degree)  # fmt: skip
    assert devices == layout.devices == batch * size  # ParallelDims' own check
    assert found.training_global_batch_size * found.training_seq_len == job.tokens_per_step
    passes = found.training_global_batch_size / (found.training_local_batch_size * batch)
    if layout.pp > 1:
        passes *= (
            found.training_local_batch_size / found.parallelism_pipeline_parallel_microbatch_size
        )
        assert found.training_disable_cuda_graphs
        check_torchtitan_stages(job, found)
    assert passes == job.micro_batches
    assert found.last == f"activation-checkpoint:{layout.recompute}"


def check_torchtitan_stages(job: TrainingJob, found: Any) -> None:
    """The rule of torchtitan/distributed/pipeline_parallel.py, release 0.3.0."""
    units = job.shape.layers + found.parallelism_pipeline_parallel_first_stage_less_layers
    units += found.parallelism_pipeline_parallel_last_stage_less_layers
    stages = math.ceil(units / found.parallelism_pipeline_parallel_layers_per_stage)
    assert stages == job.layout.pp * job.layout.vpp


def check_said(emitted: Emitted, words: str) -> None:
    assert any(words in warning for warning in emitted.warnings), emitted.warnings
    assert all(f"# WARNING: {warning}" in emitted.text for warning in emitted.warnings)


def test_what_cannot_be_expressed_is_said() -> None:
    zero1 = job_of("llama-3.1-8b", Layout(8), 8192, 64)
    check_said(torchtitan_command(zero1), "ZeRO-1 is not expressed")
    selective = Layout(8, recompute="selective", recompute_parts=("mlp",), shard="zero3")
    check_said(torchtitan_command(job_of("llama-3.1-8b", selective, 8192, 64)), "recomputing mlp")
    check_said(torchtitan_command(job_of("gpt2", Layout(8), 1024, 64)), "no configuration of gpt2")
    low = job_of("llama-3.1-8b", Layout(8, shard="zero3"), 8192, 64, precision="nvfp4")
    check_said(torchtitan_command(low), "does not train in nvfp4")
    eight_bit = job_of("llama-3.1-8b", Layout(8), 8192, 64, optimizer="adamw_8bit")
    check_said(torchtitan_command(eight_bit), "the optimiser adamw_8bit")
    bubble = job_of("llama-3.1-8b", Layout(8, pp=2, schedule="zero_bubble"), 8192, 64)
    check_said(megatron_command(bubble), "no zero-bubble schedule")
    odd = job_of("llama-3.1-8b", Layout(8, micro_batch=3), 8192, 64)
    for emitted in (megatron_command(odd), torchtitan_command(odd)):
        check_said(emitted, "not a multiple")
    assert "not a multiple" in launch_file(odd).warnings[0]
    norms = job_of("gemma-2-9b", Layout(8), 4096, 64)
    check_said(megatron_command(norms), "norms beside")
    assert not megatron_command(zero1).warnings


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.shape.name}-{job.layout.devices}")
def test_launch_file_holds_the_layout(job: TrainingJob) -> None:
    content = json.loads(launch_file(job).text)
    fields = dict(content["layout"])
    assert fields.pop("dp") * job.layout.tp * job.layout.pp * job.layout.cp == job.layout.devices
    fields["recompute_parts"] = tuple(fields["recompute_parts"])
    assert Layout(**fields) == job.layout
    assert content["tokens_per_step"] == job.seq_len * job.global_batch
    nodes, per_node = (int(word.split("=")[1]) for word in content["torchrun"][1:3])
    assert nodes * per_node == job.layout.devices
    assert per_node <= 8


def test_shapes_outside_the_table_are_expressed() -> None:
    shape = known_model("llama-3.1-8b")
    renamed = ModelShape(**{**vars(shape), "name": "mine", "predicted_tokens": 1})
    job = TrainingJob(renamed, device("h200"), Layout(8, shard="zero2"), 8192, 64, stack="megatron")
    _, found = read_back(megatron_command(job), MEGATRON, "pretrain_gpt.py")
    assert found.mtp_num_layers == 1
    assert found.data_parallel_sharding_strategy == "optim_grads"
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in megatron_command(job).text  # Megatron-FSDP refuses
    tensor = TrainingJob(renamed, device("h200"), Layout(8, tp=2), 8192, 64)
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in megatron_command(tensor).text  # and tp asks

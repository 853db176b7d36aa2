"""A Megatron-LM command line of a job: pretrain_gpt.py as of December 2025.

Option names from megatron/training/arguments.py at commit 000c4ac24f61159c138b0975def722c65245983c.
"""

from __future__ import annotations

from whorl.arch.shape import ModelShape
from whorl.stages.plan.cluster.emit import (
    Emitted,
    batch_warnings,
    options,
    shell_script,
    torchrun,
)
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.facts import fact
from whorl.stages.plan.software import software

__all__ = ["megatron_command"]

SOURCE = "Megatron-LM 000c4ac (December 2025)"
STRATEGIES = {"zero2": "optim_grads", "zero3": "optim_grads_params"}


def megatron_command(job: TrainingJob) -> Emitted:
    """megatron.sh: runs as it stands on mock data, to check the speed; give it your data."""
    warnings = list(batch_warnings(job))
    sharded = job.layout.shard in STRATEGIES
    words = [
        *torchrun(job.device, job.layout.devices),
        "pretrain_gpt.py",
        *_model(job.shape, job.seq_len, warnings),
        *_degrees(job, warnings),
        *_sharding(job, warnings),
        *_recompute(job, warnings),
        *_numbers(job, warnings),
        *("--train-iters", "100", "--lr", "1e-4", "--eval-iters", "0", "--log-interval", "1"),
        *("--log-throughput", "--mock-data", "--tokenizer-type", "NullTokenizer"),
        *("--vocab-size", str(job.shape.vocab_size - 1)),  # NullTokenizer adds one
    ]
    if job.task != "pretrain":
        warnings.append(f"{job.task} is not expressed: this command pre-trains")
    notes = [
        f"{job.shape.name} on {job.layout.devices} {job.device.name}; options of {SOURCE}",
        "mock data, learning rate and iterations stand for yours",
    ]
    environment = "CUDA_DEVICE_MAX_CONNECTIONS=1" if not sharded else ""
    return shell_script("megatron.sh", notes, warnings, words, environment)


def _model(shape: ModelShape, seq_len: int, warnings: list[str]) -> list[str]:
    attention = shape.attention
    words = options(
        num_layers=shape.layers,
        hidden_size=shape.width,
        ffn_hidden_size=shape.ffn_width or 4 * shape.width,
        num_attention_heads=attention.heads,
        seq_length=seq_len,
        max_position_embeddings=max(seq_len, shape.learned_positions),
        position_embedding_type="learned_absolute" if shape.learned_positions else "rope",
        normalization="RMSNorm" if shape.norm == "rms" else "LayerNorm",
        attention_dropout=0,
        hidden_dropout=0,
    )
    if attention.latent is None:
        words += options(kv_channels=attention.head_dim)
        if attention.kv_heads != attention.heads:
            words += ["--group-query-attention", *options(num_query_groups=attention.kv_heads)]
    else:
        words += [
            "--multi-latent-attention",
            *options(
                q_lora_rank=attention.latent.query_rank,
                kv_lora_rank=attention.latent.kv_rank,
                qk_head_dim=attention.head_dim - attention.latent.rope_dim,
                qk_pos_emb_head_dim=attention.latent.rope_dim,
                v_head_dim=attention.values,
            ),
        ]
    switches = {
        "--swiglu": shape.gated,
        "--disable-bias-linear": not (shape.ffn_bias or attention.output_bias),
        "--add-qkv-bias": attention.qkv_bias,
        "--untie-embeddings-and-output-weights": not shape.tied_embeddings,
        "--qk-layernorm": attention.qk_norm != "none" or attention.latent is not None,
    }
    words += [name for name, on in switches.items() if on]
    if attention.sinks:
        words += options(softmax_type="learnable")
    if attention.mixer is not None:
        warnings.append("scans are not expressed: a hybrid needs pretrain_mamba.py and its pattern")
    if attention.window_layers:
        skip = shape.layers // max(1, shape.layers - attention.window_layers)
        words += ["--window-size", f"{attention.window},0"]
        words += options(window_attn_skip_freq=skip)
    if shape.predicted_tokens:
        words += options(mtp_num_layers=shape.predicted_tokens)
    if shape.norms_per_layer != 2 or shape.embedding_norm:
        warnings.append("norms beside the two of a layer and the last one are not expressed")
    return words + _experts(shape)


def _experts(shape: ModelShape) -> list[str]:
    experts = shape.experts
    if experts is None:
        return []
    words = options(
        num_experts=experts.count,
        moe_router_topk=experts.active,
        moe_ffn_hidden_size=experts.width,
        moe_token_dispatcher_type="alltoall",
    )
    words += ["--moe-grouped-gemm", "--moe-permute-fusion"]
    if experts.shared:
        width = experts.shared * (experts.shared_width or experts.width)
        words += options(moe_shared_expert_intermediate_size=width)
    if experts.dense_layers:
        words += ["--moe-layer-freq", f"([0]*{experts.dense_layers}+[1]*{shape.expert_layers})"]
    if experts.score_correction:
        words += [*options(moe_router_score_function="sigmoid"), "--moe-router-enable-expert-bias"]
    return words


def _degrees(job: TrainingJob, warnings: list[str]) -> list[str]:
    layout, layers = job.layout, job.shape.layers
    words = options(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        context_parallel_size=layout.cp,
        micro_batch_size=layout.micro_batch,
        global_batch_size=job.global_batch,
    )
    stages = layout.pp * layout.vpp
    if layers % stages:
        words += options(pipeline_model_parallel_layout=_stages(layers, stages))
    elif layout.vpp > 1:
        words += options(num_virtual_stages_per_pipeline_rank=layout.vpp)
    if job.shape.experts is not None:
        ways = 1 if layout.ep > 1 else layout.tp
        words += options(expert_model_parallel_size=layout.ep, expert_tensor_parallel_size=ways)
    if layout.tp > 1 and layout.sequence_parallel:
        words.append("--sequence-parallel")
    if layout.schedule == "zero_bubble":
        warnings.append("Megatron-LM has no zero-bubble schedule: 1F1B will run")
    return words


def _stages(layers: int, stages: int) -> str:
    """What each stage holds: E the embedding, t a layer, L the loss; E and L weigh one layer."""
    each, more = divmod(layers + 2, stages)
    units = "E" + "t" * layers + "L"
    sizes = [each + (at < more) for at in range(stages)]
    return "|".join(units[sum(sizes[:at]) : sum(sizes[: at + 1])] for at in range(stages))


def _sharding(job: TrainingJob, warnings: list[str]) -> list[str]:
    layout = job.layout
    ranks = layout.dp * layout.cp
    if layout.shard == "none":
        return ["--overlap-grad-reduce"]
    words = ["--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"]
    copies = ranks // layout.sharded_over
    if copies > 1:
        words += options(num_distributed_optimizer_instances=copies)
    if layout.shard in STRATEGIES:
        words += ["--use-megatron-fsdp", "--ckpt-format", "fsdp_dtensor"]
        words += options(data_parallel_sharding_strategy=STRATEGIES[layout.shard])
        if layout.pp > 1 or layout.tp > 1:
            warnings.append("Megatron-FSDP beside tensor or pipeline parallelism is little tested")
    return words


def _recompute(job: TrainingJob, warnings: list[str]) -> list[str]:
    layout = job.layout
    if layout.offload_activations:
        warnings.append("offloaded activations are not expressed")
    if layout.recompute == "full":
        return options(
            recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1
        )
    if layout.recompute == "selective":
        parts = layout.recompute_parts or ("core_attn",)
        return [*options(recompute_granularity="selective"), "--recompute-modules", *parts]
    return []


def _numbers(job: TrainingJob, warnings: list[str]) -> list[str]:
    """Precision and optimiser. Where the memory was planned with bf16 gradients, so it says."""
    words = list(fact("megatron.precisions")[job.precision])
    of, mixture = software(job.stack), job.shape.experts is not None
    kept, is_core = of.states(job.precision, mixture, True), of.rates == "modern"
    if is_core and kept.master and kept.gradients == 2:
        words.append("--grad-reduce-in-bf16")
    moments = {"adamw_bf16": "bf16", "adamw_8bit": "fp8"}.get(job.optimizer)
    if job.optimizer == "adamw" and mixture and of.expert_moment_bytes == 2:
        moments = "bf16"
    offload = job.layout.offload_optimizer
    if moments or offload:
        words.append("--use-precision-aware-optimizer")
        if moments:
            words += options(exp_avg_dtype=moments, exp_avg_sq_dtype=moments)
        if job.layout.shard == "none":
            warnings.append("the precision-aware optimiser needs --use-distributed-optimizer")
    if offload:
        words += ["--optimizer-cpu-offload", "--overlap-cpu-optimizer-d2h-h2d"]
    name = {"muon": "muon", "sgd": "sgd"}.get(job.optimizer, "adam")
    if name == "muon" and job.layout.shard != "none":
        name = "dist_muon"
    return words + options(optimizer=name)

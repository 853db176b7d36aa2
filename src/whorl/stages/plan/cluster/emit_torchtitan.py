"""A torchtitan command line of a job, with the option names of release 0.3.0."""

from __future__ import annotations

from whorl.stages.plan.cluster.emit import (
    Emitted,
    batch_warnings,
    options,
    shell_script,
    torchrun,
)
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.facts import fact

__all__ = ["torchtitan_command"]

FLOAT8_CONFIGS = frozenset({"llama3_405b"})


def torchtitan_command(job: TrainingJob) -> Emitted:
    """torchtitan.sh. The model itself is a configuration of torchtitan's, named by --config."""
    warnings = list(batch_warnings(job))
    module, config = fact("torchtitan.configs").get(job.shape.name, ("$MODULE", "$CONFIG"))
    if config == "$CONFIG":
        warnings.append(f"torchtitan 0.3.0 has no configuration of {job.shape.name}: set "
                        "MODULE and CONFIG to yours")  # fmt: skip
    words = [
        *torchrun(job.device, job.layout.devices),
        *("-m", "torchtitan.train", "--module", module, "--config", config),
        *_batch(job),
        *_data_parallel(job, warnings),
        *_degrees(job, warnings),
    ]
    layout = job.layout
    if layout.pp > 1 or layout.ep > 1:
        words.append("--training.disable_cuda_graphs")  # refused with either
    if layout.offload_optimizer:
        words.append("--training.enable_cpu_offload")
        warnings.append("torchtitan offloads weights and gradients with the optimiser state")
    if job.pure_low_precision:
        words += ["--training.dtype", "bfloat16"]
    _unexpressed(job, config, warnings)
    words.append(f"activation-checkpoint:{layout.recompute}")  # must come last
    notes = [
        f"{job.shape.name} on {layout.devices} {job.device.name}; options of torchtitan 0.3.0",
    ]
    return shell_script("torchtitan.sh", notes, warnings, words)


def _batch(job: TrainingJob) -> list[str]:
    """Under a pipeline the local batch is split into micro-batches; else it is one of them."""
    layout = job.layout
    local = layout.micro_batch * (job.micro_batches if layout.pp > 1 else 1)
    return options(
        "training",
        local_batch_size=local,
        global_batch_size=job.global_batch,
        seq_len=job.seq_len,
    )


def _data_parallel(job: TrainingJob, warnings: list[str]) -> list[str]:
    layout = job.layout
    shards = 1 if layout.shard == "none" else max(1, layout.sharded_over // layout.cp)
    if layout.dp % shards:
        warnings.append(f"shards over {layout.sharded_over} ranks do not divide dp {layout.dp}")
        shards = layout.dp
    if layout.shard == "none" and layout.cp > 1:
        warnings.append(f"torchtitan shards over the {layout.cp} context-parallel ranks as well")
    if layout.shard == "zero1" and layout.dp * layout.cp > 1:
        warnings.append("ZeRO-1 is not expressed: gradients are sharded too (ZeRO-2)")
    return options(
        "parallelism",
        data_parallel_replicate_degree=layout.dp // shards,
        data_parallel_shard_degree=shards,
        fsdp_reshard_after_forward="always" if layout.shard == "zero3" else "never",
    )


def _degrees(job: TrainingJob, warnings: list[str]) -> list[str]:
    layout = job.layout
    words = options(
        "parallelism",
        tensor_parallel_degree=layout.tp,
        context_parallel_degree=layout.cp,
        pipeline_parallel_degree=layout.pp,
    )
    if layout.tp > 1 and not layout.sequence_parallel:
        words.append("--parallelism.no-enable-sequence-parallel")
    if job.shape.experts is not None:
        words += options("parallelism", expert_parallel_degree=layout.ep)
    if layout.pp == 1:
        return words
    words += options(
        "parallelism",
        pipeline_parallel_schedule=fact("torchtitan.schedules")[layout.schedule],
        pipeline_parallel_microbatch_size=layout.micro_batch,
    )
    stages = layout.pp * (2 if layout.schedule == "zero_bubble" else layout.vpp)
    for less in (1, 0):  # embedding and head counted as one layer each, or not at all
        per_stage = -(-(job.shape.layers + 2 * less) // stages)
        if -(-(job.shape.layers + 2 * less) // per_stage) == stages:
            return words + options(
                "parallelism",
                pipeline_parallel_layers_per_stage=per_stage,
                pipeline_parallel_first_stage_less_layers=less,
                pipeline_parallel_last_stage_less_layers=less,
            )
    warnings.append(f"{job.shape.layers} layers do not split into {stages} stages there")
    return words


def _unexpressed(job: TrainingJob, config: str, warnings: list[str]) -> None:
    layout = job.layout
    if layout.recompute_parts:
        warnings.append(
            f"recomputing {', '.join(layout.recompute_parts)} is not expressed: torchtitan's "
            "selective policy chooses operators itself"
        )
    if layout.offload_activations:
        warnings.append("offloaded activations are not expressed")
    if job.optimizer != "adamw":
        warnings.append(f"the optimiser {job.optimizer} is set in the configuration, not here")
    float8 = job.precision not in ("bf16", "fp32", "fp16")
    if float8 != (config in FLOAT8_CONFIGS):
        warnings.append(f"{config} does not train in {job.precision}: edit its converters")
    if job.precision in ("fp32", "fp16"):
        warnings.append(f"{job.precision} is not expressed: products run in bf16")
    if job.task != "pretrain":
        warnings.append(f"{job.task} is not expressed: this command pre-trains")

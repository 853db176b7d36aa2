"""Changes that would make a job fit, in the words they were asked in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from whorl.stages.plan.ask.layouts import layout_label
from whorl.stages.plan.cluster.remedies import Remedy, Say

__all__ = ["in_words"]

TRAINER = {
    "loss": "use_liger_kernel: true",
    "optimizer": "optim: adamw_bnb_8bit",
    "paged": "optim: paged_adamw_8bit",
    "micro_batch": "per_device_train_batch_size: 1 and {times}gradient_accumulation_steps",
    "recompute": "gradient_checkpointing: true",
    "precision": "torch_dtype: bfloat16",
    "shard": "deepspeed with zero_optimization.stage: {stage}",
    "offload": "deepspeed with offload_optimizer.device: cpu",
    "seq": "max_length: {seq}",
    "lora": "use_peft: true",
    "qlora": "use_peft: true with load_in_4bit: true",
}
# Of each tool, the words that differ from the Trainer's, which it is built on; else all of them.
WORDS: Mapping[str, Mapping[str, str]] = {
    "trainer": TRAINER,
    "axolotl": {
        **TRAINER,
        "loss": "cut_cross_entropy: true",
        "optimizer": "optimizer: adamw_bnb_8bit",
        "paged": "optimizer: paged_adamw_8bit",
        "micro_batch": "micro_batch_size: 1 and {times}gradient_accumulation_steps",
        "precision": "bf16: full",
        "seq": "sequence_len: {seq}",
        "lora": "adapter: lora",
        "qlora": "adapter: qlora with load_in_4bit: true",
    },
    "llamafactory": {
        **TRAINER,
        "loss": "enable_liger_kernel: true",
        "recompute": "disable_gradient_checkpointing: false",
        "precision": "pure_bf16: true",
        "seq": "cutoff_len: {seq}",
        "lora": "finetuning_type: lora",
        "qlora": "finetuning_type: lora with quantization_bit: 4",
    },
    "deepspeed": {
        "micro_batch": "train_micro_batch_size_per_gpu: 1 and {times}gradient_accumulation_steps",
        "shard": "zero_optimization.stage: {stage}",
        "offload": "zero_optimization.offload_optimizer.device: cpu",
    },
    "torchtitan": {
        "micro_batch": "training.local_batch_size = 1",
        "recompute": 'activation_checkpoint.mode = "full"',
        "recompute_selective": 'activation_checkpoint.mode = "selective"',
        "precision": 'training.dtype = "bfloat16"',
        "offload": "training.enable_cpu_offload = true",
        "seq": "training.seq_len = {seq}",
        "shard": "parallelism.data_parallel_shard_degree = -1",
    },
    "megatron": {
        "micro_batch": "--micro-batch-size 1",
        "recompute": "--recompute-granularity full --recompute-method uniform "
        "--recompute-num-layers 1",
        "recompute_selective": "--recompute-granularity selective "
        "--recompute-modules layernorm mlp",
        "shard": "--use-distributed-optimizer",
        "offload": "--optimizer-cpu-offload",
        "seq": "--seq-length {seq}",
    },
}


def _plain(remedy: Remedy, whole: bool) -> str:
    """A remedy as flags of `whorl plan`: the parts of --layout that change, or the whole."""
    job, layout = remedy.job, remedy.job.layout
    selected = "recompute=selective"
    if layout.recompute_parts:
        selected = f"recompute_parts={'+'.join(layout.recompute_parts)}"
    words = {
        "loss": "--loss chunked",
        "optimizer": f"--optimizer {job.optimizer}",
        "paged": f"--optimizer {job.optimizer}",
        "step_in_backward": "--step-in-backward",
        "precision": f"--precision {job.precision}-true",
        "seq": f"--seq {job.seq_len}",
        "lora": "--tune lora",
        "qlora": "--tune qlora",
    }
    parts = {
        "recompute_selective": selected,
        "micro_batch": "mbs=1",
        "shard": f"shard={layout.shard}",
        "recompute": "recompute=full",
        "offload": "offload_optimizer=1",
    }
    said = [words[name] for name in remedy.names if name in words]
    if "qlora" in remedy.names and job.task == "lora":
        said = [word for word in said if word != "--tune lora"]
    changed = [parts[name] for name in remedy.names if name in parts]
    if "recompute" in remedy.names:
        changed = [part for part in changed if part != selected]
    if changed:
        said.append("--layout " + (layout_label(layout) if whole else ",".join(changed)))
    return " ".join(dict.fromkeys(said))


def in_words(tool: str, whole: bool = False) -> Say:
    """How a remedy is said in the words of a tool; where it has none, or "": whorl's flags.

    whole: a layout is said with all its parts, as nothing of it was given.
    """
    words = WORDS.get(tool, {})

    def say(remedy: Remedy) -> str:
        layout = remedy.job.layout
        terms = {
            "seq": str(remedy.job.seq_len),
            "stage": layout.shard.removeprefix("zero"),
            "times": "as many times the ",
        }
        said = [words[name].format(**terms) for name in remedy.names if name in words]
        others = tuple(name for name in remedy.names if name not in words)
        if others:
            said.append(_plain(replace(remedy, names=others), whole))
        return ", ".join(dict.fromkeys(said))

    return say

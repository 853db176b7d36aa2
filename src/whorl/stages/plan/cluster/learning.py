"""What is learned besides the next token: who else is asked in a step, what it holds and takes.

DPO (arXiv 2305.18290) asks a reference for the same answers, distillation (2306.13649) a teacher,
GRPO (2402.03300) writes the answers that it learns from, contrastive embeddings (1908.10084) have
no head. Defaults are those of TRL 1.16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import flops_per_token, kv_bytes_per_token
from whorl.stages.plan.serving.times import ENGINES, columns, constants, pass_seconds
from whorl.stages.plan.serving.work import QUANTISATIONS, Deployment, decode_work, prefill_work

if TYPE_CHECKING:
    from whorl.stages.plan.cluster.job import TrainingJob

__all__ = [
    "NEXT_TOKENS",
    "OTHER_LOGIT_BYTES",
    "Learning",
    "Rollout",
    "not_planned",
    "other_passes",
    "rollout",
]

LearningKind = Literal["tokens", "dpo", "grpo", "distil", "embedding"]
Other = Literal["none", "adapters", "model", "stored"]
# Bytes of each logit that the other model's answer adds while the loss is made, whole logits: of
# a reference the product and its fp32 copy, gone before the backward pass; of a teacher its
# probabilities too. GRPO asks its reference before the pass that is trained.
OTHER_LOGIT_BYTES = {"dpo": 2.0 + 4.0, "distil": 2.0 + 4.0 + 4.0}
SHORTEST = 0.5  # completions are as long as they may be, or on average half of it


@dataclass(frozen=True)
class Learning:
    kind: LearningKind = "tokens"
    other: Other = "none"  # whose probabilities are read: a model's beside it, or its own base's
    teacher: ModelShape | None = None  # of distillation
    generations: int = 8  # completions of one prompt
    completion_tokens: int = 0  # of a sequence that is written: the rest is its prompt
    engine: Literal["colocated", "server", "torch"] = "torch"  # what writes them, and where
    engine_share: float = 0.3  # of a device's memory that an engine beside the training takes

    def head_share(self, seq_len: int) -> float:
        """Tokens that meet the head, of all."""
        if self.kind == "embedding":
            return 0.0
        return self.completion_tokens / seq_len if self.kind == "grpo" else 1.0


NEXT_TOKENS = Learning()


@dataclass(frozen=True)
class Rollout:
    """What writing the completions of a step takes on each device."""

    seconds: float
    low_s: float
    high_s: float
    bytes: float  # of an engine beside the training, or of the cache of torch's own


def other_passes(job: TrainingJob) -> float:
    """Forward passes of another model for each of the trained one, in its own."""
    learning, shape = job.learning, job.shape
    if learning.other in ("none", "stored"):
        return 0.0
    if learning.teacher is None:
        return 1.0
    taught, own = (flops_per_token(of, job.seq_len).forward for of in (learning.teacher, shape))
    return taught / own


def rollout(job: TrainingJob, launch_s: float) -> Rollout | None:
    """None where nothing is written. launch_s: of one layer, operation by operation.

    Each device writes its share of the batch: the prompt once for all its completions, then one
    token of each at a time, as many at once as the engine's cache holds.
    """
    learning = job.learning
    if learning.kind != "grpo":
        return None
    deployment = Deployment(job.shape, job.device, 1, QUANTISATIONS["bf16"])
    written, prompt = learning.completion_tokens, job.seq_len - learning.completion_tokens
    share = max(1.0, job.global_batch / job.layout.devices)
    each = kv_bytes_per_token(job.shape, 2.0, job.seq_len) * job.seq_len
    least = deployment.weight_bytes + each
    whole = deployment.weight_bytes * (job.layout.shard == "zero3" and job.layout.sharded_over > 1)
    held = {"torch": share * each + whole, "server": 0.0}.get(  # TRL gathers all weights to write
        learning.engine, max(least, learning.engine_share * job.device.memory_bytes)
    )
    running = share
    if learning.engine == "colocated":
        running = min(share, max(1.0, (held - deployment.weight_bytes) // each))
    work = columns([
        decode_work(deployment, running, max(1, prompt + written // 2)),
        prefill_work(deployment, share / learning.generations, max(1, prompt)),
    ])  # fmt: skip
    fitted = constants()
    values, (low, high) = fitted["values"], fitted["error"]["token_s"]
    vllm = np.full(2, ENGINES.index("vllm"))
    token = float(pass_seconds(work, vllm, values, prefill=False)[0])
    asked = float(pass_seconds(work, vllm, values, prefill=True)[1])
    if learning.engine == "torch":
        token = max(token, job.shape.layers * launch_s)
    seconds = asked + share / running * written * token
    return Rollout(seconds, SHORTEST * low * seconds, high * seconds, held)


def not_planned(learning: Learning) -> list[str]:
    """What of an objective is no part of a step."""
    told = []
    if learning.other == "stored":
        whose = "teacher's" if learning.kind == "distil" else "reference's"
        told.append(f"the {whose} pass over the data, before the training, is not in a step's time")
    if learning.kind == "grpo":
        told.append("rewards are taken to be rules: no time or memory of a reward model is planned")
    if learning.engine == "server" and learning.kind == "grpo":
        told.append("the engine's own devices are not in --count, nor in the price")
    return told

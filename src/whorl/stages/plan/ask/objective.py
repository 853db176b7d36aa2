"""`--objective dpo,reference=stored`: what is learned, and from whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, cast

from whorl.arch.hf_config import model_shape
from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.core.units import parse_count, parse_number
from whorl.stages.plan.ask.layouts import parse_pairs
from whorl.stages.plan.cluster.learning import Learning, Other

__all__ = ["KINDS", "Learned", "objective", "trained_shape"]

KINDS = {  # what each may say
    "dpo": ("reference", "sequences"),
    "grpo": ("reference", "generations", "completion", "rollout", "share"),
    "distil": ("teacher",),
    "embedding": ("negatives",),
}
OTHERS = ("model", "adapters", "stored", "none")
ENGINES = ("torch", "colocated", "server")
FLAG = "--objective"


class Learned(NamedTuple):
    learning: Learning
    per_example: int  # sequences that pass together


def objective(text: str, seq_len: int, is_adapter: bool) -> Learned:
    """Raises SpecError for what is not known, or does not go with the kind.

    A reference is the model without its adapters where there are some, else a model beside.
    """
    kind, _, rest = text.partition(",")
    if kind not in KINDS:
        more = "pretraining and fine-tuning on next tokens need no --objective"
        raise SpecError(FLAG, found=kind, expected=", ".join(KINDS), do=more)
    said = parse_pairs(rest, FLAG, KINDS[kind]) if rest else {}

    def number(key: str, usual: int) -> int:
        return parse_count(said.get(key, usual), f"{FLAG}: {key}")

    usual = {"dpo": "adapters" if is_adapter else "model"}.get(kind, "none")
    other = _one_of("reference", said.get("reference", usual), OTHERS)
    if other == "adapters" and not is_adapter:
        raise SpecError(f"{FLAG}: reference=adapters", do="add --tune lora, or reference=model")
    if other == "model" and kind == "grpo" and is_adapter:
        other = "adapters"
    learning = Learning(kind=cast(Any, kind), other=cast(Other, other))
    if kind == "dpo":
        return Learned(learning, number("sequences", 2))
    if kind == "embedding":
        return Learned(learning, 2 + (number("negatives", 1) if "negatives" in said else 0))
    if kind == "distil":
        teacher = said.get("teacher", "stored")
        if teacher == "stored":
            return Learned(replace(learning, other="stored"), 1)
        return Learned(replace(learning, other="model", teacher=model_shape(teacher)), 1)
    completion = number("completion", min(512, max(1, seq_len // 2)))
    if completion > seq_len:
        raise SpecError(f"{FLAG}: completion={completion}", expected=f"at most --seq {seq_len}")
    learning = replace(
        learning,
        generations=number("generations", 8),
        completion_tokens=completion,
        engine=cast(Any, _one_of("rollout", said.get("rollout", "torch"), ENGINES)),
        engine_share=parse_number(said.get("share", "0.3"), f"{FLAG}: share", 0.01),
    )
    return Learned(learning, 1)


def _one_of(key: str, found: str, known: tuple[str, ...]) -> str:
    if found not in known:
        raise SpecError(f"{FLAG}: {key}", found=found, expected=", ".join(known))
    return found


def trained_shape(shape: ModelShape, text: str) -> ModelShape:
    """A model of embeddings has no head: of two tables one is left."""
    if text.partition(",")[0] != "embedding":
        return shape
    return replace(shape, tied_embeddings=True, head_bias=False)

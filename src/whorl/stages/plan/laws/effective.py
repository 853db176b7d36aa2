"""What repeated tokens, surplus parameters and low precision are worth to a scaling law.

Repetition: Muennighoff et al. 2023 (2305.16264, equations 5 and 6; constants of appendix A). Of U
unique tokens, R = D / U - 1 repetitions are worth U R* (1 - exp(-R / R*)) fresh ones; parameters
beyond those that U tokens can feed decay the same way.

Precision: Kumar et al. 2024 (2411.04330): weights, activations and KV cache held in P bits while
training make N worth N times the product of (1 - exp(-P / p)). Its three constants are quoted from
memory and were not re-read; a test holds them against what FP8 training costs by DeepSeek-AI 2024
(2412.19437, section 3.3): below 0.25% of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from whorl.core.errors import PlanError
from whorl.stages.plan.laws.law import Adjusted, Law, crossing, positive

__all__ = ["effective_params", "effective_tokens", "with_precision", "with_repetition"]

REPEATED_TOKENS, REPEATED_PARAMS = 15.387756, 5.309743
PRECISION_BITS = {"weights": 2.6745, "activations": 2.2102, "kv_cache": 0.9578}


def effective_tokens(tokens: float, unique_tokens: float) -> float:
    """Fresh tokens that `tokens` drawn from `unique_tokens` are worth."""
    return _decayed(tokens, unique_tokens, REPEATED_TOKENS)


def _decayed(amount: float, unique: float, half_life: float) -> float:
    surplus = max(0.0, amount / unique - 1)
    return min(amount, unique) + unique * half_life * -math.expm1(-surplus / half_life)


def with_repetition(law: Law, unique_tokens: float) -> Law:
    """The law of a corpus that holds only so many tokens. Raises PlanError.

    Parameters count in full up to the size whose optimal tokens are the unique ones.
    """
    unique = positive("unique tokens", unique_tokens)
    fed = law.optimal(crossing(lambda flops: law.optimal(flops)[1] < unique, 1e3, 1e40))[0]

    def effective(params: float, tokens: float) -> tuple[float, float]:
        return _decayed(params, fed, REPEATED_PARAMS), effective_tokens(tokens, unique)

    return Adjusted(law, effective, f"{unique:.3g} unique tokens")


def effective_params(params: float, bits: Mapping[str, float]) -> float:
    """Parameters that low-precision ones are worth. bits: of weights, activations, kv_cache.

    What is not named is held in 16 bits or more and counts in full. Raises PlanError.
    """
    for part, width in bits.items():
        if part not in PRECISION_BITS:
            raise PlanError(f"no precision law for {part}", expected=", ".join(PRECISION_BITS))
        if positive(f"bits of {part}", width) < 16:
            params *= -math.expm1(-width / PRECISION_BITS[part])
    return params


def with_precision(law: Law, bits: Mapping[str, float]) -> Law:
    """The law of training in so many bits. Raises PlanError."""
    effective_params(1.0, bits)
    shown = ", ".join(f"{width:g}-bit {part}" for part, width in bits.items())
    return Adjusted(law, lambda params, tokens: (effective_params(params, bits), tokens), shown)

"""What repeated tokens and surplus parameters are worth to a scaling law.

Source: Muennighoff et al. 2023 (2305.16264, equations 5 and 6; constants of appendix A). Of U
unique tokens, R = D / U - 1 repetitions are worth U R* (1 - exp(-R / R*)) fresh ones; parameters
beyond those that U tokens can feed decay the same way.
"""

from __future__ import annotations

import math

from whorl.stages.plan.laws.law import Adjusted, Law, crossing, positive

__all__ = ["effective_tokens", "with_repetition"]

REPEATED_TOKENS, REPEATED_PARAMS = 15.387756, 5.309743


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

"""What is measured of a machine, by name; and what a calibration says where something is missing.

Each figure is a rate: so much of something (FLOP, pairs, bytes, elements) over the seconds of its
best try. A kind of which nothing was measured has the rates of a usual core, times the speed that
this machine has in what was measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from whorl.launch.turns import Tries
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.hardware import (
    AttentionRate,
    Calibration,
    MatmulRate,
    Precision,
    ReferenceStep,
    TrafficRate,
)
from whorl.stages.plan.step_time import USUAL_LEVEL, Level, predicted_step_s, reference_load

__all__ = [
    "ATTENTION_HEADS",
    "ATTENTION_TOKENS",
    "LOGITS",
    "OPERATIONS",
    "REFERENCE_STEPS",
    "Rate",
    "found_rates",
    "rates_of",
    "reference_name",
    "reference_step",
    "step_config",
    "usual_steps",
]

BACKWARD_AND_FORWARD = 3
# (tokens, columns, rows): a narrow and a wide model's products, few and many tokens
MATMUL_SHAPES = (
    (1024, 128, 384),
    (1024, 256, 768),
    (1024, 64, 64),
    (1024, 128, 128),
    (1024, 384, 128),
    (1024, 256, 256),
    (1024, 256, 2048),
    (1024, 512, 1536),
    (4096, 128, 384),
    (4096, 256, 256),
)
ORTHOGONALISE_SHAPES = ((4, 128, 384), (4, 64, 192), (4, 128, 128), (4, 256, 768), (1, 512, 1536))
ATTENTION_SHAPES = ((256, 64), (128, 64), (256, 32), (512, 64))  # (seq_len, head_dim)
ATTENTION_TOKENS, ATTENTION_HEADS = 1024, 2
TRAFFIC_BYTES = (2**20, 4 * 2**20, 2**16, 2**18, 12 * 2**20)
LOGITS = (1024, 2048)
OPERATIONS = 20  # of a chain, each with its gradient

# Whole steps that set the level, rows of each lane:
# (layers, width, head_dim, ffn, vocabulary, seq_len, rows, masked)
REFERENCE_STEPS = (
    (2, 128, 64, 384, 2048, 256, 4, False),
    (2, 64, 32, 192, 1024, 128, 8, False),
    (2, 128, 64, 384, 2048, 256, 4, True),
    (3, 192, 64, 512, 2048, 256, 4, False),
    (2, 256, 64, 768, 2048, 256, 4, False),
)
# Of one core, by kind; `whorl doctor --calibrate` on an AMD EPYC (Zen 4: avx2, avx512f,
# avx512_bf16), 30 November 2026. bf16 as fp32, for where nothing of it is known.
USUAL = {
    "matmul": 84e9,
    "orthogonalise": 84e9,
    "attention": 0.08e9,
    "traffic": 17e9,
    "exponentials": 0.6e9,
    "operations": 0.19e6,
}


@dataclass(frozen=True)
class Rate:
    """One figure. amount: what one time does of it; told: the calibration's item at a rate."""

    kind: str  # figures of one kind stand in for each other
    shape: tuple[int, ...]
    amount: float
    told: Callable[[float], Any]
    precision: Precision = "fp32"
    masked: bool = False

    @property
    def name(self) -> str:
        mask = ", masked" if self.masked else ""
        return f"{self.kind} {self.precision} {' x '.join(map(str, self.shape))}{mask}"

    @property
    def group(self) -> tuple[Any, ...]:
        """Of which at least one figure is needed."""
        return self.kind, self.precision, self.masked


def rates_of(bf16: bool, muon_dtype: Precision) -> list[Rate]:
    """What is measured by rates, the most important of each group before the others."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if bf16 else ("fp32",)
    every = [rate for precision in precisions for rate in _of_precision(precision)]
    every += [_orthogonalise(muon_dtype, shape) for shape in ORTHOGONALISE_SHAPES]
    every += [_traffic(num_bytes) for num_bytes in TRAFFIC_BYTES]
    every.append(Rate("exponentials", LOGITS, math.prod(LOGITS), float))
    every.append(Rate("operations", (OPERATIONS,), 2.0 * OPERATIONS, lambda rate: 1 / rate))
    firsts = {rate.group: rate for rate in reversed(every)}
    return sorted(every, key=lambda rate: firsts[rate.group] is not rate)


def _of_precision(precision: Precision) -> list[Rate]:
    every = precision == "fp32"
    matmuls = MATMUL_SHAPES if every else MATMUL_SHAPES[::3]
    attentions = ATTENTION_SHAPES if every else ATTENTION_SHAPES[-1:]
    return [
        *(_matmul(precision, shape) for shape in matmuls),
        *(_attention(precision, shape, masked) for shape in attentions for masked in (False, True)),
    ]


def _matmul(precision: Precision, shape: tuple[int, int, int]) -> Rate:
    tokens, columns, rows = shape

    def told(rate: float) -> MatmulRate:
        return MatmulRate(
            precision=precision, tokens=tokens, columns=columns, rows=rows, flops_per_s=rate
        )

    amount = BACKWARD_AND_FORWARD * 2.0 * tokens * columns * rows
    return Rate("matmul", shape, amount, told, precision)


def _orthogonalise(precision: Precision, shape: tuple[int, int, int]) -> Rate:
    count, small, large = shape

    def told(rate: float) -> MatmulRate:
        return MatmulRate(
            precision=precision, tokens=count, columns=large, rows=small, flops_per_s=rate
        )

    amount = count * 5 * (4.0 * small * small * large + 2.0 * small**3)
    return Rate("orthogonalise", shape, amount, told, precision)


def _attention(precision: Precision, shape: tuple[int, int], masked: bool) -> Rate:
    seq_len, head_dim = shape

    def told(rate: float) -> AttentionRate:
        return AttentionRate(
            precision=precision,
            seq_len=seq_len,
            head_dim=head_dim,
            masked=masked,
            pairs_per_s=rate,
        )

    pairs = ATTENTION_TOKENS // seq_len * ATTENTION_HEADS * seq_len**2
    return Rate("attention", shape, pairs, told, precision, masked)


def _traffic(num_bytes: int) -> Rate:
    def told(rate: float) -> TrafficRate:
        return TrafficRate(num_bytes=num_bytes, bytes_per_s=rate)

    return Rate("traffic", (num_bytes,), num_bytes, told)


def found_rates(rates: list[Rate], tries: Mapping[str, Tries], threads: int) -> dict[str, Any]:
    """Fields of a Calibration, of what was measured; a group without any as a usual core would.

    threads: of one lane, whose rates these are.
    """
    known = {
        rate.name: rate.amount / seconds
        for rate in rates
        if rate.name in tries
        and (seconds := tries[rate.name].seconds(not tries[rate.name].was_left_alone)) > 0
    }
    usual = {rate.name: threads * USUAL[rate.kind] for rate in rates}
    speeds = [known[name] / usual[name] for name in known]
    speed = statistics.median(speeds) if speeds else 1.0
    groups = {rate.group for rate in rates if rate.name in known}
    told: dict[str, list[Any]] = {}
    for rate in rates:
        if rate.name in known:
            told.setdefault(rate.kind, []).append(rate.told(known[rate.name]))
        elif rate.group not in groups:
            told.setdefault(rate.kind, []).append(rate.told(speed * usual[rate.name]))
    return {
        "matmuls": tuple(told["matmul"]),
        "orthogonalise": tuple(told["orthogonalise"]),
        "attentions": tuple(told["attention"]),
        "traffic": tuple(told["traffic"]),
        "exponentials_per_s": told["exponentials"][0],
        "operation_s": told["operations"][0],
    }


# ------------------------------------------------------------------ whole steps


def reference_name(values: tuple[Any, ...]) -> str:
    layers, width, *_, seq_len, rows, masked = values
    return f"step of {layers} x {width}, {rows} x {seq_len}{', masked' if masked else ''}"


def step_config(rows: int, seq_len: int, settings: Mapping[str, Any]) -> TrainConfig:
    """A step in which each lane computes one micro-batch of `rows`."""
    return TrainConfig(
        seq_len=seq_len,
        batch_tokens=rows * seq_len * settings.get("lanes", 1),
        micro_batch_rows=rows,
        steps=1000,
        learning_rate=0.01,
        embedding_learning_rate=0.01,
        **settings,
    )


def reference_step(
    values: tuple[Any, ...], settings: Mapping[str, Any], step_s: float = 0.0
) -> ReferenceStep:
    """A step of that shape; step_s: 0 where it is yet to be timed."""
    layers, width, head_dim, ffn_width, vocab_size, seq_len, rows, masked = values
    return ReferenceStep(
        layers=layers,
        width=width,
        head_dim=head_dim,
        ffn_width=ffn_width,
        vocab_size=vocab_size,
        seq_len=seq_len,
        rows=rows,
        precision=settings.get("precision", "fp32"),
        attention_dtype=settings.get("attention_dtype", "fp32"),
        lanes=settings.get("lanes", 1),
        compiled=settings.get("compiled", False),
        masked=masked,
        step_s=step_s,
    )


def usual_steps(calibration: Calibration, settings: Mapping[str, Any]) -> tuple[ReferenceStep, ...]:
    """The steps as a usual machine of these rates would take them, where none was timed."""
    level = Level(*USUAL_LEVEL)
    steps = (reference_step(values, settings) for values in REFERENCE_STEPS)
    return tuple(
        step.model_copy(
            update={"step_s": predicted_step_s(reference_load(step), calibration, level)}
        )
        for step in steps
    )

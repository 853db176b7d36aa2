"""Time of one training step from the operators it is made of.

Operators' shapes come from the shape, their rates from the machine's calibration,
interpolated between the measured shapes. Three factors (memory traffic, cost per operation, masked
attention) are fitted to the few whole steps that the calibration timed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from whorl.arch.adapter_cost import AdapterCost
from whorl.arch.computable import block_tokens
from whorl.arch.dense import dense_shape
from whorl.arch.layers import layer_matrices
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import (
    BACKWARD_PER_FORWARD,
    TrainingBytes,
    count_shape,
    flops_per_token,
    training_bytes,
)
from whorl.core.errors import PlanError
from whorl.stages.plan.hardware import (
    AttentionRate,
    Calibration,
    MatmulRate,
    Precision,
    ReferenceStep,
    TrafficRate,
)
from whorl.stages.plan.laws.law import NORMAL_90

__all__ = [
    "DATA_S",
    "MEAN_OVER_FASTEST",
    "USUAL_LEVEL",
    "Level",
    "Load",
    "StepParts",
    "fit_level",
    "predicted_step_s",
    "reference_load",
    "step_time",
    "time_factor",
]

DATA_S = 0.002  # reading the rows of one step and making its masks
MEAN_OVER_FASTEST = 1.04  # a mean step against the fastest, on a machine that does nothing else
# Log deviations of step times, benchmarks/plan_accuracy.py: of the model on shapes that the
# calibration did not time, and of one run from another on a quiet machine.
MODEL_DEVIATION, RUN_DEVIATION = 0.05, 0.02
REHEARSED_DEVIATION = 0.05  # of a run from its own rehearsed step
MAX_NOISE = 0.3
BUSY_NOISE = 0.2  # caches and memory were shared, whatever the clock
USUAL_DEVIATION = 0.5  # of figures that are those of usual machines
BACKWARD_AND_FORWARD = 3
ELEMENT_BYTES = 4  # of float32; norms, rotations and the loss stay in float32
ARRAYS_PER_PASS = 3  # an element-wise operation reads two arrays and writes one

# Element passes (one array read or written once) of one token, forward and backward, counted in
# model/transformer.py and model/fused.py of 22 November 2026: multiples of the width of the array
# they run over. What changed since is in the factors fitted to whole steps.
NORM_PASSES = 19
RESIDUAL_PASSES = 6 + 4.5  # two arrays added, and gradients of the projections summed
ROTARY_PASSES = 10
GATE_PASSES = 16  # silu, product, and their gradients
OPERATIONS_PER_BLOCK, OPERATIONS_PER_BATCH = 250, 150
ORTHOGONAL_STEPS = 5  # Newton-Schulz iterations of Muon
ADAMW_PASSES, MUON_PASSES = 7, 12  # of the parameters, besides the products
# Factors of memory traffic, operations and masked attention on the first machine measured, and how
# strongly another's are drawn to them: as by a step of which they explain this share.
USUAL_LEVEL, LEVEL_PULL, LEAST_FACTOR = (2.0, 2.5, 1.0), 0.04, 0.25
RECALIBRATE = "delete <home>/machine and plan again: the machine is then measured anew"
EXPONENTIALS_PER_LOGIT = 1.2  # log-softmax and its exponential, gathering and scattering


@dataclass(frozen=True)
class Load:
    """What a step has to do."""

    shape: ModelShape
    seq_len: int
    rows: int  # of one micro-batch
    micro_batches: int = 1  # of a step, all lanes
    lanes: int = 1  # micro-batches computed side by side, each on threads of its own
    precision: Precision = "fp32"
    attention_dtype: Precision = "fp32"  # where precision is bf16
    optimizer: str = "muon"
    matrix_moments: int | None = None  # of its state; None: as its name says
    compiled: bool = False  # blocks around attention
    mixed_share: float = 0.0  # share of rows that hold several documents: masked attention
    longest_document: int | None = None  # tokens; short ones are attended in blocks
    trained_share: float = 1.0  # of tokens: the head computes logits for no others
    adapters: AdapterCost | None = None  # all that trains, beside frozen weights
    beside_bytes: int = 0  # of a model that only reads beside it: dpo's reference, a teacher

    @property
    def state(self) -> TrainingBytes:
        """Weights, gradients and what the optimiser keeps."""
        if (a := self.adapters) is not None:
            each = ELEMENT_BYTES * a.parameters
            return TrainingBytes(a.frozen_bytes + each, each, 2 * each)
        return training_bytes(self.shape, self.optimizer, matrix_moments=self.matrix_moments)

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.rows * self.seq_len

    @property
    def masked_keys(self) -> int:
        """Keys that a token of a row of several documents is scored with."""
        block = block_tokens(self.seq_len, self.longest_document or self.seq_len)
        return self.seq_len if block == self.seq_len else 2 * block

    @property
    def trained_tokens(self) -> int:
        return math.ceil(self.trained_share * self.tokens)

    @property
    def micro_batches_each(self) -> int:
        """Micro-batches that the busiest lane computes one after the other."""
        return -(-self.micro_batches // self.lanes)


@dataclass(frozen=True)
class StepParts:
    """Seconds of one step by kind of work."""

    matmul_s: float = 0.0
    attention_s: float = 0.0  # rows of one document
    masked_s: float = 0.0  # attention in rows of several documents
    traffic_s: float = 0.0
    loss_s: float = 0.0
    optimizer_s: float = 0.0
    overhead_s: float = 0.0

    @property
    def total_s(self) -> float:
        return float(sum(getattr(self, item.name) for item in fields(self)))

    def at(self, level: Level, compiled: bool = False) -> StepParts:
        """As long as they take in whole steps."""
        left = level.compiled if compiled else 1.0
        return replace(
            self,
            masked_s=level.masked * self.masked_s,
            traffic_s=left * level.traffic * self.traffic_s,
            overhead_s=left * level.overhead * self.overhead_s,
        )


def step_time(load: Load, calibration: Calibration) -> StepParts:
    """Seconds by kind of work, before the level is applied."""
    a, c = load.shape, calibration
    rates = [rate for rate in c.matmuls if rate.precision == load.precision]
    if not rates:
        raise PlanError(
            f"train.precision {load.precision} is not for this machine",
            found="a processor without instructions for it: its products were not measured",
            expected=" or ".join(sorted({rate.precision for rate in c.matmuls})),
            do="leave train.precision out, or set it to fp32",
        )
    products = [(load.tokens, m.columns, m.rows, a.layers) for m in layer_matrices(a, "dense")]
    each, share, of_blocks = load.micro_batches_each, 1.0, 1.0
    if load.adapters is not None:  # frozen matrices have no gradients, lower blocks no backward
        share = load.adapters.training_flops / flops_per_token(a, load.seq_len).training
        of_blocks = (1 + BACKWARD_PER_FORWARD * load.adapters.layer_share) / BACKWARD_AND_FORWARD
    return StepParts(
        matmul_s=share * each * _matmul_s(products, rates),
        attention_s=of_blocks * each * _attention_s(load, c.attentions, masked=False),
        masked_s=of_blocks * each * _attention_s(load, c.attentions, masked=True),
        traffic_s=of_blocks * each * _traffic_s(load, c.traffic),
        loss_s=share * each * _loss_s(load, c, rates),
        optimizer_s=_optimizer_s(load, c) / load.lanes,
        overhead_s=each * (a.layers * OPERATIONS_PER_BLOCK + OPERATIONS_PER_BATCH) * c.operation_s,
    )


@dataclass(frozen=True)
class Level:
    """What whole steps say of the sum of operators: factors, and what remains unexplained."""

    traffic: float = 1.0  # arrays in a real step are rarely where the last operation left them
    overhead: float = 1.0
    masked: float = 1.0  # attention of rows with several documents
    compiled: float = 1.0  # traffic and overhead that compiled blocks leave, of the whole step's
    spread: float = 0.0  # log deviation of the timed steps from the fit


def fit_level(calibration: Calibration) -> Level:
    """Factors that fit the steps the calibration timed best, relatively.

    Raises PlanError if the calibration has no steps.
    """
    if not calibration.steps:
        raise PlanError("the calibration timed no steps", do=RECALIBRATE)
    parts = [step_time(reference_load(step), calibration) for step in calibration.steps]
    seconds = np.array([step.step_s for step in calibration.steps])
    adjustable = np.array([[p.traffic_s, p.overhead_s, p.masked_s] for p in parts])
    fixed = np.array([p.total_s for p in parts]) - adjustable.sum(axis=1)
    pull = LEVEL_PULL * np.eye(3)  # decides what the steps do not
    matrix = np.vstack([adjustable / seconds[:, None], pull])
    wanted = np.concatenate([1.0 - fixed / seconds, pull @ np.array(USUAL_LEVEL)])
    factors = _fitted(matrix, wanted, LEAST_FACTOR)
    errors = np.log((fixed + adjustable @ factors) / seconds)
    spread = math.sqrt(float((errors**2).sum()) / max(1, len(seconds) - 2))
    traffic, overhead, masked = (float(factor) for factor in factors)
    level = Level(traffic, overhead, masked, spread=spread)
    return replace(level, compiled=_compiled_share(calibration, level))


def _fitted(
    matrix: NDArray[np.float64], wanted: NDArray[np.float64], least: float
) -> NDArray[np.float64]:
    """x [columns] of the least squares of matrix x - wanted, of those that are `least` or more.

    What would be less is held there and the others are fitted again: an active set, from above.
    """
    factors = np.full(matrix.shape[1], least)
    free = np.ones(len(factors), np.bool_)
    while free.any():
        held = matrix[:, ~free] @ factors[~free]
        found = np.linalg.lstsq(matrix[:, free], wanted - held, rcond=None)[0]
        if (found >= least).all():
            factors[free] = found
            break
        free[np.flatnonzero(free)[found < least]] = False
    return factors


def _compiled_share(calibration: Calibration, level: Level) -> float:
    """What is left of traffic and overhead, from a step timed both ways; 1 if none was."""
    if not calibration.compiled_steps:
        return 1.0
    plain, compiled = calibration.compiled_steps
    p = step_time(reference_load(plain), calibration)
    there_s = level.traffic * p.traffic_s + level.overhead * p.overhead_s
    saved = 1 - compiled.step_s / plain.step_s
    return max(
        0.0, 1 - saved * predicted_step_s(reference_load(plain), calibration, level) / there_s
    )


def predicted_step_s(load: Load, calibration: Calibration, level: Level) -> float:
    """Seconds of one step: operators at the machine's level."""
    return step_time(load, calibration).at(level, load.compiled).total_s


def time_factor(calibration: Calibration, level: Level, rehearsed: bool = False) -> float:
    """High end over middle of a step's 90% interval: model, this calibration, its noise, runs.

    Of a rehearsed step the model's errors are gone.
    """
    noise = min(MAX_NOISE, calibration.noise + BUSY_NOISE * calibration.was_busy)
    parts = [REHEARSED_DEVIATION, RUN_DEVIATION, noise / 2]
    if not rehearsed:
        usual = USUAL_DEVIATION * calibration.missing_share
        parts = [MODEL_DEVIATION, RUN_DEVIATION, level.spread, noise / 2, usual]
    return math.exp(NORMAL_90 * math.hypot(*parts))


def reference_load(step: ReferenceStep) -> Load:
    """The load of a step that the calibration timed."""
    heads = max(1, step.width // step.head_dim)
    shape = dense_shape(
        layers=step.layers,
        width=step.width,
        heads=heads,
        kv_heads=heads,
        head_dim=step.head_dim,
        ffn_width=step.ffn_width,
        vocab_size=step.vocab_size,
        max_seq_len=step.seq_len,
    )
    mixed_share = 1.0 if step.masked else 0.0
    return Load(
        shape,
        step.seq_len,
        step.rows,
        micro_batches=step.lanes,
        lanes=step.lanes,
        precision=step.precision,
        attention_dtype=step.attention_dtype,
        compiled=step.compiled,
        mixed_share=mixed_share,
    )


def _matmul_s(products: Sequence[tuple[int, int, int, int]], rates: Sequence[MatmulRate]) -> float:
    """Seconds of y = x W^T and its gradients; products: (tokens, columns, rows, how many)."""
    return sum(
        count
        * BACKWARD_AND_FORWARD
        * 2.0
        * tokens
        * columns
        * rows
        / _rate(
            (tokens, columns, rows), [((r.tokens, r.columns, r.rows), r.flops_per_s) for r in rates]
        )
        for tokens, columns, rows, count in products
    )


def _attention_s(load: Load, rates: Sequence[AttentionRate], masked: bool) -> float:
    a = load.shape
    share = load.mixed_share if masked else 1 - load.mixed_share
    dtype = load.attention_dtype if load.precision == "bf16" else "fp32"
    keys = load.masked_keys if masked else load.seq_len
    pairs = share * a.layers * a.attention.heads * load.tokens * keys
    table = [
        ((rate.seq_len, rate.head_dim), rate.pairs_per_s)
        for rate in rates
        if rate.masked == masked and rate.precision == dtype
    ]
    return pairs / _rate((keys, a.attention.head_dim), table) if pairs else 0.0


def _traffic_s(load: Load, rates: Sequence[TrafficRate]) -> float:
    a = load.shape
    b = a.attention
    query_width, kv_width = b.heads * b.head_dim, b.kv_heads * b.head_dim
    per_head = ROTARY_PASSES + (NORM_PASSES if b.qk_norm == "head" else 0)
    passes = [
        (a.width, a.layers * 2 * (NORM_PASSES + RESIDUAL_PASSES) + NORM_PASSES),
        (query_width, a.layers * per_head),
        (kv_width, a.layers * per_head),
        (a.ffn_width, a.layers * GATE_PASSES),
    ]
    return sum(_pass_s(load.tokens * width, count, rates) for width, count in passes)


def _pass_s(num_elements: int, passes: float, rates: Sequence[TrafficRate]) -> float:
    """Seconds to read or write an array of num_elements `passes` times."""
    array_bytes = ELEMENT_BYTES * num_elements
    table = [((rate.num_bytes,), rate.bytes_per_s) for rate in rates]
    return passes * array_bytes / _rate((ARRAYS_PER_PASS * array_bytes,), table)


def _loss_s(load: Load, c: Calibration, rates: Sequence[MatmulRate]) -> float:
    a = load.shape
    products = [(load.trained_tokens, a.width, a.vocab_size, 1)]
    logits = load.trained_tokens * a.vocab_size
    return _matmul_s(products, rates) + EXPONENTIALS_PER_LOGIT * logits / c.exponentials_per_s


def _optimizer_s(load: Load, c: Calibration) -> float:
    a = load.shape
    if load.adapters is not None:
        return _pass_s(load.adapters.parameters, ADAMW_PASSES, c.traffic)
    parameters = count_shape(a)
    hidden = parameters.hidden_matrices if load.optimizer == "muon" else 0
    seconds = _pass_s(parameters.total - hidden, ADAMW_PASSES, c.traffic)
    if not hidden:
        return seconds
    seconds += _pass_s(hidden, MUON_PASSES, c.traffic)
    table = [((rate.columns, rate.rows), rate.flops_per_s) for rate in c.orthogonalise]
    for matrix in layer_matrices(a, "dense"):
        small, large = sorted((matrix.rows, matrix.columns))
        flops = ORTHOGONAL_STEPS * (2 * 2.0 * small * small * large + 2.0 * small**3)
        seconds += a.layers * flops / _rate((large, small), table)
    return seconds


def _rate(point: tuple[float, ...], table: Sequence[tuple[tuple[float, ...], float]]) -> float:
    """Geometric mean of measured rates, the nearest shapes (in octaves) weighing most."""
    total = weights = 0.0
    for shape, rate in table:
        distance = sum(math.log2(x / y) ** 2 for x, y in zip(point, shape, strict=True))
        weight = 1.0 / (distance + 0.01) ** 2
        total += weight * math.log(rate)
        weights += weight
    if not weights:
        raise PlanError("the calibration has no rate for this", found=point, do=RECALIBRATE)
    return math.exp(total / weights)

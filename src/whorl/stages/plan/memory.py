"""Peak memory of training: weights, gradients, optimiser state, activations, loss, the process.

Activations are counted tensor by tensor: what autograd saves in model/transformer.py, checked
against its saved-tensor hooks by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from whorl.arch.architecture import Architecture
from whorl.arch.counts import BYTES_PER_ELEMENT, block_matrices, count_training_bytes
from whorl.core.errors import PlanError
from whorl.core.units import format_bytes
from whorl.stages.plan.step_time import Load

__all__ = [
    "LOSS_CHUNK_ELEMENTS",
    "PeakMemory",
    "check_memory",
    "peak_memory",
    "saved_activation_bytes",
]

FLOAT_BYTES, ID_BYTES = 4, 8
LOSS_CHUNK_ELEMENTS, MIN_CHUNK_TOKENS = 2**21, 64  # logits that exist at once; of stages/train
ALLOCATOR_SHARE = 0.55  # of the activations; fitted to resident memory, benchmarks/plan_accuracy.py
LOGIT_COPIES = 3  # logits, log-softmax, and the gradient's mask


@dataclass(frozen=True)
class PeakMemory:
    """Bytes at the peak, the end of a forward pass; the optimiser's temporaries come later."""

    process: int  # interpreter, libraries, thread pools
    weights: int
    gradients: int
    optimizer: int
    activations: int
    allocator: int  # freed pieces that later, larger tensors do not fit into
    working: int  # logits of one chunk and the widest temporaries, or those of the optimiser

    @property
    def total(self) -> int:
        return int(sum(getattr(self, item.name) for item in fields(self)))


def saved_activation_bytes(load: Load) -> int:
    """Bytes autograd keeps from the forward pass of one micro-batch to its backward pass.

    With bfloat16 the products' inputs and the attention's are kept in 2 bytes, once per product
    that reads them, beside the float32 values the norms keep; cast weights are counted too.
    """
    a = load.architecture
    per_token = a.layers * _block_bytes_per_token(a, load.precision)
    per_token += FLOAT_BYTES * (2 * a.width + 1)  # final norm: its value, its scale, its output
    total = load.tokens * (per_token + ID_BYTES)
    if load.precision == "bf16":
        half = BYTES_PER_ELEMENT["bf16"]
        total += a.layers * half * sum(matrix.elements for matrix in block_matrices(a))
    if load.mixed_share:  # the worst batch: every row is masked
        total += FLOAT_BYTES * load.rows * load.seq_len**2
        total += FLOAT_BYTES * load.tokens * a.head_dim
    return int(total)


def _block_bytes_per_token(a: Architecture, precision: str) -> int:
    query_width, kv_width = a.heads * a.head_dim, a.kv_heads * a.head_dim
    product = BYTES_PER_ELEMENT[precision]
    normed = 2 * FLOAT_BYTES * (a.width + 1)  # both norms: value and scale
    copies = (3, 2) if precision == "bf16" else (1, 1)  # read by q, k, v and by gate, up
    inputs = product * a.width * sum(copies)
    head_norms = FLOAT_BYTES * (query_width + kv_width + a.heads + a.kv_heads)
    attention = product * (2 * query_width + 2 * kv_width) + FLOAT_BYTES * a.heads
    feed_forward = product * 3 * a.ffn_width
    with_norms = head_norms if a.family == "qwen3" else 0
    return normed + inputs + with_norms + attention + feed_forward


def peak_memory(load: Load, process_bytes: int) -> PeakMemory:
    """Bytes at the peak of training. process_bytes: a process that has loaded the framework."""
    a = load.architecture
    fixed = count_training_bytes(a, "muon" if load.optimizer == "muon" else "adamw")
    chunk = min(max(MIN_CHUNK_TOKENS, LOSS_CHUNK_ELEMENTS // a.vocab_size), load.tokens)
    loss = LOGIT_COPIES * FLOAT_BYTES * chunk * a.vocab_size
    loss += FLOAT_BYTES * load.tokens * a.width
    backward = FLOAT_BYTES * load.tokens * (4 * a.ffn_width + 4 * a.width)
    activations = saved_activation_bytes(load)
    return PeakMemory(
        process=process_bytes,
        weights=fixed.weights,
        gradients=fixed.gradients,
        optimizer=fixed.optimizer_state,
        activations=activations,
        allocator=round(ALLOCATOR_SHARE * activations),
        working=max(loss, backward, _optimizer_bytes(load) - activations),
    )


def _optimizer_bytes(load: Load) -> int:
    """Temporaries of Muon: all matrices of one shape at once, as gradients and as iterates."""
    if load.optimizer != "muon":
        return 0
    a = load.architecture
    shapes: dict[tuple[int, int], int] = {}
    for matrix in block_matrices(a):
        small, large = sorted((matrix.rows, matrix.columns))
        shapes[small, large] = shapes.get((small, large), 0) + a.layers
    per_shape = [
        count * (4 * FLOAT_BYTES * small * large + 3 * 2 * small * small)
        for (small, large), count in shapes.items()
    ]
    return max(per_shape)


def check_memory(load: Load, process_bytes: int, memory_bytes: int, margin: float) -> PeakMemory:
    """The peak, if it fits even at the high end of its interval. Raises PlanError if not.

    margin: the high end over the middle. The error names what would fit.
    """
    peak = peak_memory(load, process_bytes)
    if peak.total * margin <= memory_bytes:
        return peak
    a = load.architecture

    def fits(other: Load) -> bool:
        return peak_memory(other, process_bytes).total * margin <= memory_bytes

    raise PlanError(
        f"training {a.layers} layers of width {a.width} with {load.rows} rows of "
        f"{load.seq_len} tokens does not fit into the memory",
        found=f"{format_bytes(peak.total * margin)} needed ({_parts(peak)})",
        expected=f"at most {format_bytes(memory_bytes)}",
        do="; or ".join(_what_fits(load, fits)) or "use a machine with more memory",
    )


def _parts(peak: PeakMemory) -> str:
    named = {item.name: getattr(peak, item.name) for item in fields(peak)}
    largest = sorted(named, key=lambda name: -named[name])[:3]
    return ", ".join(f"{name} {format_bytes(named[name])}" for name in largest)


def _what_fits(load: Load, fits: Callable[[Load], bool]) -> Iterator[str]:
    """Changes of one size that make it fit, the mildest first."""
    for rows in _halvings(load.rows):
        if fits(replace(load, rows=rows)):
            yield f"train.micro_batch_rows={rows}"
            break
    for seq_len in _halvings(load.seq_len):
        if fits(replace(load, seq_len=seq_len)):
            yield f"train.seq_len={seq_len} with as many rows"
            break
    for layers in range(load.architecture.layers - 1, 0, -1):
        if fits(replace(load, architecture=_resized(load.architecture, layers=layers))):
            yield f"model.layers={layers}"
            break
    for width in _narrower(load.architecture):
        if fits(replace(load, architecture=_scaled(load.architecture, width))):
            yield f"model.width={width}"
            break


def _halvings(number: int) -> Iterator[int]:
    while number > 1:
        number //= 2
        yield number


def _narrower(a: Architecture) -> Iterator[int]:
    """Widths below this one that keep whole heads, widest first."""
    yield from range(a.width - a.head_dim, a.head_dim - 1, -a.head_dim)


def _resized(a: Architecture, **sizes: int) -> Architecture:
    return a.model_copy(update=sizes)


def _scaled(a: Architecture, width: int) -> Architecture:
    """The same proportions at another width."""
    heads = max(1, a.heads * width // a.width)
    ffn_width = max(1, a.ffn_width * width // a.width)
    kv_heads = next(n for n in range(min(a.kv_heads, heads), 0, -1) if heads % n == 0)
    return _resized(a, width=width, heads=heads, kv_heads=kv_heads, ffn_width=ffn_width)

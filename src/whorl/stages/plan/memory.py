"""Peak memory of training: weights, gradients, optimiser state, activations, loss, the process.

What lanes have of their own is counted for each: see stages/train/trainer.py. Activations are
counted tensor by tensor: what autograd saves in model/transformer.py, model/fused.py and
model/head.py, checked against its saved-tensor hooks by a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

from whorl.arch.computable import MASK_TOKENS
from whorl.arch.layers import layer_matrices
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import BYTES_PER_ELEMENT
from whorl.core.errors import PlanError
from whorl.core.units import format_bytes
from whorl.stages.plan.step_time import Load

__all__ = [
    "HELD_BYTES",
    "LOSS_CHUNK_ELEMENTS",
    "MEMORY_LOW",
    "MEMORY_MARGIN",
    "PeakMemory",
    "check_memory",
    "peak_memory",
    "saved_activation_bytes",
]

MEMORY_LOW, MEMORY_MARGIN = 0.85, 1.15  # ends of the 90% interval of a peak over its middle
# What a process of whorl holds when training begins, beyond one that has loaded torch: modules,
# the tokens' index, what earlier stages left, copies of what is saved. Peaks of 4x96 and of
# recipes/boxes.yaml lie -9% to +5% of the plan (docs/log.md, 30 November 2026).
HELD_BYTES = 80 * 2**20
FLOAT_BYTES, ID_BYTES = 4, 8
LOSS_CHUNK_ELEMENTS, MIN_CHUNK_TOKENS = 2**21, 64  # logits that exist at once; of model/head.py
# What glibc keeps beyond what is alive, as a share of activations and working memory. Fitted on
# 25 November 2026 to the resident peaks of seven shapes from 2x96 to 8x384 (one or two lanes, 5 to
# 30 steps, one arena: stages/train/process.py), with AVX-512 and kept to AVX2: at 0.2 the planned
# peaks are -5.5% to +6.1% of the actual ones, at 0.35 -1.4% to +15.5%.
ALLOCATOR_SHARE = 0.25
# What compiling leaves in the process, its own modules above all: with compiled blocks the peaks of
# four shapes from 4x96 to 6x384 lay 97 to 166 MiB above those without (25 November 2026).
COMPILER_BYTES = 145 * 2**20
# What products in bfloat16 add to the process, oneDNN's kernels and packed operands above all. With
# rows filled up to multiples of 32 (model/padding.py) peaks of 4x96 in a fresh process lie 19 MiB
# above what is counted on an AMD EPYC (Zen 4) and 31 MiB on an Intel Xeon (29 November 2026).
BF16_BYTES = 30 * 2**20
LOGIT_COPIES = 3  # logits, their log-softmax, and the chunk's before


@dataclass(frozen=True)
class PeakMemory:
    """Bytes at the peak, the end of the lanes' forward passes or, with little to save, after it."""

    process: int  # interpreter, libraries, thread pools
    weights: int
    gradients: int  # those that are there already
    optimizer: int
    activations: int  # of all lanes
    allocator: int  # freed pieces that later, larger tensors do not fit into
    working: int  # a chunk's logits or the widest temporaries, or later gradients, or Muon's

    @property
    def total(self) -> int:
        return int(sum(getattr(self, item.name) for item in fields(self)))


def saved_activation_bytes(load: Load) -> int:
    """Bytes autograd keeps from the forward pass of one micro-batch to its backward pass.

    The gradients that the head computes with its loss are among them.
    """
    a = load.shape
    product = BYTES_PER_ELEMENT[load.precision]
    per_token = FLOAT_BYTES * (a.width + 1)  # final norm: its value and scale
    per_token += product * a.width + ID_BYTES  # the head's gradient for the hidden states
    taught = 1.0 if load.adapters is None else load.adapters.layer_share  # the others keep nothing
    total = taught * a.layers * _block_bytes(load) + load.tokens * per_token
    total += _head_gradient_bytes(load)
    if load.precision == "bf16":
        total += load.tokens * product * a.width  # the final norm's value once more
    total += 2 * _angle_bytes(load, FLOAT_BYTES)  # of both halves of a head
    total += _mask_bytes(load)
    return int(total)


def _block_bytes(load: Load) -> int:
    """What autograd keeps of one block."""
    a = load.shape
    product = BYTES_PER_ELEMENT[load.precision]
    per_token = 2 * (product * a.width + FLOAT_BYTES)  # both norms: value and scale
    per_token += 4 * product * a.ffn_width  # gate, up, silu(gate), and their product
    total = load.tokens * per_token + _attention_bytes(load)
    if load.precision == "bf16":
        cast = [m.elements for m in layer_matrices(a, "dense") if m.name in ("o_proj", "down_proj")]
        total += product * sum(cast)
    return total


def _attention_bytes(load: Load) -> int:
    a = load.shape.attention
    query_width, kv_width = a.heads * a.head_dim, a.kv_heads * a.head_dim
    element = _attention_element_bytes(load)
    per_token = element * (query_width + kv_width)  # queries and keys, turned
    per_token += element * query_width + FLOAT_BYTES * a.heads  # output, sums of exponentials
    total = 0
    if a.qk_norm == "head":  # all three as projected, the heads' scales; the norms' weights
        per_token += element * (query_width + 2 * kv_width + a.heads + a.kv_heads)
        total += element * (query_width + kv_width)
    else:
        per_token += element * kv_width  # values
    if element != BYTES_PER_ELEMENT[load.precision]:
        per_token += BYTES_PER_ELEMENT[load.precision] * query_width  # output, for the product
    elif load.mixed_share and load.rows > _masked_rows(load):
        per_token += element * query_width  # outputs of plain and of masked rows, joined
    if element != FLOAT_BYTES:  # cast in each block
        total += _angle_bytes(load, element)
    if load.mixed_share and load.masked_keys < load.seq_len:
        # Blocks with the one before each: keys and values twice, and what they are copied from; but
        # of values alone the copies, where nothing is kept for head norms or for other rows.
        copies = 4 - (a.qk_norm != "head" and load.rows == _masked_rows(load))
        total += _masked_rows(load) * load.seq_len * element * copies * kv_width
    return total + load.tokens * per_token


def _attention_element_bytes(load: Load) -> int:
    return BYTES_PER_ELEMENT[load.attention_dtype if load.precision == "bf16" else "fp32"]


def _angle_bytes(load: Load, element: int) -> int:
    """Cosines and sines of each token's position, of one row if all rows have the same."""
    tokens = load.tokens if load.mixed_share else load.seq_len
    return element * load.shape.attention.head_dim * tokens


def _embedding_bytes(a: ModelShape) -> int:
    return FLOAT_BYTES * a.vocab_size * a.width


def _head_gradient_bytes(load: Load) -> int:
    """Of the head's weight; none where it is frozen."""
    return 0 if load.adapters is not None else _embedding_bytes(load.shape)


def _masked_rows(load: Load) -> int:
    """Of the worst batch: all but one if some rows are not, as the two kinds are then joined."""
    return load.rows if load.mixed_share >= 1 else max(1, load.rows - 1)


def _mask_bytes(load: Load) -> int:
    """Of whole rows, also where blocks are expected: one long document that no sample had makes its
    row whole."""
    if not load.mixed_share or load.seq_len > MASK_TOKENS:
        return 0
    return _attention_element_bytes(load) * _masked_rows(load) * load.seq_len**2


def peak_memory(load: Load, process_bytes: int) -> PeakMemory:
    """Bytes at the peak of training. process_bytes: a process that has loaded the framework.

    Lanes reach the end of their forward passes together, each with activations of its own.
    """
    lanes = min(load.lanes, load.micro_batches)
    fixed = load.state
    activations = lanes * saved_activation_bytes(load)
    working = lanes * max(_loss_bytes(load), _backward_bytes(load))
    later = max(lanes * fixed.gradients, _optimizer_bytes(load))  # when activations are gone
    # A lane has a sum of its own while it computes more, and what it adds to it.
    sets = max(1, lanes * min(2, load.micro_batches_each - 1))
    return PeakMemory(
        process=process_bytes
        + load.compiled * COMPILER_BYTES
        + (load.precision == "bf16") * BF16_BYTES,
        weights=fixed.weights + load.beside_bytes,
        gradients=sets * fixed.gradients,
        optimizer=fixed.optimizer_state,
        activations=activations,
        allocator=round(ALLOCATOR_SHARE * (activations + working)),
        working=max(working, later - activations),
    )


def _loss_bytes(load: Load) -> int:
    """Logits of one chunk, their log-softmax and, if there is one, the chunk's before."""
    vocab_size = load.shape.vocab_size
    chunk = max(MIN_CHUNK_TOKENS, LOSS_CHUNK_ELEMENTS // vocab_size)
    tokens = load.trained_tokens
    copies = LOGIT_COPIES if tokens > chunk else LOGIT_COPIES - 1
    return copies * FLOAT_BYTES * min(chunk, tokens) * vocab_size


def _backward_bytes(load: Load) -> int:
    """Of the last block's MLP, while nearly everything that was saved is still there.

    As much in bfloat16, where norms and attention have float32 copies of what they are given.
    """
    a = load.shape
    return FLOAT_BYTES * load.tokens * 4 * (a.ffn_width + a.width) + _head_gradient_bytes(load)


def _optimizer_bytes(load: Load) -> int:
    """Temporaries of Muon in float32: all matrices of one shape, shared out among the lanes.

    Gradients and two iterates of each, and two of their products with themselves.
    """
    if load.optimizer != "muon":
        return 0
    a = load.shape
    shapes: dict[tuple[int, int], int] = {}
    for matrix in layer_matrices(a, "dense"):
        small, large = sorted((matrix.rows, matrix.columns))
        shapes[small, large] = shapes.get((small, large), 0) + a.layers
    per_shape = [
        count * FLOAT_BYTES * (3 * small * large + 2 * small * small)
        for (small, large), count in shapes.items()
    ]
    return max(per_shape)


def check_memory(
    load: Load,
    process_bytes: int,
    memory_bytes: int,
    margin: float,
    longest: float = math.inf,
    lighter: Mapping[str, Load] | None = None,
) -> PeakMemory:
    """The peak, if it fits even at the high end of its interval. Raises PlanError if not.

    margin: the high end over the middle. The error names what would fit; longest: tokens that a
    row can be filled with. lighter: what to set -> the load that it makes, in place of smaller
    models.
    """
    peak = peak_memory(load, process_bytes)
    if peak.total * margin <= memory_bytes:
        return peak
    a = load.shape

    def fits(other: Load) -> bool:
        return peak_memory(other, process_bytes).total * margin <= memory_bytes

    raise PlanError(
        f"training {a.layers} layers of width {a.width} with {load.rows} rows of "
        f"{load.seq_len} tokens does not fit into the memory",
        found=f"{format_bytes(peak.total * margin)} needed ({_parts(peak)})",
        expected=f"at most {format_bytes(memory_bytes)}",
        do="; or ".join(_what_fits(load, fits, longest, lighter))
        or "use a machine with more memory",
    )


def _parts(peak: PeakMemory) -> str:
    named = {item.name: getattr(peak, item.name) for item in fields(peak)}
    largest = sorted(named, key=lambda name: -named[name])[:3]
    return ", ".join(f"{name} {format_bytes(named[name])}" for name in largest)


def _what_fits(
    load: Load,
    fits: Callable[[Load], bool],
    longest: float,
    lighter: Mapping[str, Load] | None,
) -> Iterator[str]:
    """Changes of one size that make it fit, the mildest first."""
    for lanes in _halvings(load.lanes):
        if fits(replace(load, lanes=lanes)):
            yield f"train.lanes={lanes}"
            break
    for rows in _halvings(load.rows):
        micro_batches = -(-load.micro_batches * load.rows // rows)  # of the same step
        if fits(replace(load, rows=rows, micro_batches=micro_batches)):
            yield f"train.micro_batch_rows={rows}"
            break
    for seq_len in _halvings(load.seq_len):
        if seq_len <= longest and fits(replace(load, seq_len=seq_len)):
            yield f"train.seq_len={seq_len} with as many rows"
            break
    yield from _smaller(load, fits) if not lighter else _lighter(lighter, fits)


def _lighter(lighter: Mapping[str, Load], fits: Callable[[Load], bool]) -> Iterator[str]:
    yield from (key for key, other in lighter.items() if fits(other))


def _smaller(load: Load, fits: Callable[[Load], bool]) -> Iterator[str]:
    for layers in range(load.shape.layers - 1, 0, -1):
        if fits(replace(load, shape=replace(load.shape, layers=layers))):
            yield f"model.layers={layers}"
            break
    for width in _narrower(load.shape):
        if fits(replace(load, shape=_scaled(load.shape, width))):
            yield f"model.width={width}"
            break


def _halvings(number: int) -> Iterator[int]:
    while number > 1:
        number //= 2
        yield number


def _narrower(a: ModelShape) -> Iterator[int]:
    """Widths below this one that keep whole heads, widest first."""
    head_dim = a.attention.head_dim
    yield from range(a.width - head_dim, head_dim - 1, -head_dim)


def _scaled(a: ModelShape, width: int) -> ModelShape:
    """The same proportions at another width."""
    was = a.attention
    heads = max(1, was.heads * width // a.width)
    ffn_width = max(1, a.ffn_width * width // a.width)
    kv_heads = next(n for n in range(min(was.kv_heads, heads), 0, -1) if heads % n == 0)
    attention = replace(was, heads=heads, kv_heads=kv_heads)
    return replace(a, width=width, attention=attention, ffn_width=ffn_width)

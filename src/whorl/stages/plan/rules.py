"""Rules of thumb behind the choices that neither the law nor the machine decides.

All come from our own runs of small models on a CPU (docs/log.md); each constant has its home here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError

# the constants are read as rules.MAX_EPOCHS and so on
__all__ = [
    "batch_tokens",
    "ffn_width",
    "head_dim",
    "learning_rates",
    "schedule_steps",
    "shapes",
    "vocab_sizes",
]

SEQ_LEN, MIN_SEQ_LEN = 256, 64
DOCUMENTS_PER_SHORT_ROW = 3  # rows get shorter while the longest document fits that often
VOCAB_SIZES = (512, 1024, 2048, 4096)
MIN_BYTES_PER_ID = 2_000  # of text: below, an id is seen too rarely to be learned
# Trained tokens for each id: below, copying from the context is learned late or not at all, and
# quality is this share worse per octave. 3M tokens of code with 1,024 ids gave 1.29 and 1.37 bits
# per byte, 2.6M with 2,048 gave 1.50 (docs/log.md, 25 November 2026); the law does not know of it.
MIN_TOKENS_PER_ID, RARE_IDS = 2_500, 0.1
WIDTHS = (32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536)
WIDTH_PER_LAYER = (24, 40)  # the shapes of our runs: 32 of width per layer, a little either way
LAYERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
FFN_PER_WIDTH = 3
BATCH_TOKENS_RANGE = (512, 65_536)
MAX_MICRO_BATCH_TOKENS = 4096  # beyond, nothing is gained on a CPU and memory is spent
USUAL_TOKENS = 2_000_000  # a first guess before the budget is known in tokens
TIED_EMBEDDINGS = True
MIN_STEPS = 20
MAX_EPOCHS = 4
REPEATS_MARGIN = 0.9  # of train.max_repeats: sizes of sources are estimates here
WEIGHT_DECAY = 0.0
MUON_RATE, EMBEDDING_RATE, TIED_RATE = 0.02, 0.05, 0.008
ADAMW_RATE = 0.005  # at width 128
HEAD_RATE_TIMES_WIDTH = 1.28
WARMUP_SHARE, DECAY_SHARE = 0.02, 0.6
CHECKPOINT_EVERY_S, VALIDATIONS = 30.0, 10
# From here on compiled blocks, which save about a tenth, pay for being timed (15 to 20 s on two
# cores, once for a machine) and for being compiled (10 s): docs/log.md, 25 November 2026.
LONG_TRAINING_S = 600.0


def vocab_sizes(num_bytes: int) -> tuple[int, ...]:
    """Vocabularies worth trying on that many bytes of text, at least the smallest."""
    fitting = [size for size in VOCAB_SIZES if size * MIN_BYTES_PER_ID <= num_bytes]
    return tuple(fitting) or VOCAB_SIZES[:1]


def shapes() -> Iterator[tuple[int, int]]:
    """(layers, width) worth trying, smallest width first."""
    low, high = WIDTH_PER_LAYER
    for width in WIDTHS:
        for layers in LAYERS:
            if low <= width / layers <= high:
                yield layers, width


def head_dim(width: int) -> int:
    """64 where it divides the width, else 32 (every width tried is a multiple of 32)."""
    return 64 if width % 64 == 0 and width >= 128 else 32


def ffn_width(width: int) -> int:
    return FFN_PER_WIDTH * width


def batch_tokens(num_tokens: float, seq_len: int) -> int:
    """Tokens of one step: near the square root of all tokens, a power of two of rows.

    In our runs of 3M tokens 1,024 and 2,048 a step did equally well and 4,096 worse (docs/log.md).
    """
    low, high = BATCH_TOKENS_RANGE
    wanted = min(max(math.sqrt(num_tokens), low), high)
    octaves = max(0, round(math.log2(wanted / seq_len)))
    return seq_len << octaves


def learning_rates(
    shape: ModelShape, optimizer: str, given: float | None = None
) -> dict[str, float]:
    """By their keys. given: of the hidden matrices.

    Raises SpecError if nothing is given for an optimiser that was never tried here.
    """
    adamw = round(ADAMW_RATE * math.sqrt(128 / shape.width), 5)
    tried = {"muon": MUON_RATE, "adamw": adamw}
    if given is None and optimizer not in tried:
        raise SpecError(
            f"no learning rate is known for the optimiser {optimizer}",
            expected="one of " + ", ".join(tried),
            do="give train.learning_rate",
        )
    untied = optimizer == "muon" and not shape.tied_embeddings
    return {
        "learning_rate": tried[optimizer] if given is None else given,
        "embedding_learning_rate": EMBEDDING_RATE if untied else TIED_RATE,
        "head_learning_rate": round(HEAD_RATE_TIMES_WIDTH / shape.width, 5),
    }


def schedule_steps(steps: int) -> tuple[int, int]:
    """(warm-up, decay) steps."""
    return max(1, round(WARMUP_SHARE * steps)), max(1, round(DECAY_SHARE * steps))

"""Where words end before BPE: the pattern of Qwen2 (one digit per word), with and without a bound.

What BPE costs grows with the square of a word, in training more than in encoding. Words of our own
tokenizers are bounded, so that a text costs time in proportion to its bytes, whatever they are:
a genome, base64, a rule of dashes, Chinese without a full stop.
"""

from __future__ import annotations

import re

__all__ = ["MAX_RUN", "QWEN2_PATTERN", "SPLIT_PATTERN", "has_long_blank"]

# Signs of one kind (letters, others, blanks, line ends) in one word: the most with which both
# libraries cut prose into words as fast as without a bound; with 64 tiktoken takes twice as long.
MAX_RUN = 32

MAX_BLANK = 20_000  # signs of white space; tiktoken runs out of stack on more without a bound
BLANK = re.compile(r"\s+")


def _pattern(some: str, any_or_none: str) -> str:
    """The pattern by how a sign is written that comes again."""
    return (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}{some}|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{N}}]{some}[\r\n]{any_or_none}|\s{any_or_none}[\r\n]{some}"
        rf"|\s{some}(?!\S)|\s{some}"
    )


SPLIT_PATTERN = _pattern(f"{{1,{MAX_RUN}}}", f"{{0,{MAX_RUN}}}")  # of our own tokenizers
QWEN2_PATTERN = _pattern("+", "*")  # and of our own of before


def has_long_blank(text: str) -> bool:
    """Whether more white space runs on than tiktoken takes by QWEN2_PATTERN."""
    # A long run covers two neighbours of every MAX_BLANK // 2-th character.
    probes = "".join("s" if c.isspace() else "x" for c in text[:: MAX_BLANK // 2])
    return "ss" in probes and any(
        run.end() - run.start() >= MAX_BLANK for run in BLANK.finditer(text)
    )

"""A linear-chain CRF, the method beside tags, where it is installed: it reads whole sentences.

Sutton and McCallum 2012 (arXiv 1011.4088); computed by CRFsuite (Okazaki 2007).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["absent", "conditional_random_field", "is_there", "signs_of"]

PACKAGE, MODULE = "python-crfsuite", "pycrfsuite"
ABSENT = f"{PACKAGE} is not installed: pip install {PACKAGE} puts a CRF beside the model"
ROUNDS = 20  # of stochastic gradient descent over all sentences; else CRFsuite's usual settings

Sequences = Sequence[Sequence[str]]


def is_there() -> bool:
    return find_spec(MODULE) is not None


def absent() -> str:
    """How to install it; "" where it is there."""
    return "" if is_there() else ABSENT


def signs_of(words: Sequence[str], place: int) -> list[str]:
    """What is told of a word: itself, its ends and beginning, two neighbours on each side."""
    word = words[place]
    near = [f"{by}:{words[place + by]}" for by in (-2, -1, 1, 2) if 0 <= place + by < len(words)]
    ends = [f"e{size}:{word[-size:].lower()}" for size in (1, 2, 3, 4)]
    shape = "s:" + "".join("X" if c.isupper() else "9" if c.isdigit() else "x" for c in word[:3])
    return [f"w:{word}", f"l:{word.lower()}", f"b:{word[:2].lower()}", shape, *ends, *near]


def conditional_random_field(
    words: Sequences, tags: Sequences, asked: Sequences
) -> list[list[str]]:
    """The tags of sentences, learned of others with theirs."""
    import pycrfsuite

    trainer: Any = pycrfsuite.Trainer(algorithm="l2sgd", verbose=False)
    trainer.set_params({"max_iterations": ROUNDS})
    for sentence, its_tags in zip(words, tags, strict=True):
        trainer.append(_signs(sentence), list(its_tags))
    with tempfile.TemporaryDirectory(prefix="whorl-") as folder:
        path = str(Path(folder, "tags.crf"))
        trainer.train(path)
        tagger: Any = pycrfsuite.Tagger()
        tagger.open(path)
        try:
            return [list(tagger.tag(_signs(sentence))) for sentence in asked]
        finally:
            tagger.close()


def _signs(words: Sequence[str]) -> list[list[str]]:
    return [signs_of(words, place) for place in range(len(words))]

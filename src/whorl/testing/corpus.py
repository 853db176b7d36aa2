"""A tiny corpus with something to learn, made from a seed: no download, no licence."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from whorl.codecs.contract import Tokens
from whorl.codecs.text import train_text_codec

__all__ = ["tiny_texts", "tiny_tokens", "write_corpus"]

VERBS = ("adds", "joins", "drops", "finds", "keeps", "turns", "folds", "reads")
NOUNS = ("shell", "whorl", "ladder", "stone", "river", "lantern", "garden", "letter")
PLACES = ("in the north", "by the sea", "at night", "under the bridge", "on Monday")


def tiny_texts(num_documents: int, seed: int = 0) -> list[str]:
    """Distinct short documents: counted sentences of one grammar, and a small function each."""
    texts = []
    for number in range(num_documents):
        chooser = random.Random(seed * 1_000_003 + number)
        lines = [
            f"The {chooser.choice(NOUNS)} {chooser.choice(VERBS)} {chooser.randrange(100)} "
            f"{chooser.choice(NOUNS)}s {chooser.choice(PLACES)}."
            for _ in range(chooser.randrange(4, 12))
        ]
        left, right = chooser.randrange(1000), chooser.randrange(1000)
        code = f"def add_{number}():\n    return {left} + {right}  # {left + right}\n"
        texts.append("\n".join([f"Document {number}", *lines, code]))
    return texts


def write_corpus(folder: Path, num_documents: int = 200, seed: int = 0) -> Path:
    """`corpus.jsonl` with one {"text": …} per line; the same bytes for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "corpus.jsonl"
    lines = [json.dumps({"text": text}) + "\n" for text in tiny_texts(num_documents, seed)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def tiny_tokens(vocab_size: int = 512, texts: Sequence[str] | None = None) -> Tokens:
    """A token contract with a text codec fitted on the tiny corpus."""
    texts = tiny_texts(50) if texts is None else texts
    codec = train_text_codec(texts, vocab_size - 16)
    return Tokens.build({"text": codec}, vocab_size)

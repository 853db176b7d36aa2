"""Speech synthesis: a text is answered by its sound. Sources are those of `speech`, turned round.

What is learned is how the voices of the data say it; of `espeak:home` espeak-ng is the teacher, and
the best that can be reached. Scored are the bits of each id of the sounds that were recorded: how
well they are foreseen, not how well the model's own sound is understood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.metrics import BITS_PER_TOKEN, Metric
from whorl.core.ports import (
    Choice,
    Codec,
    Document,
    HeldoutDocument,
    Score,
    Source,
    Task,
    TokenSpace,
)
from whorl.fields.speech import FIELD as SPEECH
from whorl.fields.speech import codecs_of

__all__ = ["FIELD", "SynthesisField"]

NUM_BOOKS, NUM_CENTRES = 2, 256  # a listener hears more than a recogniser needs


@dataclass(frozen=True)
class ForeseenTask:
    """Bits of each trained id of a document that is no text."""

    name: str = "foreseen"
    metric: Metric = BITS_PER_TOKEN
    prompts: tuple[str, ...] = ()
    checker: str = ""

    def question(self, document: HeldoutDocument, space: TokenSpace) -> Choice | None:
        return None

    def judge(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> tuple[float, float]:
        return -float(nats.sum()) / log(2), float(len(nats))

    def accepts(self, prompt: str, completion: str) -> bool | None:
        return None


@dataclass(frozen=True)
class SynthesisField:
    """<text> <|answer|> <sound>: only the sound is learned, and where it ends."""

    name: str = "synthesis"
    task: Task = field(default_factory=ForeseenTask)
    logic_version: int = SPEECH.logic_version
    options: Mapping[str, str] = field(default_factory=lambda: dict(SPEECH.options))

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or has no sound with a text."""
        return SPEECH.items(source)

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """As of `speech`, without noise in what is spoken for it."""
        for document in SPEECH.read(source, item, reject, is_clean=True):
            sound, mark, text = document.parts
            parts = (replace(text, trained=False), mark, replace(sound, trained=True))
            yield replace(document, parts=parts)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        return codecs_of(documents, options, NUM_BOOKS, NUM_CENTRES)

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """None: evaluation counts pairs of ids itself."""
        return []


FIELD = SynthesisField()

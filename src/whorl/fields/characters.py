"""Text beside the classics of compression: what does a character cost?

Files are those of `text`; words with tags behind a / (the Brown corpus) are read without them.
Scores are bits per byte: of ASCII, characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import TEXT
from whorl.core.errors import SpecError
from whorl.core.intervals import score_of
from whorl.core.metrics import BITS_PER_BYTE
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Task
from whorl.core.tasks import LikelihoodTask
from whorl.fields.compressors import condition_text, xz_baselines
from whorl.fields.text import FIELD as TEXT_FIELD
from whorl.fields.text import TEXT_KEY
from whorl.fields.witten_bell import ORDER, bits_of_texts

__all__ = ["FIELD", "CharactersField", "untagged"]

TAGGED = "tagged"
YES, NO = ("yes", "true", "1"), ("no", "false", "0")


def untagged(text: str) -> str:
    """A text of word/tag without its tags and empty lines; what has no tag is kept."""
    lines = (
        " ".join(word.rpartition("/")[0] or word for word in line.split())
        for line in text.splitlines()
    )
    return "".join(f"{line}\n" for line in lines if line)


@dataclass(frozen=True)
class CharactersField:
    """Text scored in bits per byte, beside Witten and Bell's model and xz."""

    name: str = "characters"
    task: Task = field(default_factory=LikelihoodTask)
    logic_version: int = 1
    options: Mapping[str, str] = field(default_factory=lambda: {TEXT_KEY: "text", TAGGED: "no"})

    def items(self, source: Source) -> list[Any]:
        """Files or ranges of long ones. Raises DataError when the source is missing or empty."""
        return TEXT_FIELD.items(source)

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises SpecError if the option is neither yes nor no."""
        said = source.options.get(TAGGED, NO[0]).strip().lower()
        if said not in (*YES, *NO):
            raise SpecError(f"data.options.{TAGGED} cannot be read", found=said, expected="yes, no")
        for document in TEXT_FIELD.read(source, item, reject):
            if said in YES:
                part = Part(TEXT, untagged(document.text or ""))
                document = replace(document, parts=(part,))
            yield document

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        return TEXT_FIELD.fit_codecs(documents, options)

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """The model of bytes is fitted on as much training text as xz is given."""
        texts = [(document.text or "").encode() for document in heldout]
        before = condition_text(train)
        scores = xz_baselines(train, heldout)
        if all(texts) and before:
            names = tuple(document.name for document in heldout)
            sizes = np.array([len(text) for text in texts], np.float64)
            bits = bits_of_texts(before, texts)
            measure = QualityMeasure(BITS_PER_BYTE, names, bits, sizes)
            title = f"Witten-Bell of bytes, {ORDER} before, {len(before) / 2**20:.1f} MiB"
            scores.append(score_of(title, measure))
        return scores


FIELD = CharactersField()

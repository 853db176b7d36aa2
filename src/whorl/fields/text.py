"""Plain text: .txt, .md, .rst and other text files, folders of them, and rows with a text key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.text import train_text_codec
from whorl.core.ports import Codec, Document, Score, Source, Task
from whorl.core.tasks import LikelihoodTask
from whorl.fields.compressors import xz_baselines
from whorl.fields.files import text_items
from whorl.fields.formats import read_item

__all__ = ["FIELD", "TextField"]

TEXT_KEY = "text_key"  # option: key of the text in rows


PROMPTS = (
    "The most important thing to know is that ",
    "In the beginning, ",
    "There are three reasons for this. First, ",
    "# Introduction\n\n",
    "For example, ",
)
TASK = LikelihoodTask(prompts=PROMPTS)


@dataclass(frozen=True)
class TextField:
    """Text scored in bits per byte; baselines are xz alone and after training text."""

    name: str = "text"
    task: Task = TASK
    logic_version: int = 2  # 2: rows and encodings are read as they are found
    options: Mapping[str, str] = field(default_factory=lambda: {TEXT_KEY: "text"})

    def items(self, source: Source) -> list[Any]:
        """Files or ranges of long ones. Raises DataError when the source is missing or empty."""
        return list(text_items(source))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        return read_item(item, reject, source.options.get(TEXT_KEY, self.options[TEXT_KEY]))

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """Byte-level BPE of options["vocab_size"] local ids."""
        texts = (document.text or "" for document in documents)
        return {"text": train_text_codec(texts, int(options["vocab_size"]), int(options["seed"]))}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        return xz_baselines(train, heldout)


FIELD = TextField()

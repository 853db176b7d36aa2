"""A fake for every port in core.ports: small, deterministic, honest about the port's promises."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.core.metrics import ACCURACY, BITS_PER_BYTE, Metric
from whorl.core.ports import (
    Choice,
    Codec,
    Document,
    HeldoutDocument,
    Part,
    QualityMeasure,
    Score,
    Source,
    Task,
    TokenSpace,
)
from whorl.core.rounding import Rounding, Texts
from whorl.core.tasks import LikelihoodTask
from whorl.core.variants import Variant
from whorl.model.folder import CARD, read_card, seal_folder

__all__ = ["FakeCodec", "FakeExporter", "FakeField", "FakeMeasure", "FakeTask", "RecordingProgress"]


@dataclass
class FakeCodec:
    """Text as its UTF-8 bytes: local id = byte."""

    name: str = "text"
    kind: str = "fake-bytes"
    num_ids: int = 256
    media_type: str = "text/plain"
    value_ids: int | None = None

    def encode(self, value: Any) -> list[int]:
        if not isinstance(value, str):
            raise DataError("the fake codec encodes text", found=type(value).__name__)
        return list(value.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def to_bytes(self, value: Any) -> bytes:
        return bytes(self.encode(value))

    def from_bytes(self, data: bytes) -> str:
        return self.decode(data)

    def files(self) -> dict[str, bytes]:
        return {}


@dataclass
class FakeField:
    """Documents given at construction, one per work item; empty ones are rejected by reason."""

    texts: Sequence[str] = ("alpha beta", "gamma delta", "")
    name: str = "fake"
    task: Task = field(default_factory=LikelihoodTask)
    logic_version: int = 1
    options: Mapping[str, str] = field(default_factory=dict)

    def items(self, source: Source) -> list[Any]:
        if not self.texts:
            raise DataError(f"{source.source} is empty", do="give the fake field some texts")
        return list(range(len(self.texts)))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        if not self.texts[item]:
            reject("empty")
            return
        yield Document(f"{source.source}/{item}", (Part("text", self.texts[item]),))

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        return {"text": FakeCodec()}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """The uniform model over bytes: 8 bits per byte."""
        return [Score("uniform bytes", self.task.metric, 8.0, num_documents=len(heldout))]


@dataclass(frozen=True)
class FakeTask:
    """Which of two ids ends the document: its last one, or `other`? A prompt repeated is fine."""

    other: int = 0
    name: str = "last of two"
    metric: Metric = ACCURACY
    prompts: tuple[str, ...] = ()
    checker: str = "the prompt said again"

    def question(self, document: HeldoutDocument, space: TokenSpace) -> Choice | None:
        ids = tuple(int(i) for i in document.ids)
        return Choice(ids[:-1], ((self.other,), (ids[-1],)), 1)

    def judge(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> tuple[float, float]:
        return float(nats[1] > nats[0]), 1.0

    def accepts(self, prompt: str, completion: str) -> bool | None:
        return completion == prompt


@dataclass
class FakeExporter:
    """Copies of a folder that say they hold other weights, half as many bytes a time."""

    format: str = "copied"
    version: int = 1

    def export(self, model: Path, folder: Path, lineage: Mapping[str, Any]) -> None:
        self._copy(model, folder, Variant(self.format, "f32"), lineage)

    def compress(self, exported: Path, folder: Path, how: Rounding, texts: Texts = ()) -> None:
        variant = Variant(self.format, how.weights)
        self._copy(exported, folder, variant, read_card(exported).lineage)

    def _copy(self, source: Path, folder: Path, variant: Variant, lineage: Any) -> None:
        card = read_card(source)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(CARD))
        (folder / "weights.bin").write_bytes(bytes(variant.bits))
        seal_folder(folder, replace(card, variant=variant, lineage=dict(lineage)))


@dataclass
class FakeMeasure:
    """Bits per byte by model folder and variant, the same for each of ten documents."""

    values: Mapping[tuple[str, Variant], float] = field(default_factory=dict)
    default: float = 2.0
    num_bytes: int = 100

    def __call__(self, model: Path, variant: Variant) -> QualityMeasure:
        names = tuple(f"document-{i}" for i in range(10))
        value = self.values.get((model.name, variant), self.default)
        num_bytes = np.full(len(names), float(self.num_bytes))
        return QualityMeasure(BITS_PER_BYTE, names, value * num_bytes, num_bytes)


@dataclass
class RecordingProgress:
    """Keeps what was reported."""

    labels: list[str] = field(default_factory=list)
    amount: float = 0.0
    notes: list[str] = field(default_factory=list)

    def start(self, label: str, total: float | None, unit: str = "") -> None:
        self.labels.append(label)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        if not math.isfinite(amount):
            raise ValueError("progress must be finite")
        self.amount += amount

    def finish(self, note: str = "") -> None:
        self.notes.append(note)

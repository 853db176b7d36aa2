"""Small protocols between packages: who needs a service names it here, `verbs.py` wires it.

Each port has at most five methods, and a fake of it ships in `whorl.testing`.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from whorl.core.metrics import Metric
from whorl.core.rounding import Rounding, Texts
from whorl.core.variants import Variant

__all__ = [
    "SERVERS_OWN",
    "Choice",
    "Codec",
    "Document",
    "Engine",
    "EngineStats",
    "Exporter",
    "Field",
    "GenerateRequest",
    "Grammar",
    "HeldoutDocument",
    "Measure",
    "Part",
    "Progress",
    "QualityMeasure",
    "Score",
    "Source",
    "Task",
    "TokenEvent",
    "TokenLogprob",
    "TokenSpace",
]

Split = Literal["train", "heldout"]
SERVERS_OWN = "\0own"  # cache_key of what the server asks itself: nobody's prompt is in it


# ------------------------------------------------------------------ data


@dataclass(frozen=True)
class Part:
    """A piece of a document that one codec turns into tokens."""

    codec: str  # name of the codec: "text", "image", "label" …
    value: Any  # what that codec encodes: str, array …
    trained: bool = True  # False: context only, no loss on its tokens


@dataclass(frozen=True)
class Document:
    """One example of a field: a file, a labelled image, a translated sentence …"""

    name: str  # where it came from, for reports; unique within a source
    parts: tuple[Part, ...]
    split: Split | None = None  # None: prepare splits by content, after deduplication
    whole: bool = False  # a question with its answer: kept in one row, refused if it is longer

    @property
    def text(self) -> str | None:
        """The text if every part is text, else None (no text filter or near-dup then)."""
        if all(isinstance(part.value, str) and part.codec == "text" for part in self.parts):
            return "".join(part.value for part in self.parts)
        return None


@dataclass(frozen=True)
class Source:
    """One entry of a recipe's `data`, resolved."""

    source: str  # path or glob, or a name that the field knows: "stdlib", "sklearn:digits" …
    field: str
    share: float | None = None  # of the trained tokens; None: as much as there is
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)  # those of the field
    folder: str = "."  # where relative paths start
    release: Mapping[str, Any] | None = None  # what was fetched: version, digest, licence …
    encoding: str = ""  # of files that are not UTF-8, as the recipe says
    apart: tuple[str, ...] = ()  # folders that are never read: the home, where records lie
    others: Mapping[str, tuple[Source, ...]] = dataclasses.field(default_factory=dict)  # by option

    @property
    def path(self) -> str:
        """The absolute path, for fields that read files; of a glob see `pattern`."""
        return os.path.abspath(os.path.join(self.folder, os.path.expanduser(self.source)))

    @property
    def pattern(self) -> str:
        """The absolute glob: what looks like a pattern in the folder's own name is none."""
        folder = glob.escape(os.path.abspath(self.folder))
        return os.path.normpath(os.path.join(folder, os.path.expanduser(self.source)))


class Codec(Protocol):
    """World <-> local token ids 0..num_ids-1. The token contract adds the offset."""

    name: str
    kind: str  # key into whorl.codecs.KINDS, to load it again
    num_ids: int
    media_type: str  # of a value's bytes: "text/plain", "image/png", "application/x-choice" …

    @property
    def value_ids(self) -> int | None:
        """Ids of one value, where each has as many; None: any number."""
        ...

    def encode(self, value: Any) -> list[int]:
        """Local ids. Raises DataError on a value it cannot represent."""
        ...

    def decode(self, ids: Sequence[int]) -> Any:
        """The value; exact, or with the loss the codec declares."""
        ...

    def to_bytes(self, value: Any) -> bytes:
        """A value as a file of the media type. Raises DataError if it is none of this codec."""
        ...

    def from_bytes(self, data: bytes) -> Any:
        """The value that such a file holds. Raises DataError on anything else."""
        ...

    def files(self) -> dict[str, bytes]:
        """Everything needed to load the codec again, reproducible byte for byte."""
        ...


class Field(Protocol):
    """One kind of data: how to read it, which codecs it uses, what its models are asked."""

    name: str
    options: Mapping[str, str]  # of a source, with their defaults: {"text_key": "text"} …
    task: Task
    logic_version: int  # raised when the same sources would give other documents or baselines

    def items(self, source: Source) -> list[Any]:
        """Picklable work items (a file, a byte range, an index range), in a fixed order; cheap.

        Raises DataError when the source is missing or empty.
        """
        ...

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """The documents of one item; calls `reject(reason)` once per row it cannot use.

        A `whorl.core.reasons.Reason` also says where, or that a row is read all the same.
        """
        ...

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """Codecs fitted on training documents; options: vocab_size, seed, the source's options."""
        ...

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """Other methods on the same split (rows: the token rows trained on, if any)."""
        ...


# ------------------------------------------------------------------ questions


@dataclass(frozen=True)
class HeldoutDocument:
    """A held-out document in ids. mask: which of them are trained targets."""

    name: str
    ids: NDArray[np.integer[Any]] = field(repr=False)  # [n]
    mask: NDArray[np.bool_] = field(repr=False)  # [n]
    num_bytes: int  # of its text in UTF-8; 0 if it is not text


@dataclass(frozen=True)
class TokenSpace:
    """What ids mean, as far as a task needs to know."""

    ranges: Mapping[str, range]  # codec -> its ids
    encode: Callable[[Sequence[Part]], list[int]]


@dataclass(frozen=True)
class Choice:
    """A question with a closed set of answers, each of one id or more."""

    prompt_ids: tuple[int, ...]
    candidates: Sequence[Sequence[int]]
    right: int  # place of the true one


class Task(Protocol):
    """What evaluation asks a model, among which answers it chooses, and who judges them."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def prompts(self) -> tuple[str, ...]:
        """What serving offers, equal for all models; (): beginnings of held-out documents."""
        ...

    @property
    def checker(self) -> str:
        """What `accepts` checks, in words; "" if it checks nothing."""
        ...

    def question(self, document: HeldoutDocument, space: TokenSpace) -> Choice | None:
        """None: nothing is chosen, the document's own trained ids are scored.

        Raises DataError on a document that cannot be asked.
        """
        ...

    def judge(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> tuple[float, float]:
        """The document's (numerator, denominator) in the metric.

        nats: the log-probability of each candidate, or of each trained id if nothing is chosen.
        """
        ...

    def accepts(self, prompt: str, completion: str) -> bool | None:
        """Whether a completion is well formed; None: there is no such check."""
        ...


# ------------------------------------------------------------------ generation


@dataclass(frozen=True)
class Grammar:
    """What an answer must look like."""

    kind: Literal["json_schema", "regex", "ebnf"]
    text: str  # the schema as JSON, the pattern, or the grammar in GBNF/XGrammar's EBNF


@dataclass(frozen=True)
class GenerateRequest:
    request_id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    allowed_ids: tuple[int, ...] | None = None  # no other is generated, a stop id neither
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # of the best id's probability
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (id, what is added to its logit)
    logprobs: int | None = None  # alternatives told of each token, 0: its own only; None: nothing
    grammar: Grammar | None = None
    cache_key: str = ""  # prefixes are shared only between requests of the same key


@dataclass(frozen=True)
class TokenLogprob:
    """How probable a generated id was, in nats, and the best alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # best first


@dataclass(frozen=True)
class TokenEvent:
    """New tokens of one request. The last event of a request has a finish_reason."""

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length", "cancelled", "error"] | None = None
    error: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()  # of token_ids, where they were asked for


@dataclass(frozen=True)
class EngineStats:
    running: int  # requests that hold a place
    waiting: int
    generated_tokens: int  # since start
    last_token_age_s: float | None  # None: no request is running


@runtime_checkable
class Engine(Protocol):
    """A generation engine. Thread-safe; events come on the engine's own thread."""

    name: str
    contract_digest: str
    unable: frozenset[str]  # fields of GenerateRequest it does not honour; also "logprobs>1"

    def submit(self, request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
        """Queue a request. Raises EngineError when the engine is closed or the prompt too long."""
        ...

    def cancel(self, request_id: str) -> None:
        """Free the request's place within one step; its last event says "cancelled"."""
        ...

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        """The log-probabilities (nats) of each sequence's ids, given those before.

        With a prefix, which is read once for all of them, n values for n ids; without one n-1:
        nothing stands before the first.
        """
        ...

    def stats(self) -> EngineStats: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Score:
    """One figure of one model or baseline on the held-out documents."""

    name: str  # "openvino int8", "5-gram Kneser-Ney" …
    metric: Metric
    value: float
    low: float | None = None  # 95% interval by bootstrap over documents
    high: float | None = None
    num_documents: int | None = None
    note: str = ""
    variant: Variant | None = None  # of a model; None: another method
    measure: QualityMeasure | None = field(default=None, repr=False, compare=False)  # to pair it


@dataclass(frozen=True)
class QualityMeasure:
    """Per-document results of one model, for paired comparison: two numbers of each.

    Of bits per byte they are bits and bytes, of an accuracy 0 or 1 and 1; [n], or [k, n].
    """

    metric: Metric
    document_names: tuple[str, ...]
    numerator: NDArray[np.float64] = field(repr=False)
    denominator: NDArray[np.float64] = field(repr=False)

    @property
    def value(self) -> float:
        return float(self.metric.total(self.numerator, self.denominator))


class Exporter(Protocol):
    """Handed to `compress` by verbs: makes folders of another format, servable as they are."""

    format: str  # of every variant it makes
    version: int  # raised when the same model is exported to other bytes

    def export(self, model: Path, folder: Path, lineage: Mapping[str, Any]) -> None:
        """A Hugging Face folder in this format, with f32 weights."""
        ...

    def compress(self, exported: Path, folder: Path, how: Rounding, texts: Texts = ()) -> None:
        """Of an exported f32 folder. Raises SpecError or PlanError if it has no such weights."""
        ...


class Measure(Protocol):
    """Handed to `compress` by verbs: a folder's quality per field, through its engine."""

    def __call__(self, model: Path, variant: Variant) -> Mapping[str, QualityMeasure]: ...


# ------------------------------------------------------------------ reporting


class Progress(Protocol):
    """A progress bar, or nothing."""

    def start(self, label: str, total: float | None, unit: str = "") -> None: ...

    def advance(self, amount: float = 1.0, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None: ...

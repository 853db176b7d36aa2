"""The prepare stage: sources to token rows, the token contract and held-out documents.

    read, NFC, filter, sketch   in parallel    -> spill files
    exact and near duplicates   here
    split, codecs               here
    encode                      in parallel    -> token files
    pack into rows and shards   here

Only the bytes of the sources and the config decide what is written: not the number of workers,
the time, the machine's paths or hash seeds. A run that was killed starts again from nothing.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.errors import DataError
from whorl.core.lock import exclusive
from whorl.core.plugins import packages_of
from whorl.core.ports import Field, Source
from whorl.core.reasons import Kind, Reason, kind_of, table_rows, unreadable
from whorl.core.records import Record, RecordKey, RecordWriter
from whorl.core.scratch import hold
from whorl.core.sources import FileItem
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.clean import Cleaned, CleanTask, clean, clean_tasks, is_little
from whorl.stages.prepare.corpus import Corpus, Training
from whorl.stages.prepare.encode import (
    TOO_LONG,
    TOO_LONG_WHOLE,
    Encoded,
    EncodeTask,
    encode,
    encode_with_folder,
)
from whorl.stages.prepare.facts import field_of, releases_of
from whorl.stages.prepare.pack import Packer
from whorl.stages.prepare.pool import WorkerPool, default_workers, is_sendable
from whorl.stages.prepare.vocabulary import build_tokens

__all__ = ["LOGIC_VERSION", "record_key", "run"]

# 3: held-out documents say their field; words of our own tokenizer are bounded, long texts sampled;
# copies are found whatever their line ends, blanks and licences are; a table of what was read
LOGIC_VERSION = 3
SPILL = "spill-"


def record_key(
    config: PrepareConfig,
    fields: Mapping[str, Field],
    sources: Sequence[Source],
    data_digest: str,
    given: Tokens | None = None,
) -> RecordKey:
    """What the record depends on. The sources' places are not part of it, their content is."""
    described = [
        {
            "field": source.field,
            "share": source.share,
            "options": dict(source.options),
            "logic_version": getattr(field_of(fields, source), "logic_version", 1),
        }
        for source in sources
    ]
    packages = packages_of({"whorl.fields": dict.fromkeys(source.field for source in sources)})
    value = {**config.model_dump(mode="json"), "sources": described, **packages}
    inputs = {"data": data_digest}
    if given is not None:
        inputs["tokens"] = given.contract.digest
    return RecordKey("prepare", value, inputs, LOGIC_VERSION)


def run(
    context: StageContext,
    config: PrepareConfig,
    fields: Mapping[str, Field],
    sources: Sequence[Source],
    data_digest: str,
    workers: int | None = None,
    given: Tokens | None = None,
) -> Record:
    """The record of these sources, made now unless it exists. workers: processes; None: all cores.

    given: the tokens of the model that training starts from; none are fitted then.

    Raises DataError (a source is missing, empty or without a usable document), BusyError
    (another process is at it), ResourceError (disk full, a worker died).
    """
    key = record_key(config, fields, sources, data_digest, given)
    if record := context.store.find(key):
        return record
    folder = context.store.run_folder(key)
    with exclusive(folder, "prepare"):
        if record := context.store.find(key):
            return record
        with (
            WorkerPool(workers or default_workers()) as pool,
            context.store.write(key) as writer,
            _spill_folder(folder) as spill,
        ):
            start = time.monotonic()
            _Preparation(context, config, fields, sources, spill, pool, given).fill(writer)
            writer.run.update(
                {
                    "workers": pool.num_workers,
                    "duration_s": time.monotonic() - start,
                    "unicode_version": unicodedata.unidata_version,
                }
            )
    return context.store.published(key)


def _of_kind(reasons: Counter[str], *kinds: Kind) -> Counter[str]:
    return Counter({reason: count for reason, count in reasons.items() if kind_of(reason) in kinds})


def _with_remedy(reasons: Counter[str], remedy: str) -> Counter[str]:
    """The reasons, with what would keep the chats that are longer than a row."""
    return Counter(
        {
            Reason(reason, "refused", reason.place, remedy)
            if reason in (TOO_LONG, TOO_LONG_WHOLE) and isinstance(reason, Reason)
            else reason: count
            for reason, count in reasons.items()
        }
    )


@contextmanager
def _spill_folder(folder: Path) -> Iterator[Path]:
    """A new folder for temporary files; those of runs that were killed are removed first.

    The name is new each time: a worker of a killed run may still be writing for a moment.
    """
    for old in folder.glob(f"{SPILL}*"):
        shutil.rmtree(old, ignore_errors=True)
    path = hold(Path(tempfile.mkdtemp(prefix=SPILL, dir=folder)))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class _Preparation:
    context: StageContext
    config: PrepareConfig
    fields: Mapping[str, Field]
    sources: Sequence[Source]
    spill: Path
    pool: WorkerPool
    given: Tokens | None = None
    num_files: int = 0  # that are read

    def fill(self, writer: RecordWriter) -> None:
        """Everything from sources to a filled record folder."""
        corpus = Corpus(self._clean())
        duplicates = corpus.duplicates(self.config.near_duplicate_jaccard)
        reasons = sum((part.rejected for part in corpus.parts), Counter[str]())
        actions = corpus.choose(~(duplicates.exact | duplicates.near), self.config)
        cut_share = corpus.cut_share(actions, self.config)
        tokens, num_checked = self._fit(corpus, actions, cut_share)
        tokens.save(writer.path / "tokens")
        packer = Packer(writer.path, self.config, tokens.contract.pad_id, self.sources)
        for encoded in self._encode(corpus, actions, cut_share, tokens, writer.path / "tokens"):
            reasons.update(encoded.rejected)
            packer.add(encoded)
        dropped = _with_remedy(_of_kind(reasons, "refused"), packer.remedy)
        dropped["exact duplicate"] = int(duplicates.exact.sum())
        dropped["near duplicate"] = int(duplicates.near.sum())
        writer.metrics.update(packer.finish())
        writer.metrics.update(
            {
                "read_files": self.num_files,
                "read_documents": sum(part.num_read for part in corpus.parts),
                "read_bytes": sum(part.read_bytes for part in corpus.parts),
                "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
                "reading": table_rows(+dropped | _of_kind(reasons, "mended", "read")),
                "near_duplicate_pairs_verified": duplicates.pairs_verified,
                "near_duplicate_pairs_refused": duplicates.pairs_refused,
                "near_duplicate_pairs_skipped": duplicates.pairs_skipped,
                "tokenizer_documents_compared": num_checked,
                "used_ids": max(entry.id_end for entry in tokens.contract.codecs),
                "contract": tokens.contract.digest,
                "releases": [dict(each) for each in releases_of(self.sources)],
            }
        )
        writer.run["passed_over"] = table_rows(_of_kind(reasons, "passed over"))
        self._report(writer.metrics, writer.run["passed_over"])

    def _clean(self) -> list[Cleaned]:
        """First pass over all sources. Raises DataError if one has no usable document."""
        config = self.config
        limits = (config.max_repetition_ratio, config.max_repeated_windows)
        tasks: list[CleanTask] = []
        for number, source in enumerate(self.sources):
            field = field_of(self.fields, source)
            items = field.items(source)
            files = {item.path for item in items if isinstance(item, FileItem) and item.is_read}
            self.num_files += len(files)
            tasks += clean_tasks(number, source, field, items, self.spill, limits)
        if (len(tasks) == 1 and is_little(tasks[0].items)) or not is_sendable(tasks[0]):
            self.pool.num_workers = 1
        progress = self.context.progress
        progress.start("reading and cleaning", sum(task.num_bytes for task in tasks), "B")
        parts = []
        for task, cleaned in zip(tasks, self.pool.map(clean, tasks), strict=True):
            parts.append(cleaned)
            progress.advance(task.num_bytes)
        for number, source in enumerate(self.sources):
            mine = [part for part in parts if part.source_number == number]
            if not any(len(part.num_bytes) for part in mine):
                found, do = unreadable(part.rejected for part in mine)
                raise DataError(f"no readable document in {source.source}", found=found, do=do)
        progress.finish(f"{sum(len(part.num_bytes) for part in parts):,} documents")
        return parts

    def _fit(
        self, corpus: Corpus, actions: NDArray[np.int8], cut_share: float
    ) -> tuple[Tokens, int]:
        if self.given is not None:
            return self.given, 0
        progress = self.context.progress
        progress.start("fitting codecs", None)
        training = Training(corpus, actions, cut_share)
        fields = {source.field: field_of(self.fields, source) for source in self.sources}
        build = functools.partial(build_tokens, fields, self.sources, training, self.config)
        result = self.pool.run(build)
        progress.finish(f"{self.config.vocab_size:,} ids")
        for name, codec in result[0].codecs.items():
            if told := getattr(codec, "told", ""):
                self.context.log(f"codec {name}: {told}")
        return result

    def _encode(
        self,
        corpus: Corpus,
        actions: NDArray[np.int8],
        cut_share: float,
        tokens: Tokens,
        folder: Path,
    ) -> Iterator[Encoded]:
        tasks = [
            EncodeTask(
                part.path,
                part.source_number,
                self.sources[part.source_number].field,
                part.offsets,
                actions[int(corpus.firsts[place]) : int(corpus.firsts[place + 1])],
                cut_share,
                self.spill / f"tokens-{place:06d}",
                self.config.seq_len + 1,
                self.config.pairs,
            )
            for place, part in enumerate(corpus.parts)
        ]
        function = functools.partial(encode, tokens)
        if self.pool.num_workers > 1:
            function = functools.partial(encode_with_folder, folder)
        progress = self.context.progress
        progress.start("encoding and packing", len(tasks), "parts")
        for encoded in self.pool.map(function, tasks):
            yield encoded
            encoded.remove()
            progress.advance()
        progress.finish()

    def _report(self, metrics: Mapping[str, Any], passed_over: Sequence[Mapping[str, Any]]) -> None:
        dropped = metrics["dropped"]
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "none"
        self.context.log(
            f"prepared {metrics['train_documents']:,} documents for training "
            f"({metrics['train_tokens']:,} tokens) and {metrics['heldout_documents']:,} held out; "
            f"left out: {reasons}"
        )
        reading = metrics["reading"]
        for what, rows in (("read", reading), ("mended", reading), ("passed over", passed_over)):
            mine = [f"{row['count']:,} {row['reason']}" for row in rows if row["what"] == what]
            if mine:
                self.context.log(f"{what}: {', '.join(mine)}")
        if metrics["untrained_rows"]:
            self.context.log(f"left out {metrics['untrained_rows']:,} rows without a trained token")

"""How fast prepare is on one core, and what it keeps: the whole chain, BPE training apart.

    python benchmarks/prepare_throughput.py --megabytes 30 --workers 2
    python benchmarks/prepare_throughput.py --sources odd --json

Files, 1 kB rows and packed rows are the text of this Python's standard library, so that the cost
of bytes and that of documents are both seen. The rest is one document each of text like prose and
of text that is not, through the same chain with the filters of repetition open; "of prose" is the
time per byte over that of prose, for whorl and for the peer: the library `tokenizers` training the
same BPE with Qwen2's pattern on the document and encoding it, without limits of time but
--peer-s. Times are CPU seconds of all processes unless they are called wall; "chain" is everything
except fitting codecs. Each row is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whorl.core.context import StageContext
from whorl.core.memory import peak_resident_bytes
from whorl.core.ports import Document, Part, Source
from whorl.core.records import RecordStore
from whorl.fields.text import FIELD, TextField
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.facts import data_digest
from whorl.stages.prepare.run import run
from whorl.testing.odd_texts import ODD_TEXTS, PROSE, odd_text

TARGET_MB_PER_S = 2.0  # per core, for the chain
TARGET_TIMES = 5.0  # per byte, of prose, for the whole
ROW_CHARS = 1000
FITTING = "fitting codecs"
VOCAB_SIZE = 4096
LIBRARY = ("files", "1 kB rows", "packed")
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass
class PhaseTimes:
    """A progress bar that keeps CPU seconds of each phase."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    _label: str = ""
    _began: float = 0.0

    def start(self, label: str, total: float | None, unit: str = "") -> None:
        self._label, self._began = label, cpu_seconds()

    def advance(self, amount: float = 1.0, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None:
        self.cpu_s[self._label] = cpu_seconds() - self._began


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def library_texts(max_bytes: int) -> Iterator[str]:
    left_bytes = max_bytes
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts or left_bytes <= 0:
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        left_bytes -= len(text)
        yield text


def write_library(folder: Path, max_bytes: int, name: str) -> Path:
    """The standard library as files, as rows, or as packed rows."""
    files = folder / "files"
    files.mkdir()
    rows = []
    for number, text in enumerate(library_texts(max_bytes)):
        (files / f"{number:05d}.txt").write_text(text, "utf-8")
        rows += [
            json.dumps({"text": text[at : at + ROW_CHARS]}) for at in range(0, len(text), ROW_CHARS)
        ]
    data = "\n".join(rows).encode()
    (folder / "rows.jsonl").write_bytes(data)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(data, 6))
    return folder / dict(zip(LIBRARY, ("files", "rows.jsonl", "rows.jsonl.gz"), strict=True))[name]


@dataclass(frozen=True)
class OneDocument(TextField):
    """A file as one document, however long; and a short one, so that it is not cut."""

    def items(self, source: Source) -> list[Any]:
        return super().items(source)[:1]  # not its ranges

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        yield Document("long", (Part("text", Path(item.path).read_bytes().decode()),), "train")
        yield Document("short", (Part("text", odd_text(PROSE, 4096, seed=1)),), "heldout")


def measure(name: str, num_bytes: int, workers: int, folder: Path) -> dict[str, Any]:
    """One row."""
    config = PrepareConfig(vocab_size=VOCAB_SIZE, seq_len=512)
    if name in LIBRARY:
        text_field, path = FIELD, write_library(folder, num_bytes, name)
    else:
        text_field, path = OneDocument(), folder / "odd.txt"
        path.write_bytes(odd_text(name, num_bytes).encode())
        config = config.model_copy(
            update={"max_repetition_ratio": 1e9, "max_repeated_windows": 1.0}
        )
    fields, sources = {"text": text_field}, [Source(str(path), "text")]
    times = PhaseTimes()
    digest = data_digest(fields, sources)
    began_cpu, began = cpu_seconds(), time.perf_counter()
    context = StageContext(RecordStore(folder / "home", "bench"), times)
    record = run(context, config, fields, sources, digest, workers)
    total_cpu, total = cpu_seconds() - began_cpu, time.perf_counter() - began
    num_read = record.metrics["read_bytes"]
    child_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        "source": name,
        "workers": workers,
        "bytes": num_read,
        "documents": record.metrics["read_documents"],
        "kept": record.metrics["train_documents"] + record.metrics["heldout_documents"],
        "tokens": record.metrics["train_tokens"],
        "chain_cpu_s": total_cpu - times.cpu_s[FITTING],
        "fitting_cpu_s": times.cpu_s[FITTING],
        "wall_s": total,
        "peak_bytes": max(peak_resident_bytes(), child_bytes),
    }


def peer(name: str, num_bytes: int) -> dict[str, Any]:
    """CPU seconds of the library alone: training on the document, then encoding it."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    text = odd_text(name, num_bytes)
    began = cpu_seconds()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
    cpu_s = cpu_seconds() - began
    return {"tokens": tokens, "cpu_s": cpu_s, "peak_bytes": peak_resident_bytes()}


def in_a_process(side: str, *given: object, limit_s: float | None = None) -> dict[str, Any] | None:
    """What --side prints there; None if it takes longer. Raises SystemExit if it fails."""
    command = [sys.executable, __file__, "--side", side, *map(str, given)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows_of(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    num_bytes = int(given.megabytes * 1e6)
    names = {"library": LIBRARY, "odd": tuple(ODD_TEXTS), "all": (*LIBRARY, *ODD_TEXTS)}
    prose: dict[str, float] = {}
    for name in names.get(given.sources) or (PROSE, *given.sources.split(",")):
        for workers in sorted({1, given.workers}) if name in LIBRARY else [1]:
            row = in_a_process("whorl", name, num_bytes, workers)
            assert row is not None
            row["chain_mb_per_s"] = row["bytes"] / 1e6 / row["chain_cpu_s"]
            if name in ODD_TEXTS:
                row["peer"] = in_a_process("peer", name, num_bytes, limit_s=given.peer_s)
                cpu_s = {"whorl": row["chain_cpu_s"] + row["fitting_cpu_s"]}
                if row["peer"]:
                    cpu_s["peer"] = row["peer"]["cpu_s"]
                per_byte = {side: spent / row["bytes"] for side, spent in cpu_s.items()}
                prose = prose or per_byte
                row["of_prose"] = {
                    side: spent / prose[side] for side, spent in per_byte.items() if side in prose
                }
            yield row


HEADER = (
    f"{'source':13} {'workers':>7} {'MB':>6} {'documents':>9} {'kept':>7} {'chain MB/s/c':>12} "
    f"{'BPE CPU s':>9} {'wall s':>7} {'peak MB':>8} {'of prose':>8} | {'peer CPU s':>10} "
    f"{'peak MB':>8} {'of prose':>8}"
)


def line_of(row: dict[str, Any], peer_s: float) -> str:
    times = {side: f"{factor:.2f}x" for side, factor in row.get("of_prose", {}).items()}
    line = (
        f"{row['source']:13} {row['workers']:7} {row['bytes'] / 1e6:6.1f} {row['documents']:9,} "
        f"{row['kept']:7,} {row['chain_mb_per_s']:12.2f} {row['fitting_cpu_s']:9.1f} "
        f"{row['wall_s']:7.1f} {row['peak_bytes'] / 1e6:8.0f} {times.get('whorl', ''):>8} | "
    )
    if "peer" not in row:
        return line
    if row["peer"] is None:
        return line + f"{f'> {peer_s:.0f} wall':>10}"
    peak_mb = row["peer"]["peak_bytes"] / 1e6
    return line + f"{row['peer']['cpu_s']:10.1f} {peak_mb:8.0f} {times.get('peer', ''):>8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sources", default="all", help="library, odd, all, or names of odd texts")
    parser.add_argument("--peer-s", type=float, default=60.0, help="most seconds the peer may take")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side, name, num_bytes, *rest = given.side
        with tempfile.TemporaryDirectory() as folder:
            found = (
                peer(name, int(num_bytes))
                if side == "peer"
                else measure(name, int(num_bytes), int(rest[0]), Path(folder))
            )
        print(json.dumps(found))
        return
    rows = []
    if not given.json:
        print(HEADER)
    for row in rows_of(given):
        rows.append(row)
        if not given.json:
            print(line_of(row, given.peer_s), flush=True)
    rates = [row["chain_mb_per_s"] for row in rows if row["source"] in LIBRARY]
    times = [row["of_prose"]["whorl"] for row in rows if "of_prose" in row]
    targets = {
        f"{TARGET_MB_PER_S} MB/s per core": min(rates) >= TARGET_MB_PER_S if rates else None,
        f"at most {TARGET_TIMES:.0f}x prose": max(times) <= TARGET_TIMES if times else None,
    }
    if given.json:
        print(json.dumps({"rows": rows, "targets": targets}))
        return
    for target, reached in targets.items():
        if reached is not None:
            print(f"target {target} {'reached' if reached else 'MISSED'}")


if __name__ == "__main__":
    main()

"""How fast prepare is on one core, and what it keeps: the whole chain, BPE training apart.

    python benchmarks/prepare_throughput.py --megabytes 30 --workers 2

The text is that of this Python's standard library, once as files, once as a jsonl of rows of about
1 kB (and packed), so that the cost of bytes and that of documents are both seen. Times are CPU
seconds of all processes but for the last column; "chain" is everything except fitting codecs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from whorl.core.context import StageContext
from whorl.core.memory import peak_resident_bytes
from whorl.core.ports import Source
from whorl.core.records import RecordStore
from whorl.fields.text import FIELD
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.facts import data_digest
from whorl.stages.prepare.run import run

TARGET_MB_PER_S = 2.0  # per core, for the chain
ROW_CHARS = 1000
FITTING = "fitting codecs"


@dataclass
class PhaseTimes:
    """A progress bar that keeps CPU seconds and seconds of each phase."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    wall_s: dict[str, float] = field(default_factory=dict)
    _label: str = ""
    _began: tuple[float, float] = (0.0, 0.0)

    def start(self, label: str, total: float | None, unit: str = "") -> None:
        self._label, self._began = label, (cpu_seconds(), time.perf_counter())

    def advance(self, amount: float = 1.0, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None:
        self.cpu_s[self._label] = cpu_seconds() - self._began[0]
        self.wall_s[self._label] = time.perf_counter() - self._began[1]


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


def write_sources(folder: Path, max_bytes: int) -> dict[str, Path]:
    """The same text as files, as rows, and as packed rows."""
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
    return {"files": files, "1 kB rows": folder / "rows.jsonl", "packed": folder / "rows.jsonl.gz"}


def measure(name: str, path: Path, home: Path, workers: int) -> float:
    """Print one line; gives MB per CPU second of the chain."""
    fields, sources = {FIELD.name: FIELD}, [Source(str(path), FIELD.name)]
    config = PrepareConfig(vocab_size=4096, seq_len=512)
    times = PhaseTimes()
    began_cpu, began = cpu_seconds(), time.perf_counter()
    digest = data_digest(fields, sources)
    record = run(
        StageContext(RecordStore(home, "bench"), times), config, fields, sources, digest, workers
    )
    total_cpu, total = cpu_seconds() - began_cpu, time.perf_counter() - began
    megabytes = record.metrics["read_bytes"] / 1e6
    chain_cpu = total_cpu - times.cpu_s[FITTING]
    kept = record.metrics["train_documents"] + record.metrics["heldout_documents"]
    print(
        f"{name:10} {workers:7} {megabytes:7.1f} {record.metrics['read_documents']:9,} {kept:9,} "
        f"{megabytes / chain_cpu:12.2f} {times.cpu_s[FITTING]:9.1f} {total:8.1f}"
    )
    return megabytes / chain_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    print(
        f"{'source':10} {'workers':>7} {'MB':>7} {'documents':>9} {'kept':>9} "
        f"{'chain MB/s/c':>12} {'BPE CPU s':>9} {'wall s':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        rates = []
        for name, path in write_sources(Path(folder), int(arguments.megabytes * 1e6)).items():
            for workers in sorted({1, arguments.workers}):
                home = Path(folder) / f"home {name} {workers}"
                rates.append(measure(name, path, home, workers))
    peak_mb = peak_resident_bytes() / 1e6
    verdict = "reached" if min(rates) >= TARGET_MB_PER_S else "MISSED"
    print(f"target {TARGET_MB_PER_S} MB/s per core {verdict}; peak memory {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()

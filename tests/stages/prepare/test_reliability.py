"""Prepare killed at any moment, arranged in any way, and fed with hostile rows."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import zstandard

from tests.stages.prepare import run_once
from tests.stages.prepare.prose import CHINESE, DEGENERATE
from tests.stages.prepare.support import contents, prepare, story, write_stories
from tests.stages.prepare.test_shingles import edited
from whorl.core import streams
from whorl.core.records import Record
from whorl.stages.prepare import clean

ROOT = Path(__file__).resolve().parents[3]
SCALE = float(os.environ.get("WHORL_TRIALS", "1"))
KILLS = max(1, round(10 * SCALE))
ARRANGEMENTS = max(2, round(8 * SCALE))
WORKERS = (8, 1, 2, 1, 3, 1, 2, 1, 4, 5, 6, 7)
TOO_LONG = "row longer than 8,388,608 bytes"
NAMES = ("texts", "rows.jsonl", "packed.jsonl.gz")


def make_sources(folder: Path, seed: int = 0) -> list[Path]:
    """The same three sources below any folder, made in an order that depends on the seed."""
    chooser = random.Random(seed)
    numbers = list(range(60))
    chooser.shuffle(numbers)
    makers = [
        lambda: write_stories(folder / "texts", numbers),
        lambda: write_stories(folder / "texts" / "é" / "deeper", [n + 30 for n in numbers]),
        lambda: (folder / "rows.jsonl").write_text(
            "".join(json.dumps({"text": story(n + 200)}) + "\n" for n in range(90))
        ),
        lambda: (folder / "packed.jsonl.gz").write_bytes(
            gzip.compress(
                "".join(
                    json.dumps({"text": edited(story(n + 150), 1, n)}) + "\n" for n in range(100)
                ).encode(),
                mtime=0,
            )
        ),
    ]
    folder.mkdir()
    chooser.shuffle(makers)
    for make in makers:
        make()
    return [folder / name for name in NAMES]


def start(
    home: Path, workers: int, sources: Sequence[Path | str], shuffle: int = 0, **env: str
) -> subprocess.Popen[str]:
    arguments = [str(home), str(workers), str(shuffle), *map(str, sources)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stages.prepare.run_once", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    report: dict[str, Any] = json.loads(output)
    return report


def prepare_here(home: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setattr(clean, "TASK_BYTES", run_once.TASK_BYTES)
    return prepare(home, *sources, workers=1)


def test_killed_at_any_moment_a_second_run_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: SIGKILL at random times of runs on two processes, each after what the last one left.

    After every fifth a whole run; a run that was done before its kill must be right as well.
    """
    sources = make_sources(tmp_path / "data")
    began = time.monotonic()
    report = finish(start(tmp_path / "clean", 2, sources))
    duration_s = time.monotonic() - began
    expected = contents(Record.load(Path(report["record"])))
    chooser, home, interrupted = random.Random(7), tmp_path / "home", 0
    orphans: list[psutil.Process] = []
    final = home / Path(report["record"]).relative_to(tmp_path / "clean")
    for trial in range(KILLS):
        workers, was_running = kill_within(
            start(home, 2, sources), chooser.uniform(0, 0.7 * duration_s)
        )
        interrupted += was_running
        orphans += workers
        if trial % 5 == 4 or trial == KILLS - 1:
            prepare_here(home, sources, monkeypatch)
            assert not list(home.rglob("spill-*")) and not list(home.rglob("*.tmp-*"))
        if final.exists():
            assert contents(Record.load(final)) == expected
            shutil.rmtree(final)
    assert interrupted >= KILLS // 2
    assert not psutil.wait_procs(orphans, timeout=30)[1]


def kill_within(
    process: subprocess.Popen[str], delay_s: float
) -> tuple[list[psutil.Process], bool]:
    """(the worker processes there were, whether it was still running) when it was killed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay_s)
    was_running = process.poll() is None
    workers = psutil.Process(process.pid).children(recursive=True) if was_running else []
    process.kill()
    process.communicate()
    return workers, was_running


def test_any_arrangement_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2: workers, hash seeds, locales, places, orders of making and of listing."""
    sources = make_sources(tmp_path / "data")
    here = prepare_here(tmp_path / "home", sources, monkeypatch)
    expected = contents(here)
    for number in range(ARRANGEMENTS):
        folder = tmp_path / f"elsewhere {number}"
        folder.mkdir()
        process = start(
            folder / "home",
            WORKERS[number % len(WORKERS)],
            make_sources(folder / "daten", seed=number + 1),
            shuffle=number,
            PYTHONHASHSEED=str(1000 + number),
            LC_ALL=["C", "POSIX", "C.UTF-8", "xx_XX"][number % 4],
            TZ=["UTC", "Asia/Shanghai"][number % 2],
            RAYON_NUM_THREADS=str(1 + number % 3),
        )
        record = Record.load(Path(finish(process)["record"]))
        assert record.digest == here.digest
        assert contents(record) == expected
        shutil.rmtree(folder)


def test_the_sources_hold_what_prepare_should_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the tests above would prove little: copies, changed copies, three sources."""
    record = prepare_here(tmp_path / "home", make_sources(tmp_path / "data"), monkeypatch)
    assert record.metrics["read_documents"] == 60 + 60 + 90 + 100
    dropped = record.metrics["dropped"]
    assert dropped["exact duplicate"] == 30  # files 30..59 came twice
    assert 45 <= dropped["near duplicate"] <= 50  # packed rows 200..249, each changed a little


# ------------------------------------------------------------------ hostile rows


def hostile_lines() -> dict[str, bytes]:
    """Rows of a jsonl file and, by name, why each is rejected."""
    return {
        "JSON ends too early": b'{"text": "x", "score": 1',
        "JSON nested too deeply": b'{"text": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        "not UTF-8": b'{"text": "\xff\xfe\x80"}',  # of no encoding in use
        "not JSON": b'{"text": x}',
        "no key text": b'{"../../../etc/passwd": "../../../etc/passwd"}',
        TOO_LONG: b'{"text": "' + b"x" * 50_000_000 + b'"}',
        "repetition": json.dumps({"text": DEGENERATE[2]}).encode(),
    }


def make_hostile(folder: Path) -> Path:
    """A source of every kind of trouble; good rows lie between."""
    secret = folder / "secret"
    secret.mkdir(parents=True)
    (secret / "key.txt").write_text("SECRET")
    source = folder / "source"
    source.mkdir()
    good = [json.dumps({"text": text, "path": "../../x"}).encode() for text in CHINESE]
    lines = [line for bad in hostile_lines().values() for line in (bad, good[0])]
    (source / "rows.jsonl").write_bytes(b"\n".join([*lines, *good]) + b"\n")
    (source / "formula.csv.txt").write_text(
        '=HYPERLINK("http://x","y")+cmd|"/c calc"!A0\n' + story(1)
    )
    (source / "link.txt").symlink_to("../secret/key.txt")
    (source / "tree").symlink_to("../secret")
    (source / "-rf ..txt").write_text(story(2))
    (source / "new\nline.txt").write_text(story(3))
    zeros, row = b"\0" * 2**24, b'{"text": "before the bomb"}\n'
    packed = [gzip.compress(zeros)] * 64, [zstandard.compress(zeros)] * 64
    (source / "bomb.jsonl.gz").write_bytes(gzip.compress(row) + b"".join(packed[0]))
    (source / "bomb.jsonl.zst").write_bytes(zstandard.compress(row) + b"".join(packed[1]))
    return source


def test_hostile_rows_are_counted_and_harm_nothing(tmp_path: Path) -> None:
    """B3: one process with its memory and every opened file watched."""
    source = make_hostile(tmp_path)
    fetched = f"{run_once.FETCHED}{source}"
    report = finish(start(tmp_path / "home", 1, [fetched]))
    record = Record.load(Path(report["record"]))
    dropped = dict(record.metrics["dropped"])
    assert dropped.pop("exact duplicate") == len(hostile_lines()) + 1  # good rows, bomb's first
    assert dropped.pop("link out of the source") == 2
    assert dropped.pop("file expands more than 200 times") == 2
    assert dropped == {**dict.fromkeys(hostile_lines(), 1), TOO_LONG: 1 + 2}  # bombs are long rows
    kept = record.metrics["train_documents"] + record.metrics["heldout_documents"]
    assert kept == len(CHINESE) + 3 + 1
    assert report["peak_bytes"] < 500 * 2**20
    allowed = [str(source), str(tmp_path / "home")]
    inside = [name for name in report["opened"] if name.startswith(str(tmp_path))]
    assert inside and all(name.startswith(tuple(allowed)) for name in inside)
    assert b"SECRET" not in b"".join(contents(record).values())
    again = finish(start(tmp_path / "home in parallel", 3, [fetched]))
    assert contents(Record.load(Path(again["record"]))) == contents(record)


def test_limits_are_what_the_reasons_say() -> None:
    assert f"row longer than {streams.MAX_ROW_BYTES:,} bytes" == TOO_LONG
    assert streams.MAX_EXPANSION == 200

"""The whole job, as a person runs it: a folder of notes becomes a served model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.serving import serving
from tests.stages.plan.conftest import keep_calibration
from whorl.testing.corpus import tiny_texts

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("openvino_genai", reason="needs the extra openvino")

TIMEOUT_S = 400


def whorl(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whorl", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "WHORL_HOME": str(cwd / "runs"), "COLUMNS": "140"},
        **options,
    )


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with notes and the recipe that `whorl new` writes for it."""
    folder = tmp_path_factory.mktemp("person")
    (folder / "notes").mkdir()
    texts = tiny_texts(300)
    for number in range(30):
        text = "\n\n".join(texts[10 * number : 10 * number + 10])
        (folder / "notes" / f"note-{number}.txt").write_text(text)
    done = whorl("new", "mine", "--data", "notes/", "--train-time", "8s", cwd=folder)
    assert done.returncode == 0, done.stderr
    keep_calibration(folder / "runs")
    return folder


@pytest.fixture(scope="module")
def report(notes: Path) -> dict[str, Any]:
    done = whorl("up", "mine.yaml", "--json", cwd=notes)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_stage_leaves_a_record(report: dict[str, Any], notes: Path) -> None:
    stages = ["plan", "prepare", "train", "compress", "evaluate", "serve"]
    assert [row["stage"] for row in report["stages"]] == stages
    for row in report["stages"]:
        assert (notes / row["record"] / "manifest.json").exists()
    assert report["version"] == 1


def test_the_report_has_scores_variants_samples_and_speeds(report: dict[str, Any]) -> None:
    names = [score["name"] for score in report["scores"]]
    assert "openvino int8" in names
    assert any("xz" in name for name in names)
    for score in report["scores"]:
        assert 0 < score["value"] < 20
    assert {variant["name"] for variant in report["variants"]} == {"openvino f32", "openvino int8"}
    assert len(report["serve"]["completions"]) == 5
    assert [row["concurrency"] for row in report["serve"]["throughput"]] == [1, 16]
    assert report["plan_vs_actual"]


def test_the_report_continues_heldout_documents(report: dict[str, Any], notes: Path) -> None:
    texts = {path.name: path.read_text() for path in (notes / "notes").iterdir()}
    rows = report["serve"]["continuations"]
    assert rows
    for row in rows:
        assert any(row["prompt"] + row["truth"] in text for text in texts.values())
        assert row["truth"] and row["completion"]
    shown = whorl("show", "mine", cwd=notes)
    assert shown.stdout.count("the document goes on") == len(rows)


def test_a_second_run_reuses_everything(report: dict[str, Any], notes: Path) -> None:
    begin = time.monotonic()
    done = whorl("up", "mine.yaml", "--json", cwd=notes)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert all(row["reused"] for row in again["stages"])
    assert again["scores"] == report["scores"]
    assert again["version"] == 1
    assert time.monotonic() - begin < 60


def test_a_fresh_calibration_changes_no_record(report: dict[str, Any], notes: Path) -> None:
    for path in (notes / "runs" / "machine").glob("calibration-*.json"):
        path.unlink()
    done = whorl("plan", "mine.yaml", "--json", cwd=notes)
    assert done.returncode == 0, done.stderr
    record = next(row["record"] for row in report["stages"] if row["stage"] == "plan")
    assert json.loads(done.stdout)["record"].endswith(Path(record).name)


def test_models_ls_show_verify_explain(report: dict[str, Any], notes: Path) -> None:
    models = json.loads(whorl("models", "--json", cwd=notes).stdout)
    assert [(model["name"], model["version"]) for model in models] == [("mine", 1)]
    assert "compress" in whorl("ls", cwd=notes).stdout
    shown = json.loads(whorl("show", "mine", "--json", cwd=notes).stdout)
    assert shown["scores"] == report["scores"]
    assert "0 damaged" in whorl("verify", cwd=notes).stdout
    told = whorl("explain", "mine.yaml", "model.width", cwd=notes)
    assert "runs with" in told.stdout
    listed = json.loads(whorl("gc", "--json", cwd=notes).stdout)
    assert listed["deleted"] is False


def test_a_flipped_bit_is_found_before_use(report: dict[str, Any], notes: Path) -> None:
    record = next(row["record"] for row in report["stages"] if row["stage"] == "compress")
    path = next((notes / record).glob("*/openvino_model.bin"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    try:
        done = whorl("verify", cwd=notes)
        assert done.returncode == 5
        assert "openvino_model.bin" in done.stdout
        assert whorl("up", "mine.yaml", cwd=notes).returncode == 5
    finally:
        data[len(data) // 2] ^= 4
        path.write_bytes(bytes(data))


def test_serve_prints_its_address_and_stops_on_a_signal(
    report: dict[str, Any], notes: Path
) -> None:
    command = [sys.executable, "-m", "whorl", "serve", "mine@1", "--port", "0"]
    environment = {**os.environ, "WHORL_HOME": str(notes / "runs"), "COLUMNS": "200"}
    with serving(command, notes, environment) as page:
        assert page.startswith("http://127.0.0.1:")

"""docs/extend.md, word for word: a package of parts from outside, through the whole job."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import whorl as package
from tests.policy.conftest import ROOT
from tests.serving import serving
from tests.stages.plan.conftest import machine
from whorl.codecs.kinds import load_codec
from whorl.core.digests import digest_file, write_sealed
from whorl.core.errors import WhorlError
from whorl.core.metrics import find_metric
from whorl.engines.open import find_engine
from whorl.fields.base import find_field
from whorl.spec.recipe import ModelSpec, TrainSpec

pytest.importorskip("torch", reason="needs the extra train")

BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs/extend.md").read_text("utf-8")
FILES: dict[str, str] = dict(BLOCK.findall(PAGE))
GROUPS: dict[str, dict[str, str]] = tomllib.loads(FILES["pyproject.toml"])["project"][
    "entry-points"
]
TIMEOUT_S = 300
SOURCE = Path(package.__file__).parent


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "whorl", *arguments]


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(folder), str(SOURCE.parent)])
    more = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    return {**os.environ, **more, "WHORL_HOME": str(folder / "runs")}


def source_files() -> dict[str, str]:
    """Files of whorl itself, by their digests."""
    files = (path for path in SOURCE.rglob("*") if path.is_file())
    return {str(path): digest_file(path) for path in files if path.suffix != ".pyc"}


def keep_calibration(home: Path) -> None:
    """Figures from paper for this machine, so that nothing is measured."""
    from whorl.launch.calibrate import calibration_path
    from whorl.launch.machine import machine_facts

    facts = machine_facts()
    figures = machine().calibration.model_copy(update={"identity": facts.identity, "threads": 1})
    path = calibration_path(home, facts)
    path.parent.mkdir(parents=True)
    write_sealed(path, figures.model_dump(mode="json"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and what pip would leave of its pyproject.toml."""
    folder = tmp_path_factory.mktemp("person")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    info = folder / "paint-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: paint\nVersion: 1.0\n")
    sections = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in GROUPS.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(sections))
    keep_calibration(folder / "runs")
    return folder


@pytest.fixture(scope="module")
def stopped(installed: Path) -> dict[str, Any]:
    """Tensors of the optimisers in the checkpoint of a training that was stopped."""
    from safetensors.numpy import load_file

    process = subprocess.Popen(
        command("train", "paint.yaml"), cwd=installed, env=environment(installed)
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not any(installed.glob("runs/paint/train/*.run/metrics.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    (saved,) = installed.glob("runs/paint/train/*.run/checkpoints/*/optimizer.safetensors")
    return dict(load_file(saved))


@pytest.fixture(scope="module")
def report(installed: Path, stopped: dict[str, Any]) -> dict[str, Any]:
    """Of the whole job; no file of whorl is written meanwhile."""
    before = source_files()
    done = subprocess.run(
        command("up", "paint.yaml", "--json"),
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(installed),
    )
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    assert source_files() == before
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def record(report: dict[str, Any], installed: Path, stage: str) -> Path:
    return installed / next(row["record"] for row in report["stages"] if row["stage"] == stage)


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_whorl_does_not_know_the_parts() -> None:
    assert len(GROUPS) == 7 and len(FILES) == 9
    names = "|".join(name for points in GROUPS.values() for name in points)
    known = re.compile(rf"(?<![\w-])({names})(?![\w-])")
    texts = {path: path.read_text("utf-8") for path in SOURCE.rglob("*.py")}
    assert len(texts) > 100
    assert not [path for path, text in texts.items() if known.search(text)]


def test_without_the_package_every_name_is_refused() -> None:
    names = {group: next(iter(points)) for group, points in GROUPS.items()}
    refused: dict[str, Callable[[str], object]] = {
        "whorl.blocks": lambda name: ModelSpec(block=name),
        "whorl.optimizers": lambda name: TrainSpec(optimizer=name),
        "whorl.objectives": lambda name: TrainSpec(objective=name),
        "whorl.metrics": find_metric,
        "whorl.codecs": lambda name: load_codec(name, "colours", {}),
        "whorl.fields": find_field,
        "whorl.engines": find_engine,
    }
    assert refused.keys() == names.keys()
    for group, find in refused.items():
        with pytest.raises((WhorlError, ValueError), match=re.escape(f"entry point group {group}")):
            find(names[group])


def test_plan_and_training_take_block_optimiser_objective_and_codec(
    report: dict[str, Any], installed: Path, stopped: dict[str, Any]
) -> None:
    from safetensors.numpy import load_file

    decided = read(record(report, installed, "plan") / "plan.json")["decisions"]
    assert decided["shape"]["block"] == "side-by-side"
    trained = record(report, installed, "train")
    config = read(trained / "manifest.json")["config"]["train"]
    assert (config["optimizer"], config["objective"]) == ("lion", "z-loss")
    weights = load_file(trained / "model/model.safetensors")
    assert "model.layers.1.attention.q_proj.weight" in weights
    assert "lion.momentum.layers.1.attention.q_proj.weight" in stopped
    codecs = read(trained / "model/tokens/contract.json")["codecs"]
    assert [(codec["name"], codec["kind"]) for codec in codecs] == [("colours", "colour-strip")]


def test_the_metric_scores_through_the_engine(report: dict[str, Any], installed: Path) -> None:
    model, baseline = report["scores"]
    assert (model["metric"], baseline["metric"]) == ("colour_error", "colour_error")
    assert baseline["name"] == "the first paint"
    assert model["high"] < baseline["low"] and model["num_documents"] > 100
    scored = read(record(report, installed, "evaluate") / "run.json")
    assert scored["engines"] == {"hf f32": "rereading"}
    assert report["serve"]["engine"] == "rereading"


def test_the_page_s_request_is_answered_with_a_file(
    report: dict[str, Any], installed: Path
) -> None:
    body = re.search(r"-d '(\{.*?\})'", PAGE, re.DOTALL)
    assert body is not None
    started = command("serve", "paint.yaml", "--port", "0")
    keyed = {**environment(installed), "WHORL_API_KEY": "a-key-of-this-test"}
    with serving(started, installed, keyed) as page:
        connection = http.client.HTTPConnection(urlsplit(page).netloc, timeout=60)
        headers = {
            "Authorization": "Bearer a-key-of-this-test",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/v1/completions", body[1], headers)
        answer = json.loads(connection.getresponse().read())
        connection.close()
    (part,) = answer["choices"][0]["parts"]
    assert (part["codec"], part["media_type"]) == ("colours", "image/x-portable-pixmap")
    assert base64.b64decode(part["data"]) == b"P6 1 1 255\n" + bytes([0, 255, 0])

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
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import yaml

import whorl as package
from tests.outside import install
from tests.policy.conftest import ROOT
from tests.serving import serving
from tests.stages.plan.conftest import keep_calibration, machine
from whorl.codecs.kinds import load_codec
from whorl.core.digests import digest_file
from whorl.core.errors import WhorlError
from whorl.core.metrics import find_metric
from whorl.core.ports import Field, Source
from whorl.core.records import Record, RecordKey
from whorl.engines.open import find_engine
from whorl.fields.base import find_field
from whorl.spec.load import parse_recipe
from whorl.spec.recipe import ModelSpec, TrainSpec
from whorl.spec.resolved import EvaluateConfig, PrepareConfig, TrainConfig
from whorl.stages.evaluate.run import evaluate_key
from whorl.stages.plan.run import plan_key
from whorl.stages.prepare.run import record_key
from whorl.stages.train.run import train_key
from whorl.testing.models import tiny_shape

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and what pip would leave of its pyproject.toml."""
    folder = tmp_path_factory.mktemp("person")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    install(folder, GROUPS, "paint")
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


def keys_of_records() -> dict[str, RecordKey]:
    """Of the page's recipe, as far as they are made of names."""
    metric = SimpleNamespace(name="colour_error")
    field = cast(
        Field,
        SimpleNamespace(
            name="paint", logic_version=1, task=SimpleNamespace(name="mix", metric=metric)
        ),
    )
    recipe = parse_recipe(yaml.safe_load(FILES["paint.yaml"])).recipe
    before = cast(Record, SimpleNamespace(digest="d" * 64))
    shape = replace(tiny_shape(), block=recipe.model.block)
    config = TrainConfig(
        seq_len=60,
        batch_tokens=960,
        micro_batch_rows=16,
        steps=400,
        objective="z-loss",
        optimizer="sign-momentum",
        learning_rate=0.002,
        embedding_learning_rate=0.01,
    )
    sizes = PrepareConfig(vocab_size=80, seq_len=60)
    source = Source("all pairs", "paint")
    return {
        "plan": plan_key(recipe, machine().facts, "d" * 64),
        "prepare": record_key(sizes, {"paint": field}, [source], "d" * 64),
        "train": train_key(shape, config, before),
        "evaluate": evaluate_key(
            EvaluateConfig(window=60), {"paint": field}, before, {}, None, "rereading"
        ),
    }


def test_a_package_s_new_version_makes_new_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for folder, version in (("a", "1.0"), ("b", "1.0"), ("c", "1.1")):
        install(tmp_path / folder, GROUPS, "paint", version)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(tmp_path / folder))
            found.append(keys_of_records())
    first, again, upgraded = found
    assert first == again
    for stage, key in first.items():
        assert key.digest != upgraded[stage].digest, stage
        assert set(key.config["packages"].values()) == {"paint 1.0"}
    assert len(first["train"].config["packages"]) == 3


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
    assert (config["optimizer"], config["objective"]) == ("sign-momentum", "z-loss")
    weights = load_file(trained / "model/model.safetensors")
    assert "model.layers.1.attention.q_proj.weight" in weights
    assert "sign-momentum.layers.1.attention.q_proj.weight" in stopped
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

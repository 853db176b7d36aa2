"""The whole job where OpenVINO is not installed: the trained model itself is what is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serving import serving
from tests.stages.plan.conftest import keep_calibration
from whorl.testing.corpus import tiny_texts

pytest.importorskip("torch", reason="needs the extra train")

WITHOUT_OPENVINO = """
import importlib.util, sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("openvino", "openvino_genai", "nncf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if "openvino" in name else found(name, *more)
from whorl.cli.main import main
main()
"""
RECIPE = """
name: mine
data: [{source: notes/}]
budget: {train_time: 5s}
compress: none
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", WITHOUT_OPENVINO, *arguments]


def whorl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "WHORL_HOME": str(cwd / "runs"), "COLUMNS": "140"},
    )


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("person")
    (folder / "notes").mkdir()
    texts = tiny_texts(200)
    for number in range(20):
        text = "\n\n".join(texts[10 * number : 10 * number + 10])
        (folder / "notes" / f"note-{number}.txt").write_text(text)
    (folder / "mine.yaml").write_text(RECIPE)
    keep_calibration(folder / "runs")
    return folder


@pytest.fixture(scope="module")
def report(notes: Path) -> dict[str, Any]:
    done = whorl("up", "mine.yaml", "--json", cwd=notes)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_trained_model_is_evaluated_served_and_registered(report: dict[str, Any]) -> None:
    stages = [row["stage"] for row in report["stages"]]
    assert stages == ["plan", "prepare", "train", "evaluate", "serve"]
    models = [score for score in report["scores"] if score["kind"] == "model"]
    assert [score["name"] for score in models] == ["hf f32"]
    assert models[0]["variant"] == {"format": "hf", "weights": "f32"}
    assert report["serve"]["engine"] == "torch" and report["serve"]["variant"] == "hf f32"
    assert len(report["serve"]["completions"]) == 5 and report["version"] == 1
    quality = next(row for row in report["plan_vs_actual"] if row["what"] == "heldout_bpb")
    assert quality["actual"] == models[0]["value"]


def test_a_registered_model_is_served_and_compress_says_that_there_is_nothing(
    report: dict[str, Any], notes: Path
) -> None:
    environment = {**os.environ, "WHORL_HOME": str(notes / "runs"), "COLUMNS": "200"}
    with serving(command("serve", "mine@1", "--port", "0"), notes, environment) as page:
        assert page.startswith("http://127.0.0.1:")
    done = whorl("compress", "mine.yaml", cwd=notes)
    assert done.returncode == 2 and "nothing to compress" in done.stderr
    done = whorl("serve", "mine@1", "--variant", "int8", cwd=notes)
    assert done.returncode == 2 and "hf-f32" in done.stderr


def test_a_variant_that_asks_for_openvino_names_what_to_install(notes: Path) -> None:
    done = whorl("up", "mine.yaml", "--set", "compress.formats=[int8]", cwd=notes)
    assert done.returncode != 0 and "whorl[openvino]" in done.stderr

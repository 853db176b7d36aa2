"""`whorl import` and `export` as a person runs them: what is printed, listed and served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whorl.cli.main import build_app
from whorl.engines.open import open_engine
from whorl.servable import find_model
from whorl.spec.resolved import ServeConfig
from whorl.testing.models import tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as others publish it: without whorl's own files."""
    import shutil

    path = tiny_model_folder(tmp_path_factory.mktemp("import") / "Tiny", steps=40)
    (path / "whorl.json").unlink()
    shutil.rmtree(path / "tokens")
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_whole_way(folder: Path, tmp_path: Path, isolated_home: Path) -> None:
    """Imported, listed, verified, shown, exported and imported again: one model."""
    done = json.loads(run("import", str(folder), "--name", "tiny", "--json"))
    assert (done["name"], done["version"], done["origin"]) == ("tiny", 1, "Tiny")
    assert done["checked"]["transformers"]["golden_tokens"] >= 64
    assert Path(done["folder"]).is_dir()
    (listed,) = json.loads(run("models", "--json"))
    assert listed["lineage"] == {"import": done["record"]}
    assert "import" in run("models")
    (record,) = json.loads(run("ls", "--json"))
    assert record["stage"] == "import" and record["digest"] == done["record"]
    assert json.loads(run("verify", "--json")) == {
        "good": 1,
        "damaged": [],
        "foreign": [],
    }
    assert "tiny" in run("show", "tiny")
    assert json.loads(run("show", done["record"], "--json"))["metrics"]["checked"]
    assert json.loads(run("gc", "--json"))["folders"] == {}
    served = find_model("tiny@1", ServeConfig(), isolated_home)
    assert (str(served.folder), served.variant) == (done["folder"], None)  # by its fastest form
    open_engine(served.folder, served.variant).close()
    out = tmp_path / "out"
    exported = json.loads(run("export", "tiny@1", str(out), "--to", "hf", "--json"))
    assert exported["variant"] == "hf-f32"
    again = json.loads(run("import", str(out), "--name", "again", "--json"))
    assert again["checked"]["transformers"] == done["checked"]["transformers"]

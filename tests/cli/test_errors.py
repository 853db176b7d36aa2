"""Each error a person can make: one line that says what, found, expected, what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.stages.improve.registry import register


def whorl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whorl", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "WHORL_HOME": str(cwd / "runs")},
    )


def write(folder: Path, text: str) -> str:
    (folder / "r.yaml").write_text(text)
    return "r.yaml"


NOTES = "name: r\ndata: [{source: notes, field: text}]\n"


@pytest.mark.parametrize(
    ("recipe", "code", "message"),
    [
        (NOTES + "train: {lerning_rate: 1}\n", 2, "did you mean train.learning_rate"),
        (NOTES + "train: {lora: {rank: 4}}\n", 2, "train.lora needs model.base"),
        ("name: r\ndata: [{source: notes, field: txet}]\n", 2, "did you mean text"),
        (NOTES + "budget: {train_time: 5s}\n", 3, "notes"),
        ('name: r\ndata: [{source: "hf:no/one"}]\n', 4, "how long to train"),  # before a fetch
        (NOTES + "train: {threads: true}\n", 2, "train.threads (r.yaml:3): not a number"),
    ],
)
def test_recipes_that_cannot_run(tmp_path: Path, recipe: str, code: int, message: str) -> None:
    done = whorl("plan", write(tmp_path, recipe), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [None, "", "\x00\x01"])
def test_a_source_with_nothing_in_it(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "notes").mkdir()
    if content is not None:
        (tmp_path / "notes" / "a.txt").write_text(content)
    done = whorl("prepare", write(tmp_path, NOTES + "budget: {train_time: 5s}\n"), cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "notes" in done.stderr


def test_an_unknown_recipe_file_and_flag(tmp_path: Path) -> None:
    done = whorl("plan", "none.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "whorl new" in done.stderr
    assert whorl("plan", "--nonsense", cwd=tmp_path).returncode == 2
    assert whorl("plann", cwd=tmp_path).returncode == 2


def test_errors_as_json(tmp_path: Path) -> None:
    done = whorl("plan", "none.yaml", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in whorl("plan", "none.yaml", "--debug", cwd=tmp_path).stderr


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = whorl("serve", "nobody@3", cwd=tmp_path)
    assert done.returncode == 2
    assert "whorl models" in done.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--port", "99999"], "serve.port"),
        (["--port", "-1"], "serve.port"),
        (["--port", "abc"], "--port"),
        (["--host", ""], "serve.host"),
        (["--allow-host", "http://x"], "serve.allowed_hosts"),
        (["--allow-host", ""], "serve.allowed_hosts"),
        (["--engine", "foo"], "foo"),
        (["--set", "serve.max_tokens=0"], "serve.max_tokens"),
        (["--set", "serve.max_token=5"], "serve.max_tokens"),
        (["--set", "train.steps=5"], "goes with a recipe"),
        (["--set", "serve"], "goes with a recipe"),
    ],
)
def test_options_of_a_service_that_cannot_be(tmp_path: Path, options: list[str], word: str) -> None:
    done = whorl("serve", "nobody", *options, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert word in done.stderr and "defect" not in done.stderr


def test_a_model_that_is_not_registered_is_no_list(tmp_path: Path) -> None:
    register(tmp_path / "runs", "notes", {"train": "0"}, [])
    assert "notes" in whorl("models", "notes", cwd=tmp_path).stdout
    for name, word in (
        ("nots", "did you mean notes"),
        ("../models/notes", "notes"),
        ("x" * 999, "x"),
    ):
        done = whorl("models", name, cwd=tmp_path)
        assert done.returncode == 2 and word in done.stderr, done.stderr


def test_new_refuses_a_bad_name_and_an_existing_file(tmp_path: Path) -> None:
    assert whorl("new", "../evil", cwd=tmp_path).returncode == 2
    assert whorl("new", "mine", cwd=tmp_path).returncode == 0
    again = whorl("new", "mine", cwd=tmp_path)
    assert again.returncode == 6
    assert "--force" in again.stderr


def test_doctor_says_what_to_install(tmp_path: Path) -> None:
    done = whorl("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "engines" in done.stdout
    assert "whorl[" in done.stdout  # extras that are not there name their install line


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    from whorl.core.errors import BusyError
    from whorl.stages.serve.sockets import open_socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=str(port)):
            open_socket("127.0.0.1", port)

"""Whatever stdout and stderr are: the output is right, or one clear line says why there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import start_whorl

COMMANDS = {"doctor": 0, "plan --help": 0, "plan": 2}
ENCODINGS = ["ascii", "ascii:strict", "latin-1", "cp1252", "utf-8:strict"]
USAGE = [
    *("ls --nonsense", "prepare", "plan", "nosuch", "gc --keep 0", "gc --keep many"),
    *("prepare r.yaml --workers -1", "show", "ls extra", "plan --count"),
]


def run(
    *arguments: str, cwd: Path, variables: dict[str, str] | None = None
) -> tuple[int, bytes, bytes]:
    process = start_whorl(*arguments, cwd=cwd, variables=variables)
    out, errors = process.communicate(timeout=120)
    assert b"Traceback" not in errors and b"defect" not in errors, errors
    return process.returncode, out, errors


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding_can_be_written_to(tmp_path: Path, encoding: str) -> None:
    for command, expected in COMMANDS.items():
        code, out, errors = run(
            *command.split(), cwd=tmp_path, variables={"PYTHONIOENCODING": encoding}
        )
        assert code == expected
        (out + errors).decode(encoding.partition(":")[0])


def test_names_that_cannot_be_encoded_stay_readable(tmp_path: Path) -> None:
    for name in ("é文", os.fsdecode(b"n\xff")):
        for encoding in ("ascii", "latin-1", "utf-8"):
            code, out, _ = run(
                *("verify", "--json", "--home", f"h-{name}"),
                cwd=tmp_path,
                variables={"PYTHONIOENCODING": encoding},
            )
            assert code == 0 and json.loads(out.decode(encoding))["good"] == 0
            home = tmp_path / f"h-{name}"
            home.mkdir(exist_ok=True)
            (home / "mine.txt").write_text("x")
        code, out, _ = run(
            *("verify", "--json", "--home", f"h-{name}"),
            cwd=tmp_path,
            variables={"PYTHONIOENCODING": "ascii"},
        )
        assert json.loads(out)["foreign"] == [f"h-{name}/mine.txt"]


@pytest.mark.parametrize("command", USAGE)
def test_errors_of_usage_are_one_line_and_one_document(tmp_path: Path, command: str) -> None:
    code, out, errors = run(*command.split(), cwd=tmp_path)
    assert code == 2 and out == b"" and errors.count(b"\n") == 1 and errors.startswith(b"error: ")
    code, out, errors = run(*command.split(), "--json", cwd=tmp_path)
    assert code == 2 and json.loads(out)["error"]["exit_code"] == 2 and errors.count(b"\n") == 1


def test_a_defect_is_a_document_too() -> None:
    code = (
        "import sys; sys.argv = ['whorl', 'ls', '--json']\n"
        "from whorl.cli import main as cli\n"
        "def build(command): raise KeyError('x')\n"
        "cli.build_app = build\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 1 and b"a defect of whorl" in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", ["ls --json", "doctor", "--help", "ls --nonsense --json"])
def test_a_full_disk_under_stdout(tmp_path: Path, command: str) -> None:
    with open("/dev/full", "wb") as full:
        process = start_whorl(*command.split(), cwd=tmp_path, stdout=full)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 7
    assert errors.splitlines()[-1].startswith(b"error: the output cannot be written; found: No sp")
    assert b"defect" not in errors and b"Traceback" not in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_stderr_stops_nothing(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        for command, expected in (("ls", 0), ("ls --nonsense", 2)):
            process = start_whorl(*command.split(), cwd=tmp_path, stderr=full)
            process.communicate(timeout=60)
            assert process.returncode == expected


@pytest.mark.parametrize("command", ["doctor", "--help", "ls --json", "ls --nonsense --json"])
def test_a_reader_who_is_gone(tmp_path: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start_whorl(*command.split(), cwd=tmp_path, stdout=writing)
    os.close(writing)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in errors and b"Exception" not in errors and b"defect" not in errors


@pytest.mark.parametrize("descriptors", ["1", "2", "1 2", "0 1 2"])
def test_closed_streams(tmp_path: Path, descriptors: str) -> None:
    """No file that is opened may take their numbers: what is printed would go into it."""
    closing = " ".join(f"{number}>&-" for number in descriptors.split())
    code = f'exec {closing}; exec "{sys.executable}" -m whorl "$@"'
    done = subprocess.run(
        ["sh", "-c", code, "sh", "verify"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "WHORL_HOME": str(tmp_path / "runs")},
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        *({"COLUMNS": width} for width in ("0", "1", "40", "-5", "abc", "")),
        *({"TERM": "dumb"}, {"NO_COLOR": "1"}, {"CI": "true"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}),
    ],
)
def test_any_terminal(tmp_path: Path, variables: dict[str, str]) -> None:
    code, out, _ = run("doctor", cwd=tmp_path, variables=variables)
    assert code == 0 and out.strip() and b"\x1b[" not in out


def test_colours_that_are_forced_put_no_bars_into_a_log(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("some words\n" * 50)
    (tmp_path / "r.yaml").write_text("name: r\ndata: [{source: none, field: text}]\n")
    _, _, errors = run("prepare", "r.yaml", cwd=tmp_path, variables={"FORCE_COLOR": "1"})
    assert b"\x1b[?25l" not in errors and b"\x1b[2K" not in errors

"""Setting up: interrupted installs are mended, stamps are trusted only while they are newest."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.policy.conftest import ROOT

TARGETS = frozenset({"run", "test", "install", "check", "bench", "docs", "serve", "clean", "help"})


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_install", ROOT / ".ci/install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add_package(
    site_packages: Path, name: str, files: tuple[str, ...] = ("a.py", "b,c.py")
) -> Path:
    info = site_packages / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = []
    for file in files:
        (site_packages / name).mkdir(exist_ok=True)
        (site_packages / name / file).write_text("")
        quoted = f'"{name}/{file}"' if "," in file else f"{name}/{file}"
        lines.append(f"{quoted},sha256=x,0")
    lines += [f"{name}/__pycache__/a.cpython-311.pyc,,", f"{info.name}/RECORD,,"]
    (info / "RECORD").write_text("\n".join(lines) + "\n")
    return info


def test_half_written_packages_are_forgotten(install: ModuleType, tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    infos = {name: add_package(packages, name) for name in ("whole", "norecord", "nofile")}
    (infos["norecord"] / "RECORD").unlink()
    (packages / "nofile" / "b,c.py").unlink()
    (packages / "~orch").mkdir()
    assert sorted(install.mend(tmp_path)) == ["nofile", "norecord"]
    assert sorted(os.listdir(packages)) == ["nofile", "norecord", "whole", "whole-1.0.dist-info"]
    assert install.mend(tmp_path) == []


def test_stamps_are_older_than_no_input(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = (tmp_path / "pyproject.toml", tmp_path / "constraints.txt")
    monkeypatch.setattr(install, "INPUTS", inputs)
    stamp = tmp_path / "stamp"
    for path in (*inputs, stamp):
        path.write_text("")
        os.utime(path, ns=(0, 1000))
    assert not install.is_fresh(tmp_path / "missing") and not install.is_fresh(stamp)
    os.utime(stamp, ns=(0, 1001))
    assert install.is_fresh(stamp)
    os.utime(inputs[0], ns=(0, 2000))
    assert not install.is_fresh(stamp)


def test_a_half_made_environment_is_made_again(install: ModuleType, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    packages = venv / "lib/python3.11/site-packages"
    info = add_package(packages, "pip")
    assert not install.has_pip(venv)  # no interpreter yet
    (info / "RECORD").unlink()
    assert not install.has_pip(venv)


def test_a_real_environment_is_whole(install: ModuleType) -> None:
    venv = Path(sys.prefix)
    assert install.has_pip(venv)
    infos = [info for folder in install.site_packages(venv) for info in folder.glob("*.dist-info")]
    assert [info.name for info in infos if not install.is_whole(info)] == []


@pytest.mark.parametrize(("extras", "expected"), [("train,dev", True), ("train,openvino", False)])
def test_of_dev_xgrammar_comes_without_what_it_names(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, extras: str, expected: bool
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(install.subprocess, "run", run)
    assert install.install(Path("venv"), extras) == 0
    assert commands[0][-1].endswith(f"[{extras}]") and "--no-deps" not in commands[0]
    assert [each[-3:] for each in commands[1:]] == (
        [["--no-deps", "apache-tvm-ffi", "xgrammar"]] if expected else []
    )


def test_make_has_the_targets_that_are_promised() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    described = set(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE))
    assert described >= TARGETS
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert set(phony.split()) == described


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target() -> None:
    result = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    assert set(re.findall(r"^  make ([a-z-]+) ", result.stdout, re.MULTILINE)) >= TARGETS


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = script.read_text("utf-8").splitlines()
    commands = [
        line.strip() for line in lines if re.match(r"\s*(make|pip|python|pytest|\./)", line)
    ]
    assert commands == ["make test || status=$?"]

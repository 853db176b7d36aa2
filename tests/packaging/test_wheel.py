"""The wheel builds, installs into a clean environment with the core dependencies, and runs there.

Wheels of the dependencies are kept in the environment's own folder, so that later runs need no
network and take seconds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from blake3 import blake3

from tests.policy.conftest import ROOT, repository_files

WHEELHOUSE = Path(sys.prefix) / "wheelhouse"
PACKAGE_INPUTS = ("pyproject.toml", "README.md", "LICENSE")
ABSENT = ("torch", "openvino", "tokenizers", "sklearn", "scipy", "matplotlib", "fastapi")


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=cwd, timeout=300
    )


def checked(*command: object, cwd: Path | None = None) -> str:
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def fill_wheelhouse() -> Path:
    """Core and build dependencies as wheels, downloaded when they change; with the stamp last."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    inputs = "\n".join([*needed, (ROOT / "constraints.txt").read_text("utf-8"), sys.version])
    stamp = WHEELHOUSE / f"{blake3(inputs.encode()).hexdigest()[:16]}.stamp"
    if not stamp.exists():
        shutil.rmtree(WHEELHOUSE, ignore_errors=True)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:")
        checked(*pip, "-d", WHEELHOUSE, "-c", ROOT / "constraints.txt", *needed)
        stamp.touch()
    return WHEELHOUSE


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git would ship, so that nothing unlisted helps."""
    source = tmp_path_factory.mktemp("source")
    for path in repository_files():
        name = path.relative_to(ROOT)
        if name.parts[0] == "src" or str(name) in PACKAGE_INPUTS:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name)
    out = tmp_path_factory.mktemp("dist")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
    checked(*pip, "--no-index", "--find-links", fill_wheelhouse(), "-w", out, source)
    (built,) = out.glob("whorl-*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment that holds the wheel and its core dependencies alone."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    checked(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile")
    checked(*pip, "--no-index", "--find-links", WHEELHOUSE, wheel)
    return python


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    source = ROOT / "src"
    shipped = [path for path in repository_files() if path.is_relative_to(source / "whorl")]
    missing = [str(path.relative_to(source)) for path in shipped if "__pycache__" not in str(path)]
    missing = [name for name in missing if name not in inside]
    assert not missing, missing
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert not [name for name in inside if name.startswith(("tests/", "docs/", "benchmarks/"))]


def test_it_is_clean(clean_python: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)])"
    assert checked(clean_python, "-c", code).strip() == "[]"


def test_import_works_without_torch(clean_python: Path, tmp_path: Path) -> None:
    code = "import whorl, whorl.verbs; print(whorl.__version__, whorl.__file__)"
    version, file = checked(clean_python, "-c", code, cwd=tmp_path).split()
    assert version == "0.1.0" and Path(file).is_relative_to(clean_python.parents[1])


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["--version"]])
def test_commands_run(clean_python: Path, tmp_path: Path, arguments: list[str]) -> None:
    assert "whorl" in checked(clean_python.parent / "whorl", *arguments, cwd=tmp_path)


def test_a_missing_extra_is_one_line(clean_python: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\ndata: [{source: notes, field: text}]\ntrain: {steps: 4}\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text(
        "A note of some length, to be learned by heart.\n" * 9
    )
    result = run(clean_python.parent / "whorl", "train", recipe, cwd=tmp_path)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 9, result.stderr
    assert last.startswith("error: ") and "pip install 'whorl[" in last

"""Importing whorl, planning and --help need the core dependencies alone: no torch, no extras."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.policy.conftest import ROOT, python_files, report

# What the extras bring; pyproject.toml's `dependencies` are not among them.
HEAVY = [
    "torch",
    "openvino",
    "openvino_genai",
    "nncf",
    "tokenizers",
    "tiktoken",
    "jinja2",
    "transformers",
    "sklearn",
    "scipy",
    "matplotlib",
    "safetensors",
    "zstandard",
    "fastapi",
    "uvicorn",
    "starlette",
    "httpx",
    "vllm",
    "ray",
    "pyarrow",
    "mlflow",
    "pandas",
]

# Imports the modules given, then says which heavy ones came along.
LOAD = """
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & set({heavy!r}))
sys.exit("imported: " + " ".join(heavy) if heavy else 0)
"""

# A machine on which the heavy modules are not installed; then runs the body.
BLOCK = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {heavy!r}:
            return self.finder.find_spec(name, path, target)
sys.meta_path = [Without(finder) for finder in sys.meta_path]
{body}
"""

RUN_CLI = """
from whorl.cli.main import main
sys.argv = ["whorl", *{arguments!r}]
main()
"""


def light_modules() -> list[str]:
    """Modules that must load without any extra."""
    packages = ("whorl.core.", "whorl.spec.", "whorl.arch.", "whorl.cli.", "whorl.stages.plan.")
    entry_points = ["whorl", "whorl.verbs", "whorl.cli.main", "whorl.planning"]
    found = [file.module for file in python_files("src")]
    return entry_points + sorted(name for name in found if name.startswith(packages))


def run_python(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)


def test_light_modules_import_nothing_heavy() -> None:
    result = run_python(LOAD.format(modules=light_modules(), heavy=HEAVY))
    assert result.returncode == 0, result.stderr


# What `whorl serve` loads until its engine's process is asked to open a model: the server itself is
# loaded while that does.
BEFORE_THE_ENGINE = [
    "whorl.cli.serve",
    "whorl.stages.improve.registry",
    "whorl.stages.serve.keys",
    "whorl.stages.serve.sockets",
    "whorl.wiring.promise",
]


def test_an_engine_is_asked_for_before_the_server_is_loaded() -> None:
    result = run_python(LOAD.format(modules=BEFORE_THE_ENGINE, heavy=[*HEAVY, "prometheus_client"]))
    assert result.returncode == 0, result.stderr


def test_the_first_line_of_a_command_loads_nothing_slow() -> None:
    heavy = [*HEAVY, "typer", "rich", "pydantic", "numpy", "yaml"]
    modules = ["whorl.__main__", "whorl.cli.early", "whorl.core.children"]
    result = run_python(LOAD.format(modules=modules, heavy=heavy))
    assert result.returncode == 0, result.stderr


def test_light_modules_load_where_nothing_heavy_is_installed() -> None:
    body = LOAD.format(modules=light_modules(), heavy=[])
    result = run_python(BLOCK.format(heavy=HEAVY, body=body))
    assert result.returncode == 0, result.stderr


CLUSTER = "plan --model llama-3-8b --device h100-sxm --count 8 --seq 8192 --global-batch-tokens 1M"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", "--help"], ["--version"], ["doctor"], CLUSTER.split()],
)
def test_commands_run_where_nothing_heavy_is_installed(arguments: list[str]) -> None:
    body = RUN_CLI.format(arguments=arguments)
    result = run_python(BLOCK.format(heavy=HEAVY, body=body))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_package_init_files_are_torch_free() -> None:
    names = [file.module for file in python_files("src") if file.name.endswith("__init__.py")]
    result = run_python(LOAD.format(modules=names, heavy=HEAVY))
    assert result.returncode == 0, report([result.stderr])


def test_planted_violation_is_found(tmp_path: Path) -> None:
    (tmp_path / "planted_module.py").write_text("import scipy\n")
    result = run_python(LOAD.format(modules=["planted_module"], heavy=HEAVY), tmp_path)
    assert result.returncode == 1 and "scipy" in result.stderr
    body = LOAD.format(modules=["planted_module"], heavy=[])
    result = run_python(BLOCK.format(heavy=HEAVY, body=body), tmp_path)
    assert result.returncode == 1 and "No module named 'scipy'" in result.stderr

"""No pickle, eval, exec, yaml.load, remote code, unsafe torch.load or shell anywhere."""

from __future__ import annotations

import ast

import pytest

from tests.policy.conftest import SourceFile, dotted_name, python_files, report

PICKLERS = frozenset({"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"})
BUILTINS = frozenset({"eval", "exec"})
# dotted call -> what to use instead
CALLS = {
    "yaml.load": "yaml.safe_load",
    "yaml.load_all": "yaml.safe_load_all",
    "yaml.full_load": "yaml.safe_load",
    "yaml.unsafe_load": "yaml.safe_load",
    "joblib.load": "safetensors or JSON",
    "joblib.dump": "safetensors or JSON",
    "torch.save": "safetensors",
    "torch.compiler.load_cache_artifacts": "nothing: it unpickles",
    "pandas.read_pickle": "parquet",
    "os.system": "subprocess.run with a list",
    "os.popen": "subprocess.run with a list",
    "tempfile.mktemp": "tempfile.mkstemp",
}
# package -> what src/ loads it by: otherwise it reports to its makers, and loads for longer
LOADED_BY = {"openvino": "load_openvino", "openvino_genai": "load_genai"}


def call_offence(node: ast.Call) -> str | None:
    """Why a call is forbidden; None if it is not."""
    name = dotted_name(node.func)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}

    def is_on(key: str) -> bool:
        value = keywords.get(key)
        return value is not None and not (isinstance(value, ast.Constant) and not value.value)

    if isinstance(node.func, ast.Name) and name in BUILTINS:
        return f"calls {name}"
    if name in CALLS:
        return f"calls {name}; use {CALLS[name]}"
    weights_only = keywords.get("weights_only")
    is_safe = isinstance(weights_only, ast.Constant) and weights_only.value is True
    if name == "torch.load" and not is_safe:
        return "calls torch.load without weights_only=True"
    for key in ("trust_remote_code", "allow_pickle", "shell"):
        if is_on(key):
            return f"passes {key}"
    return None


def load_offence(node: ast.AST) -> str | None:
    """Why an import is forbidden in src/; None if it is not."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    found = next((name for name in names if name in LOADED_BY), None)
    return f"imports {found}; use engines.quiet.{LOADED_BY[found]}" if found else None


def offenders_of(file: SourceFile) -> list[str]:
    offenders = []
    for node in file.nodes:
        reason = load_offence(node) if file.name.startswith("src/") else None
        if reason:
            offenders.append(f"{file.name}:{getattr(node, 'lineno', 0)}: {reason}")
            continue
        if isinstance(node, ast.Import):
            bad = {alias.name.partition(".")[0] for alias in node.names} & PICKLERS
            reason = f"imports {', '.join(sorted(bad))}" if bad else None
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in PICKLERS:
                reason = f"imports from {node.module}"
            elif any(alias.name == "*" for alias in node.names):
                reason = f"imports * from {node.module}"
        elif isinstance(node, ast.Call):
            reason = call_offence(node)
        if reason:
            offenders.append(f"{file.name}:{getattr(node, 'lineno', 0)}: {reason}")
    return offenders


def test_nothing_forbidden_is_used() -> None:
    offenders = [line for file in python_files() for line in offenders_of(file)]
    assert not offenders, report(offenders)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import torch, pickle as p",
        "from pickle import loads",
        "def f():\n    import dill",
        "eval('1')",
        "exec(open('x').read())",
        "yaml.load(text, Loader=yaml.Loader)",
        "torch.load('x.pt')",
        "torch.load('x.pt', weights_only=False)",
        "torch.load('x.pt', weights_only=flag)",
        "torch.save(state, 'x.pt')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=config.trust)",
        "np.load('x.npy', allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "from os import *",
        "import openvino",
        "def f():\n    import openvino_genai as genai",
        "from openvino import Core",
    ],
)
def test_planted_violation_is_found(text: str) -> None:
    assert len(offenders_of(SourceFile("src/whorl/core/planted.py", text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "yaml.safe_load(text)",
        "torch.load('x.pt', weights_only=True)",
        "np.load('x.npy')",
        "re.compile('x')",
        "torch.compile(model)",
        "from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder",
        "load(x, trust_remote_code=False)",
        "text = 'never use pickle or eval(x)'",
    ],
)
def test_good_code_passes(text: str) -> None:
    assert not offenders_of(SourceFile("src/whorl/core/good.py", text))

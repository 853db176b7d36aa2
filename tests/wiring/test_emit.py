"""Units and manifests: what was asked for, health and limits in them, and never a key."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from whorl.core.errors import SpecError
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.promise import Promise
from whorl.testing.models import tiny_model_folder
from whorl.wiring.emit import emit_server

PROMISE = Promise(
    basis="predicted",
    users=8,
    ttft_p95_s=0.3,
    tokens_per_s_per_user=20.0,
    tokens_per_s=160.0,
    prompt_tokens=32,
    memory_bytes=800 * 2**20,
)
WORDS = ["/models/of ours/50% off", "--engine", "openvino", "--set", "serve.max_tokens=64"]


def emitted(
    form: str, name: str = "My model.v1", host: str = "127.0.0.1", home: str = "/var/lib/whorl home"
) -> str:
    config = ServeConfig(port=8123, host=host)
    return emit_server(form, name, WORDS, config, PROMISE, Path(home))


def test_a_unit_of_systemd(tmp_path: Path) -> None:
    text = emitted("systemd")
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    command = lines["ExecStart"]
    assert '"/models/of ours/50%% off"' in command and "--port 8123" in command
    assert lines["EnvironmentFile"] == "/etc/whorl/whorl-my-model-v1.env"
    assert (
        lines["MemoryMax"] == "1000M" and "http://127.0.0.1:8123/health" in lines["ExecStartPost"]
    )
    assert int(lines["TimeoutStopSec"]) > ServeConfig().grace_s
    assert lines["ReadWritePaths"] == '"/var/lib/whorl home"'
    assert lines["Restart"] == "on-failure"  # a server whose engine was given up ends with one
    if (verify := shutil.which("systemd-analyze")) is not None:
        unit = tmp_path / "whorl-my-model-v1.service"
        unit.write_text(text)
        found = subprocess.run([verify, "verify", str(unit)], capture_output=True, text=True)
        assert "Unknown" not in found.stderr and "Invalid" not in found.stderr


def test_signs_that_mean_something_to_systemd() -> None:
    text = emitted("systemd", "50%", "::1", "/srv/$a%b")
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    assert lines["Description"] == "whorl serve 50%%"
    assert lines["ReadWritePaths"] == '"/srv/$a%%b"'
    assert lines["ExecStart"].endswith('--home "/srv/$$a%%b"')
    assert lines["ExecStartPost"].endswith(' "http://[::1]:8123/health"')
    assert lines["User"] == str(os.getuid())


def test_a_manifest_of_kubernetes() -> None:
    deployment, service = yaml.safe_load_all(emitted("kubernetes"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][:3] == ["whorl", "serve", WORDS[0]]
    assert all(
        container[probe]["httpGet"] == {"path": "/health", "port": "http"}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    )
    assert container["resources"]["limits"]["memory"] == "1000Mi"
    key = container["env"][0]
    assert key["name"] == "WHORL_API_KEY" and key["valueFrom"]["secretKeyRef"]["key"] == "api-key"
    assert pod["terminationGracePeriodSeconds"] > ServeConfig().grace_s
    assert container["securityContext"]["readOnlyRootFilesystem"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize("name", ["", "ünï", "x" * 200, "-a-", "A/B@3"])
def test_names_are_those_of_dns(name: str) -> None:
    import re

    found = next(yaml.safe_load_all(emitted("kubernetes", name)))["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", found)


def test_what_there_is_none_of() -> None:
    with pytest.raises(SpecError, match="--emit docker; expected: systemd or kubernetes"):
        emitted("docker")


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model whose weights are not there: nothing is loaded, no key is told."""
    from whorl.cli.main import build_app

    folder = tiny_model_folder(tmp_path / "model", steps=0)
    monkeypatch.setenv("WHORL_API_KEY", "very-secret-key")
    monkeypatch.chdir(tmp_path)
    words = ["serve", "./model", "--replicas", "2", "--set", "serve.max_tokens=64"]
    done = CliRunner().invoke(
        build_app(), [*words, "--emit", "kubernetes", "--home", str(tmp_path / "h")]
    )
    assert done.exit_code == 0, done.output
    command = next(yaml.safe_load_all(done.output))["spec"]["template"]["spec"]["containers"][0]
    assert command["command"][2:7] == [
        str(folder),
        "--replicas",
        "2",
        "--set",
        "serve.max_tokens=64",
    ]
    assert "very-secret-key" not in done.output
    done = CliRunner().invoke(build_app(), [*words, "--dry-run", "--home", str(tmp_path / "h")])
    assert done.exit_code == 0 and "users at once" in done.output and "predicted" in done.output
    first = done.output.strip()
    beside = [*words, "--beside", "hf"]
    done = CliRunner().invoke(build_app(), [*beside, "--dry-run", "--home", str(tmp_path / "h")])
    assert done.exit_code == 0, done.output
    model, other, both = done.output.strip().splitlines()
    name = model.partition(":")[0]
    assert " users at once" in model and other.startswith(f"{name}:hf-f32: ")
    assert both.startswith("side by side: memory up to ") and both not in first
    done = CliRunner().invoke(
        build_app(), [*beside, "--emit", "systemd", "--home", str(tmp_path / "h")]
    )
    assert done.exit_code == 0 and " --beside hf " in done.output, done.output


def test_a_recipe_has_nothing_beside_it(tmp_path: Path) -> None:
    from whorl.cli.main import build_app

    done = CliRunner().invoke(build_app(), ["serve", "mine.yaml", "--beside", "@1"])
    assert isinstance(done.exception, SpecError) or done.exit_code == 2
    assert "--beside goes with a registered model" in f"{done.output}{done.exception}"

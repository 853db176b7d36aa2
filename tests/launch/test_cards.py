"""Cards as the makers' own tools print them: stand-ins on the PATH, with text of real machines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from whorl.cli.main import build_app
from whorl.launch import cards
from whorl.launch.cards import found_cards, measured_rates, own_device
from whorl.stages.plan.cluster.devices import device

NVIDIA = "\n".join(["NVIDIA GeForce RTX 3090, 24576, 350.00"] * 2 + ["Tesla T4, 15360, 70.00"])
AMD = {
    f"card{number}": {
        "Card Series": "AMD Instinct MI300X OAM",
        "VRAM Total Memory (B)": "206141652992",
        "Max Graphics Package Power (W)": "750.0",
    }
    for number in range(8)
}


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def make(name: str, text: str, code: int = 0) -> None:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\nprint({text!r})\nraise SystemExit({code})\n", "utf-8")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return make


def test_nvidia_smi(tool) -> None:
    tool("nvidia-smi", NVIDIA)
    first, second = found_cards()
    assert (first.name, first.number, second.number) == ("NVIDIA GeForce RTX 3090", 2, 1)
    own = own_device(first)
    assert (own.name, own.node_devices, own.power_w) == ("rtx-3090", 2, 350)
    assert own.flops_per_s == device("rtx-3090").flops_per_s
    assert 23 * 2**30 < own.memory_bytes <= 24576 * 2**20


def test_rocm_smi(tool) -> None:
    tool("rocm-smi", json.dumps(AMD))
    (card,) = found_cards()
    own = own_device(card)
    assert (own.name, own.node_devices, own.maker) == ("mi300x", 8, "amd")
    assert own.memory_bytes <= 206141652992


def test_tools_that_fail_find_nothing(tool) -> None:
    assert found_cards() == []
    tool("nvidia-smi", "NVIDIA-SMI has failed", code=9)
    tool("rocm-smi", "not json")
    assert found_cards() == []


def test_an_unknown_card_is_measured(tool, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("nvidia-smi", "NVIDIA Prototype X, 81920, [N/A]")
    monkeypatch.setattr(cards, "measured_rates", lambda target: ({"bf16": 3e14}, 2e12))
    own = own_device(found_cards()[0])
    assert (own.name, own.peak("bf16"), own.memory_bytes_per_s) == (
        "nvidia-prototype-x",
        3e14,
        2e12,
    )
    assert own.memory_bytes == pytest.approx(0.98 * 80 * 2**30)
    assert own.is_nvidia and not own.catalogued


def test_measured_rates_are_those_of_work_that_was_done() -> None:
    found = measured_rates("cpu", product=128, copied=2**20)
    assert found is not None
    flops, bytes_per_s = found
    assert set(flops) == {"fp32", "bf16"} and 1e7 < flops["fp32"] < 1e15
    assert 1e7 < bytes_per_s < 1e13


def test_doctor_writes_what_plan_reads(tool, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    tool("nvidia-smi", "NVIDIA A100-SXM4-80GB, 81920, 400.00")
    path = tmp_path / "my-card.yaml"
    found = CliRunner().invoke(build_app("doctor"), ["doctor", "--device", str(path)])
    assert found.exit_code == 0, found.output
    own, known = device(str(path)), device("a100-80")
    assert own.node_devices == 1
    assert own.peak("bf16") == pytest.approx(known.peak("bf16"))
    assert own.memory_bytes == pytest.approx(known.memory_bytes, rel=1e-3)

"""Facts of a machine, from faked /proc and cgroup files."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from whorl.launch.machine import machine_facts


def test_of_this_machine() -> None:
    facts = machine_facts()
    assert 1 <= facts.cores <= (os.cpu_count() or 1)
    assert 0 < facts.memory_bytes <= psutil.virtual_memory().total
    assert facts.cpu
    assert facts.identity == machine_facts().identity


def test_limits_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("536870912\n")
    facts = machine_facts(tmp_path)
    assert (facts.cores, facts.memory_bytes) == (1, 512 * 2**20)


def test_no_limits(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_facts(tmp_path) == machine_facts(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "model", "bf16"),
    [
        ("processor : 0\nmodel name : Some CPU\nflags : fpu avx512_bf16\n", "Some CPU", True),
        ("model name : Old CPU\nflags : fpu avx2\nmodel name : Other\n", "Old CPU", False),
    ],
)
def test_processor(
    tmp_path: Path, text: str, model: str, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    (tmp_path / "cpuinfo").write_text(text)
    facts = machine_facts(cpuinfo=tmp_path / "cpuinfo")
    assert (facts.cpu, facts.bf16) == (model, bf16)


@pytest.mark.parametrize(("limit", "bf16"), [("avx2", False), ("AVX2", False), ("avx512", True)])
def test_fewer_instructions_are_another_machine(
    tmp_path: Path, limit: str, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("model name : Some CPU\nflags : fpu avx512_bf16\n")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    whole = machine_facts(cpuinfo=tmp_path / "cpuinfo")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", limit)
    limited = machine_facts(cpuinfo=tmp_path / "cpuinfo")
    assert whole.bf16 and limited.bf16 == bf16
    assert limited.identity != whole.identity and limit.lower() in limited.cpu


def test_identity_ignores_a_few_pages() -> None:
    facts = machine_facts()
    fewer = facts.model_copy(update={"memory_bytes": 16 * 2**30 - 4096})
    assert fewer.identity == facts.model_copy(update={"memory_bytes": 16 * 2**30}).identity
    assert fewer.identity != facts.model_copy(update={"memory_bytes": 8 * 2**30}).identity

"""What decides how products are rounded, from faked /proc files."""

from __future__ import annotations

from pathlib import Path

import pytest

from whorl.core.processor import instructions

XEON = "processor : 0\nmodel name : Some CPU\nflags : fpu avx2 ibpb avx512f amx_int8 fma ssbd\n"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "cpuinfo"
    path.write_text(XEON)
    return path


def test_what_does_not_compute_is_no_matter(cpuinfo: Path) -> None:
    """Mitigations come and go with the kernel, a second processor is the first one's like."""
    before = instructions(cpuinfo)
    assert {"Some CPU", "avx2", "avx512f", "amx_int8", "fma"} <= {*before}
    cpuinfo.write_text(XEON.replace(" ibpb", " clwb").replace(" ssbd", "") + "\n" + XEON)
    assert instructions(cpuinfo) == before


@pytest.mark.parametrize(("old", "new"), [(" avx512f", ""), ("Some", "Other"), (" fma", " fma4")])
def test_another_processor(cpuinfo: Path, old: str, new: str) -> None:
    before = instructions(cpuinfo)
    cpuinfo.write_text(XEON.replace(old, new))
    assert instructions(cpuinfo) != before


@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_hidden_instructions(cpuinfo: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = instructions(cpuinfo)
    monkeypatch.setenv(name, "avx2")
    assert instructions(cpuinfo) != before


def test_of_arm_and_of_nothing(cpuinfo: Path, tmp_path: Path) -> None:
    cpuinfo.write_text("processor : 0\nFeatures : fp asimd crc32 bf16 sve\n")
    assert {"asimd", "bf16", "sve"} <= {*instructions(cpuinfo)}
    assert "crc32" not in instructions(cpuinfo)
    assert instructions(tmp_path / "nowhere") == instructions(tmp_path / "nowhere")

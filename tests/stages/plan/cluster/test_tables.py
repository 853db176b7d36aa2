"""Measured tables of products: a table of our own making, and step times that use it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from whorl.arch.known_models import known_model
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import DataError, MissingExtra
from whorl.stages.plan.cluster import tables
from whorl.stages.plan.cluster.amounts import amounts
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import Layout, Precision, TrainingJob
from whorl.stages.plan.cluster.seconds import constants
from whorl.stages.plan.cluster.step import MeasuredStep, calibrate, step_time

FLOPS = 5e14  # of the made-up device: its products run at this rate
SIZES = (1, 64, 4096, 65536)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    tables.product_s.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed aiconfigurator_core without a table."""
    pytest.importorskip("pyarrow", reason="the tables are parquet files")
    folder = tmp_path / "aiconfigurator_core"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('planning must not import this')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder / "systems" / "data"


def write(folder: Path, system: str, rows: list[tuple[str, int, int, int, float]]) -> None:
    """Rows of (type, m, n, k, milliseconds), in the wheel's place and columns."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = folder / system / "gemm" / "engine" / "1.0" / "gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    names = ("gemm_dtype", "m", "n", "k", "latency")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pa.table(columns), path)


def steady(rate: float = FLOPS) -> list[tuple[str, int, int, int, float]]:
    """A device that runs every product at the same rate."""
    sizes = [(m, n, k) for m in SIZES for n in SIZES for k in SIZES]
    return [("bfloat16", m, n, k, 2e3 * m * n * k / rate) for m, n, k in sizes]


def job(model: str, layout: Layout, precision: Precision = "bf16") -> TrainingJob:
    shape = known_model(model)
    return TrainingJob(shape, device("h100-sxm"), layout, 4096, 64, precision, stack="megatron")


def test_tested_shapes_come_back_and_the_fastest_kernel_counts(package: Path) -> None:
    power = 0.7  # time grows as m to this power
    rows = [("fp8", m, 4096, 1024, 0.5 * m**power) for m in (16, 64, 256)]
    rows += [("fp8", 64, 4096, 1024, 99.0), ("fp8", 64, 128, 128, 7.0), ("nvfp4", 1, 8, 8, 1.0)]
    write(package, "b200_sxm", rows)
    for m in (16, 64, 256):
        found = tables.product_s("b200", "fp8", m, 4096, 1024)
        assert found == pytest.approx(0.5e-3 * m**power)
    assert tables.product_s("b200", "fp8", 64, 128, 128) == pytest.approx(7e-3)
    assert tables.product_s("b200", "nvfp4", 1, 8, 8) == pytest.approx(1e-3)
    assert tables.product_s("b200", "fp8", 100, 4096, 1024) == pytest.approx(0.5e-3 * 100**power)
    # beyond the table the efficiency stays: four times the largest m takes four times as long
    assert tables.product_s("b200", "fp8", 1024, 4096, 1024) == pytest.approx(2e-3 * 256**power)
    assert tables.product_s("b200", "fp8", 2, 4096, 1024) == pytest.approx(0.5e-3 * 16**power)
    # n half as large as the nearest tested pair: half the time
    assert tables.product_s("b200", "fp8", 64, 2048, 1024) == pytest.approx(0.25e-3 * 64**power)


def test_nothing_measured_is_none_and_the_curve_is_used(package: Path) -> None:
    write(package, "h100_sxm", steady())
    assert tables.product_s("b200", "bf16", 64, 64, 64) is None
    assert tables.product_s("tpu-v5p", "bf16", 64, 64, 64) is None
    assert tables.product_s("h100-sxm", "fp32", 64, 64, 64) is None
    eight_bits = job("llama-3-8b", Layout(8), "fp8")
    assert step_time(eight_bits, calibrate([], tables=True)) == step_time(eight_bits)
    assert "built-in curve" in tables.tables_note(eight_bits)
    assert "built-in" not in tables.tables_note(replace(eight_bits, precision="bf16"))


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        ("llama-3-8b", Layout(8)),
        ("llama-3-8b", Layout(8, tp=4, pp=2, recompute="full")),
        ("qwen3-30b-a3b", Layout(8, ep=8)),
        ("qwen3-30b-a3b", Layout(8, tp=2, ep=4)),
    ],
)
def test_products_do_the_work_that_parameters_ask_for(
    package: Path, model: str, layout: Layout
) -> None:
    """At one rate for all shapes, time is 2 FLOPs a parameter, pass and token over that rate."""
    write(package, "h100_sxm", steady())
    asked = job(model, layout)
    found = amounts(asked, tables=True).product_s
    counts = count_shape(asked.shape)
    matrices = counts.matmul_active - asked.shape.vocab_size * asked.shape.width - counts.routers
    passes = 4 if layout.recompute == "full" else 3
    expected = 2 * matrices * passes * 4096 / FLOPS / layout.tp / layout.pp
    assert found == pytest.approx(expected, rel=1e-6)
    assert amounts(asked).product_s == 0


def test_step_follows_the_tables_and_a_measured_step_moves_their_level(package: Path) -> None:
    write(package, "h100_sxm", steady(FLOPS / 4))
    write(package, "a100_sxm", steady(FLOPS))
    model, asked = calibrate([], tables=True), job("llama-3-8b", Layout(8))
    slow = step_time(asked, model)
    level = constants().values["tables"] * constants().values["device_h100"]
    own = sum(slow.parts_s[name] for name in ("compute", "efficiency"))
    head = 6 * asked.shape.vocab_size * asked.shape.width * asked.tokens_per_step / 8
    head_s = head / asked.device.peak("bf16") * constants().values["matmul_16"]
    layers_s = amounts(asked, tables=True).product_s * asked.micro_batches
    head_s *= constants().values["device_h100"]
    assert own == pytest.approx(layers_s * level + head_s, rel=1e-3)
    curve = step_time(asked)
    assert slow.step_s > 2 * curve.step_s
    assert slow.parts_s["memory"] < curve.parts_s["memory"]  # a measured product has its own bytes
    assert slow.parts_s["attention"] == pytest.approx(curve.parts_s["attention"])
    measured = calibrate([MeasuredStep(asked, 1.3 * slow.step_s)], tables=True)
    assert 1.2 < step_time(asked, measured).step_s / slow.step_s < 1.35


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtra, match=r"pip install 'whorl\[tables\]'"):
        tables.product_s("h100-sxm", "bf16", 1, 1, 1)
    with pytest.raises(MissingExtra):
        step_time(job("llama-3-8b", Layout(8)), calibrate([], tables=True))


def test_a_file_that_is_no_table_is_named(package: Path) -> None:
    path = package / "h200_sxm/gemm/engine/1.0/gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match=r"gemm_perf\.parquet"):
        tables.product_s("h200", "bf16", 1, 1, 1)

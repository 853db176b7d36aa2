"""The measured rows: read as published, predicted by constants that never saw them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from whorl.stages.plan.serving.times import constants

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"
LEFT_OUT = ("llama-3.1-70b", "deepseek-v3", "minimax-m2.5")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fitting() -> ModuleType:
    return load("fit_serving")


def test_rows_are_the_published_ones(fitting: ModuleType) -> None:
    rows, left_out = fitting.read_rows()
    assert len(rows.token_s) + sum(left_out.values()) == 2_935
    assert set(left_out) == {"speculative", "split pools"}
    # 2026_04_06 Llama-3.1-70B, B200, TensorRT-LLM, fp4, 1 device, 4 requests of 1,024 + 1,024
    here = np.isclose(rows.token_s, 0.012056) & np.isclose(rows.first_s, 0.3046)
    assert here.sum() == 1
    assert rows.labels["model"][here] == "llama-3.1-70b"
    assert rows.load.running[here] == 4


def test_models_left_out_are_predicted(fitting: ModuleType) -> None:
    """The page states a median of 19% and 30% over all models; three of them, with room."""
    rows, _ = fitting.read_rows()
    for name in LEFT_OUT:
        mask = rows.labels["model"] == name
        values = fitting.fit(rows.where(~mask))
        token, first = (np.expm1(-e) for e in fitting.log_errors(rows.where(mask), values))
        assert np.median(abs(token)) < 0.22, name
        assert np.median(abs(first)) < 0.42, name
        error = constants()["error"]["token_s"]
        held = (token > 1 / error[1] - 1) & (token < 1 / error[0] - 1)
        assert held.mean() > 0.8, name


def test_constants_are_those_of_the_rows(fitting: ModuleType) -> None:
    rows, _ = fitting.read_rows()
    stored = constants()["values"]
    old, new = (fitting.log_errors(rows, values) for values in (stored, fitting.fit(rows)))
    for before, after in zip(old, new, strict=True):
        assert np.abs(before - after).max() < 0.02


def test_layouts_of_the_file_are_repaired(fitting: ModuleType, tmp_path: Path) -> None:
    """Its traps: multiplied sizes, one measurement twice, unmarked speculation, split pools."""
    columns = (
        "id,silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,"
        "batch_size,tp_size,attention_dp_size,moe_tp_size,moe_ep_size,"
        "silicon_ttft_ms,silicon_tpot_ms"
    )
    lines = [
        "a_tp8_ep8_1,silicon_concurrency=64,sglang,0.5.9,Qwen/Qwen3.5-397B-A17B,h200_sxm,fp8,agg,"
        "1024,1024,64,64,1,8,8,434.79,30.55",
        "a_tp8_0_ep8_0_7,silicon_concurrency=64,sglang,0.5.9,Qwen/Qwen3.5-397B-A17B,h200_sxm,fp8,"
        "agg,1024,1024,64,8,1,1,8,434.79,30.55",
        "b_tp8_ep1_2,silicon_concurrency=4,trtllm,1.2.0rc6.post3,deepseek-ai/DeepSeek-R1,b200_sxm,"
        "fp8,agg,1024,1024,4,8,1,8,1,195.17,5.38",
        "c_tp36_ep1_3,silicon_concurrency=4,trtllm,,deepseek-ai/DeepSeek-R1,gb200,fp4,agg,"
        "1024,1024,4,36,1,36,1,232.9,6.37",
        "d_tp8_ep1_4,silicon_concurrency=4,trtllm,,deepseek-ai/DeepSeek-R1,gb200,fp4,disagg,"
        "1024,1024,4,8,1,8,1,232.9,6.37",
    ]
    source = tmp_path / "sample.csv"
    source.write_text("\n".join([columns, *lines]) + "\n")
    found = fitting.convert(source)
    assert [row["left_out"] for row in found] == ["", "speculative", "split pools"]
    assert found[0]["devices"] == 8 and found[0]["expert_parallel"] == 1

"""Megatron's arguments, read out of scripts that are never run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stages.plan.ask.test_files import VALUES, assert_read_or_refused, parts, read
from whorl.arch.shape_counts import count_shape
from whorl.stages.plan.ask.files import as_flags, read_file
from whorl.stages.plan.ask.megatron import RULES, SIZES, arguments_of

# sizes of GPT-3 175B (Brown et al. 2020, table 2.1)
MEGATRON = """#!/bin/bash
# Runs the "175B" parameter model
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NUM_NODES=16
WORLD_SIZE=$(($GPUS_PER_NODE*$NUM_NODES))
CHECKPOINT_PATH=$1
TP=8

DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NUM_NODES
    --master_addr localhost
)
GPT_MODEL_ARGS=(
    --num-layers 96
    --hidden-size 12288
    --num-attention-heads 96
    --seq-length 2048
    --max-position-embeddings 2048
    --vocab-size 51200
    --attention-backend auto # Can use (flash/fused/unfused/local)
)
TRAINING_ARGS="
    --micro-batch-size 1 \\
    --global-batch-size 1536
    --train-iters 500000
    --weight-decay 0.1
    --fp16
"
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \\
    ${GPT_MODEL_ARGS[@]} $TRAINING_ARGS \\
    --tensor-model-parallel-size ${TP} \\
    --pipeline-model-parallel-size ${PP:-8} \\
    --sequence-parallel --use-distributed-optimizer \\
    --recompute-granularity selective \\
    --save $CHECKPOINT_PATH
touch "$0.was-run"
"""


def test_megatron_is_read_and_not_run(tmp_path: Path) -> None:
    said, flags = read(tmp_path / "train.sh", MEGATRON)
    assert [path.name for path in tmp_path.iterdir()] == ["train.sh"]  # and no train.sh.was-run
    assert flags["--count"] == "128" and flags["--precision"] == "fp16"
    found = parts(flags)
    assert (found["tp"], found["pp"], found["mbs"]) == ("8", "8", "1")
    assert (found["shard"], found["recompute"], found["sp"]) == ("zero1", "selective", "1")
    assert int(flags["--global-batch-tokens"]) == 1536 * 2048
    assert int(flags["--tokens"]) == 500_000 * 1536 * 2048
    shape = said.shape
    assert shape is not None and (shape.layers, shape.width, shape.ffn_width) == (96, 12288, 49152)
    assert not shape.gated and shape.tied_embeddings and shape.vocab_size == 51200


def test_a_mixture_and_its_moments_in_megatrons_arguments(tmp_path: Path) -> None:
    """Mixtral 8x7B's sizes (arXiv 2401.04088, table 1), moments in bf16, interleaved chunks."""
    path = tmp_path / "moe.sh"
    path.write_text(
        "torchrun pretrain_gpt.py --num-layers 32 --hidden-size 4096 --num-attention-heads 32 "
        "--group-query-attention --num-query-groups 8 --ffn-hidden-size 14336 --swiglu "
        "--normalization RMSNorm --untie-embeddings-and-output-weights --vocab-size 32000 "
        "--num-experts 8 --moe-router-topk 2 --seq-length 4096 --micro-batch-size 1 "
        "--global-batch-size 256 --exp-avg-dtype bf16 --optimizer adam --bf16 "
        "--use-precision-aware-optimizer --pipeline-model-parallel-size 4 "
        "--num-layers-per-virtual-pipeline-stage 4 --expert-model-parallel-size 8"
    )
    said = read_file(path)
    flags = as_flags(said, {"--count": "64"})
    assert flags["--optimizer"] == "adamw_bf16" and parts(flags)["vpp"] == "2"
    assert said.shape is not None and said.shape.experts is not None and not said.warnings
    assert count_shape(said.shape).total == pytest.approx(46.7e9, rel=0.002)  # the paper's 47B


def test_what_only_a_shell_knows_is_named(tmp_path: Path) -> None:
    text = MEGATRON.replace("TP=8", "TP=$(nproc)")
    said, _ = read(tmp_path / "train.sh", text)
    assert any("tensor-model-parallel-size" in line for line in said.warnings)
    assert arguments_of("x --bf16 --lr=3e-4 --a $B") == {"bf16": "true", "lr": "3e-4", "a": "$B"}


@given(st.lists(st.sampled_from(sorted({*RULES, *SIZES}))), VALUES)
@settings(max_examples=60, deadline=None)
def test_any_script_is_read_or_refused(names: list[str], value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sh"
        path.write_text("x --num-layers 8 " + " ".join(f"--{name} {value}" for name in names))
        assert_read_or_refused(path)

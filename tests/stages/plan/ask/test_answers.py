"""A change that is named does what it promises: written into the file, and planned again."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from whorl import planning
from whorl.stages.plan.ask.flags import FLAGS
from whorl.stages.plan.cluster.remedies import CHANGES
from whorl.stages.plan.output.schema import MemoryReport, WayOut

MODEL = "llama-3.2-1b"
TRAINER = {
    **{"model_name_or_path": MODEL, "output_dir": "out", "per_device_train_batch_size": 4},
    **{"gradient_accumulation_steps": 2, "bf16": True, "max_length": 2048},
}
AXOLOTL = {
    **{"base_model": MODEL, "sequence_len": 2048, "micro_batch_size": 4, "bf16": True},
    **{"gradient_accumulation_steps": 2, "optimizer": "adamw_torch"},
}
LLAMAFACTORY = {
    **{"model_name_or_path": MODEL, "stage": "sft", "finetuning_type": "full", "cutoff_len": 2048},
    **{"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "bf16": True},
    "disable_gradient_checkpointing": True,
}
DEEPSPEED = {
    **{"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2},
    **{"bf16.enabled": True, "zero_optimization.stage": 1},
}
TORCHTITAN = {
    **{"training.seq_len": 2048, "training.local_batch_size": 4, "training.global_batch_size": 16},
    **{"activation_checkpoint.mode": "none", "parallelism.data_parallel_shard_degree": 1},
    "parallelism.data_parallel_replicate_degree": 2,
}
MEGATRON = (
    "torchrun pretrain_gpt.py --num-layers 16 --hidden-size 2048 --num-attention-heads 32 "
    "--ffn-hidden-size 8192 --swiglu --vocab-size 128256 --seq-length 2048 --bf16 "
    "--micro-batch-size 4 --global-batch-size 16 --max-position-embeddings 2048"
)
CASES: dict[str, tuple[str | dict[str, Any], dict[str, Any]]] = {
    "trainer": (TRAINER, {}),
    "trainer of paged states": (TRAINER | {"optim": "paged_adamw_32bit"}, {}),
    "trainer with adapters": (TRAINER | {"use_peft": True}, {}),
    "axolotl": (AXOLOTL, {}),
    "axolotl of preferences": (AXOLOTL | {"rl": "dpo"}, {}),
    "llamafactory": (LLAMAFACTORY, {}),
    "llamafactory of preferences": (LLAMAFACTORY | {"stage": "dpo"}, {}),
    "deepspeed": (DEEPSPEED, {"--model": MODEL, "--seq": 2048, "--tune": "full"}),
    "torchtitan": (TORCHTITAN, {"--model": MODEL}),
    "torchtitan alone": (
        TORCHTITAN | {"parallelism.data_parallel_replicate_degree": 1},
        {"--model": MODEL, "--count": 1},
    ),
    "megatron": (MEGATRON, {}),
    "megatron alone": (MEGATRON, {"--count": 1}),
    "": (
        {},
        {
            **{"--model": MODEL, "--seq": 2048, "--tune": "full", "--global-batch-tokens": 32768},
            "--layout": "mbs=4,shard=none",
        },
    ),
}
OURS = {item.flag for item in FLAGS}


def asked(folder: Path, file: str | dict[str, Any], flags: dict[str, Any]) -> MemoryReport:
    path = folder / ("train.sh" if isinstance(file, str) else "train.json")
    path.write_text(file if isinstance(file, str) else json.dumps(file))
    given = {"--device": "h100-sxm", "--count": 2, "--why-oom": True, **flags}
    report = planning.answer(given | ({"--from": path} if file else {}))
    assert isinstance(report, MemoryReport)
    return report


def with_flags(flags: dict[str, Any], words: str) -> dict[str, Any]:
    """Flags as a person adds them; parts of --layout beside those that are there."""
    found = dict(flags)
    pieces = shlex.split(words)
    for flag, value in zip(pieces[::2], pieces[1::2], strict=True):
        parts = dict(part.split("=") for part in str(found.get(flag, "")).split(",") if "=" in part)
        if flag == "--layout":
            parts |= dict(part.split("=") for part in value.split(","))
            value = ",".join(f"{key}={part}" for key, part in parts.items())
        found[flag] = value
    return found


def with_keys(file: dict[str, Any], words: str) -> dict[str, Any]:
    """Keys as a person writes them: `key: value`, several joined by with or and."""
    found = dict(file)
    if "as many times the gradient_accumulation_steps" in words:
        found["gradient_accumulation_steps"] *= 4
    pairs = dict(re.findall(r'([\w.]+)(?:: | = )"?([\w.-]+)"?', words))
    if words.startswith("deepspeed with"):
        pairs = {"deepspeed": pairs}
    assert pairs, words
    return found | pairs


def written(
    file: str | dict[str, Any], flags: dict[str, Any], words: str
) -> tuple[str | dict[str, Any], dict[str, Any]]:
    for part in words.split(", "):
        if part.split()[0] in OURS:
            flags = with_flags(flags, part)
        elif isinstance(file, str):
            file = f"{file} {part}"
        else:
            file = with_keys(file, part)
    return file, flags


def promised(folder: Path, case: str) -> list[tuple[WayOut, MemoryReport]]:
    """(every change that a report names, the report of the file it was written into)."""
    file, flags = CASES[case]
    found = []
    for item in asked(folder, file, flags).changes:
        found.append((item, asked(folder, *written(file, flags, item.words))))
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_saves_what_is_promised(case: str, tmp_path: Path) -> None:
    found = promised(tmp_path, case)
    assert len(found) >= 3
    wrong = [
        f"{item.words}: promised {item.needed_bytes / 2**30:.3f} GiB, "
        f"planned {again.needed_bytes / 2**30:.3f} ({again.label})"
        for item, again in found
        if again.needed_bytes != pytest.approx(item.needed_bytes, rel=1e-9)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_change_is_tried_by_some_tool(tmp_path: Path) -> None:
    tried = {name for case in CASES for item in asked(tmp_path, *CASES[case]).changes
             for name in item.changes}  # fmt: skip
    assert tried == set(CHANGES) - {"step_in_backward"}  # of torchtune, whose files are not read


def test_a_preference_is_not_halved(tmp_path: Path) -> None:
    """Chosen and rejected answers of one example pass together: two sequences are the least."""
    report = asked(tmp_path, *CASES["axolotl of preferences"])
    assert report.question.per_example == 2 and "mbs=8" in report.label
    (way,) = (item for item in report.changes if item.changes == ["micro_batch"])
    assert "micro_batch_size: 1 " in way.words
    least, flags = written(*CASES["axolotl of preferences"], way.words)
    again = asked(tmp_path, least, flags)
    assert "mbs=2" in again.label
    assert not [item for item in again.changes if "micro_batch" in item.changes]

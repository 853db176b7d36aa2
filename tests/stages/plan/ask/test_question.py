"""Flags of fine-tuning, as jobs: by other tools' documentation, and by arithmetic by hand."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whorl.arch.known_models import known_model
from whorl.core.errors import SpecError
from whorl.stages.plan.ask.question import job_of as asked_job
from whorl.stages.plan.ask.question import question
from whorl.stages.plan.ask.rules import OPTIMIZERS
from whorl.stages.plan.ask.trainer import TRAINER, targets
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import Layout, TrainingJob
from whorl.stages.plan.cluster.memory import rank_memory

SHAPE = known_model("llama-3.1-8b")
ASKED = {
    **{"--device": "a100-80", "--count": "1", "--seq": "2048", "--global-batch-tokens": "4096"},
}
PARAMETERS = 8.03e9
GIB = 2**30


def job_of(**flags: Any) -> TrainingJob:
    asked = question("m", SHAPE, ASKED | {f"--{k.replace('_', '-')}": v for k, v in flags.items()})
    layout = Layout(1, micro_batch=2, recompute="full", shard="none")
    return replace(asked_job(asked, SHAPE, device(asked.device)), layout=layout)


def parts(**flags: Any) -> dict[str, float]:
    return {name: size / GIB for name, size in rank_memory(job_of(**flags)).parts.items()}


def test_what_each_kind_of_tuning_holds() -> None:
    """Bytes per parameter by hand: full in bf16 throughout 2, 2, and 4 of moments."""
    pure = parts(tune="full", precision="bf16-true")
    assert pure["weights"] == pytest.approx(2 * PARAMETERS / GIB, rel=0.01)
    assert pure["gradients"] == pytest.approx(2 * PARAMETERS / GIB, rel=0.01)
    assert pure["optimizer"] == pytest.approx(4 * PARAMETERS / GIB, rel=0.02)
    lora = parts(tune="lora", rank=16, precision="bf16-true")
    assert lora["weights"] == pytest.approx(2 * PARAMETERS / GIB, rel=0.02)
    assert lora["gradients"] + lora["optimizer"] < 0.6
    qlora = parts(tune="qlora", rank=16, precision="bf16-true")
    # 4.5 bits of the layers' 6.98e9, 16 of the two tables' 1.05e9 (the head may be quantised)
    assert 0.5625 * 8.03e9 / GIB < qlora["weights"] < (0.5625 * 6.98e9 + 2 * 1.05e9) / GIB * 1.05


def test_eight_bits_of_moments_and_none() -> None:
    full = parts(tune="full", precision="bf16-true", optimizer="adamw")["optimizer"]
    eight = parts(tune="full", precision="bf16-true", optimizer="adamw_bnb_8bit")["optimizer"]
    # two moments of a byte, and an fp32 scale each for every block of 256
    assert eight == pytest.approx((2 + 8 / 256) * PARAMETERS / GIB, rel=0.02)
    assert eight < full
    factored = parts(tune="full", precision="bf16-true", optimizer="adafactor")
    assert factored["optimizer"] < 0.1 * full  # row and column sums: arXiv 1804.04235


def test_adapters_by_their_rank() -> None:
    eight, sixteen = (parts(tune="lora", rank=rank)["gradients"] for rank in (8, 16))
    assert sixteen == pytest.approx(2 * eight, rel=0.01)
    # peft, r=16 on all linears of Llama 3.1 8B: print_trainable_parameters says 41,943,040
    assert 41_943_040 * 2 <= sixteen * GIB <= 41_943_040 * 4 * 1.01


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tune": "some"}, "full, lora, qlora, dora"),
        ({"rank": 8}, "go with adapters"),
        ({"tune": "full", "targets": "all"}, "go with adapters"),
        ({"tune": "lora", "rank": 0}, "--rank"),
        ({"tune": "lora", "base_format": "int3"}, "int4"),
        ({"loss": "liger"}, "eager, fused, chunked"),
        ({"attention": "flash3"}, "flash, eager"),
        ({"optimizer": "adamw_9bit"}, "paged_adamw_8bit"),
        ({"precision": "bf17"}, "bf16_mixed"),
        ({"stack": "tensorflow"}, "torchtune"),
    ],
)
def test_nonsense_is_refused_with_what_there_is(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        job_of(**flags)
    assert words in str(caught.value)


def test_words_for_one_thing_are_one_job() -> None:
    plain = job_of(tune="full", optimizer="adamw_8bit", precision="bf16")
    assert job_of(tune="full", optimizer="adamw-bnb-8bit", precision="bf16-mixed") == plain
    assert job_of(precision="float8").precision == job_of(precision="fp8").precision == "fp8"
    assert job_of(tune="lora", base_format="awq") == job_of(tune="lora", base_format="int4")
    assert job_of(tune="lora", targets="q_proj,v_proj") == job_of(tune="lora", targets="qv")


def test_targets_as_peft_takes_them() -> None:
    assert targets("all-linear") == targets("q_proj,v_proj,down_proj") == "all"
    assert targets("q_proj, k_proj,v_proj,o_proj") == targets("query_key_value") == "attention"


def test_the_trainers_own_names_are_known() -> None:
    """What transformers itself calls its optimisers and arguments, read from its source."""
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        pytest.skip("transformers is not installed")
    tree = ast.parse(Path(found.origin).with_name("training_args.py").read_text("utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = {
        item.value.value
        for item in classes["OptimizerNames"].body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)
    }
    assert len(names & set(OPTIMIZERS)) >= 12
    fields = {
        item.target.id
        for item in classes["TrainingArguments"].body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    used = {
        *("per_device_train_batch_size", "gradient_accumulation_steps", "optim", "bf16", "fp16"),
        *("gradient_checkpointing", "max_steps", "fsdp", "use_liger_kernel"),
    }
    assert used <= fields and used <= set(TRAINER)


def test_a_base_is_stored_as_its_name_says() -> None:
    flags = ASKED | {"--tune": "lora"}
    assert question("TheBloke/Llama-2-7B-AWQ", SHAPE, flags).base_format == "int4"
    assert question("unsloth/llama-3-8b-bnb-4bit", SHAPE, flags).base_format == "nf4"
    assert question("meta-llama/Llama-3.1-8B", SHAPE, flags).base_format == "none"
    stated = flags | {"--base-format": "int8"}
    assert question("TheBloke/Llama-2-7B-AWQ", SHAPE, stated).base_format == "int8"


def test_a_format_that_is_given_asks_no_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"quantization_config": {"quant_method": "quip"}}')
    flags = ASKED | {"--tune": "lora"}
    assert question(str(path), SHAPE, flags | {"--base-format": "int4"}).base_format == "int4"
    with pytest.warns(UserWarning, match="quip"):
        assert question(str(path), SHAPE, flags).base_format == "none"


def test_a_number_of_images_may_be_a_number() -> None:
    shape = known_model("qwen2.5-vl-7b")
    asked = question("m", shape, ASKED | {"--images": 2})
    assert asked.images == "2" and asked_job(asked, shape, device("a100-80")).images == 2


def test_adapters_of_attention_need_attention() -> None:
    shape, flags = known_model("mamba-2.8b"), ASKED | {"--tune": "lora"}
    assert question("m", shape, flags).targets == "all"
    for text in ("qv", "attention"):
        with pytest.raises(SpecError, match="has no attention"):
            question("m", shape, flags | {"--targets": text})

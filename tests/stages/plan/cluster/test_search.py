"""The layout search against brute force over every combination, and against published layouts."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from tests.stages.plan.cluster.outside import outside
from whorl.arch.known_models import known_model
from whorl.arch.shape import AttentionShape, Experts, ModelShape
from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import Layout, TrainingJob
from whorl.stages.plan.cluster.memory import needed_for
from whorl.stages.plan.cluster.rows import parse_row
from whorl.stages.plan.cluster.search import SearchResult, search_layouts
from whorl.stages.plan.cluster.search_remedies import cheapest_changes
from whorl.stages.plan.cluster.search_space import SearchSpace
from whorl.stages.plan.cluster.step import StepTime, step_times

GIB = 2**30
H100 = device("h100-sxm")
DENSE = ModelShape("dense", 6, 1024, 4096, 32_000, AttentionShape(8, 4, 128))
MIXED = ModelShape("mixed", 4, 512, 1024, 32_000, AttentionShape(8, 4, 64), Experts(8, 2, 512))


def space_of(shape: ModelShape = DENSE, **changes: Any) -> SearchSpace:
    given = {"device": H100, "devices": 8, "seq_len": 8192, "global_batch": 24, **changes}
    layout = Layout(given.pop("devices"), offload_optimizer=given.pop("offload_optimizer", False))
    recompute = {"recompute": given.pop("recompute")} if "recompute" in given else {}
    return SearchSpace(TrainingJob(shape, layout=layout, **given), **recompute)


def constant_time(jobs: Sequence[TrainingJob]) -> list[StepTime]:
    return [StepTime(1.0, 0.9, 1.1, {"compute": 1.0}, 1.0, 0.5, 0.5) for _ in jobs]


def peak(job: TrainingJob) -> float:
    return needed_for(job)


def every_layout(space: SearchSpace) -> list[Layout]:
    """All combinations of all degrees, whether or not they make sense together."""
    found = []
    degrees = range(1, 9)
    shards = [("none", None), ("zero1", None), ("zero2", None), ("zero3", None)]
    for tp, pp, vpp, cp, ep in product(degrees, degrees, degrees, degrees, degrees):
        if space.devices % (tp * pp * cp) or (space.shape.experts is None and ep > 1):
            continue
        alone = space.devices == tp * pp  # one rank has nothing to shard
        sizes = range(1, space.global_batch + 1)
        for shard, size, option in product(shards[: 1 if alone else 4], sizes,
                                           space.recomputations()):  # fmt: skip
            layout = Layout(
                space.devices, tp, pp, vpp, cp, ep, *shard, size, *option,  # type: ignore[arg-type]
                schedule="interleaved" if vpp > 1 else "1f1b",
            )  # fmt: skip
            if not outside(space, layout):
                found.append(layout)
    return found


@pytest.mark.parametrize(("shape", "stack"), [(DENSE, "fsdp"), (DENSE, "megatron"),
                                              (MIXED, "megatron")])  # fmt: skip
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_nothing_of_the_whole_space_is_faster(shape: ModelShape, stack: str, share: float) -> None:
    space = space_of(shape, stack=stack, devices=4, global_batch=6, seq_len=4096)
    jobs = [space.job(layout) for layout in every_layout(space)]
    peaks = [peak(job) for job in jobs]
    limit = min(peaks) + share * (max(peaks) - min(peaks))
    able = [job for job, bytes_ in zip(jobs, peaks, strict=True) if bytes_ <= limit]
    found = search_layouts(space, memory_limit_bytes=limit, keep=5)
    fastest = min(step.step_s for step in step_times(able))
    assert len(able) > 20
    assert fastest <= found.best.seconds <= fastest * 1.01
    strict = search_layouts(space, memory_limit_bytes=limit, tie=0)
    assert strict.best.seconds == pytest.approx(fastest, rel=1e-9)
    for job, step in zip(able, step_times(able), strict=True):
        assert any(
            item.seconds <= step.step_s * 1.02 and item.peak_bytes <= peak(job) * 1.02
            for item in strict.pareto
        ), job.layout


def test_enumeration_is_every_combination_the_rules_allow() -> None:
    space = space_of(MIXED, stack="whorl", devices=4, global_batch=6, seq_len=16384)
    listed = [
        space.layout(mesh, size, option)
        for mesh, sizes in space.meshes()
        for size in sizes
        for option in space.recomputations()
    ]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(every_layout(space))


def check_layouts(space: SearchSpace, result: SearchResult) -> None:
    """Conservation laws of a layout, written out anew."""
    for item in (*result.ranked, *result.pareto):
        layout = item.layout
        assert layout.dp * layout.tp * layout.pp * layout.cp == space.devices
        assert space.global_batch % (layout.dp * layout.micro_batch) == 0
        assert space.shape.attention.heads % layout.tp == 0
        assert layout.pp * layout.vpp <= space.shape.layers + 2
        assert space.like.seq_len % layout.cp == 0
        assert (layout.dp * layout.cp * layout.tp) % layout.ep == 0
        assert space.shape.experts is None or space.shape.experts.count % layout.ep == 0
        assert layout.vpp == 1 or item.job.micro_batches % layout.pp == 0  # rounds of pp
        assert space.stack != "megatron" or space.shape.attention.kv_heads % layout.tp == 0
        assert item.peak_bytes <= result.limit_bytes
        assert item.step.low_s < item.seconds < item.step.high_s
        assert outside(space, layout) is None


@pytest.mark.parametrize(
    ("name", "devices", "seq_len", "batch", "stack"),
    [
        ("llama-3.1-8b", 8, 8192, 64, "megatron"),
        ("llama-3.1-70b", 256, 8192, 512, "fsdp"),
        ("llama-3.1-405b", 16384, 8192, 2048, "megatron"),
        ("llama-3.1-8b", 64, 131072, 32, "whorl"),
        ("qwen3-30b-a3b", 64, 4096, 512, "megatron"),
    ],
)
def test_layouts_are_valid_counted_and_not_dominated(
    name: str, devices: int, seq_len: int, batch: int, stack: str
) -> None:
    space = space_of(known_model(name), devices=devices, seq_len=seq_len, global_batch=batch,
                     stack=stack)  # fmt: skip
    start = time.process_time()
    found = search_layouts(space)
    assert time.process_time() - start < 5  # seconds of one core; the promise for 16,384 devices
    check_layouts(space, found)
    counted = found.evaluated + found.dominated + sum(found.infeasible.values())
    assert counted == found.examined
    for faster, smaller in zip(found.pareto, found.pareto[1:], strict=False):
        assert faster.seconds <= smaller.seconds
        assert faster.peak_bytes > smaller.peak_bytes
    assert found.best.why == ""
    assert all(item.why for item in found.ranked[1:])
    order = [item.seconds for item in found.ranked[1:]]
    assert order == sorted(order)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "gemma-2-9b"])
def test_what_is_called_far_too_large_is_so_with_any_recomputation(name: str) -> None:
    space = space_of(known_model(name), devices=16, global_batch=32, seq_len=4096, stack="megatron")
    for mesh, sizes in list(space.meshes())[::5]:
        options = space.recomputations() if sizes else []
        peaks = [peak(space.job(space.layout(mesh, sizes[0], option))) for option in options]
        assert not sizes or peaks[-1] <= 1.25 * min(peaks), mesh


def test_equal_times_choose_the_simplest_with_memory_to_spare() -> None:
    space = space_of()
    best = search_layouts(space, time_of=constant_time, memory_of=lambda job: GIB).best.layout
    assert (best.tp, best.pp, best.vpp, best.cp, best.recompute) == (1, 1, 1, 1, "none")
    tight = search_layouts(
        space, time_of=constant_time,
        memory_of=lambda job: GIB * (1.0 if job.layout.tp == 1 else 0.5),
        memory_limit_bytes=GIB,
    )  # fmt: skip
    assert tight.best.layout.tp > 1


def test_a_layout_given_is_considered_and_never_beaten_by_a_slower_choice() -> None:
    space = space_of()
    odd = Layout(8, tp=8, shard="none", micro_batch=24)
    assert "micro_batch" in (outside(space, odd) or "")

    def odd_wins(jobs: Sequence[TrainingJob]) -> list[StepTime]:
        return [
            StepTime(t, t, t, {}, 1.0, 0.5, 0.5)
            for t in (0.999 if job.layout == odd else 1.0 for job in jobs)
        ]

    found = search_layouts(space, time_of=odd_wins, also=[odd])
    assert found.best.layout == odd
    assert search_layouts(space, time_of=odd_wins).best.layout != odd
    foreign = search_layouts(space, also=[Layout(16), Layout(8, tp=8, pp=1, ep=2)])
    assert foreign.infeasible["the job cannot be run"] == 2


def test_why_names_the_part_that_grew() -> None:
    def slow_pipeline(jobs: Sequence[TrainingJob]) -> list[StepTime]:
        return [
            StepTime(
                1 + b, 1, 2, {"a": 1.0, "bubble": b, "b": b / 9, "c": b / 8, "d": -b / 7}, 1, 1, 1
            )
            for b in (0.5 * (job.layout.pp - 1) for job in jobs)
        ]

    found = search_layouts(space_of(), time_of=slow_pipeline, keep=10_000)
    lost = next(item for item in found.ranked if item.layout.pp == 2)
    assert lost.why.startswith("+50.0% time: bubble +0.5 s, c +0.0625 s against d -0.0714 s")


def changed_by(words: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What a change in the names of CHANGES asks for."""
    fields = dict(fields)
    if found := re.match(r"use (\d+) ([\w-]+)", words):
        fields |= {"devices": int(found[1]), "device": device(found[2])}
    names = words.partition(" (")[0].split(" and ")
    if "optimizer" in names:
        fields["optimizer"] = "adamw_8bit"
    if "offload" in names:
        fields["offload_optimizer"] = True
    if "loss" in names:
        fields["loss"] = "chunked"
    return fields


@pytest.mark.parametrize("name", ["llama-3.1-70b", "llama-3.1-405b"])
def test_infeasible_names_three_changes_and_each_is_enough(name: str) -> None:
    shape = known_model(name)
    asked = {"devices": 8, "seq_len": 8192, "global_batch": 2048, "stack": "megatron"}
    with pytest.raises(PlanError, match=f"{name} on 8 h100-sxm fits") as caught:
        search_layouts(space_of(shape, **asked))
    changes = str(caught.value.__dict__["do"]).split("; or ")
    assert len(set(changes)) == 3
    for change in changes:
        fields = changed_by(change, asked)
        assert fields != asked, change
        assert search_layouts(space_of(shape, **fields), time_of=constant_time).best, change


def test_shorter_sequences_keep_the_tokens_of_a_step() -> None:
    space = space_of(optimizer="sgd", offload_optimizer=True)

    def short_only(job: TrainingJob) -> float:
        return GIB if job.seq_len <= 2048 and job.tokens_per_step == 24 * 8192 else 200 * GIB

    changes = cheapest_changes(space, short_only, H100.memory_bytes)
    assert changes[0].startswith("seq (1.0 GiB")


def test_fewest_devices_are_the_fewest() -> None:
    shape = known_model("llama-3.1-8b")
    space = space_of(shape, devices=1, global_batch=64, stack="megatron")
    with pytest.raises(PlanError) as caught:
        search_layouts(space)
    count = next(int(c.split()[1]) for c in str(caught.value.__dict__["do"]).split("; or ")
                 if c.endswith("h100-sxm"))  # fmt: skip
    for fewer in range(1, count):
        with pytest.raises(PlanError):
            search_layouts(space_of(shape, devices=fewer, global_batch=64, stack="megatron"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"devices": 0}, "devices"),
        ({"devices": -8}, "devices"),
        ({"seq_len": 0}, "seq_len"),
        ({"global_batch": -1}, "global_batch"),
        ({"global_batch": 1.5}, "global_batch"),
        ({"stack": "nothing"}, "software"),
        ({"recompute": ()}, "recompute"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        space_of(**changes)


def test_impossible_requests_say_what_to_do() -> None:
    with pytest.raises(PlanError, match="multiple of"):
        search_layouts(space_of(devices=64, global_batch=7, seq_len=512))
    with pytest.raises(SpecError, match="keep"):
        search_layouts(space_of(), keep=0)
    with pytest.raises(SpecError, match="memory limit"):
        search_layouts(space_of(), memory_limit_bytes=-1.0)
    assert "tp 16" in (outside(space_of(devices=16), Layout(16, tp=16)) or "")


# Layouts that were run, from the publications' own tables.
PUBLISHED = [
    # mosaicml/llm-foundry scripts/train/benchmarking/README.md @8c8dd48
    "mosaicml/llm-foundry,"
    "mpt-70b,64.86,80,8192,64,64,32768,50368,,,,2048,h100,512,amp_bf16,4096,8,1,1,512,1,,,"
    "fsdp-FULL_SHARD/DEFAULT,full",
    "mosaicml/llm-foundry,"
    "mpt-30b,29.98,48,7168,56,56,28672,50368,,,,2048,h100,32,amp_bf16,1344,14,1,1,32,1,,,"
    "fsdp-FULL_SHARD/DEFAULT,full",
    # NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md @067f987
    "NVIDIA-NeMo/Megatron-Bridge,"
    "deepseek-v3,671,61,7168,128,128,18432,129280,256,8,2048,4096,gb300,256,mxfp8,4096,1,1,2,128,1,"
    "32,8,dist-optimizer(zero1),none",
    # InternLM/InternEvo doc/en/train_performance.md
    "InternLM/InternEvo,"
    "internlm-7b,7.32,32,4096,32,32,11008,103168,,,,2048,a100-80,16,bf16,128,2,1,1,16,1,,,"
    "zero1-in-node8,none",
    # Narayanan et al. 2021, arXiv 2104.04473, table 1
    "Narayanan,"
    "gpt-1t,1008,128,25600,160,160,102400,51200,,,,2048,a100-80,3072,fp16,3072,1,8,64,6,1,,1,none,"
    "full",
]
COLUMNS = (
    "source,"
    "model,params_b,n_layers,hidden,n_heads,n_kv_heads,ffn_hidden,vocab,n_experts,top_k,moe_ffn,"
    "seq_len,gpu,n_gpus,precision,global_batch_seqs,micro_batch_seqs,tp,pp,dp,cp,ep,vpp,zero_fsdp,"
    "activation_recompute"
)


@pytest.mark.parametrize("line", PUBLISHED)
def test_published_layouts_are_in_the_space_and_no_faster_than_ours(line: str) -> None:
    row = parse_row(
        dict(zip(COLUMNS.split(","), line.split(","), strict=True)), "tokens_per_s_per_device"
    )
    assert row.job is not None, row.refused
    space = SearchSpace(row.job)
    assert outside(space, row.job.layout) is None
    found = search_layouts(space, keep=3, also=[row.job.layout])
    if peak(row.job) <= row.job.device.memory_bytes:
        assert found.best.seconds <= step_times([row.job])[0].step_s

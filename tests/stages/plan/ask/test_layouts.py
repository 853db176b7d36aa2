"""Flags of `whorl plan` read into numbers and layouts; nonsense gets the clear error."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.core.errors import SpecError
from whorl.stages.plan.ask.layouts import (
    layout_label,
    parse_batch,
    parse_layout,
    parse_measured,
    parse_pairs,
)
from whorl.stages.plan.cluster.job import SELECTIVE_PARTS, Layout


@pytest.mark.parametrize(
    ("text", "seq_len", "sequences"),
    [
        # the batches that papers write so: Llama 3 405B, 2,048 sequences of 8,192 (2407.21783)
        ("16M", 8192, 2048),
        ("16777216", 8192, 2048),
        ("4M", 4096, 1024),
        ("0.5M", 2048, 256),
        ("512K", 4096, 128),  # 512,000 tokens would be 125, which no devices share
        ("64M", 4096, 16384),
        ("1000000", 1000, 1000),
        ("32K", 32768, 1),
        ("8192", 8192, 1),
    ],
)
def test_batches_as_people_write_them(text: str, seq_len: int, sequences: int) -> None:
    assert parse_batch(text, seq_len) == sequences


@pytest.mark.parametrize("text", ["16000000", "5M", "1M", "100", "-3", "0", "sixteen"])
def test_a_batch_of_no_whole_sequences_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="global-batch-tokens"):
        parse_batch(text, 8191)


def test_the_error_names_batches_that_work() -> None:
    with pytest.raises(SpecError) as caught:
        parse_batch("10000", 4096)
    assert caught.value.do == "use 8192 or 12288"
    assert parse_batch("8192", 4096) == 2 and parse_batch("12288", 4096) == 3


def test_layout_of_the_command_line() -> None:
    layout = parse_layout("tp=8, pp=16,vpp=4,mbs=2,recompute=full,zero=3,sp=0", 1024)
    assert layout == Layout(
        devices=1024,
        tp=8,
        pp=16,
        vpp=4,
        micro_batch=2,
        recompute="full",
        shard="zero3",
        sequence_parallel=False,
        schedule="interleaved",
    )
    assert parse_layout("recompute_parts=mlp+moe", 8).recompute == "selective"


layouts = st.builds(
    Layout,
    devices=st.just(2**12),
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 4, 16]),
    vpp=st.integers(1, 4),
    cp=st.sampled_from([1, 2]),
    ep=st.sampled_from([1, 8]),
    shard=st.sampled_from(["none", "zero1", "zero2", "zero3"]),
    shard_devices=st.sampled_from([None, 16]),
    micro_batch=st.integers(1, 8),
    recompute=st.sampled_from(["none", "selective", "full"]),
    recompute_parts=st.lists(st.sampled_from(SELECTIVE_PARTS), unique=True, max_size=2).map(tuple),
    sequence_parallel=st.booleans(),
    schedule=st.sampled_from(["1f1b", "interleaved", "zero_bubble"]),
    offload_optimizer=st.booleans(),
    offload_activations=st.booleans(),
)


@given(layouts)
def test_a_label_is_read_back_as_the_same_layout(layout: Layout) -> None:
    if layout.recompute_parts:
        layout = replace(layout, recompute="selective")
    layout = replace(layout, vpp=layout.vpp if layout.pp > 1 else 1)
    if layout.schedule == ("1f1b" if layout.vpp > 1 else "interleaved"):  # chunks are interleaved
        layout = replace(layout, schedule="interleaved" if layout.vpp > 1 else "1f1b")
    assert parse_layout(layout_label(layout), layout.devices) == layout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tp=8,qq=2", "qq is not known"),
        ("micro_bach=2", "did you mean micro_batch"),
        ("tp", "cannot be read"),
        ("", "empty"),
        ("tp=8,tp=4", "twice"),
        ("tp=-8", "tp"),
        ("tp=0", "tp"),
        ("tp=1.5", "tp"),
        ("tp=3", "not divisible"),
        ("recompute=some", "none, selective, full"),
        ("sp=maybe", "0 or 1"),
        ("recompute_parts=nose", "recompute_parts"),
    ],
)
def test_nonsense_layouts_are_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_layout(text, 64)


def test_a_measured_step() -> None:
    measured = parse_measured("tp=4,pp=4,mbs=1,tokens_per_s=1638", 64)
    assert measured.layout == Layout(devices=64, tp=4, pp=4)
    assert (measured.tokens_per_s_per_device, measured.step_s) == (1638.0, None)
    elsewhere = parse_measured("tp=2,count=16,step_s=3.5", 64)
    assert elsewhere.layout.devices == 16 and elsewhere.step_s == 3.5


@pytest.mark.parametrize(
    "text",
    [
        *("tp=4", "tp=4,tokens_per_s=1,step_s=2", "tp=4,step_s=-1", "tp=4,step_s=nan"),
        *("tokens_per_s=fast", "tp=4,step_s=inf", "count=0,step_s=1"),
    ],
)
def test_nonsense_measurements_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_measured(text, 64)


@pytest.mark.parametrize("text", ["mbs=2,micro_batch=4", "zero=3,shard=none", "sp=1,sp=0"])
def test_a_part_that_is_said_twice_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="given twice"):
        parse_layout(text, 64)


def test_pairs_keep_their_values() -> None:
    assert parse_pairs("users=100, ttft=300ms", "--serve", ("users", "ttft")) == {
        "users": "100",
        "ttft": "300ms",
    }

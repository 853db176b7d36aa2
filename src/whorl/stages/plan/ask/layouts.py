"""What the flags of `whorl plan` say, read into a question and its layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, get_args

from whorl.core.errors import SpecError
from whorl.core.units import parse_count, parse_duration_s, parse_number
from whorl.spec.recipe import DEVICES
from whorl.spec.train_keys import BATCH_TOKENS
from whorl.stages.plan.cluster.job import SELECTIVE_PARTS, Layout, Recompute, Shard
from whorl.stages.plan.spending import KINDS, JobBudget

__all__ = [
    "Measured",
    "layout_label",
    "layout_pairs",
    "parse_batch",
    "parse_budget",
    "parse_layout",
    "parse_measured",
    "parse_pairs",
]

WRITTEN = {"micro_batch": "mbs", "sequence_parallel": "sp", "zero": "shard"}
CHOICES: Mapping[str, Sequence[str]] = {
    "shard": get_args(Shard),
    "recompute": get_args(Recompute),
    "schedule": ("1f1b", "interleaved", "zero_bubble"),
}
LAYOUT_KEYS = (
    "dp",
    "replicas",
    *(field.name for field in fields(Layout) if field.name != "devices"),
    *("mbs", "sp", "zero"),
)
ALWAYS = ("tp", "pp", "micro_batch")  # stand in every label


@dataclass(frozen=True)
class Measured:
    """One step that was timed: its layout, and the rate or the seconds."""

    layout: Layout
    tokens_per_s_per_device: float | None
    step_s: float | None


def parse_pairs(
    text: str, flag: str, known: Sequence[str], same: Mapping[str, str] | None = None
) -> dict[str, str]:
    """ "tp=8,pp=4" -> {"tp": "8", "pp": "4"}; `same`: other spellings of a key -> the one returned.

    Raises SpecError, naming the nearest key.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value:
            raise SpecError(f"{flag} cannot be read", found=part, expected="key=value,key=value")
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise SpecError(
                f"{flag}: {key} is not known",
                expected=", ".join(known),
                do=f"did you mean {near[0]}?" if near else None,
            )
        key = (same or {}).get(key, key)
        if key in found:
            raise SpecError(f"{flag}: {key} is given twice", found=text)
        found[key] = value
    if not found:
        raise SpecError(f"{flag} is empty", expected=f"key=value of {', '.join(known)}")
    return found


def parse_batch(value: object, seq_len: int) -> int:
    """Sequences of one step from its tokens: 16M of 8,192 are the 2,048 of 16 * 2**20 tokens.

    Raises SpecError with the nearest batches.
    """
    flag = "--global-batch-tokens"
    tokens = BATCH_TOKENS.read(value, flag)
    rows, rest = divmod(tokens, seq_len)
    if not rest:
        return int(rows)
    rows = max(1, rows)
    raise SpecError(
        f"{flag} {value} is not a whole number of sequences of {seq_len:,} tokens",
        found=f"{tokens:,} tokens, {tokens / seq_len:.3f} sequences",
        expected=f"a multiple of {seq_len:,}",
        do=f"use {rows * seq_len} or {(rows + 1) * seq_len}",
    )


def parse_budget(text: str) -> JobBudget:
    """A budget from "usd=100k", "time=30days", "device_hours=5e4" or "flops=1e24".

    Raises SpecError unless it is exactly one.
    """
    pairs = parse_pairs(text, "--budget", KINDS)
    if len(pairs) > 1:
        raise SpecError("--budget has several limits", found=text, expected="one of them")
    ((kind, written),) = ((name, pairs[name]) for name in KINDS if name in pairs)
    where = f"--budget: {kind}"
    if kind == "time":
        return JobBudget(kind, parse_duration_s(written, where))
    number = written.removeprefix("$") if kind == "usd" else written
    if number[:1].isdigit() and number[-1:].isalpha():  # 100k
        return JobBudget(kind, float(parse_count(number, where)))
    return JobBudget(kind, parse_number(number, where, 1e-9))


def layout_pairs(text: str, flag: str, *more: str) -> dict[str, str]:
    """The parts of a layout in their usual spelling: zero=3 is shard=zero3. more: other keys."""
    pairs = parse_pairs(text, flag, (*LAYOUT_KEYS, *more), WRITTEN)
    if (level := pairs.get("shard", "")).isdigit():
        pairs["shard"] = f"zero{level}"
    return pairs


def parse_layout(text: str, devices: int, flag: str = "--layout") -> Layout:
    """A layout from "tp=8,pp=16,vpp=4,mbs=1,recompute=full". Raises SpecError."""
    return _layout(layout_pairs(text, flag), devices, flag)


def _layout(pairs: Mapping[str, str], devices: int, flag: str) -> Layout:
    values: dict[str, Any] = {}
    dp = parse_count(pairs["dp"], f"{flag}: dp") if "dp" in pairs else None
    for key, text in pairs.items():
        if key in ("dp", "replicas"):
            continue
        name = {"mbs": "micro_batch", "sp": "sequence_parallel"}.get(key, key)
        where = f"{flag}: {key}"
        if name in CHOICES:
            if text not in CHOICES[name]:
                raise SpecError(where, found=text, expected=", ".join(CHOICES[name]))
            values[name] = text
        elif name == "recompute_parts":
            values[name] = tuple(text.split("+"))
        elif name in ("sequence_parallel", "offload_optimizer", "offload_activations"):
            if text not in ("0", "1", "true", "false"):
                raise SpecError(where, found=text, expected="0 or 1")
            values[name] = text in ("1", "true")
        else:
            values[name] = parse_count(text, where)
    if "recompute_parts" in values:
        values.setdefault("recompute", "selective")
    if values.get("vpp", 1) > 1:
        values.setdefault("schedule", "interleaved")
    layout = Layout(devices=devices, **values)
    if dp not in (None, layout.dp):  # it follows from the others
        raise SpecError(
            f"{flag}: dp {dp} does not go with {devices} devices", expected=f"dp={layout.dp}"
        )
    copies = parse_count(pairs.get("replicas", 1), f"{flag}: replicas")
    if copies > 1:  # of the shards, which then span the other ranks of data
        ranks = layout.dp * layout.cp
        if ranks % copies or layout.shard_devices:
            raise SpecError(
                f"{flag}: replicas={copies} of the shards do not go with {ranks} ranks of data",
                do="use a divisor, or shard_devices alone",
            )
        layout = replace(layout, shard_devices=ranks // copies)
    _check_layout(layout, flag)
    return layout


def _check_layout(layout: Layout, flag: str) -> None:
    """What no software runs is refused rather than read as something else."""
    ranks, chunks = layout.dp * layout.cp, layout.vpp > 1
    for is_wrong, what, do in (
        (
            layout.recompute_parts and layout.recompute != "selective",
            f"recompute_parts do not go with recompute={layout.recompute}",
            "keep one of the two",
        ),
        (chunks and layout.pp == 1, "vpp needs pp above 1", "leave vpp out"),
        (
            layout.schedule == ("1f1b" if chunks else "interleaved"),
            f"schedule={layout.schedule} does not go with vpp={layout.vpp}",
            "leave schedule out, or set vpp: above 1 the schedule is interleaved",
        ),
        (
            layout.shard_devices and ranks % layout.shard_devices,
            f"shard_devices={layout.shard_devices} does not divide dp x cp, {ranks}",
            f"use a divisor of {ranks}",
        ),
    ):
        if is_wrong:
            raise SpecError(f"{flag}: {what}", do=do)


def parse_measured(text: str, devices: int) -> Measured:
    """A layout with tokens_per_s (per device) or step_s, and count if other devices ran it."""
    flag = "--measured"
    pairs = layout_pairs(text, flag, "count", "tokens_per_s", "step_s")
    rates: dict[str, float | None] = {"tokens_per_s": None, "step_s": None}
    for name in rates:
        if given := pairs.pop(name, None):
            rates[name] = parse_number(given, f"{flag}: {name}", 1e-9)
    if (rates["tokens_per_s"] is None) == (rates["step_s"] is None):
        raise SpecError(
            f"{flag} needs one of tokens_per_s (per device) and step_s",
            found=text,
            do='such as --measured "tp=4,pp=4,mbs=1,tokens_per_s=1638"',
        )
    devices = DEVICES.read(pairs.pop("count", devices), f"{flag}: count")
    return Measured(_layout(pairs, devices, flag), rates["tokens_per_s"], rates["step_s"])


def layout_label(layout: Layout) -> str:
    """The layout as --layout takes it: what differs from the defaults, and what people ask for."""
    parts = []
    plain = Layout(devices=layout.devices, schedule="interleaved" if layout.vpp > 1 else "1f1b")
    for field in fields(Layout):
        value = getattr(layout, field.name)
        if field.name == "recompute" and layout.recompute_parts:
            continue  # the parts say it
        if field.name == "devices" or (
            value == getattr(plain, field.name) and field.name not in ALWAYS
        ):
            continue
        if isinstance(value, tuple):
            value = "+".join(part for part in value if part in SELECTIVE_PARTS)
        written = WRITTEN.get(field.name, field.name)
        parts.append(f"{written}={int(value) if isinstance(value, bool) else value}")
    return ",".join(parts)

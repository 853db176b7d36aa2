"""What both the terminal and the page say about a plan, as rows of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from whorl.core.units import format_count, format_duration
from whorl.stages.plan.output.schema import ClusterPlan, Figure, PlannedLayout
from whorl.stages.plan.whole_job import Range

__all__ = [
    "LAYOUT_COLUMNS",
    "gib",
    "headline",
    "layout_row",
    "model_line",
    "named_parts",
    "nats",
    "notes",
    "question_line",
    "seconds",
    "serving_rows",
    "with_interval",
]

Row = tuple[str, str, str]  # name, value, interval or remark
LAYOUT_COLUMNS = ("layout", "step", "tokens/s", "peak memory", "")
COMPUTE, MEMORY, NETWORK = "compute", "memory", "network"
GROUPS = {  # of the parts of a step
    **dict.fromkeys(("compute", "efficiency", "attention", "launch"), COMPUTE),
    **dict.fromkeys(("memory", "optimizer"), MEMORY),
    **dict.fromkeys(("tensor_parallel", "expert_parallel", "context_parallel"), NETWORK),
    **dict.fromkeys(("pipeline_messages", "sharded_weights", "gradient_exchange"), NETWORK),
    "bubble": "bubble",
}
NAMES = {
    "compute": "products at peak rate",
    "efficiency": "products below peak rate",
    "memory": "memory traffic",
}


def seconds(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else format_duration(value)


def gib(num_bytes: float) -> str:
    """Device memory, always in GiB so that rows compare."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes < 2**40 else f"{num_bytes / 2**40:,.1f} TiB"


def nats(value: float) -> str:
    return f"{value:.3f}"


def _usd(value: float) -> str:
    return f"${value:,.0f}" if value < 1e6 else f"${format_count(value)}"


def _mwh(kwh: float) -> str:
    return f"{kwh / 1e3:,.1f} MWh" if kwh < 1e6 else f"{kwh / 1e6:,.1f} GWh"


def _few(count: float) -> str:
    return f"{count:,.1f}"


def _days(value: float) -> str:
    return f"{value:.1f} days" if value >= 2 else f"{24 * value:.1f} h"


def with_interval(figure: Figure | Range, show: Callable[[float], str]) -> str:
    """ "90%: low – high"; nothing for a figure that is exact."""
    if figure.low == figure.high:
        return ""
    return f"{show(figure.low)} – {show(figure.high)}"


def model_line(plan: ClusterPlan) -> str:
    m, shape = plan.model, plan.model.shape
    experts = shape.experts
    words = f", {experts.active} of {experts.count} experts" if experts else ""
    active = f" ({format_count(m.active_parameters)} active)" if experts else ""
    return (
        f"{shape.name}: {format_count(m.parameters)} parameters{active}, {shape.layers} layers of "
        f"width {shape.width}, {shape.attention.heads} heads ({shape.attention.kv_heads} of keys "
        f"and values){words}; {m.training_flops_per_token:.3g} FLOP a token to train, "
        f"{m.weight_bytes / 1e9:,.1f} GB in bf16, {m.kv_bytes_per_token / 1e3:,.1f} kB of cache a "
        "token"
    )


def question_line(plan: ClusterPlan) -> str:
    q = plan.question
    return (
        f"{q.count:,} × {plan.device.name}, {q.precision}, {q.optimizer}, as {q.stack} runs it; "
        f"{q.global_batch:,} sequences of {q.seq_len:,} tokens a step"
    )


def headline(plan: ClusterPlan) -> list[Row]:
    """The figures a person asks for first."""
    step, memory, job, loss = plan.chosen.step, plan.chosen.memory, plan.job, plan.loss
    shares = {name: share for name, share in _shares(step.parts_s).items() if share >= 0.005}
    groups = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    rows: list[Row] = [
        ("time of a step", seconds(step.step_s), f"{seconds(step.low_s)} – {seconds(step.high_s)}"),
        ("tokens/s per device", f"{step.tokens_per_s_per_device:,.0f}", f"MFU {step.mfu:.1%}"),
        (
            "over the speed of light",
            f"{step.step_s / step.roofline_s:.2f}×",
            f"roofline {seconds(step.roofline_s)}",
        ),
        (f"mostly {next(iter(shares))}", f"{next(iter(shares.values())):.0%}", groups),
        (
            f"peak memory, of {gib(plan.device.memory_bytes)}",
            gib(memory.peak_bytes),
            f"{gib(memory.low_bytes)} – {gib(memory.high_bytes)}",
        ),
    ]
    if loss is not None and job is not None:
        each = f"{loss.steps:,} steps"
        name = f"to train {format_count(loss.tokens)} tokens"
        rows.append((name, _days(job.days.value), f"{with_interval(job.days, _days)}, {each}"))
    if job is not None:
        rows += [
            ("device-hours", f"{job.device_hours.value:,.0f}", ""),
            ("money", _usd(job.usd.value), with_interval(job.usd, _usd)),
            ("energy", _mwh(job.energy_kwh.value), with_interval(job.energy_kwh, _mwh)),
            ("interruptions", _few(job.failures.value), with_interval(job.failures, _few)),
            (
                "checkpoint every",
                seconds(job.checkpoint_interval_s),
                f"{job.checkpoint_interval_steps:,} steps, each {seconds(job.checkpoint_write_s)} "
                "to write",
            ),
            ("goodput", f"{job.goodput.value:.1%}", "of the wall time trains"),
        ]
    if loss is not None:
        best = loss.best
        sizes = f"{format_count(best.parameters)} parameters, {format_count(best.tokens)} tokens"
        rows += [
            ("loss, nats per token", nats(loss.loss.value), with_interval(loss.loss, nats)),
            ("best for the same FLOPs", nats(best.loss.value), sizes),
        ]
    return rows


def _shares(parts_s: Mapping[str, float]) -> dict[str, float]:
    """Shares of a step of compute, memory, network and bubble, the largest first."""
    found: dict[str, float] = {}
    for name, value in parts_s.items():
        group = GROUPS.get(name, "other")
        found[group] = found.get(group, 0.0) + value / (sum(parts_s.values()) or 1.0)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def named_parts(parts_s: Mapping[str, float]) -> dict[str, float]:
    """The parts of a step in the words of a person."""
    return {NAMES.get(name, name.replace("_", " ")): value for name, value in parts_s.items()}


def layout_row(planned: PlannedLayout) -> tuple[str, ...]:
    """Cells of LAYOUT_COLUMNS."""
    return (
        planned.label,
        seconds(planned.step.step_s),
        f"{planned.step.tokens_per_s_per_device:,.0f}",
        gib(planned.memory.peak_bytes),
        planned.why,
    )


def notes(plan: ClusterPlan) -> list[str]:
    """What the figures rest on."""
    found = list(plan.loss.notes) if plan.loss else []
    found += plan.job.assumptions if plan.job else ()
    return found + list(plan.serving.notes if plan.serving else ())


def serving_rows(plan: ClusterPlan) -> list[Row]:
    """The serving plan, as `headline`; no rows without one."""
    s = plan.serving
    if s is None:
        return []
    figures = (
        ("replicas", s.replicas, _few),
        ("time to first token, 95th percentile", s.first_token_p95_s, seconds),
        ("tokens/s of a user", s.tokens_per_s_per_user, _few),
        ("tokens/s of all replicas", s.tokens_per_s, _few),
        ("a million output tokens", s.usd_per_million_tokens, lambda usd: f"${usd:.2f}"),
    )
    rows: list[Row] = [
        (
            "engine",
            f"{s.engine}, {s.quantisation}",
            f"devices a replica: {s.devices_per_replica}, at most {s.max_running:,} running",
        )
    ]
    for name, found, form in figures:
        high = "no bound" if found.high is None else form(found.high)
        rows.append((name, form(found.value), f"{form(found.low)} – {high}"))
    rows.append(("money an hour", f"${s.usd_per_hour:,.2f}", f"{s.devices} devices"))
    return rows

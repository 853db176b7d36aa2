"""What both the terminal and the page say about a plan, as rows of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from whorl.core.units import format_count, format_duration
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.seconds import part_name
from whorl.stages.plan.facts import fact
from whorl.stages.plan.output.schema import (
    ClusterPlan,
    LossFigures,
    PlannedLayout,
    Question,
)
from whorl.stages.plan.serving.target import ServingPlan
from whorl.stages.plan.whole_job.view import Range

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
    "safe_lines",
    "seconds",
    "serving_rows",
]

Row = tuple[str, str, str]  # name, value, interval or remark
LAYOUT_COLUMNS = ("layout", "step", "tokens/s", "peak memory", "")
GROUPS = {"generation": "generation"} | {part: of[0] for part, of in fact("parts").items()}


def seconds(value: float) -> str:
    if not 1e-3 <= value < math.inf:
        return f"{value * 1e6:.0f} µs" if value < 1e-3 else "no bound"
    return f"{value * 1e3:.3g} ms" if value < 1 else format_duration(value)


def gib(num_bytes: float) -> str:
    """Device memory, always in GiB so that rows compare."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes < 2**40 else f"{num_bytes / 2**40:,.1f} TiB"


def nats(value: float) -> str:
    return f"{value:.3f}"


def _usd(value: float) -> str:
    if value < 100:
        return f"${value:.2f}"
    return f"${value:,.0f}" if value < 1e6 else f"${format_count(value)}"


def _mwh(kwh: float) -> str:
    if kwh < 1e3:
        return f"{kwh:,.1f} kWh"
    return f"{kwh / 1e3:,.1f} MWh" if kwh < 1e6 else f"{kwh / 1e6:,.1f} GWh"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _few(count: float) -> str:
    if count == math.inf:
        return "no bound"
    return f"{count:,.1f}" if count >= 1 else f"{count:.2g}"


def _days(value: float) -> str:
    if value < 0.2:
        return seconds(86400 * value)
    return f"{value:.1f} days" if value >= 2 else f"{24 * value:.1f} h"


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


def question_line(q: Question, device: Device) -> str:
    base = "16 bits" if q.base_format == "none" else q.base_format
    kind = f"{q.tune}, rank {q.rank} on {q.targets}, base in {base}; " if q.rank else ""
    kind = "full fine-tuning; " if q.tune == "full" else kind
    kind += f"objective {q.objective}; " if q.objective else ""
    kind += f"{q.images} images a sequence; " if q.images else ""
    precision = f"{q.precision}-true" if q.pure_low_precision else q.precision
    return (
        f"{kind}{q.count:,} × {device.name}, {precision}, {q.optimizer}, as {q.stack} runs it; "
        f"{q.global_batch:,} sequences of {q.seq_len:,} tokens a step, "
        f"{q.global_batch * q.seq_len:,} together"
    )


def safe_lines(plan: ClusterPlan) -> list[str]:
    """The safe layout and what it costs; none when the chosen one is safe."""
    return [] if plan.safe is None else [f"{plan.safe.label}: {plan.safe.why}"]


def headline(plan: ClusterPlan) -> list[Row]:
    """The figures a person asks for first."""
    step, memory = plan.chosen.step, plan.chosen.memory
    shares = {name: share for name, share in _shares(step.parts_s).items() if share >= 0.005}
    first, words = next(iter(shares)), ", ".join(f"{n} {share:.0%}" for n, share in shares.items())
    light = f"{step.step_s / step.roofline_s:.2f}×"
    peak = Range(memory.peak_bytes, memory.low_bytes, memory.high_bytes)
    rows = _budget_rows(plan)
    rows += [
        _row("time of a step", Range(step.step_s, step.low_s, step.high_s), seconds),
        ("tokens/s per device", f"{step.tokens_per_s_per_device:,.0f}", f"MFU {step.mfu:.1%}"),
        ("over the speed of light", light, f"roofline {seconds(step.roofline_s)}"),
        (f"mostly {first}", f"{shares[first]:.0%}", words),
        _row(f"peak memory, of {gib(plan.device.memory_bytes)}", peak, gib),
    ]
    loss, job = plan.loss, plan.job
    if job is not None:
        every = f"{job.checkpoint_interval_steps:,} steps, {seconds(job.checkpoint_write_s)} each"
        asked = plan.question
        tokens = asked.tokens or 0 if loss is None else loss.tokens
        steps = loss.steps if loss else round(tokens / (asked.global_batch * asked.seq_len))
        rows += [
            _row(f"{format_count(tokens)} tokens, {steps:,} steps", job.days, _days),
            _row("device-hours", job.device_hours, _hours),
            *([_row("money", job.usd, _usd)] if job.usd_per_device_hour is not None else ()),
            *([_row("energy", job.energy_kwh, _mwh)] if job.energy_kwh.value else ()),
            _row("interruptions", job.failures, _few),
            ("checkpoint every", seconds(job.checkpoint_interval_s), every),
            _row("useful share of the time", job.goodput, lambda share: f"{share:.1%}"),
        ]
    elif plan.question.tune:
        rate = step.tokens_per_s_per_device * plan.question.count
        price = plan.device.price(plan.question.usd_per_device_hour)
        usd = "" if price is None else _usd(price * plan.question.count / 3600 * 1e6 / rate)
        rows.append(("a million tokens take", seconds(1e6 / rate), usd))
    if loss is not None:
        best = loss.best
        sizes = f"{format_count(best.parameters)} parameters, {format_count(best.tokens)} tokens"
        rows += [
            _row("loss, nats per token", loss.loss, nats),
            ("best for the same FLOPs", nats(best.loss.value), sizes),
            _row("batch by the step law, tokens", loss.best_batch_tokens, format_count),
            _row("peak learning rate", loss.best_learning_rate, lambda rate: f"{rate:.2e}"),
        ]
        rows += _law_rows(loss)
    return rows


def _budget_rows(plan: ClusterPlan) -> list[Row]:
    """What the budget buys."""
    bought = plan.budget
    if bought is None:
        return []
    forms: dict[str, Callable[[float], str]] = {
        "usd": _usd,
        "time": lambda seconds: _days(seconds / 86400),
        "device_hours": lambda hours: f"{_hours(hours)} device-hours",
        "flops": lambda flops: f"{flops:.3g} FLOP",
    }
    form = forms[bought.kind]
    rows = [_row(f"spent of {form(bought.amount)}", bought.spent, form)]
    if bought.parameters is not None:
        rows.append(_row("parameters, by the law", bought.parameters, format_count))
    return [*rows, _row("tokens that it buys", bought.tokens, format_count)]


def _law_rows(loss: LossFigures) -> list[Row]:
    """Repeated data, and the size for a life of serving."""
    rows: list[Row] = []
    if loss.unique_tokens and loss.worth_tokens:
        worth = f"worth {format_count(loss.worth_tokens)} fresh tokens"
        rows.append(("passes over the data", f"{loss.tokens / loss.unique_tokens:.1f}", worth))
    if life := loss.lifetime:
        sizes = format_count(life.compute_optimal_params), format_count(life.params)
        tokens = format_count(life.compute_optimal_tokens), format_count(life.tokens)
        saved = f"saves {life.saved_share:.0%} of the FLOPs of training and serving"
        rows += [
            ("parameters, cheapest to train to this loss", sizes[0], f"{tokens[0]} tokens"),
            ("and cheapest to train and serve", sizes[1], f"{tokens[1]} tokens; {saved}"),
        ]
    return rows


def _row(name: str, found: Range, form: Callable[[float], str]) -> Row:
    """An interval of no width is not shown: the figure is counted or has none."""
    ends = "" if found.low == found.high else f"{form(found.low)} – {form(found.high)}"
    return name, form(found.value), ends


def _shares(parts_s: Mapping[str, float]) -> dict[str, float]:
    """Shares of a step of compute, memory, network and bubble, the largest first."""
    found: dict[str, float] = {}
    for name, value in parts_s.items():
        group = GROUPS.get(name, "other")
        found[group] = found.get(group, 0.0) + value / (sum(parts_s.values()) or 1.0)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def named_parts(parts_s: Mapping[str, float]) -> dict[str, float]:
    """The parts of a step in the words of a person."""
    return {part_name(name): value for name, value in parts_s.items()}


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


def serving_rows(s: ServingPlan | None) -> list[Row]:
    """The serving plan, as `headline`; no rows without one."""
    if s is None:
        return []
    batch = f"devices a replica: {s.devices_per_replica}, at most {s.max_running:,} running"
    usd = s.usd_per_million_tokens
    figures = [
        ("replicas", s.replicas, _few),
        ("time to first token, 95th percentile", s.first_token_p95_s, seconds),
        ("tokens/s of a user", s.tokens_per_s_per_user, _few),
        ("tokens/s of all replicas", s.tokens_per_s, _few),
        *([("a million output tokens", usd, _usd)] if s.usd_per_hour is not None else ()),
    ]
    price = "not known" if s.usd_per_hour is None else f"${s.usd_per_hour:,.2f}"
    return [
        ("engine", f"{s.engine}, {s.quantisation}", batch),
        *(
            _row(
                name,
                Range(found.value, found.low, math.inf if found.high is None else found.high),
                form,
            )
            for name, found, form in figures
        ),
        ("money an hour", price, f"devices: {s.devices}"),
    ]

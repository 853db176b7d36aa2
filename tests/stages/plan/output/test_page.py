"""The page, the terminal and the comparison say what the plan says, and nothing else gets in."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from tests.policy.conftest import ROOT
from tests.stages.plan.output.sample import GIB, SHAPE, planned, sample_plan
from whorl.core.errors import DataError, SpecError
from whorl.stages.plan.output import charts
from whorl.stages.plan.output.compare import compare_plans, render_comparison
from whorl.stages.plan.output.page import render_page
from whorl.stages.plan.output.schema import ClusterPlan, load_plan
from whorl.stages.plan.output.text import render_cluster_plan

EVIL = "\"><script>alert('x')</script>&amp;"
VOID = {"meta", "br"}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    return tags


def test_page_is_well_formed_and_needs_no_network() -> None:
    page = render_page(sample_plan())
    tags = read(page)
    assert tags.seen.count("svg") == 5
    for svg in re.findall(r"<svg.*?</svg>", page):
        ET.fromstring(svg)
    assert not {"script", "link", "img", "iframe"} & set(tags.seen)
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name == "src"]
    assert "http" not in page.replace("http-equiv", "")
    assert not re.search(r"\$\w", re.sub(r"\$[\d,]+", "", page)), "a placeholder is left"


def test_what_comes_from_outside_is_escaped() -> None:
    plan = sample_plan()
    evil = planned(EVIL, 2.0, 60, EVIL)
    evil = evil.model_copy(
        update={
            "step": replace(evil.step, parts_s={EVIL: 1.0}),
            "memory": replace(evil.memory, parts={EVIL: 1.0}),
        }
    )
    plan = plan.model_copy(
        update={
            "model": plan.model.model_copy(update={"shape": replace(SHAPE, name=EVIL)}),
            "chosen": evil,
            "runners_up": [evil],
            "warnings": [EVIL],
        }
    )
    page = render_page(plan)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    read(page)


def test_page_and_terminal_show_the_figures() -> None:
    plan = sample_plan()
    page = render_page(plan)
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_cluster_plan(plan))
    text = console.export_text()
    console.file.close()
    for shown in (
        "8.03B",
        "mostly compute",
        "60.0 GiB",
        "4,096",
        "2.050",
        "5.5 days",
        "more bubble",
    ):
        assert shown in page and shown in text, shown


def test_a_stacked_bar_is_as_long_as_its_parts() -> None:
    drawn = charts.stacked_bar({"a": 30.0, "b": 10.0}, str, "t", limit=("has", 80.0))
    svg = ET.fromstring(re.findall(r"<svg.*?</svg>", drawn)[0])
    rects = [rect for rect in svg.iter() if rect.tag.endswith("rect")]
    widths = [float(rect.attrib["width"]) + 1 for rect in rects]
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.01)
    assert sum(widths) == pytest.approx(charts.WIDTH / 2, rel=0.01)  # half of the device


def test_a_plot_keeps_the_order_of_its_points() -> None:
    points = [(10.0**power, 4 - 0.3 * power, "p") for power in range(5)]
    band = [(x, y, y) for x, y, _ in points]
    drawn = charts.plot(points, (100, 3.4, "here"), ("x", "y"), (str, str), band)
    line = re.findall(r'class="line" points="([^"]*)"', drawn)[0]
    pixels = [tuple(map(float, pair.split(","))) for pair in line.split()]
    steps = [b[0] - a[0] for a, b in pairwise(pixels)]
    assert max(steps) == pytest.approx(min(steps), abs=0.2)  # decades are evenly spaced
    assert all(b[1] > a[1] for a, b in pairwise(pixels))  # downwards
    mark = re.search(r'class="mark" cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert mark and (float(mark[1]), float(mark[2])) == pytest.approx(pixels[2], abs=0.2)


def test_every_drawn_rank_is_where_megatron_puts_it() -> None:
    """Megatron-LM's order tp-cp-ep-dp-pp: rank = ((stage * dp + replica) * cp + part) * tp + t."""
    tp, cp, pp, dp = 2, 2, 4, 3
    drawn = charts.nodes(tp, cp, pp, dp, 8)
    named = re.findall(
        r"rank (\d+): pipeline stage (\d+), replica (\d+), context part (\d+), tensor part (\d+)",
        drawn,
    )
    assert len(named) == pp * 8
    for rank, stage, replica, part, tensor in (map(int, row) for row in named):
        assert rank == ((stage * dp + replica) * cp + part) * tp + tensor


def test_comparison_finds_what_differs() -> None:
    first = sample_plan()
    other = sample_plan(
        question=first.question.model_copy(update={"count": 512}),
        chosen=planned("tp=4", 4.0, 30, "", tp=4),
        job=None,
    )
    found = compare_plans(first, other)
    assert found["differs"] == {"question.count": [256, 512], "layout.tp": [8, 4]}
    assert found["figures"]["step_s"] == {"a": 2.0, "b": 4.0, "ratio": 2.0}
    assert found["figures"]["peak_bytes"]["ratio"] == 0.5
    assert found["figures"]["days"] == {"a": first.job.days.value, "b": None, "ratio": None}  # type: ignore[union-attr]
    assert compare_plans(first, first)["differs"] == {}
    console = Console(width=120, record=True, quiet=True)
    console.print(render_comparison(("a.json", "b.json"), found))


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan, path = sample_plan(), tmp_path / "plan.json"
    path.write_text(json.dumps(plan.model_dump(mode="json")))
    assert load_plan(path) == plan


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_plan(tmp_path / "none.json")
    for text in ("{}", "no json", '{"version": 2}', "[]"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match="not a cluster plan"):
            load_plan(tmp_path / "x.json")


def test_every_key_of_the_schema_is_a_word_or_has_a_unit() -> None:
    """Keys stay readable without the code: no abbreviations but those of the field."""
    schema = ClusterPlan.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["question", "model", "device", "chosen"]
    for name, part in schema["$defs"].items():
        for key in part["properties"]:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", key), (name, key)
    assert (ROOT / "docs/plan-schema.json").read_text("utf-8") == (
        json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    ), "do: make docs"


def test_memory_of_the_sample_adds_up() -> None:
    memory = sample_plan().chosen.memory
    assert sum(memory.parts.values()) == 60 * GIB == memory.peak_bytes
    assert ClusterPlan.model_validate(sample_plan().model_dump()) == sample_plan()

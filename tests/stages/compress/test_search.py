"""The search: what is tried, measured, kept and refused; scripted figures, and NNCF once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.stages.compress.test_run import Measured, context, measured, trained
from whorl.core.errors import GateError, PlanError
from whorl.core.ports import Exporter
from whorl.core.records import Record
from whorl.core.rounding import Guessing, Rounding, Speeds, Texts
from whorl.core.variants import Variant
from whorl.model.folder import model_folders, read_card
from whorl.spec.resolved import CompressConfig
from whorl.stages.compress.candidates import (
    Tried,
    candidates_of,
    choose,
    choose_guesses,
    is_beaten,
)
from whorl.stages.compress.picture import front
from whorl.stages.compress.run import run
from whorl.testing.fakes import FakeExporter

__all__ = ["trained"]

TEXTS = [[1, 2, 3]]
CACHE_LOSS = 0.003


class Remembering(FakeExporter):
    """Folders that remember how they were made."""

    def __init__(self, impossible: Callable[[Rounding], bool] = lambda how: False) -> None:
        super().__init__()
        self.made: dict[Path, Rounding] = {}
        self.read: dict[Rounding, Texts] = {}
        self.impossible = impossible

    def compress(self, exported: Path, folder: Path, how: Rounding, texts: Texts = ()) -> None:
        if self.impossible(how):
            raise PlanError(f"no whole groups of {how.group_size}")
        super().compress(exported, folder, how, texts)
        self.made[folder], self.read[how] = how, texts


def loss_of(how: Rounding) -> float:
    """Smaller groups lose less, and methods help: a stand-in."""
    return (
        0.002
        if how.weights == "int8"
        else 0.0001 * (how.group_size or 500) - 0.001 * len(how.methods)
    )


def searched(
    trained: Record,
    tmp_path: Path,
    exporter: Remembering,
    config: CompressConfig,
    guesses: list[Guessing] | None = None,
    times: bool = False,
) -> Record:
    def measure(model: Path, variant: Variant) -> Measured:
        how = exporter.made.get(model)
        if how is None and variant.weights != "f32":  # moved to its place
            how = next(each for each in kept if each.weights == variant.weights)
        more = CACHE_LOSS * (read_card(model).cache == "int8")
        if how is not None:
            kept.append(how)
        return {"text": measured(2.0 if how is None else 2.0 * (1 + loss_of(how) + more))}

    kept: list[Rounding] = []

    def speed(folder: Path, variant: Variant, texts: Texts) -> Speeds:
        assert list(texts) == TEXTS and read_card(folder).variant == variant
        return Speeds(1.0, 2**20, {1: 10.0, 16: 100.0})

    def guess(folder: Path, variant: Variant) -> list[Guessing]:
        assert guesses is not None and read_card(folder).variant == variant
        return guesses

    typed: Exporter = exporter
    given = {"texts": lambda: TEXTS, "speed": speed, "guess": guess, "times": times}
    return run(context(tmp_path), config, trained, typed, measure, **given)  # type: ignore[arg-type]


def test_everything_is_tried_and_the_best_of_the_smallest_is_kept(
    trained: Record, tmp_path: Path
) -> None:
    exporter = Remembering()
    config = CompressConfig(formats=("int8", "int4"), max_bpb_increase=0.01)
    record = searched(trained, tmp_path, exporter, config)
    names = [row["how"] for row in record.metrics["search"]]
    assert len(names) == len(set(names)) == 1 + 2 + 13  # the parent, int8, int4
    kept = {choice["format"]: choice["how"] for choice in record.metrics["choices"]}
    losses = {row["how"]: row["increase"] for row in record.metrics["search"]}
    of_int4 = {name: loss for name, loss in losses.items() if name.startswith("int4")}
    assert kept["int4"] == min(of_int4, key=lambda name: of_int4[name])  # all of one size here
    rows = {row["name"]: row for row in record.metrics["variants"]}
    assert list(rows) == ["copied f32", "copied int8", "copied int4"]
    assert rows["copied int4"]["increase"] == losses[kept["int4"]]
    assert sorted(path.name for path in record.path.iterdir() if path.is_dir()) == [
        "copied-f32",
        "copied-int4",
        "copied-int8",
    ]
    assert set(record.run["speeds"]) == set(names)
    assert (record.path.with_suffix(".run") / "pareto.svg").stat().st_size > 1000
    assert {bool(texts) for how, texts in exporter.read.items() if how.needs_text} == {True}
    assert not any(texts for how, texts in exporter.read.items() if not how.needs_text)


def test_off_makes_one_of_each_format_and_times_nothing(trained: Record, tmp_path: Path) -> None:
    for search, formats in (("off", ("int8", "int4")), ("auto", ("int8",))):
        exporter = Remembering()
        config = CompressConfig(formats=formats, search=search, max_bpb_increase=0.05)
        record = searched(trained, tmp_path / search, exporter, config)
        assert [*exporter.made.values()] == [Rounding.plain(name) for name in formats]
        assert "search" not in record.metrics and "speeds" not in record.run


def test_variants_are_timed_for_a_server_s_targets_without_a_search(
    trained: Record, tmp_path: Path
) -> None:
    config = CompressConfig(formats=("int8",), max_bpb_increase=0.05)
    record = searched(trained, tmp_path, Remembering(), config, times=True)
    assert "search" not in record.metrics
    assert {name: each["tokens_per_s"] for name, each in record.run["speeds"].items()} == {
        name: {"1": 10.0, "16": 100.0} for name in ("copied f32", "copied int8")
    }


@pytest.mark.parametrize(("limit", "cache"), [(0.01, "int8"), (0.0045, "f32")])
def test_a_small_cache_is_kept_where_the_limit_allows_it(
    limit: float, cache: str, trained: Record, tmp_path: Path
) -> None:
    """It costs 0.003 more: 0.5% in all."""
    config = CompressConfig(cache="int8", max_bpb_increase=limit)
    record = searched(trained, tmp_path, Remembering(), config)
    plain, small = [row for row in record.metrics["search"] if row["format"] == "int8"]
    assert small["how"] == f"{plain['how']}, int8 cache"
    assert small["increase"] == pytest.approx(plain["increase"] + CACHE_LOSS, rel=1e-4)
    (row,) = [row for row in record.metrics["variants"] if row["name"] == "copied int8"]
    assert row["increase"] == (small if cache == "int8" else plain)["increase"]
    card, parent = (read_card(record.folder(f"copied-{name}")) for name in ("int8", "f32"))
    assert (card.cache, parent.cache) == (cache, "f32")
    heads, wide = card.shape.attention.kv_heads, card.shape.attention.head_dim
    assert parent.cache_bytes_per_token == card.shape.layers * heads * 2 * wide * 4
    assert (card.cache_bytes_per_token < 0.5 * parent.cache_bytes_per_token) == (cache == "int8")
    (choice,) = record.metrics["choices"]  # one for each format, or all of them look kept
    assert choice["how"] == (small if cache == "int8" else plain)["how"]
    assert ("loses 0.5%, over the limit of 0.45%" in choice["why"]) == (cache == "f32")
    assert ("a token's keys and values take" in choice["why"]) == (cache == "int8")
    assert set(record.run["speeds"]) == {row["how"] for row in record.metrics["search"]}


def test_time_ends_the_search_and_says_what_was_left(trained: Record, tmp_path: Path) -> None:
    config = CompressConfig(formats=("int8", "int4"), search_time_s=0.0, max_bpb_increase=0.05)
    record = searched(trained, tmp_path, Remembering(), config)
    left = [row for row in record.metrics["search"] if "not_tried" in row]
    assert len(left) == 1 + 12 and all("search_time" in row["not_tried"] for row in left)
    assert {choice["format"] for choice in record.metrics["choices"]} == {"int8", "int4"}


def test_ways_that_the_sizes_do_not_allow_are_named(trained: Record, tmp_path: Path) -> None:
    exporter = Remembering(lambda how: how.group_size == 128)
    config = CompressConfig(formats=("int4",), max_bpb_increase=0.05)
    rows = searched(trained, tmp_path / "a", exporter, config).metrics["search"]
    reasons = {row["how"]: row["not_tried"] for row in rows if "not_tried" in row}
    assert reasons and all("128" in name and "whole groups" in why for name, why in reasons.items())
    with pytest.raises(PlanError, match="whole groups"):
        searched(trained, tmp_path / "b", Remembering(lambda how: True), config)


def test_what_cannot_be_made_and_nobody_named_is_left_out(trained: Record, tmp_path: Path) -> None:
    config = CompressConfig(search="off", leaves_out=True)
    record = searched(trained, tmp_path / "a", Remembering(lambda how: True), config)
    assert [str(variant) for variant in model_folders(record)] == ["copied f32"]
    assert [row["verdict"] for row in record.metrics["variants"]] == ["parent"]


def test_a_format_without_an_allowed_way_is_refused(trained: Record, tmp_path: Path) -> None:
    config = CompressConfig(formats=("int8", "int4"), max_bpb_increase=0.0005)
    with pytest.raises(GateError, match=r"int8, int4 is worse") as caught:
        searched(trained, tmp_path, Remembering(), config)
    best = min(loss_of(how) for how in candidates_of("int4", "full"))
    assert f"int4 +{100 * best:.3g}%" in str(caught.value)


def test_choice_by_brute_force() -> None:
    """Against the words of the rule: within the limit, near the smallest, the least loss."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        losses = generator.integers(0, 6, 8) / 100
        sizes = generator.integers(95, 112, 8)
        tried = [
            Tried(Rounding("int4", n), int(size), float(loss), bool(loss <= 0.03))
            for n, (size, loss) in enumerate(zip(sizes, losses, strict=True), 1)
        ]
        found = choose(tried)
        allowed = [one for one in tried if one.loss <= 0.03]
        if not allowed:
            assert found is None
            continue
        smallest = sorted(one.num_bytes for one in allowed)[0]
        near = [one for one in allowed if one.num_bytes * 100 <= smallest * 105]
        assert found is not None and found[0] in near
        assert all(found[0].loss <= one.loss for one in near)
        unbeaten = [one for one in tried if not any(is_beaten(one, by) for by in tried)]
        assert found[0] in unbeaten  # what is beaten is thrown away as it comes
        assert choose(unbeaten) is not None


def test_front_by_brute_force() -> None:
    drawn = np.random.default_rng(1).integers(0, 20, (40, 2))
    points = {str(n): (float(x), float(y)) for n, (x, y) in enumerate(drawn)}
    pairs = set(points.values())
    unbeaten = {(x, y) for x, y in pairs if not any(a <= x and b <= y for a, b in pairs - {(x, y)})}
    kept = front(points)
    assert [points[name] for name in kept] == sorted(unbeaten)


def guessing(guesses: int, alone: float, together: float | None, num_same: int = 24) -> Guessing:
    return Guessing(guesses, 1.5, alone, together, 24, num_same)


@pytest.mark.parametrize(
    ("tried", "kept", "why"),
    [
        ([guessing(2, 1.2, 1.0), guessing(4, 1.4, 0.98), guessing(8, 1.3, 1.1)], 4, "faster so"),
        ([guessing(2, 1.2, 1.0), guessing(4, 1.4, 0.9)], 2, "faster so"),
        ([guessing(2, 1.2, 0.8)], 0, "many requests together are slower"),
        ([guessing(2, 1.02, 1.0), guessing(4, 0.8, None)], 0, "no faster"),
        ([guessing(2, 1.5, 1.0, num_same=23)], 0, "other answers"),
    ],
)
def test_guesses_are_served_where_they_are_faster(
    trained: Record, tmp_path: Path, tried: list[Guessing], kept: int, why: str
) -> None:
    assert choose_guesses(tried)[0] == kept
    config = CompressConfig(formats=("int8",), search="off", speculation="prompt_lookup")
    record = searched(trained, tmp_path, Remembering(), config, tried)
    assert read_card(record.path / "copied-int8").lookup == kept
    assert read_card(record.path / "copied-f32").lookup == 0
    (choice,) = record.metrics["choices"]
    assert why in choice["why"]
    assert ("guesses of" in choice["how"]) == bool(kept)
    (figures,) = record.run["guesses"].values()
    assert [row["alone"] for row in figures] == [each.alone for each in tried]


def test_guesses_are_not_measured_once_a_variant_is_refused(
    trained: Record, tmp_path: Path
) -> None:
    """Nothing will be kept; `guess` is never called."""
    formats = ("int4", "int8")  # the first loses too much
    config = CompressConfig(
        formats=formats, search="off", speculation="prompt_lookup", max_bpb_increase=0.005
    )
    with pytest.raises(GateError, match="int4 is worse than the recipe allows"):
        searched(trained, tmp_path, Remembering(), config, None)


def test_nothing_is_guessed_unless_it_is_asked_for(trained: Record, tmp_path: Path) -> None:
    config = CompressConfig(formats=("int8",), search="fast")
    record = searched(trained, tmp_path, Remembering(), config, [guessing(4, 2.0, 2.0)])
    assert read_card(record.path / "copied-int8").lookup == 0 and "guesses" not in record.run

"""Threads of machines that are not this one, from what their systems tell of themselves."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from whorl.engines.threads import Processor, engine_threads, performance_threads, read_processors


def hybrid() -> list[Processor]:
    """Eight fast cores of two threads, sixteen slow ones of one: a Core i9-13900K."""
    fast = [Processor(i, (0, 4 * (i // 2)), 5_500_000.0) for i in range(16)]
    return fast + [Processor(16 + i, (0, 32 + i), 4_300_000.0) for i in range(16)]


def test_a_hybrid_processor_computes_with_its_fast_cores() -> None:
    assert performance_threads(hybrid()) == 8


def test_favoured_cores_are_not_the_only_fast_ones() -> None:
    """Two cores of a desktop processor clock a little higher than the others."""
    speeds = [5.8e6, 5.8e6, 5.5e6, 5.5e6, 5.5e6, 5.5e6]
    assert performance_threads([Processor(i, (0, i), s) for i, s in enumerate(speeds)]) == 6


def test_two_packages_have_cores_of_the_same_number() -> None:
    both = [Processor(i, (i // 8, i % 8 // 2), 0.0) for i in range(16)]
    assert performance_threads(both) == 8


@given(st.floats(0.01, 40))
def test_no_more_than_the_quota_and_never_none(quota: float) -> None:
    found = performance_threads(hybrid(), quota)
    assert found == max(1, min(8, int(quota)))


def test_nothing_known_is_one_thread() -> None:
    assert performance_threads([]) == 1 == performance_threads([], 0.5)


def test_this_machine(tmp_path: Path) -> None:
    assert 1 <= engine_threads() <= len(read_processors())
    unknown = read_processors(tmp_path)  # no topology told: each processor is a core
    assert performance_threads(unknown) == len(unknown) >= 1


def test_what_the_kernel_writes(tmp_path: Path) -> None:
    here = read_processors(tmp_path)
    for place, each in enumerate(here):
        topology = tmp_path / f"cpu{each.number}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{place // 2}\n")
        (tmp_path / f"cpu{each.number}/cpu_capacity").write_text("1024\n")
    read = read_processors(tmp_path)
    assert all(each.speed == 1024 for each in read)
    assert performance_threads(read) == -(-len(here) // 2)

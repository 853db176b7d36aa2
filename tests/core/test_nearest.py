"""Names that are not known are answered by their family and number."""

from __future__ import annotations

import pytest

from whorl.core.nearest import MAX_COMPARED, meant, nearest

KNOWN = ("v100-16", "a100-80", "a800-80", "h100-sxm", "h100-pcie", "h200", "rtx-4090", "rtx-5090",
         "mi300x", "tpuv4", "tpu-v4", "xeon-8480-2s", "l40s")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "likeliest"),
    [
        ("rtx-4080", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("mi325x", "mi300x"),
        ("h100-smx", "h100-sxm"),
        ("hh100", "h100-pcie"),
        ("h1000", "h100-sxm"),
    ],
)
def test_the_same_family_and_about_the_same_number(name: str, likeliest: str) -> None:
    assert likeliest in nearest(name, KNOWN)


@pytest.mark.parametrize("name", ["t4", "a6000", "a10g", "a10", "l4", "mi250", "rtx-3060", "h20"])
def test_spelling_alone_is_no_kinship(name: str) -> None:
    assert nearest(name, KNOWN) == []


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("TOY STROY (1995)", "; did you mean Toy Story (1995)?"),
        ("hieght", "; did you mean HEIGHT?"),
        ("0", ""),
        ("\0" * 10_000, ""),
    ],
)
def test_a_name_behind_an_error_is_one_of_those_that_are_known(name: str, question: str) -> None:
    known = ["Toy Story (1995)", "HEIGHT", "x" * 500, "place 17"]
    assert meant(name, known) == question
    assert meant(name, [*known, *map(str, range(100, MAX_COMPARED + 100))]) == ""

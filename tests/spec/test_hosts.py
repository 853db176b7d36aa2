"""Names that a server answers to: what a recipe may say."""

from __future__ import annotations

from typing import Any

import pytest

from whorl.core.errors import SpecError
from whorl.spec.load import parse_recipe
from whorl.spec.resolved import ServeConfig

GOOD: dict[str, Any] = {"name": "mine", "data": [{"source": "notes"}]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["mybox.local", "Models.Example."], ("mybox.local", "models.example")),
        ("mybox", ("mybox",)),
        (
            ["my_service", "xn--bcher-kva.example", "a-1"],
            ("my_service", "xn--bcher-kva.example", "a-1"),
        ),
        ([], ()),
    ],
)
def test_names(given: Any, expected: tuple[str, ...]) -> None:
    recipe = parse_recipe({**GOOD, "serve": {"allowed_hosts": given}}).recipe
    assert recipe.serve.allowed_hosts == expected
    assert ServeConfig(**recipe.serve.model_dump()).allowed_hosts == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        "http://mybox",
        "mybox:80",
        "a/b",
        "*",
        "*.example",
        "-a",
        "bücher",
        "a b",
        "x" * 254,
        5,
        [""],
    ],
)
def test_what_is_no_name(given: Any) -> None:
    with pytest.raises(SpecError, match=r"serve\.allowed_hosts"):
        parse_recipe({**GOOD, "serve": {"allowed_hosts": given}})


def test_from_the_command_line_and_an_empty_host() -> None:
    overrides = ['serve.allowed_hosts=["a.example", "b"]', "serve.host=mybox.local"]
    serve = parse_recipe(GOOD, overrides=overrides).recipe.serve
    assert (serve.allowed_hosts, serve.host) == (("a.example", "b"), "mybox.local")
    with pytest.raises(SpecError, match=r"serve\.host"):
        parse_recipe({**GOOD, "serve": {"host": ""}})

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from whorl.core.validation import first_problem


class Inner(BaseModel, extra="forbid"):
    count: int


class Outer(BaseModel):
    name: str
    inner: Inner


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "a"}', "inner: missing"),
        ('{"name": "a", "inner": {"count": "x"}}', "inner.count: 'x'"),
        ('{"name": 1, "inner": {"count": "x"}}', "name: 1 (and 1 more)"),
        ('{"name": "a", "inner": {"count": 1, "b": 2}}', "inner.b: unknown"),
        ("[1", "not JSON"),
    ],
)
def test_a_wrong_file_in_a_few_words(text: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate_json(text)
    assert first_problem(caught.value) == words


def test_other_errors_are_told_as_they_are() -> None:
    assert first_problem(ValueError("no plan")) == "no plan"

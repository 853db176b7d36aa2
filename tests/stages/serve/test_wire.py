"""Events whose common part is written once are the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from whorl.stages.serve.wire import Chunks

ODD = ['"choices": []', 'a"choices": [b', "\\", "é\u2028\n", ""]


@pytest.mark.parametrize("model", ODD)
@pytest.mark.parametrize("more", [{}, {"usage": None}])
def test_chunks_are_what_json_says(model: str, more: dict[str, Any]) -> None:
    whole = {"id": "1", "model": model, "choices": []} | more
    for text in ODD:
        choice = {"index": 0, "text": text, "finish_reason": None}
        data = json.dumps({"id": "1", "model": model, "choices": [choice]} | more)
        assert Chunks(whole).event(choice) == f"data: {data}\n\n"

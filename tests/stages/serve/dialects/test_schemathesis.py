"""What schemathesis makes of docs/openapi.json: requests of the document, and others that are not.

Each is answered or refused as the document says: by its status, its type and its form, and never by
a failure of the server. What a document cannot say (fields that exclude each other, ids that a
model has) may be refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.policy.conftest import ROOT
from tests.stages.serve.conftest import Start
from whorl.codecs.contract import Tokens

schemathesis = pytest.importorskip(
    "schemathesis", reason="schemathesis is not installed: pip install 'whorl[dev]'"
)
DOCUMENT = json.loads((ROOT / "docs/openapi.json").read_text("utf-8"))
# What most requests would end with otherwise: another key, another model, messages that are none.
TALKS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
]
del DOCUMENT["security"]
for form in DOCUMENT["components"]["schemas"].values():
    for name, values in (("model", ["tiny"]), ("messages", TALKS)):
        if (old := form.get("properties", {}).get(name)) is not None:
            may_be_null = {"type": "null"} in old.get("anyOf", ())
            form["properties"][name] = {"enum": [*values, *([None] if may_be_null else [])]}
ROUTES = [(method, path) for path, each in DOCUMENT["paths"].items() for method in each]
EXAMPLES = 12  # of each route, each way
KEY = "test-key-0123456789abcdef"


@pytest.mark.parametrize("is_right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: str(value).strip("/"))
def test_the_document_holds(
    start: Start, chatting: Tokens, tmp_path: Path, method: str, path: str, is_right: bool
) -> None:
    from schemathesis.checks import positive_data_acceptance
    from schemathesis.generation import GenerationMode

    mode = GenerationMode.POSITIVE if is_right else GenerationMode.NEGATIVE
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    if not is_right and "requestBody" not in DOCUMENT["paths"][path][method]:
        pytest.skip("a request without a body cannot be wrong")
    seen: dict[int, int] = {}
    with start(contract=chatting, context_tokens=2048, home=tmp_path) as running:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def hold(case: Any) -> None:
            response = case.call(
                base_url=running.base_url, headers={"Authorization": f"Bearer {KEY}"}
            )
            seen[response.status_code] = seen.get(response.status_code, 0) + 1
            case.validate_response(response, excluded_checks=[positive_data_acceptance])

        hold()
        assert running.client.get("/health").status_code == 200
    print(method, path, seen)
    assert not any(status >= 500 for status in seen if status not in (501, 507)), seen

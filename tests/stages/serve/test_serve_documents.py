"""docs/openapi.json and docs/conformance.md say what the server does."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi.routing import APIRoute

from tests.policy.conftest import ROOT
from tests.stages.serve.conftest import Start
from whorl.stages.serve.dialects.routes import WIRES
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.request import parse_body

ASK = [{"role": "user", "content": "Hi"}]
PAGE_SUFFIXES = {".js", ".css", ".svg", ".ico", ".html", ".woff2"}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": ASK},
    "/v1/responses": {"input": "a"},
    "/v1/messages": {"messages": ASK, "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": ASK},
    "/v1/rank": {"prompt": "a", "candidates": ["b", "c"]},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1]},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs/openapi.json").read_text("utf-8"))
    return found


def checker(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


def test_it_names_every_route(document: dict[str, Any], start: Start) -> None:
    with start() as running:
        routes = {
            (route.path.replace(":path", ""), method.lower())
            for route in running.app.routes
            if isinstance(route, APIRoute)
            for method in (route.methods or set()) - {"HEAD"}
        }
    told = {(path, method) for path, each in document["paths"].items() for method in each}
    assert told <= routes
    files = {path for path, _ in routes - told}
    assert all(path == "/" or Path(path).suffix in PAGE_SUFFIXES for path in files), files


@pytest.mark.parametrize("path", GOOD)
def test_bodies_and_answers_are_as_it_says(
    document: dict[str, Any], start: Start, path: str
) -> None:
    operation = document["paths"][path]["post"]
    wanted = checker(document, operation["requestBody"]["content"]["application/json"]["schema"])
    answers = {
        status: checker(document, told["content"]["application/json"]["schema"])
        for status, told in operation["responses"].items()
    }
    with start() as running:
        wrong = [{"unknown": 1}, {"model": 5}]
        wrong += [{key: None} for key in GOOD[path] if path != "/tokenize" and key != "candidates"]
        for fields in ({}, *wrong):
            body = {"model": "tiny", **GOOD[path], **fields}
            response = running.client.post(path, json=body)
            assert wanted.is_valid(body) == (response.status_code == 200), (fields, response.text)
            answers[str(response.status_code)].validate(response.json())


VALUES = [None, True, False, 0, 1, 0.5, -1, "", "a", "auto", [], ["text"], {}, {"type": "text"}]


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.path)
def test_what_the_parser_takes_is_what_the_schema_allows(
    document: dict[str, Any], wire: Any
) -> None:
    """Of every field, at values of every kind; but for what hangs together with other fields."""
    content = document["paths"][wire.path]["post"]["requestBody"]["content"]["application/json"]
    check = checker(document, content["schema"])
    apart = {"stream_options", "top_logprobs", "continue_final_message", "tool_choice", "input"}
    fields = {*wire.body.model_fields, *wire.body.neutral.same, *wire.body.neutral.about_client}
    for name in sorted(fields - apart):
        for value in VALUES:
            body = {"model": "m", **GOOD[wire.path], name: value}
            try:
                parse_body(json.dumps(body).encode(), wire.body)
            except ApiError as error:
                is_taken, why = False, error.message
            else:
                is_taken, why = True, ""
            assert check.is_valid(body) == is_taken, (name, value, why)


def test_the_table_is_true(start: Start) -> None:
    """Each cell is tried: used and taken fields are accepted, the others are refused by name."""
    lines = (ROOT / "docs/conformance.md").read_text("utf-8").splitlines()
    head, _, *rows = lines[lines.index(next(line for line in lines if "| parameter" in line)) :]
    paths = [cell.strip(" `") for cell in head.split("|")[2:-2]]
    assert paths == [wire.path for wire in WIRES]
    bodies = {wire.path: wire.body for wire in WIRES}
    tried = 0
    for row in rows:
        if not row.startswith("| `"):
            break
        name, *cells = (cell.strip() for cell in row.split("|")[1:-2])
        for path, cell in zip(paths, cells, strict=True):
            body = {"model": "m", **GOOD[path], name.strip("`"): {"no such": [5]}}
            with pytest.raises(ApiError) as caught:
                parse_body(json.dumps(body).encode(), bodies[path])
                raise ApiError(200, "taken", code="taken")
            told = caught.value
            if cell == "taken":
                assert (
                    told.message.startswith(name.strip("`")) and "expected" in told.message
                ) or (told.code == "taken")
            elif cell.startswith(("no", "only")):
                assert told.code == "unsupported_parameter", (name, path, told.message)
            elif cell == "":
                assert told.code == "unknown_parameter", (name, path, told.message)
            else:
                assert told.code in ("invalid_value", "taken", "unknown_parameter")
                assert told.code != "unknown_parameter" or "no such" in told.message
            tried += 1
    assert tried > 250


def test_engines_are_as_the_table_says(tmp_path: Path) -> None:
    specification = importlib.util.spec_from_file_location(
        "serving_pages", ROOT / "docs/serving_pages.py"
    )
    assert specification is not None and specification.loader is not None
    pages = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(pages)
    page = pages.conformance_page("")
    for engine in pages.ENGINES:
        assert engine in page
    from whorl.engines import openvino_engine, torch_engine

    for module in (openvino_engine, torch_engine):
        assert module.UNABLE == pages.UNABLE

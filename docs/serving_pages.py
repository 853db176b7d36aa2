"""What docs/generate.py writes of the server: docs/openapi.json and docs/conformance.md, both from
the routes and from what each wire format declares.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from whorl.codecs.contract import Tokens
from whorl.codecs.label import LabelCodec
from whorl.core.ports import GenerateRequest
from whorl.engines.grammar import UNABLE
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.dialects.routes import BODIES, WIRES
from whorl.stages.serve.dialects.routes import FORMS as FORM_ROUTES
from whorl.stages.serve.forms import FORM
from whorl.stages.serve.request import Body
from whorl.testing.engine import FakeEngine

__all__ = ["conformance_page", "openapi_document", "schema_of", "served_app"]

ENGINES = ("openvino", "torch")
REFUSALS = {
    400: "a field is wrong, unknown, or beyond what the model or the engine can do",
    401: "no key, or a wrong one",
    403: "a Host or Origin that is not the server's",
    404: "there is no such model, or no such answer",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is compressed",
    429: "the server is full; Retry-After says when to try again",
    500: "the engine failed",
    501: "this model cannot chat",
    503: "the server is stopping, or the engine makes no progress",
    507: "the home takes no more",
    504: "the answer was not complete within its deadline",
}
JSON_TYPES = {str: "string", dict: "object", bool: "boolean"}
SCHEMAS = "#/components/schemas/"
FORMS = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
            }
        },
    },
    "AnthropicError": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def served_app() -> FastAPI:
    """The application, of a model that is none."""
    tokens = Tokens.build({"label": LabelCodec(["a", "b"])}, 32)
    digest = tokens.contract.digest
    engine = FakeEngine(digest)
    card = ModelCard(name="model", contract_digest=digest, context_tokens=64)
    try:
        return create_app(engine, tokens, card, ServeConfig(), "k" * 16)
    finally:
        engine.close()


# ------------------------------------------------------------------ OpenAPI


def openapi_document(app: FastAPI, version: str) -> dict[str, Any]:
    """Every route of the service but the page's files, in OpenAPI 3.1."""
    keys = {wire.path: wire.answer_keys for wire in WIRES}
    schemas: dict[str, Any] = dict(FORMS)
    paths: dict[str, Any] = {}
    for route in app.routes:
        if not isinstance(route, APIRoute) or not _is_api(route.path):
            continue
        path = route.path.replace(":path", "")
        for method in sorted((route.methods or set()) - {"HEAD"}):
            operation = _operation(route, keys.get(path, ()), streams=path in keys)
            if path in BODIES:
                content = {"schema": schema_of(BODIES[path], schemas)}
                operation["requestBody"] = {
                    "required": True,
                    "content": {FORM if path in FORM_ROUTES else "application/json": content},
                }
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "whorl", "version": version},
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or ("." not in path and path != "/")


def _operation(route: APIRoute, answer_keys: tuple[str, ...], streams: bool) -> dict[str, Any]:
    form = "AnthropicError" if route.path.startswith("/v1/messages") else "Error"
    error = {"application/json": {"schema": {"$ref": f"{SCHEMAS}{form}"}}}
    answer: dict[str, Any] = {"type": "object"}
    if answer_keys:
        answer["required"] = list(answer_keys)
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if route.path == "/metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
    if streams:
        content["text/event-stream"] = {}  # events, of which OpenAPI 3.1 has no schema
    operation: dict[str, Any] = {
        "summary": route.summary or route.name.replace("_", " "),
        "responses": {
            "200": {"description": "the answer", "content": content},
            **{
                str(status): {"description": why, "content": error}
                for status, why in REFUSALS.items()
            },
        },
    }
    if route.path == "/health":
        operation["security"] = []
    if "{" in route.path:
        name = route.path.partition("{")[2].partition(":")[0].rstrip("}")
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return operation


def schema_of(kind: type[Body], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to a body's schema, which is put among the schemas with all it refers to."""
    schema = kind.model_json_schema(ref_template=f"{SCHEMAS}{{model}}")
    for name, inner in schema.pop("$defs", {}).items():
        schemas[name.lstrip("_")] = _renamed(inner)
    properties = {name: _renamed(each) for name, each in schema["properties"].items()}
    needed = set(schema.get("required", ()))
    for name, info in kind.model_fields.items():
        properties[name].pop("title", None)
        if info.description:
            properties[name]["description"] = info.description
        if name not in needed:
            properties[name] = _or_null(properties[name])
    for name, accepted in kind.neutral.same.items():
        if name not in properties:
            properties[name] = {"enum": [*accepted, None], "description": "changes nothing"}
        elif accepted and "anyOf" in properties[name]:
            properties[name]["anyOf"].append({"enum": list(accepted)})
    for name, (python, _) in kind.neutral.about_client.items():
        properties[name] = {"type": [JSON_TYPES[python], "null"], "description": "changes nothing"}
    schema["properties"] = properties
    schemas[kind.__name__] = schema
    return {"$ref": f"{SCHEMAS}{kind.__name__}"}


def _renamed(value: Any) -> Any:
    """References to private classes under their public names."""
    return json.loads(json.dumps(value).replace(f"{SCHEMAS}_", SCHEMAS))


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Null is as if the field was left out."""
    if {"type": "null"} in schema.get("anyOf", ()):
        return dict(schema)
    told = {key: schema[key] for key in ("default", "description") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in told}
    return {"anyOf": [inner, {"type": "null"}], **told}


# ------------------------------------------------------------------ conformance


def conformance_page(note: str) -> str:
    """Parameter by route, then what of it each engine honours."""
    bodies = {wire.path: wire.body for wire in WIRES}
    names = sorted(
        {
            name
            for body in bodies.values()
            for name in (*body.model_fields, *body.neutral.same, *body.neutral.about_client)
        }
    )
    lines = [
        note,
        "# What requests may ask",
        "",
        "**used**: it does what its wire format says. **taken**: at any value, as it cannot change "
        "the answer. **only …**: taken at the values that change nothing, refused at others. "
        "**no**: known and refused. Nothing: unknown, and refused as that. Every refusal is status "
        "400 and names the field; null is as if a field was left out.",
        "",
        f"| parameter | {' | '.join(f'`{path}`' for path in bodies)} | asks the engine for |",
        f"| --- |{' --- |' * (len(bodies) + 1)}",
    ]
    for name in names:
        cells = [_cell(body, name) for body in bodies.values()]
        wanted = {wire.engine_names[name] for wire in WIRES if name in wire.engine_names}
        asked = ", ".join(f"`{field}`" for field in sorted(wanted))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {asked} |")
    lines += [
        "",
        "Of the routes beside them, which answer without the engine:",
        "",
        "| route | used |",
        "| --- | --- |",
    ]
    for path in (path for path in BODIES if path not in bodies):
        used = ", ".join(f"`{name}`" for name in sorted(BODIES[path].model_fields))
        lines.append(f"| `{path}` | {used} |")
    lines += [
        "",
        "`tool_choice` asks the engine for `grammar` where a call must be made.",
        "",
        "What an engine does not honour is refused before anything is generated, with the name of "
        "the parameter and of the engine.",
        "",
        f"| of the engine | {' | '.join(ENGINES)} | vllm |",
        f"| --- |{' --- |' * len(ENGINES)} --- |",
    ]
    for info in dataclasses.fields(GenerateRequest):
        if info.default is dataclasses.MISSING:
            continue
        can = "no" if info.name in UNABLE - {"grammar"} else "yes"
        cell = "with `whorl[grammar]`" if info.name == "grammar" else can
        lines.append(f"| `{info.name}` |{f' {cell} |' * len(ENGINES)} yes |")
    return "\n".join([*lines, ""])


def _cell(body: type[Body], name: str) -> str:
    if name in body.model_fields:
        return "used"
    if name in body.neutral.about_client:
        return "taken"
    if name not in body.neutral.same:
        return ""
    accepted = body.neutral.same[name]
    return "only " + ", ".join(f"`{json.dumps(each)}`" for each in accepted) if accepted else "no"

"""The page's files at their addresses, and what it is told of a model."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response

from whorl.codecs.contract import Tokens
from whorl.codecs.table import TableCodec
from whorl.core.ports import Codec
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.tasks import CHATS, tasks_of

__all__ = ["PAGE_FILES", "add_page", "page_facts"]

SCRIPT, STYLE, ICON = "text/javascript", "text/css", "image/svg+xml"
PARTS = (
    *("answer", "api", "board", "camera", "card", "chat", "code", "compare", "complete", "dom"),
    *("feedback", "inputs", "load", "markdown", "outputs", "picker", "png", "scene", "schema"),
    *("settings", "sound", "tokens", "tools", "turns", "values"),
)
ROOMS = (
    *("room", "written", "classify", "find", "read", "listen", "speak", "recommend", "graph"),
    *("rows", "labels", "tags", "translate", "play", "chess"),
)
PAGE_FILES = {  # address -> (file of whorl.studio, media type)
    "/": ("index.html", "text/html"),
    "/studio.js": ("studio.js", SCRIPT),
    **{f"/parts/{name}.js": (f"parts/{name}.js", SCRIPT) for name in PARTS},
    **{f"/rooms/{name}.js": (f"rooms/{name}.js", SCRIPT) for name in ROOMS},
    **{f"/{name}.css": (f"{name}.css", STYLE) for name in ("studio", "answers", "rooms")},
    "/icon.svg": ("icon.svg", ICON),
    "/favicon.ico": ("icon.svg", ICON),  # some browsers ask before they read the page
}
MAX_CHOICES = 1000  # told to the page; of a codec with more, a value is typed


def add_page(app: FastAPI) -> None:
    """The page's routes. They are the same for everybody, and need no key (decision 024)."""
    for path, (name, media_type) in PAGE_FILES.items():
        _add_file(app, path, name, media_type)


def _add_file(app: FastAPI, path: str, name: str, media_type: str) -> None:
    data = (files("whorl.studio") / name).read_bytes()

    @app.get(path, name=name, include_in_schema=False)
    async def page_file() -> Response:
        return Response(data, media_type=media_type)


def page_facts(tokens: Tokens, card: ModelCard) -> dict[str, Any]:
    """What the page is told of a model besides what clients of OpenAI's API read."""
    tasks = tasks_of(tokens, card)
    writes = any(each["task"] == CHATS for each in tasks)
    return {
        "tasks": tasks,
        "chats": writes and tokens.contract.chat_template is not None,
        "variants": [each.model_dump() for each in card.variants],
        "special": list(tokens.contract.special)[:MAX_CHOICES],
        "start_ids": list(tokens.contract.start_ids),
        "inputs": {name: _input_form(codec) for name, codec in tokens.codecs.items()},
    }


def _input_form(codec: Codec) -> dict[str, Any]:
    """What an input needs besides the media type: an image's size, a choice's values, columns."""
    form: dict[str, Any] = {"value_ids": codec.value_ids}
    for key in ("width", "height", "channels", "rate"):
        if isinstance(size := getattr(codec, key, None), int):
            form[key] = size
    labels = getattr(codec, "labels", ())
    if codec.value_ids == 1 and 0 < len(labels) <= MAX_CHOICES:
        form["choices"] = list(labels)
    if isinstance(codec, TableCodec):
        form["columns"] = _columns(codec)
    return form


def _columns(codec: TableCodec) -> list[dict[str, Any]]:
    """Of each what its cells may hold: words, or how far its numbers go; and its usual value."""
    is_told = sum(len(each.values) for each in codec.columns if each.edges is None) <= MAX_CHOICES
    return [
        {
            "name": each.name,
            "kind": "words" if each.edges is None else "numbers",
            "values": list(each.values) if each.edges is None and is_told else None,
            "range": None if each.edges is None else [each.values[0], each.values[-1]],
            "usual": None if each.usual is None else each.cell(each.usual),
        }
        for each in codec.columns
    ]

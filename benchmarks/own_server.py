"""A model behind whorl's own server on a free port, asked as clients ask it: for benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import httpx

from whorl.core.home import home_folder
from whorl.servable import find_model
from whorl.serving import open_model_app
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.server import running_server

API_KEY = "benchmark-key-of-this-process"
Found = TypeVar("Found")


def with_server(
    model: str, use: Callable[[httpx.Client, str, Any], Found], timeout_s: float
) -> Found:
    """What `use` makes of a client, the model's name and its tokens. timeout_s: of a request."""
    config = ServeConfig(port=0)
    found = find_model(model, ServeConfig(), home_folder())
    app, close = open_model_app(found, config, API_KEY, home=home_folder(), is_open=False)
    given = {"headers": {"Authorization": f"Bearer {API_KEY}"}, "trust_env": False}
    try:
        with (
            running_server(app, config) as url,
            httpx.Client(base_url=url, timeout=timeout_s, **given) as client,
        ):
            served = app.state.gateway.served
            return use(client, served.card.name, served.tokens)
    finally:
        close()


def transcribed(client: httpx.Client, name: str, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """What the model hears in files of (name, bytes)."""
    answers = []
    for file in files:
        form, data = {"file": file}, {"model": name}
        answer = client.post("/v1/audio/transcriptions", data=data, files=form)
        answers.append(str(answer.raise_for_status().json()["text"]))
    return answers

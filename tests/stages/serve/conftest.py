"""A real uvicorn on a free loopback port, with a fake engine behind it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.text import train_text_codec
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard, QualityFigure
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.server import running_server
from whorl.testing.corpus import tiny_texts, tiny_tokens
from whorl.testing.engine import FakeEngine

API_KEY = "test-key-0123456789abcdef"


@dataclass
class Running:
    """One server under test."""

    base_url: str
    engine: FakeEngine
    app: Any
    client: httpx.Client

    @property
    def gateway(self) -> Gateway:
        gateway: Gateway = self.app.state.gateway
        return gateway

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"model": "tiny", "prompt": "a shell", "max_tokens": 8, **fields}

    def complete(self, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json=self.body(**fields))

    def wait_until(self, condition: Callable[[], bool], within_s: float = 3.0) -> bool:
        end_s = time.monotonic() + within_s
        while not condition() and time.monotonic() < end_s:
            time.sleep(0.005)
        return condition()


Start = Callable[..., "contextlib.AbstractContextManager[Running]"]


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    return tiny_tokens(512)


@pytest.fixture(scope="session")
def mixed() -> Tokens:
    """Of images, labels and text."""
    pictures = np.random.default_rng(0).integers(0, 17, (30, 4, 4)).astype(np.uint8)
    codecs = {
        "image": fit_image_codec(pictures, 12, 2),
        "label": LabelCodec(["cat", "dog"]),
        "text": train_text_codec(tiny_texts(5), 280),
    }
    return Tokens.build(codecs, 320)


@pytest.fixture(scope="session")
def start(tokens: Tokens) -> Start:
    """start(reply=, step_s=, contract=, context_tokens=, home=, **config) -> a context."""

    @contextlib.contextmanager
    def run(
        reply: Any = None,
        step_s: float = 0.0,
        contract: Tokens = tokens,
        context_tokens: int = 256,
        example_prompt: str = "The shell adds",
        home: Path | None = None,
        **config: Any,
    ) -> Iterator[Running]:
        settings = ServeConfig(port=0, **{"grace_s": 1, **config})
        digest = contract.contract.digest
        options = {} if reply is None else {"reply": reply}
        engine = FakeEngine(digest, step_s=step_s, max_running=settings.max_running, **options)
        card = ModelCard(
            name="tiny",
            contract_digest=digest,
            context_tokens=context_tokens,
            lineage={"train": "ab" * 16},
            quality=(QualityFigure(name="", metric="bits_per_byte", value=1.5, low=1.4, high=1.6),),
            example_prompt=example_prompt,
        )
        app = create_app(engine, contract, card, settings, API_KEY, Desk.of(settings, home))
        headers = {"Authorization": f"Bearer {API_KEY}"}
        try:
            with (
                httpx.Client(headers=headers, trust_env=False, timeout=20) as client,
                running_server(app, settings) as base_url,
            ):
                client.base_url = httpx.URL(base_url)
                yield Running(base_url, engine, app, client)
        finally:
            engine.close()

    return run

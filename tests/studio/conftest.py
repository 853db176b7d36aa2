"""Real servers for the page, and one browser for all of a file's tests."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from tests.studio.browser import CHROMIUM, Browser, chromium
from tests.studio.scripted import scripted_app
from whorl.codecs.audio import AudioShape, fit_audio_codec
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.text import train_text_codec
from whorl.core.environments import PlayTask
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard, TaskCard
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.served import Served
from whorl.stages.serve.server import running_server
from whorl.testing.corpus import tiny_texts, tiny_tokens
from whorl.testing.engine import FakeEngine

API_KEY = "test-key-0123456789abcdef"
READY = "document.querySelector('#model').textContent !== 'whorl' || document.title !== 'whorl'"


@dataclass
class Site:
    """A server, and how to open its page."""

    base_url: str
    app: Any
    engine: Any = None
    home: Path | None = None
    rules: Any = None  # of `many`

    def enter(self, browser: Browser) -> None:
        """By the printed address; the browser's window is a desk's."""
        browser.events.clear()
        browser.look(1280, 860)
        browser.open(self.app.state.access.page_address(self.base_url))
        browser.wait_for(READY)


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        print("skipped: chromium is not installed, so the page was not opened in a browser")
        pytest.skip("chromium is not installed: apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@contextlib.contextmanager
def real_site(
    tokens: Tokens,
    home: Path,
    step_s: float = 0.005,
    tasks: tuple[TaskCard, ...] = (),
    plays: Mapping[str, PlayTask] | None = None,
    beside: Sequence[Served] = (),
    **config: Any,
) -> Iterator[Site]:
    """whorl's own server before a fake engine."""
    digest = tokens.contract.digest
    settings = ServeConfig(**{"port": 0, **config})
    engine = FakeEngine(digest, step_s=step_s, max_running=settings.max_running)
    card = ModelCard(
        name="tiny",
        contract_digest=digest,
        context_tokens=8192,
        example_prompt="The shell",
        tasks=tasks,
    )
    desk = Desk.of(settings, home)
    app = create_app(engine, tokens, card, settings, API_KEY, desk, plays, beside)
    try:
        with running_server(app, settings) as base_url:
            yield Site(base_url, app, engine, home)
    finally:
        engine.close()


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("home")
    with real_site(tiny_tokens(), home, max_running=2, max_waiting=0, max_tokens=4096) as found:
        yield found


@pytest.fixture(scope="package")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A model that sees images of 4 x 4 pixels and answers with labels."""
    pictures = np.random.default_rng(0).integers(0, 17, (30, 4, 4)).astype(np.uint8)
    codecs = {"image": fit_image_codec(pictures, 12, 2), "label": LabelCodec(["cat", "dog"])}
    with real_site(Tokens.build(codecs, 64), tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture(scope="package")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A model that hears sounds and answers with words."""
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 3_000, 4_000).astype(np.int16) for _ in range(8)]
    audio = fit_audio_codec(sounds, AudioShape(8_000, 40, 20, 10.0), 2, 16)
    codecs = {"audio": audio, "text": train_text_codec(tiny_texts(5), 300)}
    with real_site(Tokens.build(codecs, 360), tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture(scope="package")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A model of many fields, one for each of the page's rooms; site.rules says what it answers."""
    from tests.studio.many import Rules, many_tasks, many_tokens
    from tests.studio.worlds import PLAYS

    tokens, home = many_tokens(), tmp_path_factory.mktemp("home")
    with real_site(tokens, home, 0.0, many_tasks(), PLAYS) as found:
        found.rules = Rules(tokens)
        found.engine.score, found.engine.reply = found.rules.score, found.rules.reply
        yield found


@pytest.fixture(scope="package")
def scripted() -> Iterator[Site]:
    """See `tests.studio.scripted`."""
    app = scripted_app(step_s=0.001)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", app)
        server.should_exit = True
        thread.join(timeout=10)

"""The page: its files are plain and closed; in a real browser a person types and sees tokens come.

The browser part needs chromium and runs it over its debugging pipe; without it, it is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import PAGE_FILES, create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.server import running_server
from whorl.testing.corpus import tiny_tokens
from whorl.testing.engine import FakeEngine

STUDIO = files("whorl.studio")
HOSTILE = (
    '<script>document.title="owned"</script><img src=x onerror="document.title=1">'
    "<svg onload=alert(1)> [a](javascript:alert(1)) ![b](http://example.org/c.png) \u202eend 漢🎉"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DEADLINE_S = 20.0
# Becomes the browser, which reads descriptor 3 and writes 4; copies first, lest one hide the other.
ON_PIPES = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def text_of(name: str) -> str:
    return (STUDIO / name).read_text(encoding="utf-8")


def test_the_page_asks_for_nothing_from_outside() -> None:
    for name, _ in [*PAGE_FILES.values(), ("denied.html", "")]:
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text_of(name))
        assert set(addresses) <= {"//www.w3.org/2000/svg", "http://www.w3.org/2000/svg"}
        assert "@import" not in text_of(name)


def test_no_inline_code_and_no_html_from_strings() -> None:
    for name in ("index.html", "denied.html"):
        text = text_of(name)
        assert not re.search(r"\son\w+\s*=|<style|style=|javascript:", text)
        assert not re.search(r"<script(?![^>]*src=)", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|\$\(",
        text_of("studio.js"),
    )


def test_every_control_has_a_label_and_every_id_exists() -> None:
    page = text_of("index.html")
    ids = re.findall(r'\bid="([\w-]+)"', page)
    assert len(ids) == len(set(ids))
    for control in re.findall(r'<(?:input|textarea)[^>]*\bid="([\w-]+)"', page):
        assert f'for="{control}"' in page
    used = set(re.findall(r'at\("([\w-]+)"\)', text_of("studio.js")))
    assert used and used <= set(ids)
    assert 'role="alert"' in page and 'role="status"' in page and '<html lang="en">' in page


def test_the_page_starts_with_the_sampling_that_the_server_tells() -> None:
    for control, key in (("temperature", "temperature"), ("top-p", "top_p"), ("seed", "seed")):
        (written,) = re.findall(rf'<input id="{control}"[^>]*>', text_of("index.html"))
        assert "value=" not in written  # the server has the one home of these figures
        assert f'at("{control}").value = model.sampling.{key};' in text_of("studio.js")
        assert re.search(rf'^ +{key}: .*at\("{control}"\)', text_of("studio.js"), re.MULTILINE)


# ------------------------------------------------------------------ in a browser


class Browser:
    """Chromium's DevTools protocol over a pair of pipes; one page."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._number, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._read, 65_536)
            if not block:
                raise RuntimeError("the browser ended")
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.03)
        raise AssertionError(f"the page never came to: {expression}; {self.page_text()}")

    def page_text(self) -> str:
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def press(self, key: str, modifiers: int = 0) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=modifiers)

    def requested(self) -> set[str]:
        self.evaluate("1")
        sent = (e for e in self.events if e.get("method") == "Network.requestWillBeSent")
        return {event["params"]["request"]["url"] for event in sent}


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    to_browser, from_browser = os.pipe(), os.pipe()

    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
    flags += ("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage")
    ends = (to_browser[0], from_browser[1])
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", ON_PIPES, *map(str, ends)),
            *(CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"),
        ],
        pass_fds=ends,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Browser(to_browser[1], from_browser[0])
    finally:
        process.kill()
        process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_person_types_and_sees_tokens_arrive(tmp_path: Path) -> None:
    tokens = tiny_tokens()
    digest = tokens.contract.digest
    reply = tokens.encode_prompt(HOSTILE)[1:]
    engine = FakeEngine(digest, lambda request: reply[: request.max_tokens], step_s=0.01)
    card = ModelCard(
        name="tiny", contract_digest=digest, context_tokens=512, example_prompt="The shell"
    )
    config = ServeConfig(port=0, max_running=1, max_waiting=0)
    app = create_app(engine, tokens, card, config, None)
    with running_server(app, config) as base_url, chromium(tmp_path) as browser:
        browser.call("Page.navigate", url=base_url)
        browser.wait_for("document.body && document.body.innerText.includes('printed')")
        browser.call("Page.navigate", url=app.state.access.page_address(base_url))
        browser.wait_for("document.querySelector('#generate:not([disabled])') !== null")
        assert browser.evaluate("location.href") == f"{base_url}/"  # no token left in it
        assert browser.evaluate("document.getElementById('prompt').value") == "The shell"

        browser.evaluate("document.getElementById('max-tokens').value = 400")
        browser.press("Enter", modifiers=2)
        answer = "document.getElementById('answer').textContent"
        early = browser.wait_for(answer)
        assert HOSTILE.startswith(early) and len(early) < len(HOSTILE) / 2  # it grows
        browser.wait_for("document.getElementById('status').textContent.includes('ended')")
        assert browser.evaluate(answer) == HOSTILE  # as text: nothing of it became an element
        assert browser.evaluate("document.title") == "tiny · whorl"
        assert browser.evaluate("document.querySelectorAll('#output *').length") == 3
        count = browser.evaluate("document.getElementById('count').textContent")
        assert int(count) == len(reply)
        assert "tokens/s" in browser.evaluate("document.getElementById('speed').textContent")
        asked = engine.submitted[-1]
        assert (asked.temperature, asked.top_p, asked.seed) == (0.7, 0.95, 0)

        engine.reply = lambda request: [300] * request.max_tokens
        browser.evaluate("document.getElementById('generate').click()")
        browser.wait_for(f"{answer}.length > 3")
        browser.press("Escape")
        browser.wait_for("document.getElementById('status').textContent === 'Stopped.'")
        freed_by_s = time.monotonic() + 2
        while app.state.gateway.inside and time.monotonic() < freed_by_s:
            time.sleep(0.01)
        assert app.state.gateway.inside == 0

        (ticket,) = app.state.gateway.desk.admission.enter("other")  # the one place is taken
        browser.evaluate("document.getElementById('generate').click()")
        browser.wait_for("document.getElementById('error').textContent.includes('full')")
        app.state.gateway.desk.admission.leave(ticket)

        assert all(url.startswith(base_url) for url in browser.requested() - {"about:blank"})
        refused = [e["params"] for e in browser.events if e.get("method") == "Log.entryAdded"]
        refused = [e for e in refused if "401" not in str(e) and "429" not in str(e)]
        assert refused == []
    engine.close()

"""Chromium by its DevTools protocol over a pair of pipes: one page, used as a person does."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["CHROMIUM", "Browser", "chromium"]

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
KEY_CODES = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32, "ArrowRight": 39, "ArrowLeft": 37}
KEY_CODES |= {"ArrowUp": 38, "ArrowDown": 40, "Delete": 46}
SHIFT, CTRL = 8, 2


class Browser:
    """One page of it."""

    _session: str | None = None

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._number, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

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

    # ---------------------------------------------------------------- looking

    def evaluate(self, expression: str) -> Any:
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.03)
        raise AssertionError(f"the page never came to: {expression}; {self.page_text()}")

    def text(self, selector: str) -> str:
        """Of all elements that match, one a line."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return str(self.evaluate(f"{found}.map((each) => each.textContent).join('\\n')"))

    def has(self, selector: str, text: str = "") -> None:
        """Waits until an element matches, with some text in it."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        self.wait_for(f"{found}.some((each) => each.textContent.includes({json.dumps(text)}))")

    def page_text(self) -> str:
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def requested(self) -> set[str]:
        self.evaluate("1")
        sent = (e for e in self.events if e.get("method") == "Network.requestWillBeSent")
        return {event["params"]["request"]["url"] for event in sent}

    def complaints(self) -> list[str]:
        """Of the console: errors, and what the policy of contents refused."""
        self.evaluate("1")
        logged = [e["params"] for e in self.events if e.get("method") == "Log.entryAdded"]
        thrown = [e["params"] for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        told = [each for each in logged if each["entry"]["source"] != "network"]  # statuses
        return [json.dumps(each) for each in (*told, *thrown)]

    def screenshot(self, path: Path, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    # ---------------------------------------------------------------- moving

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def choose(self, selector: str, value: str) -> None:
        """A value of a select, or the text of an input, as a person changes it."""
        self.evaluate(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)});"
            f" box.value = {json.dumps(value)}; for (const kind of ['input', 'change'])"
            " box.dispatchEvent(new Event(kind, { bubbles: true })); })()"
        )

    def press(self, key: str, modifiers: int = 0) -> None:
        code = KEY_CODES.get(key, 0)
        typed = {"Enter": "\r", " ": " "}.get(key)
        for kind in ("keyDown", "keyUp"):
            extra = {"text": typed} if typed and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code="Space" if key == " " else key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
                **extra,
            )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def focus(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")

    def point(self, selector: str) -> None:
        """Moves the pointer to the middle of an element."""
        box = self.evaluate(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    def look(self, width: int, height: int, scheme: str = "light", motion: str = "reduce") -> None:
        """A window of this size, and what its person prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        told = [{"name": name, "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=told)


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser without a window, until the context ends."""
    to_browser, from_browser = os.pipe(), os.pipe()
    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
    flags += ("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage")
    flags += ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    flags += ("--hide-scrollbars", "--force-color-profile=srgb")
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

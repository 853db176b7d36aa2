"""Sound on the page: recorded by Chromium's fake microphone, and dropped as a file."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from tests.studio.browser import CTRL, Browser
from tests.studio.conftest import Site

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio: soundfile")

SAID = "turn on the light"


def heard_samples(site: Site) -> int:
    """Of the last prompt, by its ids: <bos>, two of each 40 ms, <|answer|>."""
    return (len(site.engine.submitted[-1].prompt_ids) - 2) // 2 * 320


def saved_samples(browser: Browser) -> int:
    """Of the file that Speak's Save gives the browser."""
    browser.evaluate(
        """(() => {
          const make = URL.createObjectURL.bind(URL);
          URL.createObjectURL = (blob) => {
            globalThis.saved = blob;
            return make(blob);
          };
          const buttons = [...document.querySelectorAll("#speak-result button")];
          buttons.find((each) => each.textContent === "Save").click();
        })()"""
    )
    whole = "saved.arrayBuffer().then((data) => btoa(String.fromCharCode(...new Uint8Array(data))))"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(browser.evaluate(whole))))
    assert rate == 8_000
    return len(samples)


def test_a_recording_is_answered_by_its_words(browser: Browser, listening: Site) -> None:
    tokens = listening.app.state.gateway.tokens
    ids = tokens.encode_prompt(SAID)[1:]
    listening.engine.reply = lambda request: ids[: request.max_tokens]
    listening.enter(browser)
    browser.click("#tab-complete")
    browser.has("#parts .note", "Record, drop or choose")
    browser.click("#parts li:first-child .beside button")
    browser.has("#parts .beside button", "Stop")
    browser.evaluate("new Promise((done) => setTimeout(done, 1200))")
    browser.click("#parts li:first-child .beside button")
    browser.has("#parts .note", "s of sound.")
    browser.click("#generate")
    browser.has("#completion", SAID)
    asked = listening.engine.submitted[-1]
    assert asked.prompt_ids[-1] == tokens.contract.special["<|answer|>"]
    assert asked.temperature == 0 and 0.5 < heard_samples(listening) / 8_000 < 5
    assert len(set(asked.prompt_ids)) > 5  # the fake microphone beeps
    assert browser.complaints() == []


def test_a_dropped_file_is_brought_to_the_codecs_rate(browser: Browser, listening: Site) -> None:
    file = io.BytesIO()
    times = np.arange(44_100) / 44_100
    stereo = np.stack([0.3 * np.sin(2 * np.pi * 440 * times)] * 2, axis=1)
    soundfile.write(file, stereo, 44_100, format="FLAC")
    data = base64.b64encode(file.getvalue()).decode()
    listening.enter(browser)
    browser.click("#tab-complete")
    browser.has("#parts .note", "Record, drop or choose")
    browser.evaluate(
        f"""(() => {{
          const bytes = Uint8Array.from(atob("{data}"), (char) => char.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "a.flac"));
          const drop = new DragEvent("drop", {{ dataTransfer }});
          document.querySelector("#parts .beside").dispatchEvent(drop);
        }})()"""
    )
    browser.has("#parts .note", "1.0 s of sound.")
    browser.click("#generate")
    browser.has("#completion .figures", "token")
    assert heard_samples(listening) == 8_000


def test_a_second_click_before_the_microphone_answers_starts_no_second_recorder(
    browser: Browser, listening: Site
) -> None:
    listening.enter(browser)
    browser.click("#tab-complete")
    browser.has("#parts .note", "Record, drop or choose")
    browser.evaluate(
        """(() => {
          const asks = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          globalThis.asked = 0;
          navigator.mediaDevices.getUserMedia = async (what) => {
            globalThis.asked += 1;
            await new Promise((done) => setTimeout(done, 300));
            return asks(what);
          };
        })()"""
    )
    for _ in range(2):
        browser.click("#parts li:first-child .beside button")
    browser.has("#parts .beside button", "Stop")
    browser.evaluate("new Promise((done) => setTimeout(done, 600))")
    assert browser.evaluate("globalThis.asked") == 1
    browser.click("#parts li:first-child .beside button")
    browser.has("#parts .note", "s of sound.")
    assert browser.text("#parts .beside button") == "Record"


def test_a_slow_file_does_not_take_the_place_of_a_later_one(
    browser: Browser, listening: Site
) -> None:
    listening.enter(browser)
    browser.click("#tab-complete")
    browser.has("#parts .note", "Record, drop or choose")
    browser.evaluate(
        """(async () => {
          const drop = (size, wait) => {
            const file = new File([new Uint8Array(size)], "a.bin");
            file.arrayBuffer = async () => {
              await new Promise((done) => setTimeout(done, wait));
              return new ArrayBuffer(size);
            };
            const event = new DragEvent("drop");
            Object.defineProperty(event, "dataTransfer", { value: { files: [file] } });
            document.querySelector("#parts .beside").dispatchEvent(event);
          };
          drop(111, 300);
          drop(222, 0);
          await new Promise((done) => setTimeout(done, 800));
        })()"""
    )
    assert browser.text("#parts .note") == "222 bytes, as they are."


def test_what_is_said_is_heard_in_a_room_and_a_text_said_in_another(
    browser: Browser, listening: Site
) -> None:
    tokens = listening.app.state.gateway.tokens
    words = tokens.encode_prompt(SAID)[1:]
    audio = next(entry for entry in tokens.contract.codecs if entry.name == "audio")
    sound = [audio.id_start + 16 * (n % 2) + n % 16 for n in range(50)]  # a second, two a frame
    listening.engine.reply = lambda request: (
        words if request.prompt_ids[1] >= audio.id_start else sound
    )
    listening.enter(browser)
    assert browser.evaluate("document.getElementById('tab-chat').hidden")
    assert browser.evaluate("document.body.dataset.tab") == "listen"
    browser.click("#listen-input button")
    browser.has("#listen-input button", "Stop")
    browser.evaluate("new Promise((done) => setTimeout(done, 600))")
    browser.click("#listen-input button")
    browser.has("#listen-result", SAID)
    asked = listening.engine.submitted[-1]
    assert asked.prompt_ids[-1] == tokens.contract.special["<|answer|>"]
    assert asked.temperature == 0 and len(asked.prompt_ids) > 10
    browser.click("#tab-speak")
    browser.choose("#speak-text", SAID)
    browser.press("Enter", CTRL)
    browser.has("#speak-result", "1.0 s")
    question = tokens.encode_prompt(SAID)
    assert [*listening.engine.submitted[-1].prompt_ids[:-1]] == [*question]
    assert "1.0 seconds" in browser.evaluate("document.querySelector('.wave').ariaLabel")
    assert saved_samples(browser) == 8_000
    assert browser.complaints() == []

"""/v1/audio/speech by the official client: files, and samples as they are made."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.stages.serve.conftest import API_KEY, Running, Start
from whorl.codecs.audio import AudioCodec, AudioShape, fit_audio_codec
from whorl.codecs.contract import Tokens
from whorl.codecs.text import train_text_codec
from whorl.testing.corpus import tiny_texts

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio: soundfile")

RATE, HZ = 8_000, 500
NUM_FRAMES = 100  # 4 s


def tone(seconds: float) -> np.ndarray:
    times = np.arange(int(seconds * RATE)) / RATE
    return np.round(9_000 * np.sin(2 * np.pi * HZ * times)).astype(np.int16)


@pytest.fixture(scope="module")
def speaking() -> Tokens:
    audio = fit_audio_codec([tone(0.5), np.zeros(4_000, np.int16)], AudioShape(RATE), 2, 8)
    return Tokens.build({"audio": audio, "text": train_text_codec(tiny_texts(5), 300)}, 350)


@pytest.fixture(scope="module")
def server(start: Start, speaking: Tokens) -> Iterator[Running]:
    """A model that answers everything with the tone."""
    codec = speaking.codecs["audio"]
    first = next(each.id_start for each in speaking.contract.codecs if each.name == "audio")
    ids = [first + i for i in codec.encode(tone(0.04 * NUM_FRAMES))]

    def reply(request: Any) -> list[int]:
        return ids[: request.max_tokens]

    with start(contract=speaking, reply=reply, context_tokens=1_024) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    transport = httpx.Client(trust_env=False)
    base_url = f"{server.base_url}/v1"
    with openai.OpenAI(api_key=API_KEY, base_url=base_url, http_client=transport) as opened:
        yield opened


def strongest_hz(sound: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(sound.astype(np.float64)))
    return float(spectrum.argmax() * RATE / len(sound))


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_the_client_gets_a_file(client: Any, server: Running, speaking: Tokens, kind: str) -> None:
    asked = {"model": "tiny", "input": "a tone", "voice": "default", "response_format": kind}
    answer = client.audio.speech.create(**asked)
    sound, rate = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    assert rate == RATE and abs(strongest_hz(sound) - HZ) < 40
    if kind != "mp3":
        assert len(sound) == NUM_FRAMES * 320
    prompt = server.engine.submitted[-1].prompt_ids
    mark = speaking.contract.special["<|answer|>"]
    assert prompt == (*speaking.encode_prompt("a tone"), mark)


def test_samples_come_as_they_are_made_and_join(client: Any, server: Running) -> None:
    asked = {"model": "tiny", "input": "a tone", "voice": "default", "response_format": "pcm"}
    server.engine.step_s = 0.001
    with client.audio.speech.with_streaming_response.create(**asked) as answer:
        pieces = [piece for piece in answer.iter_bytes() if piece]
    assert len(pieces) >= 3
    sound = np.frombuffer(b"".join(pieces), "<i2")
    assert len(sound) == NUM_FRAMES * 320
    for at in range(0, len(sound) - 4_000, 4_000):  # also where pieces meet
        assert abs(strongest_hz(sound[at : at + 4_000]) - HZ) < 60
    assert server.wait_until(lambda: server.gateway.inside == 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"voice": "alloy"}, "voice"),
        ({"speed": 2}, "speed"),
        ({"input": ""}, "input"),
        ({"input": "a" * 5_000}, "input"),
        ({"response_format": "opus"}, "response_format"),
        ({"model": "other"}, "model"),
        ({"instructions": "whisper"}, "instructions"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(
    client: Any, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.audio.speech.create(**{"model": "tiny", "input": "a", "voice": "default", **fields})
    assert caught.value.status_code in (400, 404) and caught.value.body["param"] == param


def test_a_model_without_sound_says_so(start: Start) -> None:
    with start() as running:
        body = {"model": "tiny", "input": "a"}
        answer = running.client.post("/v1/audio/speech", json=body)
        assert answer.status_code == 400 and "no sound" in answer.text


@pytest.mark.parametrize("kind", ["pcm", "wav"])
def test_an_answer_without_sound_is_a_failure(start: Start, speaking: Tokens, kind: str) -> None:
    assert isinstance(speaking.codecs["audio"], AudioCodec)
    with start(contract=speaking, reply=lambda request: [20]) as running:
        body = {"model": "tiny", "input": "a", "response_format": kind}
        answer = running.client.post("/v1/audio/speech", json=body)
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "no_sound"


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "pcm"])
def test_half_a_sound_is_no_answer(start: Start, speaking: Tokens, kind: str) -> None:
    first = next(each.id_start for each in speaking.contract.codecs if each.name == "audio")
    with start(contract=speaking, reply=lambda request: [first] * 99, max_tokens=20) as running:
        body = {"model": "tiny", "input": "a", "response_format": kind}
        answer = running.client.post("/v1/audio/speech", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_half_a_sound_that_was_begun_has_no_end(start: Start, speaking: Tokens) -> None:
    first = next(each.id_start for each in speaking.contract.codecs if each.name == "audio")
    told = {"contract": speaking, "max_tokens": 300, "context_tokens": 1_024}
    with start(reply=lambda request: [first] * request.max_tokens, **told) as running:
        body = {"model": "tiny", "input": "a", "response_format": "pcm"}
        with pytest.raises(httpx.RemoteProtocolError):
            running.client.post("/v1/audio/speech", json=body)


def test_a_rate_that_mp3_has_not_is_refused_before_anything_is_made(start: Start) -> None:
    sounds = [tone(0.5), np.zeros(4_000, np.int16)]
    audio = fit_audio_codec(sounds, AudioShape(10_000), 2, 8)
    odd = Tokens.build({"audio": audio, "text": train_text_codec(tiny_texts(5), 300)}, 350)
    with start(contract=odd) as running:
        answer = running.client.post("/v1/audio/speech", json={"model": "tiny", "input": "a"})
        assert answer.status_code == 400 and "10000 Hz" in answer.text
        assert not running.engine.submitted

"""/v1/audio/transcriptions by the official client, and forms that are odd, broken or too large."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.stages.serve.conftest import API_KEY, Running, Start
from whorl.codecs.audio import AudioShape, fit_audio_codec
from whorl.codecs.contract import Tokens
from whorl.codecs.text import train_text_codec
from whorl.testing.corpus import tiny_texts

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio: soundfile")
pytest.importorskip("soxr", reason="needs the extra audio: soxr")
pytest.importorskip("python_multipart", reason="needs the extra audio: python-multipart")

PATH, RATE = "/v1/audio/transcriptions", 8_000
SAID = "turn on the light"


def wav(seconds: float = 1.0, rate: int = RATE, kind: str = "WAV") -> bytes:
    times = np.arange(int(seconds * rate)) / rate
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * times), rate, format=kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def hearing() -> Tokens:
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 3_000, 4_000).astype(np.int16) for _ in range(8)]
    audio = fit_audio_codec(sounds, AudioShape(RATE, 40, 20, 3.0), 2, 16)
    return Tokens.build({"audio": audio, "text": train_text_codec(tiny_texts(5), 300)}, 350)


@pytest.fixture(scope="module")
def server(start: Start, hearing: Tokens) -> Iterator[Running]:
    ids = hearing.encode_prompt(SAID)[1:]
    with start(contract=hearing, reply=lambda request: ids[: request.max_tokens]) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    transport = httpx.Client(trust_env=False)
    base_url = f"{server.base_url}/v1"
    with openai.OpenAI(api_key=API_KEY, base_url=base_url, http_client=transport) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_the_client_gets_the_words(
    client: Any, server: Running, hearing: Tokens, kind: str
) -> None:
    data = wav(kind=kind)
    file = (f"a.{kind.lower()}", data)
    answer = client.audio.transcriptions.create(model="tiny", file=file)
    assert answer.text == SAID
    asked = server.engine.submitted[-1]
    codec = hearing.codecs["audio"]
    start = next(each.id_start for each in hearing.contract.codecs if each.name == "audio")
    heard = [i + start for i in codec.encode(codec.from_bytes(data))]
    mark = hearing.contract.special["<|answer|>"]
    assert asked.prompt_ids == (*hearing.contract.start_ids, *heard, mark)
    assert asked.temperature == 0
    assert answer.usage.input_tokens == len(asked.prompt_ids)


def test_the_client_streams_the_words(client: Any) -> None:
    found = list(client.audio.transcriptions.create(model="tiny", file=wav(), stream=True))
    assert "".join(each.delta for each in found[:-1]) == SAID
    assert found[-1].type == "transcript.text.done" and found[-1].text == SAID


def test_plain_text(client: Any) -> None:
    asked = {"model": "tiny", "file": wav(), "response_format": "text", "language": "en"}
    assert client.audio.transcriptions.create(**asked, temperature=0.5) == f"{SAID}\n"


def refused(client: Any, **fields: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        client.audio.transcriptions.create(**{"model": "tiny", "file": wav(), **fields})
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"file": b"no sound at all"}, "file", "no sound"),
        ({"file": wav(4.0)}, "file", "too long"),
        ({"file": wav()[:-99]}, "file", "cut short"),
        ({"file": b""}, "file", "sound file"),
        ({"model": "other"}, "model", "no model"),
        ({"response_format": "srt"}, "response_format", '"json" or "text"'),
        ({"temperature": 3}, "temperature", "0 to 1"),
        ({"prompt": "Dear Sir"}, "prompt", "only"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities", "only"),
        ({"extra_body": {"temperatur": "1"}}, "temperatur", "temperature"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_by_its_field(
    client: Any, fields: dict[str, Any], param: str, words: str
) -> None:
    error = refused(client, **fields)
    assert error.status_code in (400, 404) and error.body["param"] == param
    assert words in error.body["message"]


def post(server: Running, data: bytes, kind: str) -> httpx.Response:
    return server.client.post(PATH, content=data, headers={"content-type": kind})


def form(*fields: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in fields
    ]
    return b"".join(parts) + end


def test_forms_that_are_none_are_refused(server: Running) -> None:
    assert post(server, b"{}", "application/json").status_code == 415
    assert post(server, b"", "multipart/form-data").status_code == 415
    kind = "multipart/form-data; boundary=x"
    model, file = ("model", b"tiny"), ("file", wav())
    for said in (
        kind,
        'multipart/form-data; charset=utf-8; boundary="x"',
        f"{kind}; charset=utf-8",
    ):
        assert post(server, form(model, file), said).json()["text"] == SAID
    for broken in (
        b"",
        b"--y\r\n\r\n",
        form(model, file, end=b""),
        form(model, file)[:-30],
        form(model, model, file),
        form(model, ("model[]", b"tiny"), file),
        form(("model[]", b"tiny"), model, file),
        form(*[(f"f{number}", b"") for number in range(40)]),
        form(model, file, ("language", b"\xff")),
        form(model, file, ("language", b"e" * 70_000)),
        form(model),
    ):
        answer = post(server, broken, kind)
        assert answer.status_code == 400, broken[:80]
        assert json.loads(answer.content)["error"]["message"]


def test_half_a_transcript_is_no_answer(start: Start, hearing: Tokens) -> None:
    ids = hearing.encode_prompt(SAID)[1:]
    with start(contract=hearing, reply=lambda request: ids, max_tokens=len(ids) - 1) as running:
        asked: dict[str, Any] = {"files": {"file": ("a.wav", wav())}}
        answer = running.client.post(PATH, data={"model": "tiny"}, **asked)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        streamed = running.client.post(PATH, data={"model": "tiny", "stream": "true"}, **asked).text
        assert "transcript.text.done" not in streamed and "context_length_exceeded" in streamed


def test_uploads_are_limited_and_need_a_key(start: Start, hearing: Tokens) -> None:
    ids = hearing.encode_prompt(SAID)[1:]
    with start(contract=hearing, reply=lambda request: ids, max_upload_bytes=20_000) as running:
        small, large = ({"file": ("a.wav", wav(seconds))} for seconds in (1.0, 2.0))
        answer = running.client.post(PATH, files=large, data={"model": "tiny"})
        assert answer.status_code == 413
        assert running.client.post(PATH, files=small, data={"model": "tiny"}).status_code == 200
        bare = httpx.post(f"{running.base_url}{PATH}", files=small, trust_env=False)
        assert bare.status_code == 401


def test_a_model_that_hears_nothing_says_so(start: Start) -> None:
    with start() as running:
        files, data = {"file": ("a.wav", wav())}, {"model": "tiny"}
        answer = running.client.post(PATH, files=files, data=data)
        assert answer.status_code == 400 and "no codec audio" in answer.text

"""Synthesis: speech turned round, bits of what was recorded, and a miniature that says tones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fields.support import miniature
from tests.fields.test_speech import HZ, write
from whorl.codecs.contract import Tokens
from whorl.codecs.parts import decode_parts
from whorl.core.collect import run_requests
from whorl.core.errors import SpecError
from whorl.core.metrics import BITS_PER_TOKEN
from whorl.core.ports import GenerateRequest, HeldoutDocument, Part, Source
from whorl.engines.open import open_engine
from whorl.fields import speakers
from whorl.fields.speech import FIELD as SPEECH
from whorl.fields.synthesis import FIELD

pytest.importorskip("soundfile", reason="needs the extra audio: soundfile")
pytest.importorskip("soxr", reason="needs the extra audio: soxr")


def folder_of(path: Path, count: int) -> Path:
    """One word in each sound."""
    rows = []
    for number in range(count):
        text = list(HZ)[number % len(HZ)]
        write(path / f"{number}.wav", text, number)
        rows.append(json.dumps({"file": f"{number}.wav", "text": text, "speaker": f"s{number}"}))
    (path / "list.jsonl").write_text("\n".join(rows))
    return path


def test_documents_are_those_of_speech_turned_round(tmp_path: Path) -> None:
    folder_of(tmp_path, 6)
    found = []
    for field in (SPEECH, FIELD):
        source = Source(str(tmp_path), field.name)
        found.append([d for item in field.items(source) for d in field.read(source, item, print)])
    assert len(found[0]) == len(found[1]) == 6
    for heard, said in zip(*found, strict=True):
        assert (heard.name, heard.split) == (said.name, said.split)
        sound, mark, text = heard.parts
        assert [part.codec for part in said.parts] == ["text", "special", "audio"]
        assert [part.trained for part in said.parts] == [False, False, True]
        assert said.parts[0].value == text.value and said.parts[1] == mark
        assert (said.parts[2].value == sound.value).all()


def test_bits_of_each_id() -> None:
    document = HeldoutDocument("a", np.arange(4), np.array([False, True, True, True]), 0)
    nats = np.log([0.5, 0.25, 0.125])
    assert FIELD.task.metric is BITS_PER_TOKEN
    assert FIELD.task.judge(document, None, nats) == (pytest.approx(6.0), 3.0)


def test_a_miniature_says_tones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    entry = {"source": folder_of(tmp_path / "data", 90), "field": "synthesis"}
    kept = {"vocab_size": 400}
    session = miniature(
        monkeypatch, tmp_path / "runs", entry, (64, 512), 100, layers=1, prepare=kept, rate=0.02
    )
    (score,) = (row for row in session.up()["scores"] if row["name"] == "hf f32")
    assert score["metric"] == "bits_per_token" and score["value"] < 7  # 8.6 of 400 alike
    tokens = Tokens.load(session.prepare().path / "tokens")
    engine = open_engine(session.train().path / "model", name="torch")
    try:
        for word, hz in HZ.items():
            parts = [Part("text", word), Part("special", "<|answer|>")]
            prompt = (*tokens.contract.start_ids, *tokens.encode_parts(parts))
            stop_ids = tokens.contract.stop_ids
            request = GenerateRequest(word, prompt, 40, stop_ids=stop_ids)
            (answer,) = run_requests(engine, [request])
            ids = [i for i in answer.token_ids if i not in stop_ids]
            (sound,) = (p.value for p in decode_parts(tokens, ids) if p.codec == "audio")
            spectrum = np.abs(np.fft.rfft(sound.astype(float)))
            assert abs(spectrum.argmax() * 8_000 / len(sound) - hz) < 60 + hz / 10, word
            assert 1_000 < len(sound) < 5_000  # 0.24 s were recorded
    finally:
        engine.close()


@pytest.mark.skipif(
    speakers.find_spec(speakers.PACKAGE) is None, reason="needs the extra espeak: espeakng-loader"
)
def test_one_voice_says_everything_where_that_is_asked() -> None:
    options = {"sentences": "4", "heldout_sentences": "3", "voices": "one"}
    source = Source("espeak:home", "synthesis", options=options)
    documents = [d for item in FIELD.items(source) for d in FIELD.read(source, item, print)]
    assert [document.split for document in documents] == ["heldout"] * 3 + ["train"] * 4
    assert all("en-us+f2/160/50: " in document.name for document in documents)
    assert all(document.parts[2].value.any() for document in documents)
    with pytest.raises(SpecError, match=r"options\.voices"):
        list(
            FIELD.read(
                Source("espeak:home", "synthesis", options={"voices": "two"}),
                FIELD.items(source)[0],
                print,
            )
        )

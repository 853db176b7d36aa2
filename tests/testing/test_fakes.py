"""The fakes keep the promises of the ports they stand for."""

from __future__ import annotations

import inspect
import json
import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whorl.core import ports
from whorl.core.errors import DataError, EngineError
from whorl.core.ports import GenerateRequest, Source, TokenEvent
from whorl.core.variants import Variant
from whorl.testing.corpus import tiny_texts, tiny_tokens, write_corpus
from whorl.testing.engine import FakeEngine
from whorl.testing.fakes import (
    FakeCodec,
    FakeExporter,
    FakeField,
    FakeMeasure,
    FakeTask,
    RecordingProgress,
)

INT8 = Variant("openvino", "int8")
FAKES: dict[type, Any] = {
    ports.Codec: FakeCodec,
    ports.Field: FakeField,
    ports.Engine: FakeEngine,
    ports.Exporter: FakeExporter,
    ports.Measure: FakeMeasure,
    ports.Task: FakeTask,
    ports.Progress: RecordingProgress,
}


def test_every_port_has_a_fake_with_its_methods_and_parameters() -> None:
    protocols = {item for item in vars(ports).values() if getattr(item, "_is_protocol", False)} - {
        ports.Protocol
    }  # type: ignore[attr-defined]
    assert protocols == set(FAKES)
    for port, fake in FAKES.items():
        for name, method in vars(port).items():
            if inspect.isfunction(method) and (not name.startswith("_") or name == "__call__"):
                wanted = list(inspect.signature(method).parameters)
                assert list(inspect.signature(getattr(fake, name)).parameters) == wanted


def collect(engine: FakeEngine, **fields: Any) -> list[TokenEvent]:
    events: queue.Queue[TokenEvent] = queue.Queue()
    request = GenerateRequest(**{"request_id": "r", "prompt_ids": (0, 7, 8), **fields})
    engine.submit(request, events.put)
    found = [events.get(timeout=5)]
    while found[-1].finish_reason is None:
        found.append(events.get(timeout=5))
    return found


def test_the_fake_engine_ends_by_length_stop_and_close() -> None:
    engine = FakeEngine("digest")
    events = collect(engine, max_tokens=3)
    assert [i for event in events for i in event.token_ids] == [7, 8, 7]
    assert events[-1].finish_reason == "length"
    engine.reply = lambda request: [5, 1, 6]
    events = collect(engine, max_tokens=9, stop_ids=(1,))
    assert [i for event in events for i in event.token_ids] == [5, 1]
    assert events[-1].finish_reason == "stop"
    assert engine.stats().running == 0 and engine.stats().last_token_age_s is None
    engine.close()
    with pytest.raises(EngineError):
        collect(engine, max_tokens=1)


def test_the_fake_engine_scores_as_the_uniform_model() -> None:
    engine = FakeEngine("digest", vocab_size=4)
    (scores,) = engine.score([[1, 2, 3]])
    np.testing.assert_allclose(np.exp(scores), [0.25, 0.25])
    engine.close()


def test_the_fake_field_rejects_by_reason_and_the_codec_round_trips() -> None:
    field, reasons = FakeField(), []
    source = Source("memory", "fake")
    documents = [d for i in field.items(source) for d in field.read(source, i, reasons.append)]
    assert [document.text for document in documents] == ["alpha beta", "gamma delta"]
    assert reasons == ["empty"]
    codec = field.fit_codecs(documents, {})["text"]
    assert codec.decode(codec.encode("é 🎉")) == "é 🎉"
    with pytest.raises(DataError):
        codec.encode(5)
    with pytest.raises(DataError):
        FakeField(texts=()).items(source)
    assert FakeMeasure({("m", INT8): 2.5})(Path("x/m"), INT8).value == pytest.approx(2.5)


def test_the_tiny_corpus_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, second = write_corpus(tmp_path / "a", 20), write_corpus(tmp_path / "b", 20)
    assert first.read_bytes() == second.read_bytes()
    texts = [json.loads(line)["text"] for line in first.read_text().splitlines()]
    assert texts == tiny_texts(20) and len(set(texts)) == 20
    assert texts != tiny_texts(20, seed=1)
    for text in texts:  # each holds a function that is valid Python, with its right answer
        assert "def add_" in text
        compile(text[text.index("def ") :], "corpus", "exec")
    tokens = tiny_tokens()
    assert tokens.decode(tokens.encode_prompt(texts[0])) == texts[0]

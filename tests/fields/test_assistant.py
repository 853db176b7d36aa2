"""The assistant: templates typed and spoken, people's recordings, what is graded, a miniature."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("soundfile", reason="needs the extra audio: soundfile")
pytest.importorskip("soxr", reason="needs the extra audio: soxr")

from tests.fields.support import miniature as tiny
from tests.fields.support import read_all
from tests.fields.test_speech import HZ, write
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError
from whorl.core.metrics import ACCURACY, SLOT_F1, TYPED_ACCURACY, WER
from whorl.core.ports import HeldoutDocument, Source
from whorl.fields import assistant, speakers, speech_files
from whorl.fields.assistant import graded
from whorl.fields.base import find_field
from whorl.fields.files import file_items
from whorl.stages.evaluate.generate import graded as measure_of

FIELD = find_field("assistant")
TEMPLATES = {
    "language": "en",
    "intents": {
        "HassTurnOn": {
            "data": [
                {"sentences": [f"{verb} the {{area}} light" for verb in ("light", "start", "wake")]}
            ]
        },
        "HassTurnOff": {"data": [{"sentences": ["stop the {area} light", "end the {area} light"]}]},
    },
    "lists": {},
    "expansion_rules": {},
}


def meaning(intent: str, **slots: str) -> str:
    return json.dumps({"intent": intent, "slots": slots}, separators=(",", ":"))


def test_words_and_meaning_are_graded_apart() -> None:
    right = "turn it on" + meaning("On", name="it")
    found = graded("turn it off" + meaning("On", name="that"), right)
    assert found[ACCURACY] == found[TYPED_ACCURACY] == (1.0, 1.0)
    assert found[SLOT_F1] == (0.0, 1.0) and found[WER] == (1.0, 3.0)
    for answer in ("", "turn it on", "turn it on {broken", meaning("Off")):
        assert graded(answer, right)[ACCURACY] == (0.0, 1.0)
    assert graded(meaning("On", name="it"), right)[SLOT_F1] == (1.0, 1.0)


def recordings(folder: Path, count: int = 40) -> Path:
    """Sounds of tones, each with what it means."""
    folder.mkdir(parents=True)
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(count):
        text = " ".join(np.random.default_rng(number).choice(list(HZ), 4))
        write(folder / f"{number}.wav", text, number)
        first, *_, last = text.split()
        row = {"audio_filepath": f"{number}.wav", "text": text, "intent": f"Say{first.title()}"}
        rows["test" if number % 8 == 0 else "train"].append(
            json.dumps({**row, "slots": {"last": last}})
        )
    rows["train"].append(json.dumps({"audio_filepath": "1.wav", "text": "no intent"}))
    for split, lines in rows.items():
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def test_recordings_are_asked_as_said_and_as_typed(tmp_path: Path) -> None:
    source = Source(str(recordings(tmp_path / "said")), "assistant")
    documents, reasons = read_all(FIELD, source)
    assert Counter((d.split, d.name.split()[0]) for d in documents) == {
        **{("train", "spoken"): 35, ("train", "typed"): 35},
        **{("heldout", "spoken"): 5, ("heldout", "typed"): 4},
    }
    assert dict(reasons) == {
        "recording without an intent": 1,
        "typed sentence that is said in training": 1,  # of so few words one comes twice
    }
    typed = next(d for d in documents if d.name.startswith("typed"))
    words = typed.parts[0].value
    spoken = next(d for d in documents if d.name[0] == "s" and d.parts[2].value == words)
    assert [p.codec for p in spoken.parts] == ["audio", "special", "text", "special", "text"]
    assert [p.trained for p in spoken.parts] == [False, False, True, True, True]
    assert [p.trained for p in typed.parts] == [False, False, True]
    assert json.loads(spoken.parts[4].value) == json.loads(typed.parts[2].value)
    codecs = FIELD.fit_codecs(documents, {"vocab_size": 512, "seed": 0})
    tokens = Tokens.build(codecs, 528)
    asked = []
    for document in (spoken, typed):
        ids, mask = tokens.encode_document(document)
        asked.append(HeldoutDocument(document.name, np.array(ids), np.array(mask), 1))
    task: Any = FIELD.task
    answers = [spoken.parts[2].value + spoken.parts[4].value, typed.parts[2].value]
    for metric, number in ((ACCURACY, 0), (TYPED_ACCURACY, 1), (WER, 0)):
        found = measure_of(task, metric, asked, answers, tokens)
        assert found.document_names == (asked[number].name,)
        assert found.value == (0.0 if metric is WER else 1.0)


def test_columns_of_any_case_and_slots_that_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "said"
    write(folder / "0.wav", next(iter(HZ)), 0)
    slots = ["", "null", "{}", '{""b"": 2, ""a"": 1}', "[1]", "{broken"]
    rows = [f'0.wav,text {n},Say,"{cell}"' for n, cell in enumerate(slots)]
    (folder / "list.csv").write_text("\n".join(["Path,Text,Intent,Slots", *rows]))
    found = list(speech_files.listed_recordings(Source(str(folder), "assistant")))
    empty = meaning("Say")
    assert [each.meaning for each in found] == [
        *(empty, empty, empty, '{"intent":"Say","slots":{"a":1,"b":2}}', "", "")
    ]
    assert {each.no_meaning for each in found[4:]} == {
        "recording whose slots are no object of JSON"
    }


def test_a_sentence_of_two_voices_is_no_typed_question(tmp_path: Path) -> None:
    """Who speaks is held out; what is held out typed is said by nobody in training."""
    folder, rows = tmp_path / "said", []
    folder.mkdir()
    for number in range(40):
        words = list(np.random.default_rng(number // 2).choice(list(HZ), 3))
        text = " ".join(words)
        write(folder / f"{number}.wav", text, number)
        said = text.upper() + "!" if number % 2 else text
        who = f"speaker {number % 8}"
        row = {"audio_filepath": f"{number}.wav", "text": said, "speaker": who, "intent": "Say"}
        rows.append(json.dumps(row))
    (folder / "list.jsonl").write_text("\n".join(rows))
    documents, reasons = read_all(
        FIELD, Source(str(folder), "assistant", options={"heldout": "0.3"})
    )
    texts: dict[Any, set[str]] = {}
    for document in documents:
        text = document.name.partition(": ")[2] or document.parts[2].value
        words = text.rpartition(": ")[2].lower().strip("!")
        texts.setdefault((document.split, document.name.split()[0]), set()).add(words)
    spoken = {d.parts[2].value.lower().strip("!") for d in documents
              if d.name.startswith("spoken") and d.split == "heldout"}  # fmt: skip
    asked, taught = texts.get(("heldout", "typed"), set()), texts["train", "typed"]
    assert spoken & taught and not asked & taught, (asked, taught)
    assert spoken - taught == asked
    assert reasons["typed sentence that is said in training"] > 0


def test_templates_are_those_that_the_file_has_now_and_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hassil", reason="needs the extra intents: hassil")
    monkeypatch.setattr(speakers, "identity", lambda: "nobody")
    source = Source("en.json", "assistant", folder=str(tmp_path), options={"sentences": "8"})

    def typed(text: str) -> set[str]:
        (tmp_path / "en.json").write_text(text)
        (item, *_) = FIELD.items(source)
        monkeypatch.setattr(assistant, "file_items", lambda *a: pytest.fail("walked again"))
        found = {d.name.rpartition(": ")[2] for d in FIELD.read(source, item, print)}
        monkeypatch.setattr(assistant, "file_items", file_items)
        return found

    before = typed(json.dumps(TEMPLATES))
    after = typed(json.dumps(TEMPLATES).replace("light", "night"))
    assert before and after and not any("light" in text for text in after)
    monkeypatch.setattr(assistant, "MAX_BYTES", 20)
    with pytest.raises(DataError, match=r"no sound with a text|no file to read"):
        typed(json.dumps(TEMPLATES).replace("light", "bright"))


@pytest.mark.skipif(
    speakers.find_spec(speakers.PACKAGE) is None, reason="needs the extra espeak: espeakng-loader"
)
def test_templates_are_held_out_whole_and_in_voices_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("hassil", reason="needs the extra intents: hassil")
    (tmp_path / "en.json").write_text(json.dumps(TEMPLATES))
    options = {"sentences": "8", "heldout_spoken": "2", "spoken": "2"}
    source = Source("en.json", "assistant", folder=str(tmp_path), options=options)
    documents, reasons = read_all(FIELD, source)
    again, _ = read_all(FIELD, source)
    assert not reasons and [d.name for d in documents] == [d.name for d in again]
    sides = {
        (split, kind): [d for d in documents if d.split == split and d.name.startswith(kind)]
        for split in ("train", "heldout")
        for kind in ("spoken", "typed")
    }
    assert len(sides["train", "spoken"]) == 2 * len(sides["train", "typed"])
    assert len(sides["heldout", "spoken"]) == 2
    said = {key: {d.name.rpartition(": ")[2] for d in mine} for key, mine in sides.items()}
    assert said["train", "spoken"] == said["train", "typed"]
    assert said["heldout", "spoken"] <= said["heldout", "typed"]
    assert not said["train", "typed"] & said["heldout", "typed"]
    voices = {
        split: {d.name.partition("+")[2].partition("/")[0] for d in sides[split, "spoken"]}
        for split in ("train", "heldout")
    }
    assert not voices["train"] & voices["heldout"]


# ------------------------------------------------------------------ a miniature


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of tones and what they mean."""
    pytest.importorskip("torch", reason="needs the extra train")
    folder = tmp_path_factory.mktemp("meant")
    entry = {"source": recordings(folder / "data", 160), "field": "assistant"}
    kept = {"vocab_size": 400, "near_duplicate_jaccard": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        yield tiny(patch, folder / "runs", entry, (192, 1536), 200, prepare=kept, rate=0.02)


def test_a_miniature_understands_tones(miniature: Any) -> None:
    found = json.loads(miniature.evaluate().file("scores.json").read_bytes())
    scores = {row["field"]: row["value"] for row in found["scores"] if row["kind"] == "model"}
    assert scores["assistant"] > 0.6 and scores["assistant/typed_accuracy"] > 0.6, scores
    assert scores["assistant/wer"] < 0.4 and scores["assistant/slot_f1"] > 0.6, scores

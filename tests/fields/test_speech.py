"""Speech: the formats people have, what is refused, who is held out, words counted, a miniature."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fields.support import miniature as tiny
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError
from whorl.core.metrics import ACCURACY, WER
from whorl.core.ports import Document, Part, Source
from whorl.core.reasons import Reason
from whorl.core.sources import PASSED_OVER, FileItem
from whorl.engines.open import open_engine
from whorl.engines.openvino_export import export_openvino
from whorl.engines.parity import check_parity
from whorl.fields import speakers, speech_files
from whorl.fields.places import Places
from whorl.fields.speech import FIELD
from whorl.fields.speech_words import edits, graded, plain_words
from whorl.fields.spoken_sentences import WORDS
from whorl.verbs import Session

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio: soundfile")
pytest.importorskip("soxr", reason="needs the extra audio: soxr")

RATE = 16_000
HZ = {"low": 300, "middle": 900, "high": 2_500}  # words of a language of tones


def tones(text: str, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Each word as its tone for 0.2 s, with a pause and a little noise."""
    rng = np.random.default_rng(seed)
    times = np.arange(int(0.2 * rate)) / rate
    pieces = [
        piece
        for word in text.split()
        for piece in (np.sin(2 * np.pi * HZ[word] * times), np.zeros(int(0.04 * rate)))
    ]
    sound = np.concatenate(pieces)
    return 0.3 * sound + rng.normal(0, 0.005, len(sound))


def write(path: Path, text: str, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tones(text, seed), RATE)


def read(folder: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    source, reasons = Source(str(folder), "speech", options=options), Counter[str]()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    found = [d for item in FIELD.items(source) for d in FIELD.read(source, item, reject)]
    return found, reasons


def texts(documents: list[Document]) -> list[str]:
    return sorted(document.parts[2].value for document in documents)


SAID = ["low high", "high", "middle low low"]


def test_ljspeech(tmp_path: Path) -> None:
    rows = []
    for number, text in enumerate(SAID):
        write(tmp_path / "wavs" / f"LJ{number}.wav", text)
        rows.append(f"LJ{number}|{text.upper()}!|{text}\n")
    (tmp_path / "metadata.csv").write_text("".join(rows))
    found, reasons = read(tmp_path)
    assert texts(found) == sorted(SAID) and not reasons
    sound, mark, words = found[0].parts
    assert (sound.codec, mark.value, words.codec) == ("audio", "<|answer|>", "text")
    assert not sound.trained and words.trained and sound.value.dtype == np.int16
    assert len(sound.value) == round(0.24 * len(words.value.split()) * 8_000)


def test_common_voice_keeps_its_split_and_passes_over_the_rest(tmp_path: Path) -> None:
    for name, mine in {
        "train": SAID,
        "test": ["low"],
        "dev": ["middle"],
        "other": ["high"],
    }.items():
        with (tmp_path / f"{name}.tsv").open("w", newline="") as file:
            table = csv.writer(file, delimiter="\t")
            table.writerow(["client_id", "path", "sentence", "up_votes"])
            for number, text in enumerate(mine):
                path = tmp_path / "clips" / f"{name}{number}.mp3"
                path.parent.mkdir(exist_ok=True)
                soundfile.write(path, tones(text), RATE, format="MP3")
                table.writerow([f"speaker {name}", path.name, text, 2])
    found, reasons = read(tmp_path)
    by_split = Counter(document.split for document in found)
    assert by_split == {"train": 3, "heldout": 1}
    assert reasons["sound without a text"] == 2  # of lists that are not read
    assert {r.kind for r in reasons if isinstance(r, Reason)} == {"passed over"}


@pytest.mark.parametrize("is_file", [False, True], ids=["folder", "list"])
def test_nemo_manifest(tmp_path: Path, is_file: bool) -> None:
    lines = []
    for number, text in enumerate(SAID):
        write(tmp_path / "deep" / f"{number}.wav", text)
        row = {"audio_filepath": f"deep/{number}.wav", "duration": 1, "text": text}
        lines.append(json.dumps(row))
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines))
    found, reasons = read(path if is_file else tmp_path)
    assert texts(found) == sorted(SAID) and not reasons


def test_texts_beside_sounds(tmp_path: Path) -> None:
    for number, text in enumerate(SAID):
        write(tmp_path / f"{number}.flac", text)
        (tmp_path / f"{number}.txt").write_text(f"{text}\n")
    write(tmp_path / "alone.wav", "low")
    found, reasons = read(tmp_path)
    assert texts(found) == sorted(SAID) and reasons == {"sound without a text": 1}


def test_every_sound_is_an_item_so_that_the_digest_knows_it(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", "low")
    (tmp_path / "a.jsonl").write_text('{"audio_filepath": "a.wav", "text": "low"}')
    items = FIELD.items(Source(str(tmp_path), "speech"))
    assert {item.name for item in items if item.kind != PASSED_OVER} == {"a.wav", "a.jsonl"}


def test_a_list_in_pieces_gives_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.fields.speech_files.PIECE_BYTES", 20_000)
    said = [" ".join(np.random.default_rng(n).choice(list(HZ), 4)) for n in range(30)]
    lines = []
    for number, text in enumerate(said):
        write(tmp_path / f"{number}.wav", text)
        lines.append(json.dumps({"path": f"{number}.wav", "text": text}))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    items = FIELD.items(Source(str(tmp_path), "speech"))
    assert sum(item.kind == "list" for item in items) > 10
    opened: Counter[str] = Counter()

    def columns(item: FileItem, places: Places) -> Iterator[tuple[str, str, str]]:
        opened[item.name] += 1
        return plain_columns(item, places)

    plain_columns = speech_files._columns
    monkeypatch.setattr(speech_files, "_columns", columns)
    found, reasons = read(tmp_path)
    assert texts(found) == sorted(said), reasons
    assert opened["list.jsonl"] == 3  # for the items, to tell what is wrong, for all pieces
    source = Source(str(tmp_path), "speech")
    backwards = [d for i in reversed(items) for d in FIELD.read(source, i, lambda reason: None)]
    assert texts(backwards) == sorted(said)


def test_only_sounds_of_the_source_are_read(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", ".hidden.wav", "c.wav"):
        write(tmp_path / name, "low")
    rows = [{"path": name, "text": "low"} for name in ("a.wav", "b.wav", ".hidden.wav", "c.wav")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, reasons = read(tmp_path)
    assert [d.name.rpartition(" ")[2] for d in found] == ["a.wav", "b.wav", "c.wav"]
    (reason,) = [reason for reason in reasons if "leaves out" in reason]
    assert isinstance(reason, Reason) and reason.place is not None and reason.place.line == 3


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_list_of_training_alone_leaves_a_share_to_ask(tmp_path: Path, name: str) -> None:
    lines = ["path\tsentence"]
    for number in range(40):
        write(tmp_path / f"{number}.wav", "low", number)
        lines.append(f"{number}.wav\tlow {number}")
    (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
    found, _ = read(tmp_path, heldout="0.4")
    sides = Counter(str(document.split) for document in found)
    assert sides.keys() == {"train", "heldout"} and sides.total() == 40


def test_hostile_rows_are_refused_with_a_reason_and_counted(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside.wav"
    write(outside, "low")
    write(inside / "good.wav", "low")
    write(inside / "long.wav", " ".join(["low"] * 130))
    (inside / "text.wav").write_text("this is no sound")
    whole = (inside / "good.wav").read_bytes()
    (inside / "cut.wav").write_bytes(whole[:-50])
    soundfile.write(inside / "empty.wav", np.zeros(0), RATE)
    soundfile.write(inside / "nan.wav", np.array([0.1, np.nan]), RATE, subtype="FLOAT")
    (inside / "link.wav").symlink_to(outside)
    rows: list[dict[str, Any]] = [
        {"audio_filepath": name, "text": "low"}
        for name in (
            *("good.wav", "../outside.wav", str(outside), "link.wav", "missing.wav", "long.wav"),
            *("text.wav", "cut.wav", "empty.wav", "nan.wav", "a\0b.wav", ""),
        )
    ]
    rows += [{"audio_filepath": "good.wav", "text": "  "}, {"text": "low"}]
    rows += [{"audio_filepath": "good.wav"}, {"audio_filepath": "good.wav", "text": "x" * 5_000}]
    rows += [{"audio_filepath": "good.wav", "text": None}, {"audio_filepath": 7, "text": "low"}]
    lines = [*map(json.dumps, rows), '{"audio_filepath": "good.wav", "text": "lo']
    (inside / "list.jsonl").write_text("\n".join(lines))
    found, reasons = read(inside)
    assert texts(found) == ["low"]
    told = {str(reason): count for reason, count in reasons.items()}
    assert told.pop("sound file outside of the list's folder") == 5
    assert told.pop("no such sound file") == 1
    for words in ("too long", "no sound that can be read", "cut short", "no samples"):
        assert sum(told.pop(key) for key in list(told) if words in key) == 1, (words, told)
    assert sum(told.pop(key) for key in list(told) if "no numbers" in key) == 1
    assert told.pop("sound without a text") >= 1 and told.pop("text of more than 2,000 signs") == 1
    assert told.pop("row without audio_filepath") == 2 and told.pop("row without text") == 2
    assert len(told) == 1  # the row of JSON that is cut
    assert all(
        reason.place is not None and reason.place.name
        for reason in reasons
        if isinstance(reason, Reason)
    )


def test_a_refusal_names_its_line_once(tmp_path: Path) -> None:
    """Lines are counted from 1; the hint has the file as its list names it, and no other count."""
    write(tmp_path / "wavs" / "a.wav", "low")
    (tmp_path / "wavs" / "b.wav").write_bytes(b"RIFF no sound")
    (tmp_path / "metadata.csv").write_text("a|low\nb|high\nc|high\n")
    found, reasons = read(tmp_path)
    assert len(found) == 1 and len(reasons) == 2
    told = {(str(r.place), r.hint) for r in reasons if isinstance(r, Reason)}
    assert told == {("metadata.csv, line 2", "b"), ("metadata.csv, line 3", "c")}


@pytest.mark.parametrize("content", [{}, {"notes.txt": "hello"}, {"rows.csv": "a,b\n1,2\n"}])
def test_a_folder_without_speech_is_an_error(tmp_path: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError):
        FIELD.items(Source(str(tmp_path), "speech"))


def test_voices_are_held_out_whole(tmp_path: Path) -> None:
    lines = []
    for number in range(60):
        write(tmp_path / f"{number}.wav", SAID[number % 3], number)
        row = {"file": f"{number}.wav", "text": SAID[number % 3], "speaker": f"s{number % 20}"}
        lines.append(json.dumps(row))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    found, _ = read(tmp_path, heldout="0.3")
    sides: dict[str, set[str | None]] = {}
    for document in found:
        number = int(document.name.rpartition(" ")[2].partition(".")[0])
        sides.setdefault(f"s{number % 20}", set()).add(document.split)
    assert all(len(each) == 1 for each in sides.values())
    assert {side for each in sides.values() for side in each} == {"train", "heldout"}


# ------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("given", "right", "expected"),
    [("", "a b", 2), ("a b", "", 2), ("a b c", "a c", 1), ("a x c", "a b c", 1), ("b a", "a b", 2)],
)
def test_edits_by_hand(given: str, right: str, expected: int) -> None:
    assert edits(given.split(), right.split()) == expected


def test_edits_are_a_distance() -> None:
    rng = np.random.default_rng(0)
    rows = [list("ab" * 9)[:n] for n in rng.integers(0, 9, 30)]
    rows = [[str(w) for w in rng.choice(list("abc"), len(row))] for row in rows]
    for a, b, c in zip(rows, rows[1:], rows[2:], strict=False):
        assert edits(a, b) == edits(b, a) and (edits(a, b) == 0) == (a == b)
        assert edits(a, c) <= edits(a, b) + edits(b, c)
        assert abs(len(a) - len(b)) <= edits(a, b) <= max(len(a), len(b))


def test_case_and_punctuation_are_not_heard() -> None:
    assert plain_words("Don't stop, x-ray!") == ["don't", "stop", "x", "ray"]
    assert graded("turn ON the light", "Turn on, the light.")[WER] == (0.0, 4.0)
    found = graded("turn the lights", "turn on the light")
    assert found[WER] == (2.0, 4.0) and found[ACCURACY] == (0.0, 1.0)


# ------------------------------------------------------------------ spoken by espeak-ng


@pytest.mark.skipif(
    speakers.find_spec(speakers.PACKAGE) is None, reason="needs the extra espeak: espeakng-loader"
)
def test_spoken_sentences_are_repeatable_and_apart() -> None:
    options = {"sentences": "130", "heldout_sentences": "12"}
    source = Source("espeak:home", "speech", options=options)
    items = FIELD.items(source)
    assert [item.number for item in items] == [0, 1, 2]
    assert len({item.identity for item in items}) == 3
    held, first, second = (list(FIELD.read(source, item, print)) for item in items)
    assert (len(held), len(first), len(second)) == (12, 100, 30)
    again = list(FIELD.read(source, items[2], print))
    for one, other in zip(second, again, strict=True):
        assert one.name == other.name and (one.parts[0].value == other.parts[0].value).all()
    assert {document.split for document in held} == {"heldout"}
    voices = [{d.name.partition("+")[2].partition("/")[0] for d in ds} for ds in (held, first)]
    assert not voices[0] & voices[1]
    assert not set(texts(held)) & set(texts(first + second))
    assert {word for text in texts(held + first) for word in text.split()} <= set(WORDS)
    spoken = [document.parts[0].value for document in first]
    assert all(1_000 < len(sound) < 60_000 and np.abs(sound).max() > 500 for sound in spoken)


# ------------------------------------------------------------------ a miniature


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Of 200 sounds in files, ready to be trained."""
    pytest.importorskip("torch", reason="needs the extra train")
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(200):
        text = " ".join(rng.choice(list(HZ), rng.integers(1, 4)))
        write(folder / "data" / f"{number}.wav", text, number)
        row = json.dumps({"file": f"{number}.wav", "text": text})
        lines["test" if number % 10 == 0 else "train"].append(row)
    for split, rows in lines.items():
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(rows))
    entry = {"source": folder / "data", "field": "speech"}
    kept = {"vocab_size": 400, "near_duplicate_jaccard": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        yield tiny(patch, folder / "runs", entry, (128, 1024), 110, prepare=kept, rate=0.02)


def test_a_miniature_learns_to_hear_tones(miniature: Session) -> None:
    scores = {row["field"]: row["value"] for row in miniature.up()["scores"]}
    assert scores["speech"] < 0.15 and scores["speech/accuracy"] > 0.7, scores
    tokens = Tokens.load(miniature.prepare().path / "tokens")
    assert set(tokens.codecs) == {"audio", "text"}


def test_engines_write_the_same_words(miniature: Session, tmp_path: Path) -> None:
    """torch and OpenVINO, from sounds that were never seen."""
    pytest.importorskip("openvino_genai", reason="needs the extra openvino")
    folder = miniature.train().path / "model"
    export_openvino(folder, tmp_path / "openvino")
    tokens = Tokens.load(miniature.prepare().path / "tokens")
    prompts = []
    for number in range(20):
        text = " ".join(np.random.default_rng(1_000 + number).choice(list(HZ), 3))
        sound = np.round(tones(text, 1_000 + number, 8_000) * 32_767).astype(np.int16)
        parts = [Part("audio", sound), Part("special", "<|answer|>")]
        prompts.append([*tokens.contract.start_ids, *tokens.encode_parts(parts)])
    engines = [open_engine(folder, name="torch"), open_engine(tmp_path / "openvino")]
    try:
        stop_ids = tokens.contract.stop_ids
        parity = check_parity(engines[0], engines[1], prompts, max_tokens=12, stop_ids=stop_ids)
        assert len(parity.differences) <= 1 and parity.num_tokens > 40, parity
    finally:
        for engine in engines:
            engine.close()

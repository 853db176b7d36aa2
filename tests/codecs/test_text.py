"""The text codec: exact round trips, and both libraries agree on anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.codecs.text import NUM_SPECIAL, SPECIAL_TOKENS, train_text_codec
from whorl.codecs.tokenizer import TextCodec, load
from whorl.core.errors import DataError, RecordError, SpecError

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 150)

PROSE = (
    "The whorl of a shell grows by one turn at a time, and each turn has the shape of the last.\n"
    "Ein Haus am See; déjà vu, naïve café. Ça ira! 12,345.67 + 89 = 12434.67\n"
    "春天来了，河边的柳树抽出了新芽，孩子们在草地上放风筝。\n"
    "def add(left: int, right: int) -> int:\n    return left + right  # the sum\n"
    "Москва — столица; καλημέρα; こんにちは世界; 안녕하세요; नमस्ते\n"
)
NUM_IDS = 450
TEXTS = [PROSE.replace("one", str(number)) for number in range(40)]


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return train_text_codec(TEXTS, NUM_IDS)


# Any text: all planes, and pieces that tokenizers trip over.
pieces = st.one_of(
    st.text(),
    st.sampled_from(
        [" ", "\n", "\r\n", "\t", "'s", "'LL", "<|eos|>", "é", "é", "👩‍👩‍👧", "的", "1"]
    ),
    st.sampled_from(PROSE.split()),
)
texts = st.lists(pieces, max_size=12).map("".join)


@settings(max_examples=TRIALS)
@given(texts)
def test_round_trip_of_any_text(codec: TextCodec, text: str) -> None:
    ids = codec.encode(text)
    assert codec.decode(ids) == unicodedata.normalize("NFC", text)
    assert all(0 <= i < codec.num_ids for i in ids)
    assert codec.encode(unicodedata.normalize("NFD", text)) == ids


@settings(max_examples=TRIALS)
@given(texts)
def test_both_libraries_agree(codec: TextCodec, text: str) -> None:
    assert codec.encode(text) == codec.encode_slowly(text)


def test_transformers_reads_the_same_ids(codec: TextCodec, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tokenizer.json"
    path.write_bytes(codec.files()["tokenizer.json"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    for text in (PROSE, "café", "  two  spaces\n\n\n"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert [i - NUM_SPECIAL for i in ids] == codec.encode(text)
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(NUM_SPECIAL))


@pytest.mark.parametrize(
    "text",
    [
        " " * 300_000 + "x",
        " \t" * 150_000,
        "\n" * 200_000,
        "a" * 200_000,
        "的" * 50_000,
        "^" * 200_000,
    ],
)
def test_long_runs_of_one_kind(codec: TextCodec, text: str) -> None:
    """Longer runs of white space than one library's regular expressions can take."""
    assert codec.decode(codec.encode(text)) == text


def test_merges_are_learned_and_limited(codec: TextCodec) -> None:
    assert codec.num_ids == NUM_IDS
    assert len(codec.encode(PROSE)) < 0.6 * len(PROSE.encode())
    assert train_text_codec(["abc"], 5000).num_ids == 256


def test_training_is_reproducible() -> None:
    """Other processes, hash seeds and thread counts give the same bytes."""
    code = (
        "import sys, hashlib; from tests.codecs.test_text import TEXTS;"
        "from whorl.codecs.text import train_text_codec;"
        "print(hashlib.sha256(train_text_codec(TEXTS, 600).files()['tokenizer.json']).hexdigest())"
    )
    found = set()
    for threads, seed in (("1", "0"), ("4", "77")):
        env = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        found.add(run.stdout)
    assert len(found) == 1


def test_at_most_max_bytes_are_read() -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(1)
            yield PROSE

    codec = train_text_codec(endless(), 300, max_bytes=20_000)
    assert codec.num_ids == 300 and len(taken) <= 20_000 // len(PROSE.encode()) + 2


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", None, 7, b"bytes"])
def test_what_is_no_text_is_refused(codec: TextCodec, value: object) -> None:
    with pytest.raises(DataError):
        codec.encode(value)


def test_too_small_or_empty_is_refused() -> None:
    with pytest.raises(SpecError, match="at least 256"):
        train_text_codec(TEXTS, 255)
    with pytest.raises(DataError, match="no text"):
        train_text_codec([], 300)


def test_the_files_are_all_there_is(codec: TextCodec) -> None:
    again = load("text", codec.files())
    assert again.files() == codec.files() and again.encode(PROSE) == codec.encode(PROSE)
    with pytest.raises(RecordError, match=r"no tokenizer\.json"):
        load("text", {})


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["model"].pop("vocab"),
        lambda value: value["model"]["vocab"].update({"zz": 20}),
        lambda value: value["added_tokens"][3].update(id=20),
        lambda value: value.update(decoder={"type": "WordPiece"}),
        lambda value: value.pop("decoder"),
    ],
)
def test_inconsistent_tokenizers_are_refused(codec: TextCodec, change: object) -> None:
    value = json.loads(codec.files()["tokenizer.json"])
    change(value)  # type: ignore[operator]
    with pytest.raises(RecordError):
        load("text", {"tokenizer.json": json.dumps(value).encode()})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"model": 3}', b"[" * 100_000])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        load("text", {"tokenizer.json": data})


def test_a_disagreement_is_found(codec: TextCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codec.check(TEXTS[:3]) == 3
    monkeypatch.setattr(codec, "encode_slowly", lambda text: [*codec.encode(text)[:-1], 5])
    with pytest.raises(DataError, match="disagree on document 1"):
        codec.check(TEXTS[:3])

"""Runs of one kind of sign, however long: every encoder of a contract gives the same ids."""

from __future__ import annotations

import json
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from whorl.codecs.text import NUM_SPECIAL, train_text_codec
from whorl.codecs.tokenizer import TextCodec
from whorl.codecs.words import MAX_RUN, QWEN2_PATTERN, SPLIT_PATTERN
from whorl.testing.odd_texts import ODD_TEXTS, PROSE, odd_text

SIGNS = "aZ的ก\u0e34\u0301\u0345 \t\u00a0\u3000\r\n^─(👩\u200d⠿'1٣é\u017f"
units = st.one_of(
    st.sampled_from(SIGNS), st.sampled_from(["ab", "的河", "\r\n", " \t", "^─", "'s", " a", "^\n"])
)
lengths = st.one_of(st.integers(1, 3), st.integers(MAX_RUN - 2, 3 * MAX_RUN + 2))
runs = st.lists(st.tuples(units, lengths), max_size=6).map(
    lambda found: "".join(unit * length for unit, length in found)
)


def of_before(codec: TextCodec) -> TextCodec:
    """The same vocabulary in a file as it was written before: words without end."""
    value = json.loads(codec.files()["tokenizer.json"])
    value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = QWEN2_PATTERN
    return TextCodec(json.dumps(value).encode())


@pytest.fixture(scope="module", params=["new", "of before"])
def codec(request: pytest.FixtureRequest) -> TextCodec:
    texts = [odd_text(kind, 20_000) for kind in ODD_TEXTS]
    found = train_text_codec(texts, 1200)
    return found if request.param == "new" else of_before(found)


@pytest.fixture(scope="module")
def others(codec: TextCodec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """What others make of the file: the library and transformers."""
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(codec.files()["tokenizer.json"])
    return Tokenizer.from_file(str(path)), PreTrainedTokenizerFast(tokenizer_file=str(path))


def assert_all_agree(codec: TextCodec, others: tuple[Any, Any], text: str) -> None:
    ids = codec.encode(text)
    assert ids == codec.encode_slowly(text)
    library, transformers = others
    in_file = [number + NUM_SPECIAL for number in ids]
    assert library.encode(text, add_special_tokens=False).ids == in_file
    assert transformers.encode(text, add_special_tokens=False) == in_file
    assert codec.decode(ids) == unicodedata.normalize("NFC", text)


@settings(max_examples=200)
@given(runs)
def test_every_encoder_gives_the_same_ids(
    codec: TextCodec, others: tuple[Any, Any], text: str
) -> None:
    assert_all_agree(codec, others, text)


@pytest.mark.parametrize("kind", ODD_TEXTS)
def test_of_long_texts_too(codec: TextCodec, others: tuple[Any, Any], kind: str) -> None:
    text = unicodedata.normalize("NFC", "".join(sorted(odd_text(kind, 3_000)))) + "\r" * 99
    assert_all_agree(codec, others, text + odd_text(kind, 40_000).replace("\u0327", "\u0301"))


def words(pattern: str, text: str) -> list[str]:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return [word for word, _ in split.pre_tokenize_str(text)]


@settings(max_examples=200)
@given(st.one_of(runs, st.text()))
def test_words_are_qwens_but_bounded(text: str) -> None:
    """Where Qwen's words are short they are ours, and none of ours is long."""
    theirs, ours = words(QWEN2_PATTERN, text), words(SPLIT_PATTERN, text)
    assert "".join(ours) == text
    assert all(len(word) <= 2 * MAX_RUN + 1 for word in ours)
    if all(len(word) <= MAX_RUN for word in theirs):
        assert ours == theirs


def test_white_space_of_older_files_is_looked_at_once() -> None:
    """Runs a little shorter than what tiktoken can take: no square of their length."""
    codec = of_before(train_text_codec([odd_text(PROSE, 2_000)], 300))
    text = (" " * 15_000 + "x") * 100
    begin = time.process_time()
    ids = codec.encode(text)
    assert time.process_time() - begin < 5
    assert codec.decode(ids) == text

"""Files of tiktoken: its own ids."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

import pytest
import tiktoken

from tests.codecs.open_tokenizers import fuzzed_text
from tests.codecs.test_text import TEXTS
from whorl.codecs.text import train_text_codec
from whorl.codecs.tiktoken_file import read_tiktoken
from whorl.codecs.tokenizer import TextCodec
from whorl.codecs.words import SPLIT_PATTERN
from whorl.core.errors import RecordError

LLAMA3 = (  # three digits to a word, and letters in any case
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    return {token: rank for rank, token in enumerate(train_text_codec(TEXTS, 500).token_bytes)}


def written(ranks: dict[bytes, int]) -> bytes:
    return b"".join(b"%s %d\n" % (base64.b64encode(t), rank) for t, rank in ranks.items())


@pytest.mark.parametrize("pattern", [SPLIT_PATTERN, LLAMA3])
def test_ids_are_those_of_tiktoken(
    pattern: str, ranks: dict[bytes, int], trials: Callable[[int], int]
) -> None:
    special = {"<|end|>": len(ranks), "<|x|>": len(ranks) + 3}
    theirs = tiktoken.Encoding("t", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    codec = read_tiktoken(written(ranks), pattern, special)
    assert (codec.first_id, codec.num_ids, codec.special) == (0, len(ranks) + 4, special)
    chooser = random.Random(5)
    for _ in range(trials(300)):
        text = fuzzed_text(chooser, list(special)) + chooser.choice(TEXTS)[:60]
        ids = codec.encode(text)
        assert ids == theirs.encode_ordinary(text), text
        assert codec.decode(ids) == text == theirs.decode(ids)
    assert TextCodec(codec.files()["tokenizer.json"]).encode("a shell") == codec.encode("a shell")


@pytest.mark.parametrize(
    "data", [b"", b"a", b"YQ== x", b"YQ== 0\nYQ== 1", b"YQ== 0\nYg== 0", b"!!! 0", b"YQ== 0"]
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="not a tiktoken file"):
        read_tiktoken(data, SPLIT_PATTERN, {})


def test_a_pattern_that_means_two_things_is_refused(ranks: dict[bytes, int]) -> None:
    with pytest.raises(RecordError, match="possessive"):
        read_tiktoken(written(ranks), LLAMA3.replace("{1,3}", "{1,3}+"), {})

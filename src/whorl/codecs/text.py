"""Text <-> tokens: byte-level BPE, trained by `tokenizers`, encoded by `tiktoken`.

The file is a Hugging Face tokenizer.json whose ids are those of the token contract: 16 special
ids, 256 bytes, merges. Both libraries must agree on real documents before a codec is used.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError, MissingExtra, RecordError, SpecError

__all__ = [
    "MAX_TRAINING_BYTES",
    "NUM_SPECIAL",
    "SPECIAL_TOKENS",
    "SPLIT_PATTERN",
    "TextCodec",
    "load",
    "train_text_codec",
]

# What the first 16 ids mean in every contract.
SPECIAL_TOKENS = (
    *("<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    *("<|image|>", "<|answer|>", *(f"<|reserved_{number}|>" for number in range(9, 16))),
)
NUM_SPECIAL = len(SPECIAL_TOKENS)
NUM_BYTES = 256
MAX_TRAINING_BYTES = 32 * 2**20  # of text that BPE training reads

# Where words end before BPE; the pattern of Qwen2 (one digit per word).
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tiktoken's regular expressions run out of stack on longer runs of white space.
MAX_SPACE_RUN = 20_000
SPACE_RUN = re.compile(rf"\s{{{MAX_SPACE_RUN}}}")
CHECK_DOCUMENTS, CHECK_CHARS = 128, 4_000  # how much the two encoders are compared on

FILE = "tokenizer.json"


class TextCodec:
    """Byte-level BPE with local ids 0..num_ids-1: bytes first, then merges by rank."""

    kind = "text-bpe"
    media_type = "text/plain"

    def __init__(self, tokenizer_json: bytes, name: str = "text") -> None:
        """Raises RecordError if this is not a tokenizer.json written by `train_text_codec`."""
        self.name = name
        self._json = tokenizer_json
        self.token_bytes = _token_bytes(tokenizer_json)
        self.num_ids = len(self.token_bytes)

    def encode(self, value: Any) -> list[int]:
        """Local ids of a text after NFC. Raises DataError on lone surrogates or a non-text."""
        return [int(i) for i in self.encode_array(value)]

    def encode_array(self, value: Any) -> NDArray[np.int64]:
        """The same as int64 [n]."""
        text = _valid_text(value)
        if _has_long_space_run(text):
            ids = self.encode_slowly(text)
        else:
            ids = self._fast.encode_ordinary(text)
        return np.asarray(ids, np.int64)

    def encode_slowly(self, value: Any) -> list[int]:
        """Local ids by the other library, `tokenizers`; equal to `encode`."""
        ids: list[int] = self._slow.encode(_valid_text(value), add_special_tokens=False).ids
        return [i - NUM_SPECIAL for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD. Exact for what `encode` gave."""
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", "replace")

    def to_bytes(self, value: Any) -> bytes:
        """UTF-8 after NFC. Raises DataError as `encode`."""
        return _valid_text(value).encode()

    def from_bytes(self, data: bytes) -> str:
        """Raises DataError on bytes that are not UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DataError("the text is not UTF-8", found=error.reason) from error

    def files(self) -> dict[str, bytes]:
        """A Hugging Face tokenizer.json."""
        return {FILE: self._json}

    def check(self, texts: Iterable[str]) -> int:
        """Compare both encoders and the round trip on texts; gives how many were compared.

        Raises DataError naming the first place where they differ.
        """
        number = 0
        for number, whole in enumerate(texts, start=1):
            text = _valid_text(whole[:CHECK_CHARS])
            fast, slow = self.encode(text), self.encode_slowly(text)
            if fast != slow or self.decode(fast) != text:
                at = next(
                    (i for i, (a, b) in enumerate(zip(fast, slow, strict=False)) if a != b), -1
                )
                raise DataError(
                    f"the two tokenizer libraries disagree on document {number}",
                    found=f"token {at} near {self.decode(slow[max(0, at - 4) : at + 4])!r}",
                    do="report this text: its ids would not be the same when served",
                )
        return number

    @cached_property
    def _fast(self) -> Any:
        try:
            import tiktoken
        except ImportError as error:
            raise MissingExtra.of("tiktoken", "train", "the text codec") from error
        ranks = {token: rank for rank, token in enumerate(self.token_bytes)}
        return tiktoken.Encoding(
            "whorl", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )

    @cached_property
    def _slow(self) -> Any:
        tokenizer = _tokenizers().Tokenizer.from_str(self._json.decode())
        tokenizer.encode_special_tokens = True  # "<|eos|>" written in a text is plain text
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "json": self._json}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["json"], state["name"])  # type: ignore[misc]


def load(name: str, files: Mapping[str, bytes]) -> TextCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    if FILE not in files:
        raise RecordError(f"codec {name} has no {FILE}", found=sorted(files))
    return TextCodec(files[FILE], name)


def train_text_codec(
    texts: Iterable[str],
    vocab_size: int,
    seed: int = 0,
    max_bytes: int = MAX_TRAINING_BYTES,
) -> TextCodec:
    """A codec of at most vocab_size local ids (256 bytes and merges) from the first max_bytes.

    The result depends on the texts alone: BPE has no randomness (seed is not used) and does not
    depend on threads. Both encoders are compared on the first texts.

    Raises SpecError if vocab_size is below 256, DataError if there is no text or they differ.
    """
    if vocab_size < NUM_BYTES:
        raise SpecError(
            "the vocabulary is too small for text",
            found=f"{vocab_size} ids",
            expected=f"at least {NUM_BYTES}, one per byte",
            do="raise the vocabulary size",
        )
    library = _tokenizers()
    byte_level = library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(SPLIT_PATTERN), "isolated"),
            byte_level(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size + NUM_SPECIAL,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    kept: list[str] = []
    tokenizer.train_from_iterator(_first_bytes(texts, max_bytes, kept), trainer)
    if not kept:
        raise DataError("there is no text to train the tokenizer on")
    codec = TextCodec(tokenizer.to_str().encode())
    codec.check(kept)
    return codec


def _first_bytes(texts: Iterable[str], max_bytes: int, kept: list[str]) -> Iterator[str]:
    """Texts up to max_bytes; the beginnings of the first ones are kept for the comparison."""
    left_bytes = max_bytes
    for text in texts:
        if left_bytes <= 0:
            return
        part = _valid_text(text[:left_bytes])
        left_bytes -= len(part.encode())
        if len(kept) < CHECK_DOCUMENTS:
            kept.append(part[:CHECK_CHARS])
        yield part


def _valid_text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError("the text codec encodes text", found=type(value).__name__)
    text = unicodedata.normalize("NFC", value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            "the text holds a lone surrogate", found=f"{text[error.start]!a} at {error.start}"
        ) from error
    return text


def _has_long_space_run(text: str) -> bool:
    if len(text) < MAX_SPACE_RUN:
        return False
    # A long run covers two neighbours of every MAX_SPACE_RUN // 2-th character.
    probes = "".join("s" if c.isspace() else "x" for c in text[:: MAX_SPACE_RUN // 2])
    return "ss" in probes and SPACE_RUN.search(text) is not None


def _token_bytes(tokenizer_json: bytes) -> list[bytes]:
    """Bytes of each local id. Raises RecordError unless ids are 16 special, 256 bytes, merges."""
    try:
        value = json.loads(tokenizer_json)
        vocab: dict[str, int] = value["model"]["vocab"]
        special = {token["content"]: token["id"] for token in value["added_tokens"]}
        pattern = value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        inverse = _byte_of_char()
        found = {
            number: bytes(inverse[char] for char in token)
            for token, number in vocab.items()
            if token not in special
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise RecordError(f"{FILE} is not a byte-level BPE of whorl", found=repr(error)) from error
    tokens = [found.get(number, b"") for number in range(NUM_SPECIAL, NUM_SPECIAL + len(found))]
    if (
        special != {token: number for number, token in enumerate(SPECIAL_TOKENS)}
        or pattern != SPLIT_PATTERN
        or len(set(tokens)) != len(tokens)
        or b"" in tokens
        or {len(token) for token in tokens[:NUM_BYTES]} != {1}
    ):
        raise RecordError(f"{FILE} has other ids or rules than a tokenizer of whorl")
    return tokens


def _byte_of_char() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, as written in tokenizer.json."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra.of("tokenizers", "train", "the text codec") from error
    return tokenizers

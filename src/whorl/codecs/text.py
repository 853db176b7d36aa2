"""Our own text codec: byte-level BPE trained on the recipe's texts.

The file is a tokenizer.json like any other (see `whorl.codecs.tokenizer`): ids 0..15 are special,
then come 256 bytes and the merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from whorl.codecs.bpe import train_bpe
from whorl.codecs.tokenizer import TextCodec, nfc, valid_text
from whorl.core.errors import DataError, SpecError

__all__ = [
    "CHAT_TEMPLATE",
    "MAX_TRAINING_BYTES",
    "NAMES",
    "NUM_SPECIAL",
    "SPECIAL",
    "SPECIAL_TOKENS",
    "train_text_codec",
]

# What the first 16 ids mean in a contract of our own tokenizer, or of none.
SPECIAL_TOKENS = (
    *("<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    *("<|image|>", "<|answer|>", *(f"<|reserved_{number}|>" for number in range(9, 16))),
)
SPECIAL = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
NUM_SPECIAL = len(SPECIAL_TOKENS)
# What chat templates and Hugging Face call them.
NAMES = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == "assistant" %}
{{- "<|assistant|>" }}{% generation %}{{ message.content + "<|end|>" }}{% endgeneration %}
{%- elif message.role in ("user", "system") %}
{{- "<|" + message.role + "|>" + message.content + "<|end|>" }}
{%- else %}{{ raise_exception("there is no role " + message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|assistant|>" }}{% endif %}"""
NUM_BYTES = 256
MAX_TRAINING_BYTES = 32 * 2**20  # of text that BPE training reads
PIECE_CHARS = 2**16  # of a text given to it at once
CHECK_PIECES, CHECK_CHARS = 128, 4_000  # how much the two encoders are compared on


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
    kept: list[str] = []
    pieces = _first_bytes(texts, max_bytes, kept)
    found = train_bpe(pieces, vocab_size + NUM_SPECIAL, SPECIAL_TOKENS)
    if not kept:
        raise DataError(
            "there is no text to train the tokenizer on",
            found="documents without text",
            do="look at data.source, and at what prepare passed over",
        )
    codec = TextCodec(found)
    codec.check(kept)
    return codec


def _first_bytes(texts: Iterable[str], max_bytes: int, kept: list[str]) -> Iterator[str]:
    """Texts up to max_bytes in NFC and in pieces of PIECE_CHARS.

    The beginnings of the first pieces are kept for the comparison.
    """
    left_bytes = max_bytes
    for text in texts:
        text = valid_text(text)
        for at in range(0, len(text), PIECE_CHARS):
            if left_bytes <= 0:
                return
            piece = nfc(text[at : at + min(PIECE_CHARS, left_bytes)])
            left_bytes -= len(piece.encode())
            if len(kept) < CHECK_PIECES:
                kept.append(piece[:CHECK_CHARS])
            yield piece

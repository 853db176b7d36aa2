"""Single ids as clients are told of them."""

from __future__ import annotations

from whorl.codecs.contract import TEXT, Tokens
from whorl.codecs.tokenizer import TextCodec

__all__ = ["token_bytes", "token_text"]


def token_text(tokens: Tokens, number: int) -> str:
    """The text of an id, of special ones too; half a character is U+FFFD."""
    return tokens.decode((number,), skip_special=False)


def token_bytes(tokens: Tokens, number: int) -> bytes:
    """The bytes of an id: those of an answer's ids join to its UTF-8."""
    codec = tokens.codecs.get(TEXT)
    if isinstance(codec, TextCodec) and number not in tokens.special_texts:
        local = number - codec.first_id
        if 0 <= local < codec.num_ids:
            return codec.token_bytes[local]
    return token_text(tokens, number).encode()

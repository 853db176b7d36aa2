"""Single ids as clients are told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whorl.codecs.contract import TEXT, Tokens
from whorl.codecs.tokenizer import TextCodec
from whorl.core.ports import TokenLogprob

__all__ = ["logprobs_of", "token_bytes", "token_text"]


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


def logprobs_of(tokens: Tokens, told: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """How probable each id was, and its alternatives, with their texts and bytes."""
    return [
        _logprob_of(tokens, each.token_id, each.logprob)
        | {"top_logprobs": [_logprob_of(tokens, *other) for other in each.top]}
        for each in told
    ]


def _logprob_of(tokens: Tokens, number: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_text(tokens, number),
        "logprob": logprob,
        "bytes": list(token_bytes(tokens, number)),
    }

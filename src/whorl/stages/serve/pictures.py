"""Images in requests: data URLs, whose bytes stand in the request. Nothing is ever fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError
from whorl.stages.serve.ask import PartBody
from whorl.stages.serve.request import shown

__all__ = [
    "ANSWER",
    "IMAGE_PART",
    "base64_of",
    "closed_codecs",
    "codec_of_kind",
    "parts_of_chat",
    "picture_of",
]

IMAGE_PART = "image_url"  # type of a message's part, as OpenAI's chats have it
IMAGE_TYPE = "image/"
ANSWER = "<|answer|>"  # the special token between what is asked and its answer
DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)
DETAILS = ("auto", "low", "high", "original")  # every image is read in the model's own size


def base64_of(url: object, where: str) -> str:
    """The base64 of a data URL. Raises ValueError by its place on any other address."""
    found = DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        raise ValueError(
            f"{where} must be a data URL, data:image/png;base64,…; this server fetches nothing; "
            f"found: {shown(url)[:80]}"
        )
    return found[1]


def picture_of(part: Mapping[str, Any], where: str) -> str:
    """The base64 of {"type": "image_url", "image_url": {"url": …}}. Raises ValueError."""
    image = part.get("image_url")
    if part.keys() != {"type", "image_url"} or not isinstance(image, Mapping):
        expected = '{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}'
        raise ValueError(f"{where} must be {expected}; found: {shown(dict(part))}")
    if unknown := sorted(map(str, image.keys() - {"url", "detail"})):
        raise ValueError(f"{where}.image_url.{unknown[0][:40]} is unknown; expected: url, detail")
    if image.get("detail", "auto") not in DETAILS:
        told = f"must be one of {', '.join(DETAILS)}"
        raise ValueError(f"{where}.image_url.detail {told}; found: {shown(image['detail'])}")
    return base64_of(image.get("url"), f"{where}.image_url.url")


def codec_of_kind(tokens: Tokens, media_type: str) -> str | None:
    """The first codec whose media type begins so; None: the model has none."""
    names = (
        name for name, codec in tokens.codecs.items() if codec.media_type.startswith(media_type)
    )
    return next(names, None)


def closed_codecs(tokens: Tokens) -> list[str]:
    """Codecs of one id a value: those whose values can all be told."""
    return [name for name, codec in tokens.codecs.items() if codec.value_ids == 1]


def parts_of_chat(tokens: Tokens, messages: Sequence[Mapping[str, Any]]) -> tuple[PartBody, ...]:
    """What a model of images and classes reads of a chat: its one image.

    Raises DataError where it cannot read all that is said.
    """
    codec = codec_of_kind(tokens, IMAGE_TYPE)
    if codec is None:
        raise DataError("this model reads no images", expected="text")
    content = messages[0].get("content")
    if len(messages) > 1 or not isinstance(content, list) or len(content) > 1:
        raise DataError(
            "this model reads one image and no text",
            found=f"{len(messages)} messages, the first of {_size(content)}",
            do="send one message of one image, or parts to /v1/completions",
        )
    return PartBody(codec=codec, data=content[0]["data"]), PartBody(codec="special", text=ANSWER)


def _size(content: object) -> str:
    return f"{len(content)} parts" if isinstance(content, list) else "text"

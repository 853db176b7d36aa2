"""What is asked, as token ids: texts, ids, parts of the model's codecs, chats."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from whorl.codecs.contract import Tokens
from whorl.codecs.parts import token_space
from whorl.core.errors import DataError, WhorlError
from whorl.core.ports import Part
from whorl.stages.serve.ask import Ask, Chat, PartBody, Prompt
from whorl.stages.serve.errors import ApiError, invalid

__all__ = ["PromptReader"]


class PromptReader:
    """Prompts -> ids of one model. Everything that is wrong is an ApiError that names the field."""

    def __init__(self, tokens: Tokens, context_tokens: int) -> None:
        self.tokens, self.context_tokens = tokens, context_tokens
        self.has_text = any(entry.name == "text" for entry in tokens.contract.codecs)

    async def encode(self, prompt: Prompt, subject: str) -> tuple[int, ...]:
        """The ids of a prompt; subject: the name of the field that it came in."""
        if isinstance(prompt, Chat):
            return await self._encode_chat(prompt, subject)
        if isinstance(prompt, str):
            if not self.has_text:
                raise invalid(f"{subject}: this model takes no text; send parts or ids", subject)
            prompt = (PartBody(codec="text", text=prompt),)
        ids = [item for item in prompt if isinstance(item, int)]
        if ids:
            self._check_ids(ids, subject)
            return tuple(ids)
        parts = [item for item in prompt if isinstance(item, PartBody)]
        try:
            found = await asyncio.to_thread(
                lambda: self.tokens.encode_parts([self._part(part) for part in parts])
            )
        except DataError as error:
            raise invalid(f"{subject}: {error}", subject) from None
        return (*self.tokens.contract.start_ids, *found)

    async def _encode_chat(self, chat: Chat, subject: str) -> tuple[int, ...]:
        encode, now = self.tokens.encode_chat, datetime.now()
        try:
            ids, _ = await asyncio.to_thread(encode, self._as_template_reads(chat), True, now)
        except DataError as error:
            raise invalid(f"{subject}: {error}", subject) from None
        except WhorlError as error:  # of the template, or of what renders it
            told = f"this server cannot chat: {error}"
            raise ApiError(501, told, code="no_chat", param=subject) from error
        return tuple(ids.tolist())

    def _as_template_reads(self, chat: Chat) -> dict[str, Any]:
        functions = chat.tools.functions if chat.tools is not None else ()
        tools = [{"type": "function", "function": dict(function)} for function in functions]
        return {
            "messages": chat.messages,
            "tools": tools or None,
            "variables": chat.variables,
        }

    def _part(self, part: PartBody) -> Part:
        """Raises DataError on a codec that the model has not, or data that is not its."""
        if part.data is None:
            return Part(part.codec, part.text)
        codec = self.tokens.codecs.get(part.codec)
        if codec is None:
            names = ", ".join(self.tokens.codecs)
            raise DataError(f"this model has no codec {part.codec}", expected=names)
        try:
            data = base64.b64decode(part.data, validate=True)
        except ValueError as error:
            raise DataError(f"the data of a part ({part.codec}) is not base64") from error
        return Part(part.codec, codec.from_bytes(data))

    def allowed_ids(self, ask: Ask) -> tuple[int, ...] | None:
        """The ids that alone may be generated; None: any."""
        if ask.allowed_ids is not None and ask.answer_codec is not None:
            raise invalid("answer_codec: not beside allowed_token_ids", "answer_codec")
        if ask.allowed_ids is not None:
            self._check_ids(ask.allowed_ids, "allowed_token_ids")
            return tuple(dict.fromkeys(ask.allowed_ids))
        if ask.answer_codec is None:
            return None
        ranges = token_space(self.tokens).ranges
        if ask.answer_codec not in ranges:
            names = ", ".join(ranges)
            raise invalid(f"answer_codec: this model has the codecs {names}", "answer_codec")
        return tuple(ranges[ask.answer_codec])

    def logit_bias(self, ask: Ask) -> tuple[tuple[int, float], ...]:
        """What is added to the logits of ids."""
        if ask.logit_bias:
            self._check_ids(list(ask.logit_bias), "logit_bias")
        return tuple(ask.logit_bias.items())

    def _check_ids(self, ids: Sequence[int], field: str) -> None:
        vocab_size = self.tokens.contract.vocab_size
        if (largest := max(ids)) >= vocab_size:
            raise invalid(f"{field}: id {largest} is not below {vocab_size}", field)

    def answer_room(self, prompt_tokens: int, ask: Ask, most: int) -> int:
        """How many tokens the answer may have; most: the server's limit."""
        field, room = ask.subject, self.context_tokens - prompt_tokens
        if prompt_tokens == 0:
            raise invalid(f"{field}: no token of it is left; this model needs at least one", field)
        max_tokens = ask.max_tokens or max(1, min(most, room))
        if max_tokens <= room:
            return max_tokens
        advice = f"set {ask.limit_name} to at most {room}" if room >= 1 else "shorten the prompt"
        raise invalid(
            f"{field}: {prompt_tokens} tokens and {ask.limit_name} {max_tokens} are over this "
            f"model's context of {self.context_tokens} tokens; {advice}",
            field,
            "context_length_exceeded",
        )

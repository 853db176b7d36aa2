"""What is asked, as token ids: texts, ids, parts of the model's codecs, chats."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from whorl.codecs.contract import TEXT, Tokens, is_of_files
from whorl.codecs.decoding import DecodeStream
from whorl.codecs.parts import SPECIAL_CODEC, token_space
from whorl.core.errors import DataError, MissingExtra, WhorlError
from whorl.core.ports import Part
from whorl.stages.serve.ask import Ask, Chat, PartBody, Prompt
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.formats import think
from whorl.stages.serve.formats.choose import Voice, dialogue_of
from whorl.stages.serve.pictures import closed_codecs, parts_of_chat
from whorl.stages.serve.reading import FileReaders

__all__ = ["PromptReader"]

END_TOKENS = 16  # of a prompt: whether a thought has begun there


class PromptReader:
    """Prompts -> ids of one model. Everything that is wrong is an ApiError that names the field."""

    def __init__(self, tokens: Tokens, context_tokens: int) -> None:
        self.tokens, self.context_tokens = tokens, context_tokens
        self._readers = FileReaders()
        self.dialogue = dialogue_of(tokens.contract.chat_template)
        self.has_text = any(entry.name == "text" for entry in tokens.contract.codecs)

    async def encode(
        self, prompt: Prompt, ask: Ask, left_s: float | None = None
    ) -> tuple[int, ...]:
        """The ids of one of the prompts. left_s: seconds until its files must have been read."""
        subject = ask.subject
        if isinstance(prompt, Chat) and not prompt.has_images:
            return await self._encode_chat(prompt, ask)
        if isinstance(prompt, str):
            if not self.has_text:
                raise invalid(f"{subject}: this model takes no text; send parts or ids", subject)
            prompt = (PartBody(codec="text", text=prompt),)
        try:
            if isinstance(prompt, Chat):
                prompt = parts_of_chat(self.tokens, prompt.messages)
            ids = [item for item in prompt if isinstance(item, int)]
            if ids:
                self.check_ids(ids, subject)
                return tuple(ids)
            given = [item for item in prompt if isinstance(item, PartBody)]
            parts = await self._read(given, subject, left_s)
            found = await asyncio.to_thread(self.tokens.encode_parts, parts)
        except DataError as error:
            raise invalid(f"{subject}: {error}", subject) from None
        except MissingExtra as error:
            raise ApiError(501, str(error), code="no_codec", param=subject) from error
        return (*self.tokens.contract.start_ids, *found)

    async def _read(
        self, given: Sequence[PartBody], subject: str, left_s: float | None
    ) -> list[Part]:
        """The values of parts. No file is read of a prompt that cannot be answered."""
        codecs = [self.tokens.codecs.get(part.codec) for part in given if part.data is not None]
        files = [codec for codec in codecs if codec is not None and is_of_files(codec)]
        if not files:
            return await asyncio.to_thread(lambda: [self._part(part) for part in given])
        least, most = sum(codec.value_ids or 1 for codec in files), self.context_tokens
        if least > most:
            told = f"{len(files)} files have {least} tokens, over this model's context of {most}"
            raise invalid(f"{subject}: {told}; send fewer", subject, "context_length_exceeded")
        try:
            return await self._readers.each(given, self._part, left_s)
        except TimeoutError:
            told = f"its {len(files)} files could not be read before the deadline"
            raise ApiError(504, f"{subject}: {told}", code="deadline_exceeded") from None

    async def _encode_chat(self, chat: Chat, ask: Ask) -> tuple[int, ...]:
        subject = ask.subject
        try:
            return await asyncio.to_thread(self._chat_ids, chat, ask.grammar is not None)
        except DataError as error:
            raise invalid(f"{subject}: {error}", subject) from None
        except WhorlError as error:  # of the template, or of what renders it
            told = f"this server cannot chat: {error}"
            raise ApiError(501, told, code="no_chat", param=subject) from error

    def _chat_ids(self, chat: Chat, has_form: bool) -> tuple[int, ...]:
        """The template's ids, and behind them what stands before a call that must be made.

        has_form: the answer has one from its first token, so that there is no room for thoughts.
        """
        messages = [self._in_known_role(message) for message in chat.messages]
        functions = chat.tools.functions if chat.tools is not None else ()
        tools = [{"type": "function", "function": dict(function)} for function in functions]
        value = {"messages": messages, "tools": tools or None, "variables": chat.variables}
        ids, _ = self.tokens.encode_chat(value, True, datetime.now(), chat.goes_on)
        return (*ids.tolist(), *self._forced_ids(chat, has_form, ids.tolist()))

    def _in_known_role(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """OpenAI's developer is the system where a template does not know it."""
        if message.get("role") != "developer" or self.dialogue.has_developer:
            return message
        return {**message, "role": "system"}

    def _forced_ids(self, chat: Chat, has_form: bool, ids: list[int]) -> list[int]:
        calls = self.dialogue.calls
        must_call = chat.tools is not None and chat.tools.must_call and calls is not None
        parts = []
        if (must_call or has_form) and self._is_thinking(chat, ids):
            parts.append(Part(TEXT, f"{think.CLOSE}\n\n"))
        if must_call and calls is not None and calls.opening:
            is_special = calls.opening in self.tokens.contract.special
            parts.append(Part(SPECIAL_CODEC if is_special else TEXT, calls.opening))
        return self.tokens.encode_parts(parts)

    def _is_thinking(self, chat: Chat, ids: Sequence[int]) -> bool:
        """Whether the prompt ends in the middle of a thought."""
        if not self.dialogue.thinks:
            return False
        if chat.goes_on:
            text = str(chat.messages[-1]["content"])
            return text.rfind(think.OPEN) > text.rfind(think.CLOSE)
        end = self.tokens.decode(ids[-END_TOKENS:], skip_special=False)
        return end.rstrip().endswith(think.OPEN)

    def voice(self, prompt: Prompt, ids: Sequence[int]) -> Voice:
        """How the answer to a prompt is to be read."""
        if not isinstance(prompt, Chat):
            return Voice()
        tools, calls = prompt.tools, self.dialogue.calls
        names = None if tools is None else [str(each.get("name")) for each in tools.functions]
        reader = self.dialogue.reader(
            names, self._is_thinking(prompt, ids), tools is not None and tools.must_call
        )
        if tools is None or calls is None:
            return Voice(reader)
        return Voice(reader, calls.new_id, tools.most)

    def decoder(self, prompt: Prompt) -> DecodeStream:
        """For the ids of an answer: marks of a chat's format are part of its text."""
        is_chat = isinstance(prompt, Chat)
        continues = not isinstance(prompt, Chat) or prompt.goes_on
        return self.tokens.decode_stream(
            continues=continues, shown=self.dialogue.marks if is_chat else ()
        )

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

    def allowed_ids(self, ask: Ask, prompt: Prompt) -> tuple[int, ...] | None:
        """The ids that alone may be generated; None: any. Of an image its classes."""
        if ask.allowed_ids is not None and ask.answer_codec is not None:
            raise invalid("answer_codec: not beside allowed_token_ids", "answer_codec")
        if ask.allowed_ids is not None:
            self.check_ids(ask.allowed_ids, "allowed_token_ids")
            return tuple(dict.fromkeys(ask.allowed_ids))
        ranges = token_space(self.tokens).ranges
        if ask.answer_codec is None and self.is_one_choice(prompt):
            return tuple(ranges[closed_codecs(self.tokens)[0]])
        if ask.answer_codec is None:
            return None
        if ask.answer_codec not in ranges:
            names = ", ".join(ranges)
            raise invalid(f"answer_codec: this model has the codecs {names}", "answer_codec")
        ids = tuple(ranges[ask.answer_codec])
        if self.tokens.codecs[ask.answer_codec].value_ids is not None:
            return ids
        return (*ids, *self.tokens.contract.stop_ids)  # a value of any length ends somewhere

    def is_one_choice(self, prompt: Prompt) -> bool:
        """Whether the answer is one class, one token: that of a chat about an image."""
        is_of_image = isinstance(prompt, Chat) and prompt.has_images
        return is_of_image and len(closed_codecs(self.tokens)) == 1

    def logit_bias(self, ask: Ask) -> tuple[tuple[int, float], ...]:
        """What is added to the logits of ids."""
        if ask.logit_bias:
            self.check_ids(list(ask.logit_bias), "logit_bias")
        return tuple(ask.logit_bias.items())

    def check_ids(self, ids: Sequence[int], field: str) -> None:
        """Raises ApiError if one is none of the model's."""
        vocab_size = self.tokens.contract.vocab_size
        if (largest := max(ids, default=0)) >= vocab_size:
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

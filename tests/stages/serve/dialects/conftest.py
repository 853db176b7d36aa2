"""A server whose model chats, thinks and calls tools as its script says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.stages.serve.conftest import Running, Start
from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.core.ports import GenerateRequest

# In the manner of Qwen's: tools in the system's turn, calls and thoughts in the assistant's.
TEMPLATE = """\
{{- bos_token }}
{%- if tools %}{{ "<|system|>Tools: " }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}
{{- "; call them in <tool_call></tool_call>.<|end|>" }}{% endif %}
{%- for message in messages %}
{%- if message.role == "assistant" %}{{ "<|assistant|>" }}
{%- if message.reasoning_content %}
{{- "<think>\\n" + message.reasoning_content + "\\n</think>\\n\\n" }}{% endif %}
{{- message.content or "" }}
{%- for call in message.tool_calls or [] %}
{{- "\\n<tool_call>\\n" + ({"name": call.function.name, "arguments": call.function.arguments}
    | tojson) + "\\n</tool_call>" }}{% endfor %}{{ "<|end|>" }}
{%- elif message.role == "tool" %}{{ "<|user|>Result: " + message.content + "<|end|>" }}
{%- elif message.role in ("user", "system") %}
{{- "<|" + message.role + "|>" + message.content + "<|end|>" }}
{%- else %}{{ raise_exception("there is no role " + message.role) }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|assistant|>" }}
{%- if enable_thinking is defined and not enable_thinking %}{{ "<think>\\n\\n</think>\\n\\n" }}
{%- endif %}{% endif %}"""
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a place",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "São Paulo"}}\n</tool_call>'


@dataclass
class Scripted:
    """A server, and what its model answers to everything."""

    running: Running
    tokens: Tokens

    def say(self, *texts: str) -> None:
        """From now on: of several texts the n-th answer of a request is the n-th."""
        scripts = [self.tokens.encode_prompt(text)[1:] for text in texts]

        def reply(request: GenerateRequest) -> list[int]:
            place = request.request_id.rpartition("-")[2]  # of a probe it is no number
            number = int(place) if place.isdigit() else 0
            return scripts[number % len(scripts)][: request.max_tokens]

        self.running.engine.reply = reply

    @property
    def asked(self) -> GenerateRequest:
        return self.running.engine.submitted[-1]

    @property
    def prompt(self) -> str:
        """The text of the last prompt."""
        return self.tokens.decode(self.asked.prompt_ids, skip_special=False)

    def post(self, path: str, **fields: Any) -> Any:
        return self.running.client.post(path, json={"model": "tiny", **fields})


@pytest.fixture(scope="session")
def chatting(tokens: Tokens) -> Tokens:
    rules = OWN_RULES.model_copy(update={"chat_template": TEMPLATE})
    return Tokens.build(tokens.codecs, 512, rules)


@pytest.fixture(scope="module")
def scripted(start: Start, chatting: Tokens) -> Iterator[Scripted]:
    with start(contract=chatting, context_tokens=2048) as running:
        yield Scripted(running, chatting)

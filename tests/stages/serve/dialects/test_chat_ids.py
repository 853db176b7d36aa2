"""What was trained is what is served: random chats with tools give the same ids everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.stages.serve.dialects.conftest import Scripted
from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.core.errors import DataError
from whorl.core.ports import Document, Part
from whorl.model.hf_files import write_servable_files
from whorl.testing.models import tiny_shape

words = st.text('ab c<|>{}"\\\n é漢🎉_', max_size=12)
spoken = words.filter(str.strip)
values = st.dictionaries(words, st.integers() | words | st.booleans(), max_size=3)
names = st.sampled_from(["f", "get_weather", "größe"])
calls = st.fixed_dictionaries(
    {
        "id": st.just("call_1"),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": names, "arguments": values}),
    }
)
answers = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": words},
    optional={
        "tool_calls": st.lists(calls, min_size=1, max_size=2),
        "reasoning_content": words,
    },
)
others = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "tool"]), "content": words}
)
tools = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["f", "g"])},
        optional={"description": words, "parameters": values},
    ),
    max_size=2,
    unique_by=lambda tool: tool["name"],
)


@pytest.fixture(scope="module")
def theirs(chatting: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers, reading the same files."""
    folder: Path = tmp_path_factory.mktemp("theirs")
    write_servable_files(folder, tiny_shape(), chatting)
    return AutoTokenizer.from_pretrained(folder)


def as_sent(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As OpenAI's clients send them: the arguments of calls are JSON."""
    sent: list[dict[str, Any]] = json.loads(json.dumps(messages))
    for message in sent:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return sent


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(others | answers, max_size=4), others, answers, tools)
def test_training_evaluation_and_serving_give_the_same_ids(
    scripted: Scripted,
    theirs: Any,
    before: list[dict[str, Any]],
    question: dict[str, Any],
    answer: dict[str, Any],
    shown: list[dict[str, Any]],
) -> None:
    tokens, messages = scripted.tokens, [*before, question]
    listed = [{"type": "function", "function": tool} for tool in shown] or None
    scripted.say("x")
    fields = {"messages": as_sent(messages), "max_tokens": 4, "tools": listed}
    response = scripted.post("/v1/chat/completions", **fields)
    assert response.status_code == 200, response.text
    served = list(scripted.asked.prompt_ids)
    counted = scripted.post("/tokenize", messages=as_sent(messages), tools=listed or []).json()
    assert counted["tokens"] == served
    # evaluation: the question of a held-out chat
    chat = {"messages": messages, "tools": listed}
    assert tokens.encode_chat(chat, ask=True)[0].tolist() == served
    # training: the chat with its answer begins with what is served, and all after it is trained
    document = Document("d", (Part("chat", {**chat, "messages": [*messages, answer]}),))
    ids, mask = tokens.encode_document(document)
    assert ids[: len(served)] == served and all(mask[len(served) :])
    sent = Document("d", (Part("chat", {**chat, "messages": as_sent([*messages, answer])}),))
    assert tokens.encode_document(sent) == (ids, mask)
    if not any(name in json.dumps([chat, answer]) for name in ("<|", "|>")):
        expected = theirs.apply_chat_template(
            messages, tools=listed, add_generation_prompt=True, return_dict=False
        )
        assert served == expected


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(others, spoken.filter(lambda text: "<|" not in text and "|>" not in text))
def test_a_prefill_is_that_of_transformers(
    scripted: Scripted, theirs: Any, question: dict[str, Any], begun: str
) -> None:
    question = {**question, "content": question["content"].replace("|", "")}
    messages = [question, {"role": "assistant", "content": begun}]
    response = scripted.post("/v1/chat/completions", messages=messages, max_tokens=4)
    assert response.status_code == 200, response.text
    expected = theirs.apply_chat_template(messages, continue_final_message=True, return_dict=False)
    assert list(scripted.asked.prompt_ids) == expected


def test_a_prefill_where_the_template_trims_or_hides(tokens: Tokens) -> None:
    def ids(template: str, content: str) -> list[int]:
        rules = OWN_RULES.model_copy(update={"chat_template": template})
        built = Tokens.build(tokens.codecs, 512, rules)
        chat = {"messages": [{"role": "assistant", "content": content}]}
        found: list[int] = built.encode_chat(chat, goes_on=True)[0].tolist()
        return found

    trimmed = "{% for m in messages %}{{ m.content | trim }}<|end|>{% endfor %}"
    assert tokens.decode(ids(trimmed, " a b \n")) == "a b"
    kept = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    assert tokens.decode(ids(kept, " a b \n")) == " a b \n"
    for hidden in ("{{ 'x' }}", "{% for m in messages %}{{ m.content + m.content }}{% endfor %}"):
        with pytest.raises(DataError, match="does not show the last message"):
            ids(hidden, "a")


def test_developers_are_the_system_where_the_template_knows_none(scripted: Scripted) -> None:
    scripted.say("x")
    asked = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert scripted.post("/v1/chat/completions", messages=asked).status_code == 200
    assert "<|system|>Be brief.<|end|>" in scripted.prompt

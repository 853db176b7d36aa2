"""What a model's tasks are called, by its fields and, where they are not known, by its codecs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whorl.codecs.audio import AudioShape, fit_audio_codec
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.table import Column, TableCodec
from whorl.codecs.text import train_text_codec
from whorl.stages.serve.card import ModelCard, TaskCard
from whorl.stages.serve.page import page_facts
from whorl.stages.serve.tasks import tasks_of
from whorl.testing.corpus import tiny_texts


@pytest.fixture(scope="module")
def codecs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 3_000, 4_000).astype(np.int16) for _ in range(8)]
    pictures = rng.integers(0, 17, (30, 4, 4)).astype(np.uint8)
    names = ("label", "tag", "item", "entity", "relation", "action")
    return {
        "text": train_text_codec(tiny_texts(5), 280),
        "image": fit_image_codec(pictures, 12, 2),
        "audio": fit_audio_codec(sounds, AudioShape(8_000, 40, 20, 10.0), 2, 16),
        "row": TableCodec((Column.of_numbers("age", [1.0, 2.0, 3.0], 4),)),
        **{name: LabelCodec(["a", "b"], name) for name in names},
    }


def facts(codecs: dict[str, Any], names: str, *tasks: TaskCard) -> tuple[Any, bool]:
    """([(task, asked, answer)], whether the page offers to chat)."""
    tokens = Tokens.build({name: codecs[name] for name in names.split()}, 600)
    card = ModelCard(name="m", contract_digest="", context_tokens=64, tasks=tasks)
    told = page_facts(tokens, card)
    assert told["tasks"] == tasks_of(tokens, card)
    found = [(each["task"], each["asked"], each["answer"]) for each in told["tasks"]]
    return found, told["chats"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("image label", [("image-classification", ("image",), "label")]),
        ("row label", [("tabular-classification", ("row",), "label")]),
        ("text label", [("text-classification", ("text",), "label")]),
        ("text tag", [("token-classification", ("text",), "tag")]),
        ("item", [("recommendation", ("item",), "item")]),
        ("entity relation", [("link-prediction", ("entity", "relation"), "entity")]),
        ("row action", [("play", ("row",), "action")]),
        ("image text", [("image-to-text", ("image",), "text")]),
        (
            "audio text",
            [
                ("automatic-speech-recognition", ("audio",), "text"),
                ("text-to-speech", ("text",), "audio"),
            ],
        ),
        ("label tag", []),
    ],
)
def test_codecs_say_what_a_model_does_and_only_those_of_text_alone_chat(
    codecs: dict[str, Any], names: str, expected: Any
) -> None:
    assert facts(codecs, names) == (expected, False)
    assert facts(codecs, "text") == ([("text-generation", (), "text")], True)


def test_fields_say_more_than_codecs(codecs: dict[str, Any]) -> None:
    translation = TaskCard(field="translation", asked=("text",), answer="text")
    assert facts(codecs, "text", translation) == ([("translation", ("text",), "text")], False)
    sections = TaskCard(field="labels", asked=("text",), answer="label")
    chat = TaskCard(field="chat", asked=("text",), answer="text")
    both = [("text-classification", ("text",), "label"), ("text-generation", ("text",), "text")]
    assert facts(codecs, "text label", sections, chat) == (both, True)
    assert facts(codecs, "text label", sections) == (both[:1], False)
    speech = TaskCard(field="speech", asked=("audio",), answer="text")
    found = [("automatic-speech-recognition", ("audio",), "text")]
    assert facts(codecs, "audio text", speech) == (found, False)
    typed = TaskCard(field="assistant", asked=("text",), answer="text")
    found.append(("text-generation", ("text",), "text"))
    assert facts(codecs, "audio text", speech, typed) == (found, True)


def test_a_field_from_outside_is_known_by_its_codecs(codecs: dict[str, Any]) -> None:
    card = TaskCard(field="molecules", asked=("row",), answer="label")
    assert facts(codecs, "row label", card)[0][0][0] == "tabular-classification"
    odd = TaskCard(field="odd", asked=("row", "image"), answer="label")
    assert facts(codecs, "row image label", odd)[0] == [("", ("row", "image"), "label")]
    gone = TaskCard(field="old", asked=("sound",), answer="label")  # of a codec that is not there
    assert facts(codecs, "row label", gone)[0][0][0] == "tabular-classification"

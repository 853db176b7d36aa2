"""What a model can be asked, by the names that people know: the page has a room for each of them.

Where the record of a model's data is at hand its fields say it (`ModelCard.tasks`); of a folder
that came alone it is read off the codecs, which tell less: of a text and nothing else, not whether
it is translated.
"""

from __future__ import annotations

from typing import Any

from whorl.codecs.contract import TEXT, Tokens
from whorl.core.ports import Codec
from whorl.stages.serve.card import ModelCard, TaskCard

__all__ = ["CHATS", "task_of", "tasks_of"]

IMAGE, SOUND, ROW, BOXES = "image", "audio", "row", "boxes"
CHOICE, OTHER = "choice", "other"
KINDS = {  # media types
    **{"text/": TEXT, "image/": IMAGE, "audio/": SOUND},
    **{"application/json": ROW, "application/x-ndjson": BOXES},
}
CHATS = "text-generation"
BY_FIELD = {  # of fields whose codecs are those of another task too
    "tags": "token-classification",
    "translation": "translation",
    "episodes": "play",
    "chess": "chess",
}
BY_KIND = {  # (what is asked, what answers); Hugging Face's names where it has one
    (IMAGE, CHOICE): "image-classification",
    (ROW, CHOICE): "tabular-classification",
    (TEXT, CHOICE): "text-classification",
    (IMAGE, TEXT): "image-to-text",
    (IMAGE, BOXES): "object-detection",
    (SOUND, TEXT): "automatic-speech-recognition",
    (TEXT, SOUND): "text-to-speech",
    (SOUND, CHOICE): "audio-classification",
    (TEXT, TEXT): CHATS,
}
RECOMMENDATION, LINKS = "recommendation", "link-prediction"
FIELD_OF = {"tag": "tags", "action": "episodes"}  # of answers that only one field has
ASKED = {"tags": (TEXT,), "episodes": (ROW,), "": (IMAGE, ROW, TEXT)}  # the likeliest first


def tasks_of(tokens: Tokens, card: ModelCard) -> list[dict[str, Any]]:
    """Each task with its codecs, the field's options and examples: for /v1/models."""
    known = [each for each in card.tasks if _is_of(each, tokens)]
    return [_told(each, task_of(each, tokens)) for each in known or _guessed(tokens)]


def _told(card: TaskCard, task: str) -> dict[str, Any]:
    """Examples of what is chatted about are left out: they are long, and no room shows them."""
    shown = card.model_copy(update={"examples": ()}) if task == CHATS else card
    return {"task": task, **shown.model_dump()}


def task_of(card: TaskCard, tokens: Tokens) -> str:
    """The name of a task; "" where there is none for such a question and answer."""
    if card.field in BY_FIELD:
        return BY_FIELD[card.field]
    answer = kind_of(tokens.codecs[card.answer])
    asked = {kind_of(tokens.codecs[name]) for name in card.asked} or {TEXT}
    if asked == {CHOICE} and answer == CHOICE:
        return RECOMMENDATION if set(card.asked) == {card.answer} else LINKS
    if len(asked) > 1:
        return ""
    return BY_KIND.get((asked.pop(), answer), "")


def kind_of(codec: Codec) -> str:
    """What the codec's values are, in a word."""
    if codec.value_ids == 1:
        return CHOICE
    found = (kind for start, kind in KINDS.items() if codec.media_type.startswith(start))
    return next(found, OTHER)


def _is_of(card: TaskCard, tokens: Tokens) -> bool:
    return {*card.asked, card.answer} <= tokens.codecs.keys()


def _guessed(tokens: Tokens) -> list[TaskCard]:
    """What the codecs of our fields are for; none where a closed vocabulary has no question."""
    kinds = {name: kind_of(codec) for name, codec in tokens.codecs.items()}
    choices = [name for name, kind in kinds.items() if kind == CHOICE]
    others = {kind: name for name, kind in kinds.items() if kind != CHOICE}
    if not others and len(choices) == 1:
        return [TaskCard(asked=(choices[0],), answer=choices[0])]
    if not others and set(choices) == {"entity", "relation"}:
        return [TaskCard(field="triples", asked=("entity", "relation"), answer="entity")]
    found = []
    for answer in choices:
        field = FIELD_OF.get(answer, "")
        asked = [others[kind] for kind in ASKED[field] if kind in others]
        found += [TaskCard(field=field, asked=(name,), answer=answer) for name in asked[:1]]
    text, sound, image = (others.get(kind) for kind in (TEXT, SOUND, IMAGE))
    if image and BOXES in others:
        found.append(TaskCard(asked=(image,), answer=others[BOXES]))
    if text and sound:
        found += [TaskCard(asked=(sound,), answer=text), TaskCard(asked=(text,), answer=sound)]
    elif text and not found:
        found.append(TaskCard(asked=(image,) if image else (), answer=text))
    return found

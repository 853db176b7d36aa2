"""Sentences of a smart home and what is meant by them, from templates of Home Assistant.

The templates are those of the package home-assistant-intents, hassil reads them; names of rooms and
things are our own (home.json). Some templates are held out whole. What is drawn depends on the seed
and the templates alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from math import sqrt
from types import ModuleType
from typing import Any

from whorl.core.digests import digest_bytes
from whorl.core.errors import DataError, MissingExtra

__all__ = ["Example", "Templates", "grammar_answers", "home"]

HELDOUT_SHARE = 0.2  # of an intent's templates, where it has more than one
MAX_TRIES = 8  # for a sentence of a template that was not drawn before
HERE = "\0here"  # stands for what only the context says, such as the speaker's room


@dataclass(frozen=True)
class Example:
    """A sentence and what is meant by it."""

    text: str
    intent: str
    slots: Mapping[str, Any]
    is_heldout: bool

    @property
    def answer(self) -> str:
        """As JSON without blanks, which would be a sixth of its tokens; slots by name."""
        value = {"intent": self.intent, "slots": dict(sorted(self.slots.items()))}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class _Template:
    intent: str
    block: Mapping[str, Any]  # fixed slots, required context
    text: str


def home() -> dict[str, Any]:
    """Names of rooms, of things by their kind, and what people say."""
    text = resources.files(__package__).joinpath("home.json").read_text("utf-8")
    value: dict[str, Any] = json.loads(text)
    return value


@dataclass(frozen=True)
class Templates:
    """The templates of one language's file."""

    data: Mapping[str, Any]
    home: Mapping[str, Any] = field(default_factory=home)

    def examples(self, num_sentences: int, num_heldout: int, seed: int) -> Iterator[Example]:
        """Held-out sentences (num_heldout of each such template), then about num_sentences others.

        An intent has as many as the root of the number of its templates says, and each of its
        templates at least one. No sentence comes twice.
        """
        by_intent: dict[str, list[_Template]] = {}
        for template in self._templates:
            by_intent.setdefault(template.intent, []).append(template)
        held = {text for mine in by_intent.values() for text in _held_out(mine, seed)}
        seen: set[str] = set()
        for mine in by_intent.values():
            for template in mine:
                if template.text in held:
                    yield from self._drawn(template, num_heldout, seed, seen, True)
        whole = sum(sqrt(len(mine)) for mine in by_intent.values())
        for mine in by_intent.values():
            count = max(1, round(num_sentences * sqrt(len(mine)) / whole / len(mine)))
            for template in mine:
                if template.text not in held:
                    yield from self._drawn(template, count, seed, seen, False)

    @cached_property
    def _templates(self) -> list[_Template]:
        """Raises DataError on a file of another kind."""
        try:
            return [
                _Template(intent, block, text)
                for intent, value in self.data["intents"].items()
                for block in value["data"]
                for text in block["sentences"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                "this is no file of intents",
                found=f"no {error}" if isinstance(error, KeyError) else error,
                expected='{"intents": {name: {"data": [{"sentences": […]}]}}, "lists": …}',
            ) from error

    def _drawn(
        self, template: _Template, count: int, seed: int, seen: set[str], is_heldout: bool
    ) -> Iterator[Example]:
        """Up to `count` sentences of a template that were not seen, which they now are."""
        rng = random.Random(f"{seed} {template.intent} {template.text}")
        for _ in range(count):
            for _ in range(MAX_TRIES):
                slots = dict(template.block.get("slots") or {})
                text = " ".join(
                    self._said(template, self._parsed(template.text), slots, rng).split()
                )
                if text and text not in seen:
                    seen.add(text)
                    yield Example(text, template.intent, slots, is_heldout)
                    break

    # -------------------------------------------------------------- one sentence

    @cached_property
    def _rules(self) -> dict[str, Any]:
        return {}

    def _parsed(self, text: str) -> Any:
        """The expression of a template, read once."""
        if text not in self._rules:
            self._rules[text] = _hassil().parse_sentence(text).expression
        return self._rules[text]

    def _said(
        self, template: _Template, expression: Any, slots: dict[str, Any], rng: random.Random
    ) -> str:
        """A way to say an expression; what its lists stand for goes into slots."""
        hassil = _hassil()
        if isinstance(expression, hassil.TextChunk):
            return str(expression.original_text)
        if isinstance(expression, hassil.RuleReference):
            rule = self.data["expansion_rules"][expression.rule_name]
            return self._said(template, self._parsed(rule), slots, rng)
        if isinstance(expression, hassil.ListReference):
            text, value = self._value(template, expression, rng)
            if not expression.is_capture:
                slots[expression.slot_name] = value
            return text
        if isinstance(expression, hassil.Alternative):
            return self._said(template, rng.choice(expression.items), slots, rng)
        items = list(expression.items)
        if isinstance(expression, hassil.Permutation):
            rng.shuffle(items)
        return "".join(self._said(template, item, slots, rng) for item in items)

    def _value(self, template: _Template, reference: Any, rng: random.Random) -> tuple[str, Any]:
        """(what is said, what is meant) of a list."""
        name = reference.list_name
        if name == "name":
            kinds = (template.block.get("requires_context") or {}).get("domain")
            kinds = [kinds] if isinstance(kinds, str) else kinds or list(self.home["name"])
            known = [thing for kind in kinds for thing in self.home["name"].get(kind, ())]
            value = rng.choice(known)
            return value, value
        if name in self.home and name != "ranges":
            value = rng.choice(self.home[name])
            return value, value
        listed = self.data["lists"][name]
        if "range" in listed:
            limits = listed["range"]
            usual = (limits["from"], limits["to"], limits.get("step", 1))
            first, last, step = self.home["ranges"].get(name, usual)
            number = rng.randrange(first, last + 1, step)
            return str(number), int(number * limits.get("multiplier", 1))
        value = rng.choice(listed["values"])
        if not isinstance(value, Mapping):
            return value, value
        text = self._said(template, self._parsed(value["in"]), {}, rng)
        return text, value.get("out", text)


def _held_out(templates: list[_Template], seed: int) -> list[str]:
    """The texts of an intent's templates that are held out."""
    texts = list(dict.fromkeys(template.text for template in templates))
    count = 0 if len(texts) == 1 else max(1, round(HELDOUT_SHARE * len(texts)))
    return sorted(texts, key=lambda text: digest_bytes(f"{seed} {text}".encode()))[:count]


def grammar_answers(data: Mapping[str, Any], sentences: list[str]) -> list[dict[str, Any]]:
    """What hassil makes of sentences by all templates, {} where it makes nothing.

    It is told the names of the home; what it takes from the speaker's room is left out.
    """
    hassil, names = _hassil(), home()
    intents = hassil.Intents.from_dict(dict(data))
    things = [
        (thing, thing, {"domain": kind}) for kind, mine in names["name"].items() for thing in mine
    ]
    lists = {key: hassil.TextSlotList.from_strings(names[key]) for key in ("area", "floor")}
    lists["name"] = hassil.TextSlotList.from_tuples(things)
    context, language = {"area": HERE}, str(data.get("language", "en"))
    found = []
    for sentence in sentences:
        best = hassil.recognize_best(
            sentence, intents, slot_lists=lists, intent_context=context, language=language
        )
        slots = {} if best is None else {key: e.value for key, e in best.entities.items()}
        said = {key: value for key, value in slots.items() if value != HERE}
        found.append({} if best is None else {"intent": best.intent.name, "slots": said})
    return found


def _hassil() -> ModuleType:
    try:
        import hassil
    except ImportError as error:
        raise MissingExtra.of("hassil", "intents", "field intents") from error
    module: ModuleType = hassil
    return module

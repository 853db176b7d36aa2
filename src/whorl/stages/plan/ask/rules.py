"""From a tool's keys to rules, by words.json: what stands there for our flag, part or count.

{"llamafactory": {"--seq": ["cutoff_len"],
                  "recompute=none|full": ["disable_gradient_checkpointing"], …}}
reads cutoff_len as --seq, and the switch beside it as recompute=none, off as full. "offloaded" are
switches that keep weights on the host, "matters" keys that change memory or time and are not
planned, "passed" those that change neither. What is no table stands in the file of the tool. A rule
is called with what was said so far, the key as it was written and its value as text.
"""

from __future__ import annotations

from collections.abc import Mapping

from whorl.core.errors import SpecError
from whorl.core.units import parse_count
from whorl.stages.plan.ask.said import FALSE, OtherWords, Rule, is_true
from whorl.stages.plan.facts import data_file

__all__ = [
    "NOT_PLANNED",
    "OPTIMIZERS",
    "PRECISIONS",
    "choice",
    "kept",
    "matters",
    "offloaded",
    "precise",
    "rules_of",
    "when",
]

WORDS = "ask/words.json"
COUNTS = {"accumulation": "passes of a step", "sequences": "sequences of a step",
          "steps": "steps", "dp": "data-parallel ranks"}  # fmt: skip
NOT_PLANNED = "not planned: memory and time are as without it"
OFFLOADED = (
    "weights and gradients on the host are not planned: the optimiser's states alone are; the "
    "device holds less, a step takes longer"
)


def _turned(name: str) -> dict[str, str]:
    return {word: ours for ours, words in data_file(WORDS)[name].items() for word in words}


OPTIMIZERS: Mapping[str, str] = _turned("optimizers")
PRECISIONS: Mapping[str, str] = _turned("precisions")


def rules_of(tool: str) -> dict[str, Rule]:
    """The rules of a tool's table."""
    return {key: _rule(to) for to, keys in data_file(WORDS)[tool].items() for key in keys}


def _rule(target: str) -> Rule:
    name, equals, word = target.partition("=")
    if name == "precise":
        return precise(word)
    if equals:
        on, _, off = word.partition("|")
        return when(name, on, off)
    if name in COUNTS:
        return _count(name)
    if name == "offloaded":
        return offloaded
    if name == "matters":
        return matters
    if name == "passed":
        return lambda said, key, value: said.passed.append(key)
    if name in ("--optimizer", "--precision"):
        return choice(name, OPTIMIZERS if name == "--optimizer" else PRECISIONS)
    if name.startswith(("--", "objective.")):
        return lambda said, key, value: said.put(name, value, key, value)
    return lambda said, key, value: said.put(name, str(parse_count(value, key)), key, value)


def _count(name: str) -> Rule:
    def rule(said: OtherWords, key: str, value: str) -> None:
        setattr(said, name, parse_count(value, key))
        said.origin[name] = key
        said.tell(key, value, COUNTS[name])

    return rule


def matters(said: OtherWords, key: str, value: str) -> None:
    """A key that changes memory or time and is not planned, unless it is off."""
    if value.lower() not in FALSE:
        said.warn(key, value, NOT_PLANNED)


def choice(name: str, words: Mapping[str, str]) -> Rule:
    """One of the tool's words, as ours. Raises SpecError with the words that are known."""

    def rule(said: OtherWords, key: str, value: str) -> None:
        word = words.get(value.lower().replace("-", "_"))
        if word is None:
            raise SpecError(key, found=value, expected=", ".join(words))
        said.put(name, word, key, value)

    return rule


def when(name: str, on: str, off: str = "") -> Rule:
    """A switch; off says nothing where there is no word for it."""

    def rule(said: OtherWords, key: str, value: str) -> None:
        word = on if is_true(value, key) else off
        if word:
            said.put(name, word, key, value)

    return rule


def offloaded(said: OtherWords, key: str, value: str) -> None:
    """Parameters on the host: of that, the optimiser's states are planned."""
    if is_true(value, key):
        said.put("offload_optimizer", "1", key, value)
        said.warn(key, value, OFFLOADED)


def kept(name: str) -> Rule:
    """Kept until all is read, in `origin`: what several keys say together."""

    def rule(said: OtherWords, key: str, value: str) -> None:
        said.origin[name] = value

    return rule


def precise(precision: str) -> Rule:
    """bf16: true. False says nothing: the other one may be true. Weights in two bytes (bf16-true)
    go before mixed ones, whichever key comes first."""

    def rule(said: OtherWords, key: str, value: str) -> None:
        before = said.flags.get("--precision", "")
        if not is_true(value, key) or before == f"{precision}-true":
            return
        if precision == f"{before}-true":
            del said.flags["--precision"]
        said.put("--precision", precision, key, value)

    return rule

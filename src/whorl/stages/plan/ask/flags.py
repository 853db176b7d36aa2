"""The flags of `whorl plan` beside the recipe's, once, from flags.json: the command
and whorl.plan() read them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from whorl.stages.plan.facts import data_file

__all__ = ["FLAGS", "OF_TRAINING", "Flag", "take_words"]


@dataclass(frozen=True)
class Flag:
    name: str  # as Python takes it
    help: str
    metavar: str = "TEXT"
    kind: type = str  # or bool (a switch), Path
    of_training: bool = False  # said, training is planned

    @property
    def flag(self) -> str:
        """As the command line takes it."""
        return "--from" if self.name == "from_file" else f"--{self.name.replace('_', '-')}"


KINDS: dict[str, type] = {"text": str, "switch": bool, "path": Path}


FLAGS = tuple(
    Flag(**{**item, "kind": KINDS[item.get("kind", "text")]})
    for item in data_file("ask/flags.json")
)
OF_TRAINING = frozenset(item.flag for item in FLAGS if item.of_training)


def take_words(arguments: Sequence[str], own: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """(what is left, {"optim": "adafactor"}): options that are not the command's own are words of
    other tools, --optim adafactor, --optim=adafactor or, of a switch, --gradient_checkpointing. Own
    switches may be followed by true or false too.
    """
    rest: list[str] = []
    words: dict[str, str] = {}
    place, switches = 0, {item.flag for item in FLAGS if item.kind is bool}
    while place < len(arguments):
        name, equals, value = arguments[place].partition("=")
        place += 1
        if name == "--":
            rest += arguments[place - 1 :]
            break
        if name in switches and arguments[place : place + 1] in (["true"], ["false"]):
            rest += [name] if arguments[place] == "true" else []
            place += 1
            continue
        if not name.startswith("--") or name in own:
            rest.append(arguments[place - 1])
            continue
        if not equals:
            value = "true"
            if place < len(arguments) and not arguments[place].startswith("--"):
                value = arguments[place]
                place += 1
        words[name[2:].replace("-", "_")] = value
    return rest, words

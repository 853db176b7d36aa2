"""What a file or the words of another tool say, as flags of `whorl plan` and parts of --layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.core.units import parse_count
from whorl.stages.plan.facts import fact

__all__ = ["FALSE", "NOTHING", "OtherWords", "Rule", "apply", "is_true", "nearest", "number"]

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
NOTHING = ("", "none", "null", "auto", "~", "default")  # of a value: left to the tool
OF_NO_WEIGHT = re.compile(rf"(^|[_.-])({'|'.join(fact('no_weight').split())})($|[_.-])")
OF_LOADING = re.compile(r"^(model_init_kwargs|model_kwargs)\.")


@dataclass
class OtherWords:
    """What was read. Flags are those of `whorl plan`, parts those of --layout, as text."""

    tool: str  # whose words: shown, and used to answer in the same words
    flags: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    became: list[str] = field(default_factory=list)  # "optim=adafactor: --optimizer adafactor"
    warnings: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)  # keys of no weight
    accumulation: int = 1  # forward passes of a rank in a step
    learned: dict[str, str] = field(default_factory=dict)  # of --objective: "kind", "reference" …
    sequences: int | None = None  # of a step, where the tool states them
    steps: int | None = None
    dp: int | None = None  # data-parallel degree, where it is stated rather than the devices
    shape: ModelShape | None = None  # where sizes are arguments
    origin: dict[str, str] = field(default_factory=dict)  # flag or part -> key that said it
    where: str = ""  # of a file: its path

    def put(self, name: str, value: str, key: str, written: str) -> None:
        """A flag ("--seq") or a part of the layout. Raises SpecError if another key said other."""
        flag, of, part = name.partition("objective.")
        into, inner = self.flags if name.startswith("--") else self.parts, name
        if of and not flag:
            into, inner = self.learned, part
        if into.get(inner, value) != value:
            raise SpecError(
                f"{self.where or self.tool}: {self.origin[name]} and {key} differ",
                found=f"{name.lstrip('-')} {into[inner]} and {value}",
                do="keep one of them",
            )
        into[inner] = value
        self.origin[name] = key
        spoken = name.replace("objective.", "--objective ")
        self.tell(key, written, f"{name} {value}" if name.startswith("--") else f"{spoken}={value}")

    def unsay(self, name: str) -> None:
        """A part that another key goes before."""
        if self.parts.pop(name, None) is not None:
            said = f"{self.origin.pop(name, '')}="
            self.became = [line for line in self.became if not line.startswith(said)]

    def tell(self, key: str, written: str, became: str) -> None:
        line = f"{key}={written}: {became}"
        if line not in self.became:
            self.became.append(line)

    def lines(self) -> list[str]:
        """What the words became, and in one line what was passed over."""
        passed = sorted(set(self.passed))
        more = (
            f"{len(passed)} keys are taken to change neither memory nor time: {', '.join(passed)}"
        )
        return [*self.became, *([more] if passed else ())]

    def warn(self, key: str, written: str, what: str) -> None:
        self.warnings.append(f"{key}={written}: {what}")


Rule = Callable[[OtherWords, str, str], None]


def number(value: str, key: str) -> int:
    """A whole number of at least 1, or -1: what the tool chooses. Raises SpecError."""
    return -1 if value.strip() == "-1" else parse_count(value, key)


def is_true(value: str, key: str) -> bool:
    """Raises SpecError for what is neither true nor false."""
    word = value.lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise SpecError(key, found=value, expected="true or false")


def nearest(key: str, known: Iterable[str], alike: float = 0.92) -> str:
    """The known key that another is most likely a slip of the pen of, or ""."""
    return next(iter(get_close_matches(key, known, n=1, cutoff=alike)), "")


def apply(said: OtherWords, rules: Mapping[str, Rule], values: Mapping[str, object]) -> None:
    """Every key of a flat file. What is not known is told, with what it may have been meant to be,
    unless its name says it has no weight. What a model is loaded with (TRL's model_init_kwargs)
    is read as if it stood alone.

    A value that is a list or a mapping where a rule expects text is given as its words, joined by
    commas. Raises SpecError, naming file and key.
    """
    for key, value in values.items():
        name = OF_LOADING.sub("", key)
        rule = rules.get(name)
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if rule is None:
            near = nearest(name, rules)
            if OF_NO_WEIGHT.search(name) and not near:
                said.passed.append(key)
            elif text.lower() not in (*NOTHING, *FALSE):
                what = f"not known here: did you mean {near}? If" if near else "not known here; if"
                said.warn(key, text[:60], f"{what} it changes memory or time, so not the plan")
        elif text.lower() not in NOTHING:
            rule(said, key, text)

"""Long texts that repeat much, as real ones do, written by rules: each must pass the filter.

Every one is made from a seed. `in_letters` writes a text in another alphabet, letter by letter.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

__all__ = ["LONG_TEXTS", "book", "in_letters"]

SYLLABLES = [a + b for a in "bdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
FIRST_LETTERS = {"Tibetan": 0x0F40, "Greek": 0x03B1, "Devanagari": 0x0915, "Ethiopic": 0x1200}
DAYS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
GIFTS = (
    "partridge in a pear tree",
    "two turtle doves",
    "three French hens",
    "four calling birds",
    "five gold rings",
    "six geese a-laying",
    "seven swans a-swimming",
    "eight maids a-milking",
    "nine ladies dancing",
    "ten lords a-leaping",
    "eleven pipers piping",
    "twelve drummers drumming",
)


def in_letters(text: str, script: str) -> str:
    """The 26 letters of a text as 26 letters of another script."""
    first = FIRST_LETTERS[script]
    return text.lower().translate({97 + n: first + n for n in range(26)})


def _words(chooser: random.Random, count: int) -> list[str]:
    return ["".join(chooser.choices(SYLLABLES, k=chooser.randint(1, 4))) for _ in range(count)]


def _sentence(chooser: random.Random, words: list[str], low: int = 6, high: int = 14) -> str:
    # The commonest words are far commoner than the rarest, as in any language.
    picked = [
        words[int(len(words) ** chooser.random()) - 1] for _ in range(chooser.randint(low, high))
    ]
    return " ".join(picked).capitalize() + "."


def book(seed: int = 3, num_lines: int = 2500) -> str:
    """Fixed phrases over and over, each sentence in another order."""
    chooser = random.Random(seed)
    words = _words(chooser, 40)
    phrases = [" ".join(chooser.choices(words, k=3)) for _ in range(1500)]
    return "\n".join(" ".join(chooser.choices(phrases, k=4)) + "." for _ in range(num_lines))


def canon(seed: int) -> str:
    """A formula said of each thing in turn, chapter after chapter, between passages of prose."""
    chooser = random.Random(seed)
    words = _words(chooser, 900)
    things = [" ".join(chooser.sample(words, 2)) for _ in range(40)]
    lines = []
    for _ in range(30):
        formula = _sentence(chooser, words, 10, 16)[:-1]
        lines += [_sentence(chooser, words) for _ in range(12)]
        chapter = chooser.sample(things, 12)
        lines += [f"{formula} {thing}; {thing} {chooser.choice(words)}." for thing in chapter]
    return "\n".join(lines)


def verse_with_refrain(seed: int) -> str:
    """Stanzas of four lines, each followed by the same two."""
    chooser = random.Random(seed)
    words = _words(chooser, 600)
    refrain = [_sentence(chooser, words, 5, 7) for _ in range(2)]
    stanzas = []
    for _ in range(60):
        stanzas.append("\n".join([*(_sentence(chooser, words, 5, 7) for _ in range(4)), *refrain]))
    return "\n\n".join(stanzas)


def lyrics(seed: int) -> str:
    """Three verses; a chorus of four lines, two of them the same, comes four times."""
    chooser = random.Random(seed)
    words = _words(chooser, 300)
    line, *others = (_sentence(chooser, words, 4, 7) for _ in range(3))
    chorus = "\n".join([line, others[0], line, others[1]])
    verses = ["\n".join(_sentence(chooser, words, 4, 7) for _ in range(6)) for _ in range(3)]
    return "\n\n".join([verses[0], chorus, verses[1], chorus, verses[2], chorus, chorus])


def cumulative_song(seed: int) -> str:
    """Each verse says all that the verses before it said."""
    verses = []
    for day, name in enumerate(DAYS.split()):
        gifts = [*reversed(GIFTS[1 : day + 1]), ("and a " if day else "a ") + GIFTS[0]]
        verses.append(
            f"On the {name} day of Christmas my true love sent to me\n" + ",\n".join(gifts)
        )
    return "\n\n".join(verses)


def table(seed: int) -> str:
    chooser = random.Random(seed)
    kinds = [
        "steel bolt, galvanised",
        "steel nut, galvanised",
        "washer, stainless",
        "rivet, copper",
    ]
    rows = [
        f"| {1000 + n} | {chooser.choice(kinds):24} | M{chooser.randint(2, 24)} x "
        f"{chooser.randint(5, 180)} mm | {chooser.uniform(0.01, 9):.2f} EUR | in stock |"
        for n in range(600)
    ]
    return "\n".join(["| no | what | size | price | where |", *rows])


def numbers(seed: int) -> str:
    """Comma-separated measurements, most digits of which are noise."""
    chooser = random.Random(seed)
    rows = (f"{n},{chooser.gauss(20, 3):.3f},{chooser.gauss(1013, 9):.1f},ok" for n in range(2000))
    return "hour,temperature,pressure,state\n" + "\n".join(rows)


def index_list(seed: int) -> str:
    """Names with the same address behind each."""
    chooser = random.Random(seed)
    rows = []
    for _ in range(400):
        name, town = (word.capitalize() for word in _words(chooser, 2))
        rows.append(
            f"- {name} of {town}, see volume {chooser.randint(1, 9)}, p. {chooser.randint(1, 400)}"
        )
    return "\n".join(rows)


def log(seed: int) -> str:
    chooser = random.Random(seed)
    second, lines = 0.0, []
    for _ in range(1500):
        second += chooser.expovariate(0.5)
        stamp = f"2024-05-{1 + int(second // 86400):02d} {int(second // 3600) % 24:02d}"
        stamp += f":{int(second // 60) % 60:02d}:{second % 60:06.3f}"
        address = f"10.0.{chooser.randint(0, 9)}.{chooser.randint(1, 254)}"
        path = chooser.choice(["/index.html", "/api/v1/items", "/api/v1/users", "/static/site.css"])
        lines.append(
            f"{stamp} INFO server.http {address} GET {path} {chooser.choice([200, 200, 304, 404])} "
            f"{chooser.randint(90, 9000)} bytes in {chooser.uniform(0.4, 90):.1f} ms"
        )
    return "\n".join(lines)


def statute(seed: int) -> str:
    """Sections that begin and end with the same clauses."""
    chooser = random.Random(seed)
    words = _words(chooser, 700)
    sections = []
    for number in range(1, 61):
        body = " ".join(_sentence(chooser, words, 8, 18) for _ in range(3))
        sections.append(
            f"Section {number}. (1) Notwithstanding any other provision of this Act, {body}\n(2) A "
            f"person who contravenes subsection (1) of section {number} commits an offence and is "
            f"liable on summary conviction to a fine not exceeding level {chooser.randint(1, 5)}."
        )
    return "\n\n".join(sections)


def code_table(seed: int) -> str:
    """What a generator writes from a table: one entry of the same form per line."""
    chooser = random.Random(seed)
    names = (" ".join(word.upper() for word in _words(chooser, 3)) for _ in range(256))
    rows = (
        f"    0x{n:04X}: 0x{chooser.randrange(65536):04X},  # {name}"
        for n, name in enumerate(names)
    )
    return "# Generated from a table. Do not edit.\n\nTABLE = {\n" + "\n".join(rows) + "\n}\n"


def accessors(seed: int) -> str:
    """Generated methods, alike but for the name of the field and its type."""
    chooser = random.Random(seed)
    methods = []
    for name in _words(chooser, 80):
        kind = chooser.choice(["int", "str", "float", "bytes"])
        methods.append(
            f"    def get_{name}(self) -> {kind}:\n        return self._{name}\n\n"
            f"    def set_{name}(self, value: {kind}) -> None:\n        self._{name} = value\n"
        )
    return "# Code generated by a tool. DO NOT EDIT.\n\n\nclass Record:\n" + "\n".join(methods)


def dna(seed: int) -> str:
    """A genome in lines of 60: noise, and a repeated element here and there."""
    chooser = random.Random(seed)
    element = "".join(chooser.choices("ACGT", k=300))
    whole = "".join(
        "".join(chooser.choices("ACGT", k=chooser.randint(500, 3000))) + element for _ in range(40)
    )
    return ">chromosome 1\n" + "\n".join(whole[n : n + 60] for n in range(0, len(whole), 60))


def two_alphabets(seed: int) -> str:
    """A text and the same in other letters, paragraph by paragraph."""
    chooser = random.Random(seed)
    words = _words(chooser, 800)
    paragraphs = [" ".join(_sentence(chooser, words) for _ in range(5)) for _ in range(60)]
    return "\n\n".join(f"{text}\n\n{in_letters(text, 'Greek')}" for text in paragraphs)


LONG_TEXTS: Mapping[str, Callable[[int], str]] = {
    function.__name__: function
    for function in (
        *(book, canon, verse_with_refrain, lyrics, cumulative_song, table, numbers, index_list),
        *(log, statute, code_table, accessors, dna, two_alphabets),
    )
}

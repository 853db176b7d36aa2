"""Sentences of a small language to be spoken: figures, letters of the phonetic alphabet, dates, and
what is said to a device at home. All are words of WORDS; what is drawn depends on the seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["DIGITS", "PHONETIC", "WORDS", "drawn"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
    *("seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
PHONETIC = (
    *("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india"),
    *("juliet", "kilo", "lima", "mike", "november", "oscar", "papa", "quebec", "romeo"),
    *("sierra", "tango", "uniform", "victor", "whiskey", "x-ray", "yankee", "zulu"),
)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august"),
    *("september", "october", "november", "december"),
)
ROOMS = ("kitchen", "bedroom", "bathroom", "garage", "garden", "office", "hall")
THINGS = ("light", "lamp", "fan", "heating", "radio", "television", "door", "window")
COLOURS = ("red", "green", "blue", "white", "yellow")
MUSIC = ("play", "stop", "pause", "next", "louder", "quieter")
UNITS = ("seconds", "minutes", "hours")
OTHERS = (
    *("turn", "switch", "on", "off", "the", "in", "open", "close", "set", "to", "a", "timer"),
    *("for", "degrees", "percent", "make", "wake", "me", "at", "o'clock", "what", "is", "time"),
    *("it", "weather", "hundred", "thousand", "and", "call", "yes", "no", "please", "tomorrow"),
    *("today", "music", "volume", "temperature", "how", "warm", "remind"),
)
WORDS = (
    *(*DIGITS, *TEENS, *TENS, *PHONETIC, *DAYS, *MONTHS, *ROOMS, *THINGS, *COLOURS, *MUSIC),
    *(*UNITS, *OTHERS),
)


SHARES = (25, 25, 10, 10, 30)  # of figures, spelling, numbers, dates, what is said at home


def drawn(rng: random.Random) -> str:
    """A sentence of one to nine words."""
    makers: list[Callable[[random.Random], str]] = [_digits, _spelt, _number, _date, _command]
    return rng.choices(makers, SHARES)[0](rng)


def _digits(rng: random.Random) -> str:
    return " ".join(rng.choices(DIGITS, k=rng.choice((1, 1, 2, 3, 4, 5, 6))))


def _spelt(rng: random.Random) -> str:
    return " ".join(rng.choices(PHONETIC, k=rng.choice((1, 1, 2, 3, 4))))


def _number(rng: random.Random) -> str:
    size = rng.choice((20, 100, 1_000, 10_000))
    return _in_words(rng.randrange(size))


def _in_words(number: int) -> str:
    if number < 10:
        return DIGITS[number]
    if number < 20:
        return TEENS[number - 10]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f" {DIGITS[ones]}" if ones else "")
    size, name = (1_000, "thousand") if number >= 1_000 else (100, "hundred")
    many, rest = divmod(number, size)
    join = " and " if rest and rest < 100 else " "
    return f"{_in_words(many)} {name}" + (join + _in_words(rest) if rest else "")


def _date(rng: random.Random) -> str:
    day, month, hour = rng.choice(DAYS), rng.choice(MONTHS), rng.randrange(1, 13)
    which = rng.randrange(4)
    if which == 0:
        return rng.choice((day, month, "today", "tomorrow"))
    if which == 1:
        return f"{day} {_in_words(rng.randrange(1, 32))} {month}"
    if which == 2:
        return f"{day} at {_in_words(hour)} o'clock"
    return f"{_in_words(rng.randrange(1, 32))} {month}"


def _command(rng: random.Random) -> str:
    room, thing, state = rng.choice(ROOMS), rng.choice(THINGS), rng.choice(("on", "off"))
    amount, many = _in_words(rng.randrange(1, 60)), _in_words(rng.randrange(10, 100))
    return rng.choice(
        (
            f"{rng.choice(('turn', 'switch'))} {state} the {thing}",
            f"{rng.choice(('turn', 'switch'))} {state} the {thing} in the {room}",
            f"turn the {room} {thing} {state}",
            f"{rng.choice(('open', 'close'))} the {room} {rng.choice(('door', 'window'))}",
            f"set a timer for {amount} {rng.choice(UNITS)}",
            f"set the temperature to {many} degrees",
            f"make the {room} light {rng.choice(COLOURS)}",
            f"set the volume to {many} percent",
            f"{rng.choice(('wake', 'remind'))} me at {_in_words(rng.randrange(1, 13))} o'clock",
            f"how warm is it in the {room}",
            rng.choice(("what time is it", "what is the weather tomorrow", "what is the time")),
            rng.choice(MUSIC) + rng.choice(("", " please", " the music")),
            f"call {rng.choice(PHONETIC)}",
            rng.choice(("yes", "no", "yes please", "stop", "louder please", "quieter please")),
        )
    )

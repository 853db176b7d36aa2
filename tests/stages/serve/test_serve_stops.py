"""Stop strings against an oracle that reads one character at a time."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from whorl.codecs.decoding import DecodeStream
from whorl.core.ports import GenerateRequest, TokenEvent, TokenLogprob
from whorl.stages.serve.formats.choose import Voice
from whorl.stages.serve.generation import Run
from whorl.stages.serve.stops import StopFinder

ALPHABET = "ab\n"
stops_lists = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=4)


def cut_by_hand(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the first stop string to be complete; of two at once, the longer."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(st.lists(st.text(ALPHABET, max_size=5), max_size=8), stops_lists)
def test_the_same_text_for_any_cut_into_pieces(pieces: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops)
    given_out = ""
    for piece in pieces:
        given_out += finder.push(piece)
        assert "".join(pieces).startswith(given_out)
    assert (given_out + finder.finish(), finder.found) == cut_by_hand("".join(pieces), stops)


def test_nothing_is_held_back_without_need() -> None:
    finder = StopFinder(["\n\n"])
    assert [finder.push(p) for p in ("one\n", "two", "\n", "\nthree")] == ["one", "\ntwo", "", ""]
    assert finder.found


class Cancelling:
    """An engine that is only told to cancel."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.booleans())
def test_several_ids_of_a_step_are_told_as_one_after_another(sizes: list[int], ends: bool) -> None:
    """Text, counts and log-probabilities, whatever an engine gives at once: it may guess ahead."""
    letters = "abcabXbcXabc" * 4
    count = min(sum(sizes), len(letters))

    def told(sizes: list[int]) -> tuple[str, int, list[int], str | None, list[int]]:
        engine: Any = Cancelling()
        request = GenerateRequest("r", (1,), 99, logprobs=0)
        decoder = DecodeStream(None, lambda number: letters[number], True)
        run = Run(engine, request, StopFinder(["cX"]), decoder, Voice())
        text, tokens, known, place = "", 0, list[int](), 0
        for size in sizes:
            ids = tuple(range(place, min(place + size, count)))
            place += len(ids)
            logprobs = tuple(TokenLogprob(number, -0.5) for number in ids)
            finish: Any = "length" if ends and place == count else None
            piece = run.piece(TokenEvent("r", ids, finish, logprobs=logprobs))
            text, tokens = text + piece.text, tokens + piece.num_tokens
            known += [each.token_id for _, each in piece.logprobs]
            if piece.finish_reason is not None:
                break
        return text, tokens, run.kept_ids, run.finish_reason, known

    assert told(sizes) == told([1] * count)

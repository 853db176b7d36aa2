"""Stop strings against an oracle that reads one character at a time."""

from hypothesis import given
from hypothesis import strategies as st

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

"""Guesses that are looked up in the prompt change when ids come, and nothing about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest, Grammar, TokenEvent
from whorl.engines.openvino_engine import OpenvinoStepper
from whorl.engines.setup import EngineSetup
from whorl.model.folder import read_card

pytest.importorskip("openvino_genai")

GUESSES = 4
SETUP = EngineSetup(max_running=4, threads=1)


def opened(folder: Path, **changes: object) -> OpenvinoStepper:
    setup = replace(SETUP, **{"lookup": GUESSES, **changes})  # type: ignore[arg-type]
    return OpenvinoStepper(folder, read_card(folder), setup)


@pytest.fixture(scope="module")
def plain(folders: Path) -> Iterator[OpenvinoStepper]:
    stepper = opened(folders / "f32", lookup=0)
    yield stepper
    stepper.close()


@pytest.fixture(scope="module")
def guessing(folders: Path) -> Iterator[OpenvinoStepper]:
    stepper = opened(folders / "f32")
    yield stepper
    stepper.close()


def events_of(
    stepper: OpenvinoStepper, *requests: GenerateRequest, company_after: int = 0
) -> dict[str, list[TokenEvent]]:
    """company_after: steps until the second and later requests come; 0: at once."""
    found: dict[str, list[TokenEvent]] = {request.request_id: [] for request in requests}
    waiting, steps = list(requests), 0
    while waiting or not all(each and each[-1].finish_reason for each in found.values()):
        while waiting and (waiting[0] is requests[0] or steps >= company_after):
            assert stepper.add(waiting.pop(0))
        for event in stepper.step():
            found[event.request_id].append(event)
        steps += 1
    return found


def ids_of(events: Sequence[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def repeating(prompts: Sequence[tuple[int, ...]], count: int = 12) -> list[tuple[int, ...]]:
    """Prompts that say everything twice: what comes next stands there already."""
    return [(*ids, *ids) for ids in prompts[:count]]


@pytest.mark.parametrize("weights", ["f32", "int8"])
def test_greedy_answers_are_the_same(
    folders: Path, prompts: list[tuple[int, ...]], weights: str
) -> None:
    without, beside = opened(folders / weights, lookup=0), opened(folders / weights)
    asked = [*prompts[:20], *repeating(prompts)]
    longest = 0
    for number, ids in enumerate(asked):
        request = GenerateRequest(str(number), ids, 40)
        expected = events_of(without, request)[request.request_id]
        found = events_of(beside, request)[request.request_id]
        assert ids_of(found) == ids_of(expected) and len(ids_of(found)) == 40
        assert found[-1].finish_reason == expected[-1].finish_reason == "length"
        longest = max(longest, *(len(event.token_ids) for event in found))
    assert 1 < longest <= GUESSES + 1  # some were guessed right
    without.close()
    beside.close()


def test_stop_ids_end_an_answer_where_they_did(
    plain: OpenvinoStepper, guessing: OpenvinoStepper, prompts: list[tuple[int, ...]]
) -> None:
    """Also where a guess goes on behind them."""
    inside = 0
    for number, ids in enumerate(repeating(prompts)):
        request = GenerateRequest(str(number), ids, 30)
        answer = ids_of(events_of(plain, request)[request.request_id])
        for stop_id in dict.fromkeys(answer):
            asked = replace(request, stop_ids=(stop_id,))
            expected = events_of(plain, asked)[asked.request_id]
            found = events_of(guessing, asked)[asked.request_id]
            assert ids_of(found) == ids_of(expected) == answer[: answer.index(stop_id) + 1]
            assert found[-1].finish_reason == "stop"
            inside += len(found[-1].token_ids) > 1
    assert inside


def test_log_probabilities_are_the_same(
    plain: OpenvinoStepper, guessing: OpenvinoStepper, prompts: list[tuple[int, ...]]
) -> None:
    for number, ids in enumerate(repeating(prompts, 6)):
        request = GenerateRequest(str(number), ids, 24, logprobs=0)
        told = [
            [each for event in events_of(stepper, request)[str(number)] for each in event.logprobs]
            for stepper in (plain, guessing)
        ]
        assert [each.token_id for each in told[0]] == [each.token_id for each in told[1]]
        for one, other in zip(*told, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("company_after", range(1, 8))
def test_what_ran_alone_goes_on_beside_others(
    plain: OpenvinoStepper,
    guessing: OpenvinoStepper,
    prompts: list[tuple[int, ...]],
    company_after: int,
) -> None:
    first, second, third = repeating(prompts, 3)
    requests = [
        GenerateRequest("first", first, 40, logprobs=0),
        GenerateRequest("second", second, 30),
        GenerateRequest("third", third, 20, temperature=1.0, seed=3),
    ]
    found = events_of(guessing, *requests, company_after=company_after)
    for request in requests:
        expected = events_of(plain, request)[request.request_id]
        assert ids_of(found[request.request_id]) == ids_of(expected)
    assert [e.finish_reason for each in found.values() for e in each if e.finish_reason] == (
        ["length"] * 3
    )
    told = [each.token_id for event in found["first"] for each in event.logprobs]
    assert told == ids_of(found["first"])


def test_what_runs_alone_goes_on_where_it_cannot_be_handed_over(
    folders: Path,
    plain: OpenvinoStepper,
    prompts: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stepper = opened(folders / "f32")
    first, second = (GenerateRequest(n, repeating(prompts)[0], 20) for n in ("first", "second"))
    expected = ids_of(events_of(plain, first)["first"])
    assert stepper.add(first)
    found = stepper.step()

    def refuses(request: GenerateRequest) -> None:
        raise EngineError("OpenVINO refuses the request")

    with monkeypatch.context() as patched:
        patched.setattr(stepper._batch, "add", refuses)
        with pytest.raises(EngineError):
            stepper.add(second)
    while not (found and found[-1].finish_reason):
        found += stepper.step()
    assert ids_of(found) == expected and not stepper._reserved and stepper._alone is None
    stepper.close()


def test_a_cancelled_request_leaves_room_for_the_next(
    plain: OpenvinoStepper, guessing: OpenvinoStepper, prompts: list[tuple[int, ...]]
) -> None:
    for number in range(5):
        long = GenerateRequest(f"long {number}", repeating(prompts)[number], 100)
        assert guessing.add(long)
        for _ in range(number):
            guessing.step()
        guessing.cancel(long.request_id)
        request = GenerateRequest("next", prompts[number], 12)
        expected = events_of(plain, request)["next"]
        assert ids_of(events_of(guessing, request)["next"]) == ids_of(expected)
        assert not guessing._reserved and guessing._alone is None


def test_what_is_drawn_is_not_guessed(
    plain: OpenvinoStepper, guessing: OpenvinoStepper, prompts: list[tuple[int, ...]]
) -> None:
    """An id a step, the very ones that come without guesses."""
    request = GenerateRequest("it", repeating(prompts)[0], 24)
    for each in (replace(request, temperature=0.8, seed=5), replace(request, logprobs=3)):
        found, expected = events_of(guessing, each)["it"], events_of(plain, each)["it"]
        assert ids_of(found) == ids_of(expected)
        assert all(len(event.token_ids) <= 1 for event in found)


def test_what_a_grammar_allows_is_not_guessed(
    plain: OpenvinoStepper, guessing: OpenvinoStepper, tokens: Tokens
) -> None:
    """Nor does it disturb what runs alone as it comes."""
    pytest.importorskip("xgrammar")
    ids = tuple(tokens.encode_prompt("the cat the cat the cat the"))
    grammar = Grammar("regex", "(the cat ){3}")
    asked = GenerateRequest("it", ids, 24, stop_ids=tokens.contract.stop_ids, grammar=grammar)
    alone = GenerateRequest("alone", (*ids, *ids), 30)
    found: list[dict[str, list[TokenEvent]]] = []
    for stepper in (plain, guessing):
        stepper.check(asked)
        found += [events_of(stepper, asked), events_of(stepper, alone, asked, company_after=2)]
    assert all(len(event.token_ids) <= 1 for event in found[2]["it"])
    assert tokens.decode(ids_of(found[2]["it"])).startswith("the cat the cat the cat")
    for without, beside in zip(found[:2], found[2:], strict=True):
        assert {n: ids_of(e) for n, e in without.items()} == {
            n: ids_of(e) for n, e in beside.items()
        }


def test_prefixes_are_shared_alone_too(folders: Path, prompts: list[tuple[int, ...]]) -> None:
    """A conversation of one person is read once, and its answers are the same."""
    shared = opened(folders / "f32", shares_prefixes=True, batched_tokens=32)
    without = opened(folders / "f32", lookup=0)
    ids = (*prompts[1], *prompts[2], *prompts[3], *prompts[4])[:128]
    steps = []
    for turn in range(3):
        request = GenerateRequest(str(turn), ids, 16, cache_key="a")
        found = events_of(shared, request)[str(turn)]
        assert ids_of(found) == ids_of(events_of(without, request)[str(turn)])
        assert shared.add(replace(request, request_id="again"))
        steps.append(0)
        while not any(event.token_ids for event in shared.step()):
            steps[-1] += 1
        shared.cancel("again")
        ids = (*ids, *ids_of(found))
    assert max(steps) <= 1  # of prompts of up to 160 ids, 32 a step
    shared.close()
    without.close()


def test_what_the_card_says_is_done(folders: Path) -> None:
    card = read_card(folders / "f32")
    for said, asked, expected in ((3, None, True), (3, 0, False), (0, None, False), (0, 2, True)):
        setup = replace(SETUP, lookup=asked)
        stepper = OpenvinoStepper(folders / "f32", replace(card, lookup=said), setup)
        assert (stepper._lone is not None) == expected
        stepper.close()

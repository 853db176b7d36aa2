"""Answers of a grammar: whatever the model would say, they are JSON of the schema, or the pattern.

The judges are jsonschema's rules written out and Python's `re`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from whorl.codecs.contract import Tokens
from whorl.core.collect import run_requests
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, Grammar
from whorl.engines import grammar as module
from whorl.engines import openvino_engine as openvino_engine_module
from whorl.engines.grammar import Grammars, _compiled, text_vocabulary
from whorl.engines.openvino_engine import OpenvinoStepper
from whorl.engines.setup import EngineSetup
from whorl.model.folder import read_card

xgrammar = pytest.importorskip("xgrammar")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["red", "green"]},
        "sizes": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 99},
            "minItems": 1,
            "maxItems": 3,
        },
    },
    "required": ["name", "kind", "sizes"],
    "additionalProperties": False,
}


def request_of(
    tokens: Tokens, grammar: Grammar, seed: int, temperature: float = 1.0
) -> GenerateRequest:
    return GenerateRequest(
        f"{grammar.kind}-{seed}",
        tuple(tokens.encode_prompt("some words")),
        120,
        temperature=temperature,
        seed=seed,
        stop_ids=tuple(tokens.contract.stop_ids),
        grammar=grammar,
    )


def test_answers_are_json_of_the_schema(engine: Engine, tokens: Tokens) -> None:
    """Of a model so weak that it would put spaces between two words of JSON for ever."""
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    spaces = [i for i, text in enumerate(text_vocabulary(tokens)) if text and not text.strip()]
    bias = tuple((i, -100.0) for i in spaces)
    requests = [request_of(tokens, grammar, seed, float(seed % 2)) for seed in range(4)]
    for answer in run_requests(engine, [replace(each, logit_bias=bias) for each in requests]):
        assert answer.finish_reason == "stop"
        value = json.loads(tokens.decode(answer.token_ids))
        assert set(value) == {"name", "kind", "sizes"}
        assert isinstance(value["name"], str) and len(value["name"]) <= 8
        assert value["kind"] in ("red", "green")
        assert 1 <= len(value["sizes"]) <= 3 and all(type(n) is int for n in value["sizes"])


def test_one_of_some_words(engine: Engine, tokens: Tokens) -> None:
    grammar = Grammar("json_schema", '{"enum": ["red", "green", "blé"]}')
    requests = [request_of(tokens, grammar, seed) for seed in range(8)]
    answers = run_requests(engine, requests)
    assert {answer.finish_reason for answer in answers} == {"stop"}
    said = {json.loads(tokens.decode(answer.token_ids)) for answer in answers}
    assert len(said) > 1 and said <= {"red", "green", "blé"}


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "[a-c]{2,5}-(yes|no|é)"),
        Grammar("ebnf", 'root ::= [a-c] [a-c] [a-c]? "-" ("yes" | "no")'),
    ],
)
def test_answers_are_of_the_pattern(engine: Engine, tokens: Tokens, grammar: Grammar) -> None:
    requests = [request_of(tokens, grammar, seed) for seed in range(6)]
    for answer in run_requests(engine, requests):
        assert answer.finish_reason == "stop"
        assert answer.token_ids[-1] in tokens.contract.stop_ids
        text = tokens.decode(answer.token_ids)
        assert re.fullmatch("[a-c]{2,5}-(yes|no|é)", text), text


def test_beside_other_wishes(engine: Engine, tokens: Tokens) -> None:
    """A grammar, what is forbidden, and probabilities, in one request."""
    first = request_of(tokens, Grammar("regex", "(aa|bb)x"), 0, 0.0)
    forbidden = {i for i, text in enumerate(text_vocabulary(tokens)) if text.startswith(b"a")}
    request = replace(first, logit_bias=tuple((i, -100.0) for i in forbidden), logprobs=2)
    answer = run_requests(engine, [request])[0]
    assert tokens.decode(answer.token_ids) == "bbx"


def test_grammars_that_came_are_not_all_kept(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.engines.grammar.CACHE_BYTES", 2**20)
    grammars = Grammars(tokens)
    for number in range(60):
        pattern = f"[a-z]{{1,{number + 20}}}x{number}[0-9]+"
        matcher = grammars.start(request_of(tokens, Grammar("regex", pattern), number))
        assert matcher is not None and matcher.allowed().any()
    assert 0 < grammars._compiler.get_cache_size_bytes() < 1.5 * 2**20


def test_what_is_no_grammar_ends_its_request_alone(engine: Engine, tokens: Tokens) -> None:
    for grammar in (
        Grammar("json_schema", '{"type": "wat"}'),
        Grammar("regex", "(unclosed"),
        Grammar("ebnf", "no grammar :"),
    ):
        with pytest.raises(EngineError):
            run_requests(engine, [request_of(tokens, grammar, 0)])
    good = request_of(tokens, Grammar("regex", "a+b"), 1)
    assert run_requests(engine, [good])[0].token_ids


# ------------------------------------------------------------------ whom grammars keep waiting


def large(number: int) -> Grammar:
    """A schema of many strings; each number's is another."""
    keys = {f"k{number}_{i}": {"type": "string", "pattern": "^[a-z]{3,60}$"} for i in range(6)}
    return Grammar("json_schema", json.dumps({"type": "object", "properties": keys}))


def test_the_thread_that_submits_reads_the_grammar(
    engine: Engine, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's thread, for which every answer waits, finds it read."""
    threads: list[str] = []
    compiled = module._compiled

    def seen(compiler: object, grammar: Grammar) -> object:
        threads.append(threading.current_thread().name)
        return compiled(compiler, grammar)

    monkeypatch.setattr(module, "_compiled", seen)
    request = replace(request_of(tokens, large(-1), 0), logprobs=1)  # of the graph's logits
    assert run_requests(engine, [request])[0].token_ids
    assert len(threads) == 1 and not threads[0].startswith("whorl-")


def test_a_grammar_that_takes_long_keeps_nobody_waiting(
    openvino_engine: Engine, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GenAI would compile it in its step: it is answered from the graph's logits meanwhile."""
    weighed = threading.Event()

    def slow(self: Grammars, grammar: Grammar) -> None:
        weighed.wait(20)

    monkeypatch.setattr(Grammars, "_weigh", slow)
    began_s = time.monotonic()
    first, second = Grammar("regex", "(aa|bb)xyx"), Grammar("regex", "(aa|bb)yxy")
    answers = run_requests(
        openvino_engine, [request_of(tokens, each, n) for n, each in enumerate((first, second))]
    )
    took_s = time.monotonic() - began_s
    weighed.set()
    assert took_s < 10 and tokens.decode(answers[0].token_ids) in ("aaxyx", "bbxyx")
    assert tokens.decode(answers[1].token_ids) in ("aayxy", "bbyxy")


def test_grammars_that_genai_holds_are_given_back(folders: Path, tokens: Tokens) -> None:
    """By the bytes that xgrammar says of each; answers are of their own grammar throughout."""
    stepper = OpenvinoStepper(folders / "f32", read_card(folders / "f32"), EngineSetup(2))
    sizes, pipelines = list[int](), list[object]()
    most = None
    for number in range(9):
        request = request_of(tokens, large(number), number)
        stepper.check(request)
        stepper._grammars._last.result(20)  # type: ignore[union-attr]
        weight = stepper._grammars.weight(request.grammar)  # type: ignore[arg-type]
        assert weight is not None and weight.num_bytes > 0
        most = most or 3 * weight.num_bytes + 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(openvino_engine_module, "MOST_HELD_BYTES", most)
            patch.setattr(openvino_engine_module, "MOST_COMPILE_S", 20)
            assert stepper.add(request)
        ids: list[int] = []
        while request.request_id in stepper._batch.names:
            ids += [i for event in stepper.step() for i in event.token_ids]
        assert tokens.decode(ids).lstrip().startswith("{")
        sizes.append(sum(stepper._held.values()))
        pipelines.append((stepper._batch, stepper._tokenizer))
    assert max(sizes) <= most and min(sizes) > 0
    for place in (0, 1):  # of nine grammars three at a time
        assert len({id(each[place]) for each in pipelines}) == 3
    stepper.close()


def test_a_refused_schema_is_told_without_places_in_the_librarys_source() -> None:
    grammar = Grammar("json_schema", '{"type": "objct"}')
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([b"a", b"b"]))
    with pytest.raises(EngineError, match="json_schema cannot be used") as caught:
        _compiled(compiler, grammar)
    assert "objct" in str(caught.value.found) and ".cc:" not in str(caught.value.found)

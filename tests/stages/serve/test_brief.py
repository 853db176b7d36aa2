"""The serve stage against a fake engine: what is drawn, what is greedy, what the record keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.pair import PairCodec
from whorl.codecs.parts import answer_in_words, in_words
from whorl.codecs.table import TableCodec
from whorl.codecs.text import train_text_codec
from whorl.core.context import StageContext
from whorl.core.heldout import write_heldout
from whorl.core.ports import Document, GenerateRequest, Part
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.tasks import ChoiceTask, LikelihoodTask, WritingTask
from whorl.core.variants import Variant
from whorl.fields.code import FIELD as CODE
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.brief import Samples, run, samples_of
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.promise import Promise
from whorl.testing.corpus import tiny_texts, tiny_tokens
from whorl.testing.engine import FakeEngine

PROMISE = Promise(
    basis="measured",
    users=5,
    ttft_p95_s=0.1,
    tokens_per_s_per_user=20,
    tokens_per_s=100,
    prompt_tokens=32,
    memory_bytes=10**9,
)
WRITING = WritingTask(grade=lambda answer, right: {})
TEXTS = ["\n".join(tiny_texts(20, seed)) for seed in range(5)]


def prepared(home: Path, tokens: Tokens, are_text: bool = True) -> Record:
    """A record with held-out documents alone; not text: five tokens and an answer of one."""
    key = RecordKey("prepare", {"are_text": are_text})
    ids = [tokens.encode_arrays(Document("d", (Part("text", text),)))[0] for text in TEXTS]
    ids = ids if are_text else [part[:6] for part in ids]
    masks = [np.arange(len(part)) >= (1 if are_text else 5) for part in ids]
    sizes = [len(text.encode()) * are_text for text in TEXTS]
    names = [f"{number}.txt" for number in range(len(TEXTS))]
    with RecordStore(home, "test").write(key) as writer:
        write_heldout(writer.path, names, ids, masks, sizes, ["text"] * len(names))
        tokens.save(writer.path / "tokens")
    return RecordStore(home, "test").published(key)


def serve(
    home: Path, tokens: Tokens, *samples: Samples, promise: Promise | None = None, **config: Any
):
    """(record, every request the engine was given); the engine answers with the prompt's end."""
    engines: list[FakeEngine] = []

    def reply(request: GenerateRequest) -> Sequence[int]:
        return request.prompt_ids[-min(7, request.max_tokens) :]

    def open_app():
        digest = tokens.contract.digest
        engines.append(FakeEngine(digest, reply, max_running=16))
        facts: dict[str, Any] = {"contract_digest": digest, "promise": promise}
        card = ModelCard(name="tiny", context_tokens=256, **facts)
        settings = ServeConfig(port=0, grace_s=1, **config)
        return create_app(engines[-1], tokens, card, settings, None), engines[-1].close

    context, settings = StageContext(RecordStore(home, "test")), ServeConfig(**config)
    named = dict(zip(("text", "digits"), samples, strict=False))
    inputs, variant = {"evaluate": "0" * 32}, Variant("openvino", "int8")
    record = run(context, settings, inputs, variant, named, open_app)
    return record, [request for engine in engines for request in engine.submitted]


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return tiny_tokens()


def test_text_is_drawn_and_speed_is_measured_greedily(tmp_path: Path, tokens: Tokens) -> None:
    samples = samples_of("text", CODE.task, prepared(tmp_path, tokens))
    record, requests = serve(tmp_path, tokens, samples)
    drawn = [request for request in requests if request.temperature > 0]
    greedy = [request for request in requests if request.temperature == 0]
    assert len(greedy) == 2 * (1 + 16)  # one alone and sixteen together, two each
    assert {(request.temperature, request.top_p) for request in drawn} == {(0.7, 0.95)}
    seeds = [request.seed for request in drawn]
    assert seeds == [*range(5), *range(3), *range(20)]  # prompts, held-out documents, judged
    assert len(record.metrics["completions"]) == 5 and record.metrics["judged"][0]["asked"] == 20
    again, none = serve(tmp_path, tokens, samples)
    assert again.path == record.path and none == []


def test_places_are_those_that_were_there(tmp_path: Path, tokens: Tokens) -> None:
    """Not always max_running: a promise may be for other numbers of users."""
    samples = samples_of("text", CODE.task, prepared(tmp_path, tokens))
    record, _ = serve(tmp_path, tokens, samples, promise=PROMISE)
    assert record.run["places"] == 5
    record, _ = serve(tmp_path, tokens, samples, max_running=7)
    assert record.run["places"] == 7


def test_heldout_documents_are_continued_beside_the_truth(tmp_path: Path, tokens: Tokens) -> None:
    samples = samples_of("text", CODE.task, prepared(tmp_path, tokens))
    record, _ = serve(tmp_path, tokens, samples)
    rows = record.metrics["continuations"]
    assert len(rows) == 3
    for row in rows:
        text = TEXTS[int(row["document"].removesuffix(".txt"))]
        assert row["prompt"].count("\n") == 6 and row["prompt"].endswith("\n")
        assert row["truth"] and (row["prompt"] + row["truth"]) in text
        assert row["completion"] and row["prompt"].endswith(row["completion"])  # as scripted
        assert len(tokens.encode_prompt(row["truth"])) == 1 + 7


def test_an_answer_that_is_no_text_is_the_most_probable(tmp_path: Path, tokens: Tokens) -> None:
    samples = samples_of("text", ChoiceTask(), prepared(tmp_path, tokens, are_text=False))
    record, requests = serve(tmp_path, tokens, samples)
    assert {request.temperature for request in requests} == {0.0}
    assert record.metrics["continuations"] == []
    assert [len(prompt) for prompt in samples.prompts] == [5] * 5
    text = next(entry for entry in tokens.contract.codecs if entry.name == "text")
    allowed = tuple(range(text.id_start, text.id_end))
    assert {(request.max_tokens, request.allowed_ids) for request in requests} == {(1, allowed)}
    assert len(record.metrics["completions"]) == 5


def test_every_field_is_asked(tmp_path: Path, tokens: Tokens) -> None:
    text = samples_of("text", CODE.task, prepared(tmp_path, tokens))
    choices = samples_of("text", ChoiceTask(), prepared(tmp_path, tokens, are_text=False))
    record, requests = serve(tmp_path, tokens, text, choices)
    found = [row["field"] for row in record.metrics["completions"]]
    assert found == ["text"] * 5 + ["digits"] * 5
    assert {row["field"] for row in record.metrics["continuations"]} == {"text"}
    assert [row["field"] for row in record.metrics["judged"]] == ["text"]
    speeds = [(row["field"], row["concurrency"]) for row in record.run["throughput"]]
    assert speeds == [("text", 1), ("text", 16), ("digits", 1), ("digits", 16)]
    assert {bool(request.allowed_ids) for request in requests} == {True, False}


def test_text_without_prompts_of_its_field_is_drawn_too(tmp_path: Path, tokens: Tokens) -> None:
    samples = samples_of("text", LikelihoodTask(), prepared(tmp_path, tokens))
    assert samples.sampling.temperature == 0.7 and len(samples.passages) == 3


def test_a_small_limit_of_tokens_is_kept(tmp_path: Path, tokens: Tokens) -> None:
    samples = samples_of("text", CODE.task, prepared(tmp_path, tokens))
    _, requests = serve(tmp_path, tokens, samples, max_tokens=3)
    assert {request.max_tokens for request in requests} == {3}


def test_of_a_prompt_longer_than_the_context_the_end_is_asked(
    tmp_path: Path, tokens: Tokens
) -> None:
    long, text = [16 + number % 300 for number in range(400)], " ".join(tiny_texts(60))
    assert len(tokens.encode_prompt(text)) > 256  # the context of the service
    samples = Samples([long, text, "short"], ["long", "text", "short"])
    record, requests = serve(tmp_path, tokens, samples)
    assert record.metrics["num_cut_prompts"] == 2 and len(record.metrics["completions"]) == 3
    ends = {tuple(long[-192:]), tuple(tokens.encode_prompt(text)[-192:])}
    assert ends < {request.prompt_ids for request in requests}
    assert {request.max_tokens for request in requests} == {64}
    _, requests = serve(tmp_path, tokens, Samples([long], ["long"], answer_ids=[40, 41]))
    assert {request.prompt_ids for request in requests} == {tuple(long[-255:])}


def test_images_are_told_in_words_and_no_passage_is_cut_out_of_one(tmp_path: Path) -> None:
    """Neither prompts nor answers are rows of ids of an image."""
    pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
    image = fit_image_codec(pictures, 12, 4, white=255.0)
    tokens = Tokens.build({"image": image, "text": train_text_codec(["a"], 256)}, 320)
    marks = Part("special", "<|answer|>", trained=False)
    parts = [
        (Part("image", picture, trained=False), marks, Part("text", "what is written here"))
        for picture in pictures[:3]
    ]
    encoded = [tokens.encode_arrays(Document("d", each)) for each in parts]
    key = RecordKey("prepare", {"images": True})
    with RecordStore(tmp_path, "test").write(key) as writer:
        names = [f"{number}.png" for number in range(3)]
        arrays = [[ids for ids, _ in encoded], [mask for _, mask in encoded]]
        write_heldout(writer.path, names, *arrays, [20] * 3, ["ocr"] * 3)
        tokens.save(writer.path / "tokens")
    found = samples_of("ocr", WRITING, RecordStore(tmp_path, "test").published(key))
    assert found.names[0] == "0.png" and found.texts[0] == "[an image of 8 x 8]"
    assert found.truths == ["what is written here"] * 3 and found.passages == []
    assert found.sampling.temperature == 0  # what is graded is the most probable answer
    ids = encoded[0][0]
    assert in_words(tokens, ids[:3]) == "[2 of 4 ids of an image of 8 x 8]"
    assert in_words(tokens, ids) == "[an image of 8 x 8] what is written here"
    shown = f"so: {tokens.decode(ids[:3])}, <|image_99|>"
    assert answer_in_words(tokens, shown) == "so: [2 of 4 ids of an image of 8 x 8], <|image_99|>"
    record, _ = serve(tmp_path, tokens, found)
    texts = [row["text"] for row in record.metrics["completions"]]
    assert all("<|image" not in text for text in texts)
    assert any("image of 8 x 8" in text for text in texts)


def test_rows_and_choices_are_told_with_the_right_answer(tmp_path: Path) -> None:
    """A row of a table is its JSON, a class its name; several labels are told apart."""
    rows = [{"age": 30 + n, "town": town} for n, town in enumerate(["Ulm", "Bern", "Ulm"])]
    table = TableCodec.fit({key: [row[key] for row in rows] for key in rows[0]}, bins=8)
    mark = PairCodec(["a", "b"], 1, "mark")
    tokens = Tokens.build({"row": table, "label": LabelCodec(["no", "yes"]), "mark": mark}, 64)
    parts = [
        (Part("row", row, trained=False), Part("mark", "ba", trained=False), Part("label", "yes"))
        for row in rows
    ]
    encoded = [tokens.encode_arrays(Document("d", each)) for each in parts]
    key = RecordKey("prepare", {"rows": True})
    with RecordStore(tmp_path, "test").write(key) as writer:
        names = [f"rows.csv@{number}" for number in range(3)]
        arrays = [[ids for ids, _ in encoded], [mask for _, mask in encoded]]
        write_heldout(writer.path, names, *arrays, [0] * 3, ["table"] * 3)
        tokens.save(writer.path / "tokens")
    found = samples_of("table", ChoiceTask(), RecordStore(tmp_path, "test").published(key))
    told = [text.removesuffix(" ba") for text in found.texts]
    assert [json.loads(text) for text in told] == rows and found.truths == ["yes"] * 3
    record, _ = serve(tmp_path, tokens, found)
    completion = record.metrics["completions"][0]
    assert completion["document"] == "rows.csv@0" and completion["truth"] == "yes"
    assert in_words(tokens, tokens.encode_parts([Part("label", "yes"), Part("label", "no")])) == (
        "yes, no"
    )
    row = tokens.encode_parts([Part("row", rows[1])])
    assert json.loads(answer_in_words(tokens, tokens.decode(row))) == rows[1]


def test_a_wide_row_is_told_by_what_is_unusual_in_it() -> None:
    cells = {f"c{number}": [0, 0, 0, number] for number in range(60)}
    table = TableCodec.fit(cells, bins=8)
    tokens = Tokens.build({"row": table}, 16 + table.num_ids)
    ids = tokens.encode_parts([Part("row", {**dict.fromkeys(cells, 0), "c7": 7})])
    assert in_words(tokens, ids) == '{"c7": 7.0} and 59 usual cells'

"""The token contract: ids, masks, decoding, and damage that is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.codecs.kinds import KINDS, load_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.text import SPECIAL, train_text_codec
from whorl.core.errors import DataError, RecordError, SpecError
from whorl.core.ports import Document, Part

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 100)
PROSE = (
    "A shell grows by one turn at a time. 贝壳一圈一圈地生长。 Ça grandit, un tour à la fois. 🐚\n"
)
LABELS = LabelCodec(["no", "yes"], "answer-label")


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    text = train_text_codec([PROSE] * 20, 300)
    return Tokens.build({"answer-label": LABELS, "text": text}, 400)


def test_ids_are_laid_out_as_promised(tokens: Tokens) -> None:
    assert list(SPECIAL.values()) == list(range(16))
    names = ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
    assert [SPECIAL[name] for name in names] == [0, 1, 2, 3, 4, 5]
    assert (SPECIAL["<|end|>"], SPECIAL["<|image|>"], SPECIAL["<|answer|>"]) == (6, 7, 8)
    ranges = [(e.name, e.id_start, e.id_end) for e in tokens.contract.codecs]
    text_end = 16 + tokens.codecs["text"].num_ids
    assert ranges == [("text", 16, text_end), ("answer-label", text_end, text_end + 2)]
    assert tokens.contract.stop_ids == (1, 6)
    contract = tokens.contract
    assert (contract.start_ids, contract.end_ids, contract.pad_id) == ((0,), (1,), 2)
    found = [contract.id_of(f"{name}_token") for name in ("bos", "eos", "pad", "unk")]
    assert found == [0, 1, 2, None]


def test_a_document_becomes_ids_and_mask(tokens: Tokens) -> None:
    parts = (Part("text", "shell", trained=False), Part("special", "<|answer|>", trained=False))
    document = Document("d", (*parts, Part("answer-label", "yes")))
    ids, mask = tokens.encode_document(document)
    text = [i + 16 for i in tokens.codecs["text"].encode("shell")]
    yes = tokens.contract.codecs[1].id_start + 1
    assert ids == [0, *text, 8, yes, 1]
    assert mask == [False] * (len(text) + 2) + [True, True]
    only_context = Document("d", (Part("text", "shell", trained=False),))
    assert not any(tokens.encode_document(only_context)[1])
    assert tokens.encode_document(Document("d", ())) == ([0, 1], [False, False])


def test_prompts_and_parts(tokens: Tokens) -> None:
    parts = [Part("text", "a turn"), Part("answer-label", "no")]
    ids = tokens.encode_parts(parts)
    assert tokens.encode_prompt("a turn") == [0, *ids[:-1]]
    assert tokens.decode(ids) == "a turnno"


@settings(max_examples=TRIALS)
@given(st.lists(st.integers(-5, 420), max_size=40), st.booleans(), st.data())
def test_streams_join_to_the_whole(
    tokens: Tokens, ids: list[int], skip_special: bool, data: st.DataObject
) -> None:
    """Any ids, cut anywhere: never an error, and the pieces join to `decode`."""
    whole = tokens.decode(ids, skip_special)
    stream, pieces, rest = tokens.decode_stream(skip_special), [], ids
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        pieces.append(stream.push(rest[:count]))
        rest = rest[count:]
    assert "".join(pieces) + stream.finish() == whole


@settings(max_examples=TRIALS)
@given(st.text(alphabet=st.sampled_from("ab 圈🐚éÇ\n<|eos|>"), max_size=30))
def test_streams_hold_back_half_characters(tokens: Tokens, text: str) -> None:
    ids = tokens.encode_prompt(text)
    stream, shown = tokens.decode_stream(), ""
    for number in ids:
        shown += stream.push([number])
        assert text.startswith(shown) and "\ufffd" not in shown
    assert shown + stream.finish() == text


def test_specials_are_shown_when_asked(tokens: Tokens) -> None:
    ids = [0, *tokens.encode_parts([Part("text", "a")]), 399, 1]
    assert tokens.decode(ids) == "a"
    assert tokens.decode(ids, skip_special=False) == "<|bos|>a<|unused_399|><|eos|>"


def test_text_of_a_special_is_text(tokens: Tokens) -> None:
    """A document cannot smuggle in an end of text."""
    ids = tokens.encode_prompt("x<|eos|>y")
    assert 1 not in ids and tokens.decode(ids) == "x<|eos|>y"


def test_save_and_load(tokens: Tokens, tmp_path: Path) -> None:
    tokens.save(tmp_path / "tokens")
    again = Tokens.load(tmp_path / "tokens")
    assert again.contract == tokens.contract
    assert again.contract.digest == tokens.contract.digest
    assert again.encode_prompt(PROSE) == tokens.encode_prompt(PROSE)
    assert again.codecs["answer-label"].encode("yes") == [1]


def test_digests_tell_contracts_apart(tokens: Tokens) -> None:
    text = tokens.codecs["text"]
    same = Tokens.build({"text": text, "answer-label": LABELS}, 400)
    other_rules = OWN_RULES.model_copy(update={"chat_template": "x"})
    others = [
        Tokens.build({"text": text, "answer-label": LABELS}, 401),
        Tokens.build({"text": text}, 400),
        Tokens.build({"text": text, "x": LabelCodec(["yes", "no"], "answer-label")}, 400),
        Tokens.build({"text": text, "answer-label": LABELS}, 400, other_rules),
    ]
    assert same.contract.digest == tokens.contract.digest
    assert len({other.contract.digest for other in others} | {same.contract.digest}) == 5


def test_every_flipped_bit_is_noticed(tokens: Tokens, tmp_path: Path) -> None:
    """One bit in each of many places of each file."""
    tokens.save(tmp_path)
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        good = path.read_bytes()
        for place in range(0, len(good), max(1, len(good) // 25)):
            bad = bytearray(good)
            bad[place] ^= 1 << (place % 8)
            path.write_bytes(bytes(bad))
            with pytest.raises(RecordError, match=path.name.replace(".", r"\.")):
                Tokens.load(tmp_path)
        path.unlink()
        with pytest.raises(RecordError):
            Tokens.load(tmp_path)
        path.write_bytes(good)
    assert Tokens.load(tmp_path).contract == tokens.contract


def test_a_small_vocabulary_is_refused(tokens: Tokens) -> None:
    with pytest.raises(SpecError, match=r"at least 31\d: 16 special, \d+ text, 2 answer-label"):
        Tokens.build(tokens.codecs, 300)


def test_unknown_codecs_and_specials_are_refused(tokens: Tokens) -> None:
    with pytest.raises(DataError, match="no codec speech"):
        tokens.encode_parts([Part("speech", "x")])
    with pytest.raises(DataError, match=r"no special token <\|hello\|>"):
        tokens.encode_parts([Part("special", "<|hello|>")])
    with pytest.raises(RecordError, match="there is no codec radio"):
        load_codec("radio", "radio", {})


def test_every_built_in_kind_loads_its_own_files(tokens: Tokens) -> None:
    assert {"tokenizer", "image-patches", "label"} <= set(KINDS)
    for codec in tokens.codecs.values():
        again = load_codec(codec.kind, codec.name, codec.files())
        assert again.files() == codec.files() and again.num_ids == codec.num_ids

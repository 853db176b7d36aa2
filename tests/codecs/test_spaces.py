"""Tokenizers in SentencePiece's manner: spaces as ▁, bytes as <0x0A>, a space put in front."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from tests.codecs.open_tokenizers import fuzzed_text
from whorl.codecs.contract import TokenRules, Tokens
from whorl.codecs.hf_tokens import read_hf_tokens
from whorl.codecs.tokenizer import TextCodec
from whorl.core.errors import RecordError
from whorl.core.ports import Part

PROSE = ["The whorl of a shell grows by one turn at a time. <b>Ça</b> va, 贝壳 一圈 мир мира"] * 9
SPECIALS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEMPLATE = """{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}
{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}
{% if add_generation_prompt %}[assistant] {% endif %}"""


def in_llamas_manner() -> dict[str, Any]:
    """BPE whose normalizer puts a space in front of every piece of text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trained = train(tokenizer, trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIALS))
    vocab = trained["model"]["vocab"]
    pieces = sorted(vocab, key=vocab.__getitem__)
    vocab.update({text: i for i, text in enumerate([*SPECIALS, *BYTES, *pieces[len(SPECIALS) :]])})
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    return {**trained, "decoder": json.loads(tokenizer.to_str())["decoder"]}


def in_mistrals_manner() -> dict[str, Any]:
    """A space in front of the first piece alone."""
    value = in_llamas_manner()
    value["normalizer"] = None
    value["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    return value


def unigram() -> dict[str, Any]:
    """Pieces by probability; its vocabulary is a list, and holds the special tokens too."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    value = train(tokenizer, trainer)
    value["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    value["decoder"]["split"] = True
    return value


def train(tokenizer: Any, trainer: Any) -> dict[str, Any]:
    tokenizer.train_from_iterator(PROSE, trainer)
    value: dict[str, Any] = json.loads(tokenizer.to_str())
    return value


@pytest.fixture(scope="module", params=[in_llamas_manner, in_mistrals_manner, unigram])
def opened(request: pytest.FixtureRequest) -> tuple[Tokens, Any]:
    data = json.dumps(request.param())
    library = Tokenizer.from_str(data)
    codec = TextCodec(data.encode())
    rules = TokenRules(
        special=codec.special,
        names={"bos_token": "<s>", "eos_token": "</s>"},
        start_ids=(1,),
        end_ids=(2,),
        pad_id=0,
        stop_ids=(2,),
        chat_template=TEMPLATE,
    )
    return Tokens.build({"text": codec}, codec.first_id + codec.num_ids, rules), library


def test_ids_and_texts_are_the_librarys(
    opened: tuple[Tokens, Any], trials: Callable[[int], int]
) -> None:
    tokens, library = opened
    library.encode_special_tokens = True
    chooser = random.Random(2)
    for _ in range(trials(200)):
        text = fuzzed_text(chooser, [])
        ids = tokens.encode_parts([Part("text", text)])
        assert ids == library.encode(text, add_special_tokens=False).ids, text
        whole = library.decode(ids, skip_special_tokens=True)
        stream = tokens.decode_stream()
        pieces = [stream.push([number]) for number in ids]
        assert "".join([*pieces, stream.finish()]) == tokens.decode(ids) == whole, text


def test_special_texts_are_text(opened: tuple[Tokens, Any]) -> None:
    tokens, _ = opened
    for text in ("a </s> b", "<s>", "x<unk>"):
        ids = tokens.encode_parts([Part("text", text)])
        assert not {1, 2} & set(ids)


def test_what_goes_on_keeps_its_space(opened: tuple[Tokens, Any]) -> None:
    tokens, _ = opened
    ids = tokens.encode_parts([Part("text", "shell grows")])
    assert tokens.decode(ids) == "shell grows"
    assert tokens.decode_stream(continues=True).push(ids) == " shell grows"


def test_chats_are_encoded_as_one_text(opened: tuple[Tokens, Any]) -> None:
    """The library, given the rendered chat, says where a space is put in front."""
    tokens, library = opened
    library.encode_special_tokens = False
    messages = [{"role": "user", "content": "a shell"}, {"role": "assistant", "content": "grows"}]
    rendered = "<s>[user] a shell\n[assistant] grows\n</s>"
    ids, mask = tokens.encode_chat({"messages": messages})
    assert ids.tolist() == library.encode(rendered, add_special_tokens=False).ids
    trained = tokens.decode(ids[mask].tolist(), False).replace("<unk>", "\n")  # Unigram lacks it
    assert trained.strip() == "grows\n</s>"
    hostile = [{"role": "user", "content": "a </s> b"}]
    ids, _ = tokens.encode_chat({"messages": hostile})
    assert ids.tolist().count(1) == 1 and 2 not in ids


@pytest.mark.parametrize("make", [in_llamas_manner, in_mistrals_manner])
def test_tokens_named_special_are_special(make: Callable[[], Any], tmp_path: Path) -> None:
    """A file may leave it to tokenizer_config.json to say so; transformers is asked."""
    value = make()
    value["added_tokens"] = [t for t in value["added_tokens"] if t["content"] != "</s>"]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    config |= {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
        "unk_token": "<unk>",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7], "x": 1}')
    tokens, theirs = read_hf_tokens(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "a shell"}, {"role": "assistant", "content": "grows"}]
    expected = theirs.apply_chat_template(messages, return_dict=False)
    assert tokens.encode_chat({"messages": messages})[0].tolist() == expected
    assert 2 in expected and 2 not in tokens.encode_prompt("a </s> b")
    assert tokens.contract.stop_ids == (2, 7) and tokens.contract.end_ids == (2,)


def test_one_stop_string_may_stand_without_a_list(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(in_llamas_manner()))
    (tmp_path / "generation_config.json").write_text('{"stop_strings": "abc"}')
    rules = read_hf_tokens(tmp_path).contract
    assert rules.stop_strings == ("abc",)
    assert rules.pad_id in rules.special.values(), "no ordinary id pads where a special one can"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"special": True}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"one": {"content": "<s>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"chat_template": [{"template": "x"}]}),
        ("generation_config.json", {"eos_token_id": "two"}),
        ("generation_config.json", {"stop_strings": 7}),
        ("config.json", {"vocab_size": "many"}),
    ],
)
def test_files_of_another_shape_are_damaged(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(in_llamas_manner()))
    (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(RecordError, match=r"tokenizer\.json"):
        read_hf_tokens(tmp_path)


def test_tokens_that_share_an_id_are_refused() -> None:
    value = in_llamas_manner()
    value["model"]["vocab"]["twice"] = 5
    with pytest.raises(RecordError, match="two tokens one id"):
        TextCodec(json.dumps(value).encode())

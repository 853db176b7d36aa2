"""The token contract of a Hugging Face folder, as its own files say it.

tokenizer.json is the codec. What names special tokens (tokenizer_config.json,
special_tokens_map.json), ends answers (generation_config.json) and writes chats
(chat_template.jinja, else tokenizer_config.json) become rules of the contract.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whorl.codecs.contract import TokenRules, Tokens
from whorl.codecs.tokenizer import FILE, TextCodec
from whorl.core.errors import RecordError

__all__ = ["read_hf_tokens"]

CHAT_TEMPLATE = "chat_template.jinja"
CONFIGS = ("special_tokens_map.json", "tokenizer_config.json", "generation_config.json")


def read_hf_tokens(folder: Path) -> Tokens:
    """Raises RecordError naming the file that is missing, no JSON, or does not fit the others."""
    try:
        codec = TextCodec((folder / FILE).read_bytes())
    except OSError as error:
        raise RecordError(
            f"{folder} has no {FILE}",
            found=error.strerror,
            do="write one with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        ) from error
    try:
        return _tokens(folder, codec)
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # another shape of JSON
        raise RecordError(
            f"the files beside {folder / FILE} are not a tokenizer's", found=repr(error)
        ) from error


def _tokens(folder: Path, codec: TextCodec) -> Tokens:
    special_map, config, generation = (_read(folder / name) for name in CONFIGS)
    names = {
        key: text
        for key, value in {**special_map, **config}.items()
        if key.endswith("_token") and (text := _content(value)) is not None
    }
    special = {**codec.special}
    for name, text in names.items():
        number = codec.id_of(text)
        if number is None:
            raise RecordError(f"{folder / FILE} lacks the {name}", expected=text)
        special[text] = number
    if special != codec.special:
        codec = _with_special(codec, special)
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        if codec.id_of(token["content"]) != int(number):
            raise RecordError(f"{folder / FILE} lacks {token['content']}", expected=f"id {number}")
    start_ids, end_ids = codec.added_ids()
    eos_id = special.get(names.get("eos_token", ""))
    stops = generation.get("eos_token_id")
    stop_ids = stops if isinstance(stops, list) else [] if stops is None else [stops]
    texts = generation.get("stop_strings") or ()
    pad_id = special.get(names.get("pad_token", ""), eos_id)
    ends = () if eos_id is None else (eos_id,)
    rules = TokenRules(
        special=special,
        names=names,
        start_ids=tuple(start_ids),
        end_ids=tuple(end_ids) or ends,
        pad_id=min(special.values(), default=0) if pad_id is None else pad_id,
        stop_ids=tuple(dict.fromkeys([*stop_ids, *ends])),
        stop_strings=(texts,) if isinstance(texts, str) else tuple(texts),
        chat_template=_template(folder, config),
    )
    num_ids = codec.first_id + codec.num_ids
    shape = _read(folder / "config.json")
    return Tokens.build({codec.name: codec}, max(num_ids, shape.get("vocab_size") or 0), rules)


def _with_special(codec: TextCodec, special: Mapping[str, int]) -> TextCodec:
    """The codec with these tokens marked as special in its file, as transformers has them."""
    value = json.loads(codec.files()[FILE])
    added = {token["content"]: token for token in value["added_tokens"]}
    for text, number in special.items():
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        token = added.setdefault(text, {"id": number, "content": text, **plain})
        token["special"] = True
    value["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])
    return TextCodec(json.dumps(value, ensure_ascii=False).encode(), codec.name)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} if there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read", found=error) from error
    if not isinstance(value, dict):
        raise RecordError(f"{path} is no JSON object", found=type(value).__name__)
    return value


def _content(value: Any) -> str | None:
    """A special token is a text, or an object with one."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    try:
        return (folder / CHAT_TEMPLATE).read_text("utf-8")
    except FileNotFoundError:
        found = config.get("chat_template")
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder / CHAT_TEMPLATE} cannot be read", found=error) from error
    if isinstance(found, list):  # several, by name
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found if isinstance(found, str) else None

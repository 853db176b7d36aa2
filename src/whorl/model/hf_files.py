"""The small files of a Hugging Face model folder: config.json, tokenizer, generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whorl.arch.shape import ModelShape
from whorl.codecs.contract import TokenContract, Tokens
from whorl.core.digests import canonical_json, write_bytes
from whorl.model.families import family_of
from whorl.model.folder import TOKENS

__all__ = ["CONFIG", "hf_config", "write_servable_files"]

CONFIG = "config.json"
TOKENIZER, TEXT = "tokenizer.json", "text"


def write_servable_files(
    path: Path, shape: ModelShape, tokens: Tokens, dtype: str = "float32"
) -> None:
    """Everything of a servable folder but the weights and the card."""
    contract = tokens.contract
    values = {
        CONFIG: hf_config(shape, contract, dtype),
        "generation_config.json": {
            "bos_token_id": contract.id_of("bos_token"),
            "eos_token_id": list(contract.stop_ids),
            "pad_token_id": contract.pad_id,
            **({"stop_strings": list(contract.stop_strings)} if contract.stop_strings else {}),
            "do_sample": False,
        },
    }
    text_codec = tokens.codecs.get(TEXT)
    if text_codec is not None and TOKENIZER in (files := text_codec.files()):
        write_bytes(path / TOKENIZER, files[TOKENIZER])
        values["tokenizer_config.json"] = _tokenizer_config(shape, contract)
        if contract.chat_template is not None:
            write_bytes(path / "chat_template.jinja", contract.chat_template.encode())
    for name, value in values.items():
        write_bytes(path / name, canonical_json(value).encode())
    tokens.save(path / TOKENS)


def hf_config(shape: ModelShape, contract: TokenContract, dtype: str = "float32") -> dict[str, Any]:
    """config.json of a model, for transformers 4 and 5. Raises SpecError on an unknown family."""
    return family_of(shape).config(shape) | {
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": contract.id_of("bos_token"),
        "eos_token_id": contract.id_of("eos_token"),
        "pad_token_id": contract.pad_id,
    }


def _tokenizer_config(shape: ModelShape, contract: TokenContract) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **contract.names,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.max_seq_len,
    }

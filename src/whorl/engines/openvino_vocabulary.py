"""The vocabulary that OpenVINO GenAI's grammars need, made of the token contract.

GenAI reads the bytes of every id out of a detokenizer's graph. Ours is that graph and nothing
more: text is encoded and decoded by the contract alone, so that there is one tokenizer.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whorl.core.errors import EngineError
from whorl.engines.openvino_core import in_own_thread
from whorl.engines.quiet import load_genai, load_openvino

__all__ = ["open_vocabulary"]

FILE = "openvino_detokenizer.xml"
NODE = "VocabDecoder"  # GenAI finds it by this name


@in_own_thread
def open_vocabulary(vocabulary: Sequence[bytes], stop_id: int) -> Any:
    """An openvino_genai.Tokenizer with exactly these bytes, b"" of ids that no grammar lets come.

    Raises EngineError if what GenAI reads from it is anything else.
    """
    openvino, genai = load_openvino(), load_genai()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        openvino.save_model(_detokenizer(vocabulary), folder / FILE, compress_to_fp16=False)
        (folder / "config.json").write_text(json.dumps({"eos_token_id": stop_id}))
        tokenizer = genai.Tokenizer(str(folder))
    found: dict[bytes, int] = tokenizer.get_vocab()  # one id of each text
    if found.keys() != set(vocabulary) or any(vocabulary[i] != text for text, i in found.items()):
        raise EngineError(
            "OpenVINO GenAI reads another vocabulary than the token contract's",
            found=f"{len(found)} texts",
            expected=f"{len(set(vocabulary))}",
        )
    return tokenizer


def _detokenizer(vocabulary: Sequence[bytes]) -> Any:
    openvino, ops = load_openvino(), importlib.import_module("openvino.opset15")
    library = importlib.import_module("openvino_tokenizers")
    utils = importlib.import_module("openvino_tokenizers.utils")

    def numbers(*values: int) -> Any:
        return ops.constant(np.array(values, np.int32))

    create = library._get_factory().create
    ids = ops.parameter([-1, -1], openvino.Type.i64, name="ids")
    skipped = ops.slice(numbers(0), numbers(0), numbers(0), numbers(1))  # none
    texts = utils.create_string_constant_node(list(vocabulary))
    decoder = create(NODE, [ops.convert(ids, "i32").output(0), *texts, skipped.output(0)])
    decoder.set_friendly_name(NODE)
    outputs = decoder.outputs()
    joined = create("FuzeRagged", outputs[:4]).outputs()
    packed = create("StringTensorPack", [*joined, outputs[4]])
    model = openvino.Model([ops.result(packed.output(0))], [ids], "detokenizer")
    model.set_rt_info(library.__version__, "openvino_tokenizers_version")
    return model

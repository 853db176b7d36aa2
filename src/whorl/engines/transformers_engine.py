"""transformers as an engine: what other runtimes are compared with. Never run for users.

Axes: B rows, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.engines.sampling import Drawing, Matcher
from whorl.engines.serial import SerialStepper

__all__ = ["TransformersStepper", "load_transformers"]

GGUF_READER = "transformers.modeling_gguf_pytorch_utils"


def load_transformers(source: Path) -> Any:
    """A model of transformers in float32, from a folder or a GGUF file; its code, none beside it.

    Raises EngineError in transformers' words if it cannot load it.
    """
    transformers = importlib.import_module("transformers")
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    folder = source
    if source.is_file():
        config = transformers.GgufConfig(dequantize=True)
        options |= {"gguf_file": source.name, "quantization_config": config}
        folder = source.parent
    else:
        options["use_safetensors"] = True
    load = transformers.AutoModelForCausalLM.from_pretrained
    try:
        with _quiet(transformers.utils.logging):
            return load(folder, trust_remote_code=False, **options).eval()
    except Exception as error:  # whatever its many parts raise
        raise EngineError(f"transformers cannot load {source}", found=error) from error


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without its progress bars and reports."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    reader = importlib.import_module(GGUF_READER)  # draws its bar by tqdm itself
    bar = reader.tqdm
    vars(reader)["tqdm"] = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        vars(reader)["tqdm"] = bar
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


@dataclass
class _Running(Drawing):
    past: Any = None  # keys and values, as transformers keeps them


class TransformersStepper(SerialStepper[_Running]):
    """loop.Stepper over a model of transformers: one request at a time within a step."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def _begin(self, request: GenerateRequest, matcher: Matcher | None) -> _Running:
        return _Running(request, matcher)

    def _advance(self, running: _Running) -> TokenEvent:
        with torch.inference_mode():
            out = self._model(
                input_ids=torch.tensor([list(running.unread)]),
                past_key_values=running.past,
                use_cache=True,
            )
        running.past = out.past_key_values
        return running.draw(np.asarray(out.logits[0, -1].numpy(), np.float32))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """[T, V] of one sequence."""
        with torch.inference_mode():
            logits_BTV = self._model(input_ids=torch.tensor([list(ids)])).logits
        return np.asarray(logits_BTV[0].numpy(), np.float32)

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        raise EngineError("transformers is compared with, not asked for scores")

"""llama.cpp as an engine, through llama-cpp-python: what GGUF files are checked in. Never run for
users: its own server does that.

Axes: T tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.engines.sampling import Drawing, Matcher
from whorl.engines.serial import SerialStepper

__all__ = ["LlamaCppStepper", "load_llama_cpp"]


def load_llama_cpp(file: Path, max_tokens: int) -> Any:
    """A model of llama.cpp on the CPU that keeps the logits of every token.

    Raises EngineError in its words if it cannot load it.
    """
    library = importlib.import_module("llama_cpp")
    try:
        return library.Llama(
            str(file),
            n_ctx=max_tokens,
            logits_all=True,
            n_gpu_layers=0,
            type_k=library.GGML_TYPE_F32,  # its own choice is f16
            type_v=library.GGML_TYPE_F32,
            verbose=False,
        )
    except Exception as error:  # whatever it raises: ValueError, AssertionError …
        raise EngineError(f"llama.cpp cannot load {file.name}", found=error) from error


class LlamaCppStepper(SerialStepper[Drawing]):
    """loop.Stepper over one context, which holds one sequence: others are read again."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        self._held: list[int] = []  # ids in the context

    def _begin(self, request: GenerateRequest, matcher: Matcher | None) -> Drawing:
        return Drawing(request, matcher)

    def _advance(self, running: Drawing) -> TokenEvent:
        ids = [*running.request.prompt_ids, *running.answer]
        return running.draw(self._read(ids)[-1])

    def _read(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits [T, V] of what was not in the context yet, at least of the last id."""
        if not self._held or ids[: len(self._held)] != self._held or len(ids) == len(self._held):
            self._model.reset()
            self._held = []
        begin = len(self._held)
        self._model.eval(ids[begin:])
        self._held = ids
        return np.array(self._model.scores[begin : len(ids)], np.float32)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """[T, V] of one sequence."""
        self._held = []
        return self._read(list(ids))

    def encode(self, text: str) -> list[int]:
        """A prompt's ids, with what its file says comes first."""
        return [int(i) for i in self._model.tokenize(text.encode(), add_bos=True, special=False)]

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        raise EngineError("llama.cpp is compared with, not asked for scores")

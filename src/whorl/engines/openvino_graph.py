"""An exported graph run directly, with its logits: what GenAI's pipeline does not give.

GenAI (2026.4) has no mask of allowed ids, its structured output needs a tokenizer's vocabulary, and
prompts scored with its prefix cache come back wrong or cut short. The weights are held once more
while this is open; it is the same file with the same precisions.

Axes: B rows, Q questions, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.engines.openvino_core import openvino_core
from whorl.engines.quiet import load_openvino

__all__ = ["MODEL", "GraphSequence", "OpenvinoBranches", "OpenvinoGraph"]

MODEL = "openvino_model.xml"
PIECE_TOKENS = 256  # of a prompt: logits of every token come out, and only the last are kept


class OpenvinoGraph:
    """A compiled graph; sequences over it share its weights."""

    def __init__(self, folder: Path, properties: Mapping[str, Any]) -> None:
        self._tensor = load_openvino().Tensor
        self._compiled = openvino_core().compile_model(folder / MODEL, "CPU", dict(properties))

    def start(self) -> GraphSequence:
        return GraphSequence(self._compiled.create_infer_request(), self._tensor)


class GraphSequence:
    """Keys and values of rows that grow together, kept inside an inference request."""

    def __init__(self, request: Any, tensor: Any) -> None:
        self._request, self._tensor = request, tensor
        self.num_tokens, self._rows = 0, 1

    def read(
        self, ids_BT: NDArray[np.int64], after_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Append ids: logits [B, T, V] of what follows each.

        after_B: the row so far that each goes on from; None: its own, or the last there is.
        """
        rows, new = ids_BT.shape
        end = self.num_tokens + new
        beams = np.arange(rows) if after_B is None else after_B
        if self.num_tokens:  # else there is nothing yet that a row could go on from
            beams = np.minimum(beams, self._rows - 1)
        inputs = {
            "input_ids": ids_BT,
            "attention_mask": np.ones((rows, end), np.int64),
            "position_ids": np.tile(np.arange(self.num_tokens, end), (rows, 1)),
            "beam_idx": beams.astype(np.int32),
        }
        logits_BTV: NDArray[np.float32] = self._request.infer(inputs)["logits"].copy()
        self.num_tokens, self._rows = end, rows
        return logits_BTV

    def read_prompt(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append one row in pieces: logits [V] of what follows its last id."""
        last_V: NDArray[np.float32] = self.read_prompts(np.asarray([ids], np.int64))[0]
        return last_V

    def read_prompts(self, ids_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append rows in pieces: logits [B, V] of what follows their last ids."""
        for start in range(0, ids_BT.shape[1], PIECE_TOKENS):
            logits_BTV = self.read(ids_BT[:, start : start + PIECE_TOKENS])
        return logits_BTV[:, -1]

    def state(self) -> dict[str, Any]:
        """A copy of all keys and values, for `restore`."""
        return {
            state.name: self._tensor(np.array(state.state.data))
            for state in self._request.query_state()
        }

    def restore(self, state: Mapping[str, Any], num_tokens: int, rows: int = 1) -> None:
        """Go back to rows of so many tokens."""
        for variable in self._request.query_state():
            variable.state = state[variable.name]
        self.num_tokens, self._rows = num_tokens, rows


class OpenvinoBranches:
    """branches.Branches over an exported graph."""

    def __init__(self, graph: OpenvinoGraph) -> None:
        self._graph = graph

    def begin(self, ids_QT: NDArray[np.int64]) -> NDArray[np.float32]:
        self._sequence = self._graph.start()
        last_QV = self._sequence.read_prompts(ids_QT)
        self._state, self._shape = self._sequence.state(), ids_QT.shape
        return last_QV

    def follow(self, after_B: NDArray[np.int64], ids_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        rows, num_tokens = self._shape
        self._sequence.restore(self._state, num_tokens, rows)
        return self._sequence.read(ids_BT, after_B)

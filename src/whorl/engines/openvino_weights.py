"""Smaller weights in an exported graph, by NNCF, and whether a CPU computes what they say.

A compressed graph holds integers, scales and zero points; its simulation holds the numbers that
they stand for, in float32. Both must give the same logits: a processor on which the kernels for
integers are wrong is noticed here, not by users.

Axes: B rows, T tokens of a row.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.arch.shape import ModelShape
from whorl.core.errors import DataError, EngineError, MissingExtra, PlanError
from whorl.core.processor import ONEDNN_LIMITS
from whorl.core.rounding import Rounding, Texts
from whorl.engines.openvino_graph import OpenvinoGraph

__all__ = ["check_simulation", "compress_graph", "input_widths", "simulate"]

MAX_TEXT_TOKENS = 512  # of one text that calibrates
CHECK_TOKENS = 48
MAX_DIFFERENCE = 1e-3  # of logits with float32 inputs, of the largest
WHOLE = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}


def compress_graph(graph: Any, how: Rounding, shape: ModelShape, texts: Texts = ()) -> Any:
    """The graph with smaller weights; embedding and head are int8 always.

    Raises PlanError if the model's sizes are not whole groups, DataError without the texts that
    the method reads, MissingExtra without nncf.
    """
    try:
        import nncf
    except ImportError as error:
        raise MissingExtra.of("nncf", "openvino", f"{how.weights} weights") from error
    nncf.set_log_level("ERROR")
    modes = nncf.CompressWeightsMode
    options: dict[str, Any] = {"mode": modes.INT8_SYM if how.is_symmetric else modes.INT8_ASYM}
    if how.weights == "int4":
        _check_groups(shape, how.group_size)
        options = {
            "mode": modes.INT4_SYM if how.is_symmetric else modes.INT4_ASYM,
            "group_size": how.group_size or -1,
            "ratio": how.int4_share,
        }
    if how.needs_text:
        rows = [_inputs(ids[:MAX_TEXT_TOKENS]) for ids in texts if len(ids) > 1]
        if not rows:
            raise DataError(f"{how} reads training text", found="no text of two ids or more")
        options |= {"dataset": nncf.Dataset(rows), "subset_size": len(rows)}
        known = {"awq": "awq", "scales": "scale_estimation", "gptq": "gptq"}
        options |= {known[method]: True for method in how.methods}
    if how.int4_share < 1.0:
        options["sensitivity_metric"] = nncf.SensitivityMetric.MAX_ACTIVATION_VARIANCE
    with contextlib.redirect_stdout(io.StringIO()):  # it draws a progress bar of its own
        return nncf.compress_weights(graph, **options)


def input_widths(shape: ModelShape) -> tuple[int, ...]:
    """How many weights the rows of the matrices in a layer have."""
    attention = shape.attention
    return shape.width, shape.ffn_width, attention.heads * attention.head_dim


def _check_groups(shape: ModelShape, group_size: int | None) -> None:
    widths = input_widths(shape)
    if group_size is not None and any(width % group_size for width in widths):
        raise PlanError(
            f"int4 weights need widths divisible by {group_size}",
            found=widths,
            do="drop int4 from compress.formats or choose other widths",
        )


def _inputs(ids: Any) -> dict[str, NDArray[Any]]:
    """What the graph is given for one text."""
    ids_BT = np.asarray([ids], np.int64)
    return {
        "input_ids": ids_BT,
        "attention_mask": np.ones_like(ids_BT),
        "position_ids": np.arange(ids_BT.shape[1], dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }


# ------------------------------------------------------------------ what they say


def simulate(openvino: Any, graph: Any) -> Any:
    """The graph with float32 numbers in place of integers, scales and zero points."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(graph)
    return graph


def check_simulation(folder: Path, simulated: Path, vocab_size: int) -> float:
    """The largest difference of logits between a folder's graph and its simulation.

    simulated: where the simulation is saved. Raises EngineError if they differ by more than
    rounding, or if this CPU cannot run the compressed graph.
    """
    ids_BT = np.random.default_rng(0).integers(0, vocab_size, (1, CHECK_TOKENS))
    expected = _read(simulated, ids_BT)
    with telling_limits(folder):
        found = _read(folder, ids_BT)
    difference, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    if not difference <= MAX_DIFFERENCE * max(1.0, largest):
        raise EngineError(
            "this CPU does not compute what the compressed weights say",
            found=f"logits differ by {difference:.2g}",
            expected=f"at most {MAX_DIFFERENCE:.0e} of the largest, {largest:.2g}",
            do=_advice(os.environ),
        )
    return difference


def _read(folder: Path, ids_BT: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits, the last ones of one token alone: other kernels compute it than a prompt."""
    sequence = OpenvinoGraph(folder, WHOLE).start()
    return np.concatenate([sequence.read(ids_BT[:, :-1]), sequence.read(ids_BT[:, -1:])], axis=1)


@contextlib.contextmanager
def telling_limits(folder: Path) -> Iterator[None]:
    """Raises EngineError where OpenVINO cannot run a graph on this CPU, with what limits it."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot run {folder.name} on this CPU", found=error, do=_advice(os.environ)
        ) from error


def _advice(environment: Mapping[str, str]) -> str:
    hidden = [f"{name}={environment[name]}" for name in ONEDNN_LIMITS if environment.get(name)]
    if hidden:
        return f"unset {', '.join(hidden)}: it hides instructions that the CPU has"
    return "serve the f32 variant (compress.formats=[]), and report this with the CPU's name"

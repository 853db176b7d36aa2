"""A model folder as OpenVINO IR, ready for paged attention, with f32, int8 or int4 weights.

The decoder is traced by `openvino.convert_model`; its past keys and values become state inside
the graph, which is the form OpenVINO GenAI's continuous batching turns into paged attention.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whorl.arch.computable import check_computable
from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.core.disk import fsync_folder
from whorl.core.errors import EngineError, MissingExtra, PlanError, RecordError, SpecError
from whorl.core.variants import Variant
from whorl.engines.openvino_graph import MODEL, OpenvinoGraph
from whorl.engines.quiet import silence_telemetry
from whorl.model.folder import TOKENS, FolderCard, prepare_folder, read_card, seal_folder
from whorl.model.hf_files import write_servable_files

__all__ = ["EXPORTER", "FORMAT", "compress_folder", "export_openvino"]

FORMAT = "openvino"
COMPRESSED = ("int8", "int4")
EXPORT_VERSION = 2  # raised when the same model is exported to other bytes
CHECK_TOKENS, MAX_LOGIT_DIFFERENCE = 48, 1e-3
INT4_GROUP = 64  # weights that share a scale


def export_openvino(
    model_folder: Path, out_folder: Path, lineage: Mapping[str, Any] | None = None
) -> FolderCard:
    """Write a servable f32 folder from an HF model folder; the same input gives the same bytes.

    The exported graph's logits are compared with torch's before the folder is sealed.
    Raises RecordError if model_folder is damaged or out_folder not empty, EngineError if the
    logits differ, MissingExtra without torch or openvino.
    """
    openvino = _openvino()
    try:
        from whorl.model.hf import load_model_folder
    except ImportError as error:
        raise MissingExtra.of(error.name or "torch", "train", "exporting a model") from error
    model, shape, tokens, card = load_model_folder(model_folder)
    check_computable(shape, "export")
    prepare_folder(out_folder)
    model = model.float()  # saved in bf16 or fp16 too; the past of the trace is float32
    graph = _traced(openvino, model)
    _name_axes(openvino, graph, shape)
    _make_stateful(openvino, graph, shape)
    _save(openvino, graph, out_folder)
    _check_logits(out_folder, model)
    write_servable_files(out_folder, shape, tokens)
    made_from = {"model": card.digest[:32]} | dict(lineage or card.lineage)
    return seal_folder(
        out_folder,
        FolderCard(Variant(FORMAT, "f32"), card.contract_digest, shape, made_from, card.quality),
    )


def compress_folder(f32_folder: Path, out_folder: Path, weights: str) -> FolderCard:
    """Write a folder with int8 or int4 weights from an exported f32 one.

    int8: per output channel, every matrix with the embedding and the head. int4: groups of 64
    along the input, the embedding and the head in int8. Activations stay f32.
    Raises RecordError if f32_folder is damaged or not f32, MissingExtra without nncf.
    """
    openvino = _openvino()
    card = read_card(f32_folder)
    if card.variant != (parent := Variant(FORMAT, "f32")):
        raise RecordError(f"{f32_folder} cannot be compressed", found=card.variant, expected=parent)
    if weights not in COMPRESSED:
        raise SpecError(f"OpenVINO has no weights {weights}", expected=", ".join(COMPRESSED))
    prepare_folder(out_folder)
    graph = openvino.Core().read_model(f32_folder / MODEL)
    _save(openvino, _compressed(graph, weights, card.shape), out_folder)
    write_servable_files(out_folder, card.shape, Tokens.load(f32_folder / TOKENS))
    return seal_folder(
        out_folder,
        FolderCard(Variant(FORMAT, weights), card.contract_digest, card.shape, card.lineage),
    )


class _Exporter:
    """core.ports.Exporter of this file."""

    format, version = FORMAT, EXPORT_VERSION

    def export(self, model: Path, folder: Path, lineage: Mapping[str, Any]) -> None:
        export_openvino(model, folder, lineage)

    def compress(self, exported: Path, folder: Path, weights: str) -> None:
        compress_folder(exported, folder, weights)


EXPORTER = _Exporter()


# ------------------------------------------------------------------ the graph


def _openvino() -> Any:
    silence_telemetry()
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra.of("openvino", "openvino", "exporting a model") from error
    return openvino


def _traced(openvino: Any, model: Any) -> Any:
    import torch
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from whorl.model.cached import ExportedDecoder

    decoder = ExportedDecoder(model).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer: it warns of every size it reads
        traced = TorchScriptPythonDecoder(
            decoder, example_input=decoder.example(), trace_kwargs={"check_trace": False}
        )
        return openvino.convert_model(traced)


def _key_values(shape: ModelShape) -> list[str]:
    return [f"{layer}.{kind}" for layer in range(shape.layers) for kind in ("key", "value")]


def _name_axes(openvino: Any, graph: Any, shape: ModelShape) -> None:
    """Names by which the runtime knows inputs and outputs; batch, past and tokens dynamic."""
    kinds = _key_values(shape)
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past.{kind}" for kind in kinds)]
    outputs = ["logits", *(f"present.{kind}" for kind in kinds)]
    for port, name in [*zip(graph.inputs, inputs, strict=True)]:
        port.get_tensor().set_names({name})
        past_sizes = [-1, shape.attention.kv_heads, -1, shape.attention.head_dim]
        sizes = past_sizes if name.startswith("past.") else [-1, -1]
        port.get_node().set_partial_shape(openvino.PartialShape(sizes))
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()


def _make_stateful(openvino: Any, graph: Any, shape: ModelShape) -> None:
    """Past keys and values become state of length 0 at first, reordered by `beam_idx`."""
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    beams = ops.parameter([-1], openvino.Type.i32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([beams])
    for port in graph.inputs:
        if port.any_name.startswith("past."):
            consumers = port.get_target_inputs()
            chosen = ops.gather(port.get_node().output(0), beams, ops.constant(0))
            for consumer in consumers:
                consumer.replace_source_output(chosen.output(0))
    graph.validate_nodes_and_infer_types()
    kinds = _key_values(shape)
    apply_make_stateful_transformation(graph, {f"past.{kind}": f"present.{kind}" for kind in kinds})
    ids = next(port for port in graph.inputs if port.any_name == "input_ids")
    sizes = ops.shape_of(ids.get_node(), output_type="i64")
    num_rows = ops.gather(sizes, ops.constant([0]), ops.constant(0))
    rest = ops.constant([shape.attention.kv_heads, 0, shape.attention.head_dim], dtype="int64")
    empty = ops.broadcast(ops.constant(0.0, dtype="float32"), ops.concat([num_rows, rest], 0))
    for operation in graph.get_ops():
        if operation.get_type_name() == "ReadValue":
            operation.set_arguments([empty])
    graph.validate_nodes_and_infer_types()


def _compressed(graph: Any, weights: str, shape: ModelShape) -> Any:
    try:
        import nncf
    except ImportError as error:
        raise MissingExtra.of("nncf", "openvino", f"{weights} weights") from error
    nncf.set_log_level("ERROR")
    modes = nncf.CompressWeightsMode
    options: dict[str, Any] = {"mode": modes.INT8_SYM}
    if weights == "int4":
        _check_int4(shape)
        options = {"mode": modes.INT4_SYM, "group_size": INT4_GROUP, "ratio": 1.0}
    with contextlib.redirect_stdout(io.StringIO()):  # it draws a progress bar of its own
        return nncf.compress_weights(graph, **options)


def _check_int4(shape: ModelShape) -> None:
    attention = shape.attention
    inputs = shape.width, shape.ffn_width, attention.heads * attention.head_dim
    if any(width % INT4_GROUP for width in inputs):
        raise PlanError(
            f"int4 weights need widths divisible by {INT4_GROUP}",
            found=inputs,
            do="drop int4 from compress.formats or choose other widths",
        )


def _save(openvino: Any, graph: Any, folder: Path) -> None:
    """Write the graph. Operations are named by their place: names given by counters would make
    equal graphs differ in their bytes."""
    graph.set_friendly_name("whorl")
    for number, operation in enumerate(graph.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    for port in graph.inputs:
        port.get_node().set_friendly_name(port.any_name)
    openvino.save_model(graph, folder / MODEL, compress_to_fp16=False)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_folder(folder)


def _check_logits(folder: Path, model: Any) -> None:
    """Run the saved graph and torch on the same ids. Raises EngineError if they differ."""
    import torch

    vocab_size = model.shape.vocab_size
    generator = np.random.default_rng(0)
    ids = generator.integers(0, vocab_size, (2, min(CHECK_TOKENS, model.shape.max_seq_len)))
    options = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    sequence, half = OpenvinoGraph(folder, options).start(), ids.shape[1] // 2
    pieces = [sequence.read(ids[:, :half]), sequence.read(ids[:, half:])]  # through the cache
    with torch.no_grad():
        expected = model.logits(model(torch.tensor(ids))).numpy()
    difference = float(np.abs(np.concatenate(pieces, axis=1) - expected).max())
    if not difference <= MAX_LOGIT_DIFFERENCE * max(1.0, float(np.abs(expected).max())):
        raise EngineError(
            "the exported graph does not compute what the model computes",
            found=f"logits differ by {difference:.2g}",
            expected=f"at most {MAX_LOGIT_DIFFERENCE:.0e} of the largest",
            do="report this with the model's config.json",
        )

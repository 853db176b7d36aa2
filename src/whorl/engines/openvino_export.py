"""A model folder as OpenVINO IR, ready for paged attention, with f32, int8 or int4 weights.

The decoder is traced by `openvino.convert_model`; its past keys and values become state inside
the graph, which is the form OpenVINO GenAI's continuous batching turns into paged attention.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whorl.arch.computable import check_computable
from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.core.disk import fsync_folder
from whorl.core.errors import EngineError, MissingExtra, RecordError
from whorl.core.rounding import WEIGHTS, Rounding, Texts
from whorl.core.variants import Variant
from whorl.engines.openvino_core import in_own_thread, openvino_core
from whorl.engines.openvino_graph import MODEL, OpenvinoGraph
from whorl.engines.openvino_weights import check_simulation, compress_graph, simulate
from whorl.engines.quiet import load_openvino, logging_as_it_was, silence_telemetry
from whorl.model.folder import TOKENS, FolderCard, prepare_folder, read_card, seal_folder
from whorl.model.hf_files import write_servable_files

__all__ = ["EXPORTER", "FORMAT", "compress_folder", "export_openvino"]

FORMAT = "openvino"
COMPRESSED = WEIGHTS
EXPORT_VERSION = 2  # raised when the same model is exported to other bytes
CHECK_TOKENS, MAX_LOGIT_DIFFERENCE = 48, 1e-3


@in_own_thread
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


@in_own_thread
def compress_folder(
    f32_folder: Path, out_folder: Path, how: str | Rounding, texts: Texts = ()
) -> FolderCard:
    """Write a folder with int8 or int4 weights from an exported f32 one.

    how: "int8" is a scale per output channel of every matrix, embedding and head too; "int4" one
    per 64 weights along the input, embedding and head in int8. Activations stay f32. The folder's
    logits are compared with those of the numbers that its weights stand for.
    Raises RecordError if f32_folder is damaged or not f32, SpecError on other weights, PlanError if
    the sizes do not allow them, EngineError if the logits differ, MissingExtra without nncf.
    """
    openvino = _openvino()
    card = read_card(f32_folder)
    if card.variant != (parent := Variant(FORMAT, "f32")):
        raise RecordError(f"{f32_folder} cannot be compressed", found=card.variant, expected=parent)
    chosen = Rounding.plain(how) if isinstance(how, str) else how
    prepare_folder(out_folder)
    graph = openvino_core().read_model(f32_folder / MODEL)
    graph = compress_graph(graph, chosen, card.shape, texts)
    _save(openvino, graph, out_folder)
    with tempfile.TemporaryDirectory(dir=out_folder.parent, prefix=".simulated-") as simulated:
        _save(openvino, simulate(openvino, graph), Path(simulated))
        check_simulation(out_folder, Path(simulated), card.shape.vocab_size)
    write_servable_files(out_folder, card.shape, Tokens.load(f32_folder / TOKENS))
    variant = Variant(FORMAT, chosen.weights)
    return seal_folder(
        out_folder, FolderCard(variant, card.contract_digest, card.shape, card.lineage)
    )


class _Exporter:
    """core.ports.Exporter of this file."""

    format, version = FORMAT, EXPORT_VERSION

    def export(self, model: Path, folder: Path, lineage: Mapping[str, Any]) -> None:
        export_openvino(model, folder, lineage)

    def compress(self, exported: Path, folder: Path, how: Rounding, texts: Texts = ()) -> None:
        compress_folder(exported, folder, how, texts)


EXPORTER = _Exporter()


# ------------------------------------------------------------------ the graph


def _openvino() -> Any:
    silence_telemetry()
    try:
        return load_openvino()
    except ImportError as error:
        raise MissingExtra.of("openvino", "openvino", "exporting a model") from error


def _traced(openvino: Any, model: Any) -> Any:
    import torch
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from whorl.model.cached import ExportedDecoder

    decoder = ExportedDecoder(model).eval()
    with torch.no_grad(), warnings.catch_warnings(), logging_as_it_was():
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
    import openvino.opset13 as ops
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

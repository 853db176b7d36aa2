"""OpenVINO GenAI's continuous batching behind the port: ids in, ids out, no second tokenizer.

Inference and the cache of keys and values are float32. Where weights are int8 or int4 the inputs of
matrix products are rounded to int8 too, a scale per 32 values of a token: measured on models of 3
and 37 million parameters this made batches 1.5 to 2 times faster and changed the loss by less than
the weights did (0.016% with float32 inputs, 0.012% with int8). What compress measures and
serve serves are the same.

Axes: V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.arch.shape import ModelShape
from whorl.core.errors import EngineError, MissingExtra
from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.engines.branches import CandidateScorer
from whorl.engines.loop import EngineLoop, Limits
from whorl.engines.openvino_graph import GraphSequence, OpenvinoBranches, OpenvinoGraph
from whorl.engines.sampling import Drawing, is_greedy
from whorl.model.folder import FolderCard

__all__ = ["OpenvinoStepper", "open_openvino"]

UNABLE = frozenset(
    {
        *("top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("logit_bias", "logprobs", "grammar", "cache_key"),
    }
)
BLOCK_TOKENS = 32  # tokens of one block of GenAI's cache on a CPU
MAX_CACHE_BYTES = 2 * 2**30
BATCHED_TOKENS = 512  # of one step: long prompts are read in pieces, so that others go on
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
INPUT_GROUP = 32  # values that share a scale where inputs are int8


def open_openvino(folder: Path, card: FolderCard, max_running: int) -> EngineLoop:
    """An engine over an exported folder (its files verified by the caller).

    Raises MissingExtra without openvino_genai, EngineError if the graph cannot be loaded.
    """
    stepper = OpenvinoStepper(folder, card, max_running)
    a = card.shape
    limits = Limits(max_running, a.max_seq_len, a.vocab_size)
    return EngineLoop("openvino", card.contract_digest, stepper, limits, UNABLE)


def num_cache_blocks(shape: ModelShape, max_running: int) -> int:
    """Blocks for every running request's whole context, within MAX_CACHE_BYTES."""
    a = shape.attention
    block_bytes = 2 * shape.layers * a.kv_heads * a.head_dim * 4 * BLOCK_TOKENS
    one_request = blocks_of(shape.max_seq_len)
    return max(one_request, min(max_running * one_request, MAX_CACHE_BYTES // block_bytes))


def blocks_of(num_tokens: int) -> int:
    """Blocks that a request of this length can come to hold, and one to spare."""
    return -(-num_tokens // BLOCK_TOKENS) + 1


class OpenvinoStepper:
    """loop.Stepper over a ContinuousBatchingPipeline.

    Every request reserves the blocks of its whole length before it joins: when GenAI's cache runs
    full it evicts running requests, and its process has died of that (2026.4.1: 8 requests, 9
    blocks).
    """

    def __init__(self, folder: Path, card: FolderCard, max_running: int) -> None:
        try:
            import openvino
            import openvino_genai
        except ImportError as error:
            package = error.name or "openvino-genai"
            raise MissingExtra.of(package, "openvino", "the openvino engine") from error
        self._genai, self._tensor = openvino_genai, openvino.Tensor
        self._vocab_size = card.shape.vocab_size
        self._next_number = 0
        self._running: dict[str, Any] = {}  # request_id -> handle; a dropped handle cancels
        self._reserved: dict[str, int] = {}  # request_id -> blocks
        self._leaving_blocks = 0  # of cancelled requests, until the pipeline's next step
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = max_running
        scheduler.max_num_batched_tokens = BATCHED_TOKENS
        self._num_blocks = num_cache_blocks(card.shape, max_running)
        scheduler.num_kv_blocks = self._num_blocks
        scheduler.enable_prefix_caching = False  # timing would tell users of each other's prompts
        group = 0 if card.variant.bits == 32 else INPUT_GROUP
        properties = PROPERTIES | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group}
        self._folder, self._properties = folder, properties
        self._limited: dict[str, _Limited] = {}  # requests that allow some ids alone
        tokenizer = openvino_genai.Tokenizer(str(folder))  # an empty one: no tokenizer is there
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(folder), tokenizer, scheduler, "CPU", **properties
            )
        except RuntimeError as error:
            raise EngineError(f"{folder} cannot be opened by OpenVINO", found=error) from error

    # -------------------------------------------------------------- generation

    @functools.cached_property
    def _graph(self) -> OpenvinoGraph:
        return OpenvinoGraph(self._folder, self._properties)

    @functools.cached_property
    def _candidates(self) -> CandidateScorer:
        return CandidateScorer(OpenvinoBranches(self._graph))

    def add(self, request: GenerateRequest) -> bool:
        if not self._running:
            self._drain()
        blocks = blocks_of(len(request.prompt_ids) + request.max_tokens)
        if blocks + sum(self._reserved.values()) + self._leaving_blocks > self._num_blocks:
            return False
        if request.allowed_ids is not None:
            self._limited[request.request_id] = _Limited(request, self._graph.start())
            self._reserved[request.request_id] = blocks
            return True
        config = self._config(request.max_tokens)
        if request.stop_ids:
            config.stop_token_ids = set(request.stop_ids)
            config.set_eos_token_id(request.stop_ids[0])
            config.ignore_eos = False
        if not is_greedy(request.temperature):
            config.do_sample = True
            config.temperature = request.temperature
            config.top_p = min(1.0, max(1e-6, request.top_p))
            config.rng_seed = request.seed
        self._running[request.request_id] = self._submit(request.prompt_ids, config)
        self._reserved[request.request_id] = blocks
        return True

    def _config(self, max_tokens: int) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        config.set_eos_token_id(self._vocab_size)  # GenAI wants one; this id never comes
        return config

    def _submit(self, ids: Sequence[int], config: Any) -> Any:
        self._next_number += 1
        tensor = self._tensor(np.asarray([ids], dtype=np.int64))
        try:
            return self._pipeline.add_request(self._next_number, tensor, config)
        except RuntimeError as error:
            raise EngineError("OpenVINO refuses the request", found=error) from error

    def cancel(self, request_id: str) -> None:
        if self._limited.pop(request_id, None) is not None:
            del self._reserved[request_id]
        handle = self._running.pop(request_id, None)
        if handle is not None:
            handle.cancel()
            self._leaving_blocks += self._reserved.pop(request_id)

    def step(self) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        for request_id, limited in list(self._limited.items()):
            events.append(limited.advance())
            if events[-1].finish_reason is not None:
                del self._limited[request_id], self._reserved[request_id]
        if self._running or self._leaving_blocks:
            self._pipeline.step()
            self._leaving_blocks = 0
        for request_id, handle in list(self._running.items()):
            event = self._read(request_id, handle)
            if event is not None:
                events.append(event)
                if event.finish_reason is not None:
                    del self._running[request_id], self._reserved[request_id]
        return events

    def _read(self, request_id: str, handle: Any) -> TokenEvent | None:
        reasons, statuses = self._genai.GenerationFinishReason, self._genai.GenerationStatus
        tokens: list[int] = []
        finish = reasons.NONE
        while handle.can_read():
            for output in handle.read().values():
                tokens += output.generated_ids
                finish = output.finish_reason
        if finish == reasons.STOP:
            return TokenEvent(request_id, tuple(tokens), "stop")
        if finish == reasons.LENGTH:
            return TokenEvent(request_id, tuple(tokens), "length")
        if handle.get_status() == statuses.IGNORED:
            error = "the cache of keys and values is full; send fewer or shorter requests"
            return TokenEvent(request_id, tuple(tokens), "error", error)
        return TokenEvent(request_id, tuple(tokens)) if tokens else None

    # -------------------------------------------------------------- scoring

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        if prefix:
            return self._candidates.score(sequences, prefix)
        scores: list[NDArray[np.float64]] = []
        together: list[Sequence[int]] = []
        for ids in sequences:
            if sum(blocks_of(len(each)) for each in [*together, ids]) > self._num_blocks:
                scores += self._score_together(together)
                together = []
            together.append(ids)
        return scores + self._score_together(together)

    def _score_together(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        self._drain()  # the pipeline must be empty: see loop
        handles = [self._submit_score(ids) if len(ids) > 1 else None for ids in sequences]
        self._drain()
        return [
            self._read_score(ids, handle) if handle is not None else np.zeros(0)
            for ids, handle in zip(sequences, handles, strict=True)
        ]

    def _submit_score(self, ids: Sequence[int]) -> Any:
        config = self._config(max_tokens=0)
        config.echo, config.logprobs = True, 1
        return self._submit(ids, config)

    def _drain(self) -> None:
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        self._leaving_blocks = 0

    def _read_score(self, ids: Sequence[int], handle: Any) -> NDArray[np.float64]:
        outputs = handle.read_all()
        log_probs = outputs[0].generated_log_probs if outputs else []
        if len(log_probs) < len(ids):
            raise EngineError(
                "OpenVINO did not score a sequence",
                found=f"{len(log_probs)} log-probabilities",
                expected=f"{len(ids)}: the first one is a dummy",
            )
        return np.asarray(log_probs[1 : len(ids)], dtype=np.float64)

    def close(self) -> None:
        for request_id in [*self._running, *self._limited]:
            self.cancel(request_id)
        self._drain()


class _Limited:
    """A request that allows some ids alone: chosen from the graph's own logits."""

    def __init__(self, request: GenerateRequest, sequence: GraphSequence) -> None:
        self._drawing, self._sequence = Drawing(request), sequence

    def advance(self) -> TokenEvent:
        return self._drawing.draw(self._sequence.read_prompt(self._drawing.unread))

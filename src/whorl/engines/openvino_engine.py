"""OpenVINO GenAI's continuous batching behind the port: ids in, ids out, no second tokenizer.

Inference is in float32, and so is the cache of keys and values unless the folder's card says int8,
as compress has measured it then: bytes with a scale and a zero point. Where weights are int8 or
int4 the inputs of matrix products are rounded to int8 too, a scale per 32 values of a token:
measured on models of 3 and 37 million parameters this made batches 1.5 to 2 times faster and
changed the loss by less than the weights did (0.016% with float32 inputs, 0.012% with int8). What
compress measures and serve serves are the same.

Axes: V vocabulary.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError, MissingExtra
from whorl.core.ports import SERVERS_OWN, GenerateRequest, Grammar, TokenEvent, TokenLogprob
from whorl.engines.branches import CandidateScorer
from whorl.engines.grammar import UNABLE, Grammars, text_vocabulary
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop
from whorl.engines.openvino_blocks import blocks_of, num_cache_blocks
from whorl.engines.openvino_core import in_own_thread
from whorl.engines.openvino_graph import GraphSequence, OpenvinoBranches, OpenvinoGraph
from whorl.engines.openvino_vocabulary import open_vocabulary
from whorl.engines.sampling import Drawing, is_greedy
from whorl.engines.setup import EngineSetup
from whorl.engines.threads import engine_threads
from whorl.model.folder import TOKENS, FolderCard

__all__ = ["OpenvinoStepper", "open_openvino"]

LOG = logging.getLogger(__name__)

CACHES = {"f32": "f32", "int8": "u8"}  # of a model folder -> OpenVINO's names
GRAMMARS = {"json_schema": "json_schema", "regex": "regex", "ebnf": "grammar"}  # GenAI's names
MOST_COMPILE_S = 0.1  # of a grammar within a step, in which every answer waits for it
MOST_HELD_BYTES = 2**28  # of compiled grammars, which GenAI never gives back
INPUT_GROUP = 32  # values that share a scale where inputs are int8


def open_openvino(folder: Path, card: FolderCard, setup: EngineSetup) -> EngineLoop:
    """An engine over an exported folder (its files verified by the caller).

    Raises MissingExtra without openvino_genai, EngineError if the graph cannot be loaded.
    """
    stepper = OpenvinoStepper(folder, card, setup)
    a = card.shape
    limits = Limits(setup.max_running, a.max_seq_len, a.vocab_size, candidates_beside=True)
    return EngineLoop("openvino", card.contract_digest, stepper, limits, UNABLE, stepper.check)


class OpenvinoStepper:
    """loop.Stepper over a ContinuousBatchingPipeline.

    Every request reserves the blocks of its whole length before it joins: when GenAI's cache runs
    full it evicts running requests, and its process has died of that (2026.4.1: 8 requests, 9
    blocks).
    """

    def __init__(self, folder: Path, card: FolderCard, setup: EngineSetup) -> None:
        try:
            import openvino
            import openvino_genai
        except ImportError as error:
            package = error.name or "openvino-genai"
            raise MissingExtra.of(package, "openvino", "the openvino engine") from error
        self._genai, self._tensor = openvino_genai, openvino.Tensor
        self._vocab_size = card.shape.vocab_size
        self._next_number = 0
        self._running: dict[str, _Batched] = {}
        self._reserved: dict[str, int] = {}  # request_id -> blocks
        self._leaving_blocks = 0  # of cancelled requests, until the pipeline's next step
        self._num_blocks = num_cache_blocks(card, setup)
        group = 0 if card.variant.bits == 32 else INPUT_GROUP
        self._properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": CACHES[card.cache],
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": group,
            "INFERENCE_NUM_THREADS": setup.threads or engine_threads(),
        }
        self._folder, self._setup = folder, setup
        self._single: dict[str, _Single] = {}  # requests that the pipeline cannot answer
        tokens = Tokens.load(folder / TOKENS)
        self._grammars = Grammars(tokens)
        self._held: dict[Grammar, int] = {}  # bytes of those that the pipeline has compiled
        # no stop id: none that could come
        stop_id = next(iter(tokens.contract.stop_ids), self._vocab_size)
        self._vocabulary = text_vocabulary(tokens), stop_id
        self._tokenizer = open_vocabulary(*self._vocabulary)
        self._key: str | None = None  # whose prefixes the cache holds
        self._shares = setup.shares_prefixes
        self._pipeline = self._opened()

    @in_own_thread
    def _opened(self) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.max_num_seqs = self._setup.max_running
        scheduler.max_num_batched_tokens = self._setup.batched_tokens
        scheduler.num_kv_blocks = self._num_blocks
        scheduler.enable_prefix_caching = self._shares
        try:
            return self._genai.ContinuousBatchingPipeline(
                str(self._folder), self._tokenizer, scheduler, "CPU", **self._properties
            )
        except RuntimeError as error:
            raise EngineError(
                f"{self._folder} cannot be opened by OpenVINO", found=error
            ) from error

    def _may_join(self, cache_key: str) -> bool:
        """Whether a request of this key may use the cache of prefixes.

        It knows ids alone: a second key's answers would come sooner for what the first had asked.
        So when a second one comes it is emptied, by opening the pipeline again without such a
        cache; False: not before those that run have ended.
        """
        if not self._shares or cache_key in (self._key, SERVERS_OWN):
            return True
        if self._key is None:
            self._key = cache_key
            return True
        if self._running:
            return False
        LOG.info("requests of several keys come: prefixes are not shared any more")
        self._shares = False
        self._reopen()
        return True

    def _reopen(self) -> None:
        """Without what the one before has kept: prefixes, and grammars, which the tokenizer holds.

        Nothing runs in it.
        """
        self._leaving_blocks, self._pipeline = 0, None
        if self._held:
            self._held.clear()
            self._tokenizer = None
            self._tokenizer = open_vocabulary(*self._vocabulary)
        self._pipeline = self._opened()

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
        if _is_single(request) or not self._may_hold(request.grammar):
            drawing = Drawing(request, self._grammars.start(request))
            self._single[request.request_id] = _Single(drawing, self._graph.start())
            self._reserved[request.request_id] = blocks
            return True
        if not self._may_join(request.cache_key):
            return False
        if (grammar := request.grammar) is not None and grammar not in self._held:
            weight = self._grammars.weight(grammar)
            self._held[grammar] = 0 if weight is None else weight.num_bytes
        handle = self._submit(request.prompt_ids, self._asked(request))
        self._running[request.request_id] = _Batched(handle, request.logprobs is not None)
        self._reserved[request.request_id] = blocks
        return True

    def check(self, request: GenerateRequest) -> None:
        """Of a request's grammar, by the thread that submits it. Raises EngineError if it is none.

        One that GenAI would compile for long is answered from the graph's logits.
        """
        self._grammars.check(request)
        if request.grammar is not None and not _is_single(request):
            self._grammars.weigh(request.grammar, MOST_COMPILE_S)

    def _may_hold(self, grammar: Grammar | None) -> bool:
        """Whether GenAI may compile a grammar, which it does within its step and keeps for ever.

        When those that it has are too many it is opened again, once nothing runs in it.
        """
        if grammar is None or grammar in self._held:
            return True
        weight = self._grammars.weight(grammar)
        if weight is None or weight.seconds > MOST_COMPILE_S:
            return False
        if sum(self._held.values()) + weight.num_bytes > MOST_HELD_BYTES:
            if self._running or weight.num_bytes > MOST_HELD_BYTES:
                return False
            self._reopen()
        return True

    def _asked(self, request: GenerateRequest) -> Any:
        """Raises EngineError if there is no such grammar."""
        config = self._config(request.max_tokens)
        if request.stop_ids:
            config.stop_token_ids = set(request.stop_ids)
            config.set_eos_token_id(request.stop_ids[0])
            config.ignore_eos = False
        if not is_greedy(request.temperature):
            config.do_sample = True
            config.temperature = request.temperature
            config.top_p = min(1.0, max(1e-6, request.top_p))
            config.min_p = request.min_p
            config.rng_seed = request.seed
            if request.top_k:
                config.top_k = request.top_k
        config.repetition_penalty = request.repetition_penalty
        config.logprobs = 0 if request.logprobs is None else 1
        if (grammar := request.grammar) is not None:
            name = GRAMMARS[grammar.kind]
            config.structured_output_config = self._genai.StructuredOutputConfig(
                **{name: grammar.text}
            )
        return config

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
        if self._single.pop(request_id, None) is not None:
            del self._reserved[request_id]
        batched = self._running.pop(request_id, None)
        if batched is not None:
            batched.handle.cancel()
            self._leaving_blocks += self._reserved.pop(request_id)

    def step(self) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        for request_id, single in list(self._single.items()):
            events.append(single.advance())
            if events[-1].finish_reason is not None:
                del self._single[request_id], self._reserved[request_id]
        if self._running or self._leaving_blocks:
            try:
                self._pipeline.step()
            except RuntimeError as error:
                return events + self._fail(error)
            self._leaving_blocks = 0
        for request_id, batched in list(self._running.items()):
            event = self._read(request_id, batched)
            if event is not None:
                events.append(event)
                if event.finish_reason is not None:
                    del self._running[request_id], self._reserved[request_id]
        return events

    def _fail(self, error: RuntimeError) -> list[TokenEvent]:
        """End what runs in the pipeline and open it again: a step that failed once always would.

        A grammar does that which xgrammar takes and GenAI's own copy of it does not.
        """
        LOG.error("OpenVINO failed in a step and is opened again: %s", error)
        failed = [TokenEvent(name, (), "error", str(error)) for name in self._running]
        for request_id in list(self._running):
            del self._running[request_id], self._reserved[request_id]
        self._reopen()
        return failed

    def _read(self, request_id: str, batched: _Batched) -> TokenEvent | None:
        reasons, statuses = self._genai.GenerationFinishReason, self._genai.GenerationStatus
        handle = batched.handle
        tokens: list[int] = []
        log_probs: list[float] = []
        finish = reasons.NONE
        while handle.can_read():
            for output in handle.read().values():
                tokens += output.generated_ids
                log_probs += output.generated_log_probs
                finish = output.finish_reason
        told: tuple[TokenLogprob, ...] = ()
        if batched.tells:
            told = tuple(map(TokenLogprob, tokens, log_probs))
        if finish == reasons.STOP:
            return TokenEvent(request_id, tuple(tokens), "stop", logprobs=told)
        if finish == reasons.LENGTH:
            return TokenEvent(request_id, tuple(tokens), "length", logprobs=told)
        if handle.get_status() == statuses.IGNORED:
            error = "the cache of keys and values is full; send fewer or shorter requests"
            return TokenEvent(request_id, tuple(tokens), "error", error)
        return TokenEvent(request_id, tuple(tokens), logprobs=told) if tokens else None

    # -------------------------------------------------------------- scoring

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        if prefix:
            return self._candidates.score(sequences, prefix)
        if self._shares:  # then GenAI's prompt log-probabilities are wrong or cut short
            return [self._score_graph(ids) for ids in sequences]
        scores: list[NDArray[np.float64]] = []
        together: list[Sequence[int]] = []
        for ids in sequences:
            if sum(blocks_of(len(each)) for each in [*together, ids]) > self._num_blocks:
                scores += self._score_together(together)
                together = []
            together.append(ids)
        return scores + self._score_together(together)

    def _score_graph(self, ids: Sequence[int]) -> NDArray[np.float64]:
        if len(ids) < 2:
            return np.zeros(0)
        return CandidateScorer(OpenvinoBranches(self._graph)).score([ids[1:]], ids[:1])[0]

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
        for request_id in [*self._running, *self._single]:
            self.cancel(request_id)
        self._drain()


def _is_single(request: GenerateRequest) -> bool:
    """Whether the pipeline cannot answer it, so that it is drawn from the graph's own logits.

    It has no mask and no bias, tells the chosen id's log-probability alone, and takes presence and
    frequency penalties for rewards where a logit is negative (2026.4).
    """
    return (
        request.allowed_ids is not None
        or bool(request.logit_bias)
        or (request.logprobs or 0) > 0
        or request.presence_penalty != 0
        or request.frequency_penalty != 0
        or (request.grammar is not None and not request.stop_ids)
    )


@dataclass(frozen=True)
class _Batched:
    """A request in the pipeline; a dropped handle cancels."""

    handle: Any
    tells: bool  # log-probabilities are asked for


class _Single:
    """A request that is answered from the graph's logits."""

    def __init__(self, drawing: Drawing, sequence: GraphSequence) -> None:
        self._drawing, self._sequence = drawing, sequence

    def advance(self) -> TokenEvent:
        return self._drawing.draw(self._sequence.read_prompt(self._drawing.unread))

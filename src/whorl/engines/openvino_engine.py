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
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens
from whorl.core.errors import MissingExtra
from whorl.core.ports import SERVERS_OWN, GenerateRequest, Grammar, TokenEvent
from whorl.core.scoring import Continuations, Scores
from whorl.engines.branches import CandidateScorer
from whorl.engines.grammar import UNABLE, Grammars, text_vocabulary
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop
from whorl.engines.openvino_blocks import blocks_of, num_cache_blocks
from whorl.engines.openvino_graph import GraphSequence, OpenvinoBranches, OpenvinoGraph
from whorl.engines.openvino_pipeline import OpenvinoPipeline, Room
from whorl.engines.openvino_vocabulary import open_vocabulary
from whorl.engines.quiet import load_genai
from whorl.engines.sampling import Drawing, is_greedy
from whorl.engines.setup import EngineSetup
from whorl.engines.threads import engine_threads
from whorl.model.folder import TOKENS, FolderCard

__all__ = ["OpenvinoStepper", "open_openvino"]

LOG = logging.getLogger(__name__)

CACHES = {"f32": "f32", "int8": "u8"}  # of a model folder -> OpenVINO's names
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
    """loop.Stepper over a ContinuousBatchingPipeline, and over a second one that guesses.

    In the second one, where the folder's card or the setup asks for it, a greedy request without a
    grammar is answered while no other runs in a pipeline: every guess costs as much as a token of
    another request, so that they are worth it only alone. When a second one comes the first is
    handed over, what it has been answered so far behind its prompt.

    Every request reserves the blocks of its whole length before it joins: when GenAI's cache runs
    full it evicts running requests, and its process has died of that (2026.4.1: 8 requests, 9
    blocks).
    """

    def __init__(self, folder: Path, card: FolderCard, setup: EngineSetup) -> None:
        try:
            load_genai()  # what it misses is told here
        except ImportError as error:
            package = error.name or "openvino-genai"
            raise MissingExtra.of(package, "openvino", "the openvino engine") from error
        self._vocab_size = card.shape.vocab_size
        self._alone: _Alone | None = None  # what runs in the pipeline that guesses
        self._reserved: dict[str, int] = {}  # request_id -> blocks
        self._leaving_blocks = 0  # of cancelled requests, until the pipeline's next step
        self._num_blocks = num_cache_blocks(card, setup)
        self._one_blocks = blocks_of(card.shape.max_seq_len)
        self._guesses = card.lookup if setup.lookup is None else setup.lookup
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
        self._open()

    def _open(self) -> None:
        places = Room(
            self._setup.max_running, self._setup.batched_tokens, self._num_blocks, self._shares
        )
        work = self._folder, self._tokenizer, self._properties, self._vocab_size
        self._batch = OpenvinoPipeline(*work, places)
        self._lone: OpenvinoPipeline | None = None
        if self._guesses:
            one = replace(places, num_blocks=self._one_blocks, guesses=self._guesses)
            self._lone = OpenvinoPipeline(*work, one)

    @property
    def _pipelines(self) -> list[OpenvinoPipeline]:
        return [self._batch] if self._lone is None else [self._batch, self._lone]

    @property
    def _runs(self) -> bool:
        """Whether a request is in a pipeline."""
        return any(pipeline.names for pipeline in self._pipelines)

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
        if self._runs:
            return False
        LOG.info("requests of several keys come: prefixes are not shared any more")
        self._shares = False
        self._reopen()
        return True

    def _reopen(self) -> None:
        """Without what the one before has kept: prefixes, and grammars, which the tokenizer holds.

        Nothing runs in them.
        """
        self._leaving_blocks = 0
        del self._batch, self._lone
        if self._held:
            self._held.clear()
            self._tokenizer = None
            self._tokenizer = open_vocabulary(*self._vocabulary)
        self._open()

    # -------------------------------------------------------------- generation

    @functools.cached_property
    def _graph(self) -> OpenvinoGraph:
        return OpenvinoGraph(self._folder, self._properties)

    @functools.cached_property
    def _candidates(self) -> CandidateScorer:
        return CandidateScorer(OpenvinoBranches(self._graph))

    def add(self, request: GenerateRequest) -> bool:
        if not self._runs:
            for pipeline in self._pipelines:
                pipeline.drain()
            self._leaving_blocks = 0
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
        if self._lone is not None and not self._runs and _is_guessable(request):
            self._lone.add(request)
            self._alone = _Alone(request)
        else:
            self._hand_over()
            self._batch.add(request)
        self._reserved[request.request_id] = blocks
        return True

    def _hand_over(self) -> None:
        """What ran alone goes on beside others, without guesses."""
        if (alone := self._alone) is None or self._lone is None:
            return
        self._batch.add(alone.rest)  # first: if it raises, the request goes on as it was
        self._lone.cancel(alone.request.request_id)
        self._alone = None

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
            if self._runs or weight.num_bytes > MOST_HELD_BYTES:
                return False
            self._reopen()
        return True

    def cancel(self, request_id: str) -> None:
        if self._single.pop(request_id, None) is not None:
            del self._reserved[request_id]
        if any(pipeline.cancel(request_id) for pipeline in self._pipelines):  # it is in one of them
            self._leaving_blocks += self._reserved.pop(request_id)
        self._leave_alone(request_id)

    def _leave_alone(self, request_id: str) -> None:
        if self._alone is not None and self._alone.request.request_id == request_id:
            self._alone = None

    def step(self) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        for request_id, single in list(self._single.items()):
            events.append(single.advance())
            if events[-1].finish_reason is not None:
                del self._single[request_id], self._reserved[request_id]
        for pipeline in self._pipelines:
            if not pipeline.is_busy:
                continue
            try:
                found = pipeline.step()
            except RuntimeError as error:
                return events + self._fail(error)
            events += found
            for event in found:
                if self._alone is not None and event.request_id == self._alone.request.request_id:
                    self._alone.answer += event.token_ids
                if event.finish_reason is not None:
                    del self._reserved[event.request_id]
                    self._leave_alone(event.request_id)
        self._leaving_blocks = 0
        return events

    def _fail(self, error: RuntimeError) -> list[TokenEvent]:
        """End what runs in a pipeline and open it again: a step that failed once always would.

        A grammar does that which xgrammar takes and GenAI's own copy of it does not.
        """
        LOG.error("OpenVINO failed in a step and is opened again: %s", error)
        names = [name for pipeline in self._pipelines for name in pipeline.names]
        for request_id in names:
            del self._reserved[request_id]
        self._alone = None
        self._reopen()
        return [TokenEvent(name, (), "error", str(error)) for name in names]

    # -------------------------------------------------------------- scoring

    def score_together(self, questions: Sequence[Continuations]) -> list[Scores]:
        if questions[0].prefix:
            return self._candidates.score(questions)
        return [self.score(each.sequences) for each in questions]

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> Scores:
        if prefix:
            return self._candidates.score([Continuations(prefix, sequences)])[0]
        if self._shares:  # then GenAI's prompt log-probabilities are wrong or cut short
            return [self._score_graph(ids) for ids in sequences]
        scores: Scores = []
        together: list[Sequence[int]] = []
        for ids in sequences:
            if sum(blocks_of(len(each)) for each in [*together, ids]) > self._num_blocks:
                scores += self._batch.score(together)
                together = []
            together.append(ids)
        return scores + self._batch.score(together)

    def _score_graph(self, ids: Sequence[int]) -> NDArray[np.float64]:
        if len(ids) < 2:
            return np.zeros(0)
        asked = Continuations(ids[:1], [ids[1:]])
        return CandidateScorer(OpenvinoBranches(self._graph)).score([asked])[0][0]

    def close(self) -> None:
        names = [name for pipeline in self._pipelines for name in pipeline.names]
        for request_id in [*names, *self._single]:
            self.cancel(request_id)
        for pipeline in self._pipelines:
            pipeline.drain()


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


def _is_guessable(request: GenerateRequest) -> bool:
    """Whether it can be handed over: nothing is drawn from a state that only GenAI has."""
    return is_greedy(request.temperature) and request.grammar is None


@dataclass
class _Alone:
    """A request in the pipeline that guesses, and its answer so far."""

    request: GenerateRequest
    answer: list[int] = field(default_factory=list)

    @property
    def rest(self) -> GenerateRequest:
        """What is still to be answered."""
        asked = self.request
        return replace(
            asked,
            prompt_ids=(*asked.prompt_ids, *self.answer),
            max_tokens=asked.max_tokens - len(self.answer),
        )


class _Single:
    """A request that is answered from the graph's logits."""

    def __init__(self, drawing: Drawing, sequence: GraphSequence) -> None:
        self._drawing, self._sequence = drawing, sequence

    def advance(self) -> TokenEvent:
        return self._drawing.draw(self._sequence.read_prompt(self._drawing.unread))

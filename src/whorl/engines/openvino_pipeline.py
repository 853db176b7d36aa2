"""One ContinuousBatchingPipeline of GenAI, and the requests that are in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest, TokenEvent, TokenLogprob
from whorl.engines.openvino_core import in_own_thread
from whorl.engines.quiet import load_genai, load_openvino
from whorl.engines.sampling import is_greedy

__all__ = ["OpenvinoPipeline", "Room"]

GRAMMARS = {"json_schema": "json_schema", "regex": "regex", "ebnf": "grammar"}  # GenAI's names
MOST_ALIKE = 3  # ids before a guess that are looked for in what stands already


@dataclass(frozen=True)
class Room:
    """What a pipeline has room for. guesses: ids that are looked up in prompt and answer so far,
    and checked in one step; 0: none."""

    max_running: int
    batched_tokens: int
    num_blocks: int
    shares_prefixes: bool
    guesses: int = 0


@dataclass(frozen=True)
class _Batched:
    """A request in the pipeline; a dropped handle cancels."""

    handle: Any
    tells: bool  # log-probabilities are asked for


class OpenvinoPipeline:
    """Used from one thread alone, but opened in another: see openvino_core."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        properties: Mapping[str, Any],
        vocab_size: int,
        room: Room,
    ) -> None:
        """Raises EngineError if the graph cannot be loaded."""
        self._genai, self._tensor = load_genai(), load_openvino().Tensor
        self._vocab_size, self._guesses = vocab_size, room.guesses
        self._next_number = 0
        self._requests: dict[str, _Batched] = {}
        self._has_left = False  # since the last step: the pipeline does not know it yet
        self._pipeline = self._opened(folder, tokenizer, properties, room)

    @in_own_thread
    def _opened(
        self, folder: Path, tokenizer: Any, properties: Mapping[str, Any], room: Room
    ) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.max_num_seqs = room.max_running
        scheduler.max_num_batched_tokens = room.batched_tokens
        scheduler.num_kv_blocks = room.num_blocks
        scheduler.enable_prefix_caching = room.shares_prefixes
        options = {**properties, **({"prompt_lookup": True} if room.guesses else {})}
        try:
            return self._genai.ContinuousBatchingPipeline(
                str(folder), tokenizer, scheduler, "CPU", **options
            )
        except RuntimeError as error:
            raise EngineError(f"{folder} cannot be opened by OpenVINO", found=error) from error

    @property
    def names(self) -> list[str]:
        """Of the requests that run."""
        return list(self._requests)

    @property
    def is_busy(self) -> bool:
        """Whether a step would do something, if only notice who has left."""
        return bool(self._requests) or self._has_left

    def add(self, request: GenerateRequest) -> None:
        """Raises EngineError if GenAI takes no such request."""
        handle = self._submit(request.prompt_ids, self._asked(request))
        self._requests[request.request_id] = _Batched(handle, request.logprobs is not None)

    def cancel(self, request_id: str) -> bool:
        """Whether it ran in here; what it held is free after the next step."""
        batched = self._requests.pop(request_id, None)
        if batched is None:
            return False
        batched.handle.cancel()
        self._has_left = True
        return True

    def step(self) -> list[TokenEvent]:
        """Raises RuntimeError as GenAI does; then it is of no more use."""
        self._pipeline.step()
        self._has_left = False
        events = [self._read(name, batched) for name, batched in self._requests.items()]
        for event in events:
            if event is not None and event.finish_reason is not None:
                del self._requests[event.request_id]
        return [event for event in events if event is not None]

    def drain(self) -> None:
        """Step until nothing is in it."""
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        self._has_left = False

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """Together; nothing else may be in it: see loop. Of a pipeline that guesses nothing."""
        self.drain()
        handles = [self._submit_score(ids) if len(ids) > 1 else None for ids in sequences]
        self.drain()
        return [
            _read_score(ids, handle) if handle is not None else np.zeros(0)
            for ids, handle in zip(sequences, handles, strict=True)
        ]

    # -------------------------------------------------------------- GenAI's side

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
        if self._guesses:
            config.num_assistant_tokens, config.max_ngram_size = self._guesses, MOST_ALIKE
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

    def _submit_score(self, ids: Sequence[int]) -> Any:
        config = self._config(max_tokens=0)
        config.echo, config.logprobs = True, 1
        return self._submit(ids, config)

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


def _read_score(ids: Sequence[int], handle: Any) -> NDArray[np.float64]:
    outputs = handle.read_all()
    log_probs = outputs[0].generated_log_probs if outputs else []
    if len(log_probs) < len(ids):
        raise EngineError(
            "OpenVINO did not score a sequence",
            found=f"{len(log_probs)} log-probabilities",
            expected=f"{len(ids)}: the first one is a dummy",
        )
    return np.asarray(log_probs[1 : len(ids)], dtype=np.float64)

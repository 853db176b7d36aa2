"""Does a model say the same in every runtime it is meant for? Logits, and golden tokens.

Equal weights are not enough: a transposed matrix or a rotated half can leave every number in its
place and speak word salad. So fixed prompts are read by whorl's torch engine, which is the
reference, and by each other runtime; their logits are compared, then the answers to the first and
the last of them, greedy, 64 tokens each.

Axes: T tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.arch.hf_config import shape_from_config
from whorl.arch.shape import ModelShape
from whorl.codecs.contract import TEXT, Tokens
from whorl.core.errors import EngineError
from whorl.core.ports import Engine
from whorl.engines.openvino_export import FORMAT
from whorl.engines.parity import compare_greedy
from whorl.engines.setup import EngineSetup
from whorl.model.folder import FolderCard, read_card

__all__ = [
    "GOLDEN_TOKENS",
    "INSTALL",
    "QUESTION",
    "TEXTS",
    "Checks",
    "Figures",
    "Runtime",
    "check_runtime",
    "golden_prompts",
    "is_installed",
    "llama_cpp_runtime",
    "openvino_runtime",
    "torch_runtime",
    "transformers_runtime",
]

GOLDEN_TOKENS = 64  # of each answer
MAX_CONTEXT = 2048  # tokens of llama.cpp: it reserves memory for all of them
MAX_LOGIT_DIFFERENCE = 1e-3  # of the largest logit, or of 1 where that is smaller
LEAST_AGREEMENT = 0.5  # of compressed weights' best next tokens with those of the whole ones
SIGNIFICANT_DIGITS = 2  # of a difference that is kept
TEXTS = (
    "The capital of France is",
    "def add(left, right):\n    return",
    "In 1969 the first 2 people walked on the moon, 384,400 km away;",
)
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
INSTALL = {
    "torch": "pip install 'whorl[train]'",
    "transformers": "pip install 'transformers>=5.0'",
    "openvino": "pip install 'whorl[openvino]'",
    "llama.cpp": "pip install llama-cpp-python",
}
NO_GRAMMAR = frozenset({"grammar"})  # nothing that is compared has one
MODULES = {"openvino": "openvino_genai", "llama.cpp": "llama_cpp"}  # where it has another name


@dataclass(frozen=True)
class Runtime:
    """A loaded model: an engine for answers, and its logits [T, V] of a sequence."""

    name: str
    engine: Engine
    logits: Callable[[Sequence[int]], NDArray[np.float32]]


@dataclass(frozen=True)
class Figures:
    """How far a runtime is from the reference.

    golden_tokens: of `asked_tokens`, those that are the reference's up to where an answer first
    parts from it, at a near tie.
    """

    golden_tokens: int
    asked_tokens: int
    max_logit_difference: float
    note: str = ""


@dataclass
class Checks:
    """What was checked, by runtime, and what was not, with the reason."""

    checked: dict[str, Figures] = field(default_factory=dict)
    not_checked: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "checked": {name: asdict(figures) for name, figures in self.checked.items()},
            "not_checked": dict(self.not_checked),
        }


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(MODULES.get(name, name)) is not None


def golden_prompts(tokens: Tokens, max_seq_len: int) -> list[tuple[int, ...]]:
    """Fixed texts as ids, and a question in the model's own template if it has one.

    No longer than half of what the model reads at once. Of a model without text, its first ids.
    """
    contract = tokens.contract
    if TEXT not in tokens.codecs:
        prompts = [[i % contract.vocab_size for i in range(start, start + 12)] for start in (0, 17)]
    else:
        prompts = [tokens.encode_prompt(text) for text in TEXTS]
        if contract.chat_template is not None:
            prompts.append(tokens.encode_chat(QUESTION, ask=True)[0].tolist())
    return [tuple(ids[: max(1, max_seq_len // 2)]) for ids in prompts]


def check_runtime(
    reference: Runtime,
    other: Runtime,
    prompts: Sequence[Sequence[int]],
    max_seq_len: int,
    *,
    is_exact: bool = True,
    note: str = "",
) -> Figures:
    """Compare logits, then answers. is_exact: False for compressed weights, which are others.

    Raises EngineError if the logits differ by more than rounding, or an answer where there is no
    near tie; of compressed weights, if more than half of their best next tokens are others.
    """
    largest, scale, agree, count = 0.0, 1.0, 0, 0
    for ids in prompts:
        ours, theirs = reference.logits(ids), other.logits(ids)
        if ours.shape != theirs.shape:
            raise EngineError(
                f"{other.name} has another vocabulary",
                found=theirs.shape,
                expected=ours.shape,
            )
        largest = _largest(largest, float(np.abs(ours - theirs).max()))
        scale = max(scale, float(np.abs(ours).max()))
        agree += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        count += len(ours)
    _check_logits(other.name, largest, scale, agree / count, is_exact)
    if not is_exact:
        note = f"{agree / count:.0%} of the best next tokens are the model's"
    answered = [prompts[0], *prompts[1:][-1:]]  # a text and the question
    max_tokens = min(GOLDEN_TOKENS, max_seq_len - max(map(len, answered)))
    parity = compare_greedy(reference.engine, other.engine, answered, max_tokens=max_tokens)
    if is_exact and not parity.passed:
        worst = max(parity.differences, key=lambda difference: difference.logit_gap)
        raise EngineError(
            f"{other.name} does not say what {reference.name} says: {parity}",
            found=f"prompt {worst.prompt_number}, token {worst.position}: id "
            f"{worst.candidate_id} for {worst.reference_id}, {worst.logit_gap:.2g} apart",
            expected="the same tokens",
        )
    lost = sum(max_tokens - difference.position for difference in parity.differences)
    asked = parity.num_tokens
    rounded = float(f"{largest:.{SIGNIFICANT_DIGITS}g}")
    return Figures(asked - lost, asked, rounded, note)


def _largest(first: float, second: float) -> float:
    """The larger; not a number if either is none, which `max` would pass over."""
    return float(np.maximum(first, second))


def _check_logits(
    name: str, largest: float, scale: float, agreement: float, is_exact: bool
) -> None:
    if is_exact and not largest <= MAX_LOGIT_DIFFERENCE * scale:
        raise EngineError(
            f"{name} does not compute what whorl's torch engine computes",
            found=f"logits differ by {largest:.2g}",
            expected=f"at most {MAX_LOGIT_DIFFERENCE:.0e} of the largest, {scale:.2g}",
        )
    if not np.isfinite(largest) or agreement < LEAST_AGREEMENT:
        raise EngineError(
            f"{name} has forgotten what the whole weights say",
            found=f"the same best next token at {agreement:.0%} of the places",
            expected=f"at least {LEAST_AGREEMENT:.0%}",
            do="take more bits",
        )


# ------------------------------------------------------------------ the runtimes


@contextmanager
def torch_runtime(folder: Path) -> Iterator[Runtime]:
    """whorl's own torch engine over a model folder."""
    import torch

    from whorl.engines.limits import Limits
    from whorl.engines.loop import EngineLoop
    from whorl.engines.torch_engine import TorchStepper
    from whorl.model.hf import load_model_folder

    model, shape, _, card = load_model_folder(folder)
    stepper = TorchStepper(model)

    def logits(ids: Sequence[int]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits_TV = model.logits(model(torch.tensor([list(ids)])))[0]
        return np.asarray(logits_TV.numpy(), np.float32)

    limits = Limits(1, shape.max_seq_len, shape.vocab_size)
    engine = EngineLoop("torch", card.contract_digest, stepper, limits, NO_GRAMMAR)
    try:
        yield Runtime("torch", engine, logits)
    finally:
        engine.close()


@contextmanager
def transformers_runtime(source: Path, card: FolderCard) -> Iterator[Runtime]:
    """transformers over a folder or a GGUF file.

    Raises EngineError if it cannot load it, or reads another shape: not every fact of a GGUF file
    is known to it.
    """
    from whorl.engines.limits import Limits
    from whorl.engines.loop import EngineLoop
    from whorl.engines.transformers_engine import TransformersStepper, load_transformers

    model = load_transformers(source)
    if source.is_file():
        _check_shape(shape_from_config(model.config.to_dict()), card.shape)
    stepper = TransformersStepper(model)
    limits = Limits(1, card.shape.max_seq_len, card.shape.vocab_size)
    engine = EngineLoop("transformers", card.contract_digest, stepper, limits, NO_GRAMMAR)
    try:
        yield Runtime("transformers", engine, stepper.logits)
    finally:
        engine.close()


def _check_shape(found: ModelShape, expected: ModelShape) -> None:
    ours, theirs = asdict(expected), asdict(found)
    other = [key for key, value in theirs.items() if key != "name" and value != ours[key]]
    if found != expected:
        raise EngineError("transformers reads another shape", found=f"other {', '.join(other)}")


@contextmanager
def openvino_runtime(folder: Path) -> Iterator[Runtime]:
    """OpenVINO over an exported folder: GenAI for answers, the graph itself for logits."""
    from whorl.engines.openvino_engine import open_openvino
    from whorl.engines.openvino_graph import OpenvinoGraph

    card = read_card(folder)
    graph = OpenvinoGraph(folder, {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"})

    def logits(ids: Sequence[int]) -> NDArray[np.float32]:
        logits_TV: NDArray[np.float32] = graph.start().read(np.asarray([ids], np.int64))[0]
        return logits_TV

    engine = open_openvino(folder, card, EngineSetup(max_running=1))
    try:
        yield Runtime(f"{FORMAT} {card.variant.weights}", engine, logits)
    finally:
        engine.close()


@contextmanager
def llama_cpp_runtime(file: Path, card: FolderCard, tokens: Tokens) -> Iterator[Runtime]:
    """llama.cpp over a GGUF file. Raises EngineError if it gives a text other ids."""
    from whorl.engines.limits import Limits
    from whorl.engines.llama_cpp_engine import LlamaCppStepper, load_llama_cpp
    from whorl.engines.loop import EngineLoop

    max_tokens = min(card.shape.max_seq_len, MAX_CONTEXT)
    stepper = LlamaCppStepper(load_llama_cpp(file, max_tokens))
    for text in TEXTS:
        if (found := stepper.encode(text)) != (ours := tokens.encode_prompt(text)):
            raise EngineError(f"llama.cpp gives {text!r} other ids", found=found, expected=ours)
    limits = Limits(1, max_tokens, card.shape.vocab_size)
    engine = EngineLoop("llama.cpp", card.contract_digest, stepper, limits, NO_GRAMMAR)
    try:
        yield Runtime("llama.cpp", engine, stepper.logits)
    finally:
        engine.close()

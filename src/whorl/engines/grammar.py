"""Answers that a grammar allows, by the package xgrammar. Axes: V vocabulary."""

from __future__ import annotations

import functools
import importlib
import re
import time
import weakref
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import TEXT, Tokens
from whorl.codecs.tokenizer import TextCodec
from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest, Grammar
from whorl.engines.sampling import Matcher

__all__ = ["UNABLE", "Grammars", "text_vocabulary"]

MODULE = "xgrammar"
SOURCE_LINE = re.compile(r"^\S+\.(?:cc|h):\d+: ")  # of xgrammar's own, before what it says
CACHE_BYTES = 2**26  # of compiled grammars: without a limit each that ever came is kept
MOST_WEIGHTS = 1024  # of grammars, that are remembered
UNABLE = frozenset[str]() if find_spec(MODULE) else frozenset({"grammar"})


def text_vocabulary(tokens: Tokens) -> list[bytes]:
    """The bytes of each id, b"" of special ones and of those that are no text."""
    vocabulary = [b""] * tokens.contract.vocab_size
    codec = tokens.codecs.get(TEXT)
    if isinstance(codec, TextCodec):
        for number, value in enumerate(codec.token_bytes, codec.first_id):
            vocabulary[number] = value
    return vocabulary


@dataclass(frozen=True)
class Weight:
    """What a grammar costs who compiles it whole: GenAI does, in its step."""

    seconds: float
    num_bytes: int


class Grammars:
    """Reads the grammars of requests for one vocabulary, in whichever thread asks for it.

    A grammar's masks are computed as they are needed: one that is compiled whole may take minutes
    of a large vocabulary, in which nobody else's answer would go on.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._vocabulary = text_vocabulary(tokens)
        self._ready: weakref.WeakKeyDictionary[GenerateRequest, Any] = weakref.WeakKeyDictionary()
        self._weights: OrderedDict[Grammar, Weight] = OrderedDict()
        self._weighing = ThreadPoolExecutor(1, "whorl-grammar")
        self._last: Future[None] | None = None

    @functools.cached_property
    def _compiler(self) -> Any:
        return self._new_compiler(cache_limit_bytes=CACHE_BYTES, enable_dynamic_compilation=True)

    @functools.cached_property
    def _whole(self) -> Any:
        return self._new_compiler(cache_enabled=False)

    def _new_compiler(self, **options: Any) -> Any:
        return _library().GrammarCompiler(self._info, max_threads=1, **options)

    @functools.cached_property
    def _info(self) -> Any:
        xgrammar = _library()
        return xgrammar.TokenizerInfo(
            self._vocabulary,
            vocab_type=xgrammar.VocabType.RAW,
            vocab_size=len(self._vocabulary),
            stop_token_ids=[],
        )

    def check(self, request: GenerateRequest) -> None:
        """Read the request's grammar, if it has one, so that `start` need not.

        The first takes seconds, in which xgrammar is loaded. Raises EngineError if it is no
        grammar, or there is no xgrammar.
        """
        if request.grammar is not None:
            self._ready[request] = _compiled(self._compiler, request.grammar)

    def start(self, request: GenerateRequest) -> Matcher | None:
        """The request's grammar at its begin, None if it has none. Raises as `check`."""
        if request.grammar is None:
            return None
        if request not in self._ready:
            self.check(request)
        xgrammar = _library()
        matcher = xgrammar.GrammarMatcher(
            self._ready.pop(request),
            override_stop_tokens=list(request.stop_ids) or None,
            terminate_without_stop_token=not request.stop_ids,
        )
        bits = xgrammar.allocate_token_bitmask(1, len(self._vocabulary))
        return _XgrammarMatcher(matcher, bits, len(self._vocabulary))

    # -------------------------------------------------------------- compiled whole

    def weigh(self, grammar: Grammar, wait_s: float) -> None:
        """Compile it whole once, to see what that costs. Returns after wait_s though it may go on,
        and at once while another is weighed."""
        if grammar in self._weights or not (self._last is None or self._last.done()):
            return
        self._last = self._weighing.submit(self._weigh, grammar)
        wait([self._last], wait_s)  # what it raises leaves the weight unknown

    def _weigh(self, grammar: Grammar) -> None:
        begin_s = time.monotonic()
        compiled = _compiled(self._whole, grammar)
        weight = Weight(time.monotonic() - begin_s, int(compiled.memory_size_bytes))
        self._weights[grammar] = weight
        if len(self._weights) > MOST_WEIGHTS:
            self._weights.popitem(last=False)

    def weight(self, grammar: Grammar) -> Weight | None:
        """None: it is not known, or not yet."""
        return self._weights.get(grammar)


def _compiled(compiler: Any, grammar: Grammar) -> Any:
    """xgrammar's reading of it. Raises EngineError if it is no grammar."""
    readers = _library().Grammar
    try:
        if grammar.kind == "json_schema":
            parsed = readers.from_json_schema(grammar.text)
        elif grammar.kind == "regex":
            parsed = readers.from_regex(grammar.text)
        else:
            parsed = readers.from_ebnf(grammar.text)
        return compiler.compile_grammar(parsed)
    except RuntimeError as error:
        found = SOURCE_LINE.sub("", str(error).splitlines()[0].partition("] ")[2]) or error
        raise EngineError(f"this {grammar.kind} cannot be used", found=found) from error


def _library() -> Any:
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        do = "pip install 'whorl[grammar]'"
        raise EngineError("grammars need the package xgrammar", do=do) from error


class _XgrammarMatcher:
    """sampling.Matcher over xgrammar's."""

    def __init__(self, matcher: Any, bits: Any, vocab_size: int) -> None:
        self._matcher, self._bits, self._vocab_size = matcher, bits, vocab_size

    @property
    def ended(self) -> bool:
        return bool(self._matcher.is_terminated())

    def allowed(self) -> NDArray[np.bool_]:
        self._matcher.fill_next_token_bitmask(self._bits)
        octets = self._bits.numpy().view(np.uint8)[0]
        return np.unpackbits(octets, count=self._vocab_size, bitorder="little").astype(np.bool_)

    def accept(self, token_id: int) -> None:
        self._matcher.accept_token(token_id)

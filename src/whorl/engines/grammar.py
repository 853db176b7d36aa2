"""Answers that a grammar allows, by the package xgrammar. Axes: V vocabulary."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import TEXT, Tokens
from whorl.codecs.tokenizer import TextCodec
from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest
from whorl.engines.sampling import Matcher

__all__ = ["UNABLE", "Grammars", "text_vocabulary"]

MODULE = "xgrammar"
CACHE_BYTES = 2**26  # of compiled grammars: without a limit each that ever came is kept
UNABLE = frozenset[str]() if find_spec(MODULE) else frozenset({"grammar"})


def text_vocabulary(tokens: Tokens) -> list[bytes]:
    """The bytes of each id, b"" of special ones and of those that are no text."""
    vocabulary = [b""] * tokens.contract.vocab_size
    codec = tokens.codecs.get(TEXT)
    if isinstance(codec, TextCodec):
        for number, value in enumerate(codec.token_bytes, codec.first_id):
            vocabulary[number] = value
    return vocabulary


class Grammars:
    """Compiles the grammars of requests for one vocabulary."""

    def __init__(self, tokens: Tokens) -> None:
        self._vocabulary = text_vocabulary(tokens)
        self._compiler: Any = None

    def start(self, request: GenerateRequest) -> Matcher | None:
        """The request's grammar at its begin, None if it has none. Raises as `check`."""
        if request.grammar is None:
            return None
        grammar, xgrammar = self.check(request), _library()
        if self._compiler is None:
            info = xgrammar.TokenizerInfo(
                self._vocabulary,
                vocab_type=xgrammar.VocabType.RAW,
                vocab_size=len(self._vocabulary),
                stop_token_ids=[],
            )
            self._compiler = xgrammar.GrammarCompiler(
                info, max_threads=1, cache_limit_bytes=CACHE_BYTES
            )
        matcher = xgrammar.GrammarMatcher(
            self._compiler.compile_grammar(grammar),
            override_stop_tokens=list(request.stop_ids) or None,
            terminate_without_stop_token=not request.stop_ids,
        )
        bits = xgrammar.allocate_token_bitmask(1, len(self._vocabulary))
        return _XgrammarMatcher(matcher, bits, len(self._vocabulary))

    @staticmethod
    def check(request: GenerateRequest) -> Any:
        """xgrammar's reading of the request's grammar; None: it has none.

        The first takes seconds, in which xgrammar is loaded. Raises EngineError if it is no
        grammar, or there is no xgrammar.
        """
        if (grammar := request.grammar) is None:
            return None
        xgrammar = _library().Grammar
        try:
            if grammar.kind == "json_schema":
                return xgrammar.from_json_schema(grammar.text)
            if grammar.kind == "regex":
                return xgrammar.from_regex(grammar.text)
            return xgrammar.from_ebnf(grammar.text)
        except RuntimeError as error:
            found = str(error).splitlines()[0].partition("] ")[2] or error
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

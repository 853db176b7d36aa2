"""Chat templates, rendered by the rules of transformers: sandboxed, and bounded in work and size.

A template is data of the token contract, never of a request. What it may do is counted (turns of
loops, calls) and what it makes is measured; no clock decides, so that a chat that was rendered
once always is. What lies between {% generation %} and {% endgeneration %} comes marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from whorl.core.errors import DataError, RecordError

__all__ = ["BEGIN", "END", "has_generation", "render"]

BEGIN, END = "\ufdd1", "\ufdd2"  # around what a template marks as generated
MAX_CHARS = 2**24  # of what is rendered, and of any text on the way there
MAX_STEPS = 500_000  # turns of loops and calls of one rendering
MAX_TEMPLATE_CHARS = 2**20
MAX_EXPONENT = 64
WIDTH = re.compile(r"%[^%a-zA-Z]*(\*|\d{4})")  # of a text's `%` formatting
# Make a long text of nothing, or another one each time.
REFUSED_FILTERS = ("center", "format", "random", "wordwrap")
REFUSED_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"}
)

_steps_left: ContextVar[int] = ContextVar("steps_left")


def render(source: str, values: Mapping[str, Any], now: datetime | None = None) -> str:
    """What the template makes of the values, with BEGIN and END in it.

    now: what `strftime_now` tells; None: it is not defined. Raises RecordError on a template that
    is none, DataError if it refuses the values, fails on them or does too much.
    """
    template, _ = _compiled(source)
    clock = {} if now is None else {"strftime_now": now.strftime}
    token = _steps_left.set(MAX_STEPS)
    try:
        return template.render({**values, **clock})
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise DataError("the chat template refuses this chat", found=error) from error
    except (AttributeError, RecursionError) as error:
        raise DataError("the chat template fails on this chat", found=error) from error
    finally:
        _steps_left.reset(token)


def has_generation(source: str) -> bool:
    """Whether the template says itself what is generated. Raises RecordError if it is none."""
    return _compiled(source)[1]


@lru_cache(maxsize=16)
def _compiled(source: str) -> tuple[Template, bool]:
    if len(source) > MAX_TEMPLATE_CHARS:
        raise RecordError("the chat template is too long", found=f"{len(source):,} characters")
    environment = _environment()
    try:
        template = environment.from_string(source)
        names = {word for _, kind, word in environment.lex(source) if kind == "name"}
    except (TemplateError, RecursionError) as error:
        raise RecordError("the chat template is not a template", found=error) from error
    return template, "endgeneration" in names


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters = {
        **{name: _bounded(call) for name, call in environment.filters.items()},
        "tojson": _bounded(_to_json),
        "counted": _counted,
    }
    for name in REFUSED_FILTERS:
        del environment.filters[name]
    environment.globals.update(
        raise_exception=_raise, dict=_Dict(), namespace=_Namespace, lipsum=None
    )
    return environment


def _step() -> None:
    left = _steps_left.get()
    if left <= 0:
        raise SecurityError(f"it takes more than {MAX_STEPS:,} steps")
    _steps_left.set(left - 1)


def _measured(value: Any) -> Any:
    if isinstance(value, str | list | tuple | range) and len(value) > MAX_CHARS:
        raise SecurityError(f"it makes a text of more than {MAX_CHARS:,} characters")
    return value


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        return _measured(function(*args, **kwargs))

    return bounded


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _step()
        yield item


def _joined(pieces: Iterable[str]) -> str:
    kept, num_chars = [], 0
    for piece in pieces:
        num_chars += len(piece)
        if num_chars > MAX_CHARS:
            raise SecurityError(f"it makes a text of more than {MAX_CHARS:,} characters")
        kept.append(piece)
    return "".join(kept)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_joined)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _CountLoops().visit(tree).set_environment(self)  # type: ignore[no-any-return]

    def wrap_str_format(self, value: Any) -> None:
        """`format` is refused like the other methods that pad."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in REFUSED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for text, count in ((left, right), (right, left)):
            if operator == "*" and isinstance(text, str | list | tuple) and isinstance(count, int):
                _measured(range(len(text) * max(0, count)))
        if operator == "**" and not abs(right) <= MAX_EXPONENT >= abs(left):
            raise SecurityError("it makes a number that is too large")
        if operator == "%" and isinstance(left, str) and WIDTH.search(left):
            raise SecurityError("it pads a text")
        return _measured(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _step()
        return _measured(super().call(context, obj, *args, **kwargs))


class _CountLoops(NodeTransformer):
    """Loops over what is counted; `a ~ b` as an addition of texts, which is measured."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        texts = [_filtered(part, "string") for part in node.nodes]
        whole: nodes.Expr = texts[0]
        for text in texts[1:]:
            whole = nodes.Add(whole, text, lineno=node.lineno)
        return whole


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}: the body, marked."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    @pass_eval_context
    def _mark(self, context: nodes.EvalContext, caller: Macro) -> str:
        return f"{BEGIN}{caller()}{END}"


class _Dict:
    """`dict` without the attributes of a class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _Namespace(Namespace):
    """A namespace without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name}")
        super().__setitem__(name, value)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=None if indent is None else min(indent, 16),
        separators=separators,
        sort_keys=sort_keys,
    )

"""Chat templates, rendered by the rules of transformers: sandboxed, and bounded in work and size.

A template is data of the token contract, never of a request. All that it does is paid from one
budget: turns, calls, and every character that is read, made or compared, before it is done
wherever it could grow. The budget grows with the chat's length. No clock decides, so that a chat
that was rendered once always is. Only named filters and methods exist: those whose result can be
bounded beforehand. What lies between {% generation %} and {% endgeneration %} comes marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, cast

from jinja2 import Environment, Template, TemplateError, nodes, pass_context, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from whorl.codecs.template_budget import (
    BUDGET,
    GROWING,
    MAX_STRIPPED,
    PLAIN,
    TURN,
    budget_for,
    size_of,
)
from whorl.core.errors import DataError, RecordError

__all__ = ["BEGIN", "END", "has_generation", "render"]

BEGIN, END = "\ufdd1", "\ufdd2"  # around what a template marks as generated
MAX_TEMPLATE_CHARS = 2**20
MAX_EXPONENT, MAX_FORMAT = 64, 256
WIDTH = re.compile(r"%[^%a-zA-Z]*(\*|\d{4})")  # of a text's `%` formatting


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Filters and tests that look at no more than how many items there are.
SHALLOW = _names(
    "boolean callable count d default defined false first float integer items iterable last length "
    "list map mapping none number reject rejectattr reverse safe sameas select selectattr sequence "
    "true undefined"
)
DEEP = _names(
    "abs capitalize dictsort e escape float indent int join lower max min replace round sort "
    "string title trim unique upper"
)
METHODS = _names(
    "capitalize endswith find get isdigit items join keys lower lstrip partition removeprefix "
    "removesuffix replace rfind rpartition rsplit rstrip split splitlines startswith strip title "
    "upper values"
)


def render(source: str, values: Mapping[str, Any], now: datetime | None = None) -> str:
    """What the template makes of the values, with BEGIN and END in it.

    now: what `strftime_now` tells; None: it is not defined. Raises RecordError on a template that
    is none, DataError if it refuses the values, fails on them or does too much.
    """
    template, _ = _compiled(source)
    clock = {} if now is None else {"strftime_now": _clock(now)}
    token = BUDGET.set(budget_for(dict(values)))
    try:
        return template.render({**values, **clock})
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise DataError("the chat template refuses this chat", found=error) from error
    except (AttributeError, RecursionError, MemoryError) as error:
        raise DataError("the chat template fails on this chat", found=error) from error
    finally:
        BUDGET.reset(token)


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
    except (TemplateError, RecursionError, MemoryError) as error:
        raise RecordError("the chat template is not a template", found=error) from error
    return template, "endgeneration" in names


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
        finalize=_shown,
        optimized=False,  # nothing is worked out while it is compiled, where nothing is paid
    )
    filters: Mapping[str, Callable[..., Any]] = environment.filters
    environment.filters = {
        **{
            name: _paid(call, name, name in DEEP)
            for name, call in filters.items()
            if name in SHALLOW | DEEP
        },
        "tojson": _paid(_to_json, "tojson", True),
        "paid_turn": _turn,
        "held": _held,
        "paid_whole": _paid_whole,
    }
    tests = cast(Mapping[str, Callable[..., Any]], environment.tests)
    environment.tests = {
        name: _paid(call, "", name not in {*SHALLOW, "string"}) for name, call in tests.items()
    }
    environment.globals.update(
        raise_exception=_raise, dict=_Dict(), namespace=_Namespace, lipsum=None
    )
    return environment


def _turn(weight: int) -> bool:
    BUDGET.get().pay(TURN + abs(weight))
    return True


def _held(value: Any) -> Any:
    return BUDGET.get().held(value)


def _paid_whole(value: Any) -> Any:
    BUDGET.get().pay_deep(value)
    return value


@pass_context
def _shown(context: Context, value: Any) -> Any:
    """What {{ value }} is before it becomes text."""
    return _paid_whole(value)


def _clock(now: datetime) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if len(form) > MAX_FORMAT:
            raise SecurityError("it asks for a date in too many characters")
        return now.strftime(form)

    return strftime_now


def _paid(function: Callable[..., Any], name: str, is_deep: bool) -> Callable[..., Any]:
    """A filter or test that pays for its arguments, for what it will make, and for its result."""

    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        budget = BUDGET.get()
        at = bool(args) and isinstance(args[0], Context | nodes.EvalContext | Environment)
        if is_deep:
            args = (*args[:at], *map(_listed, args[at:]))
        for value in (*args[at:], *kwargs.values()):
            (budget.pay_deep if is_deep else budget.held)(value)
        if name in GROWING:
            budget.check(GROWING[name](*args[at:], **kwargs))
        return budget.held(function(*args, **kwargs))

    return paid


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, Iterator) else value


def _joined(pieces: Iterable[str]) -> str:
    budget, kept, num_chars = BUDGET.get(), [], 0
    for piece in pieces:
        num_chars += len(piece)
        budget.check(num_chars)
        budget.pay(len(piece))
        kept.append(piece)
    return "".join(kept)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_joined)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _CountTurns().visit(tree).set_environment(self)  # type: ignore[no-any-return]

    def wrap_str_format(self, value: Any) -> None:
        """`format` is refused like the other methods that pad."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, PLAIN) and attr not in METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = BUDGET.get()
        for text, count in ((left, right), (right, left)):
            if operator == "*" and isinstance(count, int) and not isinstance(text, int | float):
                budget.check(len(text) * max(0, count))
        if operator == "**" and not abs(right) <= MAX_EXPONENT >= abs(left):
            raise SecurityError("it makes a number that is too large")
        if operator == "%" and isinstance(left, str | bytes):
            if not isinstance(left, str) or WIDTH.search(left):
                raise SecurityError("it pads a text")
            before = budget.left
            budget.pay_deep(right)
            budget.check(len(left) + left.count("%") * (1000 + before - budget.left))
        return budget.held(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _turn(0)
        budget, owner = BUDGET.get(), getattr(obj, "__self__", None)
        if isinstance(owner, PLAIN):
            args = tuple(map(_listed, args))
            budget.pay(size_of(owner))
            budget.pay_deep([*args, *kwargs.values()])
            if (name := obj.__name__) in GROWING:
                whole = (*args, owner) if name == "join" else (owner, *args)
                budget.check(GROWING[name](*whole))
        elif owner is not None:  # such as loop.changed, which compares
            budget.pay_deep([*args, *kwargs.values()])
        return budget.held(super().call(context, obj, *args, **kwargs))


class _CountTurns(NodeTransformer):
    """Every turn and call pays by the length of its body; so do comparisons and slices.

    `a ~ b` is an addition of texts.
    """

    def visit_For(self, node: nodes.For) -> nodes.For:
        weight = sum(1 for _ in node.find_all(nodes.Node))
        if node.test is not None:
            node.test = nodes.And(_pays(weight), node.test, lineno=node.lineno)
        self._with_body(node, weight)
        node.iter = _filtered(node.iter, "held")
        return node

    def _with_body(self, node: Any, weight: int | None = None) -> Any:
        if weight is None:
            weight = sum(1 for _ in node.find_all(nodes.Node))
        self.generic_visit(node)
        node.body = [nodes.ExprStmt(_pays(weight), lineno=node.lineno), *node.body]
        return node

    visit_Macro = visit_CallBlock = visit_Block = _with_body

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "paid_whole")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "paid_whole")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, "held") if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        texts = [_filtered(part, "string") for part in node.nodes]
        whole: nodes.Expr = texts[0]
        for text in texts[1:]:
            whole = nodes.Add(whole, text, lineno=node.lineno)
        return whole


def _pays(weight: int) -> nodes.Filter:
    return _filtered(nodes.Const(weight), "paid_turn")


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
    if separators is not None and sum(map(len, separators)) > MAX_STRIPPED:
        raise SecurityError("it separates by long texts")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        indent=None if indent is None else min(indent, 16),
        separators=separators,
        sort_keys=sort_keys,
    )
    return _joined(encoder.iterencode(value))

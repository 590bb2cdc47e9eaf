"""Jinja for templates that come with a downloaded model: sandboxed, and with an end to what one rendering may cost.

Jinja's own sandbox keeps a template from Python's insides, but not from looping for ever or filling the memory. Here
every turn of a loop, call, filter and output is counted, and what they make is measured before it is made.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_SECONDS = 10.0
"""Of the processor's time for one rendering; a long conversation takes some hundredths."""
MOST_CHARACTERS = 64_000_000
"""Written or made on the way, all together; an element of a list counts as eight."""
MOST_TEXT = 1_000_000
"""Characters of a template."""
MOST_NUMBER = 1_000_000
MOST_BITS = 100_000
LOOKS_EVERY = 64
ELEMENT = 8


class TooMuch(TemplateError):
    """A template asks for more than a rendering may cost."""


class Budget:
    def __init__(self) -> None:
        self._until, self._left, self._turns = time.thread_time() + MOST_SECONDS, MOST_CHARACTERS, 0

    def spend(self, characters: int = 0) -> None:
        """Raises: TooMuch."""
        self._left -= characters
        self._turns += 1
        if self._left < 0:
            raise TooMuch(f"the chat template writes or makes more than {MOST_CHARACTERS:,} characters")
        if self._turns % LOOKS_EVERY == 0 and time.thread_time() > self._until:
            raise TooMuch(f"the chat template takes longer than {MOST_SECONDS:g} seconds")


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def bounded() -> Iterator[None]:
    """What is compiled and rendered inside may cost so much and no more."""
    token = _budget.set(Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def spend(characters: int = 0) -> None:
    budget = _budget.get()
    if budget is not None:
        budget.spend(characters)


class Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_written, **options)
        self.code_generator_class = _Code
        self.filters = {name: _measured(name, each) for name, each in self.filters.items()}
        self.filters |= {"counted": _counted, "letters": _letters}
        del self.globals["lipsum"]

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        self.filters[name] = _measured(name, function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MOST_TEXT:
            raise TooMuch(f"the chat template is longer than {MOST_TEXT:,} characters")
        return _Counting(self).visit(super()._parse(source, name, filename))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        spend(_size_of(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **named: Any) -> Any:
        """As in the class above, whose first names leave all others to what is called."""
        text = getattr(__obj, "__self__", None)
        if not isinstance(text, str | bytes | int):
            spend()
            return super().call(__context, __obj, *args, **named)
        args = tuple(list(_counted(each)) if isinstance(each, Iterator) else each for each in args)
        spend(_growth(__obj.__name__, text, args, named))
        made = super().call(__context, __obj, *args, **named)
        spend(_weight(made))
        return made

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def measured(*args: Any, **named: Any) -> str:
            spend(_growth("format", value.__self__, args, named))
            return wrapped(*args, **named)

        return measured

    def joined(self, parts: tuple[Any, ...]) -> str:
        """``a ~ b``"""
        spend(sum(_weight(part) for part in parts))
        return "".join(map(str, parts))


class _Code(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Counting(NodeTransformer):
    """Lets every loop count its turns, and every piece of the template's own text its letters."""

    def __init__(self, environment: Bounded) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, "counted")
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        letters = sum(len(each.data) for each in node.nodes if isinstance(each, nodes.TemplateData))
        if letters:
            node.nodes.insert(0, self._filtered(nodes.Const(letters), "letters"))
        return node

    def _filtered(self, value: nodes.Expr, name: str) -> nodes.Filter:
        return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno).set_environment(self._environment)


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        spend()
        yield value


@pass_context  # else it would be asked once, when the template is compiled
def _letters(context: Any, number: int) -> str:
    spend(number)
    return ""


def _written(value: Any) -> Any:
    spend(_weight(value))
    return value


def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result is counted before there is one."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def measured(*args: Any, **named: Any) -> Any:
        value = args[at]
        if isinstance(value, Iterator):
            value = list(_counted(value))
            args = (*args[:at], value, *args[at + 1 :])
        spend(0 if name in KEEP else _weight(value) + _growth(name, value, args[at + 1 :], named))
        return function(*args, **named)

    return measured


KEEP = frozenset(
    ("default", "d", "length", "count", "first", "last", "map", "select", "reject", "selectattr", "rejectattr", "attr",
     "items", "safe", "random", "min", "max", "int", "float", "abs")
)  # fmt: skip
"""Filters that make nothing longer than what they are given."""


def _growth(name: str, value: Any, args: tuple[Any, ...], named: dict[str, Any]) -> int:
    """Characters by which a method or filter of this name could lengthen a value. Raises: TooMuch."""
    given = (*args, *named.values())
    numbers = [abs(each) for each in given if isinstance(each, int)]
    if any(number > MOST_NUMBER for number in numbers):
        raise TooMuch(f"the chat template names a number above {MOST_NUMBER:,} in {name}()")
    texts = [each for each in given if isinstance(each, str | bytes)]
    largest = max(numbers, default=0)
    if name == "replace" and len(texts) > 1 and isinstance(value, type(texts[0])):
        return value.count(texts[0]) * len(texts[1])
    if name == "join":
        parts = given[0] if given and isinstance(value, str | bytes) else value
        between = len(value) if parts is not value else max(map(len, texts), default=0)
        return _weight(parts) + between * (len(parts) if isinstance(parts, Sized) else 0)
    if name in ("format", "format_map"):
        return _filled(str(value), given)
    if name == "sum" and any(not isinstance(each, int | float) for each in given if not isinstance(each, str)):
        raise TooMuch("the chat template adds up what is no number")
    if name == "translate":
        return len(value) * max((_weight(each) for each in given), default=1)
    if name in ("indent", "wordwrap", "expandtabs", "tojson", "batch", "slice"):
        return _weight(value) * (1 + max([largest, *map(len, texts)])) if largest or texts else 4 * _weight(value)
    return largest


def _size_of(operator: str, left: Any, right: Any) -> int:
    """Characters that an operator makes. Raises: TooMuch."""
    if operator == "%":
        return _filled(left, right) if isinstance(left, str | bytes) else 0
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MOST_BITS:
            raise TooMuch(f"the chat template makes a number of more than {MOST_BITS:,} bits")
        return 0
    lengths = [_shallow(each) for each in (left, right)]
    times = next((each for each in (left, right) if isinstance(each, int)), 1)
    return sum(lengths) * max(times, 0) if operator == "*" else sum(lengths)


def _filled(form: Any, values: Any) -> int:
    """At most so many characters are made of a text in which places are filled, each to a width it may name."""
    text = form.decode("latin-1") if isinstance(form, bytes) else str(form)
    widths = [int(digits) if len(digits) < 8 else MOST_CHARACTERS for digits in re.findall(r"\d+", text)]
    inner = [abs(each) for each in (values if isinstance(values, tuple | list) else (values,)) if isinstance(each, int)]
    starred = max(inner, default=0) if "*" in text or "{" in text else 0
    places = text.count("%") + text.count("{")
    return len(text) + sum(widths) + places * (_weight(values) + starred)


def _shallow(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return ELEMENT * len(value) if isinstance(value, list | tuple) else 0


def _weight(value: Any) -> int:
    """Characters of a value and all within it; not counted further than it may go."""
    if isinstance(value, str):
        return len(value)
    total, waiting = 0, [value]
    while waiting and total <= MOST_CHARACTERS:
        each = waiting.pop()
        if isinstance(each, str | bytes):
            total += len(each)
        elif isinstance(each, dict):
            total += 2 * ELEMENT * len(each)
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            total += ELEMENT * len(each)
            waiting += each
        else:
            total += ELEMENT
    return total

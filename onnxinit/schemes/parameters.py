"""Parameters of schemes: read off the signature of the scheme's function, parsed from text, checked."""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxinit.errors import SchemeError

Value = float | int | bool | str
Kind = Literal["number", "integer", "flag", "choice", "text"]


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number: `Annotated[float, Range(least=0)]` in a signature."""

    least: float = -math.inf
    most: float = math.inf

    def __str__(self) -> str:
        if self.least == -math.inf and self.most == math.inf:
            return "finite"
        if self.most == math.inf:
            return f"at least {self.least:g}"
        if self.least == -math.inf:
            return f"at most {self.most:g}"
        return f"from {self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a scheme.

    Attributes:
        name: Its name in a SPEC.
        kind: What it takes.
        default: What it is when it is not given; None where it then follows from something else.
        help: One line.
        choices: The words that a choice may be.
        range: The bounds of a number.
    """

    name: str
    kind: Kind
    default: Value | None
    help: str = ""
    choices: tuple[str, ...] = ()
    range: Range = Range()

    @property
    def takes(self) -> str:
        """What a value must be, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "flag":
            return "true or false"
        if self.kind == "text":
            return "a text"
        return f"{'an integer' if self.kind == 'integer' else 'a number'}, {self.range}"

    def read(self, value: object, scheme: str) -> Value:
        """Check a value, given as text (from a SPEC) or as it is (from Python or JSON).

        Raises:
            SchemeError: The value is of another kind or out of range.
        """
        found = self._as_kind(value)
        if found is None:
            hint = nearest(str(value), self.choices) if self.kind == "choice" else ""
            raise SchemeError(f"{scheme}: {self.name} must be {self.takes}, not '{value}'{hint}")
        return found

    def _as_kind(self, value: object) -> Value | None:
        if self.kind == "choice":
            return value if isinstance(value, str) and value in self.choices else None
        if self.kind == "flag":
            return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
        if self.kind == "text":
            return value if isinstance(value, str) and value else None
        number = as_number(value)
        if number is None or not self.range.least <= number <= self.range.most:
            return None
        if self.kind == "integer":
            return int(number) if number == int(number) else None
        return number


def as_number(value: object) -> float | None:
    """A finite number given as text or as a number, else None."""
    if isinstance(value, bool) or not isinstance(value, str | Real):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number + 0.0 if math.isfinite(number) else None  # + 0.0 makes -0 into 0


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' where a known word is near, else ''."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a scheme's function: its keyword-only arguments.

    A Literal is a choice, bool a flag, int an integer, float a number, str a text, `| None` may be left open;
    bounds stand in `Annotated[float, Range(...)]`, and the help in the docstring's Args.

    Raises:
        SchemeError: An argument has no default, or is of another type.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # names that only the function's own place knows: the defaults must do
        hints = {}
    helps = docstring_args(inspect.getdoc(function) or "")
    return tuple(
        _parameter(p, hints.get(p.name, type(p.default)), helps.get(p.name, ""), function)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    )


def _parameter(p: inspect.Parameter, hint: Any, text: str, function: Callable[..., Any]) -> Parameter:
    if p.default is p.empty:
        raise SchemeError(f"the scheme function {function.__qualname__}: give the parameter '{p.name}' a default")
    bounds = Range()
    choices: tuple[str, ...] = ()
    while get_origin(hint) in (Annotated, Union, UnionType):
        args = get_args(hint)
        bounds = next((a for a in args if isinstance(a, Range)), bounds)
        hint = next(a for a in args if a is not NoneType)
    if get_origin(hint) is Literal:
        choices, hint = get_args(hint), str
    kinds: dict[Any, Kind] = {bool: "flag", int: "integer", float: "number", str: "text"}
    kind = "choice" if choices else kinds.get(hint)
    if kind is None:
        raise SchemeError(
            f"the scheme function {function.__qualname__}: the parameter '{p.name}' must be a float, int, bool, "
            "str or Literal of words"
        )
    default = float(p.default) if kind == "number" and p.default is not None else p.default
    return Parameter(p.name, kind, default, text, choices, bounds)


def docstring_args(doc: str) -> dict[str, str]:
    """The Args section of a Google docstring, one line each."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", doc, re.MULTILINE)
    if section is None:
        return {}
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def docstring_field(doc: str, name: str) -> str:
    """What stands after `Name:` at the start of a line, up to the next empty line, as one line."""
    found = re.search(rf"^{name}: ((?:.+\n?)+)", doc, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""

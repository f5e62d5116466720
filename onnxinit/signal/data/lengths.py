"""Lengths for the dimensions that a model leaves free, so that its graph runs.

The graph is asked. Each free dimension gets a mark, a prime that is no length of the model; shapes are inferred with
the marks; where an operator wants two lengths to be equal (`fit`), the marks in them tell which dimension is meant.
What an equation gives with two sets of marks does not depend on them, and holds. What nothing is asked of gets a
default, larger ones where the graph does not fit these.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from onnxinit.signal.data.fit import equations
from onnxinit.signal.data.inputs import Dim, Input
from onnxinit.signal.data.past import past_axes
from onnxinit.signal.data.purposes import shaped

Key = str | tuple[str, int]
"""A free dimension: its name, or the input and axis that it is of."""

Shapes = dict[str, tuple[int, ...]]

CHANNELS = 3
_TRIALS = ((16, 32), (32, 64), (16, 224), (64, 28), (16, 299), (256, 128), (1024, 512), (16384, 1024))
_MARKS = (
    (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069, 1087, 1091, 1093, 1097),
    (2003, 2011, 2017, 2027, 2029, 2039, 2053, 2063, 2069, 2081, 2083, 2087, 2089, 2099, 2111, 2113),
)
_ROUNDS = 4


def resolve(model: onnx.ModelProto | None, inputs: Sequence[Input], batch: int, dims: Mapping[str, int]) -> Shapes:
    """A shape for every input; a name is one length wherever it stands.

    Args:
        model: The model, where it is known.
        inputs: Its inputs.
        batch: The length of free first axes.
        dims: Lengths that are given.

    Returns:
        By name of the input.
    """
    past = list(past_axes(model)) if model is not None and _Free(inputs, {}).open() else []
    best: tuple[float, Shapes] = (math.inf, {})
    for joined in (past, []) if past else ([],):  # a window that slides over a past needs some of it
        free = _Free(inputs, {name: n for name, n in dims.items()})
        for name, axis in joined:
            free.found.setdefault(free.key(name, axis), 0)
        best = min(best, _fitting(model, free, batch), key=_faults)
        if not best[0]:
            break
    return best[1]


def _fitting(model: onnx.ModelProto | None, free: _Free, batch: int) -> tuple[float, Shapes]:
    """Shapes that the graph fits, or fits best, with the number of faults."""
    best = _try(model, free, [(batch, *_TRIALS[0])])
    for guess in (False, True):
        if model is None or not best[0]:
            break
        for _ in range(_ROUNDS):
            if not (free.open() and _solve(model, free, guess)):
                break
        best = min(best, _try(model, free, _trials(batch)), key=_faults)
    return best


def _trials(batch: int) -> list[tuple[int, int, int]]:
    """Defaults to try: the batch asked for, then one of one, which many exporters bake in."""
    return [*((batch, *t) for t in _TRIALS), *((1, *t) for t in _TRIALS[:5])]


def _try(model: onnx.ModelProto | None, free: _Free, trials: Sequence[tuple[int, int, int]]) -> tuple[float, Shapes]:
    """The first defaults that the graph fits, or those that it fits best, with the number of faults."""
    best: tuple[float, Shapes] = (math.inf, {})
    tried: list[Shapes] = []
    for defaults in trials:
        shapes = free.shapes(*defaults)
        if shapes in tried:
            continue
        tried.append(shapes)
        wrong = sum(1 for _ in equations(shaped(model, shapes))) if model is not None and free.open() else 0
        best = min(best, (wrong, shapes), key=_faults)
        if not wrong:
            break
    return best


def _faults(pair: tuple[float, Shapes]) -> float:
    return pair[0]


@dataclass(slots=True)
class _Free:
    """The free dimensions of a model, and what is known of them.

    Attributes:
        inputs: The model's.
        found: Lengths.
        same: Dimensions that are as long as another one.
    """

    inputs: Sequence[Input]
    found: dict[Key, int]
    same: dict[Key, Key] = field(default_factory=dict)

    def key(self, name: str, axis: int) -> Key:
        dim = next(i for i in self.inputs if i.name == name).dims or ()
        named = dim[axis] if axis < len(dim) else None
        return named if isinstance(named, str) else (name, axis)

    def root(self, key: Key) -> Key:
        while key in self.same:
            key = self.same[key]
        return key

    def axes(self) -> Iterator[tuple[Input, int, Dim]]:
        for i in self.inputs:
            for axis, dim in enumerate(i.dims or ()):
                yield i, axis, dim

    def open(self) -> list[Key]:
        """The dimensions of which nothing is known, in order."""
        keys: dict[Key, None] = {}
        for i, axis, dim in self.axes():
            if not isinstance(dim, int):
                sum_ = self.expression(dim)
                parts: Sequence[Key] = sum_.names if sum_ else [self.key(i.name, axis)]
                keys.update(dict.fromkeys(self.root(k) for k in parts))
        return [k for k in keys if k not in self.found]

    def batches(self) -> set[Key]:
        """The dimensions that are first axes."""
        return {self.root(self.key(i.name, 0)) for i in self.inputs if i.dims and not isinstance(i.dims[0], int)}

    def expression(self, dim: Dim) -> _Expression | None:
        """What a name such as "past + 1" says, where it speaks of other dimensions."""
        if not isinstance(dim, str) or dim in self.found or dim.isidentifier():
            return None
        made = _Expression.read(dim)
        names = {d for i in self.inputs for d in i.dims or () if d != dim}
        return made if made is not None and names & {*made.names} | ({*made.names} & {*self.found}) else None

    def shapes(self, batch: int, length: int, side: int, marks: Mapping[Key, int] | None = None) -> Shapes:
        """Shapes with what is known, marks where there are some, and defaults."""
        values: dict[Key, int] = dict(self.found) | dict(marks or {})

        def value(key: Key, default: int) -> int:
            return values.setdefault(self.root(key), default)

        for i, axis, dim in self.axes():
            if axis == 0 and not isinstance(dim, int) and self.expression(dim) is None:
                value(self.key(i.name, 0), batch)
        shapes: Shapes = {}
        for i in self.inputs:
            shape: list[int] = []
            for axis, dim in enumerate(i.dims or ()):
                made = self.expression(dim)
                if isinstance(dim, int):
                    shape.append(dim)
                elif made is not None:
                    shape.append(made({n: value(n, length) for n in made.names}))
                else:
                    last = values.get(self.root(self.key(i.name, len(i.dims or ()) - 1)))
                    shape.append(value(self.key(i.name, axis), _default(i, axis, last, length, side)))
            shapes[i.name] = tuple(shape)
        return shapes


def _default(i: Input, axis: int, last: int | None, length: int, side: int) -> int:
    """Images have four or five axes, one of them of channels; all else is a sequence."""
    dims = i.dims or ()
    if len(dims) not in (4, 5):
        return length
    is_last = (dims[-1] if isinstance(dims[-1], int) else last) in (1, 3, 4)
    return CHANNELS if axis == 1 and not is_last else side


def _solve(model: onnx.ModelProto, free: _Free, guess: bool) -> bool:
    """Find what the graph asks of some free dimensions; False where it asks nothing more."""
    unknown = free.open()
    answers: list[dict[Key, int | Key]] = []
    for primes in _MARKS:
        marks = dict(zip(unknown, primes, strict=False))
        shapes = free.shapes(8, *_TRIALS[0], marks=marks)
        answers.append({})
        for a, b in equations(shaped(model, shapes), guess=guess):
            for key, answer in _answer(a, b, marks, free.batches()):
                answers[-1].setdefault(key, answer)
    agreed = {k: v for k, v in answers[0].items() if answers[1].get(k) == v}
    for key, answer in agreed.items():
        if isinstance(answer, int):
            free.found.setdefault(free.root(key), answer)
        elif free.root(key) != free.root(answer):
            free.same[free.root(key)] = free.root(answer)
    return bool(agreed)


def _answer(a: int, b: int, marks: Mapping[Key, int], batches: set[Key]) -> Iterator[tuple[Key, int | Key]]:
    """What a = b says of the marks in it: of several in a product, that batches are one and the others the same."""
    (left, c), (right, d) = _factors(a, marks), _factors(b, marks)
    for key in [k for k in left if k in right]:
        left.remove(key)
        right.remove(key)
    if right and not left:
        left, c, right, d = right, d, left, c
    if right and c == d and len(left) == len(right) == 1:
        first, second = sorted((left[0], right[0]), key=list(marks).index)
        yield second, first
    elif left and not right and c and d % c == 0 and d > 0:
        sides = [key for key in left if key not in batches] or left
        side = round((d // c) ** (1 / len(sides)))
        if side ** len(sides) == d // c:
            yield from ((key, side if key in sides else 1) for key in left)


def _factors(n: int, marks: Mapping[Key, int]) -> tuple[list[Key], int]:
    found: list[Key] = []
    for key, mark in marks.items():
        while n and n % mark == 0:
            n //= mark
            found.append(key)
    return found, n


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


@dataclass(frozen=True, slots=True)
class _Expression:
    """A sum or product of names and numbers."""

    tree: ast.expr
    names: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> _Expression | None:
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError):
            return None
        nodes = [n for n in ast.walk(tree) if not isinstance(n, ast.operator | ast.expr_context)]
        allowed = all(
            isinstance(n, ast.Name)
            or (isinstance(n, ast.BinOp) and type(n.op) in _OPERATORS)
            or (isinstance(n, ast.Constant) and type(n.value) is int)
            for n in nodes
        )
        return cls(tree, tuple(dict.fromkeys(n.id for n in nodes if isinstance(n, ast.Name)))) if allowed else None

    def __call__(self, values: Mapping[str, int]) -> int:
        try:
            return max(0, self._value(self.tree, values))
        except ZeroDivisionError:
            return 0

    def _value(self, tree: ast.expr, values: Mapping[str, int]) -> int:
        if isinstance(tree, ast.BinOp):
            return _OPERATORS[type(tree.op)](self._value(tree.left, values), self._value(tree.right, values))
        return values[tree.id] if isinstance(tree, ast.Name) else int(getattr(tree, "value", 0))

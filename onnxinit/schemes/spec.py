"""SPEC: a scheme with its parameters and its gain, as one writes it: he, he:mode=fan_out,gain=2, sparse:nonzeros=15.

A value that holds commas, or begins or ends with blanks, stands in double quotes, a quote in it doubled:
`lsuv:base="he:mode=fan_out,gain=2"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import Activation
from onnxinit.errors import SchemeError
from onnxinit.sampling import Stream
from onnxinit.schemes.distribution import Distribution
from onnxinit.schemes.parameters import Value, as_number, nearest
from onnxinit.schemes.table import SCHEMES, Block, Floats, Scheme, resolve

Array = npt.NDArray[np.generic]
Gain = float | Literal["paper", "exact", "upstream"]
_GAINS = ("paper", "exact", "upstream")
_COMMA = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')  # with whole quotes after it


@dataclass(frozen=True, slots=True)
class Spec:
    """A scheme with its parameters: equal when they mean the same.

    Attributes:
        name: The scheme's canonical name.
        params: The parameters that differ from their defaults, in the table's order.
        gain: A number, or where the gain comes from.
    """

    name: str
    params: tuple[tuple[str, Value], ...] = ()
    gain: Gain = "paper"

    @classmethod
    def of(cls, name: str, params: Mapping[str, object] | None = None, gain: object = "paper") -> Spec:
        """A spec from a name or alias and parameters given as text or values.

        Raises:
            SchemeError: The scheme or a parameter does not exist, is of another kind, or is out of range.
        """
        scheme, preset = resolve(name)
        for key in params or {}:
            if key in preset:
                raise SchemeError(f"'{name}' sets {key} itself: write '{scheme.name}:{key}=...' instead")
        values = scheme.read({**preset, **(params or {})})
        changed = tuple((p.name, v) for p in scheme.parameters if (v := values[p.name]) != p.default and v is not None)
        return cls(scheme.name, changed, _read_gain(scheme, gain))

    @property
    def scheme(self) -> Scheme:
        """The row of the table."""
        return SCHEMES[self.name]

    @property
    def values(self) -> dict[str, Value | None]:
        """All parameters, defaults included."""
        return {p.name: p.default for p in self.scheme.parameters} | dict(self.params)

    @property
    def structured(self) -> bool:
        """Whether `draw` makes whole blocks; otherwise `distribution` gives the law of independent values."""
        return self.scheme.structured(self.values)

    @property
    def planned(self) -> bool:
        """Whether the plan must put something in its place (auto, keep): there is nothing to draw."""
        row = self.scheme
        return row.law is None and row.make is None and row.draw_from is None

    @property
    def piece(self) -> str:
        """What `draw_from` gets at a time: a block, the tensor as it is stored, or a chunk of the stored order."""
        return str(self.values.get(self.scheme.piece, self.scheme.piece))

    @property
    def pending(self) -> bool:
        """Whether a pass over the signal settles what it means for a weight."""
        return self.scheme.by_pass

    def without_gain(self) -> Spec:
        """The same at gain 1, for a plan that keeps the gain beside it."""
        return replace(self, gain="paper")

    def distribution(self, block: Block) -> Distribution:
        """The law of an independent scheme at gain 1.

        Raises:
            SchemeError: The scheme needs a fan that the block has not.
        """
        assert self.scheme.law is not None, f"{self.name} is structured"
        law = self.scheme.law(block, **self.values)
        if not isinstance(law, Distribution):
            raise SchemeError(f"the scheme '{self.name}' returned {type(law).__name__} in place of a Distribution")
        return law

    def moments(self, block: Block) -> tuple[float, float] | None:
        """Mean and standard deviation of a block's values at gain 1; None where a scheme states none.

        Raises:
            SchemeError: The scheme cannot draw the block.
        """
        if self.scheme.draw_from is not None:
            return None
        if not self.structured:
            law = self.distribution(block)
            return law.expectation, law.deviation
        return self.scheme.moments(block, **self.values) if self.scheme.moments else None

    def draw(self, block: Block, stream: Stream) -> Floats:
        """One block of a structured scheme at gain 1: an array of block.shape and block.dtype.

        Raises:
            SchemeError: The scheme cannot make a block of this shape.
        """
        assert self.scheme.make is not None, f"{self.name} is independent"
        if 0 in block.shape:
            return np.zeros(block.shape, block.dtype)
        drawn = self._checked(self.scheme.make(block, stream, **self.values), block)
        return cast(Floats, drawn.astype(block.dtype, copy=False))

    def draw_from(self, block: Block, stream: Stream, old: Array) -> Array:
        """One piece of a scheme that takes values from a tensor, at gain 1.

        Args:
            block: What is drawn, of the shape of the piece.
            stream: The random bits.
            old: The values of the tensor there.

        Returns:
            An array of block.shape.

        Raises:
            SchemeError: The scheme cannot make a piece of this shape.
        """
        assert self.scheme.draw_from is not None, f"{self.name} draws from nothing"
        return self._checked(self.scheme.draw_from(block, stream, old, **self.values), block)

    def _checked(self, made: Any, block: Block) -> Array:
        drawn = np.asarray(made)
        if drawn.shape != block.shape:
            raise SchemeError(f"the scheme '{self.name}' returned the shape {drawn.shape} for a block of {block.shape}")
        return drawn

    def paper_gain(self, downstream: Sequence[Activation]) -> float:
        """The gain of the scheme's paper."""
        return self.scheme.paper_gain(self.values, downstream)

    def to_json(self) -> dict[str, Any]:
        """{"scheme": name, "params": {...}, "gain": ...}; the gain only where it is not the paper's."""
        gain = {} if self.gain == "paper" else {"gain": self.gain}
        return {"scheme": self.name, "params": dict(self.params), **gain}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        """The inverse of `to_json`.

        Raises:
            SchemeError: As `of`.
        """
        return cls.of(data["scheme"], data.get("params", {}), data.get("gain", "paper"))

    def __str__(self) -> str:
        pairs = [f"{k}={_text(v)}" for k, v in self.params]
        if self.gain != "paper":
            pairs.append(f"gain={_text(self.gain)}")
        return f"{self.name}:{','.join(pairs)}" if pairs else self.name


def parse_spec(text: str) -> Spec:
    """Read a SPEC: name, or name:key=value,key=value.

    Raises:
        SchemeError: It is not of that form, or as `Spec.of`.
    """
    name, colon, rest = text.strip().partition(":")
    given: dict[str, str] = {}
    for pair in _COMMA.split(rest) if colon else ():
        key, equals, value = (s.strip() for s in pair.partition("="))
        if value.startswith('"'):
            if len(value) < 2 or not value.endswith('"'):
                raise SchemeError(f"'{text}' opens a quote that it does not close")
            value = value[1:-1].replace('""', '"')
        if not (key and equals and value):
            raise SchemeError(f"'{text}' is not a scheme: write 'name' or 'name:key=value,key=value'")
        if key in given:
            raise SchemeError(f"'{text}' gives {key} twice")
        given[key] = value
    gain = given.pop("gain", "paper")
    return Spec.of(name.strip(), given, gain)


def _read_gain(scheme: Scheme, gain: object) -> Gain:
    if gain == "paper":
        return "paper"
    if not scheme.gain:
        takes = ", ".join(p.name for p in scheme.parameters)
        raise SchemeError(f"the scheme '{scheme.name}' takes no gain{f': it takes {takes}' if takes else ''}")
    if gain in ("exact", "upstream"):
        return gain
    number = as_number(gain)
    if number is None or number < 0:
        hint = nearest(str(gain), _GAINS)
        raise SchemeError(
            f"{scheme.name}: gain must be paper, exact, upstream or a number, at least 0, not '{gain}'{hint}"
        )
    return number


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (value != value.strip() or "," in value or '"' in value):
        return '"' + value.replace('"', '""') + '"'
    return repr(int(value)) if isinstance(value, float) and value == int(value) and abs(value) < 1e15 else str(value)

"""The table of schemes and the decorator that adds a row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from onnxinit import plugins
from onnxinit.analysis.weight import Activation
from onnxinit.errors import SchemeError
from onnxinit.schemes.parameters import Parameter, Value, docstring_field, nearest, parameters_of

Params = Mapping[str, Any]
Floats = npt.NDArray[np.floating[Any]]
Exactness = Literal["bytes", "1e-6"]
Origin = Literal["", "own", "model"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Block:
    """What a scheme is told of the block, or of the part whose blocks are alike.

    Attributes:
        shape: The canonical shape (out, in, *kernel); the stored shape for a tensor without a layout.
        fan_in: Input values that reach one output value; for a bias those of its layer; None where there is none.
        fan_out: Output values that one input value reaches, or None.
        name: The operator's name for the block ("Wb.f", "q"), or "".
        dtype: float32 or float64, the type that structured schemes return.
        moments: Mean and standard deviation of the non-zero values that the whole tensor had, for schemes that take a
            tensor's values in chunks.
    """

    shape: tuple[int, ...]
    fan_in: float | None = None
    fan_out: float | None = None
    name: str = ""
    dtype: np.dtype[np.floating[Any]] = field(default=np.dtype(np.float32))
    moments: tuple[float, float] = (0.0, 0.0)

    def fan(self, mode: str) -> float:
        """The fan of a mode: fan_in, fan_out, fan_avg (their mean) or fan_geo_avg (their geometric mean).

        Raises:
            SchemeError: The tensor has no such fan.
        """
        fans = {"fan_in": (self.fan_in,), "fan_out": (self.fan_out,)}.get(mode, (self.fan_in, self.fan_out))
        known = [f for f in fans if f is not None]
        if len(known) < len(fans):
            raise SchemeError(
                f"{mode} is not defined for a tensor of this kind: take a scheme without fans, such as "
                "zeros, constant:value=0.01 or normal:std=0.02"
            )
        return float(np.sqrt(known[0] * known[-1])) if mode == "fan_geo_avg" else sum(known) / len(known)


@dataclass(frozen=True, slots=True)
class Scheme:
    """One row of the table.

    Attributes:
        name: The canonical name.
        aliases: Other names, each with the parameters that it sets (`he_uniform`: distribution=uniform).
        parameters: What the SPEC may set, gain aside.
        summary: One line.
        formula: The law at gain 1.
        source: The paper or library that it comes from.
        family: The file that it stands in: constant, independent, fan, structured, sources, passes, defaults,
            or plugin.
        gain: Whether the SPEC may carry a gain.
        symmetric: Whether all units of a layer start alike, so that training cannot tell them apart.
        exact_to: "bytes": the same everywhere; "1e-6": needs BLAS or LAPACK, so the same to 1e-6.
        law: For independent schemes: (block, **params) -> Distribution, at gain 1.
        make: For structured schemes: (block, stream, **params) -> array of block.shape, at gain 1.
        make_if: The flag parameter that picks `make` where a scheme has both, else "".
        moments: For structured schemes, where they are known: (block, **params) -> mean and standard deviation of what
            `make` draws.
        draw_from: For schemes that take values from a tensor: (block, stream, old, **params) -> array of block.shape,
            at gain 1; `old` are the values of that tensor.
        origin: Which tensor that is: "own", the one that is replaced, or "model", one of another model, whose file and
            weight the parameters `path` and `weight` name.
        piece: What `draw_from` gets at a time: a "block", the "tensor" as it is stored, or a "chunk" of the stored
            order; or the name of the parameter that says so.
        moves: Whether the old values are only moved about: they keep their bits, quantised ones their scales.
        paper: (params, downstream activations) -> the gain of the paper.
        check: Raises SchemeError for parameters that do not go together.
        by_pass: Whether a pass over the signal (LSUV and the like) puts something in its place, a plan into a plan.
    """

    name: str
    aliases: Mapping[str, Params] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    summary: str = ""
    formula: str = ""
    source: str = ""
    family: str = ""
    gain: bool = False
    symmetric: bool = False
    exact_to: Exactness = "bytes"
    law: Callable[..., Any] | None = None
    make: Callable[..., Any] | None = None
    make_if: str = ""
    moments: Callable[..., tuple[float, float]] | None = None
    draw_from: Callable[..., Any] | None = None
    origin: Origin = ""
    piece: str = "block"
    moves: bool = False
    paper: Callable[[Params, Sequence[Activation]], float] | None = None
    check: Callable[[Params], None] | None = None
    by_pass: bool = False

    def paper_gain(self, params: Params, downstream: Sequence[Activation]) -> float:
        """The gain of the paper: sqrt(2 / (1 + slope^2)) for he, 1 for the others."""
        return self.paper(params, downstream) if self.paper else 1.0

    def structured(self, params: Params) -> bool:
        """Whether whole blocks are drawn (`make`), not independent values (`law`)."""
        return self.make is not None and (self.law is None or bool(params.get(self.make_if)))

    def read(self, given: Mapping[str, object]) -> dict[str, Value | None]:
        """Check parameters and fill in the defaults.

        Raises:
            SchemeError: A parameter is unknown, of another kind, out of range, or does not go with another.
        """
        known = {p.name: p for p in self.parameters}
        for name in given:
            if name not in known:
                takes = [*known, "gain"] if self.gain else list(known)
                listed = ", ".join(takes) or "none"
                raise SchemeError(
                    f"the scheme '{self.name}' has no parameter '{name}'{nearest(name, takes)}: it takes {listed}"
                )
        params = {
            p.name: p.read(given[p.name], self.name) if given.get(p.name) is not None else p.default
            for p in self.parameters
        }
        if self.check is not None:
            try:
                self.check(params)
            except SchemeError as e:
                raise SchemeError(f"{self.name}: {e}") from None
        return params


_TABLE: dict[str, Scheme] = {}
_NAMES: dict[str, tuple[str, Params]] = {}

SCHEMES: Mapping[str, Scheme] = MappingProxyType(_TABLE)
"""The schemes by canonical name, in the order of the files, and behind them those of other packages that are loaded."""


def register(row: Scheme) -> Scheme:
    """Add a row to the table.

    Raises:
        SchemeError: One of its names is taken.
    """
    for name in (row.name, *row.aliases):
        if name in _NAMES:
            raise SchemeError(f"a scheme named '{name}' exists already: choose another name")
        if not name.isidentifier():
            raise SchemeError(f"'{name}' cannot name a scheme: use letters, digits and _")
    _TABLE[row.name] = row
    _NAMES[row.name] = (row.name, {})
    _NAMES.update((alias, (row.name, preset)) for alias, preset in row.aliases.items())
    return row


def scheme(
    name: str,
    *,
    aliases: Mapping[str, Params] | None = None,
    gain: bool = False,
    symmetric: bool = False,
    exact_to: Exactness | None = None,
    paper: Callable[[Params, Sequence[Activation]], float] | None = None,
    check: Callable[[Params], None] | None = None,
    make_if: tuple[str, Callable[..., Any]] | None = None,
    moments: Callable[..., tuple[float, float]] | None = None,
    by_pass: bool = False,
    origin: Literal["own", "model"] = "own",
    piece: str = "block",
    moves: bool = False,
) -> Callable[[Function], Function]:
    """Register a function as a scheme.

    The function takes a `Block`, for a structured scheme a `Stream` as well, and for one that draws from a tensor that
    tensor's values too; its keyword-only arguments are the scheme's parameters. An independent one returns a
    `Distribution`, the others an array of the block's shape. Summary, Formula, Source and Args are read from its
    docstring.

        @onnxinit.scheme("sixth")
        def sixth(block, *, scale: float = 1.0):
            return onnxinit.Distribution.normal(scale / block.fan("fan_in") ** 0.6)

    Args:
        name: The scheme's name, letters, digits and _.
        aliases: Other names, each with the parameters that it sets.
        gain: Whether a SPEC may carry a gain.
        symmetric: Whether all units start alike (a warning on weights).
        exact_to: What the values can promise; "bytes" for an independent scheme, "1e-6" for a structured one.
        paper: The gain that gain=paper stands for, from parameters and downstream activations; 1 if left out.
        check: Raises SchemeError for parameters that do not go together.
        make_if: A flag parameter, and the structured function that takes over where it is set.
        moments: Mean and standard deviation of what a structured function draws, from the block and the parameters.
        by_pass: Whether a pass over the signal settles what weights get: the function is never called, its parameters
            and docstring describe the pass.
        origin: Which tensor values are drawn from: the one that is replaced, or one of another model.
        piece: What is drawn from it at a time: block, tensor, chunk, or the parameter that says so.
        moves: Whether its values are only moved about.

    Returns:
        The decorator; it gives the function back as it was.

    Raises:
        SchemeError: The name is taken, or the signature does not fit.
    """

    def add(function: Function) -> Function:
        arguments = inspect.signature(function).parameters.values()
        positional = [p for p in arguments if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(positional) not in ((0,) if by_pass else (1, 2, 3)):
            raise SchemeError(
                f"the scheme function {function.__qualname__} must take (block), (block, stream) or (block, stream, "
                "old), and its parameters as keyword-only arguments after a *"
            )
        structured, sourced = len(positional) == 2, len(positional) == 3
        doc = inspect.getdoc(function) or ""
        module = function.__module__
        register(
            Scheme(
                name=name,
                aliases=MappingProxyType(dict(aliases or {})),
                parameters=parameters_of(function),
                summary=doc.partition("\n")[0],
                formula=docstring_field(doc, "Formula"),
                source=docstring_field(doc, "Source"),
                family=module.rpartition(".")[2] if module.startswith("onnxinit.") else "plugin",
                gain=gain,
                symmetric=symmetric,
                exact_to=exact_to or ("1e-6" if structured or sourced else "bytes"),
                law=None if structured or sourced or by_pass else function,
                make=function if structured else make_if[1] if make_if else None,
                make_if=make_if[0] if make_if else "",
                moments=moments,
                draw_from=function if sourced else None,
                origin=origin if sourced else "",
                piece=piece,
                moves=moves,
                paper=paper,
                check=check,
                by_pass=by_pass,
            )
        )
        return function

    return add


def find(name: str) -> Scheme:
    """The scheme of a name or alias.

    Raises:
        SchemeError: There is none; the message names the nearest.
    """
    return resolve(name)[0]


def resolve(name: str) -> tuple[Scheme, Params]:
    """The scheme of a name or alias, and the parameters that the alias sets.

    Raises:
        SchemeError: There is none; the message names the nearest.
    """
    if name not in _NAMES:
        plugins.load_plugins(plugins.SCHEMES)
    if name not in _NAMES:
        raise SchemeError(f"there is no scheme named '{name}'{nearest(name, _NAMES)}: `onnxinit schemes` lists them")
    row, preset = _NAMES[name]
    return _TABLE[row], preset

"""Operators that a user describes: a few lines of TOML for each operand that holds a weight.

    [[operator]]
    domain = "com.example"
    op = "GroupedLinear"
    input = 1
    role = "weight"
    axes = ["g*out", "in"]      # one word for every axis of the operand: out, in, kernel or block
    groups = "group"            # the attribute that g stands for; 1 where the node lacks it

A number before a word, as in "3*out", says that so many matrices stand side by side along the axis. A role without
matrices (bias, norm_scale ...) needs no axes. What is described so comes before the program's own table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from onnxinit.analysis.operators.table import Key, Operators, Reading, Row, Site, out_value
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.weight import FAN_ROLES, ROLES, Kind
from onnxinit.errors import ModelError, SchemeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KINDS: tuple[Kind, ...] = get_args(Kind)
_TYPES: Mapping[str, type] = {"domain": str, "op": str, "input": int, "role": str, "axes": list, "groups": str}
_NEEDED = ("op", "input", "role")
_LEARNED = tuple(r for r in ROLES if not r.startswith("quant_"))


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis: a kind, and how many matrices stand side by side along it (0 for as many as there are groups)."""

    kind: Kind
    count: int = 1


@dataclass(frozen=True, slots=True)
class _Operand:
    """One described operand."""

    where: str  # file and place, for messages
    key: Key
    input: int
    role: str
    axes: tuple[_Axis, ...] = ()
    groups: str = ""

    def read(self, site: Site, weight: int | None) -> Reading:
        """What the operand holds at one use.

        Args:
            site: The use.
            weight: The input that holds the operator's kernel, None where none is described.

        Raises:
            ModelError: The axes described do not fit the operand.
        """
        node = site.node
        source = next((v for v in node.inputs if v is not None and not v.static), None)
        g = node.int_attribute(self.groups, 1) if self.groups else 1
        tiles = self._tiles(site, g) if self.axes else None
        layer = node.input(weight) if self.role == "bias" and weight is not None else None
        return Reading(self.role, tiles, groups=g, output=out_value(node), source=source, layer=layer)

    def _tiles(self, site: Site, groups: int) -> list[list[Tile]]:
        value = site.node.input(self.input)
        held = f"{value.name if value is not None else ''!r} of shape {list(site.shape)}"
        if len(self.axes) != len(site.shape):
            raise ModelError(f"{self.where} gives {len(self.axes)} axes for {held}: give one word for each axis")
        tiles: list[list[Tile]] = []
        for axis, n in zip(self.axes, site.shape, strict=True):
            count = axis.count or groups
            if count < 1 or n % count:
                raise ModelError(f"{self.where} cuts an axis of {held} into {count} parts, which {n} is no multiple of")
            tiles.append([(count, "block"), (n // count, axis.kind)])
        return tiles


def load_operators(*paths: Path | str) -> Operators:
    """Read files that describe operators.

    Args:
        paths: TOML files as the module says. An operator may be described in several, an operand in one of them.

    Returns:
        Rows by domain and operator, for `analyse(file, operators=...)`.

    Raises:
        SchemeError: A file cannot be read, or describes something that cannot be; the message says which entry.
    """
    operands: dict[Key, dict[int, _Operand]] = {}
    for path in paths:
        for i, entry in enumerate(_entries(path)):
            operand = _operand(f"{path}, operator {i + 1}", entry)
            inputs = operands.setdefault(operand.key, {})
            if operand.input in inputs:
                raise SchemeError(
                    f"{operand.where} describes input {operand.input} of {operand.key[1]} again: remove one"
                )
            inputs[operand.input] = operand
    return {key: _row(inputs) for key, inputs in operands.items()}


def _entries(path: Path | str) -> list[dict[str, Any]]:
    """The tables of a file."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise SchemeError(f"the operators in {path} cannot be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SchemeError(f"{path} is not TOML: {e}") from e
    entries = content.get("operator")
    if set(content) != {"operator"} or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise SchemeError(f"{path} describes no operators: start each with a line [[operator]], and nothing else")
    return entries


def _row(operands: Mapping[int, _Operand]) -> Row:
    weight = next((o.input for o in operands.values() if o.role in FAN_ROLES), None)

    def read(site: Site) -> Reading | None:
        operand = operands.get(site.at)
        return operand.read(site, weight) if operand is not None else None

    return read


def _operand(where: str, entry: Mapping[str, Any]) -> _Operand:
    for name, value in entry.items():
        if name not in _TYPES:
            raise SchemeError(f"{where} has no use for {name!r}{_near(name, _TYPES)}")
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            raise SchemeError(f"{where}: {name} = {value!r} is not {_a(_TYPES[name])}")
    missing = [name for name in _NEEDED if name not in entry]
    if missing:
        raise SchemeError(f"{where} does not say {' nor '.join(missing)}")
    role, at = entry["role"], entry["input"]
    if at < 0:
        raise SchemeError(f"{where}: input = {at} is not a whole number from 0 on")
    if role not in _LEARNED:
        raise SchemeError(f"{where}: there is no role {role!r}{_near(role, _LEARNED)}")
    axes = tuple(_axis(where, a) for a in entry.get("axes", ()))
    groups = entry.get("groups", "")
    if role in FAN_ROLES and not axes:
        raise SchemeError(f'{where}: a {role} needs axes, such as axes = ["out", "in"]')
    if any(a.count == 0 for a in axes) != bool(groups):
        raise SchemeError(f'{where}: groups = "attribute" and an axis "g*out" or "g*in" go together')
    domain = entry.get("domain", "")
    return _Operand(where, ("" if domain == "ai.onnx" else domain, entry["op"]), at, role, axes, groups)


def _axis(where: str, text: object) -> _Axis:
    count, star, kind = str(text).rpartition("*")
    words = [k for k in _KINDS if k == kind.strip()]
    number = count.strip()
    if (
        not words
        or not isinstance(text, str)
        or (star and number != "g" and not (number.isdecimal() and int(number) > 0))
    ):
        raise SchemeError(f"{where}: {text!r} is no axis: out, in, kernel or block, or such as 3*out or g*out")
    return _Axis(words[0], 1 if not star else 0 if number == "g" else int(number))


def _near(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = get_close_matches(name, names, 1)
    return f": did you mean {close[0]!r}?" if close else f": it takes {', '.join(names)}"


def _a(kind: type) -> str:
    return {str: "a text", int: "a whole number", list: "a list"}[kind]

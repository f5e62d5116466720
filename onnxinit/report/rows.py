"""The rows of the table: one for each weight, or, where a hundred would repeat, one for each group of like weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from onnxinit.analysis.weight import FAN_ROLES, Weight
from onnxinit.plan import Entry, Vector

MANY = 40  # rows; more are grouped

_NUMBER = re.compile(r"\d+")
_LONG = re.compile(r"\b\d+\.\d{6,}\b")


@dataclass(frozen=True, slots=True)
class Row:
    """What the table shows of a weight, or of `count` weights that look alike.

    Attributes:
        name: The id, or a glob that fits the ids of the group.
        role: The role.
        shape: Dimensions joined by x; "various" where they differ.
        fans: fan_in/fan_out; "" for roles without.
        activation: The downstream activations of a weight with fans.
        scheme: What draws it, with the gain where it is not the scheme's own; "kept" where nothing does.
        std: The standard deviation asked for.
        count: How many weights.
        taken: The weight of another model that it is taken from, where that has another id, or a glob that fits those
            of the group; "" mostly.
    """

    name: str
    role: str
    shape: str
    fans: str
    activation: str
    scheme: str
    std: str
    count: int = 1
    taken: str = ""


def rows(weights: Iterable[Weight], entries: Iterable[Entry]) -> list[Row]:
    """The rows of a model's weights.

    Beyond `MANY` rows those are put together that differ only in the numbers within their ids; if that is still too
    many, also all weights without fans (biases, norms) that get the same.

    Args:
        weights: The weights, in file order.
        entries: What the plan draws.
    """
    drawn = {e.id: e for e in entries}
    plain = [_row(w, drawn.get(w.id)) for w in weights]
    if len(plain) <= MANY:
        return plain
    grouped = _group(plain, _numberless)
    if len(grouped) <= MANY:
        return grouped
    return _group(plain, _loosely)


def _numberless(row: Row) -> Row:
    return replace(row, name=_NUMBER.sub("*", row.name), taken=_NUMBER.sub("*", row.taken))


def _loosely(row: Row) -> Hashable:
    if row.role in FAN_ROLES:
        return _numberless(row)
    return (row.role, row.scheme, row.std)


def _group(plain: Sequence[Row], key: Callable[[Row], Hashable]) -> list[Row]:
    groups: dict[Hashable, list[Row]] = {}
    for row in plain:
        groups.setdefault(key(row), []).append(row)
    return [_merged(group) for group in groups.values()]


def _merged(group: Sequence[Row]) -> Row:
    shapes = {r.shape for r in group}
    return replace(
        group[0],
        name=common([r.name for r in group]),
        shape=group[0].shape if len(shapes) == 1 else "various",
        count=len(group),
        taken=common([r.taken for r in group]),
    )


def common(names: Sequence[str]) -> str:
    """A glob that fits all names: their own numbers as *, or else what they begin and end with.

    Examples:
        >>> common(["layer.0.weight", "layer.11.weight"])
        'layer.*.weight'
        >>> common(["conv.bias", "fc.bias"])
        '*.bias'
    """
    if len(set(names)) == 1:
        return names[0]
    if len({_NUMBER.sub("*", n) for n in names}) == 1:
        columns = zip(*(_NUMBER.findall(n) for n in names), strict=True)
        marks = iter([column[0] if len(set(column)) == 1 else "*" for column in columns])
        return _NUMBER.sub(lambda _: next(marks), names[0])
    head = _start(names)
    tail = _start([n[len(head) :][::-1] for n in names])[::-1]
    return f"{head}*{tail}"


def _start(names: Sequence[str]) -> str:
    """What all names begin with: the first and the last in order differ the soonest."""
    first, last = min(names), max(names)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def printable(text: str) -> str:
    """The text with what would steer a terminal or break a line escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _row(weight: Weight, entry: Entry | None) -> Row:
    donated = entry is not None and entry.scheme.scheme.origin == "model"
    taken = str(entry.scheme.values["weight"]) if entry is not None and donated else ""
    fans = weight.role in FAN_ROLES and weight.fan_in is not None and weight.fan_out is not None
    return Row(
        name=printable(weight.id),
        role=weight.role,
        shape="x".join(map(str, weight.shape)) or "scalar",
        fans=f"{weight.fan_in:g}/{weight.fan_out:g}" if fans else "",
        activation=", ".join(a.name for a in weight.downstream) if fans else "",
        scheme="kept" if entry is None else entry.scheme.name if donated else _scheme(weight, entry),
        std="" if entry is None or entry.std is None else f"{entry.std:.4g}",
        taken=printable(taken) if taken != weight.id else "",
    )


def _scheme(weight: Weight, entry: Entry) -> str:
    spec = _LONG.sub(lambda number: f"{float(number[0]):.4g}", str(entry.scheme))
    if isinstance(entry.gain, Vector):
        shown = "..".join(dict.fromkeys(f"{g:.4g}" for g in (min(entry.gain.values), max(entry.gain.values))))
    elif math.isclose(entry.gain, entry.scheme.paper_gain(weight.downstream), rel_tol=1e-9):
        return spec
    else:
        shown = f"{entry.gain:.4g}"
    return f"{spec}{',' if entry.scheme.params else ':'}gain={shown}"

"""A diagnosis for a person: one line a layer, what it was measured on, and the verdict; or two of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from onnxinit.plan import Left
from onnxinit.report.rows import MANY, printable
from onnxinit.report.text import KeptList, Paragraph, Table, count
from onnxinit.signal import Diagnosis, Gradient, LayerHealth

Part = Table | KeptList | Paragraph
Cell = Callable[[LayerHealth], str]

_COLOURS = {"healthy": "bold green", "unknown": "bold yellow"}
_BAD = "bold red"


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if 0 < value < 0.1 else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _std(h: LayerHealth) -> str:
    return "not finite" if h.std is None else f"{h.std:.3g}"


def _figure(g: Gradient | None, error: bool = True) -> str:
    if g is None:
        return ""
    if g.mean_square is None:
        return "not finite"
    if g.least and not g.resolved:
        return f"below {g.least:.1g}"
    exact = g.error is None or g.error < 1e-4 * g.mean_square
    return f"{g.mean_square:.3g}" + ("" if exact or not error else f" ± {g.error:.1g}")


_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("op", lambda h: h.op),
    ("std", _std),
    ("mean", lambda h: _number(h.mean)),
    ("dead", lambda h: _share(h.dead)),
    ("saturated", lambda h: _share(h.saturated)),
    ("not finite", lambda h: _share(h.non_finite) if h.non_finite else ""),
    ("gradient", lambda h: _figure(h.gradient)),
    ("vs last", lambda h: _number(h.relative)),
)
_PAIRED: tuple[tuple[str, Cell], ...] = (
    ("std", _std),
    ("dead", lambda h: _share(h.dead)),
    ("saturated", lambda h: _share(h.saturated)),
    ("gradient", lambda h: _figure(h.gradient, error=False)),
    ("vs last", lambda h: _number(h.relative)),
)


def diagnosis(found: Diagnosis) -> Iterator[Part]:
    """The table, what it was measured on, what was not reached, the verdict.

    Args:
        found: What was found.
    """
    shown = _shown(found)
    if shown:
        yield _table(_COLUMNS, [[cell(h) for _, cell in _COLUMNS] for h in shown], [h.id for h in shown])
        yield from _rest(found, shown)
        yield Paragraph()
        yield from _legend(found)
    yield Paragraph(_measured_on(found))
    if found.input is not None:
        yield Paragraph(f"from {printable(found.start)} to the outputs: {_figure(found.input)}{_backward(found.input)}")
    yield from _remarks(found)
    yield Paragraph()
    yield _verdict("verdict", found)


def compared(before: Diagnosis | str | None, after: Diagnosis | None) -> Iterator[Part]:
    """Two diagnoses of one model side by side: of its old weights, or why there is none, and of its fresh ones.

    Args:
        before: The first.
        after: The second; None where nothing was written.
    """
    if not isinstance(before, Diagnosis) or after is None:
        only = after if isinstance(after, Diagnosis) else before
        if isinstance(before, str):
            yield Paragraph(("diagnosis of the fresh weights alone: ", "bold"), printable(before))
            yield Paragraph()
        if isinstance(only, Diagnosis):
            yield from diagnosis(only)
            yield Paragraph()
        return
    old = _by_use(before.layers)
    pairs = [(old.get(use), h) for use, h in _by_use(after.layers).items()]
    shown = {id(h) for h in _shown(after)}
    lines = [([_arrow(cell(a) if a else "", cell(b)) for _, cell in _PAIRED], b.id) for a, b in pairs if id(b) in shown]
    if lines:
        yield _table(_PAIRED, [cells for cells, _ in lines], [ident for _, ident in lines])
    yield from _rest(after, [h for h in after.layers if id(h) in shown])
    yield Paragraph()
    yield from _legend(after, error="")
    yield Paragraph(_measured_on(after))
    if before.input is not None and after.input is not None:
        figures = _arrow(_figure(before.input), _figure(after.input))
        yield Paragraph(f"from {printable(after.start)} to the outputs: {figures}")
    yield from _remarks(after)
    yield Paragraph()
    yield _verdict("before", before)
    yield _verdict("after", after)
    yield Paragraph()


def _by_use(layers: Sequence[LayerHealth]) -> dict[tuple[str, int], LayerHealth]:
    """The layers by their weight, and by which of its uses they are."""
    uses: dict[tuple[str, int], LayerHealth] = {}
    seen: dict[str, int] = {}
    for h in layers:
        seen[h.id] = seen.get(h.id, -1) + 1
        uses[h.id, seen[h.id]] = h
    return uses


def _arrow(old: str, new: str) -> str:
    return new if old == new else f"{old or '?'} -> {new or '?'}"


def _table(columns: Sequence[tuple[str, Cell]], lines: Sequence[Sequence[str]], ids: Sequence[str]) -> Table:
    """The columns that say something."""
    used = [i for i in range(len(columns)) if any(line[i] for line in lines)]
    head = ("layer", *(columns[i][0] for i in used))
    body = [(printable(ident), *(line[i] for i in used)) for ident, line in zip(ids, lines, strict=True)]
    return Table(head, body, ["cyan" if i == 1 else "" for i in range(len(head))])


def _shown(found: Diagnosis) -> list[LayerHealth]:
    """All layers, or where they are many those with a gradient and those that something is wrong with."""
    if len(found.layers) <= MANY:
        return list(found.layers)
    named = {t.id for t in found.troubles}
    return [h for h in found.layers if h.gradient is not None or h.id in named]


def _rest(found: Diagnosis, shown: Sequence[LayerHealth]) -> Iterator[Paragraph]:
    """One line on the layers that are not shown."""
    seen = {id(h) for h in shown}
    stds = [h.std for h in found.layers if id(h) not in seen and h.std is not None]
    hidden = len(found.layers) - len(shown)
    if hidden:
        spread = f", std {min(stds):.3g} to {max(stds):.3g}" if stds else ""
        yield Paragraph((f"and {count(hidden, 'layer')} between them{spread}: --json lists all", "dim"))


def _legend(found: Diagnosis, error: str = ", ± its standard error") -> Iterator[Paragraph]:
    """What the figures are."""
    if any(h.gradient for h in found.layers):
        text = (
            f"gradient: mean squared singular value of the Jacobian from the layer's output to the model's{error}; "
            "vs last: that of the values which can differ from zero, relative to the last layer's"
        )
        yield Paragraph((text, "dim"))


def _measured_on(found: Diagnosis) -> str:
    what = "synthetic data" if found.source == "synthetic" else printable(found.source)
    return f"measured on {count(found.samples, 'sample')} of {what}"


def _backward(g: Gradient) -> str:
    if g.backward is None or not g.resolved:
        return ""
    return f" (the squared length of a gradient is multiplied by {g.backward:.3g} on its way back)"


def _remarks(found: Diagnosis) -> Iterator[Part]:
    for note in found.notes:
        yield Paragraph(printable(note), indent=8)
    noted = [Left(h.id, h.note) for h in found.layers if h.note]
    missed = [Left(ident, f"not reached: {reason}") for ident, reason in found.missed]
    if noted or missed:
        yield KeptList([*noted, *missed])


def _verdict(title: str, found: Diagnosis) -> Paragraph:
    word = found.verdict
    first = (f"{title}: ", "bold"), (word, _COLOURS.get(word, _BAD))
    if found.troubles:
        texts = [found.troubles[0].text, *(f"{t.kind}: {t.text}" for t in found.troubles[1:])]
        return Paragraph(*first, f": {printable('; '.join(texts))}")
    if word == "unknown":
        return Paragraph(*first, ": no layer was reached")
    return Paragraph(*first)

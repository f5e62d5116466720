"""What a person reads: the table of weights, what was kept and why, warnings, totals. Plain without a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from onnxinit.analysis.weight import Weight
from onnxinit.plan import Left, Plan
from onnxinit.report.inspection import Inspection
from onnxinit.report.rows import Row, printable, rows

_GAP = "  "
_HEAD = ("tensor", "role", "shape", "fan in/out", "activation", "std", "scheme")
_STYLES = ("", "cyan", "", "", "", "", "green")
_PIPE_WIDTH = 100  # columns where there is no terminal to ask


def console() -> Console:
    """The console on stdout: in colour to a terminal, plain to anything else."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=None if known else _PIPE_WIDTH)


class Paragraph:
    """A text, wrapped at words to the width of the console, all lines indented."""

    def __init__(self, *parts: str | tuple[str, str], indent: int = 0):
        self._text = Text.assemble(*parts)
        self._indent = " " * indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Wrap."""
        for line in self._text.wrap(console, max(1, options.max_width - len(self._indent))):
            line.rstrip()
            yield Text.assemble(self._indent, line)


class Table:
    """Lines of cells in the width of the console.

    A first cell (an id) is never cut: one that is too long for its column stands on a line of its own, the others on
    the next.

    Args:
        head: The titles.
        lines: The cells.
        styles: A style for each column.
        dim: Numbers of lines that matter less.
    """

    def __init__(
        self,
        head: Sequence[str],
        lines: Sequence[Sequence[str]],
        styles: Sequence[str],
        dim: Collection[int] = (),
    ):
        self._head, self._lines, self._styles, self._faint = head, lines, styles, dim

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out."""
        head, columns = self._head, len(self._head)
        widths = [max(map(cell_len, column)) for column in zip(head, *self._lines, strict=True)]
        details = sum(widths[1:]) + len(_GAP) * (columns - 1)
        widths[0] = min(widths[0], max(options.max_width - details, len(head[0])))
        yield _line(head, widths, ("bold",) * columns)
        yield Text(("-" if options.ascii_only else "─") * min(options.max_width, widths[0] + details), style="dim")
        for number, cells in enumerate(self._lines):
            styles = ("dim",) * columns if number in self._faint else self._styles
            if cell_len(cells[0]) > widths[0]:
                yield Text(cells[0], style=styles[0], overflow="fold")
                cells = ("", *cells[1:])
            yield _line(cells, widths, styles)


def weight_table(shown: Sequence[Row]) -> Table:
    """The rows as a table."""
    kept = {number for number, row in enumerate(shown) if row.scheme == "kept"}
    return Table(_HEAD, [_cells(r) for r in shown], _STYLES, kept)


def _cells(row: Row) -> tuple[str, ...]:
    count = f" ({row.count}x)" if row.count > 1 else ""
    scheme = f"{row.scheme}: {row.taken}" if row.taken else row.scheme
    return (row.name + count, row.role, row.shape, row.fans, row.activation, row.std, scheme)


def _line(cells: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> Text:
    line = Text(overflow="fold")
    for cell, width, style in zip(cells, widths, styles, strict=True):
        line.append(cell, style).append(" " * (width - cell_len(cell)) + _GAP)
    line.rstrip()
    return line


class KeptList:
    """What is kept: one line for each reason, with the count and as many ids as the line holds."""

    def __init__(self, kept: Iterable[Left]):
        self._reasons: dict[str, list[str]] = {}
        for left in kept:
            self._reasons.setdefault(left.reason, []).append(printable(left.id))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the list out, the most frequent reason first."""
        for reason, ids in sorted(self._reasons.items(), key=lambda item: -len(item[1])):
            head = f"{len(ids):>6}  {printable(reason)}"
            yield Paragraph(head, (_some(ids, options.max_width - cell_len(head)), "dim"))


def _some(ids: Sequence[str], room: int) -> str:
    """As many ids in brackets as fit into the room, and a mark if there are more."""
    text = ""
    for i, ident in enumerate(ids):
        longer = f"{text}, {ident}" if text else f" ({ident}"
        if cell_len(longer) + len(", ...)" if i + 1 < len(ids) else ")") > room:
            return f"{text}, ...)" if text else ""
        text = longer
    return f"{text})"


def sections(
    plan: Plan, weights: Sequence[Weight], warnings: Sequence[str] | None = None
) -> Iterator[Table | KeptList | Paragraph]:
    """The parts of the text: the table, what the graph holds otherwise, what is kept and why, the warnings.

    Args:
        plan: What is drawn.
        weights: The rows of the table.
        warnings: What a reader should know; the plan's warnings if not given.
    """
    warnings = plan.warnings if warnings is None else warnings
    shown = rows(weights, plan.entries)
    if shown:
        yield weight_table(shown)
        yield Paragraph()
    stored = [Left(w.id, reason) for w in weights if (reason := _stored_anew(w))]
    if stored:
        yield Paragraph((f"become initializers: {count(len(stored), 'tensor')}", "bold"))
        yield KeptList(stored)
        yield Paragraph()
    if plan.kept:
        them = "it is" if len(plan.kept) == 1 else "they are"
        yield Paragraph((f"kept as {them}: {count(len(plan.kept), 'tensor')}", "bold"))
        yield KeptList(plan.kept)
        yield Paragraph()
    if plan.removed:
        yield Paragraph((f"left out: {count(len(plan.removed), 'tensor')}", "bold"))
        yield KeptList([Left(ident, "nothing uses it") for ident in plan.removed])
        yield Paragraph()
    for warning in warnings:
        yield Paragraph(("warning: ", "bold yellow"), printable(warning))
    if warnings:
        yield Paragraph()


def _stored_anew(weight: Weight) -> str:
    """What a weight was that becomes an initializer by being drawn, "" for one that is stored as it was."""
    if weight.where == "generated":
        return "made at run time so far (--no-materialize leaves that to the graph)"
    return "sparse so far" if weight.where == "sparse" and weight.pattern is None else ""


def notes(weights: Iterable[Weight]) -> Iterator[KeptList | Paragraph]:
    """What the analysis remarks of some weights."""
    remarks = [Left(w.id, w.note) for w in weights if w.note]
    if remarks:
        yield Paragraph(("notes", "bold"))
        yield KeptList(remarks)
        yield Paragraph()


def summary(found: Inspection) -> Paragraph:
    """One line on the model."""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    parameters = sum(w.stored for w in found.weights)
    model = f"{found.path}: IR version {found.ir_version}, {opsets}; "
    weights = f"{count(len(found.weights), 'weight')} of {count(parameters, 'parameter')}, "
    others = f"{count(len(found.kept), 'other tensor')}"
    return Paragraph(printable(model), (weights + others, "bold"))


def total(plan: Plan, weights: Sequence[Weight], nbytes: int) -> Paragraph:
    """One line: tensors, parameters, bytes, seed."""
    if not weights:
        return Paragraph(("nothing to rewrite: the plan draws no tensor of this model", "bold"))
    parameters = sum(w.stored for w in weights)
    tensors = f"{count(len(weights), 'tensor')}, {count(parameters, 'parameter')}, {_size(nbytes)}, seed {plan.seed}"
    return Paragraph((tensors, "bold"))


def outcome(path: Path | None, seconds: float) -> Paragraph:
    """Where the result is."""
    if path is None:
        return Paragraph("dry run: nothing was written")
    return Paragraph("wrote ", (printable(str(path)), "bold"), f" in {seconds:.2f} s")


def count(number: int, what: str) -> str:
    """A number of things, in words: 1 tensor, 2,000 tensors."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def _size(nbytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} GB"

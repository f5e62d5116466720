"""What a reader should know of a plan before using its result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnxinit.plan.defaults import STARTS_SO
from onnxinit.plan.donors import NO_DONOR
from onnxinit.plan.plan import Entry, Left
from onnxinit.plan.steady import STEADY

INSTEAD = "; orthogonal in place of delta_orthogonal, since it has fewer outputs than inputs"
KEPT_POSITIVE = "; shuffle in its place, since a variance is never negative"

_KERNELS = frozenset({"weight", "input_weight", "recurrent_weight", "embedding"})
_SHOWN = 3


def advise(entries: Sequence[Entry], kept: Iterable[Left], held: Iterable[str]) -> Iterator[str]:
    """The warnings of a plan, each one line with the count and the first few ids.

    Args:
        entries: What is rewritten.
        kept: What is not.
        held: Ids of quantised weights whose scales stay.
    """
    alike = [e.id for e in entries if e.role in _KERNELS and _alike(e) and e.why != STARTS_SO]
    if alike:
        yield (
            f"{_count(alike)} the same value everywhere, so that training cannot tell the units apart: {_some(alike)}; "
            "take a random scheme, or zeros for the last layer of a branch alone"
        )
    replaced = [e.id for e in entries if e.why.endswith(INSTEAD)]
    if replaced:
        yield (
            f"{_count(replaced)} fewer outputs than inputs and cannot be delta_orthogonal, so orthogonal draws them: "
            f"{_some(replaced)}"
        )
    alone = [e.id for e in entries if e.why.startswith(NO_DONOR)]
    if alone:
        yield f"{_count(alone)} no donor, and a scheme draws in its place: {_some(alone)}"
    steady = [e.id for e in entries if e.why.endswith(STEADY)]
    if steady:
        yield (
            f"{_count(steady)} the std that keeps the variance in place of sparse's 1, which grows through many layers "
            f"without norms: {_some(steady)}; sparse:std=1 is the published one"
        )
    other = [e.id for e in entries if e.role == "other" and e.scheme.name != "refit"]
    if other:
        yield f"{_count(other)} a purpose that the graph does not tell: {_some(other)}; --exclude role:other keeps them"
    narrow = list(held)
    if narrow:
        weights = "weight is" if len(narrow) == 1 else "weights are"
        yield (
            f"{len(narrow)} quantised {weights} drawn within the range of scales that stay, which cuts off what lies "
            f"beyond it: {_some(narrow)}"
        )
    quantised = [
        left.id for left in kept if left.reason.startswith("a quantised ") or "quantised values, which" in left.reason
    ]
    if quantised:
        tensors = "tensor holds" if len(quantised) == 1 else "tensors hold"
        yield f"{len(quantised)} {tensors} quantised values and stay as training made them: {_some(quantised)}"


def _alike(entry: Entry) -> bool:
    return entry.scheme.scheme.symmetric or entry.std == 0 or entry.gain == 0


def _count(ids: Sequence[str]) -> str:
    return "1 weight has" if len(ids) == 1 else f"{len(ids)} weights have"


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - _SHOWN
    return ", ".join(ids[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

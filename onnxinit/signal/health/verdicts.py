"""What is said of a network in words: thresholds, and the first layer where it turns.

- *non-finite*: a layer has values that are NaN or infinite.
- *exploding*, *vanishing*, of the signal: from some layer on to the end, every std is above a thousand times, or
  below a thousandth, of the first layer's. Of the gradient: from some layer back to the input, every figure is so
  compared with the last layer's.
- *dead*: more than nine in ten units of a layer say the same on all data.
- *saturated*: more than half of the values that enter a bounded activation lie where it is flat.

"Every" keeps side branches out: a gate, a key projection, a squeezed channel may have a small std or a small part in
the gradient while the way past it is sound. For the same reason a quarter of the layers that were measured, and two
at least, have to agree. The gradient is compared with the last layer's, since what comes after that (a softmax over
many classes, a mean over positions) is common to all, and in the mean square of the singular values that can differ
from zero, so that layers of unlike sizes compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from onnxinit.signal.health.diagnosis import Kind, LayerHealth, Trouble

RANGE = 1e3  # between the first layer's std and the others', the last layer's gradient and the others'
DEAD = 0.9
SATURATED = 0.5

_ORDER: tuple[Kind, ...] = ("non-finite", "exploding", "vanishing", "dead", "saturated")

Ratio = tuple[LayerHealth, float]


def relate(layers: Sequence[LayerHealth]) -> list[LayerHealth]:
    """The layers with their gradients related to the last one's."""
    ranked = [g.ranked for h in layers if (g := h.gradient) is not None]
    last = ranked[-1] if ranked else None
    if not last:
        return list(layers)
    return [
        replace(h, relative=g.ranked / last) if (g := h.gradient) is not None and g.ranked is not None else h
        for h in layers
    ]


def judged(layers: Sequence[LayerHealth]) -> tuple[Trouble, ...]:
    """What is wrong, the gravest first."""
    found = [*_non_finite(layers), *_gradient(layers), *_signal(layers), *_units(layers)]
    cut = any(h.dead == 1 for h in layers)  # why what follows vanishes
    return tuple(sorted(found, key=lambda t: (not (cut and t.kind == "dead"), _ORDER.index(t.kind))))


def _non_finite(layers: Sequence[LayerHealth]) -> Iterator[Trouble]:
    odd = [h for h in layers if h.non_finite > 0]
    if odd:
        text = f"{100 * odd[0].non_finite:.3g} % of the values of '{odd[0].id}' are not finite{_first_of(len(odd))}"
        yield Trouble("non-finite", "signal", odd[0].id, text)


def _signal(layers: Sequence[LayerHealth]) -> Iterator[Trouble]:
    stds = [(h, h.std) for h in layers if h.std is not None]
    first = next((std for _, std in stds if std > 0), None)
    run = _run([(h, std / first) for h, std in reversed(stds)]) if first else []
    if run:
        kind, how = _how(run)
        turn, end = run[-1][0].id, stds[-1][1]
        text = f"the std of the signal is {how} the first layer's from '{turn}' on, {end:.2g} at the end"
        yield Trouble(kind, "signal", turn, text)


def _gradient(layers: Sequence[LayerHealth]) -> Iterator[Trouble]:
    run = _run([(h, h.relative) for h in layers if h.relative is not None])
    if run:
        kind, how = _how(run)
        turn, end = run[-1][0].id, run[0][1]
        text = f"on its way back the gradient is {how} the last layer's from '{turn}' on, {end:.2g} of it at the first"
        yield Trouble(kind, "gradient", turn, text)


def _run(ratios: Sequence[Ratio]) -> list[Ratio]:
    """The layers at the beginning that are all far above 1, or all far below it, if they are enough."""
    above = list(takewhile(lambda pair: pair[1] > RANGE, ratios))
    below = list(takewhile(lambda pair: pair[1] < 1 / RANGE, ratios))
    run = above or below
    return run if len(run) >= max(2, math.ceil(len(ratios) / 4)) else []


def _how(run: Sequence[Ratio]) -> tuple[Kind, str]:
    if run[0][1] > 1:
        return "exploding", f"above {RANGE:g} times"
    return "vanishing", f"below {1 / RANGE:g} of"


def _units(layers: Sequence[LayerHealth]) -> Iterator[Trouble]:
    dead = [(h, h.dead) for h in layers if h.dead is not None and h.dead > DEAD]
    if dead:
        h, share = dead[0]
        text = f"{100 * share:.3g} % of the units of '{h.id}' are dead{_first_of(len(dead))}"
        yield Trouble("dead", "units", h.id, text)
    flat = [(h, h.saturated) for h in layers if h.saturated is not None and h.saturated > SATURATED]
    if flat:
        h, share = flat[0]
        text = f"{100 * share:.3g} % of what enters the {h.activation} after '{h.id}' lies where it is flat"
        yield Trouble("saturated", "units", h.id, text + _first_of(len(flat)))


def _first_of(count: int) -> str:
    return f", the first of {count} such layers" if count > 1 else ""

"""Readings of Add, Mul and their like: a learned vector, a table, or a constant?

These operators say nothing of what their static operand is; what stands around them does: a layer before the Add
(bias), a softmax behind it (mask or position bias), a residual Add behind the Mul (layer scale), sines and cosines
(rotary tables). Values are looked at only where that leaves two readings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from onnxinit.analysis.activations import PRELU_SLOPE
from onnxinit.analysis.flow import MOVES, Flow, Origin
from onnxinit.analysis.operators import Reading, Site, out_value
from onnxinit.analysis.tables import (
    Values,
    few_values,
    is_computed,
    is_empty,
    is_mask,
    is_repeated,
    is_round,
    is_zero,
)
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.view import Value

RATES = "rates in an exponent, as of a state that decays"
_CHANNELS = 4  # of a picture
NEUTRAL_FACTOR = 1.0  # what a learned factor of no known role starts as: it changes nothing


@dataclass(frozen=True, slots=True)
class Constant:
    """A reading that says: no weight, and why."""

    reason: str


Verdict = Reading | Constant


def nontrivial(shape: tuple[int, ...]) -> list[int]:
    """The axes that are longer than one."""
    return [i for i, n in enumerate(shape) if n != 1]


def read_add(site: Site, flow: Flow, values: Values) -> Verdict:
    """Add and Sub with a static operand: bias, position table, attention bias, token, or a constant."""
    node, other = site.node, _other(site)
    out = out_value(node)
    if other is None or out is None:
        return Constant(f"operand of {node.op}")
    size, long = math.prod(site.shape), nontrivial(site.shape)
    origin = flow.layer_behind(other)
    if size == 1:
        if origin is not None and site.shape and not origin.biased and origin.width == 1:
            return _bias(site, origin, out)
        return Reading("bias", output=out) if is_learned_number(site, flow, values) else Constant("a scalar constant")
    if is_mask(values):
        return Constant("a mask, or another table of two or three values")
    operand = node.input(site.at)
    if site.trail.lost and operand is not None and operand.shape is not None and None in operand.shape:
        return Reading("positional", output=out)  # a table of a length that the feed decides
    if origin is not None and size == origin.width and (len(long) == 1 or origin.spread):
        if origin.biased and size <= _CHANNELS and flow.ends(out):
            return Constant("a fixed shift of the model's result")
        if len(site.shape) > 1 and operand is not None and operand.where == "constant" and is_empty(values):
            return Constant("the state that a recurrence starts from, all zeros")
        if len(site.shape) > 1 and flow.scores_words(origin) and is_empty(values):
            return Constant("zeros added to the scores of words, where a caller may put what it wants to favour")
        return _bias(site, origin, out)
    if origin is not None and origin.width == site.shape[-1]:
        # A step of a sequence holds no positions: what is added there is a bias, folded with a first state perhaps.
        if origin.cut or _stacked(site, origin) or is_repeated(values):
            return _bias(site, origin, out)
    if origin is not None and origin.spread and _by_head(site, origin):
        return _bias(site, origin, out)
    if flow.only_periodic(out):
        return Constant("a phase of sine and cosine")
    if few_values(values, 1):
        return Constant("one repeated value added to a signal")
    if flow.reaches_softmax(out) or len(long) > 1:
        return Constant("a computed table of positions") if is_computed(values) else Reading("positional", output=out)
    if flow.is_raw_input(other) or is_computed(values):
        return Constant("a fixed shift")
    return Reading("bias", output=out)


def _by_head(site: Site, origin: Origin) -> bool:
    """Whether a table (heads, 1, width) is the bias of some blocks of a fused projection, spread over its heads."""
    long = nontrivial(site.shape)
    apart = len(long) == 2 and long[1] - long[0] > 1
    return apart and origin.width % math.prod(site.shape) == 0


def _stacked(site: Site, origin: Origin) -> bool:
    """Whether a table is the biases of a batched product, one row for each of its matrices."""
    batch = [n for n in (origin.weight.shape or ())[:-2] if n != 1]
    return bool(batch) and [n for n in site.shape[:-1] if n != 1] == batch


def is_learned_number(site: Site, flow: Flow, values: Values) -> bool:
    """Whether one number is learned: it stands with the weights, not with the constants, and is no round one."""
    value, other = _stored(site.node.input(site.at)), _other(site)
    if _is_share(site, flow, values):
        return True
    quantised = other is not None and other.producer is not None and other.producer.op == "DynamicQuantizeLinear"
    apart = bool(site.shape) or flow.keeps_numbers_in_nodes  # some exporters store every number as an initializer
    return apart and value is not None and value.where == "initializer" and not quantised and not is_round(values)


def _is_share(site: Site, flow: Flow, values: Values) -> bool:
    """Whether a number is one of several learned ones that a sum of signals weighs its terms by, after a function.

    That of fast normalised fusion: w = relu(w), w / (sum w + eps), or of a softmax.
    """
    held, other = values(), _other(site)
    fed = other is not None and flow.carries_signal(other) and not flow.is_raw_input(other)
    return held is not None and held.size > 1 and site.trail.derived and fed and not is_computed(values)


def _stored(value: Value | None) -> Value | None:
    """What a number is a function of: the exponential of a stored temperature, say."""
    while value is not None and value.static and value.producer is not None and len(value.producer.inputs) > 0:
        value = value.producer.inputs[0]
    return value


def _bias(site: Site, origin: Origin, out: Value) -> Reading:
    return Reading("bias", output=out, source=origin.source, layer=origin.weight)


def read_mul(site: Site, flow: Flow, values: Values) -> Verdict:
    """Mul and Div with a static operand: layer scale, a learned factor, a rotary table, or a constant."""
    node, other = site.node, _other(site)
    out = out_value(node)
    if other is None or out is None:
        return Constant(f"operand of {node.op}")
    if math.prod(site.shape) == 1:
        return _read_factor(site, flow, values, out)
    if flow.is_rotary(node, site.at):
        return Constant("a rotary table")
    if flow.only_periodic(out):
        if flow.only_periodic(out, ("Sin",)) and flow.carries_signal(other) and not flow.is_raw_input(other):
            return _learned_factor(site, out)  # of a periodic activation, as in Snake
        return Constant("a frequency of sine and cosine")
    slope = flow.slope_default(node, site.at, PRELU_SLOPE)
    if slope is not None:
        return Reading("prelu_slope", output=out, source=other, default=slope)
    if _is_gate(other) and is_empty(values):
        return Constant("the state that a recurrence starts from, all zeros")
    stored = node.input(site.at)
    written = stored is not None and stored.in_node
    if few_values(values, 1) and (written or flow.is_raw_input(other)):
        return Constant("one repeated value that a signal is multiplied by")
    missing = len(out.shape or site.shape) - len(site.shape)  # axes that broadcasting puts in front
    summed = [i - missing for i in flow.summed_axes(out) or () if i >= missing]
    if any(site.shape[i] != 1 for i in summed):
        if len(nontrivial(site.shape)) > 1 and few_values(values, 1):
            return Constant("equal shares of a mean")
        tiles: list[list[Tile]] = [[(n, "in" if i in summed else "block")] for i, n in enumerate(site.shape)]
        return Reading("weight", tiles, output=out, source=other)
    if not flow.carries_signal(other):
        return Constant("a factor of positions or masks")
    if node.op == "Mul" and flow.feeds_exponent(out):
        return Reading("other", output=out, default=NEUTRAL_FACTOR, note=RATES)
    if len(nontrivial(site.shape)) > 1 and flow.reaches_softmax(out) and not few_values(values, 1):
        # a table of scores, gated
        return Constant("a computed table of positions") if is_computed(values) else Reading("positional", output=out)
    residual = len(nontrivial(site.shape)) == 1 and flow.joins_residual(out)
    if residual and not written:
        return Reading("layer_scale", output=out)
    if is_computed(values) or few_values(values, 1):
        return Constant("one repeated value, a mask or another computed table that a signal is multiplied by")
    spread = _outer(site, other) if not few_values(values, 1) else None
    if spread is not None:
        return Reading("weight", spread, output=out, source=other)
    if flow.is_raw_input(other):
        return Constant("a fixed scale of the model's input")
    return Reading("layer_scale", output=out) if residual else _learned_factor(site, out)


def _learned_factor(site: Site, out: Value) -> Reading:
    """A factor of no known role: one, unless its logarithm is stored."""
    return Reading("other", output=out, default=None if "Exp" in site.trail.via else NEUTRAL_FACTOR)


def _is_gate(value: Value) -> bool:
    """Whether a sigmoid made a signal, at most moved since."""
    for _ in range(6):
        node = value.producer
        before = node.input(0) if node is not None and node.op in MOVES else None
        if before is None:
            return node is not None and node.op == "Sigmoid"
        value = before
    return False


def read_limit(site: Site, flow: Flow, values: Values) -> Verdict:
    """Max and Min with a static operand: a learned threshold for every channel, or a bound."""
    if math.prod(site.shape) == 1 or few_values(values) or values() is None:
        return Constant(f"a bound of {site.node.op}")
    return Reading("other", output=out_value(site.node), default=0.0, note="a learned threshold")


def _outer(site: Site, other: Value) -> list[list[Tile]] | None:
    """The axes of a table that spreads single numbers: (features, width) times (batch, features, 1) is a layer each."""
    if other.shape is None or len(nontrivial(site.shape)) < 2 or len(other.shape) < len(site.shape):
        return None
    beside = other.shape[len(other.shape) - len(site.shape) :]
    if not any(n != 1 and m == 1 for n, m in zip(site.shape, beside, strict=True)):
        return None
    if not any(n != 1 and m == n for n, m in zip(site.shape, beside, strict=True)):
        return None
    return [[(n, "out" if m == 1 else "block")] for n, m in zip(site.shape, beside, strict=True)]


def _read_factor(site: Site, flow: Flow, values: Values, out: Value) -> Verdict:
    """One number that a signal is multiplied by: the gain of a residual branch, or a constant."""
    stored = site.node.input(site.at)
    starts = is_zero(values) and stored is not None and stored.where != "constant"
    if flow.joins_residual(out) and (starts or not is_round(values)):
        return Reading("layer_scale", output=out)
    if not is_learned_number(site, flow, values):
        return Constant("a scalar constant")
    return _learned_factor(site, out)


def read_concat(site: Site, flow: Flow, values: Values) -> Verdict:
    """Concat of a static tensor with a signal: a token, unless it is padding."""
    if len(nontrivial(site.shape)) == 0 or few_values(values):
        return Constant("padding joined to a signal")
    if (out := out_value(site.node)) is not None and not flow.carries_signal(out):
        return Reading("positional", output=out)  # a piece of a table that is put together at run time
    return Reading("token", output=out_value(site.node))


def read_where(site: Site, flow: Flow, values: Values) -> Verdict:
    """Where with a static branch: a mask token, unless it is a fill value."""
    if site.at == 0 or math.prod(site.shape) == 1 or few_values(values):
        return Constant("a fill value")
    return Reading("token", output=out_value(site.node))


def _other(site: Site) -> Value | None:
    rest = [v for i, v in enumerate(site.node.inputs) if i != site.at and v is not None]
    moving = [v for v in rest if not v.static]
    return next(iter(moving or rest), None)


ARITHMETIC: dict[str, Callable[[Site, Flow, Values], Verdict]] = {
    "Add": read_add,
    "Sub": read_add,
    "Sum": read_add,
    "Mul": read_mul,
    "Div": read_mul,
    "Concat": read_concat,
    "Where": read_where,
    "Max": read_limit,
    "Min": read_limit,
}

"""From a stored tensor to its uses, and what each use says.

`Walker.readings` follows a tensor through views and through arithmetic among static values (a kernel that is
standardised, masked or scaled in the graph) to the nodes where it meets a signal, and asks the tables there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.arithmetic import ARITHMETIC, NEUTRAL_FACTOR, Constant, Verdict, is_learned_number
from onnxinit.analysis.flow import FLOATS, Flow
from onnxinit.analysis.low_rank import adds_update, factor_of
from onnxinit.analysis.norms import Norms
from onnxinit.analysis.operators import OPERATORS, STATE, Key, Reading, Row, Site, kept, out_value, reason
from onnxinit.analysis.shapes import index_origin, is_one_index
from onnxinit.analysis.tables import (
    few_values,
    is_binary,
    is_computed,
    is_empty,
    is_eye,
    is_mask,
    is_neutral,
    is_one_filter,
    is_ordered,
    is_varied,
)
from onnxinit.analysis.trail import Tile, Trail
from onnxinit.analysis.view import GraphView, Node, Value
from onnxinit.analysis.views import changed, step

Read = Callable[[str], "npt.NDArray[np.generic] | None"]

_ASIDE = frozenset({"Shape", "Size", "NonZero", "EyeLike", "RandomNormalLike", "RandomUniformLike", "Range"})
_REDUCTIONS = frozenset(
    {"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "ReduceProd"}
    | {"ReduceLogSumExp", "ReduceLogSum", "ArgMax", "ArgMin"}
)
_KERNEL_MOVES = frozenset({"Mul", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity", "Cast", "Div"})
_FIRST_STATE = "the first state of a loop"
_LARGE_TABLE = 1 << 22  # elements; nobody computes a table of that size into a file
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_SMALL_KERNEL = 1 << 18  # elements; what is larger is no filter, state or table of ones that somebody wrote down
_QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
FIXED = Constant("a fixed factor or shift in the making of a weight")
DIVISOR = Constant("part of a norm that divides a weight")


@dataclass(frozen=True, slots=True)
class Found:
    """A use and what it says."""

    site: Site
    verdict: Verdict


class Walker:
    """Follows tensors and reads their uses.

    Args:
        view: The graph.
        norms: The normalisations of the graph.
        flow: Questions about signals.
        read: The values of a stored tensor by its path, None where its data is missing.
        operators: Rows of operators that a user describes, which come before the table's own.
    """

    def __init__(
        self, view: GraphView, norms: Norms, flow: Flow, read: Read, operators: Mapping[Key, Row] | None = None
    ):
        self.view = view
        self.norms = norms
        self.flow = flow
        self.read = read
        self._described = operators or {}

    def _reads(self, node: Node) -> bool:
        """Whether a table knows an operator as one with weights."""
        key = node.domain, node.op
        return key in OPERATORS or key in self._described

    def readings(self, value: Value) -> list[Found]:
        """What the uses of a stored tensor say, in topological order."""
        found = [Found(site, self._judge(site, value)) for site in self._sites(value)]
        if not found and value.uses:
            found = self._statistics(value) or self._summed_up(value)
        return sorted(found, key=lambda f: f.site.node.index)

    def _sites(self, value: Value, *, sums: bool = False) -> Iterator[Site]:
        start = Trail.of([n or 1 for n in value.shape or ()])
        stack: list[tuple[Value, Trail, tuple[Value, Trail] | None]] = [(value, start, None)]
        seen: set[tuple[int, int, int]] = set()
        while stack:
            at_value, trail, fixed = stack.pop()
            for node, at in at_value.uses:
                key = (id(node), at, hash(trail))
                if node.op in _ASIDE or key in seen:
                    continue
                seen.add(key)
                following = step(node, at, trail)
                if following is None:
                    following = self._routed(node, at, trail)
                if following is None:
                    following = self._composed(node, at, trail, sums=sums)
                if following is None:
                    following = self._modulated(node, at, trail)
                if following is None:
                    yield Site(node, at, trail, fixed)
                else:
                    last = fixed or (at_value, trail)
                    stack.extend((v, t, None if v.static else last) for v, t in following)

    def _statistics(self, value: Value) -> list[Found]:
        """A kernel that is only averaged: a copy that an exporter made for the statistics of a standardised kernel."""
        reduction = next(((n, i) for n, i in value.uses if n.op == "ReduceMean"), None)
        if reduction is None or value.shape is None or len(value.shape) < 2:
            return []
        front = [v for v in reduction[0].outputs if v is not None]
        for _ in range(12):
            users = [(n, i) for v in front for n, i in v.uses if (o := out_value(n)) is not None and o.static]
            for node, at in users:
                if node.op == "BatchNormalization" and at in (3, 4):
                    shape = [n or 0 for n in value.shape]
                    kept = [i for i, n in enumerate(shape) if n == _size(node.input(at))][-1:]
                    tiles: list[list[Tile]] = [[(n, "out" if i in kept else "in")] for i, n in enumerate(shape)]
                    reading = Reading(
                        "weight", tiles, layer=node.input(0), note="copied for the statistics of a kernel"
                    )
                    site = Site(reduction[0], reduction[1], Trail.of(shape))
                    return [Found(site, reading)]
            front = [v for n, _ in users for v in n.outputs if v is not None]
        return []

    def _summed_up(self, value: Value) -> list[Found]:
        """What a graph makes a weight of by sums over it: the modes of a state space, whose kernel they add up to."""
        read = partial(self.read, value.tensor)
        if value.dtype not in FLOATS or not is_varied(read) or is_computed(read):
            return []
        sites = [site for site in self._sites(value, sums=True) if isinstance(self._judge(site, value), Reading)]
        return [Found(site, Reading("other", note="summed up in the making of a weight")) for site in sites]

    @staticmethod
    def _routed(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
        """Through a look-up in a stack of matrices: a router picks one, and each is a block of its own."""
        out, index = out_value(node), node.input(1)
        stacked = at == 0 and len(trail.spans) > 2 and sum(n != 1 for n in trail.shape) > 2
        if node.op not in ("Gather", "GatherND") or not stacked or out is None or index is None or index.static:
            return None
        axis = node.int_attribute("axis", 0) % len(trail.spans) if node.op == "Gather" else 0
        picked = trail.pick(axis)
        extra = (len(out.shape) if out.shape is not None else len(picked.spans)) - len(picked.spans)
        if extra > 0:
            picked = picked.unsqueeze([axis + i for i in range(extra)])
        return [(out, picked.through(node.op))]

    @staticmethod
    def _modulated(node: Node, at: int, trail: Trail) -> list[tuple[Value, Trail]] | None:
        """Through the product of a kernel with a signal, where the result is the kernel of a convolution.

        A kernel for every sample, times its style; or a sum of kernels, each times the share that a router gives it.
        """
        out = out_value(node)
        if out is None or out.static or out.shape is None or len(out.shape) < len(trail.spans):
            return None
        if node.op == "Mul" and sum(n != 1 for n in trail.shape) > (1 if len(trail.spans) > 3 else 2):
            fits = all(n in (1, m) for n, m in zip(trail.shape[::-1], out.shape[::-1], strict=False))
            through = trail.expand(out.shape) if fits else trail.lose(out.shape)
        elif node.op in ("MatMul", "Gemm") and at == 1 and len(trail.spans) == 2 and not _is_turned(node):
            through = trail.pick(0).unsqueeze([0]).expand(out.shape)
        else:
            return None
        front = [out]
        for _ in range(8):
            users = [(n, i) for v in front for n, i in v.uses]
            if any(n.op in ("Conv", "ConvTranspose") and i in (1, 2) for n, i in users):
                return [(out, changed(through).through(node.op))]
            front = [v for n, i in users if n.op in _KERNEL_MOVES for v in n.outputs if v is not None]
        return None

    def _composed(self, node: Node, at: int, trail: Trail, *, sums: bool = False) -> list[tuple[Value, Trail]] | None:
        """Through arithmetic that makes another static value; None where this is the end of the way."""
        out = out_value(node)
        if out is None or not out.static:
            return None
        if node.op in _REDUCTIONS and sums:
            return [(out, changed(trail.lose(out.shape)).through(node.op))]
        if node.op in _REDUCTIONS:
            return []
        if node.op in _QUANTISERS:
            return None
        if node.op in ("Sin", "Cos"):
            return None
        other = node.input(1 - at) if node.op == "Add" and len(node.inputs) == 2 else None
        behind = self.flow.layer_behind(other) if other is not None and not other.tensor else None
        vector = sum(n != 1 for n in trail.shape) < 2
        if behind is not None and vector and not adds_update(node, at):
            return None  # the bias of a layer of stored data
        if self._reads(node) and not (at == 0 and node.op.endswith("Normalization")):
            return None
        shape = out.shape
        if shape is None:
            shape = _widest(node, at, trail)
        if math.prod(trail.shape) < math.prod(n or 1 for n in shape):
            return None  # a factor or shift of something larger: read where it stands
        same = tuple(n or 1 for n in shape) == trail.shape
        return [(out, changed(trail if same else trail.lose(shape)).through(node.op))]

    # ------------------------------------------------------------ reading

    def _judge(self, site: Site, value: Value) -> Verdict:
        node, at = site.node, site.at

        def values() -> npt.NDArray[np.generic] | None:
            return self.read(value.tensor)

        described = self._described.get((node.domain, node.op))
        if described is not None and (said := described(site)) is not None:
            return said
        if (known := kept(node, at)) is not None:
            learned = known == STATE.format(op=node.op) and is_varied(values)
            return Reading("other", default=0.0, note="a learned first state") if learned else Constant(known)
        spread = math.prod(site.shape) > 1 or (value.shape == () and "Expand" in site.trail.via)
        if _size(value) == 1 and spread:
            return Constant("one value spread over many")
        out = out_value(node)
        role = self.norms.role(node, at)
        if role is not None:
            return Reading(role[0], output=out, source=node.input(0), default=role[1])
        if out is not None and out.static and (at > 0 or not node.op.endswith(("MatMul", "Gemm", "Einsum"))):
            composed = self._read_composed(site, values)
            if composed is not None:
                return composed
        if out is not None and out.static and few_values(values, 1):
            return Constant("one repeated value")
        if site.trail.derived and (is_binary(values) or (is_computed(values) and not few_values(values))):
            return Constant("a mask or computed factor in the making of a weight")
        row = OPERATORS.get((node.domain, node.op))
        if row is not None:
            reading = row(site)
            if reading is None and at == 0 and node.op in ("Conv", "ConvTranspose") and not few_values(values):
                return Reading("token", output=out)  # a learned input, from which a generator starts
            if reading is None:
                return Constant(reason(node, at))
            factor = factor_of(site, self._uses) if reading.role == "weight" else None
            return factor or self._doubt(site, reading, values)
        if node.domain in ("", "com.microsoft") and node.op in ARITHMETIC:
            verdict = ARITHMETIC[node.op](site, self.flow, values)
            scales = isinstance(verdict, Reading) and verdict.role in ("layer_scale", "other")
            if scales and math.prod(site.shape) > 1 and few_values(values, 1) and self._trained:
                return Constant("one repeated value, beside norms that training moved")
            return verdict
        if node.op in ("Sin", "Cos"):
            return Constant("angles of sine and cosine") if is_ordered(values) else Reading("positional", output=out)
        if node.op == "@Carry":
            learned = value.where == "initializer" and value.dtype in FLOATS and is_varied(values)
            return Reading("other", default=0.0, note="a learned first state") if learned else Constant(_FIRST_STATE)
        return Constant(reason(node, at))

    def _uses(self, value: Value) -> Iterator[tuple[Site, Reading]]:
        """The uses of what is made of stored tensors that read it as a weight."""
        yield from ((f.site, f.verdict) for f in self.readings(value) if isinstance(f.verdict, Reading))

    def _read_composed(self, site: Site, values: Callable[[], npt.NDArray[np.generic] | None]) -> Verdict | None:
        """A part of another weight: the gain of a normalised or standardised kernel, a mask, a factor."""
        node = site.node
        if self._reads(node) and node.op != "BatchNormalization":
            return None
        if node.op in ("Sin", "Cos"):
            return None
        other = next((v for i, v in enumerate(node.inputs) if i != site.at and v is not None), None)
        if node.op == "Add" and other is not None and self.flow.layer_behind(other) is not None:
            return None
        if math.prod(site.shape) == 1 and node.op in ("Mul", "Div") and is_learned_number(site, self.flow, values):
            return Reading("other", default=NEUTRAL_FACTOR, note="a factor in the making of a weight")
        if math.prod(site.shape) == 1 or few_values(values) or is_computed(values):
            return FIXED
        if (out := out_value(node)) is not None and self.flow.only_periodic(out):
            return Constant("a frequency of sine and cosine")
        start = 0.0 if node.op in ("Add", "Sub") else NEUTRAL_FACTOR
        return Reading("other", default=start, note="a factor or shift in the making of a weight")

    def _doubt(self, site: Site, reading: Reading, values: Callable[[], npt.NDArray[np.generic] | None]) -> Verdict:
        """Look twice at a matrix product or look-up that may hold a fixed table."""
        node = site.node
        small = math.prod(site.shape) <= _SMALL_KERNEL
        if reading.role in ("norm_scale", "norm_shift") and is_neutral(values):
            stored, partner = node.input(site.at), node.input(3 - site.at)
            written = stored is not None and stored.in_node and partner is not None
            shared = stored is not None and len({id(n) for n, _ in stored.uses}) > 1
            if node.op == "InstanceNormalization" or written or shared or self._trained or self._has_statistics(node):
                return Constant("a scale or shift that does nothing")
        if reading.role == "weight" and len(site.shape) > 2 and node.op == "MatMul" and small and is_empty(values):
            return Constant("the state that a recurrence starts from, all zeros")
        if reading.role == "weight" and reading.output is not None and self._ends_in_number(reading.output):
            return DIVISOR
        if reading.role == "weight" and reading.output is not None:
            alone = reading.output.static or not self.flow.carries_signal(reading.output)
            if (alone and self.flow.only_periodic(reading.output)) or self.flow.feeds_sine_and_cosine(reading.output):
                return Constant("frequencies of sine and cosine")
            if site.at == 0 and alone and is_computed(values):
                return Constant("a computed table")
            if site.at == 0 and alone and self._is_data(site, reading.output):
                return Reading("positional")
        if reading.role == "weight" and "Conv" in node.op and small and is_one_filter(values):
            return Constant("a filter that is the same for every channel, as one that smooths before a resampling")
        if reading.role == "weight" and node.op in ("MatMul", "Einsum") and self.flow.meets_positions(node, site.at):
            return Constant("a computed table of positions") if is_computed(values) else Reading("positional")
        if reading.role == "weight" and reading.output is not None and reading.output.static:
            if is_binary(values):
                return Constant("a table of zeros and ones that picks rows of another")
            if any(v.tensor and is_binary(partial(self.read, v.tensor)) for v in node.inputs if v is not None):
                return Reading("positional")
        if reading.role == "weight" and node.op in _PRODUCTS and small and is_binary(values) and not is_eye(values):
            return Constant("a table of zeros and ones, as one that sums up or picks places")
        if reading.role == "embedding" and reading.output is not None:
            if math.prod(site.shape) < _LARGE_TABLE and is_computed(values):
                return Constant("a computed table that is looked up")
            return self._look_up(site, reading)
        if reading.role == "positional" and math.prod(site.shape) < _LARGE_TABLE:
            if reading.tiles is None and (is_mask(values) or few_values(values, 1)):
                return Constant("a mask, or another table of two or three values")
            return Constant("a computed table of positions") if is_computed(values) else reading
        return reading

    def _has_statistics(self, node: Node) -> bool:
        """Whether a batch norm has statistics of data, not those that it starts from."""
        mean, var = node.input(3), node.input(4)
        if node.op != "BatchNormalization" or mean is None or var is None:
            return False
        return is_varied(partial(self.read, mean.tensor)) and is_varied(partial(self.read, var.tensor))

    @cached_property
    def _trained(self) -> bool:
        """Whether some norm of a layer has scales that training moved, so that those that are all ones are none."""
        norms = (
            n for n in self.view.nodes if n.op.endswith("Normalization") and not n.op.startswith(("Skip", "Embed"))
        )
        scales = (n.input(1) for n in norms)
        return any(v is not None and v.tensor != "" and is_varied(partial(self.read, v.tensor)) for v in scales)

    def _look_up(self, site: Site, reading: Reading) -> Verdict:
        """A look-up by a known or counted index is a position table; one by a router picks an expert."""
        node, output = site.node, reading.output
        assert output is not None
        index = node.input(1)
        for follower, at in output.uses:
            if follower.op == "Mul" and self.flow.is_rotary(follower, at):
                return Constant("a rotary table")
        if index is not None and not self.flow.follows_feed(index) and not self._is_one_row(index):
            return replace(reading, role="positional")
        return reading

    @staticmethod
    def _ends_in_number(out: Value) -> bool:
        """Whether a product of stored tensors is multiplied on to one number, as the norm in a spectral norm is."""
        for _ in range(4):
            if not out.static or len(out.uses) != 1:
                return False
            if _size(out) == 1:
                return True
            node = out.uses[0][0]
            following = out_value(node)
            if (
                node.op not in ("MatMul", "Gemm", "Mul", "ReduceSum", "Reshape", "Squeeze", "Transpose")
                or following is None
            ):
                return False
            out = following
        return False

    @staticmethod
    def _is_data(site: Site, out: Value) -> bool:
        """Whether the left one of two stored factors is data (latents, positions), not a factor of a weight.

        Data comes in batches or normalised, and what a layer makes of it gets a bias.
        """
        if len(site.shape) > 2 or any(op.endswith("Normalization") for op in site.trail.via):
            return True
        if site.node.op == "Gemm" and site.node.input(2) is not None:
            return True
        added = (v for n, _ in out.uses if n.op == "Add" for v in n.inputs if v is not None and v is not out)
        return any(v.tensor and sum(n != 1 for n in v.shape or ()) <= 1 for v in added)

    def _is_one_row(self, index: Value) -> bool:
        """Whether a look-up takes the same row for every place."""
        origin = index_origin(index)
        if is_one_index(origin):
            return True
        stored = self.read(origin.tensor) if origin.tensor else None
        return stored is not None and len(np.unique(stored)) <= 1


def _is_turned(node: Node) -> bool:
    """Whether a Gemm transposes its right factor."""
    return bool(node.int_attribute("transB", 0))


def _size(value: Value | None) -> int:
    return math.prod(n or 0 for n in value.shape) if value is not None and value.shape is not None else 0


def _widest(node: Node, at: int, trail: Trail) -> tuple[int | None, ...]:
    shapes = [v.shape for i, v in enumerate(node.inputs) if i != at and v is not None and v.shape is not None]
    return max([*shapes, trail.shape], key=lambda s: math.prod(n or 1 for n in s))

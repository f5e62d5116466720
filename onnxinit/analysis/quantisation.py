"""Quantised weights: what a tensor of codes stands for, and which scales and zero points move with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit.analysis.flow import FLOATS
from onnxinit.analysis.forms import CODES, form_of, is_plain, unpacked_use, zero_points
from onnxinit.analysis.habits import with_habit
from onnxinit.analysis.operators import (
    FACTORS,
    PARAMETERS,
    Form,
    Reading,
    UnknownFormError,
    kept,
    out_value,
    quantised,
    turned_by,
)
from onnxinit.analysis.scales import (
    LINKS,
    Source,
    blocks_of_look_up,
    blocks_of_operand,
    blocks_of_turning,
    held_in,
    size_of,
    stored_grain,
)
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.views import step
from onnxinit.analysis.walker import Found, Walker
from onnxinit.analysis.weight import Quantised, Use
from onnxinit.analysis.written_out import written_out
from onnxinit.model import StoredTensor

_T = TensorProto
_UNSIGNED = frozenset({_T.UINT2, _T.UINT4, _T.UINT8, _T.UINT16})
_SCALES = frozenset({*FLOATS, _T.FLOAT8E8M0})
_EIGHT = frozenset({_T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ})
_TURNING = "DequantizeLinear"
Runs = Callable[[str], Iterator[npt.NDArray[np.generic]]]
_LAYERS_WITH_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True, slots=True)
class Codes:
    """What a tensor of integers is.

    Attributes:
        found: Its uses as a weight.
        quantised: How its codes stand for real values, None where it is no weight that can be drawn.
        reason: Why it is kept, "" where it is drawn.
    """

    found: tuple[Found, ...] = ()
    quantised: Quantised | None = None
    reason: str = ""


@dataclass(slots=True)
class _Parameter:
    """A tensor of scales or zero points: the uses that are understood, and the weights that it is for."""

    uses: list[tuple[Node, int]] = field(default_factory=list)
    owners: list[Quantised] = field(default_factory=list)


class Quantisation:
    """Reads quantised tensors, and then tells which of their scales and zero points may move.

    Args:
        walker: Follows the tensors.
        runs: The elements of a tensor by its path, run by run; none where they are not there.
    """

    def __init__(self, walker: Walker, runs: Runs):
        self._walker = walker
        self._runs = runs
        self._scales: dict[str, _Parameter] = {}
        self._zeros: dict[str, _Parameter] = {}

    def read(self, stored: StoredTensor, values: Sequence[Value]) -> Codes:
        """What a tensor of integers is, or of a float type that weights are only stored in."""
        found = [f for v in values for f in self._walker.readings(v)]
        taken: list[Found] = []
        reason = ""
        for f in sorted(found, key=lambda f: f.site.node.index):
            if not isinstance(f.verdict, Reading):
                reason = reason or kept(f.site.node, f.site.at) or ""
            elif (why := quantised(f.site, f.verdict.role, stored.data_type)) is not None:
                taken.append(f)
                reason = reason or why
        if not taken:
            return Codes(reason=reason)
        try:
            plain = stored.data_type in _EIGHT and all(is_plain(f) for f in taken)
            if plain and not any(written_out(v, taken) for v in values):
                return Codes(tuple(taken))
            return self._understood(stored, values, taken)
        except UnknownFormError as e:
            return Codes(reason=f"{reason}: {e}" if e.args else reason)

    def _understood(self, stored: StoredTensor, values: Sequence[Value], taken: list[Found]) -> Codes:
        form = form_of(taken, stored)
        if form is not None:
            taken = [unpacked_use(f, form.shape) for f in taken]
        bits = form.bits if form is not None else CODES.get(stored.data_type, (0, 0, 0))[2]
        one = form or Form(stored.dims, bits, ())
        if not bits or not math.prod(one.shape):
            raise UnknownFormError
        sources = [s for v in values for s in self._turned(v)] + [
            s for f in taken if _TURNING not in f.site.trail.via and (s := self._operands(f, form)) is not None
        ]
        if not sources and form is None:
            sources = [s for v in values for s in written_out(v, taken)]
        bias = self._bias(stored, taken) if stored.data_type == _T.INT32 else None
        if bias is not None and not sources:
            return Codes(tuple(taken), self._entered(bias, []))
        made = {self._quantised(stored, s, one, packed=form is not None) for s in sources}
        if len(made) != 1:
            raise UnknownFormError
        (found,) = made
        if bias is not None and math.prod(found.grid) == math.prod(bias.grid):
            found = replace(found, factors=bias.factors)
        if stored.data_type in (_T.INT8, _T.UINT8) and form is None:
            found = with_habit(found, self._one_zero(found), self._runs(stored.path))
        return Codes(tuple(taken), self._entered(found, sources))

    def pair(self, stored: StoredTensor, values: Sequence[Value], found: Sequence[Found]) -> Quantised | None:
        """How the graph rounds the values of a tensor of floats before they are used; None where it does not.

        A QuantizeLinear and the DequantizeLinear behind it, with one stored scale.
        """
        if not any("QuantizeLinear" in f.site.trail.via and isinstance(f.verdict, Reading) for f in found):
            return None
        try:
            pairs = [s for v in values for s in self._turned(v, "QuantizeLinear")]
            kinds = {self._code_type(s) for s in pairs}
            if len(kinds) != 1 or len(pairs) != len([f for f in found if isinstance(f.verdict, Reading)]):
                return None
            (kind,) = kinds
            form = Form(stored.dims, CODES[kind][2], ())
            made = {self._quantised(replace(stored, data_type=kind), s, form, packed=False) for s in pairs}
            behind = [self._behind(s) for s in pairs]
        except (UnknownFormError, KeyError):
            return None
        if len(made) != 1 or any(s.scale.tensor != t.scale.tensor for s, t in zip(pairs, behind, strict=True)):
            return None
        (one,) = made
        return self._entered(one, [*pairs, *behind])

    @staticmethod
    def _code_type(source: Source) -> int:
        node = source.uses[0][0]
        point = source.zero_point
        return point.dtype if point is not None else node.int_attribute("output_dtype", 0) or int(_T.UINT8)

    def _behind(self, source: Source) -> Source:
        """Where what reads the codes of a quantiser takes scale and zero point from."""
        out = out_value(source.uses[0][0])
        turning = [node for node, at in out.uses if at == 0] if out is not None else []
        if len(turning) != 1 or turning[0].op != _TURNING:
            raise UnknownFormError
        return self._source(turning[0], (1, 2), source.trail, source.blocks)

    def _one_zero(self, one: Quantised) -> float | None:
        """The zero point that all codes of a tensor have, None where there are several or none is known."""
        held = self._walker.read(one.zero_point) if one.zero_point else None
        points = zero_points(held, one) if held is not None else np.zeros(0)
        return float(points[0]) if points.size and (points == points[0]).all() else None

    # ------------------------------------------------------------ where scales come from

    def _turned(self, value: Value, op: str = _TURNING) -> Iterator[Source]:
        """The DequantizeLinear (or other) nodes that a tensor comes to, moved only, or looked up in."""
        stack = [(value, Trail.of([n or 0 for n in value.shape or ()]))]
        seen: set[tuple[int, int, int]] = set()
        while stack:
            at_value, trail = stack.pop()
            for node, at in at_value.uses:
                if (key := (id(node), at, hash(trail))) in seen:
                    continue
                seen.add(key)
                if node.op == op and at == 0:
                    yield _unmoved(self._source(node, (1, 2), trail, blocks_of_turning(node, trail)))
                elif (following := step(node, at, trail)) is not None:
                    stack.extend(following)
                elif node.op == "Gather" and at == 0 and (turning := turned_by(node)) is not None:
                    found = trail.through("Gather")
                    yield _unmoved(self._source(turning, (1, 2), found, blocks_of_look_up(node, turning, trail)))

    def _source(self, node: Node, at: tuple[int, int], trail: Trail, blocks: tuple[int, ...] | None) -> Source:
        scale, zero = node.input(at[0]), node.input(at[1]) if at[1] >= 0 else None
        if scale is None:
            raise UnknownFormError
        uses = ((node, at[0]), *([(node, at[1])] if zero is not None else []))
        return Source(scale, zero, trail, blocks, uses)

    def _operands(self, found: Found, form: Form | None) -> Source | None:
        """Scale and zero point among the operands of a quantised operator, or the scale of an integer product."""
        site = found.site
        at = PARAMETERS.get((site.node.domain, site.node.op), {}).get(site.at)
        if at is None:
            return None
        axis = found.verdict.out_axis if isinstance(found.verdict, Reading) else None
        if at[0] >= 0:
            source = self._source(site.node, at, site.trail, None)
            blocks = form.blocks if form is not None else blocks_of_operand(site, source.scale, axis)
            return replace(source, blocks=blocks)
        product = self._factor(site.node)
        if product is None:
            return None
        scale, use = product
        zero = site.node.input(at[1]) if at[1] >= 0 else None
        uses = (use, *([(site.node, at[1])] if zero is not None else []))
        return Source(scale, zero, site.trail, blocks_of_operand(site, scale, axis), uses)

    @staticmethod
    def _factor(node: Node) -> tuple[Value, tuple[Node, int]] | None:
        """The stored scale that an integer product is multiplied by, beside that of its other operand."""
        makers = [v.producer for v in node.inputs[:2] if v is not None and v.producer is not None]
        others = {held_in(s) for p in makers if p.op == "QuantizeLinear" and (s := p.input(1)) is not None}
        value = out_value(node)
        held: tuple[Value, tuple[Node, int]] | None = None
        has_other = False
        for _ in range(4):
            if value is None or len(value.uses) != 1:
                return None
            user, at = value.uses[0]
            if user.op == "Mul":
                for factor, use in _factors(user, 1 - at):
                    if factor.static and held_in(factor) not in others:
                        held = (factor, use)
                    else:
                        has_other = True
            elif user.op != "Cast":
                return None
            if held is not None and has_other:
                return held
            value = out_value(user)
        return None

    def _bias(self, stored: StoredTensor, taken: Sequence[Found]) -> Quantised | None:
        """A bias whose scale is the product of those of its layer's input and weight."""
        site = taken[0].site
        node = site.node
        at = FACTORS.get((node.domain, node.op), {}).get(site.at)
        scales: list[Value | None] = []
        if at is not None and node.float_attribute("alpha", 1.0) == 1.0:
            scales = [node.input(i) for i in at]
        elif node.domain == "" and node.op in _LAYERS_WITH_BIAS and site.at == 2:
            turned = [v.producer if (v := node.input(i)) is not None else None for i in (0, 1)]
            scales = [t.input(1) if t is not None and t.op == _TURNING else None for t in turned]
        if len(taken) > 1 or len(scales) != 2:
            return None
        paths = [held_in(v) if v is not None else "" for v in scales]
        sizes = [size_of(v) if v is not None else 0 for v in scales]
        dims = stored.dims
        if not all(paths) or sizes[0] != 1 or sizes[1] not in (1, math.prod(dims)):
            return None
        low, high, bits = CODES[_T.INT32]
        grain = dims if sizes[1] == 1 else (1,) * len(dims)
        return Quantised("", "", 0.0, grain, low, high, bits, dims, factors=(paths[0], paths[1]))

    # ------------------------------------------------------------ what they say

    def _quantised(self, stored: StoredTensor, source: Source, form: Form, *, packed: bool) -> Quantised:
        bits, shape, kind = form.bits, form.shape, stored.data_type
        elements = packed and kind == _T.UINT8  # of which each may hold several codes
        low, high = (min(form.levels), max(form.levels)) if form.levels else CODES[kind][:2]
        if elements and not form.levels:
            low, high = 0, (1 << bits) - 1
        unsigned = kind in _UNSIGNED and not form.levels
        path, grain = held_in(source.scale), stored_grain(source, shape)
        if not path or grain is None or source.scale.dtype not in _SCALES:
            raise UnknownFormError
        middle = float(1 << bits - 1) if unsigned else 0.0
        one = Quantised(path, "", middle, grain, low, high, bits, shape, (), form.levels, form.high_first)
        if form.groups >= 0:
            one = replace(one, columns=self._columns(source.uses[0][0], form))
        if math.prod(one.grid) != size_of(source.scale):
            raise UnknownFormError
        if source.zero_point is None:
            if unsigned and not elements:
                raise UnknownFormError("it is unsigned and has no zero point, so that it holds no negative values")
            return one
        return self._around(one, source.zero_point, kind, elements=elements, unsigned=unsigned)

    def _around(self, one: Quantised, value: Value, kind: int, *, elements: bool, unsigned: bool) -> Quantised:
        """The codes with their zero points."""
        one = replace(one, zero_point=held_in(value))
        if not one.zero_point:
            raise UnknownFormError
        if elements and value.dtype == kind:
            shape = [n or 0 for n in value.shape or ()]
            rows = math.prod(shape[:-1])
            if one.columns:
                raise UnknownFormError("kernels do not agree on packed zero points of columns that are in groups")
            one = replace(one, zero_rows=rows)
            if not rows or math.prod(one.grid) % rows or not _fills(value, one):
                raise UnknownFormError
        elif value.dtype != kind and value.dtype not in FLOATS:
            raise UnknownFormError
        elif size_of(value) not in (1, math.prod(one.grid)):
            raise UnknownFormError
        held = self._walker.read(one.zero_point)
        if held is None:  # as it is done mostly
            return replace(one, zero=None if unsigned else one.zero)
        points = zero_points(held, one)
        middle = float(points.flat[0])  # of unsigned codes 127 or 128; some kernels want one for all channels
        centred = (points == middle).all() and middle in (one.zero, (one.zero or 0.0) - unsigned)
        return replace(one, zero=middle if centred else None)

    def _columns(self, node: Node, form: Form) -> tuple[int, ...]:
        """The number of the scale of every value of a row, as an operand says; of what fills a row up, the last."""
        value = node.input(form.groups)
        held = self._walker.read(held_in(value)) if value is not None else None
        numbers = held.astype(np.int64).reshape(-1).tolist() if held is not None else []
        across, last = math.prod(form.shape[1:]), form.shape[1] - 1
        if not 0 < len(numbers) <= across or min(numbers) < 0 or max(numbers) > last:
            raise UnknownFormError("which of its values share a scale is not known")
        return (*numbers, *[last] * (across - len(numbers)))

    def _entered(self, one: Quantised, sources: Sequence[Source]) -> Quantised:
        """Note the tensors of scales and zero points, with the uses of them that are understood."""
        for table, path, uses in (
            (self._scales, one.scale, [s.uses[0] for s in sources if s.uses]),
            (self._zeros, one.zero_point, [s.uses[1] for s in sources if len(s.uses) > 1]),
        ):
            if path:
                held = table.setdefault(path, _Parameter())
                held.owners.append(one)
                held.uses.extend(uses)
        return one

    # ------------------------------------------------------------ what moves with the weights

    def parameters(self, values: Mapping[str, Sequence[Value]]) -> dict[str, tuple[str, tuple[Use, ...]]]:
        """The tensors that are fitted to the weights they are for: by path their role and uses.

        A tensor with any other use (an activation's scale too), or one that unlike weights share so that nothing fits
        them all, is none of them.

        Args:
            values: The values of every stored tensor, by its path.
        """
        moving: dict[str, tuple[str, tuple[Use, ...]]] = {}
        for path, held in self._scales.items():
            if _fits_all(held.owners) and _is_understood(values[path], held.uses):
                moving[path] = ("quant_scale", _uses(held))
        for path, held in self._zeros.items():
            alone = len(held.owners) == 1 and held.owners[0].zero is None and held.owners[0].scale in moving
            if alone and _is_understood(values[path], held.uses) and _fills(values[path][0], held.owners[0]):
                moving[path] = ("quant_zero_point", _uses(held))
        return moving

    def scales(self) -> frozenset[str]:
        """Every tensor that holds scales of quantised weights, whether it moves or not."""
        return frozenset(self._scales)


def _factors(node: Node, at: int) -> Iterator[tuple[Value, tuple[Node, int]]]:
    """What an operand is, or the two factors that it is the product of, each with where it stands."""
    value = node.input(at)
    maker = value.producer if value is not None else None
    both = maker is not None and maker.op == "Mul" and len(maker.inputs) == 2
    for user, i in [(maker, 0), (maker, 1)] if both and maker is not None else [(node, at)]:
        if (factor := user.input(i)) is not None:
            yield factor, (user, i)


def _unmoved(source: Source) -> Source:
    """A table that is looked up in before its codes become real values keeps its scales: none of their uses counts."""
    return replace(source, uses=()) if "Gather" in source.trail.via else source


def _fits_all(owners: Sequence[Quantised]) -> bool:
    """Whether one tensor of scales can be fitted to all its weights at once."""
    if len(owners) == 1:
        return owners[0].bits < 32 or bool(owners[0].factors)
    return all(o.zero is not None and o.bits < 32 for o in owners) and len({o.zero for o in owners}) == 1


def _fills(value: Value, one: Quantised) -> bool:
    """Whether a tensor has room for a zero point for every scale."""
    count = math.prod(one.grid)
    if one.zero_rows:
        count = one.zero_rows * -(-count // one.zero_rows * one.bits // 8)
    return size_of(value) == count


def _is_understood(values: Sequence[Value], uses: Sequence[tuple[Node, int]]) -> bool:
    """Whether all that is made of a stored tensor ends in the uses given."""
    known = {(id(node), at) for node, at in uses}
    front = list(values)
    while front:
        value = front.pop()
        if value.is_output:
            return False
        for node, at in value.uses:
            if (id(node), at) in known:
                continue
            if node.op not in LINKS or at:
                return False
            front.extend(v for v in node.outputs if v is not None)
    return True


def _uses(held: _Parameter) -> tuple[Use, ...]:
    return tuple(Use(node.op, node.name, at) for node, at in sorted(held.uses, key=lambda u: u[0].index))

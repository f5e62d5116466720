"""Quantised weights: what a tensor of codes stands for, and which scales and zero points move with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit.analysis.flow import FLOATS
from onnxinit.analysis.habits import with_habit
from onnxinit.analysis.operators import (
    FACTORS,
    FORMS,
    OPERATORS,
    PARAMETERS,
    Form,
    Reading,
    Site,
    UnknownFormError,
    kept,
    out_value,
    quantised,
    turned_by,
)
from onnxinit.analysis.packing import unpacked
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
from onnxinit.model import StoredTensor

_T = TensorProto
# Element type -> the least and the largest code, and the bits of one.
CODES: Mapping[int, tuple[float, float, int]] = {
    **{
        kind: (-(1 << b - 1), (1 << b - 1) - 1, b)
        for kind, b in ((_T.INT2, 2), (_T.INT4, 4), (_T.INT8, 8), (_T.INT16, 16), (_T.INT32, 32))
    },
    **{kind: (0, (1 << b) - 1, b) for kind, b in ((_T.UINT2, 2), (_T.UINT4, 4), (_T.UINT8, 8), (_T.UINT16, 16))},
    _T.FLOAT4E2M1: (-6.0, 6.0, 4),
    _T.FLOAT8E4M3FN: (-448.0, 448.0, 8),
    _T.FLOAT8E4M3FNUZ: (-240.0, 240.0, 8),
    _T.FLOAT8E5M2: (-57344.0, 57344.0, 8),
    _T.FLOAT8E5M2FNUZ: (-57344.0, 57344.0, 8),
}
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
        if stored.data_type in _EIGHT and all(_is_plain(f) for f in taken):
            return Codes(tuple(taken))
        try:
            return self._understood(stored, values, taken)
        except UnknownFormError as e:
            return Codes(reason=f"{reason}: {e}" if e.args else reason)

    def _understood(self, stored: StoredTensor, values: Sequence[Value], taken: list[Found]) -> Codes:
        form = _form(taken, stored)
        if form is not None:
            taken = [_unpacked(f, form.shape) for f in taken]
        bits = form.bits if form is not None else CODES.get(stored.data_type, (0, 0, 0))[2]
        one = form or Form(stored.dims, bits, ())
        if not bits or not math.prod(one.shape):
            raise UnknownFormError
        sources = [s for v in values for s in self._turned(v)] + [
            s for f in taken if _TURNING not in f.site.trail.via and (s := self._operands(f, form)) is not None
        ]
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

    def _one_zero(self, one: Quantised) -> float | None:
        """The zero point that all codes of a tensor have, None where there are several or none is known."""
        held = self._walker.read(one.zero_point) if one.zero_point else None
        points = zero_points(held, one) if held is not None else np.zeros(0)
        return float(points[0]) if points.size and (points == points[0]).all() else None

    # ------------------------------------------------------------ where scales come from

    def _turned(self, value: Value) -> Iterator[Source]:
        """The DequantizeLinear nodes that a tensor comes to, moved only, or looked up in."""
        stack = [(value, Trail.of([n or 0 for n in value.shape or ()]))]
        seen: set[tuple[int, int, int]] = set()
        while stack:
            at_value, trail = stack.pop()
            for node, at in at_value.uses:
                if (key := (id(node), at, hash(trail))) in seen:
                    continue
                seen.add(key)
                if node.op == _TURNING and at == 0:
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
        """The stored scale that an integer product is multiplied by, beside one that is worked out at run time."""
        value = out_value(node)
        held: tuple[Value, tuple[Node, int]] | None = None
        at_run_time = False
        for _ in range(4):
            if value is None or len(value.uses) != 1:
                return None
            user, at = value.uses[0]
            if user.op == "Mul":
                other = user.input(1 - at)
                if other is None:
                    return None
                if other.static:
                    held = (other, (user, 1 - at))
                elif (p := other.producer) is not None and p.op == "Mul" and any(v and v.static for v in p.inputs):
                    k = next(i for i, v in enumerate(p.inputs) if v is not None and v.static)
                    held, at_run_time = (p.inputs[k] or other, (p, k)), True
                else:
                    at_run_time = True
            elif user.op != "Cast":
                return None
            if held is not None and at_run_time:
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
        elif not (value.dtype == kind or (elements and value.dtype in FLOATS)):
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


def zero_points(held: npt.NDArray[np.generic], one: Quantised) -> npt.NDArray[np.float64]:
    """The zero points that a tensor holds, one for each scale or one for all; several may share a byte."""
    if not one.zero_rows:
        return held.reshape(-1).astype(np.float64)
    rows = unpacked(held.reshape(-1).astype(np.uint8), one.bits).reshape(one.zero_rows, -1)
    return rows[:, : math.prod(one.grid) // one.zero_rows].reshape(-1).astype(np.float64)


def _form(taken: Sequence[Found], stored: StoredTensor) -> Form | None:
    """The form that an operator with packed weights reads a tensor in, None where none does.

    Raises:
        UnknownFormError: It is not known, or its values are not those that are stored.
    """
    known = [(FORMS.get((f.site.node.domain, f.site.node.op), {}).get(f.site.at), f.site) for f in taken]
    forms = [function(site, stored.data_type) for function, site in known if function is not None]
    if not forms:
        return None
    form = forms[0]
    bits = form.bits or CODES.get(stored.data_type, (0, 0, 0))[2]
    form = replace(form, bits=bits)
    if len(forms) < len(taken) or any(f != forms[0] for f in forms) or not 2 <= bits <= 8 or min(form.blocks) < 1:
        raise UnknownFormError
    bits_of_all = 8 * math.prod(stored.dims) if stored.data_type == _T.UINT8 else bits * math.prod(stored.dims)
    if not bits_of_all - 8 < math.prod(form.shape) * bits <= bits_of_all:
        raise UnknownFormError
    return form


def _is_plain(found: Found) -> bool:
    """Whether a use reads 8-bit floats as the numbers that they are."""
    site = found.site
    is_operand = site.at in PARAMETERS.get((site.node.domain, site.node.op), {})
    return not is_operand and _TURNING not in site.trail.via and turned_by(site.node) is None


def _unpacked(found: Found, shape: tuple[int, ...]) -> Found:
    """The same use of the values as they are unpacked."""
    site = Site(found.site.node, found.site.at, Trail.of(shape))
    reading = OPERATORS[site.node.domain, site.node.op](site)
    if reading is None or found.site.trail != Trail.of(found.site.trail.shape):
        raise UnknownFormError
    return Found(site, reading)


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

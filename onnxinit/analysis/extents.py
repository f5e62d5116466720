"""The shapes of what operators make, as far as those of their operands are known.

A row here is what the analysis needs of an operator that moves elements, where the file does not say it: in
functions, in loops, in graphs that are not sorted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from onnxinit.analysis.einsum import read_equation
from onnxinit.analysis.view import Node
from onnxinit.analysis.windows import slide, spread

Shape = tuple["int | None", ...]
Known = npt.NDArray[np.float64]  # elements of a small integer value; NaN where one is not known
_Shapes = Sequence["Shape | None"]

_DOMAINS = frozenset({"", "com.microsoft"})

_SAME = frozenset(
    {
        "Identity", "Cast", "CastLike", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Erf", "Softmax", "LogSoftmax",
        "Elu", "Selu", "Celu", "Gelu", "Mish", "HardSigmoid", "HardSwish", "Softplus", "Softsign", "Clip", "Exp", "Log",
        "Sqrt", "Neg", "Abs", "Reciprocal", "Dropout", "LayerNormalization", "RMSNormalization", "BatchNormalization",
        "InstanceNormalization", "GroupNormalization", "QuantizeLinear", "DequantizeLinear", "@If", "@Exit", "@Carry",
        "Sin", "Cos", "Not", "Floor", "Ceil", "Round", "Sign", "Swish", "ThresholdedRelu", "LpNormalization", "LRN",
        "CumSum", "ReverseSequence", "Trilu", "Hardmax", "Shrink", "IsNaN", "MeanVarianceNormalization", "ScatterND",
        "ScatterElements", "SimplifiedLayerNormalization", "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization", "FastGelu", "BiasGelu", "QuickGelu", "BiasAdd", "Affine", "ImageScaler",
        "ParametricSoftplus", "Scale", "ScaledTanh", "MoE", "QMoE",
    }
)  # fmt: skip


def _first(node: Node, index: int = 0) -> Shape:
    value = node.inputs[index]
    if value is None or value.shape is None:
        raise ValueError("unknown rank")
    return value.shape


def _same(node: Node, known: dict[int, Known]) -> _Shapes:
    return [_first(node)]


def _broadcast(node: Node, known: dict[int, Known]) -> _Shapes:
    shapes = [v.shape for v in node.inputs if v is not None and v.shape is not None]
    if len(shapes) != len([v for v in node.inputs if v is not None]):
        raise ValueError("unknown rank")
    return [broadcast(shapes)]


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that NumPy's broadcasting makes; an unknown length wins against one, a known one against both."""
    rank = max(map(len, shapes))
    out: list[int | None] = []
    for i in range(rank):
        dims = [s[i - rank + len(s)] for s in shapes if i - rank + len(s) >= 0]
        long = [n for n in dims if n is not None and n != 1]
        out.append(long[0] if long else None if None in dims else 1)
    return tuple(out)


def _matmul(node: Node, known: dict[int, Known]) -> _Shapes:
    a, b = (_turned(node, i) for i in (0, 1))
    if len(a) < 2 or len(b) < 2:
        return [(*a[:-1], *b[:-2], *b[-1:])] if len(b) > 1 else [a[:-1]]
    return [(*broadcast([a[:-2], b[:-2]]), a[-2], b[-1])] if len(a) > 2 or len(b) > 2 else [(a[-2], b[-1])]


def _turned(node: Node, index: int) -> Shape:
    """A factor as it is multiplied, where ONNX Runtime's product may turn it."""
    shape = _first(node, index)
    if node.int_attribute(("transBatchA", "transBatchB")[index], 0):
        raise ValueError("batches behind the rows")
    if len(shape) < 2 or not node.int_attribute(("transA", "transB")[index], 0):
        return shape
    return (*shape[:-2], shape[-1], shape[-2])


def _gemm(node: Node, known: dict[int, Known]) -> _Shapes:
    a, b = _first(node, 0), _first(node, 1)
    return [(a[1 if node.int_attribute("transA", 0) else 0], b[0 if node.int_attribute("transB", 0) else 1])]


def _conv(node: Node, known: dict[int, Known]) -> _Shapes:
    x, w = _first(node, 0), _first(node, 1)
    return [(x[0], w[0], *slide(node, x[2:], w[2:]))]


def _transpose(node: Node, known: dict[int, Known]) -> _Shapes:
    shape = _first(node)
    perm = node.ints_attribute("perm") or list(range(len(shape)))[::-1]
    return [tuple(shape[p] for p in perm)]


def _reshape(node: Node, known: dict[int, Known]) -> _Shapes:
    given = node.ints_attribute("shape")  # of the first versions
    held = known.get(id(node.input(1))) if given is None else np.asarray(given, np.float64)
    if held is None:
        return [None]
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    dims: list[int | None] = []
    for i, x in enumerate(np.ravel(held)):
        if x == 0 and not node.int_attribute("allowzero", 0):
            dims.append(shape[i] if shape is not None and i < len(shape) else None)
        else:
            dims.append(None if np.isnan(x) else int(x))
    if -1 in dims:
        rest = [n for n in dims if n != -1]
        free: int | None = None
        if shape is not None:
            mine, theirs = sorted(n for n in shape if n is not None), [n for n in rest if n is not None]
            if None not in shape and None not in rest and (product := math.prod(theirs)):
                free = math.prod(mine) // product
            elif shape.count(None) == rest.count(None) and (product := math.prod(theirs)):
                free = math.prod(mine) // product  # the unknown lengths are taken for the same
        dims[dims.index(-1)] = free
    return [tuple(dims)]


def _unsqueezed(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, axes = _first(node), _node_axes(node, known)
    if axes is None:
        return [None]
    rank = len(shape) + len(axes)
    new, old = {a % rank for a in axes}, iter(shape)
    return [tuple(1 if i in new else next(old) for i in range(rank))]


def _squeezed(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, axes = _first(node), _node_axes(node, known)
    if axes is None:
        return [tuple(n for n in shape if n != 1)] if None not in shape else [None]
    return [tuple(n for i, n in enumerate(shape) if i not in {a % len(shape) for a in axes})]


def _node_axes(node: Node, known: dict[int, Known]) -> list[int] | None:
    axes = node.ints_attribute("axes")
    held = known.get(id(node.input(1)))
    return axes if axes is not None else None if held is None else [int(i) for i in np.ravel(held)]


def _concat(node: Node, known: dict[int, Known]) -> _Shapes:
    shapes = [_first(node, i) for i in range(len(node.inputs))]
    axis = node.int_attribute("axis", 0) % len(shapes[0])
    lengths = [s[axis] for s in shapes]
    joined = list(broadcast(shapes))
    joined[axis] = None if None in lengths else sum(n for n in lengths if n is not None)
    return [tuple(joined)]


def _split(node: Node, known: dict[int, Known]) -> _Shapes:
    shape = list(_first(node))
    axis = node.int_attribute("axis", 0) % len(shape)
    sizes = node.ints_attribute("split")
    held = known.get(id(node.input(1)))
    if sizes is None and held is not None and not np.isnan(held).any():
        sizes = [int(i) for i in held]
    total, count = shape[axis], len(node.outputs)
    if sizes is None and node.input(1) is None and total is not None:
        size = -(-total // count)
        sizes = [min(size, total - i * size) for i in range(count)]
    if sizes is None:
        return [tuple(None if i == axis else n for i, n in enumerate(shape))] * count
    return [tuple(size if i == axis else n for i, n in enumerate(shape)) for size in sizes]


def _slice(node: Node, known: dict[int, Known]) -> _Shapes:
    shape = list(_first(node))
    starts, ends, axes, steps = (_slice_argument(node, k, known) for k in range(4))
    if axes is None or None in axes:
        return [(None,) * len(shape)]
    for i, axis in enumerate(axes or range(len(starts or ends or shape))):
        n, start, end, step = shape[axis or 0], _at(starts, i), _at(ends, i), 1 if steps == [] else _at(steps, i)
        whole = n is not None and start is not None and end is not None and step is not None
        shape[axis or 0] = len(range(*slice(start, end, step).indices(n or 0))) if whole else None
    return [tuple(shape)]


def _at(held: list[int | None] | None, index: int) -> int | None:
    return held[index] if held is not None and index < len(held) else None


def _slice_argument(node: Node, k: int, known: dict[int, Known]) -> list[int | None] | None:
    """The elements of an argument as far as they are known, [] where it is not given, None where nothing is known."""
    given = node.ints_attribute(("starts", "ends", "axes", "steps")[k])
    value = node.input(k + 1)
    if given is not None or value is None:
        return list(given or [])
    held = known.get(id(value))
    return None if held is None else [_element(x) for x in np.ravel(held)]


def _element(x: float) -> int | None:
    return None if np.isnan(x) else int(np.clip(x, -(2**62), 2**62))


def _gather(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, index = _first(node, 0), _first(node, 1)
    axis = node.int_attribute("axis", 0) % len(shape)
    return [(*shape[:axis], *index, *shape[axis + 1 :])]


def _expand(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, held = _first(node), known.get(id(node.input(1)))
    if held is None:
        return [None]
    return [broadcast([shape, tuple(None if np.isnan(x) else int(x) for x in held)])]


def _reduce(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, axes = _first(node), _node_axes(node, known)
    gone = {a % len(shape) for a in axes} if axes is not None else set(range(len(shape)))
    if node.int_attribute("keepdims", 1):
        return [tuple(1 if i in gone else n for i, n in enumerate(shape))]
    return [tuple(n for i, n in enumerate(shape) if i not in gone)]


def shape_range(node: Node, rank: int) -> slice:
    """The axes that a Shape tells of."""
    return slice(node.int_attribute("start", 0), node.int_attribute("end", rank))


def _flatten(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, axis = _first(node), node.int_attribute("axis", 1)
    return [(_product(shape[:axis]), _product(shape[axis:]))]


def _product(dims: Sequence[int | None]) -> int | None:
    return None if None in dims else math.prod(n for n in dims if n is not None)


def _pool(node: Node, known: dict[int, Known]) -> _Shapes:
    shape = _first(node)
    if node.op.startswith("Global"):
        return [(*shape[:2], *(1 for _ in shape[2:]))]
    return [(*shape[:2], *slide(node, shape[2:], tuple(node.ints_attribute("kernel_shape") or ())))]


def _conv_transpose(node: Node, known: dict[int, Known]) -> _Shapes:
    x, w = _first(node, 0), _first(node, 1)
    sizes = spread(node, x[2:], w[2:])
    return [(x[0], w[1] and w[1] * node.int_attribute("group", 1), *sizes)]


def _pad(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, held = _first(node), known.get(id(node.input(1)))
    pads: list[int | None] | None = list(node.ints_attribute("pads") or ()) or None
    if pads is None and held is not None:
        pads = [_element(x) for x in np.ravel(held)]
    if pads is None or node.input(3) is not None:
        return _same_rank(node, known)
    ends = zip(shape, pads[: len(shape)], pads[len(shape) :], strict=True)
    return [tuple(None if n is None or a is None or b is None else n + a + b for n, a, b in ends)]


def _range(node: Node, known: dict[int, Known]) -> _Shapes:
    start, stop, step = (float(known[id(v)]) for v in node.inputs)
    return [(None if math.isnan(start + stop + step) else max(0, math.ceil((stop - start) / step)),)]


def _same_rank(node: Node, known: dict[int, Known]) -> _Shapes:
    return [(None,) * len(_first(node))]


def _resize(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, sizes = _first(node), known.get(id(node.input(3)))
    if sizes is not None and sizes.size == len(shape):
        return [tuple(_element(x) for x in np.ravel(sizes))]
    given = node.input(1 if node.op == "Upsample" or len(node.inputs) == 2 else 2)
    proto = given.proto if given is not None else None
    scales = np.ravel(numpy_helper.to_array(proto)) if proto is not None and not proto.external_data else np.zeros(0)
    if scales.size != len(shape) or "axes" in node.attributes:
        return _same_rank(node, known)
    return [tuple(None if n is None else math.floor(n * float(x)) for n, x in zip(shape, scales, strict=True))]


def _recurrent(node: Node, known: dict[int, Known]) -> _Shapes:
    (t, n, _), (dirs, _, h) = _first(node, 0), _first(node, 2)
    if node.int_attribute("layout", 0):
        n, t = t, n
        return [(n, t, dirs, h), (n, dirs, h), (n, dirs, h)]
    return [(t, dirs, n, h), (dirs, n, h), (dirs, n, h)]


def _filled(node: Node, known: dict[int, Known]) -> _Shapes:
    held = known.get(id(node.input(0)))
    return [None if held is None else tuple(_element(x) for x in np.ravel(held))]


def _tile(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, held = _first(node), known.get(id(node.input(1)))
    if held is None:
        return _same_rank(node, known)
    times = [_element(x) for x in np.ravel(held)]
    return [tuple(None if n is None or k is None else n * k for n, k in zip(shape, times, strict=True))]


def _top_k(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, held = list(_first(node)), known.get(id(node.input(1)))
    shape[node.int_attribute("axis", -1)] = _element(np.ravel(held)[0]) if held is not None else None
    return [tuple(shape)] * 2


def _gather_nd(node: Node, known: dict[int, Known]) -> _Shapes:
    shape, index = _first(node, 0), _first(node, 1)
    depth = index[-1]
    return [None if depth is None else (*index[:-1], *shape[node.int_attribute("batch_dims", 0) + depth :])]


def _space(node: Node, known: dict[int, Known]) -> _Shapes:
    n, c, *rest = _first(node)
    k = node.int_attribute("blocksize", 1)
    if node.op == "DepthToSpace":
        return [(n, c and c // (k * k), *(m and m * k for m in rest))]
    return [(n, c and c * k * k, *(m and m // k for m in rest))]


def _einsum(node: Node, known: dict[int, Known]) -> _Shapes:
    terms, result = read_equation(node)
    if "." in result:
        return [None]
    letters: dict[str, int | None] = {}
    for i, term in enumerate(terms):
        letters.update(zip(term, _first(node, i), strict=True))
    return [tuple(letters[c] for c in result)]


def _asked(node: Node, known: dict[int, Known]) -> _Shapes:
    shape = node.ints_attribute("shape")
    return [tuple(shape) if shape is not None and node.input(0) is None else None]


def _nbits(node: Node, known: dict[int, Known]) -> _Shapes:
    width = "N" if node.int_attribute("transB", 1) else "K"  # MatMulBnb4 alone has the choice
    return [(*_first(node)[:-1], node.int_attribute(width, 0) or None)]


def _nbits_qkv(node: Node, known: dict[int, Known]) -> _Shapes:
    widths = [node.int_attribute(name, 0) or None for name in ("Nq", "Nkv", "Nkv")]
    return [(*_first(node)[:-1], width) for width in widths]


def _gather_blocks(node: Node, known: dict[int, Known]) -> _Shapes:
    data, index, table = _first(node), _first(node, 1), node.inputs[0]
    axis, last = node.int_attribute("gather_axis", 0) % len(data), data[-1]
    if table is not None and table.dtype == TensorProto.UINT8:
        data = (*data[:-1], last and last * 8 // node.int_attribute("bits", 4))
    return [(*data[:axis], *index, *data[axis + 1 :])]


def _attention(node: Node, known: dict[int, Known]) -> _Shapes:
    x, w = _first(node, 0), _first(node, 1)
    sizes = node.ints_attribute("qkv_hidden_sizes")
    return [(*x[:-1], sizes[2] if sizes else None if w[-1] is None else w[-1] // 3)]


def _headed_attention(node: Node, known: dict[int, Known]) -> _Shapes:
    """Of heads that were projected before; of a packed projection the width is not looked at."""
    q = _first(node, 0)
    if node.input(1) is None:
        return [(*q[:2], None)]
    v = node.input(2)
    width = v.shape[-1] if v is not None and v.shape is not None and len(v.shape) == 3 else q[-1]
    return [(*q[:-1], q[-1] if node.op == "GroupQueryAttention" else width)]


def _embedded(node: Node, known: dict[int, Known]) -> _Shapes:
    return [(*_first(node, 0), _first(node, 2)[-1])]


_RULES: Mapping[str, Callable[[Node, dict[int, Known]], _Shapes]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Where", "Sum", "Mean", "Min", "Max"), _broadcast),
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor"), _broadcast),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _pool),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Pad": _pad,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _space),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"), _reduce),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "FusedMatMul", "TransposeMatMul"), _matmul),
    **dict.fromkeys(("FusedGemm", "GemmFastGelu"), _gemm),
    **dict.fromkeys(("MultiHeadAttention", "GroupQueryAttention"), _headed_attention),
    **dict.fromkeys(("BiasSoftmax", "BiasDropout", "QLinearSigmoid", "QLinearLeakyRelu"), _same),
    "MatMul": _matmul,
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4", "MatMulNBitsMlp", "MatMulNBitsQLoRA"), _nbits),
    "MatMulNBitsQkv": _nbits_qkv,
    "GatherBlockQuantized": _gather_blocks,
    "QAttention": _attention,
    "EmbedLayerNormalization": _embedded,
    "FusedConv": _conv,
    "Gemm": _gemm,
    "MatMulInteger": _matmul,
    "Conv": _conv,
    "ConvInteger": _conv,
    "DeformConv": _conv,
    "ConvTranspose": _conv_transpose,
    "Flatten": _flatten,
    "ConstantOfShape": _filled,
    **dict.fromkeys(("RandomNormal", "RandomUniform", "GivenTensorFill", "ConstantFill"), _asked),
    **dict.fromkeys(("RandomNormalLike", "RandomUniformLike", "EyeLike"), _same),
    "Range": _range,
    "Tile": _tile,
    "TopK": _top_k,
    "GatherND": _gather_nd,
    "Einsum": _einsum,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "DynamicQuantizeLinear": lambda n, k: [_first(n), (), ()],
    "Expand": _expand,
    "@Stack": lambda n, k: [(None, *_first(n))],
    "@Step": lambda n, k: [_first(n)[1:]],
    "Shape": lambda n, k: [(len(_first(n)[shape_range(n, len(_first(n)))]),)],
}


def extents(node: Node, known: dict[int, Known]) -> _Shapes:
    """The shapes of a node's outputs.

    Args:
        node: The node; its operands' shapes are read.
        known: The elements of small integer values, by identity.

    Returns:
        The shapes of its first outputs, None for one of unknown rank; nothing for an operator without a row.
    """
    function = _RULES.get(node.op) if node.domain in _DOMAINS else None
    if node.op == "Attention":
        function = _attention if node.domain else _headed_attention
    if function is None:
        return []
    try:
        return function(node, known)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError, RuntimeError):
        return []  # the operands do not fit the operator; a generator that runs dry is a RuntimeError

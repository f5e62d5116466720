"""Mixtures of experts as ONNX Runtime fuses them: stacks of matrices, one for each expert."""

from __future__ import annotations

from dataclasses import replace

from onnxinit.analysis.activations import by_name
from onnxinit.analysis.operators.packings import OWN_FORMAT, PREPACKED, Form, UnknownFormError, form
from onnxinit.analysis.operators.table import (
    MICROSOFT,
    SCALE,
    ZERO_POINT,
    Reading,
    Site,
    keep,
    matrix,
    out_value,
    row,
)
from onnxinit.analysis.trail import Tile
from onnxinit.analysis.weight import LINEAR, Activation

_FUNCTIONS = {"relu": "Relu", "gelu": "Gelu", "silu": "Swish", "swiglu": "Swish"}
_UP, _DOWN = "weight (experts, n, D) or (experts, D, n)", "weight (experts, D, n) or (experts, n, D)"


@row(
    "MoE",
    domain=MICROSOFT,
    holds={
        2: f"{_UP}, of gate and trunk where both are one",
        3: "bias (experts, n)",
        4: _DOWN,
        5: "bias (experts, D)",
        6: f"{_UP}, of the trunk",
        7: "bias (experts, n)",
    },
)
def mixture(site: Site) -> Reading | None:
    """MoE: for every expert act(x W1 + b1) W2 + b2, with (act(x W1 + b1) * (x W3 + b3)) where the unit is gated.

    Stacks are (experts, out, in); earlier versions of ONNX Runtime wrote (experts, in, out), which the widths tell.
    """
    if site.at in (3, 5, 7):
        return Reading("bias", layer=site.node.input(site.at - 1))
    if site.at not in (2, 4, 6) or len(site.shape) != 3:
        return None
    return _stack(site, (site.at - 2) // 2, matrix(site.shape, transposed=not _inputs_first(site)))


def _stack(site: Site, place: int, tiles: list[list[Tile]]) -> Reading:
    """The first, second or third stack of matrices."""
    node = site.node
    signal, function = node.input(0), _function(node.string_attribute("activation_type", "relu"))
    if place == 1:
        return Reading("weight", tiles, source=None, before=function, output=out_value(node))
    if place == 2:
        return Reading("weight", tiles, source=signal, after=LINEAR)
    halved = _halves(tiles, node.int_attribute("swiglu_fusion", 0))
    if halved:
        function = replace(function, mean=0.0)  # of the product with the trunk
    return Reading("weight", tiles, source=signal, after=function)


def _function(name: str) -> Activation:
    if name == "identity":
        return LINEAR
    if name == "geglu":
        return replace(by_name("Gelu"), name="gelu_tanh")
    return by_name(_FUNCTIONS[name]) if name in _FUNCTIONS else Activation("other")


def _inputs_first(site: Site) -> bool:
    """Whether a stack is (experts, in, out): where its widths fit the signal, or one another, only so."""
    first, second = site.operand_shape(2), site.operand_shape(4)
    signal = site.operand_shape(0)
    width = signal[-1] if signal else None
    side = 1 if site.at == 4 else 2  # the axis of width D in (experts, out, in)
    if width is not None:
        return site.shape[side] != width == site.shape[3 - side]
    if first is None or second is None or len(first) != 3 or len(second) != 3:
        return False
    return first[2] != second[1] and first[1] == second[2]


def _halves(tiles: list[list[Tile]], fusion: int) -> bool:
    """Split the outputs of a fused first layer into gate and trunk: 1 in turns, 2 one after the other."""
    axis = next(i for i, tile in enumerate(tiles) if tile[0][1] == "out")
    n = tiles[axis][0][0]
    if fusion not in (1, 2) or n % 2:
        return False
    tiles[axis] = [(n // 2, "out"), (2, "block")] if fusion == 1 else [(2, "block"), (n // 2, "out")]
    return True


@row("RouterGateUpProj", domain=MICROSOFT, holds={1: "weight (D, router + gate + trunk)"})
def router_gate_up(site: Site) -> Reading | None:
    """RouterGateUpProj: the router and the two halves of a gated unit side by side."""
    if site.at != 1 or len(site.shape) != 2:
        return None
    router = site.node.int_attribute("router_size", 0)
    half = (site.shape[1] - router) // 2
    return Reading(
        "weight",
        matrix(site.shape),
        source=site.node.input(0),
        out_axis=1,
        cuts=(router, half, half) if 0 < router and router + 2 * half == site.shape[1] else (),
        names=("router", "gate", "trunk"),
        after=by_name("Swish"),
    )


@row("MoEGroupRouter", domain=MICROSOFT, holds={1: "bias (experts)", 2: "weight (experts, D)"})
def group_router(site: Site) -> Reading | None:
    """MoEGroupRouter: the router's own projection, and the bias that balances the experts."""
    if site.at == 2 and len(site.shape) == 2:
        return Reading("weight", matrix(site.shape, transposed=True), source=site.node.input(0))
    return Reading("bias", layer=site.node.input(2)) if site.at == 1 else None


@row("GatedAdd", domain=MICROSOFT, holds={3: "weight (K, 1), of the gate"})
def gated_add(site: Site) -> Reading | None:
    """GatedAdd: x + y * sigmoid(z w)."""
    if site.at != 3 or len(site.shape) != 2:
        return None
    return Reading("weight", matrix(site.shape), source=site.node.input(2), after=by_name("Sigmoid"))


_SCALES = {**dict.fromkeys((3, 6, 9, 15, 16, 17, 18, 19, 20), SCALE), **dict.fromkeys((11, 12, 13), ZERO_POINT)}
_PLACES = {2: 0, 5: 1, 8: 2}


@row(
    "QMoE",
    domain=MICROSOFT,
    holds={
        2: "weight (experts, n, D), packed, of gate and trunk where both are one",
        4: "bias (experts, n)",
        5: "weight (experts, D, n), packed",
        7: "bias (experts, D)",
        8: "weight (experts, n, D), packed, of the trunk",
        10: "bias (experts, n)",
    },
    keeps=_SCALES,
)
def quantised_mixture(site: Site) -> Reading | None:
    """QMoE: as MoE, its stacks (experts, out, in)."""
    if site.at in (4, 7, 10):
        return Reading("bias", layer=site.node.input(site.at - 2))
    if site.at not in _PLACES or len(site.shape) != 3:
        return None
    return _stack(site, _PLACES[site.at], matrix(site.shape, transposed=True))


@form("QMoE", *_PLACES)
def _packed_stack(site: Site, dtype: int) -> Form:
    """Rows of codes along the inputs, a scale for each or for blocks of them; of 8-bit floats for square blocks."""
    node, kind = site.node, site.node.string_attribute("quant_type", "int")
    block = node.int_attribute("block_size", 0)
    if kind not in ("int", "fp8") or (kind == "fp8" and block <= 0):
        raise UnknownFormError(f"its scales are those of {kind}, of which there are two for a value")
    if node.int_attribute("weights_prepacked", -1) == 1:
        raise UnknownFormError(PREPACKED)
    if len(site.shape) != 3:
        raise UnknownFormError
    if kind == "fp8":
        return Form(site.shape, 8, (1, block, block))
    bits = node.int_attribute("expert_weight_bits", 4)
    bits = node.int_attribute(f"fc{_PLACES[site.at] + 1}_expert_weight_bits", bits)
    shape = (*site.shape[:2], site.shape[2] * 8 // bits)
    return Form(shape, bits, (1, 1, block if block > 0 else shape[2]))


keep("MoEPacked", domain=MICROSOFT, inputs=dict.fromkeys((2, 3, 4), OWN_FORMAT))

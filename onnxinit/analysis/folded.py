"""Networks without norms whose convolutions all have biases, as where batch norms were folded into them."""

from __future__ import annotations

from collections.abc import Iterable

from onnxinit.analysis.operators import MICROSOFT, NHWC
from onnxinit.analysis.view import Node, Value

# Of a convolution the inputs that hold its kernel and its bias.
_INPUTS = {
    **{("", op): (1, 2) for op in ("Conv", "ConvTranspose")},
    **{(NHWC, op): (1, 2) for op in ("Conv", "ConvTranspose")},
    **{(MICROSOFT, op): (1, 2) for op in ("FusedConv", "NhwcConv", "NhwcFusedConv")},
    **{(domain, "QLinearConv"): (3, 8) for domain in ("", MICROSOFT, NHWC)},
    ("", "DeformConv"): (1, 3),
}
_MOVES = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def looks_folded(nodes: Iterable[Node]) -> bool:
    """Whether there are convolutions, and all have biases, of their own or in an Add behind them.

    Before a batch norm most networks have none, since the norm would take it away; folding the norm makes one. A kernel
    that the graph works out (a standardised one, say) is no such.

    Args:
        nodes: The nodes of a network without norms.
    """
    convolutions = [n for n in nodes if (n.domain, n.op) in _INPUTS]
    return bool(convolutions) and all(map(_is_folded, convolutions))


def _is_folded(node: Node) -> bool:
    kernel, bias = _INPUTS[node.domain, node.op]
    return _is_stored(node.input(kernel)) and (node.input(bias) is not None or _has_bias_behind(node))


def _is_stored(kernel: Value | None) -> bool:
    """Whether a kernel is a stored tensor, perhaps moved or dequantised."""
    while kernel is not None and not kernel.tensor:
        maker = kernel.producer
        kernel = maker.input(0) if maker is not None and maker.op in _MOVES else None
    return kernel is not None


def _has_bias_behind(node: Node) -> bool:
    added = [user for out in node.outputs if out is not None for user, _ in out.uses if user.op == "Add"]
    return any(v is not None and v.static for user in added for v in user.inputs)

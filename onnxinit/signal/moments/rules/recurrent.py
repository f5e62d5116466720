"""Recurrent operators: the input's part of the gates in closed form, the states by a simulation of fixed seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxinit.analysis.operators import MICROSOFT
from onnxinit.analysis.view import Node
from onnxinit.signal.moments.cells import simulate
from onnxinit.signal.moments.moments import normal
from onnxinit.signal.moments.rules.linear import contract
from onnxinit.signal.moments.rules.table import Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep

_GATES = {"LSTM": ("i", "o", "f", "c"), "GRU": ("z", "r", "h"), "RNN": ("h",)}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@rule("LSTM", "GRU", "RNN")
@rule("DynamicQuantizeLSTM", "AttnLSTM", domain=MICROSOFT)
def recurrent(sweep: Sweep, node: Node) -> list[Known]:
    """X (time, batch, i): X W' is what the input weights make, gate by gate; then the states."""
    x, dims = sweep.input(node), sweep.dims(node.input(0))
    if x is None or len(dims) != 3:
        return [None]
    kind = "LSTM" if "LSTM" in node.op else node.op
    gates, batch_first = _GATES[kind], bool(node.int_attribute("layout", 0))
    time = 1 if batch_first else 0
    made = sweep.layer(
        node,
        1,
        lambda w: contract(
            x, w, float(dims[2]), (x.along(2), w.along(-1)), [(x.along(0), None), (x.along(1), None), (None, 0.0)]
        ),
    )
    r = sweep.input(node, 2)
    if made is None or r is None:
        return [None]
    hidden = node.int_attribute("hidden_size", 0) or (sweep.dims(node.input(2)) or (1,))[-1]
    given = node.attributes.get("activations")
    functions = tuple(s.decode() for s in given.strings) if given is not None else _DEFAULTS[kind]
    states = simulate(
        kind,
        functions,
        _round(made.second),
        _round(min(1.0, max(0.0, made.along(time)))),
        _round(hidden * r.second),
        _biases(sweep, node, gates),
        dims[time],
        bool(node.int_attribute("linear_before_reset", 0)),
    )
    batch = made.along(1 - time)
    alike = (batch, states.rho) if batch_first else (states.rho, batch)
    axes = (*alike, 0.0, 0.0) if batch_first else (alike[0], 0.0, alike[1], 0.0)
    ends = (batch, 0.0, 0.0) if batch_first else (0.0, batch, 0.0)
    return [normal(states.mean, states.var, axes), normal(*states.last, ends), normal(*states.cell, ends)]


def _biases(sweep: Sweep, node: Node, gates: tuple[str, ...]) -> tuple[float, ...]:
    """The mean bias of every gate, input and recurrent half together."""
    value = node.input(3)
    by_name = sweep.block_means(value)
    if by_name:
        return tuple(_round(by_name.get(f"Wb.{g}", 0.0) + by_name.get(f"Rb.{g}", 0.0)) for g in gates)
    m = sweep.of(value)
    return (_round(2.0 * m.mean) if m is not None else 0.0,) * len(gates)


def _round(x: float) -> float:
    return float(f"{x:.9g}")

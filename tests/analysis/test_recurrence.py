"""Recurrent cells that an exporter wrote out: in a loop, in a scan, step by step."""

from __future__ import annotations

import re
from collections.abc import Callable

import onnx
import pytest
from graphs import Given, build, roles, weights

# An Elman cell, a gated one with the products apart, and an LSTM cell with its four gates in one matrix each.
CELLS: dict[str, tuple[str, dict[str, Given]]] = {
    "elman": (
        "p = MatMul(xt, w) q = MatMul(h, r) s = Add(p, q) a = Add(s, b) h2 = Tanh(a)",
        {"w": (4, 6), "r": (6, 6), "b": (6,)},
    ),
    "elman with gemm": (
        "p = Gemm<transB = 1>(xt, w, b) q = Gemm<transB = 1>(h, r, c) s = Add(p, q) h2 = Tanh(s)",
        {"w": (6, 4), "r": (6, 6), "b": (6,), "c": (6,)},
    ),
    "elman with one product on top of the other": (
        "p = Gemm<transB = 1>(xt, w, b) q = Gemm<transB = 1>(h, r, p) h2 = Tanh(q)",
        {"w": (6, 4), "r": (6, 6), "b": (6,)},
    ),
    "gated": (
        """p = MatMul(xt, w) q = MatMul(h, r) s = Add(p, q) g = Sigmoid(s) m = MatMul(xt, w2) k = MatMul(h, r2)
        l = Add(m, k) t = Tanh(l) d = Sub(t, h) e = Mul(g, d) h2 = Add(h, e)""",
        {"w": (4, 6), "r": (6, 6), "w2": (4, 6), "r2": (6, 6)},
    ),
}
EXPECTED = {"w": "input_weight", "w2": "input_weight", "r": "recurrent_weight", "r2": "recurrent_weight"}


def in_scan(cell: str, tensors: dict[str, Given]) -> onnx.ModelProto:
    return build(
        f"""(float[5,n,4] x, float[n,6] h0) => (last, all) {{ last, all = Scan<num_scan_inputs = 1, body = c
        (float[n,6] h, float[n,4] xt) => (h2, out) {{ {cell} out = Identity(h2) }}>(h0, x) }}""",
        check=False,
        **tensors,
    )


def in_loop(cell: str, tensors: dict[str, Given]) -> onnx.ModelProto:
    return build(
        f"""(float[t,n,4] x, float[n,6] h0) => (last, all) {{ s0 = Shape(x) i0 = Constant<value_int = 0>()
        trips = Gather(s0, i0) on = Constant<value = bool {{1}}>() last, all = Loop(trips, on, h0) < body = c
        (int64 i, bool go, float[n,6] h) => (bool go2, float[n,6] h2, float[n,6] out)
        {{ go2 = Identity(go) xt = Gather(x, i) {cell} out = Identity(h2) }} > }}""",
        check=False,
        **tensors,
    )


def unrolled(cell: str, tensors: dict[str, Given]) -> onnx.ModelProto:
    """Three steps, each with names of its own; h is the state, h2 the next one."""
    made = set(re.findall(r"(\w+) = [A-Z]", cell)) - {"h2"}
    body = ["h_0 = Identity(h0)"]
    for t in range(3):
        renamed = {"h": f"h_{t}", "h2": f"h_{t + 1}"} | {name: f"{name}_{t}" for name in {*made, "xt"}}
        step = re.sub(r"\b\w+\b", lambda m, names=renamed: names.get(m[0], m[0]), cell)
        body.append(f"i_{t} = Constant<value_int = {t}>() xt_{t} = Gather(x, i_{t}) {step}")
    return build(f"(float[3,n,4] x, float[n,6] h0) => (h_3) {{ {' '.join(body)} }}", check=False, **tensors)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("form", [in_scan, in_loop, unrolled])
def test_a_cell_has_an_input_and_a_recurrent_weight(
    cell: str, form: Callable[[str, dict[str, Given]], onnx.ModelProto]
) -> None:
    text, tensors = CELLS[cell]
    found = weights(form(text, tensors))
    assert {name: w.role for name, w in found.items()} == {name: EXPECTED.get(name, "bias") for name in tensors}


def test_the_gates_of_a_cell_are_blocks() -> None:
    """As torch writes its LSTM cell: both products make all four gates, which are then cut apart."""
    cell = """p = Gemm<transB = 1>(xt, w, b) q = Gemm<transB = 1>(h, r, c) s = Add(p, q) i, f, g, o = Split<axis = 1>(s)
        i1 = Sigmoid(i) f1 = Sigmoid(f) g1 = Tanh(g) o1 = Sigmoid(o) ig = Mul(i1, g1) fc = Mul(f1, h) c2 = Add(ig, fc)
        tc = Tanh(c2) h2 = Mul(o1, tc)"""
    found = weights(in_scan(cell, {"w": (24, 4), "r": (24, 6), "b": (24,), "c": (24,)}))
    assert {n: w.role for n, w in found.items()} == {
        "w": "input_weight", "r": "recurrent_weight", "b": "bias", "c": "bias",
    }  # fmt: skip
    assert (found["w"].fan_in, found["w"].fan_out, found["w"].blocks) == (4, 6, 4)
    assert (found["r"].fan_in, found["r"].fan_out, found["r"].blocks) == (6, 6, 4)


def test_a_layer_in_a_loop_without_a_state_of_its_own_is_a_plain_weight() -> None:
    """The state of the loop counts up; the layer reads the feed alone."""
    found = roles(
        build(
            """(float[t,n,4] x, float[n,6] h0) => (last, all) { trips = Constant<value_int = 5>()
            on = Constant<value = bool {1}>() last, all = Loop(trips, on, h0) < body = c
            (int64 i, bool go, float[n,6] h) => (bool go2, float[n,6] h2, float[n,6] out)
            { go2 = Identity(go) xt = Gather(x, i) p = MatMul(xt, w) out = Relu(p) h2 = Add(h, out) } > }""",
            check=False,
            w=(4, 6),
        )
    )
    assert found["w"] == "weight"


def test_two_towers_that_are_added_are_no_cell() -> None:
    found = roles(
        build(
            "(float[n,4] x, float[n,6] z) => (y) { p = MatMul(x, w) q = MatMul(z, r) s = Add(p, q) t = Tanh(s)"
            " y = MatMul(t, u) }",
            w=(4, 6),
            r=(6, 6),
            u=(6, 6),
            check=False,
        )
    )
    assert found == {"w": "weight", "r": "weight", "u": "weight"}


def test_one_layer_used_twice_in_a_row_is_no_cell() -> None:
    found = roles(
        build(
            "(float[n,6] x) => (y) { p = MatMul(x, w) t = Tanh(p) q = MatMul(t, w) y = Tanh(q) }", w=(6, 6), check=False
        )
    )
    assert found == {"w": "weight"}


def test_layers_shared_by_residual_blocks_are_no_cell() -> None:
    """As in recurrent-depth transformers: h + f(h) with the same two layers in every block."""
    blocks = "".join(
        f" a{i} = MatMul(h{i}, w) b{i} = Relu(a{i}) c{i} = MatMul(b{i}, r) h{i + 1} = Add(h{i}, c{i})" for i in range(3)
    )
    found = roles(build(f"(float[n,6] x) => (h3) {{ h0 = Identity(x) {blocks} }}", w=(6, 6), r=(6, 6), check=False))
    assert found == {"w": "weight", "r": "weight"}

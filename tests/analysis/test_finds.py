"""What random graphs have found, each in its smallest form."""

from __future__ import annotations

import numpy as np
from graphs import build, roles, weights


def test_the_biases_of_stacked_layers_are_biases_whatever_follows() -> None:
    text = """(float[2,4] x) => (float[2,4] y) { y = Scan<num_scan_inputs = 2, body = steps (float[2,4] s, float[4,4] v,
    float[4] c) => (float[2,4] t) { h = MatMul(s, v) a = Add(h, c) t = FUNCTION(a) }>(x, w, b) }"""
    for function in ("Sin", "LogSoftmax", "Relu"):
        model = build(text.replace("FUNCTION", function), w=(3, 4, 4), b=(3, 4))
        assert roles(model) == {"w": "weight", "b": "bias"}
        assert weights(model)["b"].fan_in == 4


def test_the_halves_of_an_einsum_are_blocks() -> None:
    for equation, shape in (("bi,io->bo", (4, 6)), ("bi,oi->bo", (6, 4)), ("ai, ib", (4, 6))):
        text = f"""(float[2,4] x) => (float[2,3] y) {{ h = Einsum<equation = "{equation}">(x, w)
        p, q = Split<axis = -1>(h) g = Sigmoid(q) y = Mul(p, g) }}"""
        (found,) = weights(build(text, w=shape)).values()
        assert (found.fan_in, found.fan_out, found.blocks) == (4, 3, 2)
        assert [a.name for a in found.downstream] == ["glu"]


def test_the_halves_of_a_layer_on_the_left_whose_rank_nothing_tells() -> None:
    text = """(float[2,4] x) => (float[2,3] y) { a = com.microsoft.Mystery(x) t = Transpose<perm = [1, 0]>(a)
    h = MatMul(w, t) u = Transpose<perm = [1, 0]>(h) p, q = Split<axis = -1>(u) g = Sigmoid(q) y = Mul(p, g) }"""
    for op in ("FusedMatMul<transB = 1>(x, k)", "QuickGelu(x)", "Inverse(x)"):
        model = build(text.replace("Mystery(x)", op), check=False, w=(6, 4), k=(4, 4))
        found = weights(model)["w"]
        assert (found.fan_in, found.fan_out, found.blocks) == (4, 3, 2), op


def test_a_parametric_relu_at_the_end_of_a_function() -> None:
    function = (
        """<domain: "local", opset_import: ["": 17]> Block (a, m, s) => (b) { h = MatMul(a, m) b = PRelu(h, s) }"""
    )
    model = build(
        "(float[2,3] x) => (float[2,3] y) { h = local.Block(x, w, s) y = local.Block(h, v, s) }",
        functions=function, w=(3, 3), v=(3, 3), s=(3,),
    )  # fmt: skip
    found = weights(model)
    assert [a.name for a in found["w"].downstream + found["v"].upstream + found["v"].downstream] == ["prelu"] * 3


def test_a_branch_of_a_quantised_table_carries_a_signal() -> None:
    text = """(int64[2,5] i) => (float[2,5,4] y) { d = DequantizeLinear(t, c) x = Gather(d, i) h = MatMul(x, w)
    g = Mul(h, s) y = Add(x, g) }"""
    codes = np.arange(-22, 22).astype(np.int8).reshape(11, 4)
    model = build(text, t=codes, c=np.array(0.1, np.float32), w=(4, 4), s=(4,))
    assert roles(model)["s"] == "layer_scale"


def test_the_bias_behind_an_equation_without_an_arrow() -> None:
    text = """(float[2,4] x) => (float[2,6] y) { h = Einsum<equation = "ai,ib">(x, w) a = Add(h, b) y = Softmax(a) }"""
    assert roles(build(text, w=(4, 6), b=(1, 6))) == {"w": "weight", "b": "bias"}


def test_a_residual_branch_before_a_sine() -> None:
    text = """(float[2,4] x) => (float[2,4] y) { h = MatMul(x, w) g = Mul(h, s) r = Add(x, g) y = Sin(r) }"""
    assert roles(build(text, w=(4, 4), s=(4,))) == {"w": "weight", "s": "layer_scale"}


def test_a_layer_that_is_added_to_the_end_of_a_loop_is_no_part_of_it() -> None:
    text = """(float[2,4] x) => (float[2,4] y) { r = Loop<body = b (int64 i, bool c, float[2,4] s) =>
    (bool d, float[2,4] t) { d = Identity(c) t = MatMul(s, w) }>(n, yes, x) h = MatMul(r, v) y = Add(r, h) }"""
    model = build(text, w=(4, 4), v=(4, 4), n=np.array(2), yes=np.array(True))
    assert roles(model) == {"w": "weight", "v": "weight", "n": "", "yes": ""}


def test_pieces_of_a_tensor_that_is_stored_flat() -> None:
    text = """(float[2,4] x) => (float[2,6] y) { k = Reshape(w, s) a, b = Split<axis = 1>(k) p = MatMul(x, a)
    q = MatMul(x, b) r = Relu(q) y = Concat<axis = -1>(p, r) }"""
    found = weights(build(text, w=(24,), s=np.array([4, 6])))["w"]
    assert (found.fan_in, found.fan_out, found.blocks) == (4, 3, 2)
    assert {a.name for a in found.downstream} == {"relu"}

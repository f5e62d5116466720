"""What stands around a layer, seen through what leaves a signal what it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from bodies import Around, view_of
from graphs import Given
from onnx import TensorProto, helper, numpy_helper

from onnxinit.analysis.constants import Constants
from onnxinit.analysis.pointwise import moments, sigmoid
from onnxinit.analysis.surroundings import Surroundings
from onnxinit.analysis.view import GraphView

SHAPES: dict[str, Given] = {
    "flat": np.array([16], np.int64),
    "back": np.array([2, 8], np.int64),
    "two": np.array([2], np.int64),
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "four": np.array([4], np.int64),
    "halves": np.array([4, 4], np.int64),
    "pads": np.array([0, 1, 0, 1], np.int64),
    "scale": np.array(0.1, np.float32),
    "mid": np.array(128, np.uint8),
    "none": np.array(0, np.uint8),
    "low": np.array(-128, np.int8),
    "some": np.array(0, np.int8),
    "sixth": np.array(6 / 255, np.float32),
    "mask": np.ones((2, 8), bool),
    "fill": np.array(-1e9, np.float32),
}
WEIGHTS: dict[str, Given] = {
    "w": (8, 8),
    "w2": (8, 8),
    "w4": (4, 8),
    "b": (8,),
    "g": (8,),
    "bm": (8,),
    "bv": (8,),
    "t": (2, 8),
}


def around(body: str, opset: int = 20, check: bool = False, **more: Given) -> Around:
    """The layer h = x w with a body behind it, next to every constant that a body names."""
    given = {k: v for k, v in (WEIGHTS | SHAPES | more).items() if k in body or k == "w"}
    return Around(view_of(f"h = MatMul (x, w) {body}", opset, check=check, **given))


THROUGH = {
    "nothing": "y = Relu (h)",
    "bias": "a = Add (h, b) y = Relu (a)",
    "bias on the left": "a = Add (b, h) y = Relu (a)",
    "position table": "a = Add (h, t) y = Relu (a)",
    "batch norm": "a = BatchNormalization (h, g, b, bm, bv) y = Relu (a)",
    "batch norm, folded": "s = Mul (h, g) a = Add (s, b) y = Relu (a)",
    "layer norm": "a = LayerNormalization (h, g, b) y = Relu (a)",
    "layer norm, written out": "m = ReduceMean (h, one) d = Sub (h, m) q = Mul (d, d) v = ReduceMean (q, one) e = "
    "Add (v, {0.00001}) "
    "s = Sqrt (e) n = Div (d, s) p = Mul (n, g) a = Add (p, b) y = Relu (a)",
    "rms norm, written out": "q = Pow (h, {2}) v = ReduceMean (q, one) e = Add (v, {0.00001}) s = Sqrt (e) n = Div "
    "(h, s) "
    "a = Mul (n, g) y = Relu (a)",
    "dropout": "a = Dropout (h) y = Relu (a)",
    "reshape": "r = Reshape (h, flat) a = Reshape (r, back) y = Relu (a)",
    "transpose": "a = Transpose <perm = [1, 0]> (h) y = Relu (a)",
    "flatten, squeeze": "f = Flatten (h) u = Unsqueeze (f, zero) a = Squeeze (u, zero) y = Relu (a)",
    "split": "p, q = Split (h, halves) c = Relu (p) d = Relu (q) y = Concat <axis = 1> (c, d)",
    "slice": "a = Slice (h, zero, four, one) y = Relu (a)",
    "gather": "a = Gather <axis = 1> (h, zero) y = Relu (a)",
    "concat": "a = Concat <axis = 1> (h, x) y = Relu (a)",
    "pad": "a = Pad (h, pads) y = Relu (a)",
    "cast": "c = Cast <to = 10> (h) y = Relu (c)",
    "quantise pair": "q = QuantizeLinear (h, scale, mid) a = DequantizeLinear (q, scale, mid) y = Relu (a)",
    "pooling": "u = Unsqueeze (h, zero) a = MaxPool <kernel_shape = [2]> (u) y = Relu (a)",
    "mean over an axis": "a = ReduceMean (h, zero) y = Relu (a)",
    "a factor": "a = Mul (h, {0.5}) y = Relu (a)",
    "a divisor": "r = Sqrt ({8}) a = Div (h, r) y = Relu (a)",
    "layer scale": "a = Mul (h, g) y = Relu (a)",
    "residual add": "a = Add (h, x) y = Relu (a)",
    "residual sum": "a = Sum (x, h) y = Relu (a)",
    "a mask": "a = Where (mask, h, fill) y = Relu (a)",
    "residual norm": "a = com.microsoft.SkipLayerNormalization (x, h, g, b) y = Relu (a)",
    "values that nothing uses": "s = Shape (h) z = Tanh (h) y = Relu (h)",
    "integer product": "q, s, z = DynamicQuantizeLinear (h) c = Cast <to = 1> (q) f = Mul (s, scale) a = Mul (c, f) "
    "y = Relu (a)",
    "a quantiser that took it over": "q = QuantizeLinear (h, scale, none) y = DequantizeLinear (q, scale, none)",
    "a signed quantiser that took it over": "q = QuantizeLinear (h, scale, low) y = DequantizeLinear (q, scale, low)",
}


@pytest.mark.parametrize("what", THROUGH)
def test_the_activation_is_seen_through(what: str) -> None:
    assert around(THROUGH[what]).down("h") == ["relu"]


UP = {
    "nothing": "u = Relu (h)",
    "dropout": "a = Relu (h) u = Dropout (a)",
    "a norm": "a = Relu (h) u = LayerNormalization (a, g, b)",
    "batch norm, folded": "a = Relu (h) s = Mul (a, g) u = Add (s, b)",
    "shapes": "a = Relu (h) f = Reshape (a, flat) r = Reshape (f, back) u = Transpose (r)",
    "pooling": "a = Relu (h) p = Unsqueeze (a, zero) q = GlobalAveragePool (p) u = Squeeze (q, zero)",
    "slices": "a = Relu (h) p, q = Split <axis = 1, num_outputs = 2> (a) u = Concat <axis = 1> (p, q)",
    "quantise pair": "a = Relu (h) q = QuantizeLinear (a, scale, mid) u = DequantizeLinear (q, scale, mid)",
    "a factor": "a = Relu (h) u = Mul (a, {2})",
    "cast": "a = Relu (h) c = Cast <to = 10> (a) u = Cast <to = 1> (c)",
}


@pytest.mark.parametrize("what", UP)
def test_what_made_a_layers_input_is_seen_through_the_same(what: str) -> None:
    assert around(f"{UP[what]} y = MatMul (u, w2)").up("u") == ["relu"]


LINEAR = {
    "the next layer": "y = MatMul (h, w2)",
    "the model's output": "y = Identity (h)",
    "a product with a signal": "k = MatMul (x, w2) t = Transpose (k) y = MatMul (h, t)",
    "a factor that is a signal": "k = Sigmoid (x) y = Mul (h, k)",
    "two residual adds": "a = Add (h, x) c = Add (a, x) y = Relu (c)",
    "a signed symmetric quantiser": "q = QuantizeLinear (h, scale, some) y = DequantizeLinear (q, scale, some)",
    "a shape alone": "y = Shape (h)",
}


@pytest.mark.parametrize("what", LINEAR)
def test_where_there_is_none_it_is_linear(what: str) -> None:
    assert around(LINEAR[what]).down("h") == ["linear"]


@pytest.mark.parametrize("name", ["x", "w2"])
def test_a_feed_is_linear(name: str) -> None:
    assert around("y = MatMul (h, w2)").up(name) == ["linear"]


def test_a_residual_stream_is_linear_upstream() -> None:
    assert around("a = Relu (h) s = Add (a, x) n = LayerNormalization (s, g, b) y = MatMul (n, w2)").up("n") == [
        "linear"
    ]


def test_several_uses_give_several_names() -> None:
    assert around("a = Relu (h) c = Tanh (h) d = MatMul (h, w2) y = Sum (a, c, d)").down("h") == ["relu", "tanh"]


def test_branches_that_are_joined_give_several_names_upstream() -> None:
    assert around("a = Relu (h) c = Tanh (h) u = Concat <axis = 0> (a, c) y = MatMul (u, w2)").up("u") == [
        "relu",
        "tanh",
    ]


NAMED = {
    "softmax": "y = Softmax (h)",
    "logsoftmax": "y = LogSoftmax (h)",
}
WRITTEN_OUT = {
    "softmax": "m = ReduceMax (h, one) d = Sub (h, m) e = Exp (d) s = ReduceSum (e, one) y = Div (e, s)",
    "logsoftmax": "m = ReduceMax (h, one) d = Sub (h, m) e = Exp (d) s = ReduceSum (e, one) l = Log (s) y = Sub (d, l)",
}
FLAT = (
    "m = ReduceMax <keepdims = 0> (h, one) k = Unsqueeze (m, one) d = Sub (h, k) e = Exp (d) s = ReduceSum <keepdims "
    "= 0> (e, one) "
    "z = Unsqueeze (s, one) y = Div (e, z)"
)


@pytest.mark.parametrize("name", NAMED)
def test_softmax_and_its_logarithm(name: str) -> None:
    assert around(NAMED[name]).down("h") == [name]
    assert around(WRITTEN_OUT[name]).down("h") == [name]
    assert around(f"{NAMED[name].replace('y', 'u')} y = MatMul (u, w2)").up("u") == [name]


def test_a_softmax_whose_sums_lose_their_axis() -> None:
    assert around(FLAT).down("h") == ["softmax"]


def test_what_is_only_averaged_is_no_activation() -> None:
    assert around("q = Mul (h, h) v = ReduceMean (q, one) s = Sqrt (v) k = MatMul (h, w2) y = Add (k, s)").down(
        "h"
    ) == ["linear"]


def test_the_next_quantised_layer_is_not_this_ones_activation() -> None:
    body = (
        "q = QuantizeLinear (h, scale, mid) c = QLinearMatMul (q, scale, mid, w8, scale, mid, scale, none) y = "
        "DequantizeLinear (c, scale, none)"
    )
    found = around(body, w8=np.ones((8, 8), np.uint8))
    assert found.down("h") == ["linear"] and found.down("c") == ["relu"]


RECURRENT = {"tanh": "RNN <hidden_size = 8>", "relu": 'RNN <hidden_size = 8, activations = ["Relu"]>'}


@pytest.mark.parametrize("name", RECURRENT)
def test_the_output_of_a_recurrent_operator(name: str) -> None:
    found = around(
        f"u = Unsqueeze (h, zero) a = {RECURRENT[name]} (u, k, k) s = Squeeze (a, one) y = MatMul (s, w2)", k=(1, 8, 8)
    )
    (up,) = found.surroundings.upstream(found("s"))
    assert up.name == name and up.second is not None


def test_of_a_gated_recurrent_operator_the_moments_are_not_known() -> None:
    found = around(
        "u = Unsqueeze (h, zero) a = LSTM <hidden_size = 8> (u, k, k) s = Squeeze (a, one) y = MatMul (s, w2)",
        k=(1, 32, 8),
    )
    (up,) = found.surroundings.upstream(found("s"))
    assert (up.name, up.second) == ("tanh", None)


def test_a_masked_softmax() -> None:
    assert around("a = Where (mask, h, fill) y = Softmax (a)").down("h") == ["softmax"]


# ---------------------------------------------------------------- gates

HALVES = {
    "split": "p, q = Split <axis = 1> (h, halves)",
    "chunk": "p, q = Split <axis = 1, num_outputs = 2> (h)",
    "slices": "p = Slice (h, zero, four, one) q = Slice (h, four, eight, one)",
}
EIGHT = {"eight": np.array([8], np.int64)}


@pytest.mark.parametrize("how", HALVES)
def test_a_gated_linear_unit(how: str) -> None:
    found = around(f"{HALVES[how]} g0 = Sigmoid (q) u = Mul (p, g0) y = MatMul (u, w4)", **EIGHT)
    (down,) = found.surroundings.downstream(found("h"))
    (up,) = found.surroundings.upstream(found("u"))
    _, second, _ = moments(sigmoid)
    assert down.name == up.name == "glu"
    for activation in (down, up):
        assert activation.mean == 0.0 and activation.second == pytest.approx(second)


def test_a_unit_gated_by_another_function_has_that_name() -> None:
    found = around(f"{HALVES['split']} g0 = Gelu (q) u = Mul (p, g0) y = MatMul (u, w4)")
    assert found.down("h") == ["gelu"] and found.up("u") == ["gelu"]


def test_gates_of_a_recurrent_cell_are_no_glu() -> None:
    body = "a = Add (h, x) p, q = Split <axis = 1> (a, halves) i = Sigmoid (p) c = Tanh (q) y = Mul (i, c)"
    assert around(body).down("h") == ["sigmoid", "tanh"]


def test_in_a_gated_pair_of_layers_the_gate_has_the_function() -> None:
    found = around("s = Sigmoid (h) a = Mul (h, s) k = MatMul (x, w2) u = Mul (a, k) y = MatMul (u, w)")
    assert found.down("h") == ["silu"] and found.down("k") == ["linear"]
    (up,) = found.surroundings.upstream(found("u"))
    assert up.name == "silu" and up.second == pytest.approx(moments(lambda x: x * sigmoid(x))[1])
    assert up.mean == 0.0


def test_what_a_squeezed_gate_scales_keeps_its_name() -> None:
    body = (
        "a = Relu (h) m = ReduceMean (a, one) k = MatMul (m, one8) g0 = Sigmoid (k) u = Mul (a, g0) y = MatMul (u, w2)"
    )
    found = around(body, one8=(1, 8))
    assert found.down("h") == ["relu"] and found.down("k") == ["sigmoid"]
    (up,) = found.surroundings.upstream(found("u"))
    assert up.name == "relu" and up.second == pytest.approx(0.5 * moments(sigmoid)[1])


def test_after_a_norm_the_second_moment_is_one() -> None:
    found = around("a = Relu (h) u = LayerNormalization (a, g, b) y = MatMul (u, w2)")
    (up,) = found.surroundings.upstream(found("u"))
    assert (up.name, up.mean, up.second) == ("relu", 0.0, 1.0)


# ---------------------------------------------------------------- fused operators

FUSED = {
    "relu": 'y = com.microsoft.FusedConv <activation = "Relu"> (x, k)',
    "leaky_relu": 'y = com.microsoft.FusedConv <activation = "LeakyRelu", activation_params = [0.2]> (x, k)',
    "hardsigmoid": 'y = com.microsoft.FusedConv <activation = "HardSigmoid", activation_params = [0.2, 0.5]> (x, k)',
    "relu6": 'y = com.microsoft.FusedConv <activation = "Clip", activation_params = [0.0, 6.0]> (x, k)',
    "elu": 'y = com.microsoft.FusedGemm <activation = "Elu", activation_alpha = 0.7> (x, k)',
    "softmax": 'y = com.microsoft.FusedMatMulActivation <activation = "Softmax"> (x, k)',
    "linear": "y = com.microsoft.FusedConv (x, k)",
}


@pytest.mark.parametrize("name", FUSED)
def test_the_activation_inside_a_fused_layer(name: str) -> None:
    found = Around(view_of(f"{FUSED[name]} z = MatMul (y, k)", check=False, k=(8, 8)))
    assert found.down("y") == [name] and found.up("y") == [name]


AFTER_BIAS = {
    "gelu": "y = com.microsoft.BiasGelu (h, b)",
    "gelu_tanh": "y = com.microsoft.FastGelu (h, b)",
    "silu": "y = com.microsoft.GroupNorm <activation = 1> (h, g, b)",
}


@pytest.mark.parametrize("name", AFTER_BIAS)
def test_operators_that_add_a_bias_first(name: str) -> None:
    assert around(AFTER_BIAS[name]).down("h") == [name]


def test_a_quantiser_at_six_took_over_a_relu6() -> None:
    assert around("q = QuantizeLinear (h, sixth, none) y = DequantizeLinear (q, sixth, none)").down("h") == ["relu6"]


# ---------------------------------------------------------------- control flow


def test_through_the_branches_of_an_if() -> None:
    body = (
        "y = If (c) <then_branch = a () => (float[2,8] p) { p = Relu (h) }, else_branch = e () => (float[2,8] q) { q "
        "= Tanh (h) }>"
    )
    view = view_of(
        f"h = MatMul (x, w) {body}", signature="(float[2,8] x, bool c) => (float[m,n] y)", check=False, w=(8, 8)
    )
    found = Around(view)
    assert found.down("h") == ["relu", "tanh"]
    assert found.up("y") == ["relu", "tanh"]


# ---------------------------------------------------------------- size


def residual_stack(blocks: int) -> onnx.ModelProto:
    nodes, tensors, at = [], [], "x"
    for i in range(blocks):
        nodes += [
            helper.make_node("LayerNormalization", [at, "g", "b"], [f"n{i}"]),
            helper.make_node("MatMul", [f"n{i}", "w"], [f"h{i}"]),
            helper.make_node("Sigmoid", [f"h{i}"], [f"s{i}"]),
            helper.make_node("Mul", [f"h{i}", f"s{i}"], [f"a{i}"]),
            helper.make_node("MatMul", [f"a{i}", "w"], [f"o{i}"]),
            helper.make_node("Add", [at, f"o{i}"], [f"x{i}"]),
        ]
        at = f"x{i}"
    for name, shape in (("g", (8,)), ("b", (8,)), ("w", (8, 8))):
        tensors.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])
    out = helper.make_tensor_value_info(at, TensorProto.FLOAT, [2, 8])
    graph = helper.make_graph(nodes, "g", [info], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_deep_residual_stack_needs_no_recursion_and_walks_little() -> None:
    view = GraphView(residual_stack(2000))
    surroundings = Surroundings(view, Constants())
    by_name = {v.name: v for v in view.values}
    for i in range(2000):
        assert [a.name for a in surroundings.downstream(by_name[f"h{i}"])] == ["silu"]
        assert [a.name for a in surroundings.downstream(by_name[f"o{i}"])] == ["linear"]
        assert [a.name for a in surroundings.upstream(by_name[f"a{i}"])] == ["silu"]
        assert [a.name for a in surroundings.upstream(by_name[f"n{i}"])] == ["linear"]


def test_a_long_way_of_reshapes_is_cut_short() -> None:
    steps = " ".join(f"a{i + 1} = Transpose (a{i})" for i in range(1500))
    found = around(f"a0 = Transpose (h) {steps} y = Relu (a1500)")
    assert found.down("h") == ["linear"] and found.up("a1500") == ["linear"]

"""Quantised operators: what every operand is, a weight with a role or kept with the reason that is its own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import Given, analysed, build
from onnx import TensorProto, helper, numpy_helper

from onnxinit.analysis import PARAMETER_ROLES

INT8, UINT8, INT32 = (np.dtype(t) for t in ("int8", "uint8", "int32"))
FITTED, CENTRED = "quant_scale", "quant_zero_point"  # those that follow the weights
SCALE, ZERO = "a scale of quantised values", "a zero point of quantised values"
ONE = np.array(0.1, np.float32)


def drawn(shape: tuple[int, ...], dtype: np.dtype[np.generic] = INT8) -> Given:
    return np.random.default_rng(shape).integers(1, 100, shape).astype(dtype)


def said(model: onnx.ModelProto) -> dict[str, str]:
    """The role of every weight that is quantised or belongs to one; of all others the reason why they are kept."""
    found = analysed(model)
    known = {w.id: w.role for w in found.weights if w.quantised or w.role in PARAMETER_ROLES}
    assert {w.id for w in found.weights if w.dtype != "float"} <= known.keys()
    return known | {k.id: k.reason for k in found.kept}


def whose(what: str, op: str) -> str:
    return f"a quantised {what} of {op}, whose values this version does not draw"


@pytest.mark.parametrize(
    ("node", "tensors", "expected"),
    [
        (
            "y = QLinearConv(u, s, z, w, t, v, o, p, b)",
            {
                "s": ONE, "z": drawn((), UINT8), "w": drawn((6, 4, 1)), "t": (6,), "v": drawn((6,)), "o": ONE,
                "p": drawn((), UINT8), "b": drawn((6,), INT32),
            },
            {
                "s": SCALE, "z": ZERO, "w": "weight", "t": FITTED, "v": CENTRED, "o": SCALE, "p": ZERO, "b": "bias",
            },
        ),
        (
            "y = QLinearMatMul(u, s, z, w, t, v, o, p)",
            {
                "s": ONE, "z": drawn((), UINT8), "w": drawn((3, 6)), "t": ONE, "v": drawn(()), "o": ONE,
                "p": drawn((), UINT8),
            },
            {
                "s": SCALE, "z": ZERO, "w": "weight", "t": FITTED, "v": CENTRED, "o": SCALE, "p": ZERO,
            },
        ),
        (
            "y = MatMulInteger(u, w, z, v)",
            {"w": drawn((3, 6)), "z": drawn((), UINT8), "v": drawn((6,))},
            {"w": whose("weight", "MatMulInteger"), "z": ZERO, "v": ZERO},
        ),
        (
            "y = ConvInteger(u, w, z, v)",
            {"w": drawn((6, 4, 1)), "z": drawn((), UINT8), "v": drawn((6,))},
            {"w": whose("weight", "ConvInteger"), "z": ZERO, "v": ZERO},
        ),
        (
            "y = com.microsoft.QGemm(u, s, z, w, t, v, b, o, p)",
            {
                "s": ONE, "z": drawn((), UINT8), "w": drawn((3, 6)), "t": ONE, "v": drawn(()), "b": drawn((6,), INT32),
                "o": ONE, "p": drawn((), UINT8),
            },
            {
                "s": SCALE, "z": ZERO, "w": "weight", "t": FITTED, "v": CENTRED, "b": "bias", "o": SCALE, "p": ZERO,
            },
        ),
        (
            "y = com.microsoft.DynamicQuantizeMatMul(x, w, t, v)",
            {"w": drawn((3, 6)), "t": (6,), "v": drawn((6,))},
            {"w": "weight", "t": FITTED, "v": CENTRED},
        ),
        (
            "y = com.microsoft.MatMulIntegerToFloat(u, w, s, t, z, v)",
            {"w": drawn((3, 6)), "s": ONE, "t": (6,), "z": drawn((), UINT8), "v": drawn((6,))},
            {"w": "weight", "s": SCALE, "t": FITTED, "z": ZERO, "v": CENTRED},
        ),
        (
            "y = com.microsoft.QAttention<num_heads = 1>(u, w, x, s, t,, z, v)",
            {"w": drawn((3, 9)), "s": ONE, "t": ONE, "z": drawn((), UINT8), "v": drawn(())},
            {"w": "weight", "s": SCALE, "t": FITTED, "z": ZERO, "v": CENTRED},
        ),
        (
            "y = com.microsoft.DynamicQuantizeLSTM<hidden_size = 2>(x, w, r,,,,,, s, z, t, v)",
            {
                "w": drawn((1, 3, 8)), "r": drawn((1, 2, 8)), "s": (1, 8), "z": drawn((1, 8)), "t": (1, 8),
                "v": drawn((1, 8)),
            },
            {
                "w": "input_weight", "s": FITTED, "z": CENTRED, "r": "recurrent_weight", "t": FITTED, "v": CENTRED,
            },
        ),
        (
            "y = com.microsoft.MatMulNBits<K = 32, N = 6, bits = 4, block_size = 16>(x, w, s, z)",
            {"w": drawn((6, 2, 8), UINT8), "s": (6, 2), "z": drawn((6, 1), UINT8)},
            {"w": "weight", "s": FITTED, "z": CENTRED},
        ),
        (
            "y = com.microsoft.MatMulBnb4<K = 32, N = 6, block_size = 16, quant_type = 1>(x, w, s)",
            {"w": drawn((96,), UINT8), "s": (12,)},
            {"w": "weight", "s": FITTED},
        ),
        (
            "y = com.microsoft.GatherBlockQuantized<block_size = 16, bits = 8>(w, i, s, z)",
            {"w": drawn((50, 32), UINT8), "s": (50, 2), "z": drawn((50, 2), UINT8)},
            {"w": "embedding", "s": FITTED, "z": CENTRED},
        ),
        (
            "y, m = com.microsoft.QEmbedLayerNormalization(i, i, w, p, q, g, b,, s, s, s, s, s, z, z, z, z, z)",
            {
                "w": drawn((50, 8)), "p": drawn((9, 8)), "q": drawn((2, 8)), "g": drawn((8,)), "b": drawn((8,)),
                "s": ONE, "z": drawn(()),
            },
            {
                "w": "embedding", "p": "positional", "q": "embedding", "g": "norm_scale", "b": "norm_shift", "s": SCALE,
                "z": ZERO,
            },
        ),
        (
            "y = com.microsoft.QLinearConcat<axis = 0>(o, p, u, s, z, w, t, v)",
            {
                "o": ONE, "p": drawn((), UINT8), "s": ONE, "z": drawn((), UINT8), "w": drawn((4, 3), UINT8), "t": ONE,
                "v": drawn((), UINT8),
            },
            {
                "o": SCALE, "p": ZERO, "s": SCALE, "z": ZERO, "w": "a quantised operand of QLinearConcat", "t": SCALE,
                "v": ZERO,
            },
        ),
        (
            "y = com.microsoft.QLinearAdd(u, s, z, w, t, v, o, p)",
            {
                "s": ONE, "z": drawn((), UINT8), "w": drawn((3,), UINT8), "t": ONE, "v": drawn((), UINT8), "o": ONE,
                "p": drawn((), UINT8),
            },
            {
                "s": SCALE, "z": ZERO, "w": "a quantised operand of QLinearAdd", "t": SCALE, "v": ZERO, "o": SCALE,
                "p": ZERO,
            },
        ),
    ],
    ids=lambda v: v.partition("(")[0].split(" = ")[1].partition("<")[0] if isinstance(v, str) else "",
)  # fmt: skip
def test_every_operand_has_its_own_reason(node: str, tensors: dict[str, Given], expected: dict[str, str]) -> None:
    text = f"(float[1,4,3] x, uint8[1,4,3] u, int64[1,4] i) => (y) {{ {node} }}"
    assert said(build(text, check=False, **tensors)) == expected


@pytest.mark.parametrize("domain", ["", "com.microsoft."])
def test_between_quantise_pairs_a_tensor_is_what_its_layer_makes_it(domain: str) -> None:
    text = (
        f"(float[1,4,3] x) => (y) {{ k = {domain}DequantizeLinear(w, s, z) c = {domain}DequantizeLinear(b, t)"
        f" q = {domain}QuantizeLinear(x, o, p) d = {domain}DequantizeLinear(q, o, p) y = Conv(d, k, c) }}"
    )
    model = build(
        text,
        check=False,
        w=drawn((6, 4, 1)),
        s=ONE,
        z=drawn(()),
        b=drawn((6,), INT32),
        t=ONE,
        o=ONE,
        p=drawn((), UINT8),
    )
    assert said(model) == {
        "w": "weight", "s": FITTED, "z": CENTRED, "b": "bias", "t": FITTED, "o": SCALE, "p": ZERO,
    }  # fmt: skip


@pytest.mark.parametrize("moved", ["", "t = Transpose<perm = [1, 0, 2]>(e)"])
def test_a_quantised_table_is_looked_up_before_it_is_turned_to_floats(moved: str) -> None:
    text = (
        f"(int64[2,3] i) => (y) {{ e = Gather(w, i) {moved} d = DequantizeLinear({'t' if moved else 'e'}, s, z)"
        " y = MatMul(d, v) }"
    )
    model = build(text, w=drawn((50, 4), UINT8), s=ONE, z=drawn((), UINT8), v=(4, 2), check=False)
    assert said(model) == {"w": "embedding", "s": SCALE, "z": ZERO}


def test_small_floats_that_are_cast_are_weights_as_they_are() -> None:
    model = build("(float[2,4] x) => (y) { k = Cast<to = 1>(w) y = MatMul(x, k) }", check=False)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, (4, 3), [0.5] * 12))
    (weight,) = analysed(model).weights
    assert (weight.role, weight.dtype, weight.fan_in, weight.quantised) == ("weight", "float8e4m3fn", 4, None)


def test_other_integers_are_no_weights() -> None:
    text = (
        "(float[2,12] x, int64[3] i) => (y) { a = Reshape(x, shape) b = Gather(a, at) c = Gather(table, i)"
        " d = Gather(letters, i) y = Identity(b) }"
    )
    model = build(
        text, check=False, shape=np.array([2, 3, 4]), at=np.array([1, 0], np.int32), table=drawn((9, 2), INT32),
        letters=drawn((9, 2), UINT8),
    )  # fmt: skip
    assert said(model) == {
        "shape": "int64: shapes, indices, flags and the like",
        "at": "int32: shapes, indices, flags and the like",
        "table": "int32: shapes, indices, flags and the like",
        "letters": "uint8: quantised values, which are not drawn",
    }


# ---------------------------------------------------------------- numbers that attributes hold


def model_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])
    outputs = [helper.make_tensor_value_info(n.output[0], TensorProto.FLOAT, None) for n in nodes]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 5)]
    return helper.make_model(helper.make_graph(list(nodes), "g", [x], outputs), opset_imports=opsets)


def test_linear_models_hold_their_weights_in_attributes() -> None:
    regressor = helper.make_node(
        "LinearRegressor", ["x"], ["y"], "last", domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0], intercepts=[0.5]
    )
    classifier = helper.make_node(
        "LinearClassifier", ["x"], ["z", "p"], domain="ai.onnx.ml", coefficients=[1.0] * 6, classlabels_ints=[0, 1]
    )
    again = helper.make_node(
        "LinearClassifier", ["x"], ["a", "b"], domain="ai.onnx.ml", coefficients=[1.0] * 6, classlabels_ints=[0, 1]
    )
    odd = helper.make_node(
        "LinearRegressor", ["x"], ["v"], "odd", domain="ai.onnx.ml", coefficients=[1.0] * 6, targets=4
    )
    found = analysed(model_of(regressor, classifier, again, odd))
    assert [(w.id, w.where, w.role, w.shape, w.dtype) for w in found.weights] == [
        ("last.coefficients", "attribute", "weight", (1, 3), "float"),
        ("last.intercepts", "attribute", "bias", (1,), "float"),
        ("LinearClassifier.coefficients", "attribute", "weight", (2, 3), "float"),
        ("LinearClassifier.coefficients#2", "attribute", "weight", (2, 3), "float"),
    ]
    (kept,) = found.kept
    said = "coefficients of LinearRegressor, whose number does not fit the other attributes"
    assert (kept.id, kept.shape, kept.reason) == ("odd.coefficients", (6,), said)


def test_trees_and_support_vectors_say_what_they_are() -> None:
    tree = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], "t", domain="ai.onnx.ml", nodes_values=[0.5, 0.0, 0.0],
        target_weights=[1.0, 2.0],
    )  # fmt: skip
    newer = helper.make_node(
        "TreeEnsemble", ["x"], ["u"], "n", domain="ai.onnx.ml",
        leaf_weights=numpy_helper.from_array(np.ones(2, np.float32), "leaves"),
    )  # fmt: skip
    machine = helper.make_node("SVMRegressor", ["x"], ["z"], "m", domain="ai.onnx.ml", support_vectors=[1.0, 2.0, 3.0])
    scaler = helper.make_node("Scaler", ["x"], ["w"], "s", domain="ai.onnx.ml", scale=[2.0])
    found = {k.id: k.reason for k in analysed(model_of(tree, newer, machine, scaler)).kept}
    assert found == {
        "leaves": "part of TreeEnsemble, whose trees are grown, not drawn",
        "t.nodes_values": "part of TreeEnsembleRegressor, whose trees are grown, not drawn",
        "t.target_weights": "part of TreeEnsembleRegressor, whose trees are grown, not drawn",
        "m.support_vectors": "part of SVMRegressor, which holds the examples that it was fitted to",
        "s.scale": "scale of Scaler, which prepares the input and was fitted to data, not trained",
    }


def test_a_tensor_in_an_attribute_names_its_operator() -> None:
    fill = helper.make_node(
        "ConstantOfShape", ["s"], ["y"], value=helper.make_tensor("fill", TensorProto.FLOAT, [1], [2.0])
    )
    shape = helper.make_node("Shape", ["x"], ["s"])
    model = model_of(shape, fill)
    del model.graph.output[0]
    (kept,) = analysed(model).kept
    assert kept.reason == "the value that ConstantOfShape fills a tensor with at run time"
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    held = numpy_helper.from_array(np.ones(3, np.float32), "unused")
    function.node.append(helper.make_node("Constant", [], ["c"], value=held))
    model.functions.append(function)
    assert {k.reason for k in analysed(model).kept} == {
        kept.reason,
        "stored outside the graph that runs (training information, or a function that nothing calls)",
    }  # fmt: skip

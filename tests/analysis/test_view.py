"""The graph laid open: functions, subgraphs and loops without boundaries."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import build, nodes, tensor, value, view_of
from onnx import TensorProto, helper, numpy_helper

from onnxinit.analysis.view import GraphView, Node
from onnxinit.errors import ModelError


def ops(view: GraphView) -> list[str]:
    return [n.op for n in view.nodes]


def sources(node: Node) -> list[str]:
    return [v.name if v is not None else "" for v in node.inputs]


# ---------------------------------------------------------------- one graph


def test_values_know_their_producer_and_uses() -> None:
    view = view_of(build("(float[n,4] x) => (float[n,3] y) { h = Gemm(x, w, b) y = Relu(h) }", w=(4, 3), b=(3,)))
    h, (gemm,), (relu,) = value(view, "h"), nodes(view, "Gemm"), nodes(view, "Relu")
    assert h.producer is gemm
    assert h.uses == [(relu, 0)]
    assert value(view, "w").uses == [(gemm, 1)]
    assert [v.name for v in view.inputs] == ["x"]
    assert [v.name for v in view.outputs] == ["y"]
    assert value(view, "x").is_input
    assert value(view, "y").is_output


def test_stored_tensors_carry_the_path_of_the_file() -> None:
    view = view_of(
        build(
            "(float[n,4] x) => (float[n,3] y) { z = Identity(x) c = Constant<value = float[3] {1, 2, 3}>()"
            " h = MatMul(z, w) y = Add(h, c) }",
            unused=(2,),
            w=(4, 3),
        )
    )
    assert (value(view, "w").tensor, value(view, "w").where) == ("graph.initializer[1]", "initializer")
    assert (value(view, "c").tensor, value(view, "c").where) == ("graph.node[1].attribute[0].t", "constant")
    assert value(view, "c").shape == (3,)
    assert value(view, "unused").uses == []


@pytest.mark.parametrize(
    ("attribute", "given", "shape", "dtype"),
    [
        ("value_float", 2.5, (), TensorProto.FLOAT),
        ("value_floats", [1.0, 2.0], (2,), TensorProto.FLOAT),
        ("value_int", 7, (), TensorProto.INT64),
        ("value_ints", [3, 4, 5], (3,), TensorProto.INT64),
    ],
)
def test_constants_of_plain_attributes_are_stored_where_they_are_floats(
    attribute: str, given: object, shape: tuple[int, ...], dtype: int
) -> None:
    model = build("(float[n] x) => (float[n] y) { y = Relu(x) }")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], **{attribute: given}))
    c = value(view_of(model), "c")
    field = {"value_float": ".f", "value_floats": ".floats"}.get(attribute, "")
    assert c.tensor == (f"graph.node[1].attribute[0]{field}" if field else "")
    assert (c.shape, c.dtype, c.static) == (shape, dtype, True)
    assert c.proto is not None
    np.testing.assert_array_equal(numpy_helper.to_array(c.proto), given)


def test_a_sparse_initializer_has_its_dense_shape() -> None:
    model = build("(float[n,4] x) => (float[n,3] y) { y = MatMul(x, w) }", check=False)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(tensor("w", np.ones(2, np.float32)), tensor("", np.array([1, 7])), [4, 3])
    )
    w = value(view_of(model), "w")
    assert (w.tensor, w.where) == ("graph.sparse_initializer[0].values", "sparse")
    assert (w.shape, w.static) == ((4, 3), True)


def test_an_initializer_that_is_an_input_too_is_a_stored_tensor() -> None:
    model = build("(float[n,4] x, float[4,3] w) => (float[n,3] y) { y = MatMul(x, w) }", w=(4, 3))
    view = view_of(model)
    assert [v.name for v in view.inputs] == ["x"]
    assert value(view, "w").static
    assert not value(view, "w").is_input


def test_what_follows_from_stored_tensors_alone_is_static() -> None:
    view = view_of(
        build(
            "(float[n,4] x) => (float[n,4] y) { t = Transpose(w) s = Mul(t, t) y = MatMul(x, s) k = Shape(x) }",
            w=(4, 4),
        )
    )
    assert {v.name for v in view.values if v.static} == {"w", "t", "s"}


def test_omitted_inputs_and_outputs_are_none() -> None:
    view = view_of(
        build(
            "(float[5,n,4] x) => (float[1,n,3] last) { , last = GRU<hidden_size=3>(x, w, r, , , h) }",
            w=(1, 9, 4),
            r=(1, 9, 3),
            h=(1, 1, 3),
        )
    )
    (gru,) = nodes(view, "GRU")
    assert sources(gru) == ["x", "w", "r", "", "", "h"]
    assert gru.outputs[0] is None
    assert gru.input(3) is None
    assert gru.input(9) is None
    assert value(view, "last").index == 1


def test_nodes_are_sorted_whatever_their_order_in_the_file() -> None:
    model = build("(float[n] x) => (float[n] y) { c = Relu(b) b = Tanh(a) a = Abs(x) y = Add(a, c) }", check=False)
    view = view_of(model)
    assert ops(view) == ["Abs", "Tanh", "Relu", "Add"]
    assert [n.index for n in view.nodes] == [0, 1, 2, 3]


def test_the_two_names_of_the_standard_domain_are_one() -> None:
    model = build("(float[n] x) => (float[n] y) { y = Relu(x) }")
    model.graph.node[0].domain = "ai.onnx"
    (relu,) = nodes(view_of(model), "Relu")
    assert relu.domain == ""


def test_a_cycle_is_an_error_that_names_a_node() -> None:
    model = build("(float[n] x) => (float[n] y) { a = Add(x, b) b = Relu(a) y = Tanh(b) }", check=False)
    with pytest.raises(ModelError, match=r"cycle through node '\w+' \((Add|Relu|Tanh)\)"):
        view_of(model)


def test_a_name_that_nothing_defines_is_an_error_that_names_it() -> None:
    model = build("(float[n] x) => (float[n] y) { y = Add(x, nowhere) }", check=False)
    with pytest.raises(ModelError, match=r"node 'Add' \(Add\) reads 'nowhere', which nothing defines"):
        view_of(model)


# ---------------------------------------------------------------- functions

LINEAR = """<domain: "local", opset_import: ["": 17]> Linear (a, m, c) => (b) { p = MatMul(a, m) b = Add(p, c) }"""


def test_a_call_is_replaced_by_the_nodes_of_the_function() -> None:
    view = view_of(
        build(
            "(float[n,4] x) => (float[n,3] y) { h = local.Linear(x, w, v) y = Relu(h) }",
            w=(4, 3),
            v=(3,),
            functions=LINEAR,
        )
    )
    assert ops(view) == ["MatMul", "Add", "Identity", "Relu"]
    (matmul,), (relu,) = nodes(view, "MatMul"), nodes(view, "Relu")
    assert sources(matmul) == ["x", "w"]
    assert matmul.scope == "function:local::Linear"
    assert value(view, "p", "function:local::Linear").producer is matmul
    assert relu.inputs == [value(view, "h")]


def test_a_tensor_of_a_function_is_there_once_per_call() -> None:
    twice = """<domain: "local", opset_import: ["": 17]> F (a) => (b) {
        w = Constant<value = float[2,2] {1, 2, 3, 4}>() b = MatMul(a, w) }"""
    view = view_of(build("(float[n,2] x) => (float[n,2] y) { h = local.F(x) y = local.F(h) }", functions=twice))
    held = [v for v in view.values if v.tensor]
    assert [v.tensor for v in held] == ["functions[0].node[0].attribute[0].t"] * 2
    assert [len(v.uses) for v in held] == [1, 1]
    assert len(nodes(view, "MatMul")) == 2


def test_functions_call_functions() -> None:
    block = """<domain: "local", opset_import: ["": 17, "local": 1]> Block (a, m, c) => (b) {
        h = local.Linear(a, m, c) b = Relu(h) }"""
    view = view_of(
        build(
            "(float[n,3] x) => (float[n,3] y) { y = local.Block(x, w, v) }", w=(3, 3), v=(3,), functions=LINEAR + block
        )
    )
    assert [op for op in ops(view) if op != "Identity"] == ["MatMul", "Add", "Relu"]
    assert sources(nodes(view, "MatMul")[0]) == ["x", "w"]
    walk = value(view, "y")
    for op in ("Identity", "Relu", "Identity", "Add", "MatMul"):
        assert walk.producer is not None
        assert walk.producer.op == op
        first = walk.producer.input(0)
        assert first is not None
        walk = first
    assert walk is value(view, "x")


def test_attributes_of_a_call_reach_the_nodes_inside() -> None:
    leaky = """<domain: "local", opset_import: ["": 17]> F <slope, axis: int = 2> (a) => (b) {
        h = LeakyRelu<alpha: float = @slope>(a) b = Softmax<axis: int = @axis>(h) }"""
    view = view_of(
        build(
            "(float[n,4] x) => (float[n,4] y) { h = local.F<slope: float = 0.3>(x) y = local.F<axis: int = 1>(h) }",
            functions=leaky,
        )
    )
    first, second = nodes(view, "LeakyRelu")
    assert first.float_attribute("alpha", 0.01) == pytest.approx(0.3)
    assert second.float_attribute("alpha", 0.01) == 0.01  # not given: as if the attribute were not there
    assert [n.int_attribute("axis", -1) for n in nodes(view, "Softmax")] == [2, 1]


def test_attributes_are_handed_on_through_two_functions() -> None:
    both = """<domain: "local", opset_import: ["": 17]> Inner <alpha> (a) => (b) { b = Elu<alpha: float = @alpha>(a) }
    <domain: "local", opset_import: ["": 17, "local": 1]> Outer <beta> (a) => (b) {
        b = local.Inner<alpha: float = @beta>(a) }"""
    view = view_of(build("(float[n] x) => (float[n] y) { y = local.Outer<beta: float = 0.7>(x) }", functions=both))
    assert nodes(view, "Elu")[0].float_attribute("alpha", 1.0) == pytest.approx(0.7)


def test_a_constant_of_an_attribute_holds_what_the_call_gives() -> None:
    scaled = """<domain: "local", opset_import: ["": 17]> F <by, t> (a) => (b) {
        s = Constant<value_float: float = @by>() k = Constant<value: tensor = @t>() h = Mul(a, s) b = Add(h, k) }"""
    model = build(
        "(float[n] x) => (float[n] y) { y = local.F<by: float = 3.5, t: tensor = float[2] {1, 2}>(x) }",
        functions=scaled,
    )
    view = view_of(model)
    s, k = (value(view, n, "function:local::F") for n in ("s", "k"))
    assert s.proto is not None
    assert numpy_helper.to_array(s.proto) == np.float32(3.5)
    assert k.proto is not None
    np.testing.assert_array_equal(numpy_helper.to_array(k.proto), [1, 2])
    assert (k.shape, k.dtype, k.static) == ((2,), TensorProto.FLOAT, True)
    assert k.tensor == ""  # its bytes are the call's, not the function's


def test_overloads_of_a_function_are_told_apart() -> None:
    two = """<domain: "local", opset_import: ["": 17], overload: "a"> F (a) => (b) { b = Relu(a) }
    <domain: "local", opset_import: ["": 17], overload: "b"> F (a) => (b) { b = Tanh(a) }"""
    model = build("(float[n] x) => (float[n] y) { h = local.F(x) y = local.F(h) }", functions=two, check=False)
    model.graph.node[0].overload, model.graph.node[1].overload = "b", "a"
    assert [op for op in ops(view_of(model)) if op != "Identity"] == ["Tanh", "Relu"]


def test_an_input_that_a_call_leaves_out_is_left_out_inside() -> None:
    conv = """<domain: "local", opset_import: ["": 17]> F (a, w, b, lo) => (c) { h = Conv(a, w, b) c = Clip(h, lo) }"""
    view = view_of(
        build(
            "(float[n,2,5] x) => (float[n,4,5] y) { y = local.F(x, w, , lo) h = local.F(x, w) }",
            w=(4, 2, 1),
            lo=np.array(0, np.float32),
            functions=conv,
        )
    )
    assert [sources(n) for n in nodes(view, "Conv")] == [["x", "w", ""]] * 2
    assert [sources(n) for n in nodes(view, "Clip")] == [["h", "lo"], ["h", ""]]


def test_a_function_that_hands_its_input_back() -> None:
    same = """<domain: "local", opset_import: ["": 17]> F (a) => (a) { unused = Relu(a) }"""
    view = view_of(build("(float[n] x) => (float[n] y) { h = local.F(x) y = Tanh(h) }", functions=same, check=False))
    (tanh,) = nodes(view, "Tanh")
    assert tanh.inputs[0] is not None
    assert tanh.inputs[0].producer is not None
    assert tanh.inputs[0].producer.inputs == [value(view, "x")]


def test_a_function_that_calls_itself_is_an_error_that_names_it() -> None:
    loop = """<domain: "local", opset_import: ["": 17, "local": 1]> F (a) => (b) { h = local.F(a) b = local.F(h) }"""
    with pytest.raises(ModelError, match=r"function 'F' of domain 'local' calls itself"):
        view_of(build("(float[n] x) => (float[n] y) { y = local.F(x) }", functions=loop, check=False))


def test_functions_that_multiply_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxinit.analysis.view.MAX_NODES", 1000)
    levels = [
        f'<domain: "local", opset_import: ["": 17, "local": 1]> F{i} (a) => (b) '
        f"{{ h = local.F{i - 1}(a) b = local.F{i - 1}(h) }}"
        for i in range(1, 20)
    ]
    first = '<domain: "local", opset_import: ["": 17]> F0 (a) => (b) { b = Relu(a) }'
    model = build(
        "(float[n] x) => (float[n] y) { y = local.F19(x) }", functions="\n".join([first, *levels]), check=False
    )
    with pytest.raises(ModelError, match=r"more than 1000 nodes once its functions are laid open"):
        view_of(model)


# ---------------------------------------------------------------- subgraphs


def test_an_if_is_the_join_of_its_branches() -> None:
    view = view_of(
        build(
            "(float[n,4] x, bool c) => (float[n,3] y) { y = If(c) <"
            " then_branch = t () => (float[n,3] a) { a = MatMul(x, w) },"
            " else_branch = e () => (float[n,3] b) <float[4,3] u = {1,2,3,4,5,6,7,8,9,10,11,12}>"
            " { b = MatMul(x, u) } > }",
            w=(4, 3),
        )
    )
    (join,) = nodes(view, "@If")
    assert sources(join) == ["a", "b"]
    assert join.outputs == [value(view, "y")]
    assert [n.inputs[0] for n in nodes(view, "MatMul")] == [value(view, "x")] * 2
    assert value(view, "w").uses[0][0].scope == "If0.then_branch"
    u = value(view, "u", "If0.else_branch")
    assert u.tensor == "graph.node[0].attribute[1].g.initializer[0]"
    assert not value(view, "y").static


def test_a_branch_may_hand_out_a_value_from_around_it() -> None:
    model = build(
        "(float[n] x, bool c) => (float[n] y) { h = Relu(x) y = If(c) <"
        " then_branch = t () => (float[n] h) { }, else_branch = e () => (float[n] b) { b = Tanh(h) } > }",
        check=False,
    )
    view = view_of(model)
    (join,) = nodes(view, "@If")
    assert join.inputs[0] is value(view, "h")


def test_a_name_inside_hides_the_same_name_outside() -> None:
    view = view_of(
        build(
            "(float[n,2] x, bool c) => (float[n,2] y) { h = MatMul(x, w) y = If(c) <"
            " then_branch = t () => (float[n,2] a) <float[2,2] w = {1,2,3,4}> { a = MatMul(h, w) },"
            " else_branch = e () => (float[n,2] b) { b = MatMul(h, w) } > }",
            w=(2, 2),
            check=False,
        )
    )
    assert len(value(view, "w").uses) == 2
    assert len(value(view, "w", "If1.then_branch").uses) == 1


LOOP = """(float[n,3] x) => (float[n,3] y, float[k,n,3] all) {{
    trips = Constant<value = int64 {{5}}>() on = Constant<value = bool {{1}}>()
    y, {extra} all = Loop(trips, on, x {given}) < body = b (int64 i, bool go, float[n,3] h {head})
        => (bool go2, float[n,3] h2 {tail}, float[n,3] each) {{ {inside} }} > }}"""


def test_a_state_of_a_loop_goes_round() -> None:
    view = view_of(
        build(
            LOOP.format(
                extra="", given="", head="", tail="",
                inside="go2 = Identity(go) p = MatMul(h, w) h2 = Tanh(p) each = Relu(h2)",
            ),
            w=(3, 3),
        )
    )  # fmt: skip
    (carry,) = nodes(view, "@Carry")
    assert sources(carry) == ["x", "h2"]
    assert carry.outputs == [value(view, "h", "Loop2.body")]
    assert nodes(view, "@Exit")[0].outputs == [value(view, "y")]
    assert sources(nodes(view, "@Exit")[0]) == ["h2"]
    assert sources(nodes(view, "@Stack")[0]) == ["each"]
    (loop,) = nodes(view, "Loop")
    assert (sources(loop), loop.outputs) == (["trips", "on"], [])
    assert carry.index < nodes(view, "MatMul")[0].index < nodes(view, "@Exit")[0].index
    assert not value(view, "h", "Loop2.body").static


@pytest.mark.parametrize("back", ["m", "m2"])
def test_a_state_that_no_iteration_changes_is_the_value_itself(back: str) -> None:
    inside = "go2 = Identity(go) h2 = MatMul(h, m) each = Relu(h2)"
    view = view_of(
        build(
            LOOP.format(
                extra="kept,", given=", w", head=", float[3,3] m", tail=f", float[3,3] {back}",
                inside=inside if back == "m" else f"{inside} m1 = Identity(m) m2 = Identity(m1)",
            ),
            w=(3, 3),
            check=False,
        )
    )  # fmt: skip
    m = value(view, "m", "Loop2.body")
    assert m.producer is not None
    assert (m.producer.op, sources(m.producer)) == ("Identity", ["w"])
    assert m.static
    assert len(nodes(view, "@Carry")) == 1


def test_a_scan_steps_through_its_inputs() -> None:
    view = view_of(
        build(
            """(float[5,n,4] x, float[n,3] h0) => (float[n,3] last, float[5,n,3] all) {
            last, all = Scan<num_scan_inputs = 1, body = b (float[n,3] h, float[n,4] xt)
                => (float[n,3] h2, float[n,3] out) {
                    p = MatMul(xt, w) q = MatMul(h, r) s = Add(p, q) h2 = Tanh(s) out = Identity(h2) }>(h0, x) }""",
            w=(4, 3),
            r=(3, 3),
        )
    )
    (step,), (carry,) = nodes(view, "@Step"), nodes(view, "@Carry")
    assert (sources(step), step.outputs) == (["x"], [value(view, "xt", "Scan0.body")])
    assert sources(carry) == ["h0", "h2"]
    assert [sources(n) for n in nodes(view, "@Exit")] == [["h2"]]
    assert [sources(n) for n in nodes(view, "@Stack")] == [["out"]]


def test_subgraphs_in_subgraphs_see_all_around_them() -> None:
    view = view_of(
        build(
            "(float[n,3] x, bool c) => (float[n,3] y) { y = If(c) <"
            " then_branch = t () => (float[n,3] a) { a = If(c) <"
            "   then_branch = tt () => (float[n,3] p) { p = MatMul(x, w) },"
            "   else_branch = te () => (float[n,3] q) { q = Relu(x) } > },"
            " else_branch = e () => (float[n,3] b) { b = Tanh(x) } > }",
            w=(3, 3),
        )
    )
    (matmul,) = nodes(view, "MatMul")
    assert matmul.scope == "If0.then_branch/If0.then_branch"
    assert matmul.inputs == [value(view, "x"), value(view, "w")]
    assert len(nodes(view, "@If")) == 2


def test_a_subgraph_in_a_function_sees_the_attributes_of_the_call() -> None:
    choose = """<domain: "local", opset_import: ["": 17]> F <slope> (a, c) => (b) { b = If(c) <
        then_branch = t () => (p) { p = LeakyRelu<alpha: float = @slope>(a) },
        else_branch = e () => (q) { q = Identity(a) } > }"""
    view = view_of(
        build(
            "(float[n] x, bool c) => (float[n] y) { y = local.F<slope: float = 0.4>(x, c) }",
            functions=choose,
            check=False,
        )
    )
    (leaky,) = nodes(view, "LeakyRelu")
    assert leaky.float_attribute("alpha", 0.01) == pytest.approx(0.4)
    assert leaky.inputs == [value(view, "x")]


def test_a_node_of_another_domain_with_a_graph_is_left_as_it_is() -> None:
    model = build("(float[n] x) => (float[n] y) { y = Relu(x) }")
    inner = onnx.parser.parse_graph("b (float[n] a) => (float[n] c) { c = Tanh(a) }")
    model.graph.node.append(helper.make_node("Sampler", ["x"], ["z"], domain="com.microsoft", body=inner))
    (sampler,) = nodes(view_of(model), "Sampler")
    assert sampler.outputs[0] is not None
    assert sampler.outputs[0].producer is sampler

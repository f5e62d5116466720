"""Normalisations in every form that exporters write: what they read and make, and the roles of their vectors."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from bodies import Around, model_of, view_of
from graphs import build, roles, weights
from onnx.reference import ReferenceEvaluator

from onnxinit.analysis.constants import Constants
from onnxinit.analysis.view import GraphView

MEAN = "m = ReduceMean (h, axes) d = Sub (h, m)"
VARIANCE = f"{MEAN} q = Mul (d, d) v = ReduceMean (q, axes) e = Add (v, {{0.00001}})"
ENDS = "t = Mul (n, g) y = Add (t, b)"
AXES = {"axes": np.array([-1], np.int64)}

LAYER_NORMS = {
    "torch": f"{MEAN} q = Pow (d, {{2}}) v = ReduceMean (q, axes) e = Add (v, {{0.00001}}) s = Sqrt (e) n = Div (d, "
    f"s) {ENDS}",
    "reciprocal": f"{VARIANCE} s = Sqrt (e) r = Reciprocal (s) n = Mul (d, r) {ENDS}",
    "one over": f"{VARIANCE} s = Sqrt (e) r = Div ({{1}}, s) n = Mul (d, r) {ENDS}",
    "power": f"{VARIANCE} r = Pow (e, {{-0.5}}) n = Mul (r, d) {ENDS}",
    "two subs": f"{VARIANCE} s = Sqrt (e) d2 = Sub (h, m) n = Div (d2, s) {ENDS}",
    "flax": "m = ReduceMean (h, axes) q = Mul (h, h) k = ReduceMean (q, axes) l = Mul (m, m) u = Sub (k, l) v = Max "
    "(u, {0}) "
    f"e = Add (v, {{0.00001}}) s = Sqrt (e) d = Sub (h, m) n = Div (d, s) {ENDS}",
    "scale first": f"{VARIANCE} s = Sqrt (e) r = Reciprocal (s) f = Mul (r, g) n = Mul (d, f) y = Add (n, b)",
    "keras": f"{VARIANCE} s = Sqrt (e) r = Reciprocal (s) f = Mul (r, g) n = Mul (h, f) o = Mul (m, f) p = Sub (b, o) "
    "y = Add (n, p)",
    "keras, negated": f"{VARIANCE} z = Neg (m) s = Sqrt (e) r = Reciprocal (s) f = Mul (r, g) n = Mul (h, f) o = Mul "
    f"(z, f) "
    "p = Add (o, b) y = Add (n, p)",
    "sums": "a = ReduceSum (h, axes) m = Div (a, {8}) d = Sub (h, m) q = Mul (d, d) z = ReduceSum (q, axes) v = Mul "
    "(z, {0.125}) "
    f"e = Add (v, {{0.00001}}) s = Sqrt (e) n = Div (d, s) {ENDS}",
    "casts": "c = Cast <to = 1> (h) m = ReduceMean (c, axes) d = Sub (c, m) q = Pow (d, {2}) v = ReduceMean (q, axes) "
    f"e = Add (v, {{0.00001}}) s = Sqrt (e) k = Div (d, s) n = Cast <to = 1> (k) {ENDS}",
}


def layer(body: str) -> str:
    return f"h = MatMul (x, w) {body}"


@pytest.mark.parametrize("form", LAYER_NORMS)
def test_layer_norm_written_out(form: str) -> None:
    body = layer(LAYER_NORMS[form])
    tensors = {"w": np.eye(8, dtype=np.float32), "g": (8,), "b": (8,), **AXES}
    model = model_of(body, **tensors)
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    held = {t.name: np.frombuffer(t.raw_data, np.float32) for t in model.graph.initializer if t.name in "gb"}
    z = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(y, z * held["g"] + held["b"], atol=1e-3)  # the form in this test is right

    around = Around(view_of(body, **tensors))
    assert around.roles() == {"g": ("norm_scale", None), "b": ("norm_shift", None)}
    (norm,) = around.norms
    assert norm.source is around("h") and norm.output is around("y") and not norm.batch
    assert around.norms.making(around("y")) is norm
    assert len(around.norms) == 1 and around.norms


RMS = "q = Mul (h, h) v = ReduceMean (q, axes) e = Add (v, {0.000001})"
RMS_NORMS = {
    "llama": f"{RMS} s = Sqrt (e) r = Div ({{1}}, s) n = Mul (h, r) y = Mul (g, n)",
    "power": f"{RMS} r = Pow (e, {{-0.5}}) n = Mul (h, r) y = Mul (n, g)",
    "division": f"{RMS} s = Sqrt (e) n = Div (h, s) y = Mul (n, g)",
    "sum of squares": "z = ReduceSumSquare (h, axes) v = Div (z, {8}) e = Add (v, {0.000001}) s = Sqrt (e) n = Div "
    "(h, s) "
    "y = Mul (n, g)",
    "l2": "l = ReduceL2 (h, axes) c = Max (l, {1e-12}) n = Div (h, c) k = Mul (n, {2.828}) y = Mul (k, g)",
    "l2, expanded": "l = ReduceL2 (h, axes) c = Clip (l, {1e-12}) z = Shape (h) f = Expand (c, z) n = Div (h, f) y = "
    "Mul (n, g)",
}


@pytest.mark.parametrize("form", RMS_NORMS)
def test_norms_without_centring(form: str) -> None:
    around = Around(view_of(layer(RMS_NORMS[form]), w=(8, 8), g=(8,), **AXES))
    assert around.roles() == {"g": ("norm_scale", None)}
    (norm,) = around.norms
    assert norm.source is around("h") and norm.output is around("y")


def test_a_scale_that_is_used_as_one_plus_w_starts_from_zero() -> None:
    body = layer(f"{RMS} s = Sqrt (e) n = Div (h, s) k = Add (g, {{1}}) c = Cast <to = 1> (k) y = Mul (n, c)")
    around = Around(view_of(body, w=(8, 8), g=(8,), **AXES))
    assert around.roles() == {"c": ("norm_scale", 0.0)}


@pytest.mark.parametrize(
    "op", ["LayerNormalization", "InstanceNormalization", "BatchNormalization", "com.microsoft.SkipLayerNormalization"]
)
def test_the_vectors_of_an_operator_are_the_operators_own(op: str) -> None:
    inputs = {"BatchNormalization": "h, g, b, m, v", "com.microsoft.SkipLayerNormalization": "h, x, g, b"}
    around = Around(
        view_of(layer(f"y = {op} ({inputs.get(op, 'h, g, b')})"), w=(8, 8), g=(8,), b=(8,), m=(8,), v=(8,), check=False)
    )
    (norm,) = around.norms
    assert norm.source is around("h") and norm.output is around("y") and around.roles() == {}


def test_group_norm_around_instance_norm() -> None:
    body = (
        "r = Reshape (x, grouped) i = InstanceNormalization (r, ones, zeros) s = Shape (x) o = Reshape (i, s) "
        "t = Mul (o, g) y = Add (t, b)"
    )
    around = Around(
        view_of(
            body,
            signature="(float[2,8,4,4] x) => (float[c,d,e,f] y)",
            grouped=np.array([0, 2, -1], np.int64),
            ones=np.ones(2, np.float32),
            zeros=np.zeros(2, np.float32),
            g=(8, 1, 1),
            b=(8, 1, 1),
        )
    )
    assert around.roles() == {"g": ("norm_scale", None), "b": ("norm_shift", None)}
    (norm,) = around.norms
    assert norm.source is around("r") and norm.output is around("y")


def test_an_operator_with_a_scale_of_its_own_takes_no_other() -> None:
    around = Around(view_of(layer("n = LayerNormalization (h, g, b) y = Mul (n, k)"), w=(8, 8), g=(8,), b=(8,), k=(8,)))
    (norm,) = around.norms
    assert norm.output is around("n") and around.roles() == {}


def test_a_neutral_operator_takes_the_scale_after_it() -> None:
    neutral = {"one": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)}
    around = Around(view_of(layer("n = LayerNormalization (h, one, zero) y = Mul (n, k)"), w=(8, 8), k=(8,), **neutral))
    assert around.roles() == {"k": ("norm_scale", None)}


BATCH_NORMS = {
    "folded": ("y0 = Mul (h, g) y = Add (y0, b)", {"g": "norm_scale", "b": "norm_shift"}),
    "together": (
        "e = Add (v, {0.001}) s = Sqrt (e) r = Reciprocal (s) f = Mul (r, g) p = Mul (m, f) o = Sub (b, p) t = Mul "
        "(h, f) "
        "y = Add (t, o)",
        {"g": "norm_scale", "b": "norm_shift", "m": "running_mean", "v": "running_var"},
    ),
    "step by step": (
        "e = Add (v, {0.001}) s = Sqrt (e) d = Sub (h, m) n = Div (d, s) t = Mul (n, g) y = Add (t, b)",
        {"g": "norm_scale", "b": "norm_shift", "m": "running_mean", "v": "running_var"},
    ),
    "without scale": (
        "e = Add (v, {0.001}) s = Sqrt (e) d = Sub (h, m) y = Div (d, s)",
        {"m": "running_mean", "v": "running_var"},
    ),
}


@pytest.mark.parametrize("form", BATCH_NORMS)
def test_batch_norm_from_static_vectors(form: str) -> None:
    body, expected = BATCH_NORMS[form]
    vectors = {name: (1, 8) if form == "folded" else (8,) for name in expected}
    around = Around(view_of(layer(body), w=(8, 8), **vectors))
    roles = {k: r for k, (r, _) in around.roles().items() if k in expected}
    assert roles == expected
    (norm,) = around.norms
    assert norm.batch and norm.source is around("h") and norm.output is around("y")


NO_NORMS = {
    "layer scale": "t = Mul (h, g) y = Add (t, x)",
    "a factor": "t = Mul (h, {0.5}) y = Add (t, b)",
    "input standardisation": "t = Mul (x, g) u = Add (t, b) y = MatMul (u, w)",
    "standard deviation": "m = ReduceMean (h, axes) d = Sub (h, m) q = Mul (d, d) v = ReduceMean (q, axes) s = Sqrt "
    "(v) "
    "y = Add (h, s)",
    "kernel standardisation": "m = ReduceMean (w, axes) d = Sub (w, m) q = Mul (d, d) v = ReduceMean (q, axes) s = "
    "Sqrt (v) "
    "k = Div (d, s) y = MatMul (h, k)",
    "weight norm": "l = ReduceL2 (w, axes) u = Div (w, l) k = Mul (u, g) y = MatMul (h, k)",
    "attention scale": "d = Sqrt ({8}) t = Div (h, d) y = Add (t, b)",
}


@pytest.mark.parametrize("what", NO_NORMS)
def test_what_is_no_norm_of_a_signal(what: str) -> None:
    around = Around(view_of(layer(NO_NORMS[what]), w=(8, 8), g=(8,), b=(8,), **AXES))
    assert len(around.norms) == 0 and around.roles() == {}


def test_a_token_that_a_scaled_branch_is_added_to_is_no_shift() -> None:
    """CaiT's: the class token joins the patches, and what attention makes of them, scaled, is added to it."""
    model = build(
        """(float[1,6,8] x) => (y) { c = Concat<axis = 1>(t, x) h = MatMul(c, w) r = ReduceMean<axes = [1]>(h)
        s = Mul(r, g) y = Add(s, t) }""",
        w=(8, 8), g=(8,), t=(1, 1, 8), check=False,
    )  # fmt: skip
    assert {k: v for k, v in roles(model).items() if k in "gt"} == {"g": "other", "t": "token"}


def test_masks_are_no_scale_and_shift() -> None:
    """Where a sequence starts anew, the factor is one: m + (1 - m) f."""
    start = np.array([1, 0, 0, 0, 0, 0], np.float32).reshape(1, 6, 1)
    model = build(
        "(float[2,6,8] x) => (y) { h = MatMul(x, w) f = Sigmoid(h) s = Mul(f, b) y = Add(s, a) }",
        w=(8, 8), a=start, b=1 - start, check=False,
    )  # fmt: skip
    assert roles(model) == {"w": "weight", "a": "", "b": ""}


def test_a_table_added_after_a_norm_is_no_shift() -> None:
    body = f"{RMS.replace('h', 'x')} s = Sqrt (e) n = Div (x, s) t = Mul (n, g) y = Add (t, table)"
    around = Around(view_of(body, signature="(float[2,5,8] x) => (float[c,d,e] y)", g=(8,), table=(1, 5, 8), **AXES))
    assert around.roles() == {"g": ("norm_scale", None)}


def test_a_scalar_after_a_norm_is_no_scale() -> None:
    around = Around(view_of(layer(f"{RMS} s = Sqrt (e) n = Div (h, s) y = Mul (n, {{3}})"), w=(8, 8), **AXES))
    (norm,) = around.norms
    assert around.roles() == {} and norm.output is around("n")


def test_readers_are_the_nodes_of_the_norm_that_read_its_source() -> None:
    around = Around(view_of(layer(f"{LAYER_NORMS['torch']} z = Add (h, y)"), w=(8, 8), g=(8,), b=(8,), **AXES))
    (norm,) = around.norms
    inside = {n.op for n, at in around("h").uses if around.norms.reading(n, at) is norm}
    assert inside == {"ReduceMean", "Sub"}


def test_the_scale_of_an_operator_does_not_read_its_source() -> None:
    around = Around(view_of(layer("y = LayerNormalization (h, g, b)"), w=(8, 8), g=(8,), b=(8,)))
    (node,) = [n for n in around.view.nodes if n.op == "LayerNormalization"]
    assert around.norms.reading(node, 0) is not None and around.norms.reading(node, 1) is None


def test_constants_fold_what_exporters_leave() -> None:
    around = Around(
        view_of(
            layer(
                "z = Shape (x) k = Gather (z, one) f = Cast <to = 1> (k) r = Sqrt (f) i = Div ({1}, r) u = Unsqueeze "
                "(i, one) y = Mul (h, u)"
            ),
            w=(8, 8),
            one=np.array([0], np.int64) + 1,
            check=False,
        )
    )
    assert around.constants.scalar(around("i")) == pytest.approx(1 / math.sqrt(8))
    assert around.constants.constant(around("w")) is not None and around.constants.scalar(around("w")) is None
    assert around.constants.constant(around("h")) is None


def test_constants_are_cast_to_the_type_of_a_signal() -> None:
    """As an exporter that optimises nothing writes bounds and vectors: only the type of the signal counts."""
    model = build(
        """(float[2,8] x) => (y) { h = MatMul(x, w) a = Constant<value_float = 0.0>() b = Constant<value_float = 6.0>()
        low = CastLike(a, h) high = CastLike(b, h) r = Clip(h, low, high) c = CastLike(g, r) m = Mul(r, c)
        y = MatMul(m, u) }""",
        check=False, w=(8, 8), g=(8,), u=(8, 8),
    )  # fmt: skip
    found = weights(model)
    assert [a.name for a in found["w"].downstream] == ["relu6"] and found["g"].role == "other"


def external(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def test_constants_outside_the_file_are_asked_for() -> None:
    model = build("(float[2,8] x) => (float[m,n] y) { y = Mul (x, c) }", check=False)
    model.graph.initializer.append(external("c", (1,)))
    view = GraphView(model)
    (held,) = [v for v in view.values if v.name == "c"]
    assert Constants().scalar(held) is None
    asked: list[str] = []

    def read(path: str) -> np.ndarray:
        asked.append(path)
        return np.array([0.5], np.float32)

    constants = Constants(read)
    assert constants.scalar(held) == constants.scalar(held) == 0.5 and asked == ["graph.initializer[0]"]


def test_a_batch_norm_that_learns_no_scale() -> None:
    """Its statistics are of data, but it scales by one and shifts by zero; before training all of them are neutral."""

    def found(mean: np.ndarray, var: np.ndarray) -> dict[str, str]:
        text = "(float[1,4,9] x) => (y) { h = Conv(x, w) y = BatchNormalization(h, g, b, m, v) }"
        one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
        return roles(build(text, check=False, w=(4, 4, 3), g=one, b=zero, m=mean, v=var))

    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(4).astype(np.float32)
    assert {k: found(drawn, drawn**2)[k] for k in "gbmv"} == {
        "g": "", "b": "", "m": "running_mean", "v": "running_var",
    }  # fmt: skip
    assert found(np.zeros(4, np.float32), np.ones(4, np.float32))["g"] == "norm_scale"


def test_vectors_that_do_nothing_beside_trained_ones_are_none() -> None:
    """Exporters write ones and zeros where a norm learns no vectors; training would have moved learned ones."""

    def found(**given: np.ndarray) -> dict[str, str]:
        text = """(float[2,6,8] x) => (y) { a = LayerNormalization(x, g, b) h = MatMul(a, w)
            y = LayerNormalization(h, ones, zeros) }"""
        neutral = {"ones": np.ones(8, np.float32), "zeros": np.zeros(8, np.float32)}
        return roles(build(text, check=False, w=(8, 8), **neutral, **given))

    drawn = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    trained = found(g=drawn, b=np.zeros(8, np.float32))
    assert trained == {"w": "weight", "g": "norm_scale", "b": "", "ones": "", "zeros": ""}
    text = "(float[2,6,8] x) => (y) { a = LayerNormalization(x, g, b) h = MatMul(a, w) s = Mul(h, m) y = Add(x, s) }"
    for scale, expected in ((drawn, ""), (np.ones(8, np.float32), "layer_scale")):
        model = build(text, check=False, w=(8, 8), g=scale, b=(8,), m=np.ones((1, 6, 1), np.float32))
        assert roles(model)["m"] == expected
    untrained = found(g=np.ones(8, np.float32), b=np.zeros(8, np.float32))
    assert set(untrained.values()) == {"weight", "norm_scale", "norm_shift"}


def test_a_norm_of_responses() -> None:
    """ConvNeXt V2's: every channel by its length, over the mean of them; what comes in is added."""
    model = build(
        """(float[1,4,9] x) => (y) { h = Conv(x, w) l = ReduceL2<axes = [2]>(h) m = ReduceMean<axes = [1]>(l)
        e = Add(m, eps) n = Div(l, e) s = Mul(h, n) t = Mul(g, s) u = Add(b, t) z = Add(h, u) y = Conv(z, w2) }""",
        eps=np.array(1e-6, np.float32), w=(8, 4, 1), w2=(4, 8, 1), g=(1, 8, 1), b=(1, 8, 1), check=False,
    )  # fmt: skip
    assert roles(model) == {"w": "weight", "w2": "weight", "g": "norm_scale", "b": "norm_shift", "eps": ""}

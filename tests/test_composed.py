"""Weights that the graph composes: what the layer multiplies by has the moments that are asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnxinit
from onnxinit.plan import Plan

Array = npt.NDArray[Any]


def build(text: str, functions: str = "", opset: int = 17, **tensors: Any) -> onnx.ModelProto:
    """A model from the text of its graph, with initializers as arrays, or as shapes of what training left."""
    head = f'<ir_version: 10, opset_import: ["": {opset}, "local": 1]>'
    model = onnx.parser.parse_model(f"{head} g {text} {functions}")
    for i, (name, held) in enumerate(tensors.items()):
        old = np.random.default_rng(i).normal(0.3, 0.7, held) if isinstance(held, tuple) else held
        kept = old.dtype if not isinstance(held, tuple) else np.dtype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(old, kept), name))
    onnx.checker.check_model(model)
    return model


def fresh(model: onnx.ModelProto, scheme: str = "he", **options: Any) -> tuple[onnx.ModelProto, onnxinit.Result]:
    result = onnxinit.reinit(model, scheme=scheme, seed=5, **options)
    assert result.model is not None
    onnx.checker.check_model(result.model)
    return result.model, result


def run(model: onnx.ModelProto, *names: str, **feed: Array) -> list[Array]:
    """Values of the graph by name, as ONNX Runtime makes them."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.output[:]
    wide.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(wide.SerializeToString(), options, providers=["CPUExecutionProvider"])
    needed = {i.name: np.zeros([d.dim_value or 2 for d in i.type.tensor_type.shape.dim], np.float32)
              for i in model.graph.input}  # fmt: skip
    return [np.asarray(v, np.float64) for v in session.run(list(names), needed | feed)]


def stored(model: onnx.ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)).astype(np.float64)


def weight(result: onnxinit.Result, name: str = "v") -> Any:
    return next(w for w in result.weights if w.id == name)


def entry(result: onnxinit.Result, name: str = "v") -> Any:
    return next(e for e in result.plan.entries if e.id == name)


def assert_normal(values: Array, std: float) -> None:
    """Mean 0 and the std, within five standard errors of so many normal values."""
    assert values.std() == pytest.approx(std, rel=5 / math.sqrt(2 * values.size))
    assert abs(values.mean()) < 5 * std / math.sqrt(values.size)


# ---------------------------------------------------------------- weight norm

SPREADS = {
    "ReduceL2": "n = ReduceL2 <axes = [{a}]> (v)",
    "sum of squares": "s = ReduceSumSquare <axes = [{a}]> (v) n = Sqrt (s)",
    "product": "q = Mul (v, v) s = ReduceSum (q, axes) n = Sqrt (s)",
    "powers": "q = Pow (v, two) s = ReduceSum (q, axes) n = Pow (s, half)",
    "eps": "q = Mul (v, v) s = ReduceSum (q, axes) e = Add (s, eps) n = Sqrt (e)",
    "clip": "m = ReduceL2 <axes = [{a}]> (v) n = Clip (m, eps)",
    "max": "m = ReduceL2 <axes = [{a}]> (v) n = Max (m, eps)",
}
MEETINGS = {
    "unit first": "u = Div (v, n) k = Mul (u, g)",
    "turned": "u = Div (v, n) k = Mul (g, u)",
    "ratio first": "r = Div (g, n) k = Mul (v, r)",
    "inverse": "r = Reciprocal (n) u = Mul (v, r) k = Mul (u, g)",
    "scaled first": "p = Mul (v, g) k = Div (p, n)",
    "spread out": "w = Shape (v) z = Expand (n, w) u = Div (v, z) k = Mul (u, g)",
}
NUMBERS = {"two": np.float32(2), "half": np.float32(0.5), "eps": np.float32(1e-12)}
KERNELS = {
    "Gemm": ("(float[n,40] x) => (float[n,64] y) {{ {k} y = Gemm <transB = 1> (x, k) }}", (64, 40), 40),
    "MatMul": ("(float[n,64] x) => (float[n,40] y) {{ {k} y = MatMul (x, k) }}", (64, 40), 64),
    "turned": ("(float[n,40] x) => (float[n,64] y) {{ {k} t = Transpose (k) y = MatMul (x, t) }}", (64, 40), 40),
    "Conv": ("(float[n,12,9,9] x) => (float[n,20,7,7] y) {{ {k} y = Conv (x, k) }}", (20, 12, 3, 3), 108),
    "groups": ("(float[n,24,9,9] x) => (float[n,20,7,7] y) {{ {k} y = Conv <group = 2> (x, k) }}", (20, 12, 3, 3), 108),
    "upwards": ("(float[n,20,9,9] x) => (float[n,12,11,11] y) {{ {k} y = ConvTranspose (x, k) }}", (20, 12, 3, 3), 180),
}


def normed(kernel: str, spread: str, meeting: str, kept: tuple[int, ...]) -> tuple[onnx.ModelProto, int]:
    """A layer with a weight norm that has one scale for each index on the axes that are kept."""
    text, shape, fan = KERNELS[kernel]
    axes = [i for i in range(len(shape)) if i not in kept]
    made = f"{SPREADS[spread]} {MEETINGS[meeting]}".format(a=", ".join(map(str, axes)))
    scales = tuple(n if i in kept else 1 for i, n in enumerate(shape))
    return build(text.format(k=made), v=shape, g=scales, axes=np.array(axes), **NUMBERS), fan


@given(st.sampled_from(sorted(KERNELS)), st.sampled_from(sorted(SPREADS)), st.sampled_from(sorted(MEETINGS)), st.data())
@settings(max_examples=40, deadline=None)
def test_the_scale_of_a_weight_norm_follows_its_weight(
    kernel: str, spread: str, meeting: str, data: st.DataObject
) -> None:
    """However it is written, and whichever axes it keeps: the layer multiplies by what the scheme drew."""
    rank = len(KERNELS[kernel][1])
    kept = data.draw(st.sets(st.integers(0, rank - 1), max_size=rank - 1))
    model, fan = normed(kernel, spread, meeting, tuple(sorted(kept)))
    new, result = fresh(model)
    (effective,) = run(new, "k")
    np.testing.assert_allclose(effective, stored(new, "v"), rtol=1e-5, atol=1e-7)
    assert_normal(effective, math.sqrt(2 / fan))
    assert (weight(result).role, weight(result).fan_in) == ("weight", fan)
    assert (weight(result, "g").role, weight(result, "g").follows) == ("other", ("v",))
    assert str(entry(result, "g").scheme) == "refit" and entry(result, "g").exact == "1e-6"


NORMED = """(float[n,40] x) => (float[n,64] y) { n = ReduceL2 <axes = [1]> (v) u = Div (v, n) k = Mul (u, g)
    y = Gemm <transB = 1> (x, k) }"""


@pytest.mark.parametrize(
    ("text", "functions"),
    [
        (
            "(float[n,40] x) => (float[n,64] y) { k = local.scaled (v, g) t = Transpose (k) y = MatMul (x, t) }",
            """<domain: "local", opset_import: ["": 17]> scaled (w, s) => (k)
            { n = ReduceL2 <axes = [1]> (w) u = Div (w, n) k = Mul (u, s) }""",
        ),
        (
            """(float[n,40] x, bool c) => (float[n,64] y) { k = Identity (v) y = If (c) <
            then_branch = t () => (float[n,64] a) { o = ReduceL2 <axes = [1]> (v) p = Div (v, o) q = Mul (p, g)
            a = Gemm <transB = 1> (x, q) }, else_branch = e () => (float[n,64] b)
            { o2 = ReduceL2 <axes = [1]> (v) p2 = Div (v, o2) q2 = Mul (p2, g) b = Gemm <transB = 1> (x, q2) } > }""",
            "",
        ),
        (
            """(float[n,40] x) => (float[n,64] y) { a = Cast <to = 11> (v) b = Cast <to = 11> (g)
            n = ReduceL2 <axes = [1]> (a) u = Div (a, n) d = Mul (u, b) k = Cast <to = 1> (d)
            y = Gemm <transB = 1> (x, k) }""",
            "",
        ),
        (
            """(float[n,40] x) => (float[n,64] y) { u = LpNormalization <axis = 1, p = 2> (v) k = Mul (u, g)
            y = Gemm <transB = 1> (x, k) }""",
            "",
        ),
    ],
    ids=["function", "branches", "casts", "operator"],
)
def test_weight_norms_behind_borders(text: str, functions: str) -> None:
    new, _ = fresh(build(text, functions, v=(64, 40), g=(64, 1)))
    np.testing.assert_allclose(stored(new, "g")[:, 0], np.linalg.norm(stored(new, "v"), axis=1), rtol=1e-6)
    assert_normal(stored(new, "v"), math.sqrt(2 / 40))
    if "bool" not in text:
        np.testing.assert_allclose(run(new, "k")[0], stored(new, "v"), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_scale_of_few_outputs_is_learned_too(outputs: int) -> None:
    """As the last layer of a vocoder has: one to three numbers that seem fixed."""
    text = NORMED.replace("64", str(outputs))
    new, _ = fresh(build(text, v=(outputs, 40), g=(outputs, 1)))
    np.testing.assert_allclose(run(new, "k")[0], stored(new, "v"), rtol=1e-5)


def test_a_fixed_length_of_a_kernel_is_no_scale() -> None:
    text = NORMED.replace("64", "60")
    _, result = fresh(build(text, v=(60, 40), g=np.float32(0.5)))
    assert [w.id for w in result.weights] == ["v"]
    assert weight(result).note.startswith("normalised by the graph")


def test_a_plan_rebuilds_what_follows() -> None:
    model = build(NORMED, v=(64, 40), g=(64, 1))
    new, result = fresh(model, "lecun")
    again = onnxinit.reinit(model, plan=Plan.from_json(result.plan.to_json())).model
    assert again is not None and again.graph == new.graph


def test_rules_and_exclusions_win() -> None:
    model = build(NORMED, v=(64, 40), g=(64, 1))
    old = stored(model, "g")
    new, result = fresh(model, rules=["g=ones"])
    assert (stored(new, "g") == 1).all() and str(entry(result, "g").scheme) == "ones"
    again = onnxinit.reinit(model, plan=result.plan).model
    assert again is not None and (stored(again, "g") == 1).all()
    for options in ({"exclude": "g"}, {"rules": "g=keep"}, {"include": "v"}, {"exclude": "v"}):
        new, result = fresh(model, **options)  # type: ignore[arg-type]
        assert (stored(new, "g") == old).all(), options
        assert "g" in {k.id for k in result.kept}
    assert next(k.reason for k in result.kept if k.id == "g") == "follows from weights that are kept"


@pytest.mark.parametrize("scheme", ["lsuv", "lsuv:per_channel=true", "lsuv:base=he"])
def test_lsuv_scales_through_a_weight_norm(scheme: str) -> None:
    x = np.random.default_rng(0).normal(0.2, 3.0, (256, 40)).astype(np.float32)
    new, result = fresh(build(NORMED, v=(64, 40), g=(64, 1)), scheme, data={"x": x})
    assert result.signal is not None
    assert [(f.status, f.runs) for f in result.signal.layers] == [("set", 1)]
    (y,) = run(new, "y", x=x)
    assert (y.std(axis=0) if "channel" in scheme else y.std()) == pytest.approx(1.0, rel=1e-4)
    again = onnxinit.reinit(build(NORMED, v=(64, 40), g=(64, 1)), plan=result.plan).model
    assert again is not None and again.graph == new.graph


def test_analytic_gains_go_through_a_weight_norm() -> None:
    text = NORMED.replace("y = Gemm <transB = 1> (x, k)", "h = Gemm <transB = 1> (x, k) r = Relu (h) y = Relu (r)")
    model = build(text, v=(64, 40), g=(64, 1))
    new, result = fresh(model, "analytic")
    assert entry(result).std == pytest.approx(1 / math.sqrt(40), rel=1e-6)
    x = np.random.default_rng(0).normal(0, 1, (512, 40)).astype(np.float32)
    assert run(new, "h", x=x)[0].std() == pytest.approx(1.0, rel=0.06)  # 2560 weights: 5 / sqrt(2 * 2560)


# ---------------------------------------------------------------- standardised kernels

STANDARD = """m = ReduceMean <axes = [1, 2, 3]> (v) c = Sub (v, m) q = Mul (c, c) r = ReduceMean <axes = [1, 2, 3]> (q)
    e = Add (r, eps) s = Sqrt (e) z = Div (c, s)"""
CONV = "(float[n,12,9,9] x) => (float[n,20,7,7] y) {{ {k} y = Conv (x, k) }}"


def test_a_standardised_kernel_says_that_its_std_does_not_matter() -> None:
    model = build(
        CONV.format(k=f"{STANDARD} k = Mul (z, root)"), v=(20, 12, 3, 3), root=np.float32(108**-0.5), **NUMBERS
    )
    new, result = fresh(model)
    assert weight(result).note == "standardised by the graph: the scheme's std has no effect"
    assert run(new, "k")[0].std() == pytest.approx(108**-0.5, rel=1e-4)


def test_the_gain_beside_a_scale_of_the_graph_starts_at_one() -> None:
    """As in networks without norms: gain * standardised / sqrt(fan_in)."""
    model = build(
        CONV.format(k=f"{STANDARD} p = Mul (z, root) k = Mul (p, g)"),
        v=(20, 12, 3, 3), g=(20, 1, 1, 1), root=np.float32(108**-0.5), **NUMBERS,
    )  # fmt: skip
    new, result = fresh(model)
    assert (stored(new, "g") == 1).all()
    assert run(new, "k")[0].std() == pytest.approx(108**-0.5, rel=1e-4)
    assert "no effect" in weight(result).note


def test_a_gain_that_alone_sets_the_size_follows_the_scheme() -> None:
    """As exporters leave it that multiply gain and scale: starting at one it would make the network explode."""
    model = build(CONV.format(k=f"{STANDARD} k = Mul (z, g)"), v=(20, 12, 3, 3), g=(20, 1, 1, 1), **NUMBERS)
    new, result = fresh(model)
    effective, drawn = run(new, "k")[0], stored(new, "v")
    np.testing.assert_allclose((effective**2).sum(axis=(1, 2, 3)), (drawn**2).sum(axis=(1, 2, 3)), rtol=1e-5)
    assert effective.std() == pytest.approx(math.sqrt(2 / 108), rel=5 / math.sqrt(2 * drawn.size))
    assert weight(result, "g").follows == ("v",)


def test_a_kernel_that_is_stored_twice_is_drawn_once() -> None:
    """TorchScript writes the statistics of a standardised kernel out of a second, turned copy."""
    model = build(
        """(float[n,12,9,9] x) => (float[n,20,7,7] y) { mean = ReduceMean <axes = [0, 1], keepdims = 0> (copy)
        wide = ReduceMean <axes = [0, 1]> (copy) c = Sub (copy, wide) q = Mul (c, c)
        var = ReduceMean <axes = [0, 1], keepdims = 0> (q) z = BatchNormalization (v, g, zero, mean, var)
        k = Reshape (z, dims) y = Conv (x, k) }""",
        v=(1, 20, 108), copy=(1, 108, 20), g=(20,), zero=np.zeros(20, np.float32), dims=np.array([20, 12, 3, 3]),
    )  # fmt: skip
    new, _ = fresh(model)
    assert (stored(new, "copy") == stored(new, "v").transpose(0, 2, 1)).all()
    effective = run(new, "k")[0]
    np.testing.assert_allclose(effective.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    assert effective.std() == pytest.approx(math.sqrt(2 / 108), rel=5 / math.sqrt(2 * 2160))


# ---------------------------------------------------------------- spectral norm

SPECTRAL = {
    "mv": "w = MatMul ({m}, b) s = MatMul (a, w)",
    "left first": "w = MatMul (a, {m}) s = MatMul (w, b)",
    "dot": "w = MatMul ({m}, b) p = Mul (a, w) s = ReduceSum <keepdims = 0> (p)",
}


@pytest.mark.parametrize("product", SPECTRAL)
@pytest.mark.parametrize("kind", ["dense", "conv", "upwards"])
def test_the_vectors_of_a_spectral_norm_follow(product: str, kind: str) -> None:
    shape, sizes = {"dense": ((64, 40), (64, 40)), "conv": ((20, 12, 3, 3), (20, 108)),
                    "upwards": ((20, 12, 3, 3), (12, 180))}[kind]  # fmt: skip
    turn = (
        "t = Transpose <perm = [1, 0, 2, 3]> (v) mat = Reshape (t, dims)"
        if kind == "upwards"
        else "mat = Reshape (v, dims)"
    )
    made = f"{turn if kind != 'dense' else ''} {SPECTRAL[product]} k = Div (v, s)".format(
        m="v" if kind == "dense" else "mat"
    )
    text, *_ = KERNELS[{"dense": "Gemm", "conv": "Conv", "upwards": "upwards"}[kind]]
    model = build(text.format(k=made), v=shape, a=sizes[:1], b=sizes[1:], dims=np.array([sizes[0], -1]))
    new, result = fresh(model)
    effective = run(new, "k")[0]
    matrix = effective.swapaxes(0, 1).reshape(sizes) if kind == "upwards" else effective.reshape(sizes)
    assert np.linalg.svd(matrix)[1][0] == pytest.approx(1.0, rel=1e-3)
    for vector in "ab":
        assert np.linalg.norm(stored(new, vector)) == pytest.approx(1.0, rel=1e-5)
        assert weight(result, vector).follows == ("v",)
    assert weight(result).note == "divided by its largest singular value in the graph: the scheme's std has no effect"
    assert_normal(stored(new, "v"), entry(result).std)


# ---------------------------------------------------------------- factors

FACTORS = {
    "number": ("k = Mul (v, f)", lambda shape: np.float32(0.037)),
    "turned": ("k = Mul (f, v)", lambda shape: np.float32(7.5)),
    "divisor": ("k = Div (v, f)", lambda shape: np.float32(12.0)),
    "computed": ("r = Sqrt (f) k = Div (v, r)", lambda shape: np.float32(40.0)),
    "twice": ("p = Mul (v, f) k = Mul (p, f)", lambda shape: np.float32(0.1)),
    "minus": ("p = Neg (v) k = Mul (p, f)", lambda shape: np.float32(0.1)),
    "first axis": ("k = Mul (v, f)", lambda shape: ramp(shape, 0)),
    "second axis": ("k = Mul (v, f)", lambda shape: ramp(shape, 1)),
    "divisors": ("k = Div (v, f)", lambda shape: ramp(shape, 0)),
    "spread out": ("s = Shape (v) e = Expand (f, s) k = Mul (v, e)", lambda shape: ramp(shape, 0)),
}  # fmt: skip


def ramp(shape: tuple[int, ...], axis: int) -> Array:
    """Numbers from 0.1 to 3 along an axis."""
    along = np.linspace(0.1, 3.0, shape[axis], dtype=np.float32)
    return along.reshape([-1 if i == axis else 1 for i in range(len(shape))])


@given(
    st.sampled_from(sorted(KERNELS)),
    st.sampled_from(sorted(FACTORS)),
    st.sampled_from(["he", "lecun", "orthogonal"]),
)
@settings(max_examples=60, deadline=None)
def test_a_factor_of_a_weight_is_divided_out(kernel: str, factor: str, scheme: str) -> None:
    """StyleGAN's equalised learning rate, a scale folded by an optimiser: the effective weight has the moments."""
    made, of = FACTORS[factor]
    text, shape, _ = KERNELS[kernel]
    new, result = fresh(build(text.format(k=made), v=shape, f=of(shape)), scheme)
    plain, asked = fresh(build(text.format(k="k = Identity (v)"), v=shape), scheme)
    (effective,) = run(new, "k")
    np.testing.assert_allclose(np.abs(effective), np.abs(stored(plain, "v")), rtol=2e-5, atol=1e-7)
    larger = stored(new, "v") / stored(plain, "v")
    assert entry(result).std == pytest.approx(entry(asked).std * math.sqrt((larger**2).mean()), rel=1e-4)
    assert effective.std() == pytest.approx(entry(asked).std, rel=5 / math.sqrt(2 * effective.size))
    assert "f" in {k.id for k in result.kept}


def test_factors_along_two_axes_leave_the_std_of_the_whole() -> None:
    text = "(float[n,200] x) => (float[n,100] y) { k = Mul (v, f) y = Gemm <transB = 1> (x, k) }"
    factor = (ramp((100, 200), 0) * ramp((100, 200), 1)).astype(np.float32)
    new, _ = fresh(build(text, v=(100, 200), f=factor))
    effective = run(new, "k")[0]  # a mixture of normal values: its fourth moment is E[f^4] / E[f^2]^2 times as large
    tail = 3 * (factor.astype(float) ** 4).mean() / (factor.astype(float) ** 2).mean() ** 2
    assert effective.std() == pytest.approx(math.sqrt(2 / 200), rel=5 * math.sqrt((tail - 1) / 4 / effective.size))


def test_a_learned_scale_counts_as_the_one_that_it_starts_as() -> None:
    text = "(float[n,40] x) => (float[n,64] y) { p = Mul (v, g) k = Mul (p, f) y = Gemm <transB = 1> (x, k) }"
    new, result = fresh(build(text, v=(64, 40), g=(64, 1), f=np.float32(0.5)))
    assert (stored(new, "g") == 1).all()
    assert_normal(run(new, "k")[0], math.sqrt(2 / 40))
    assert entry(result).std == pytest.approx(2 * math.sqrt(2 / 40))


def test_projections_that_are_scaled_apart() -> None:
    """A query whose kernel is scaled before it is joined to those of key and value."""
    text = """(float[n,64] x) => (float[n,96] y) { q, k, w = Split <axis = 1> (v, sizes) s = Mul (q, f)
        all = Concat <axis = 1> (s, k, w) y = MatMul (x, all) }"""
    new, _ = fresh(build(text, v=(64, 96), f=np.float32(0.125), sizes=np.array([32, 32, 32])), "lecun")
    for part in np.split(run(new, "all")[0], 3, axis=1):
        assert_normal(part, 1 / 8)
    assert stored(new, "v")[:, :32].std() == pytest.approx(1.0, rel=5 / math.sqrt(4096))


@pytest.mark.parametrize("scheme", ["lsuv", "lsuv:per_channel=true", "analytic", "auto"])
@pytest.mark.parametrize("factor", ["number", "first axis", "second axis"])
def test_passes_over_the_signal_see_the_factor(scheme: str, factor: str) -> None:
    made, of = FACTORS[factor]
    text = "(float[n,40] x) => (float[n,64] y) {{ {k} h = Gemm <transB = 1> (x, k) y = Relu (h) }}"
    x = np.random.default_rng(0).normal(0, 1, (512, 40)).astype(np.float32)
    model = build(text.format(k=made), v=(64, 40), f=of((64, 40)))
    new, result = fresh(model, scheme, **({"data": {"x": x}} if "lsuv" in scheme else {}))
    (h,) = run(new, "h", x=x)
    spread = h.std(axis=0).mean() if "channel" in scheme and factor != "second axis" else h.std()
    assert spread == pytest.approx(1.0, rel=1e-4 if "lsuv" in scheme else 0.1)
    again = onnxinit.reinit(model, plan=result.plan).model
    assert again is not None and again.graph == new.graph


# ---------------------------------------------------------------- masks

MASKS = {
    "product": ("k = Mul (v, mask)", np.float32),
    "turned": ("t = Transpose (v) u = Transpose (mask) w = Mul (u, t) k = Transpose (w)", np.float32),
    "choice": ("k = Where (mask, v, zero)", np.bool_),
    "cast": ("f = Cast <to = 1> (mask) k = Mul (v, f)", np.int8),
    "compared": ("b = Greater (mask, zero) k = Where (b, v, zero)", np.float32),
}


@given(st.sampled_from(sorted(MASKS)), st.sampled_from(["he", "xavier", "orthogonal"]), st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None)
def test_a_mask_is_kept_and_its_live_inputs_count(mask: str, scheme: str, share: float) -> None:
    made, kind = MASKS[mask]
    live = np.random.default_rng(7).uniform(size=(200, 100)) < share
    text = f"(float[n,100] x) => (float[n,200] y) {{ {made} y = Gemm <transB = 1> (x, k) }}"
    new, result = fresh(build(text, v=(200, 100), mask=live.astype(kind), zero=np.float32(0)), scheme)
    assert (stored(new, "mask") == live).all()
    drawn, found = stored(new, "v"), weight(result)
    assert (found.fan_in, found.fan_out) == (pytest.approx(100 * live.mean()), pytest.approx(200 * live.mean()))
    (effective,) = run(new, "k")
    assert (effective[~live] == 0).all() and (effective[live] == drawn[live]).all()
    power = (effective**2).sum(axis=1).mean()  # of one output's inputs
    asked = {"he": 2.0, "xavier": 2 * 100 / 300, "orthogonal": 100 / 200}[scheme]
    assert power == pytest.approx(asked, rel=5 * math.sqrt(2 / live.sum()))
    assert drawn.std() == pytest.approx(entry(result).std, rel=5 / math.sqrt(2 * drawn.size))


def test_masks_of_convolutions_and_factors_together() -> None:
    live = np.ones((30, 16, 5, 5), np.float32)
    live[:, :, 2, 2:] = live[:, :, 3:] = 0  # the places after the one that is predicted
    text = "(float[n,16,9,9] x) => (float[n,30,5,5] y) { m = Mul (v, mask) k = Mul (m, f) y = Conv (x, k) }"
    new, result = fresh(build(text, v=(30, 16, 5, 5), mask=live, f=np.float32(0.2)))
    assert weight(result).fan_in == 16 * 12
    effective = run(new, "k")[0]
    assert_normal(effective[live == 1], math.sqrt(2 / (16 * 12)))
    assert (effective[live == 0] == 0).all()
    assert entry(result).std == pytest.approx(5 * math.sqrt(2 / (16 * 12)))


def test_a_mask_whose_values_are_missing_is_not_counted(tmp_path: Any) -> None:
    text = "(float[n,100] x) => (float[n,200] y) { k = Mul (v, mask) y = Gemm <transB = 1> (x, k) }"
    model = build(text, v=(200, 100), mask=(np.random.default_rng(0).uniform(size=(200, 100)) < 0.5).astype(np.float32))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    found = {w.id: w for w in onnxinit.inspect(tmp_path / "m.onnx").weights}
    assert found["v"].fan_in == 100


# ---------------------------------------------------------------- low-rank updates

UPDATES = {
    "products": "a = MatMul (x, A) b = MatMul (a, B) c = Mul (b, s) l = MatMul (x, v) y = Add (l, c)",
    "bias": "l = MatMul (x, v) d = Add (l, bias) a = MatMul (x, A) b = MatMul (a, B) c = Mul (b, s) y = Add (d, c)",
    "scaled first": "l = MatMul (x, v) z = Mul (x, s) a = MatMul (z, A) b = MatMul (a, B) y = Add (b, l)",
    "scaled between": "l = MatMul (x, v) a = MatMul (x, A) c = Div (a, s) b = MatMul (c, B) y = Add (b, l)",
    "casts": """z = Cast <to = 1> (x) d = Dropout (z) a = MatMul (d, A) b = MatMul (a, B) c = Mul (b, s)
        l = MatMul (x, v) e = Cast <to = 1> (c) y = Add (l, e)""",
}


@pytest.mark.parametrize("update", UPDATES)
def test_the_outer_factor_of_a_low_rank_update_starts_as_zero(update: str) -> None:
    """Of LoRA: the layer starts as itself, and the inner factor as the scheme says."""
    text = f"(float[n,100] x) => (float[n,80] y) {{ {UPDATES[update]} }}"
    held = {"v": (100, 80), "A": (100, 8), "B": (8, 80), "s": np.float32(2.0), "bias": (80,)}
    new, result = fresh(build(text, **held))
    assert (stored(new, "B") == 0).all()
    assert_normal(stored(new, "A"), math.sqrt(2 / 100))
    assert_normal(stored(new, "v"), math.sqrt(2 / 100))
    assert [weight(result, name).role for name in ("v", "A", "B")] == ["weight"] * 3
    assert "starts as zero" in weight(result, "B").note
    assert not [w for w in result.warnings if "same value" in w]
    new, _ = fresh(build(text, **held), rules=["B=he"])
    assert_normal(stored(new, "B"), math.sqrt(2 / 8))


@pytest.mark.parametrize(
    "text",
    [
        "l = MatMul (x, v) a = MatMul (x, A) r = Relu (a) b = MatMul (r, B) y = Add (l, b)",
        "t = Tanh (x) l = MatMul (t, v) a = MatMul (x, A) b = MatMul (a, B) y = Add (l, b)",
        "l = MatMul (x, v) a = MatMul (x, A) b = MatMul (a, B) c = Sigmoid (b) y = Mul (l, c)",
        "a = MatMul (x, A) b = MatMul (a, B) y = Add (x, b)",
        "l = MatMul (x, v) a = MatMul (x, wide) b = MatMul (a, back) y = Add (l, b)",
    ],
    ids=["a function between", "another input", "a gate", "no layer beside", "no low rank"],
)
def test_other_pairs_of_layers_are_drawn(text: str) -> None:
    held = {"v": (100, 100), "A": (100, 8), "B": (8, 100), "wide": (100, 120), "back": (120, 100)}
    new, result = fresh(build(f"(float[n,100] x) => (float[n,100] y) {{ {text} }}", **held))
    drawn = {w.id for w in result.weights}
    for name in drawn:
        assert stored(new, name).std() > 0, name


def test_low_rank_updates_of_convolutions() -> None:
    text = """(float[n,32,9,9] x) => (float[n,40,7,7] y) { a = Conv (x, A) b = Conv (a, B) l = Conv (x, v)
        y = Add (l, b) }"""
    new, _ = fresh(build(text, v=(40, 32, 3, 3), A=(4, 32, 3, 3), B=(40, 4, 1, 1)))
    assert (stored(new, "B") == 0).all()
    assert_normal(stored(new, "A"), math.sqrt(2 / 288))


@given(st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["", "Mul", "Div"]), st.booleans())
@settings(max_examples=32, deadline=None)
def test_updates_that_are_added_to_the_kernel(
    columns: bool, flip_a: bool, flip_b: bool, scale: str, turned: bool
) -> None:
    """W + s B A for kernels of both orders, and products of either form."""
    out, inner, rank = 80, 100, 8
    rows, cols = (inner, out) if columns else (out, inner)
    first, second = ("A", "B") if columns else ("B", "A")
    shapes = {first: (rank, rows) if flip_a else (rows, rank), second: (cols, rank) if flip_b else (rank, cols)}
    product = f"p = Gemm <transA = {int(flip_a)}, transB = {int(flip_b)}> ({first}, {second})"
    if not flip_a and not flip_b:
        product = f"p = MatMul ({first}, {second})"
    scaled = f"{product} q = {scale} (p, s)" if scale else f"{product} q = Identity (p)"
    summed = "k = Add (q, v)" if turned else "k = Add (v, q)"
    layer = "y = MatMul (x, k)" if columns else "y = Gemm <transB = 1> (x, k)"
    text = f"(float[n,100] x) => (float[n,80] y) {{ {scaled} {summed} {layer} }}"
    new, result = fresh(build(text, v=(rows, cols), s=np.float32(0.25), **shapes))
    assert (stored(new, "B") == 0).all()
    assert (run(new, "k")[0] == stored(new, "v")).all()
    assert_normal(stored(new, "v"), math.sqrt(2 / inner))
    assert_normal(stored(new, "A"), math.sqrt(2 / inner))
    found = {w.id: (w.role, w.fan_in, w.fan_out) for w in result.weights}
    assert found == {"v": ("weight", 100, 80), "A": ("weight", 100, 8), "B": ("weight", 8, 80)}


def test_a_kernel_of_two_factors_is_two_layers() -> None:
    text = "(float[n,100] x) => (float[n,80] y) { k = MatMul (A, B) y = MatMul (x, k) }"
    new, result = fresh(build(text, A=(100, 8), B=(8, 80)), "lecun")
    assert_normal(stored(new, "A"), 1 / 10)
    assert_normal(stored(new, "B"), 1 / math.sqrt(8))
    assert {w.id: (w.fan_in, w.fan_out) for w in result.weights} == {"A": (100, 8), "B": (8, 80)}

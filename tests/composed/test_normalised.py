"""Kernels that the graph normalises: weight norm, standardisation, spectral norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from composing import KERNELS, NUMBERS, assert_normal, build, entry, fresh, run, stored, weight
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxinit
from onnxinit.plan import Plan

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
        new, result = fresh(model, **options)
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


def standard(i: int | str = "") -> str:
    """What standardises the kernel v, or vi for a number i, as z or zi."""
    return f"""m{i} = ReduceMean <axes = [1, 2, 3]> (v{i}) c{i} = Sub (v{i}, m{i}) q{i} = Mul (c{i}, c{i})
        r{i} = ReduceMean <axes = [1, 2, 3]> (q{i}) e{i} = Add (r{i}, eps) s{i} = Sqrt (e{i}) z{i} = Div (c{i}, s{i})"""


CONV = "(float[n,12,9,9] x) => (float[n,20,7,7] y) {{ {k} y = Conv (x, k) }}"


def test_a_standardised_kernel_says_that_its_std_does_not_matter() -> None:
    model = build(
        CONV.format(k=f"{standard()} k = Mul (z, root)"), v=(20, 12, 3, 3), root=np.float32(108**-0.5), **NUMBERS
    )
    new, result = fresh(model)
    assert weight(result).note == "standardised by the graph: the scheme's std has no effect"
    assert run(new, "k")[0].std() == pytest.approx(108**-0.5, rel=1e-4)


def test_the_gain_beside_a_scale_of_the_graph_starts_at_one() -> None:
    """As in networks without norms: gain * standardised / sqrt(fan_in)."""
    model = build(
        CONV.format(k=f"{standard()} p = Mul (z, root) k = Mul (p, g)"),
        v=(20, 12, 3, 3), g=(20, 1, 1, 1), root=np.float32(108**-0.5), **NUMBERS,
    )  # fmt: skip
    new, result = fresh(model)
    assert (stored(new, "g") == 1).all()
    assert run(new, "k")[0].std() == pytest.approx(108**-0.5, rel=1e-4)
    assert "no effect" in weight(result).note


def test_a_gain_that_alone_sets_the_size_follows_the_scheme() -> None:
    """As exporters leave it that multiply gain and scale: starting at one it would make the network explode."""
    model = build(CONV.format(k=f"{standard()} k = Mul (z, g)"), v=(20, 12, 3, 3), g=(20, 1, 1, 1), **NUMBERS)
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


# ---------------------------------------------------------------- values of a tensor, and types


def test_what_is_shuffled_keeps_its_scale_and_what_is_matched_does_not() -> None:
    model = build(NORMED, v=(64, 40), g=(64, 1))
    new, result = fresh(model, "shuffle")
    assert (stored(new, "g") == stored(model, "g")).all()
    assert "moved as they are" in next(k.reason for k in result.kept if k.id == "g")
    new, _ = fresh(model, "match")
    np.testing.assert_allclose(run(new, "k")[0], stored(new, "v"), rtol=1e-5, atol=1e-7)


def test_a_donor_gives_the_scale_too(tmp_path: Any) -> None:
    donor = build(NORMED, v=np.full((64, 40), 0.25, np.float32), g=(64, 1))
    onnx.save(donor, tmp_path / "donor.onnx")
    new, _ = fresh(build(NORMED, v=(64, 40), g=(64, 1)), f"donor:path={tmp_path / 'donor.onnx'}")
    assert (stored(new, "g") == stored(donor, "g")).all() and (stored(new, "v") == 0.25).all()
    onnx.save(build(NORMED, v=np.full((64, 40), 0.25, np.float32), g=np.float32(1)), tmp_path / "donor.onnx")
    new, _ = fresh(build(NORMED, v=(64, 40), g=(64, 1)), f"donor:path={tmp_path / 'donor.onnx'}")
    np.testing.assert_allclose(stored(new, "g"), math.sqrt(40 / 16), rtol=1e-6)  # it has no such scale


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_scales_of_other_types(dtype: Any) -> None:
    kind = {np.float16: "float16", np.float64: "double"}[dtype]
    rng = np.random.default_rng(1)
    old: dict[str, Any] = {name: rng.normal(0.3, 0.7, n).astype(dtype) for name, n in (("v", (64, 40)), ("g", (64, 1)))}
    new, _ = fresh(build(NORMED.replace("float[", f"{kind}["), **old))
    length = np.linalg.norm(stored(new, "v"), axis=1)
    np.testing.assert_allclose(stored(new, "g")[:, 0], length, rtol=2e-3 if dtype == np.float16 else 1e-12)


def test_a_scale_that_its_type_cannot_hold_is_an_error() -> None:
    scales = np.random.default_rng(0).normal(1, 1, (64, 1)).astype(np.float16)
    old: dict[str, Any] = {"v": np.ones((64, 40), np.float16), "g": scales}
    with pytest.raises(onnxinit.OnnxinitError, match=r"the weight 'g' .* cannot hold the .* that follows from v"):
        fresh(build(NORMED.replace("float[", "float16["), **old), "normal:std=15000")


def test_files_whose_values_are_missing(tmp_path: Any) -> None:
    model = build(NORMED, v=(64, 40), g=(64, 1))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    onnxinit.reinit(tmp_path / "m.onnx", tmp_path / "new.onnx", scheme="he")
    new = onnx.load(tmp_path / "new.onnx")
    np.testing.assert_allclose(run(new, "k")[0], stored(new, "v"), rtol=1e-5, atol=1e-7)


def test_a_plan_for_one_layer_alone() -> None:
    """With --include of the layer's tensors, and below a cascade."""
    text = NORMED.replace(
        "(float[n,40] x) => (float[n,64] y) {", "(float[n,30] z) => (float[n,64] y) { x = MatMul (z, w)"
    )
    model = build(text, v=(64, 40), g=(64, 1), w=(30, 40))
    asked: list[dict[str, Any]] = [{"include": ["v", "g"]}, {"cascade": 1}]
    for options in asked:
        new, _ = fresh(model, **options)
        assert (stored(new, "w") == stored(model, "w")).all()
        np.testing.assert_allclose(run(new, "k")[0], stored(new, "v"), rtol=1e-5, atol=1e-7)


def test_analytic_gains_know_that_standardised_kernels_sum_to_zero() -> None:
    """What all inputs share does not get through: of a ReLU's second moment 0.64, so that each layer would lose 0.4."""
    nodes, held, before = "", dict[str, Any](), "x"
    for i in range(5):
        nodes += f"{standard(i)} k{i} = Mul (z{i}, g{i}) h{i} = Conv ({before}, k{i}) y{i} = Relu (h{i}) "
        held |= {f"v{i}": (24, 24, 3, 3), f"g{i}": (24, 1, 1, 1)}
        before = f"y{i}"
    text = f"(float[n,24,16,16] x) => (float[n,24,6,6] y4) {{ {nodes} }}"
    new, result = fresh(build(text, **held, eps=np.float32(1e-9)), "analytic")
    x = np.random.default_rng(0).standard_normal((64, 24, 16, 16)).astype(np.float32)
    assert all(weight(result, f"g{i}").follows == (f"v{i}",) for i in range(5))
    for h in run(new, *(f"h{i}" for i in range(5)), x=x):
        assert h.std() == pytest.approx(1.0, rel=0.25)


@pytest.mark.parametrize(
    "made",
    [
        "n = ReduceL2 <axes = [1]> (v) u = Div (v, n) w = Mul (u, g) k = Mul (w, f)",
        "n = ReduceL2 <axes = [1]> (v) u = Div (v, n) w = Mul (u, g) k = Mul (w, mask)",
        "w = Mul (v, mask) n = ReduceL2 <axes = [1]> (w) u = Div (w, n) k = Mul (u, g)",
    ],
    ids=["a factor behind", "a mask behind", "a mask before"],
)
def test_weight_norms_with_factors_and_masks(made: str) -> None:
    live = (np.random.default_rng(3).uniform(size=(64, 40)) < 0.5).astype(np.float32)
    text = f"(float[n,40] x) => (float[n,64] y) {{ {made} y = Gemm <transB = 1> (x, k) }}"
    new, result = fresh(build(text, v=(64, 40), g=(64, 1), f=np.float32(0.3), mask=live))
    left = live if "mask" in made else np.ones_like(live)
    effective, drawn = run(new, "k")[0], stored(new, "v")
    assert (effective[left == 0] == 0).all()
    assert weight(result).fan_in == pytest.approx(40 * left.mean())
    if "f)" in made or made.startswith("w"):
        np.testing.assert_allclose(effective, drawn * left, rtol=1e-5, atol=1e-7)
    assert effective[left == 1].std() == pytest.approx(
        math.sqrt(2 / weight(result).fan_in), rel=5 / math.sqrt(2 * 1280)
    )


def test_the_kernels_of_a_recurrent_operator_with_a_weight_norm() -> None:
    text = """(float[t,n,20] x) => (float[t,1,n,16] y) { n1 = ReduceL2 <axes = [1]> (v) u1 = Div (v, n1)
        k1 = Mul (u1, g) w = Unsqueeze (k1, first) n2 = ReduceL2 <axes = [1]> (r) u2 = Div (r, n2) k2 = Mul (u2, h)
        z = Unsqueeze (k2, first) y, l, c = LSTM <hidden_size = 16> (x, w, z) }"""
    shapes: dict[str, Any] = {"v": (64, 20), "g": (64, 1), "r": (64, 16), "h": (64, 1)}
    new, result = fresh(build(text, first=np.array([0]), **shapes))
    assert [weight(result, name).role for name in "vr"] == ["input_weight", "recurrent_weight"]
    np.testing.assert_allclose(run(new, "k1")[0], stored(new, "v"), rtol=1e-5, atol=1e-7)
    recurrent = run(new, "k2")[0]
    for gate in np.split(recurrent, 4):
        np.testing.assert_allclose(gate @ gate.T, np.eye(16), atol=1e-5)

"""pca, zca and kmeans: what the written model makes of data, measured by running it whole, apart from the engine."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import build
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from oracle import normal, run

import onnxinit
from onnxinit.errors import SchemeError
from onnxinit.signal import Finding

Numbers = np.ndarray[Any, np.dtype[Any]]


def correlated(*shape: int, seed: int = 0) -> Numbers:
    """Numbers whose last axis is mixed, so that its values are correlated and of unlike std, and not centred."""
    mix = np.linalg.qr(normal(shape[-1], shape[-1], seed=seed + 1))[0] * np.linspace(0.3, 3, shape[-1])
    return np.asarray(normal(*shape, seed=seed) @ mix.astype(np.float32) + 2, np.float32)


def learned(
    model: onnx.ModelProto, x: Numbers, scheme: str = "pca", **more: Any
) -> tuple[onnx.ModelProto, dict[str, Finding]]:
    result = onnxinit.reinit(model, scheme=scheme, data={"x": x}, **more)
    assert result.model is not None and result.signal is not None
    return result.model, {f.id: f for f in result.signal.layers}


def tensor(model: onnx.ModelProto, name: str) -> Numbers:
    return np.asarray(numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)), np.float64)


def assert_white(units: Numbers, digits: float = 2e-3) -> None:
    """That (units, values) have the std 1 each, and no correlation, as principal components have."""
    assert np.cov(units, bias=True) == pytest.approx(np.eye(len(units)), abs=digits)


# ---------------------------------------------------------------- principal components


def test_the_filters_are_the_first_principal_components() -> None:
    x = correlated(500, 12)
    model, found = learned(
        build("(float[n, 12] x) => (float[n, 5] y) { y = Gemm <transB = 1> (x, w, b) }", w=[5, 12], b=[5]), x
    )
    wide = np.asarray(x, np.float64)
    _, singular, directions = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    std = singular[:5] / math.sqrt(500)
    turned = tensor(model, "w") @ directions[:5].T * std  # y = +-V x / std: the identity but for the signs
    assert np.abs(turned) == pytest.approx(np.eye(5), abs=1e-3)
    y = run(model, {"x": x})["y"]
    assert y.mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-4)
    assert_white(y.T)
    assert found["w"].status == "set" and found["w"].note == ""


LAYERS: dict[str, tuple[str, dict[str, Any], list[int], str]] = {
    "Gemm": ("(float[n, 9] x) => (float[n, 4] y) { y = Gemm <alpha = 0.5> (x, w) }", {"w": [9, 4]}, [300, 9], "nu"),
    "Gemm, transposed": (
        "(float[n, 9] x) => (float[n, 4] y) { y = Gemm <transB = 1> (x, w) }",
        {"w": [4, 9]},
        [300, 9],
        "nu",
    ),
    "Gemm, first": ("(float[9, n] x) => (float[4, n] y) { y = Gemm (w, x) }", {"w": [4, 9]}, [9, 300], "un"),
    "Gemm, first, transposed": (
        "(float[n, 9] x) => (float[4, n] y) { y = Gemm <transA = 1, transB = 1> (w, x) }",
        {"w": [9, 4]},
        [300, 9],
        "un",
    ),
    "MatMul": ("(float[n, 7, 9] x) => (float[n, 7, 4] y) { y = MatMul (x, w) }", {"w": [9, 4]}, [60, 7, 9], "npu"),
    "MatMul, first": (
        "(float[n, 9, 7] x) => (float[n, 4, 7] y) { y = MatMul (w, x) }",
        {"w": [4, 9]},
        [60, 9, 7],
        "nup",
    ),
    "MatMul, batched": (
        "(float[n, 3, 7, 9] x) => (float[n, 3, 7, 4] y) { y = MatMul (x, w) }",
        {"w": [3, 9, 4]},
        [40, 3, 7, 9],
        "ngpu",
    ),
    "MatMul, one signal for all": (
        "(float[n, 9] x) => (float[3, n, 4] y) { y = MatMul (x, w) }",
        {"w": [3, 9, 4]},
        [300, 9],
        "gnu",
    ),
    "MatMul, transposed": (
        "(float[n, 9] x) => (float[n, 4] y) { t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t) }",
        {"w": [4, 9]},
        [300, 9],
        "nu",
    ),
    "MatMul, permuted and folded": (
        """(float[n, 6] x) => (float[n, 4] y) {
            t = Transpose <perm = [2, 0, 1]> (w)
            s = Constant <value_ints = [6, 4]> ()
            r = Reshape (t, s)
            y = MatMul (x, r)
        }""",
        {"w": [2, 4, 3]},
        [300, 6],
        "nu",
    ),
    "FusedMatMul": (
        "(float[n, 9] x) => (float[n, 4] y) { y = com.microsoft.FusedMatMul <transB = 1, alpha = 2.0> (x, w) }",
        {"w": [4, 9]},
        [300, 9],
        "nu",
    ),
    "Conv, one axis": (
        "(float[n, 3, 20] x) => (float[n, 5, m] y) { y = Conv (x, w) }",
        {"w": [5, 3, 3]},
        [30, 3, 20],
        "nup",
    ),
    "Conv, same": (
        """(float[n, 2, 9, 9] x) => (float[n, 5, m, k] y) {
            y = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w)
        }""",
        {"w": [5, 2, 3, 2]},
        [30, 2, 9, 9],
        "nupp",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_components_are_white_in_every_layout(name: str) -> None:
    """Filters in the wrong place of a tensor would give outputs that are correlated."""
    text, shapes, shape, axes = LAYERS[name]
    x = correlated(*shape)
    model, found = learned(build(text, check="microsoft" not in text, **shapes), x)
    y = run(model, {"x": x})["y"]
    front = [axes.index(c) for c in "gu" if c in axes]
    y = y.transpose(*front, *(i for i in range(y.ndim) if i not in front))
    for block in y.reshape(-1, *y.shape[len(front) - 1 :]) if "g" in axes else [y]:
        units = block.reshape(4 if "Conv" not in name else 5, -1)
        assert np.corrcoef(units) == pytest.approx(np.eye(len(units)), abs=2e-3)
        if "g" not in axes:  # else a channel has the std 1 over all products together
            assert_white(units)
    assert found["w"].note in ("", "no bias is drawn that could centre it")


@settings(max_examples=25)
@given(st.data())
def test_components_of_any_convolution_are_white(data: st.DataObject) -> None:
    rank, groups = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 2, 3]))
    kernel, strides, dilations = (
        data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)) for _ in range(3)
    )
    pads = data.draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    each = data.draw(st.integers(1, 2))
    units = data.draw(st.integers(1, each * math.prod(kernel)))
    size = [12] * rank
    axes = ", ".join("abc"[:rank])
    text = f"""(float[n, {groups * each}, {", ".join(map(str, size))}] x) => (float[n, {groups * units}, {axes}] y) {{
        y = Conv <group = {groups}, strides = {strides}, dilations = {dilations}, pads = {pads}> (x, w)
    }}"""
    x = correlated(90, groups * each, *size)
    model, found = learned(build(text, w=[groups * units, each, *kernel]), x, "pca:patches=100000")
    y = run(model, {"x": x})["y"]
    y = np.moveaxis(y, 1, 0).reshape(groups, units, -1)
    if "Gaussian" not in found["w"].note:  # a stride of the kernel's length can see padding alone
        for block in y:
            assert np.cov(block, bias=True).reshape(units, units) == pytest.approx(np.eye(units), abs=0.01)


def test_patches_are_a_seeded_sample_of_all_batches() -> None:
    model = build("(float[n, 12] x) => (float[n, 5] y) { y = MatMul (x, w) }", w=[12, 5])
    x = correlated(4000, 12)
    few = [tensor(learned(model, x, "pca:patches=400", batch_size=100)[0], "w") for _ in range(2)]
    many = tensor(learned(model, x, "pca:patches=4000")[0], "w")
    other = tensor(learned(model, x, "pca:patches=400", seed=1)[0], "w")
    assert (few[0] == few[1]).all() and not np.allclose(few[0], other, atol=1e-3)
    assert np.allclose(np.abs(few[0]), np.abs(many), atol=0.6) and not np.allclose(few[0], many, atol=1e-3)


# ---------------------------------------------------------------- the other two


def test_zca_is_the_inverse_root_of_the_covariance() -> None:
    x = correlated(800, 6)
    model, _ = learned(build("(float[n, 6] x) => (float[n, 6] y) { y = MatMul (x, w) }", w=[6, 6]), x, "zca:damping=0")
    values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64), bias=True))
    assert tensor(model, "w") == pytest.approx((vectors / np.sqrt(values)) @ vectors.T, abs=1e-3)


def test_damping_goes_by_the_largest_eigenvalue() -> None:
    """W = V (L + d l_1)^-1/2 V^T, each row at the std 1; the scale of the data does not count."""
    x = correlated(800, 6)
    text = "(float[n, 6] x) => (float[n, 6] y) { y = MatMul (x, w) }"
    made = [tensor(learned(build(text, w=[6, 6]), x * np.float32(s), "zca:damping=0.1")[0], "w") for s in (1, 100)]
    covariance = np.cov(x.T.astype(np.float64), bias=True)
    values, vectors = np.linalg.eigh(covariance)
    rows = (vectors / np.sqrt(values + 0.1 * values[-1])) @ vectors.T
    rows /= np.sqrt(np.diag(rows @ covariance @ rows.T))[:, None]
    assert made[0].T == pytest.approx(rows, abs=1e-3)
    assert made[1] * 100 == pytest.approx(made[0], abs=1e-3)


def test_zca_filters_of_a_kernel_lie_at_its_centre() -> None:
    text = "(float[n, 4, 12, 12] x) => (float[n, 6, 10, 10] y) { y = Conv (x, w) }"
    model, found = learned(build(text, w=[6, 4, 3, 3]), normal(40, 4, 12, 12), "zca")
    at = np.abs(tensor(model, "w").reshape(6, -1)).argmax(axis=1)
    channel, row, column = np.unravel_index(at, (4, 3, 3))
    assert list(channel[:4]) == [0, 1, 2, 3] and (row[:4] == 1).all() and (column[:4] == 1).all()
    assert list(channel[4:]) == [0, 2] and (np.abs(row[4:] - 1) + np.abs(column[4:] - 1) == 1).all()
    assert found["w"].fine


def test_kmeans_is_as_good_as_that_of_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    source = np.random.default_rng(3)
    heavy = source.laplace(size=(3000, 8)) @ np.linalg.qr(normal(8, 8))[0]
    x = np.asarray(heavy, np.float32)
    model, _ = learned(
        build("(float[n, 8] x) => (float[n, 16] y) { y = MatMul (x, w) }", w=[8, 16]), x, "kmeans:damping=0"
    )
    values, vectors = np.linalg.eigh(np.cov(heavy.T, bias=True))
    white = (heavy - heavy.mean(axis=0)) @ (vectors / np.sqrt(values))
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    mine = tensor(model, "w").T @ (vectors * np.sqrt(values))  # filters in whitened coordinates
    theirs = cluster.KMeans(16, n_init=3, random_state=0).fit(white).cluster_centers_
    near = [
        (white @ (c / np.linalg.norm(c, axis=1, keepdims=True)).T).max(axis=1).mean()
        for c in (mine, theirs, normal(16, 8))
    ]
    assert near[0] > 0.95 * near[1] > near[2]


def test_kmeans_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(SchemeError, match=r"pip install 'onnxinit\[pretrain\]', or take pca or zca"):
        learned(
            build("(float[n, 8] x) => (float[n, 4] y) { y = MatMul (x, w) }", w=[8, 4]), correlated(90, 8), "kmeans"
        )


# ---------------------------------------------------------------- too little, too many, too strange


@pytest.mark.parametrize("scheme", ["pca", "zca"])
@pytest.mark.parametrize("samples, inputs, gaussian", [(4, 12, 17), (300, 12, 8), (300, 30, 0)])
def test_units_beyond_the_components_are_gaussian(scheme: str, samples: int, inputs: int, gaussian: int) -> None:
    model = build(f"(float[n, {inputs}] x) => (float[n, 20] y) {{ y = MatMul (x, w) }}", w=[inputs, 20])
    x = correlated(samples, inputs)
    model, found = learned(model, x, scheme)
    y = run(model, {"x": x})["y"]
    assert y.std(axis=0) == pytest.approx(np.ones(20), rel=1e-3)
    said = f"{gaussian} of 20 filters are Gaussian: the data has no more components"
    assert (said in found["w"].note) == (gaussian > 0)


def test_a_packed_projection_gets_components_in_each_of_its_thirds() -> None:
    model = build("(float[n, 8] x) => (float[n, 24] y) { y = MatMul (x, w) }", w=[8, 24])
    x = correlated(400, 8)
    w = tensor(learned(model, x)[0], "w")
    _, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64), bias=True))
    is_component = np.abs(vectors.T @ (w / np.linalg.norm(w, axis=0))).max(axis=0) > 0.999
    assert [int(third.sum()) for third in np.split(is_component, 3)] == [3, 3, 2]


def test_what_cannot_be_learned_keeps_its_base() -> None:
    text = """(float[n, 4, 8] x) => (float[n, 4, 8] y, float[n, 4, 8] z) {
        y = ConvTranspose <pads = [1, 1]> (x, up)
        f = Einsum <equation = "ncl,lk->nck"> (x, e)
        z = Relu (f)
    }"""
    model = build(text, up=[4, 4, 3], e=[8, 8])
    x = normal(20, 4, 8)
    made, found = learned(model, x, "pca:base=he,center=false,per_channel=false")
    plain, _ = learned(model, x, "lsuv:base=he")
    for name, op in (("up", "ConvTranspose"), ("e", "Einsum")):
        assert found[name].status == "set" and found[name].note == f"its base stands: filters of {op} are not learned"
        assert (tensor(made, name) == tensor(plain, name)).all()


def test_a_kernel_that_the_graph_makes_keeps_its_base() -> None:
    text = """(float[n, 6] x) => (float[n, 4] y) {
        c = Concat <axis = 1> (w, v)
        y = MatMul (x, c)
    }"""
    _, found = learned(build(text, w=[6, 2], v=[6, 2]), correlated(100, 6))
    assert "its base stands: Concat" in found["w"].note.replace("the Concat that makes 'c'", "Concat")


def test_data_without_any_variance() -> None:
    model = build("(float[n, 6] x) => (float[n, 4] y) { y = MatMul (x, w) }", w=[6, 4])
    _, found = learned(model, np.ones((50, 6), np.float32))
    assert found["w"].status == "dead" and "nothing can be learned" in found["w"].note


def test_quantised_kernels_are_encoded_with_fitted_scales() -> None:
    path = Path(__file__).parent.parent.parent / "models" / "cnn_int8.onnx"
    result = onnxinit.reinit(onnx.load(path), scheme="pca", samples=64)
    assert result.signal is not None and all(f.fine for f in result.signal.layers)
    assert not any("base" in f.note for f in result.signal.layers)
    assert all(f.after == pytest.approx(1, abs=0.02) for f in result.signal.layers)


def test_half_precision() -> None:
    text = "(float16[n, 8] x) => (float16[n, 4] y) { t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t) }"
    x = correlated(300, 8).astype(np.float16)
    model, _ = learned(build(text, w=np.zeros((4, 8), np.float16)), x)
    assert_white(run(model, {"x": x})["y"].T, 0.02)


# ---------------------------------------------------------------- the whole


DEEP = """(float[n, 1, 16, 16] x) => (float[n, 10] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <strides = [2, 2]> (r, w2, b2)
    t = Relu (c)
    f = Flatten (t)
    y = Gemm (f, w3, b3)
}"""
SHAPES = {"w1": [8, 1, 3, 3], "b1": [8], "w2": [16, 8, 3, 3], "b2": [16], "w3": [784, 10], "b3": [10]}


@pytest.mark.parametrize("scheme", ["pca", "zca", "kmeans"])
def test_a_plan_rebuilds_the_network_without_the_data(scheme: str, tmp_path: Path) -> None:
    if scheme == "kmeans":
        pytest.importorskip("sklearn")
    model, feed = build(DEEP, **SHAPES), {"x": correlated(64, 1, 16, 16)}
    onnx.save(model, tmp_path / "m.onnx")
    result = onnxinit.reinit(tmp_path / "m.onnx", scheme=scheme, data=feed)
    values = run(onnx.load(tmp_path / "m.reinit.onnx"), feed, ["a", "c"])
    for name in ("a", "c", "y"):
        channels = np.moveaxis(values[name], 1, 0).reshape(values[name].shape[1], -1)
        assert channels.std(axis=1) == pytest.approx(np.ones(len(channels)), abs=1e-4)
        assert channels.mean(axis=1) == pytest.approx(np.zeros(len(channels)), abs=1e-4)
    assert {str(e.scheme) for e in result.plan.entries if e.id.startswith("w")} == {scheme}
    written = onnx.load(tmp_path / "m.reinit.onnx")
    for entry in result.plan.entries:  # what stands in the plan is what is written
        assert entry.gain == 1 and entry.std == pytest.approx(tensor(written, entry.id).std(), rel=1e-5)
    again = onnxinit.reinit(tmp_path / "m.onnx", tmp_path / "again.onnx", plan=result.plan)
    assert again.signal is None
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "m.reinit.onnx").read_bytes()


def test_schemes_go_together() -> None:
    """One walk for all of them: pca sees what lsuv has scaled, and the other way round."""
    feed = correlated(64, 1, 16, 16)
    model, found = learned(build(DEEP, **SHAPES), feed, "lsuv", rules=["w2=pca", "w3=zca:center=false"])
    values = run(model, {"x": feed}, ["a", "c"])
    assert values["a"].std() == pytest.approx(1, abs=1e-5)
    assert_white(np.moveaxis(values["c"], 1, 0).reshape(16, -1))
    assert values["y"].std(axis=0) == pytest.approx(np.ones(10), abs=1e-4)
    assert all(f.status == "set" for f in found.values())

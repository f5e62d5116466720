"""`--tie-equal`: what an exporter wrote twice stays equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from graphs import build
from onnx import numpy_helper

import onnxinit as package

Run = Callable[..., Any]

V, D = 300, 200
# A tied decoder; its exporter folded the transposition into a table of its own.
DECODER = """(int64[n] i) => (float[n,300] y)
    {{ h = Gather(e, i) r = Relu(h) t = MatMul(r, w) s = Relu(t) k = {0} y = MatMul(k, d) }}"""


@pytest.fixture
def table() -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((V, D)).astype(np.float32)


@pytest.fixture
def decoder(tmp_path: Path, table: npt.NDArray[np.float32]) -> Path:
    path = tmp_path / "decoder.onnx"
    turned = np.ascontiguousarray(table.T)
    onnx.save(build(DECODER.format("Tanh(s)"), e=table, w=(D, D), d=turned, check=False), path)
    return path


def arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("scheme", ["he", "orthogonal", "analytic", "lsuv:base=he", "lsuv:per_channel=true", "pca"])
def test_a_transposed_copy_follows_its_table(decoder: Path, tmp_path: Path, scheme: str) -> None:
    result = package.reinit(decoder, tmp_path / "out.onnx", scheme=scheme, seed=2, tie_equal=True)
    assert result.path is not None
    made = arrays(result.path)
    np.testing.assert_array_equal(made["d"], made["e"].T)
    n = made["e"].size
    assert made["e"].std() == pytest.approx(D**-0.5, rel=5 / np.sqrt(2 * n))  # an embedding's, by its role
    session = onnxruntime.InferenceSession(result.path)
    assert np.isfinite(session.run(None, {"i": np.arange(7)})[0]).all()
    untied = arrays(package.reinit(decoder, tmp_path / "untied.onnx", scheme=scheme, seed=2).path or Path())
    np.testing.assert_array_equal(untied["e"], made["e"])
    assert not np.array_equal(untied["d"], untied["e"].T)


@pytest.mark.parametrize("scheme", ["xavier", "orthogonal", "lsuv:base=he,per_channel=true", "match", "shuffle"])
def test_copies_whose_layouts_differ(tmp_path: Path, scheme: str) -> None:
    """One (in, out) for MatMul, two (out, in) for Gemm: the values are those of the first one's layout."""
    w = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    text = """(float[32,60] x) => (float[32,60] y) {
        a = MatMul(x, u) b = Tanh(a) c = Gemm<transB = 1>(b, v) d = Tanh(c) e = Gemm<transB = 1>(d, w) f = Tanh(e)
        y = MatMul(f, t) }"""
    path = tmp_path / "m.onnx"
    turned = np.ascontiguousarray(w.T)
    onnx.save(build(text, check=False, u=w, v=w, w=turned, t=turned), path)
    result = package.reinit(path, tmp_path / "out.onnx", scheme=scheme, seed=2, tie_equal=True)
    assert result.path is not None
    made = arrays(result.path)
    assert not np.array_equal(made["u"], w)
    np.testing.assert_array_equal(made["v"], made["u"])
    np.testing.assert_array_equal(made["w"], made["u"].T)
    np.testing.assert_array_equal(made["t"], made["u"].T)
    if scheme == "orthogonal":
        np.testing.assert_allclose(made["u"].T @ made["u"], np.eye(40), atol=1e-5)
    if scheme.startswith("lsuv"):  # the first use decides, later ones are looked at
        assert result.signal is not None
        assert [f.status for f in result.signal.layers] == ["set", "later use", "later use", "later use"]
    session = onnxruntime.InferenceSession(result.path)
    assert np.isfinite(session.run(None, {"x": np.ones((32, 60), np.float32)})[0]).all()


def test_calibrate_leaves_an_embedding_s_copy_alone(decoder: Path, tmp_path: Path) -> None:
    result = package.reinit(decoder, tmp_path / "out.onnx", scheme="he", calibrate=True, tie_equal=True)
    assert result.path is not None
    made = arrays(result.path)
    np.testing.assert_array_equal(made["d"], made["e"].T)
    assert result.signal is not None
    assert [f.id for f in result.signal.layers] == ["w"]


def test_the_command_and_its_plan(onnxinit: Run, decoder: Path, tmp_path: Path) -> None:
    first, report = tmp_path / "first.onnx", tmp_path / "report.json"
    done = onnxinit("reinit", decoder, "-o", first, "--scheme", "he", "--tie-equal", "--report", report)
    assert (done.status, done.err) == (0, "")
    entry = next(e for e in json.loads(report.read_text())["plan"]["entries"] if e["id"] == "d")
    assert (entry["draws_as"], entry["turned"], entry["shape"]) == ("e", True, [D, V])
    assert json.loads(report.read_text())["plan"]["arguments"]["tie_equal"] is True
    for threads in (1, 2):
        again = tmp_path / f"again{threads}.onnx"
        assert onnxinit("reinit", decoder, "-o", again, "--plan", report, "--threads", threads).status == 0
        assert again.read_bytes() == first.read_bytes()
    found = json.loads(onnxinit("inspect", decoder, "--json", "--tie-equal").out)
    assert {w["id"]: w["tied_to"] for w in found["weights"]} == {"e": ["d"], "w": [], "d": ["e"]}


def test_a_turned_entry_that_does_not_fit(decoder: Path, tmp_path: Path) -> None:
    plan = package.reinit(decoder, dry_run=True, tie_equal=True).plan
    data = plan.to_json()
    data["entries"] = [{**e, "draws_as": "w"} if e["id"] == "d" else e for e in data["entries"]]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(
        package.SchemeError, match=r"the plan has 'd' hold 'w' transposed, which does not fit the weight"
    ):
        package.reinit(decoder, dry_run=True, plan=tmp_path / "plan.json")


def test_missing_data_is_an_error_and_a_plan_needs_none(onnxinit: Run, decoder: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(onnx.load(decoder), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    report = tmp_path / "report.json"
    assert onnxinit("reinit", path, "-o", out, "--scheme", "he", "--tie-equal", "--report", report).status == 0
    made = arrays(out)
    np.testing.assert_array_equal(made["d"], made["e"].T)
    (tmp_path / "m.bin").unlink()
    for command in (["inspect", path, "--tie-equal"], ["reinit", path, "-o", tmp_path / "no.onnx", "--tie-equal"]):
        done = onnxinit(*command)
        assert (done.status, done.out) == (1, "")
        assert "has no values, which tying equal weights compares: put the external data beside the model" in done.err
    assert not (tmp_path / "no.onnx").exists()
    again = tmp_path / "again.onnx"
    assert onnxinit("reinit", path, "-o", again, "--plan", report).status == 0
    assert all(np.array_equal(a, made[name]) for name, a in arrays(again).items())


def test_rules_and_patterns_go_by_the_group(decoder: Path, tmp_path: Path) -> None:
    kept = package.reinit(decoder, dry_run=True, tie_equal=True, exclude="d")
    assert [e.id for e in kept.plan.entries] == ["w"]
    ruled = package.reinit(decoder, tmp_path / "out.onnx", tie_equal=True, rules="d=normal:std=3")
    made = arrays(ruled.path or Path())
    assert made["e"].std() == pytest.approx(3, rel=5 / np.sqrt(2 * V * D))
    np.testing.assert_array_equal(made["d"], made["e"].T)


@pytest.mark.parametrize("copy_first", [False, True])
def test_what_follows_from_a_weight_follows_it_still(tmp_path: Path, copy_first: bool) -> None:
    """A standardised kernel that the exporter stored twice, once for its statistics."""
    kernel = np.random.default_rng(0).standard_normal((1, 20, 108)).astype(np.float32)
    text = """(float[n,12,9,9] x) => (float[n,20,7,7] y) {
        mean = ReduceMean<axes = [0, 2], keepdims = 0>(copy) wide = ReduceMean<axes = [0, 2]>(copy)
        c = Sub(copy, wide) q = Mul(c, c) var = ReduceMean<axes = [0, 2], keepdims = 0>(q)
        z = BatchNormalization(v, g, zero, mean, var) k = Reshape(z, dims) y = Conv(x, k) }"""
    model = build(
        text, check=False, g=np.full(20, 0.7, np.float32), zero=np.zeros(20, np.float32), dims=np.array([20, 12, 3, 3])
    )
    twice = ("copy", "v") if copy_first else ("v", "copy")
    model.graph.initializer.extend(numpy_helper.from_array(kernel, name) for name in twice)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    plain = package.reinit(path, tmp_path / "plain.onnx", scheme="he")
    assert next(w for w in plain.weights if w.id == "copy").follows == ("v",)
    result = package.reinit(path, tmp_path / "tied.onnx", scheme="he", tie_equal=True)
    made = arrays(result.path or Path())
    np.testing.assert_array_equal(made["copy"], made["v"])
    np.testing.assert_array_equal(made["v"], arrays(plain.path or Path())["v"])


def test_weight_norms_that_are_stored_twice(tmp_path: Path) -> None:
    v = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    g = np.random.default_rng(1).uniform(1, 2, (1, 40)).astype(np.float32)
    text = """(float[n,60] x) => (y) {
        a1 = ReduceL2<axes = [0]>(v1) b1 = Div(v1, a1) w1 = Mul(b1, g1) h = MatMul(x, w1) r = Relu(h)
        a2 = ReduceL2<axes = [0]>(v2) b2 = Div(v2, a2) w2 = Mul(b2, g2) z = MatMul(x, w2) y = Add(r, z) }"""
    path = tmp_path / "m.onnx"
    onnx.save(build(text, check=False, v1=v, g1=g, v2=v, g2=g), path)
    made = arrays(package.reinit(path, tmp_path / "out.onnx", scheme="he", tie_equal=True).path or Path())
    np.testing.assert_array_equal(made["v1"], made["v2"])
    np.testing.assert_array_equal(made["g1"], made["g2"])
    np.testing.assert_allclose(made["g1"][0], np.linalg.norm(made["v1"], axis=0), rtol=1e-5)

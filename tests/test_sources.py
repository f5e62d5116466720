"""Values that are taken from a tensor, the one that is replaced or one of a donor: whole models, from the surface."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

import onnxinit
from onnxinit.errors import ModelError, SchemeError
from onnxinit.plan import Plan
from onnxinit.sampling import CHUNK

Array = npt.NDArray[Any]
MODELS = Path(__file__).parent.parent / "models"
RESNET, LSTM, TRANSFORMER, INT8 = (
    MODELS / f"{n}.onnx" for n in ("resnet_bn", "bilstm_tagger", "transformer", "cnn_int8")
)
DTYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}


def arrays(model: onnx.ModelProto | Path | None) -> dict[str, Array]:
    proto = onnx.load(model) if isinstance(model, Path) else model
    assert proto is not None
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def perceptron(prefix: str, *tensors: Array) -> onnx.ModelProto:
    """MatMul after MatMul, a Relu between them, with the tensors as their weights."""
    kind = helper.np_dtype_to_tensor_dtype(tensors[0].dtype)
    nodes, at = [], "x"
    for i in range(len(tensors)):
        nodes.append(helper.make_node("MatMul", [at, f"{prefix}{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
        at = f"r{i}"
    io = [
        helper.make_tensor_value_info(n, kind, ["n", w])
        for n, w in (("x", len(tensors[0])), (at, tensors[-1].shape[1]))
    ]
    held = [numpy_helper.from_array(t, f"{prefix}{i}") for i, t in enumerate(tensors)]
    return helper.make_model(
        helper.make_graph(nodes, "g", io[:1], io[1:], held), opset_imports=[helper.make_opsetid("", 18)]
    )


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    values: Array = np.random.default_rng(seed).normal(0.1, 0.3, shape).astype(dtype)
    return values


def saved(model: onnx.ModelProto, path: Path, **options: Any) -> Path:
    onnx.save(model, path, **options)
    return path


def bits(values: Array) -> list[bytes]:
    size = values.itemsize
    raw = values.tobytes()
    return sorted(raw[i : i + size] for i in range(0, len(raw), size))


# ---------------------------------------------------------------- shuffle


@pytest.mark.parametrize("kind", DTYPES)
def test_shuffled_values_keep_their_bits(kind: int) -> None:
    old = normal(40, 30, dtype=DTYPES[kind])
    old[3, 4], old[5, 6] = np.nan, np.inf
    new = arrays(onnxinit.reinit(perceptron("w", old), scheme="shuffle").model)["w0"]
    assert new.dtype == old.dtype and bits(new) == bits(old)
    assert np.mean(new.astype(float) == old.astype(float)) < 0.05
    other = arrays(onnxinit.reinit(perceptron("w", old), scheme="shuffle", seed=1).model)["w0"]
    assert other.tobytes() != new.tobytes()


def test_kernels_of_all_kinds_are_shuffled_and_the_rest_is_reset(tmp_path: Path) -> None:
    result = onnxinit.reinit(LSTM, tmp_path / "m.onnx", scheme="shuffle")
    schemes = {e.id: str(e.scheme) for e in result.plan.entries}
    assert [i for i, s in schemes.items() if s == "shuffle"] == [
        w.id for w in result.weights if w.role in ("embedding", "input_weight", "recurrent_weight", "weight")
    ]
    assert schemes["lstm.B"] == "forget_bias" and schemes["tags.bias"] == "zeros"
    old, new = arrays(LSTM), arrays(tmp_path / "m.onnx")
    assert bits(new["lstm.R"]) == bits(old["lstm.R"])
    onnxinit.reinit(LSTM, tmp_path / "b.onnx", rules=["*=shuffle:within=block"])
    new = arrays(tmp_path / "b.onnx")
    for name, gates in (("lstm.W", 4), ("lstm.R", 4), ("lstm.B", 8)):
        a, b = (x[name].reshape(2, gates, -1) for x in (old, new))
        for place in np.ndindex(2, gates):
            assert bits(a[place]) == bits(b[place])
        assert not np.array_equal(a, b)


def test_threads_and_places_do_not_matter(tmp_path: Path) -> None:
    model = perceptron("w", normal(600, 1000), normal(1000, 300))
    inside, outside = saved(model, tmp_path / "a.onnx"), tmp_path / "b.onnx"
    saved(model, outside, save_as_external_data=True, location="b.data", size_threshold=0)
    for scheme in ("shuffle", "match"):
        wanted = arrays(onnxinit.reinit(perceptron("w", normal(600, 1000), normal(1000, 300)), scheme=scheme).model)
        assert wanted["w0"].size > 2 * CHUNK
        onnxinit.reinit(inside, tmp_path / "c.onnx", scheme=scheme, threads=4, include="w0", force=True)
        assert arrays(tmp_path / "c.onnx")["w0"].tobytes() == wanted["w0"].tobytes()
        onnxinit.reinit(outside, tmp_path / "d.onnx", scheme=scheme, threads=1, force=True)
        assert {k: v.tobytes() for k, v in arrays(tmp_path / "d.onnx").items()} == {
            k: v.tobytes() for k, v in wanted.items()
        }
    onnxinit.reinit(outside, scheme="match", in_place=True)
    assert arrays(outside)["w1"].tobytes() == wanted["w1"].tobytes()


def test_codes_are_shuffled_and_their_scales_stay(tmp_path: Path) -> None:
    result = onnxinit.reinit(INT8, tmp_path / "m.onnx", scheme="shuffle", rules=["role:bias=shuffle"])
    old, new = arrays(INT8), arrays(tmp_path / "m.onnx")
    moved = {e.id for e in result.plan.entries}
    assert {"conv1.weight_quantized", "conv1.bias_quantized"} <= moved
    for name, values in old.items():
        assert bits(values) == bits(new[name])
        assert np.array_equal(values, new[name]) == (name not in moved)
    assert not result.warnings
    reasons = {left.id: left.reason for left in result.kept}
    assert reasons["conv1.weight_scale"] == "a scale or zero point of values that are moved as they are"


def int4() -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float[n,6] x) => (float[n,5] y) {
          w = DequantizeLinear<axis = 1>(codes, scale) y = MatMul(x, w)
        }"""
    )
    codes = np.random.default_rng(0).integers(-7, 8, 30)
    model.graph.initializer.append(helper.make_tensor("codes", TensorProto.INT4, [6, 5], codes))
    model.graph.initializer.append(numpy_helper.from_array(np.linspace(0.1, 0.5, 5, dtype=np.float32), "scale"))
    return model


def test_codes_of_four_bits_are_shuffled() -> None:
    old, new = arrays(int4()), arrays(onnxinit.reinit(int4(), scheme="shuffle").model)
    assert sorted(old["codes"].astype(int).ravel()) == sorted(new["codes"].astype(int).ravel())
    assert old["codes"].astype(int).tolist() != new["codes"].astype(int).tolist()
    assert np.array_equal(old["scale"], new["scale"])


def test_a_gain_scales_what_is_shuffled() -> None:
    model = perceptron("w", normal(30, 20))
    plan = onnxinit.reinit(model, scheme="shuffle", dry_run=True).plan
    plain = arrays(onnxinit.reinit(model, plan=plan).model)["w0"]
    doubled = replace(plan, entries=tuple(replace(e, gain=2.0) for e in plan.entries))
    assert np.array_equal(arrays(onnxinit.reinit(model, plan=doubled).model)["w0"], 2 * plain)


# ---------------------------------------------------------------- match


@pytest.mark.parametrize("kind", DTYPES)
def test_matched_tensors_have_mean_std_and_zeros(kind: int) -> None:
    rng = np.random.default_rng(5)
    old = rng.uniform(-0.5, 0.9, (700, 500)).astype(DTYPES[kind])
    for row in old.reshape(-1, 4):  # two of four
        row[rng.permutation(4)[:2]] = 0
    new = arrays(onnxinit.reinit(perceptron("w", old), scheme="match").model)["w0"]
    assert new.dtype == old.dtype and np.array_equal(new == 0, old == 0)
    a, b = old[old != 0].astype(np.float64), new[new != 0].astype(np.float64)
    assert abs(b.mean() - a.mean()) < 5 * a.std() / b.size**0.5
    assert abs(b.std() - a.std()) < 5 * a.std() / (2 * b.size) ** 0.5
    if kind != TensorProto.BFLOAT16:  # whose steps a KS test sees
        assert stats.kstest(b, stats.norm(a.mean(), a.std()).cdf).pvalue > 1e-6
    assert b.max() > a.max() and b.min() < a.min()  # the old bounds leave no trace


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("value", [0.1, -3.0, 0.0])
def test_a_constant_tensor_stays_what_it_is(kind: int, value: float) -> None:
    old = np.full((60, 5000), value, DTYPES[kind])
    new = arrays(onnxinit.reinit(perceptron("w", old), scheme="match").model)["w0"]
    assert new.tobytes() == old.tobytes()


@pytest.mark.parametrize("path", [INT8, None], ids=["int8", "int4"])
def test_matched_quantised_weights(path: Path | None) -> None:
    model = onnx.load(path) if path else int4()
    name, scale = ("conv3.weight_quantized", "conv3.weight_scale") if path else ("codes", "scale")
    fresh = onnxinit.reinit(model, scheme="match").model

    def real(given: onnx.ModelProto | None) -> Array:
        held = arrays(given)
        s = held[scale].astype(np.float64)
        return held[name].astype(np.float64) * (s.reshape(-1, 1, 1, 1) if path else s)

    old, new = real(model), real(fresh)
    assert not (new[old == 0]).any()
    a, b = old[old != 0], new[old != 0]
    step = 0.5 * abs(b).max() / (127 if path else 7)  # the rounding to codes
    assert abs(b.mean() - a.mean()) < 5 * a.std() / b.size**0.5 + step
    assert abs(b.std() - a.std()) < 5 * a.std() / (2 * b.size) ** 0.5 + step


def test_a_variance_is_never_negative(tmp_path: Path) -> None:
    result = onnxinit.reinit(RESNET, tmp_path / "m.onnx", rules=["*=match"])
    entries = {e.id: e for e in result.plan.entries}
    assert str(entries["stem.bn.running_var"].scheme) == "shuffle"
    assert entries["stem.bn.running_var"].why.endswith("; shuffle in its place, since a variance is never negative")
    assert str(entries["stem.bn.running_mean"].scheme) == "match"
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    shape = [n if isinstance(n, int) else 2 for n in session.get_inputs()[0].shape]
    (out,) = session.run(None, {session.get_inputs()[0].name: np.ones(shape, np.float32)})
    assert np.isfinite(np.asarray(out)).all()


def test_what_is_not_finite_cannot_be_matched() -> None:
    old = normal(4, 4)
    old[1, 1] = np.nan
    message = r"the weight 'w0' \(MatMul, float\[4, 4\]\) cannot be drawn by match: not all of its values are finite"
    with pytest.raises(SchemeError, match=message):
        onnxinit.reinit(perceptron("w", old), scheme="match")


@pytest.mark.parametrize("scheme", ["shuffle", "match"])
def test_values_that_are_not_there(scheme: str, tmp_path: Path) -> None:
    model = perceptron("w", normal(40, 40))
    saved(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    with pytest.raises(
        ModelError, match=r"'w0' .*: its external data 'm.data' is missing or incomplete: .*; put it there$"
    ):
        onnxinit.reinit(tmp_path / "m.onnx", scheme=scheme)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


# ---------------------------------------------------------------- donor


def taken(old: Array, shape: Sequence[int]) -> Array:
    """Evenly spaced units of every axis, place by place."""
    new = np.empty(shape, old.dtype)
    for place in np.ndindex(*shape):
        new[place] = old[tuple(i * t // s for i, t, s in zip(place, old.shape, shape, strict=True))]
    return new


@pytest.mark.parametrize("model", [RESNET, LSTM, TRANSFORMER], ids=lambda p: p.stem)
def test_a_model_gets_all_of_itself_back(model: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank.onnx"
    onnxinit.reinit(model, blank, seed=3, metadata=False)
    result = onnxinit.reinit(blank, tmp_path / "m.onnx", scheme=f"donor:path={model}", metadata=False)
    assert (tmp_path / "m.onnx").read_bytes() == model.read_bytes()
    assert {e.why.partition(" of ")[2] for e in result.plan.entries} == {f"{model}, matched by id"}


def test_a_larger_donor_is_subsampled(tmp_path: Path) -> None:
    big = [normal(10, 64), normal(64, 96, seed=1), normal(96, 7, seed=2)]
    donor = saved(perceptron("theirs", *big), tmp_path / "big.onnx")
    small = perceptron("ours", normal(10, 24), normal(24, 36), normal(36, 7))
    result = onnxinit.reinit(small, scheme=f"donor:path={donor}")
    new = arrays(result.model)
    for i, old in enumerate(big):
        assert np.array_equal(new[f"ours{i}"], taken(old, new[f"ours{i}"].shape))
    assert [e.why for e in result.plan.entries][1] == (
        f"the scheme, donor: from 'theirs1' [64, 96] of {donor}, matched by position, evenly subsampled"
    )
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    again = onnxinit.reinit(small, plan=plan).model
    assert {k: v.tobytes() for k, v in arrays(again).items()} == {k: v.tobytes() for k, v in new.items()}


def test_gates_are_subsampled_one_by_one(tmp_path: Path) -> None:
    def lstm(hidden: int, inputs: int) -> onnx.ModelProto:
        text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[4,1,{inputs}] x) => (float[4,1,1,{hidden}] y) {{
            y, h, c = LSTM<hidden_size = {hidden}>(x, W, R, B)
        }}"""
        model = onnx.parser.parse_model(text)
        for name, shape in {"W": (1, 4 * hidden, inputs), "R": (1, 4 * hidden, hidden), "B": (1, 8 * hidden)}.items():
            model.graph.initializer.append(numpy_helper.from_array(normal(*shape, seed=len(name)), name))
        return model

    donor = saved(lstm(10, 7), tmp_path / "big.onnx")
    new, old = arrays(onnxinit.reinit(lstm(4, 3), scheme=f"donor:path={donor}").model), arrays(donor)
    for name, rest in (("W", [3]), ("R", [4]), ("B", [])):
        gates = 8 if name == "B" else 4
        theirs = old[name].reshape(gates, 10, *old[name].shape[2:])
        ours = new[name].reshape(gates, 4, *rest)
        for gate in range(gates):
            assert np.array_equal(ours[gate], taken(theirs[gate], ours[gate].shape))


def nearest(values: Array, dtype: Any) -> Array:
    """Each float64 to the nearest value of a 16-bit type, ties to even, by distances that float64 holds exactly."""
    guess = values.astype(np.float32).astype(dtype)
    around = (guess.view(np.uint16).astype(np.int32)[:, None] + np.array([-1, 0, 1])).astype(np.uint16).view(dtype)
    apart = np.abs(around.astype(np.float64) - values[:, None])
    even = around.view(np.uint16) % 2 == 0
    best = np.lexsort((~even, apart), axis=1)[:, 0]
    found: Array = around[np.arange(len(values)), best]
    return found


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_values_of_another_type_are_rounded_once(dtype: Any, tmp_path: Path) -> None:
    grid = np.arange(1.0, 2.0, 2**-7 if dtype is not np.float16 else 2**-10)
    tie = grid + np.diff(grid)[0] / 2
    old = np.concatenate([tie * (1 + s * 2.0**-40) for s in (-1, 0, 1)] + [normal(1000, dtype=np.float64)])
    donor = saved(perceptron("w", old[:, None]), tmp_path / "d.onnx")
    model = perceptron("w", np.zeros((len(old), 1), dtype))
    new = arrays(onnxinit.reinit(model, scheme=f"donor:path={donor}").model)["w0"]
    assert new.tobytes() == nearest(old, dtype).tobytes()
    assert new.tobytes() != old.astype(np.float32).astype(dtype).tobytes()


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_types_are_converted(kind: int, other: int, tmp_path: Path) -> None:
    old = normal(20, 30, dtype=DTYPES[other])
    donor = saved(perceptron("w", old), tmp_path / "d.onnx")
    new = arrays(onnxinit.reinit(perceptron("w", np.zeros((20, 30), DTYPES[kind])), scheme=f"donor:path={donor}").model)
    exact = (
        2.0 ** -{TensorProto.FLOAT: 24, TensorProto.DOUBLE: 53, TensorProto.FLOAT16: 11, TensorProto.BFLOAT16: 8}[kind]
    )
    assert new["w0"].dtype == DTYPES[kind]
    assert np.allclose(new["w0"].astype(np.float64), old.astype(np.float64), rtol=exact, atol=1e-7)


def test_a_value_that_the_type_cannot_hold(tmp_path: Path) -> None:
    donor = saved(perceptron("w", np.full((4, 4), 1e5)), tmp_path / "d.onnx")
    with pytest.raises(ModelError, match=r"'w0' \(MatMul, float16\[4, 4\]\) cannot hold the 100000 that donor:"):
        onnxinit.reinit(perceptron("w", normal(4, 4, dtype=np.float16)), scheme=f"donor:path={donor}")


def test_quantised_models_give_and_get_real_values(tmp_path: Path) -> None:
    float_model = MODELS / "cnn_int8.onnx"
    held = arrays(float_model)
    real = held["conv2.weight_quantized"].astype(np.float32) * held["conv2.weight_scale"].reshape(-1, 1, 1, 1)
    donor = saved(_conv(real), tmp_path / "float.onnx")
    new = arrays(
        onnxinit.reinit(_conv(np.zeros_like(real)), rules=[f"w=donor:path={INT8},weight=conv2.weight_quantized"]).model
    )
    assert np.array_equal(new["w"], real)
    out = tmp_path / "q.onnx"
    onnxinit.reinit(INT8, out, include="conv2.weight_*", rules=[f"conv2.weight_quantized=donor:path={donor},weight=w"])
    held = arrays(out)
    back = held["conv2.weight_quantized"].astype(np.float64) * held["conv2.weight_scale"].reshape(-1, 1, 1, 1)
    assert (np.abs(back - real) <= held["conv2.weight_scale"].reshape(-1, 1, 1, 1) * 0.5001).all()


def _conv(kernel: Array) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,{kernel.shape[1]},9,9] x) => (float[1,m,h,v] y) {{
          y = Conv(x, w)
        }}"""
    )
    model.graph.initializer.append(numpy_helper.from_array(kernel.astype(np.float32), "w"))
    return model


def test_what_finds_no_donor_gets_something_else(tmp_path: Path) -> None:
    donor = saved(perceptron("w", normal(10, 8)), tmp_path / "d.onnx")
    model = perceptron("w", normal(10, 8), normal(8, 6), normal(6, 20))
    donated = f"donor:path={donor}"
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"scheme": donated}, "he", "auto: keeps the variance after relu in a network without norms"),
        ({"scheme": "lecun", "rules": f"*={donated}"}, "lecun", "the scheme for kernels, lecun"),
        ({"scheme": f"{donated},fallback=ones"}, "ones", "the scheme for kernels, ones"),
        (
            {"rules": f'*={donated},fallback="normal:mean=1,std=2"'},
            "normal:mean=1,std=2",
            "the fallback normal:mean=1,std=2",
        ),
        ({"rules": f"*={donated},fallback=shuffle"}, "shuffle", "the fallback shuffle"),
    ]
    for options, scheme, why in cases:
        result = onnxinit.reinit(model, **options, dry_run=True)
        entries = result.plan.entries
        assert str(entries[0].scheme) == f"{donated},weight=w0"
        assert {(str(e.scheme), e.why) for e in entries[1:]} == {(scheme, f"no donor in {donor}; {why}")}
        assert "2 weights have no donor, and a scheme draws in its place: w1, w2" in result.warnings
    norms = onnxinit.reinit(RESNET, scheme=f"{donated},fallback=he", dry_run=True).plan.entries
    assert {(e.role, e.scheme.name) for e in norms} == {
        *(("weight", "he"), ("norm_scale", "ones"), ("norm_shift", "zeros")),
        *(("running_mean", "zeros"), ("running_var", "ones"), ("bias", "zeros")),
    }
    kept = onnxinit.reinit(model, scheme=f"donor:path={donor},fallback=keep", dry_run=True)
    assert [left.id for left in kept.kept] == ["w1", "w2"]
    chain = saved(perceptron("v", normal(8, 6)), tmp_path / "e.onnx")
    result = onnxinit.reinit(model, scheme=f'donor:path={donor},fallback="donor:path={chain}"', dry_run=True)
    assert [str(e.scheme) for e in result.plan.entries[:2]] == [
        f"donor:path={donor},weight=w0",
        f"donor:path={chain},weight=v0",
    ]


def test_a_smaller_donor_is_repeated_on_request_only(tmp_path: Path) -> None:
    old = normal(5, 4)
    donor, model = saved(perceptron("w", old), tmp_path / "d.onnx"), perceptron("w", normal(8, 10))
    plain = onnxinit.reinit(model, scheme=f"donor:path={donor}", dry_run=True)
    assert plain.plan.entries[0].why.startswith(f"no donor in {donor}: 'w0' is smaller; ")
    result = onnxinit.reinit(model, scheme=f"donor:path={donor},tile=true")
    assert result.plan.entries[0].why.endswith(", matched by id, repeated")
    new = arrays(result.model)["w0"]
    assert all(new[i, j] == old[i % 5, j % 4] for i, j in np.ndindex(8, 10))


def test_donors_with_external_data_and_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / 'a, "b"=he'
    folder.mkdir()
    old = normal(40, 30)
    donor = saved(
        perceptron("w", old), folder / "d.onnx", save_as_external_data=True, location="d.data", size_threshold=0
    )
    spec = str(onnxinit.Spec.of("donor", {"path": str(donor)}))
    result = onnxinit.reinit(perceptron("w", normal(40, 30, seed=1)), rules=[f"w*={spec}"])
    assert np.array_equal(arrays(result.model)["w0"], old)
    (folder / "d.data").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"^the donor .*'w0' .* has no values: put the external data beside the donor"):
        onnxinit.reinit(perceptron("w", normal(40, 30)), scheme=spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("donor:path={here}/none.onnx", "^the donor .*/none.onnx: there is no such file$"),
        ("donor:path={here}", "^the donor .*: is a folder; give the .onnx file in it$"),
        ("donor:path={here}/damaged.onnx", "^the donor .*/damaged.onnx: "),
        ("donor:path={here}/d.onnx,weight=v", r"^the weight 'w0' \(MatMul, float\[8, 8\]\) cannot be drawn by .*: it "
         "names 'v', which .*/d.onnx lacks; `onnxinit inspect .*/d.onnx` lists its weights$"),
        ("donor:path={here}/d.onnx,weight=w0", r"^the weight 'w0' .*: the weight 'w0' \(MatMul, float\[4, 4\]\) of "
         ".*/d.onnx is smaller; tile=true repeats it$"),
    ],
)  # fmt: skip
def test_donors_that_cannot_be(spec: str, message: str, tmp_path: Path) -> None:
    saved(perceptron("w", normal(4, 4)), tmp_path / "d.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x08\x3a\xff\xff")
    with pytest.raises(onnxinit.OnnxinitError, match=message) as raised:
        onnxinit.reinit(perceptron("w", normal(8, 8)), scheme=spec.format(here=tmp_path))
    assert "\n" not in str(raised.value)


def test_a_plan_that_names_no_weight_of_the_donor(tmp_path: Path) -> None:
    donor, model = saved(perceptron("w", normal(8, 8)), tmp_path / "d.onnx"), perceptron("w", normal(8, 8))
    plan = onnxinit.reinit(model, scheme=f"donor:path={donor}", dry_run=True).plan
    blank = replace(plan, entries=(replace(plan.entries[0], scheme=onnxinit.parse_spec(f"donor:path={donor}")),))
    with pytest.raises(
        SchemeError, match=r"cannot be drawn by donor:path=.*: it names no weight of the donor; `onnxinit"
    ):
        onnxinit.reinit(model, plan=blank)


def test_a_large_tensor_is_shuffled_through_and_through() -> None:
    old = np.arange(3 * CHUNK, dtype=np.float32).reshape(3, CHUNK)
    new = arrays(onnxinit.reinit(perceptron("w", old), scheme="shuffle").model)["w0"]
    assert np.array_equal(np.sort(new.ravel()), old.ravel())
    tie = stats.spearmanr(new.ravel(), old.ravel()).statistic
    assert abs(tie) < 5 / math.sqrt(old.size)

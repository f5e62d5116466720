from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handmade import RELU, analysis, conv, gemm, lstm, weight
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.analysis.weight import Analysis, Kept
from onnxinit.errors import SchemeError
from onnxinit.plan import Entry, Plan, Vector, fit_plan, make_plan
from onnxinit.schemes import SCHEMES, Spec

MODEL = analysis(
    conv("conv", downstream=(RELU,)),
    weight("conv.bias", "bias", (8,)),
    gemm("fc"),
    *lstm("lstm"),
    kept=[Kept("shape", "shape", "", (2,), "int64", "int64: shapes", "")],
)
PLAN = make_plan(MODEL, scheme="he:mode=fan_out", seed=3, rules=["fc=sparse:nonzeros=4"], exclude="lstm.W")


def through_json(plan: Plan) -> Plan:
    return Plan.from_json(json.loads(json.dumps(plan.to_json())))


def changed(**fields: Any) -> Plan:
    """The plan with fields of its first entry changed."""
    return replace(PLAN, entries=(replace(PLAN.entries[0], **fields), *PLAN.entries[1:]))


gains = st.floats(0, 1e300, allow_nan=False) | st.builds(
    Vector, st.integers(0, 3), st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple)
)
specs = st.sampled_from(sorted(SCHEMES.keys() - {"donor"})).map(Spec.of) | st.builds(
    lambda std, low: Spec.of("truncated_normal", {"std": std, "low": low}), st.floats(0, 1e3), st.floats(-9, 1)
)
specs |= st.builds(lambda path, ident: Spec.of("donor", {"path": path, "weight": ident}), *[st.text(min_size=1)] * 2)
plans = st.builds(
    Plan,
    st.integers(0, 2**64 - 1),
    st.just(1),
    st.lists(
        st.builds(
            Entry,
            id=st.text(),
            role=st.text(),
            shape=st.lists(st.integers(0, 9)).map(tuple),
            dtype=st.just("float"),
            scheme=specs,
            gain=gains,
            std=st.none() | st.floats(0, 1),
            draws_as=st.text(),
            exact=st.sampled_from(["bytes", "1e-6"]),
            why=st.text(),
        )
    ).map(tuple),
)


@given(plans)
def test_a_plan_goes_through_json_unchanged(plan: Plan) -> None:
    again = through_json(plan)
    assert again == plan
    assert again.digest() == plan.digest()


def test_the_json_is_laid_out_as_documented() -> None:
    data = PLAN.to_json()
    assert list(data) == ["format", "seed", "stream", "digest", "arguments", "entries", "kept", "warnings"]
    assert (data["format"], data["seed"], data["stream"]) == ("onnxinit.plan/1", 3, 1)
    assert data["entries"][0] == {
        "id": "conv",
        "role": "weight",
        "shape": [8, 4, 3, 3],
        "dtype": "float",
        "scheme": "he:mode=fan_out",
        "gain": 2**0.5,
        "std": pytest.approx((2 / 72) ** 0.5),
        "exact": "bytes",
        "why": "the scheme for kernels, he:mode=fan_out",
    }
    assert data["kept"] == [
        {"id": "lstm.W", "reason": "--exclude lstm.W"},
        {"id": "shape", "reason": "int64: shapes"},
    ]
    assert changed(gain=Vector(0, (1.0, 2.0))).to_json()["entries"][0]["gain"] == {"axis": 0, "values": [1.0, 2.0]}
    assert changed(draws_as="other").to_json()["entries"][0]["draws_as"] == "other"


def test_the_digest_follows_what_determines_the_values() -> None:
    others = [
        replace(PLAN, seed=4),
        replace(PLAN, stream=2),
        replace(PLAN, entries=PLAN.entries[1:]),
        changed(id="x"),
        changed(shape=(8, 4, 9)),
        changed(dtype="double"),
        changed(scheme=Spec.of("lecun")),
        changed(gain=1.0),
        changed(gain=Vector(0, (1.0,) * 8)),
        changed(gain=Vector(1, (1.0,) * 8)),
        changed(draws_as="x"),
    ]
    assert len({p.digest() for p in [PLAN, *others]}) == len(others) + 1
    same = [replace(PLAN, kept=(), warnings=("w",)), changed(why="x", std=None)]
    assert {p.digest() for p in same} == {PLAN.digest()}


def test_a_plan_fits_the_model_that_it_was_made_for() -> None:
    assert fit_plan(through_json(PLAN), MODEL) == PLAN


def test_a_plan_is_read_from_a_file_and_from_a_report(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN.to_json()))
    assert Plan.load(path) == PLAN
    path.write_text(json.dumps({"format": "onnxinit.report/1", "plan": PLAN.to_json(), "written": []}))
    assert Plan.load(path) == PLAN


def test_a_plan_may_be_changed_by_hand() -> None:
    data = PLAN.to_json()
    data["entries"][0] |= {"scheme": "orthogonal", "gain": 2}
    del data["entries"][1]
    plan = fit_plan(Plan.from_json(data), MODEL)
    assert (str(plan.entries[0].scheme), plan.entries[0].gain) == ("orthogonal", 2)
    assert (plan.entries[0].std, plan.entries[0].exact) == (pytest.approx(2 / 6), "1e-6")
    assert plan.kept[0].id == "conv.bias"
    assert plan.kept[0].reason == "the plan does not name it"
    assert plan.digest() != PLAN.digest()


def test_a_plan_serves_the_model_in_another_type_and_order() -> None:
    half = analysis(*(replace(w, dtype="float16") for w in reversed(MODEL.weights)))
    plan = fit_plan(PLAN, half)
    assert {e.dtype for e in plan.entries} == {"float16"}
    assert [e.id for e in plan.entries] == [e.id for e in reversed(PLAN.entries)]
    assert [left.id for left in plan.kept] == ["lstm.W"]


def without(*idents: str) -> Analysis:
    return analysis(*(w for w in MODEL.weights if w.id not in idents))


@pytest.mark.parametrize(
    ("plan", "model", "message"),
    [
        (PLAN, without("fc"), "the plan names 'fc', which the model lacks: make a plan for this model"),
        (
            PLAN,
            analysis(*without("fc").weights, gemm("fc", 16, 9)),
            "the plan has 'fc' with the shape [16, 8], where the model has the weight 'fc' (Gemm, float[16, 9]): "
            "make a plan for this model",
        ),
        (
            replace(PLAN, stream=9),
            MODEL,
            "the plan is for random streams of version 9 and this package draws version 1: "
            "use the version of onnxinit that made the plan",
        ),
        (
            changed(gain=Vector(1, (1.0,) * 8)),
            MODEL,
            "the plan's gain of 'conv' has 8 values for axis 1, which does not fit the weight 'conv' "
            "(Conv, float[8, 4, 3, 3])",
        ),
        (
            changed(gain=Vector(4, (1.0,))),
            MODEL,
            "the plan's gain of 'conv' has 1 values for axis 4, which does not fit the weight 'conv' "
            "(Conv, float[8, 4, 3, 3])",
        ),
        (changed(gain=float("nan")), MODEL, "the plan's gain of 'conv' must be finite and at least 0"),
        (
            changed(gain=Vector(1, (1.0, -1.0, 1.0, 1.0))),
            MODEL,
            "the plan's gain of 'conv' must be finite and at least 0",
        ),
        (changed(scheme=Spec.of("auto")), MODEL, "the plan's scheme of 'conv' is auto: a plan names what draws it"),
    ],
)
def test_a_plan_that_does_not_fit(plan: Plan, model: Analysis, message: str) -> None:
    with pytest.raises(SchemeError) as raised:
        fit_plan(plan, model)
    assert str(raised.value) == message


def broken(change: Any) -> Any:
    data = copy.deepcopy(PLAN.to_json())
    change(data)
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "this is no plan of the format onnxinit.plan/1: give a file that --report wrote"),
        ({"plan": None}, "this is no plan of the format onnxinit.plan/1: give a file that --report wrote"),
        (
            {"format": "onnxinit.plan/2"},
            "this is no plan of the format onnxinit.plan/1: give a file that --report wrote",
        ),
        (broken(lambda d: d.pop("seed")), "an incomplete plan: it lacks 'seed'"),
        (broken(lambda d: d["entries"][1].pop("gain")), "an incomplete plan: it lacks 'gain'"),
        (broken(lambda d: d.update(entries=None)), "a damaged plan: 'NoneType' object is not iterable"),
        (broken(lambda d: d["entries"][0].update(shape="ab")), "a damaged plan: invalid literal for int"),
        (broken(lambda d: d["entries"][0].update(scheme=3)), "a damaged plan: 'int' object has no attribute 'strip'"),
        (broken(lambda d: d["entries"][0].update(scheme="hee")), "there is no scheme named 'hee'"),
    ],
)
def test_what_is_no_plan(data: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(SchemeError) as raised:
        Plan.load(path)
    assert str(raised.value).startswith(f"the plan {path}: {message}")
    assert "\n" not in str(raised.value)


def test_a_plan_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r"^the plan .*none.json cannot be read: No such file or directory$"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(SchemeError, match=r"^the plan .* cannot be read: Is a directory$"):
        Plan.load(tmp_path)
    (tmp_path / "text").write_bytes(b"\xff\xfenothing")
    with pytest.raises(SchemeError, match=r"^the plan .*text is not JSON \(.*\): give a file that --report wrote$"):
        Plan.load(tmp_path / "text")

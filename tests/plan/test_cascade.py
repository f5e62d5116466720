"""`--cascade`: the top layers alone, from the output down."""

from __future__ import annotations

from dataclasses import replace

import pytest
from handmade import analysis, conv, gemm, weight

from onnxinit.errors import SchemeError
from onnxinit.plan import make_plan

MODEL = analysis(
    replace(conv("stem"), height=2),
    replace(conv("left"), height=1),
    replace(conv("right"), height=1),
    replace(weight("norm", "norm_scale", (8,)), height=1),
    replace(gemm("head"), height=0),
    replace(weight("head.bias", "bias", (8,)), height=0),
)


@pytest.mark.parametrize(
    ("cascade", "ids"),
    [
        (0, []),
        (1, ["head", "head.bias"]),
        (2, ["left", "right", "norm", "head", "head.bias"]),
        (3, [w.id for w in MODEL.weights]),
        (99, [w.id for w in MODEL.weights]),
        (None, [w.id for w in MODEL.weights]),
    ],
)
def test_the_levels_from_the_output_down(cascade: int | None, ids: list[str]) -> None:
    plan = make_plan(MODEL, scheme="he", cascade=cascade)
    assert [e.id for e in plan.entries] == ids
    reason = f"further from the output than --cascade {cascade} goes"
    assert {left.reason for left in plan.kept} <= {reason}
    assert {left.id for left in plan.kept} == {w.id for w in MODEL.weights} - set(ids)


def test_it_narrows_what_else_is_selected() -> None:
    plan = make_plan(MODEL, cascade=2, include=["left", "stem", "head*"], exclude="role:bias", rules=["head=keep"])
    assert [e.id for e in plan.entries] == ["left"]
    assert {left.id: left.reason for left in plan.kept} == {
        "stem": "further from the output than --cascade 2 goes",
        "right": "not selected by --include left stem head*",
        "norm": "not selected by --include left stem head*",
        "head": "kept by the rule 'head=keep'",
        "head.bias": "--exclude role:bias",
    }


def test_tensors_of_the_same_bytes_go_by_the_nearest_to_the_output() -> None:
    low = replace(gemm("low"), height=5, tied_to=("high",))
    high = replace(gemm("high"), height=0, tied_to=("low",), shares="low")
    assert [e.id for e in make_plan(analysis(low, high), cascade=1).entries] == ["low", "high"]


def test_below_zero_is_refused() -> None:
    with pytest.raises(SchemeError, match="a cascade of -1 layers is below 0: give how many layers to rewrite"):
        make_plan(MODEL, cascade=-1)

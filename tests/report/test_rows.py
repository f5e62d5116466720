from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
from handmade import GELU, RELU, TANH, analysis, conv, weight
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.analysis.weight import Weight
from onnxinit.plan import Vector, make_plan
from onnxinit.report.rows import MANY, Row, common, printable, rows


def shown(*weights: Weight, **options: str) -> list[Row]:
    return rows(weights, make_plan(analysis(*weights), **options).entries)


def test_a_row_per_weight() -> None:
    first, second, third = shown(
        conv("a", 8, 4, downstream=(RELU,)),
        weight("b", "bias", (8,)),
        weight("s", "other", ()),
        scheme="he",
        exclude="b",
    )
    assert first == Row("a", "weight", "8x4x3x3", "36/72", "relu", "he", "0.2357")
    assert second == Row("b", "bias", "8", "", "", "kept", "")
    assert third == Row("s", "other", "scalar", "", "", "truncated_normal", "0.01759")


def test_a_gain_is_shown_where_it_is_not_the_scheme_s_own() -> None:
    weights = [conv("r", downstream=(RELU,)), conv("g", downstream=(GELU,)), conv("t", downstream=(TANH,))]
    assert [r.scheme for r in shown(*weights, scheme="auto")] == ["he", "he:gain=1.534", "xavier"]
    spec = "he:distribution=uniform,gain=exact"
    assert [r.scheme for r in shown(*weights, scheme=spec)][1] == "he:distribution=uniform,gain=1.534"
    plan = make_plan(analysis(*weights), scheme="orthogonal")
    measured = [replace(e, gain=g) for e, g in zip(plan.entries, (1.0, 0.5, Vector(0, (0.25, 2.0))), strict=False)]
    assert [r.scheme for r in rows(weights, measured)] == [
        "orthogonal", "orthogonal:gain=0.5", "orthogonal:gain=0.25..2",
    ]  # fmt: skip


def layers(count: int) -> list[Weight]:
    return [w for i in range(count) for w in (conv(f"layer.{i}.w", 8, 4), weight(f"layer.{i}.b", "bias", (8,)))]


def test_few_rows_stay_as_they_are() -> None:
    found = shown(*layers(MANY // 2))
    assert [r.name for r in found] == [w.id for w in layers(MANY // 2)]
    assert {r.count for r in found} == {1}


def test_many_rows_that_differ_in_numbers_are_one() -> None:
    found = shown(*layers(MANY), conv("layer.0.other", 4, 4))
    assert [(r.name, r.count, r.shape) for r in found] == [
        ("layer.*.w", MANY, "8x4x3x3"), ("layer.*.b", MANY, "8"), ("layer.0.other", 1, "4x4x3x3"),
    ]  # fmt: skip


def test_what_is_drawn_differently_is_not_put_together() -> None:
    found = shown(*layers(MANY), scheme="he", include="layer.[0-4].*")
    assert [(r.name, r.count, r.scheme) for r in found] == [
        ("layer.*.w", 5, "he"),
        ("layer.*.b", 5, "zeros"),
        ("layer.*.w", MANY - 5, "kept"),
        ("layer.*.b", MANY - 5, "kept"),
    ]


def test_very_many_small_tensors_are_one_whatever_their_shape() -> None:
    weights = [
        w for i in range(MANY) for w in (conv(f"{i}.w", i + 1, 4), weight(f"b{'ab'[i % 2]}{i}", "bias", (i + 1,)))
    ]
    found = shown(*weights)
    assert [r for r in found if r.role == "bias"] == [Row("b*", "bias", "various", "", "", "zeros", "0", MANY)]
    assert len(found) == MANY + 1


names = st.text("ab01./", min_size=1)


@given(st.lists(names, min_size=1))
def test_a_common_glob_fits_all_names(found: list[str]) -> None:
    assert all(fnmatchcase(name, common(found)) for name in found)


@pytest.mark.parametrize(
    ("found", "glob"),
    [
        (["a"], "a"),
        (["layer.0.1.w", "layer.12.1.w"], "layer.*.1.w"),
        (["conv.bias", "fc.bias"], "*.bias"),
        (["a.x.b", "a.y.b"], "a.*.b"),
        (["aa", "aaa"], "aa*"),
        (["473", "465"], "*"),
    ],
)
def test_common_globs(found: list[str], glob: str) -> None:
    assert common(found) == glob


@given(st.text())
def test_names_cannot_steer_a_terminal(name: str) -> None:
    assert printable(name).isprintable()
    if name.isprintable():
        assert printable(name) == name


def test_escapes_are_readable() -> None:
    assert printable("a\x1b[31m\nß") == r"a\x1b[31m\nß"

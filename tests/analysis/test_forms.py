"""Names decide nothing, nor does the form of the file."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from disguises import DISGUISES, renamed, reordered, shapes_forgotten, with_other_values
from gallery import EVERY, model_of
from graphs import analysed
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxinit.analysis.weight import Analysis, Weight


def nameless(analysis: Analysis) -> tuple[list[object], list[object]]:
    """What the analysis says by place in the file, without any name."""
    number = {w.id: i for i, w in enumerate(analysis.weights)}
    said = [
        replace(
            w,
            id="",
            name="",
            scope="",
            uses=tuple(replace(u, node="") for u in w.uses),
            tied_to=tuple(str(number[t]) for t in w.tied_to),
            shares=str(number[w.shares]) if w.shares else "",
        )
        for w in analysis.weights
    ]
    return list(said), [replace(k, id="", name="", scope="") for k in analysis.kept]


def gist(weight: Weight) -> tuple[object, ...]:
    """What must not depend on the form of the file."""
    names = tuple(sorted(f.name for f in fs) for fs in (weight.upstream, weight.downstream))
    return weight.role, weight.shape, weight.fan_in, weight.fan_out, weight.groups, weight.blocks, weight.layout, names


def gists(model: onnx.ModelProto) -> dict[str, tuple[object, ...]]:
    """By name; the tensors of a function that is called twice have one."""
    return {w.name: gist(w) for w in analysed(model).weights}


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_names_decide_nothing(name: str, seed: int) -> None:
    model = model_of(name)
    assert nameless(analysed(renamed(model, seed))) == nameless(analysed(model))


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_the_file_decides_nothing(name: str, seed: int) -> None:
    model = model_of(name)
    assert gists(reordered(model, seed)) == gists(model)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_the_values_of_weights_decide_nothing(name: str, seed: int) -> None:
    model = model_of(name)
    found = analysed(model)
    other = analysed(with_other_values(model, {w.name for w in found.weights}, seed))
    assert nameless(other) == nameless(found)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_the_form_of_the_file_decides_nothing(name: str, disguise: str) -> None:
    model = model_of(name)
    truth, found = gists(model), gists(DISGUISES[disguise](model))
    assert {n: g[0] for n, g in found.items()} == {n: g[0] for n, g in truth.items()}
    assert found == truth


@pytest.mark.parametrize("name", EVERY)
def test_shapes_that_are_written_down_decide_nothing(name: str) -> None:
    model = model_of(name)
    assert gists(shapes_forgotten(model)) == gists(model)

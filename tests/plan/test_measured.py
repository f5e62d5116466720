"""Measured values in a plan: in its JSON, in the file beside it, and in what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import analysis, conv, weight

from onnxinit.errors import SchemeError
from onnxinit.plan import Entry, Measured, Plan, Vector, aside_path, entry_of, fit_plan, make_plan
from onnxinit.schemes import Spec, parse_spec
from onnxinit.values import fresh

KERNEL = conv("conv", 8, 40, (4, 4))
MEAN = weight("mean", "running_mean", (3,), "BatchNormalization")
MODEL = analysis(KERNEL, MEAN)


def plan() -> Plan:
    """A plan with a small and a large measured tensor, and a gain on the large one."""
    values = np.random.default_rng(0).standard_normal(KERNEL.size).astype(np.float32)
    kernel = entry_of(KERNEL, Spec.of("measured"), "a test", gain=2.0, measured=Measured.of(values))
    mean = entry_of(MEAN, Spec.of("measured"), "a test", measured=Measured.of([0.1, -2.0, 1e-30]))
    return replace(make_plan(MODEL), entries=(kernel, mean))


def values(entries: Plan, ident: str) -> np.ndarray:
    chunks = fresh(entries, MODEL)[MODEL.by_id[ident].path].chunks()
    return np.concatenate([np.frombuffer(c.draw(), np.uint8) for c in chunks]).view(np.float32)  # type: ignore[call-overload,no-any-return]


def test_small_values_stand_in_the_json() -> None:
    made = plan()
    again = Plan.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made and again.digest() == made.digest()
    assert (values(again, "mean") == np.float32([0.1, -2.0, 1e-30])).all()


def test_large_values_stand_in_a_file_beside(tmp_path: Path) -> None:
    made, aside = plan(), dict[str, np.ndarray]()
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(made.to_json(aside)))
    assert list(aside) == ["conv"] and path.stat().st_size < 5000
    with pytest.raises(SchemeError, match=r"the measured values of 'conv' are missing: keep the \.npz file"):
        Plan.load(path)
    np.savez(aside_path(path), **aside)
    again = fit_plan(Plan.load(path), MODEL)
    assert again.digest() == made.digest()
    held = made.entries[0].measured
    assert held is not None and (values(again, "conv") == 2 * held.values).all()
    aside_path(path).write_bytes(b"no archive")
    with pytest.raises(SchemeError, match=r"plan.json.npz cannot be read"):
        Plan.load(path)


def test_the_digest_depends_on_the_values() -> None:
    made = plan()
    other = replace(made.entries[1], measured=Measured.of([0.1, -2.0, 0.0]))
    assert replace(made, entries=(made.entries[0], other)).digest() != made.digest()


def test_values_that_do_not_fit() -> None:
    made = plan()
    short = replace(made.entries[1], measured=Measured.of([1.0]))
    with pytest.raises(
        SchemeError, match="the plan has 1 measured values of 'mean', which do not fit the weight 'mean'"
    ):
        fit_plan(replace(made, entries=(made.entries[0], short)), MODEL)


def test_a_vector_over_an_axis_and_those_before_it() -> None:
    w = weight("w", "bias", (2, 6, 5), "LSTM")
    gains = tuple(float(i + 1) for i in range(12))
    entry = entry_of(w, parse_spec("constant:value=1"), "a test", gain=Vector(1, gains))
    model = analysis(w)
    made = fit_plan(replace(make_plan(model), entries=(entry,)), model)
    drawn = np.concatenate([np.frombuffer(c.draw(), np.uint8) for c in fresh(made, model)[w.path].chunks()])  # type: ignore[call-overload]
    assert (drawn.view(np.float32).reshape(12, 5) == np.reshape(gains, (12, 1))).all()


@pytest.mark.parametrize("text, pending", [("lsuv", True), ("he", False)])
def test_a_pass_is_pending_until_it_is_settled(text: str, pending: bool) -> None:
    made = make_plan(MODEL, scheme=text)
    entry = next(e for e in made.entries if e.id == "conv")
    assert entry.pending == pending and (entry.std is None) == pending
    assert not next(e for e in made.entries if e.id == "mean").pending
    if pending:
        with pytest.raises(SchemeError, match="a plan names what draws it"):
            fit_plan(made, MODEL)


def test_a_pass_that_a_rule_names_for_a_bias_leaves_it_its_default() -> None:
    model = analysis(weight("b", "bias", (4,)), KERNEL)
    made: dict[str, Entry] = {e.id: e for e in make_plan(model, rules=["*=lsuv"]).entries}
    assert made["b"].scheme == parse_spec("zeros") and made["conv"].pending


@pytest.mark.parametrize("text", ["lsuv:base=auto", "lsuv:base=keep", "lsuv:base=lsuv"])
def test_a_base_that_draws_nothing(text: str) -> None:
    with pytest.raises(SchemeError, match="lsuv: base must be a scheme that draws"):
        parse_spec(text)

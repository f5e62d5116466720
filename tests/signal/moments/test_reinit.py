"""The scheme from Python and from the shell: what is written, said and repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from graphs import build

import onnxinit
from onnxinit.cli.main import run
from onnxinit.errors import SchemeError
from onnxinit.signal.moments import input_moments

CHAIN = "(float[n,32] x) => (float[n,8] y) { h = MatMul(x, a) z = Relu(h) s = Add(z, x) y = MatMul(s, b) }"


def gains(result: onnxinit.Result) -> dict[str, float]:
    return {e.id: e.gain for e in result.plan.entries if isinstance(e.gain, float)}


def test_a_run_settles_every_entry_and_a_plan_repeats_it() -> None:
    model = build(CHAIN, a=(32, 32), b=(32, 8))
    first = onnxinit.reinit(model, scheme="analytic:base=lecun")
    assert gains(first) == pytest.approx({"a": 1.0, "b": 1.5**-0.5})
    assert [e.scheme.name for e in first.plan.entries] == ["lecun", "lecun"]
    assert first.warnings == ()
    again = onnxinit.reinit(model, plan=first.plan)
    assert first.model is not None
    assert again.model == first.model


def test_inspect_shows_what_a_run_draws() -> None:
    model = build(CHAIN, a=(32, 32), b=(32, 8))
    shown = onnxinit.inspect(model, scheme="analytic", input_var=4.0)
    drawn = onnxinit.reinit(model, scheme="analytic", input_var=4.0, dry_run=True)
    assert shown.plan.entries == drawn.plan.entries
    assert gains(drawn) == pytest.approx({"a": 0.5, "b": 4.5**-0.5})


def test_auto_takes_these_gains_where_there_is_no_norm() -> None:
    """A sum of a rectified layer and its input, which no upstream activation knows of."""
    drawn = onnxinit.reinit(build(CHAIN, a=(32, 32), b=(32, 8)))
    assert gains(drawn) == pytest.approx({"a": 1.0, "b": 1.5**-0.5})
    assert all("without norms" in e.why for e in drawn.plan.entries)
    normed = CHAIN.replace("z = Relu(h)", "i = LayerNormalization(h, g) z = Relu(i)")
    drawn = onnxinit.reinit(build(normed, a=(32, 32), b=(32, 8), g=(32,)))
    assert {e.id: e.scheme.name for e in drawn.plan.entries} == {"a": "he", "b": "xavier", "g": "ones"}


def test_the_data_tells_the_moments_of_the_inputs() -> None:
    model = build(CHAIN, a=(32, 32), b=(32, 8))
    x = np.random.default_rng(0).normal(3.0, 2.0, (64, 32)).astype(np.float32)
    drawn = onnxinit.reinit(model, scheme="analytic:base=lecun", data={"x": x})
    assert gains(drawn)["a"] == pytest.approx(float(np.mean(x.astype(np.float64) ** 2)) ** -0.5, rel=1e-6)
    given = onnxinit.reinit(model, scheme="analytic:base=lecun", data={"x": x}, input_mean=0.0)
    assert gains(given)["a"] == pytest.approx(1.0)


def test_moments_of_data_keep_their_digits() -> None:
    rng = np.random.default_rng(1)
    x = 1e4 + rng.standard_normal((50, 7))
    found = input_moments([{"x": x[:20], "i": np.arange(3)}, {"x": x[20:]}])
    assert found == {"x": (pytest.approx(x.mean(), rel=1e-12), pytest.approx(x.var(), rel=1e-9))}


def test_a_negative_variance() -> None:
    model = build(CHAIN, a=(32, 32), b=(32, 8))
    with pytest.raises(SchemeError, match=r"^the variance -1.0 is negative: give a number of at least 0$"):
        onnxinit.reinit(model, scheme="analytic", input_var=-1.0)


def test_what_is_warned_of() -> None:
    text = "(float[n,32] x) => (y) { h = local.Strange(x) z = Mul(h, none) y = MatMul(z, a) u = MatMul(h, b) }"
    model = build(text, check=False, a=(32, 8), b=(32, 8), none=np.zeros(1, np.float32))
    drawn = onnxinit.reinit(model, scheme="analytic", dry_run=True)
    assert any("there is no rule for local.Strange (1)" in w for w in drawn.warnings)
    assert any(w.startswith("analytic: a: nothing reaches it") for w in drawn.warnings)


def test_a_base_that_draws_nothing() -> None:
    with pytest.raises(SchemeError, match="base must be a scheme that draws"):
        onnxinit.reinit(build(CHAIN, a=(32, 32), b=(32, 8)), scheme="analytic:base=auto")


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(build(CHAIN, a=(32, 32), b=(32, 8)).SerializeToString())
    assert run(["inspect", str(path), "--scheme", "analytic", "--input-var", "0.25", "--json"]) == 0
    weights = {w["id"]: w for w in json.loads(capsys.readouterr().out)["weights"]}
    assert weights["a"]["gain"] == pytest.approx(2.0)
    assert weights["a"]["std"] == pytest.approx(2.0 * 32**-0.5)

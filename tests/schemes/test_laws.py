"""Independent schemes: their closed forms, and their samples against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxinit.errors import SchemeError
from onnxinit.sampling import stream, weight_key
from onnxinit.schemes import SCHEMES, Block, Distribution, Spec, parse_spec
from onnxinit.schemes.fan import TRUNCATED_STD
from onnxinit.schemes.structured import chi_mean

N = 1 << 18
FAN_IN, FAN_OUT = 180.0, 576.0
BLOCK = Block((64, 20, 3, 3), FAN_IN, FAN_OUT)


def sample(spec: str, dtype: type = np.float32) -> np.ndarray:
    out = np.empty(N, dtype)
    parse_spec(spec).distribution(BLOCK).sample(stream(weight_key(0, spec)), out)
    return out


def normal(variance: float) -> stats.rv_continuous:
    return stats.norm(scale=math.sqrt(variance))


def uniform(variance: float) -> stats.rv_continuous:
    limit = math.sqrt(3 * variance)
    return stats.uniform(-limit, 2 * limit)


def truncated(variance: float) -> stats.rv_continuous:
    return stats.truncnorm(-2, 2, scale=math.sqrt(variance) / stats.truncnorm(-2, 2).std())


AVG = (FAN_IN + FAN_OUT) / 2
GEO = math.sqrt(FAN_IN * FAN_OUT)
LAWS = {
    "he": normal(1 / FAN_IN),
    "he:mode=fan_out": normal(1 / FAN_OUT),
    "he_uniform": uniform(1 / FAN_IN),
    "kaiming_uniform:mode=fan_out": uniform(1 / FAN_OUT),
    "xavier": uniform(1 / AVG),
    "xavier_normal": normal(1 / AVG),
    "xavier:mode=fan_in": normal(1 / FAN_IN),
    "xavier_uniform:mode=fan_out": uniform(1 / FAN_OUT),
    "lecun": normal(1 / FAN_IN),
    "lecun_uniform": uniform(1 / FAN_IN),
    "variance_scaling": truncated(1 / FAN_IN),
    "variance_scaling:scale=2,mode=fan_out": truncated(2 / FAN_OUT),
    "variance_scaling:scale=0.5,mode=fan_avg,distribution=normal": normal(0.5 / AVG),
    "variance_scaling:mode=fan_geo_avg,distribution=uniform": uniform(1 / GEO),
    "uniform:low=-0.25,high=1": stats.uniform(-0.25, 1.25),
    "normal:mean=-1,std=0.5": stats.norm(-1, 0.5),
    "truncated_normal": stats.truncnorm(-2, 2, scale=0.02),
    "truncated_normal:mean=1,std=0.5,low=-1,high=3": stats.truncnorm(-1, 3, 1, 0.5),
    "embedding": normal(1 / FAN_IN),
    "positional": stats.truncnorm(-2, 2, scale=0.02),
    "bias_uniform": stats.uniform(-1 / math.sqrt(FAN_IN), 2 / math.sqrt(FAN_IN)),
    "normalized": stats.norm(scale=1 / stats.chi(180).mean()),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spec", LAWS)
def test_samples_have_the_law_of_the_formula(spec: str, dtype: type) -> None:
    x, law = sample(spec, dtype).astype(np.float64), LAWS[spec]
    assert stats.kstest(x, law.cdf).pvalue > 1e-6
    assert abs(x.mean() - law.mean()) < 5 * law.std() / math.sqrt(N)
    kurtosis = float(law.stats(moments="k")) + 3
    assert abs(x.var() / law.var() - 1) < 5 * math.sqrt((kurtosis - 1) / N)
    asked = parse_spec(spec).distribution(BLOCK)
    assert asked.expectation == pytest.approx(law.mean(), abs=1e-12)
    assert asked.deviation == pytest.approx(law.std(), rel=1e-9)


def test_every_independent_scheme_is_tested() -> None:
    independent = {s.name for s in SCHEMES.values() if s.law is not None}
    assert independent == {parse_spec(s).name for s in LAWS} | {"zeros", "ones", "constant", "layer_scale"}


@pytest.mark.parametrize(
    "spec, value",
    [
        ("zeros", 0),
        ("ones", 1),
        ("constant:value=0.25", 0.25),
        ("layer_scale", 0.1),
        ("layer_scale:depth=18", 0.1),
        ("layer_scale:depth=19", 1e-5),
        ("layer_scale:depth=24", 1e-5),
        ("layer_scale:depth=25", 1e-6),
    ],
)
def test_constants(spec: str, value: float) -> None:
    assert (sample(spec) == np.float32(value)).all()
    law = parse_spec(spec).distribution(BLOCK)
    assert (law.expectation, law.deviation) == (value, 0)


@pytest.mark.parametrize(
    "low, high", [(-2, 2), (-1, 3), (3, 4), (-9, -7), (2, math.inf), (-math.inf, -6), (-0.001, 0.001)]
)
def test_moments_of_truncated_laws(low: float, high: float) -> None:
    law = Distribution.truncated_normal(2.0, 1.0, low, high)
    exact = stats.truncnorm(low, high, 1, 2)
    assert law.expectation == pytest.approx(exact.mean(), rel=1e-6)
    assert law.deviation == pytest.approx(exact.std(), rel=1e-4)


def test_the_constant_of_truncation() -> None:
    # Variance of a standard normal given |z| <= 2: 1 - 4 phi(2) / (2 Phi(2) - 1).
    assert pytest.approx(math.sqrt(1 - 4 * stats.norm.pdf(2) / math.erf(math.sqrt(2))), rel=1e-15) == TRUNCATED_STD


@given(st.integers(1, 10**12))
def test_the_mean_of_the_chi_distribution(n: int) -> None:
    # m(n) m(n + 1) = n with its bounds, and the first values: that is one function only.
    assert chi_mean(n) * chi_mean(n + 1) == pytest.approx(n, rel=1e-13)
    assert math.sqrt(n - 0.5) * (1 - 1e-13) < chi_mean(n) <= math.sqrt(n)
    assert chi_mean(1) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-14)
    assert chi_mean(576) == pytest.approx(stats.chi(576).mean(), rel=1e-9)


@given(st.floats(0, 100), st.sampled_from(sorted(LAWS)))
def test_a_gain_scales_the_law(gain: float, spec: str) -> None:
    law = parse_spec(spec).distribution(BLOCK)
    assert law.scaled(gain).deviation == pytest.approx(gain * law.deviation)
    assert law.scaled(gain).expectation == pytest.approx(gain * law.expectation)


@pytest.mark.parametrize("spec, fan", [("he", "fan_in"), ("xavier", "fan_avg"), ("he:mode=fan_out", "fan_out")])
def test_a_tensor_without_fans(spec: str, fan: str) -> None:
    message = f"{fan} is not defined for a tensor of this kind: take a scheme without fans, such as zeros"
    with pytest.raises(SchemeError, match=message):
        parse_spec(spec).distribution(Block((7,)))


@pytest.mark.parametrize("spec", ["he", "xavier", "lecun_uniform", "bias_uniform", "variance_scaling", "normalized"])
def test_nothing_is_drawn_for_empty_tensors_without_complaint(spec: str) -> None:
    assert parse_spec(spec).distribution(Block((0, 0), 0, 0)).deviation == 0


def test_extreme_scales_stay_finite() -> None:
    for spec in ("normal:std=1e37", "uniform:low=-1e38,high=1e38"):
        assert np.isfinite(sample(spec)).all()
    out = np.empty(1000)
    Spec.of("uniform", {"low": -1.7e308, "high": 1.7e308}).distribution(BLOCK).sample(stream(b"k"), out)
    assert np.isfinite(out).all()

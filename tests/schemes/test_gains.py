"""Gains, and what auto and the roles' defaults stand for."""

from __future__ import annotations

import math

import pytest

from onnxinit.analysis.weight import LINEAR, ROLES, Activation
from onnxinit.schemes import ROLE_DEFAULTS, SCHEMES, auto_spec, exact_gain, parse_spec, resolve_gain

RELU = Activation("relu", mean=0.398942, second=0.5, derivative=0.5)
LEAKY = Activation("leaky_relu", slope=0.2, second=0.52, derivative=0.52)
PRELU = Activation("prelu", slope=0.25, second=0.53125, derivative=0.53125)
TANH = Activation("tanh", mean=0.0, second=0.394294, derivative=0.464402)
SOFTMAX = Activation("softmax")


@pytest.mark.parametrize(
    "spec, downstream, upstream, gain",
    [
        ("he", [RELU], [], math.sqrt(2)),
        ("he", [LINEAR], [], math.sqrt(2)),
        ("he", [], [], math.sqrt(2)),
        ("he", [LEAKY], [], math.sqrt(2 / 1.04)),
        ("he", [PRELU], [], math.sqrt(2 / 1.0625)),
        ("he", [RELU, LEAKY], [], math.sqrt((2 + 2 / 1.04) / 2)),
        ("he:slope=0.5", [LEAKY], [], math.sqrt(2 / 1.25)),
        ("he:slope=0", [LEAKY], [], math.sqrt(2)),
        ("he:gain=3", [LEAKY], [], 3),
        ("he:gain=0", [LEAKY], [], 0),
        ("he:gain=exact", [TANH], [RELU], 1.592537),
        ("he:gain=exact", [RELU, TANH], [], math.sqrt((2 + 1.592537**2) / 2)),
        ("he:gain=exact", [SOFTMAX], [], 1),
        ("he:gain=upstream", [TANH], [RELU], math.sqrt(2)),
        ("he:gain=upstream", [TANH], [], 1),
        ("xavier", [TANH], [], 1),
        ("xavier:gain=exact", [TANH], [], 1.592537),
        ("lecun", [RELU], [], 1),
        ("orthogonal", [RELU], [], 1),
        ("orthogonal:gain=exact", [RELU], [], math.sqrt(2)),
        ("zeros", [RELU], [RELU], 1),
    ],
)
def test_gains(spec: str, downstream: list[Activation], upstream: list[Activation], gain: float) -> None:
    assert resolve_gain(parse_spec(spec), downstream, upstream) == pytest.approx(gain, rel=1e-6)


def test_gains_take_no_last_bits_from_the_machine() -> None:
    for second in (0.394294, math.nextafter(0.394294, 1)):
        assert exact_gain(Activation("tanh", second=second)) == exact_gain(TANH)


@pytest.mark.parametrize("activation", [Activation("other", second=0.0), Activation("other", second=math.inf), SOFTMAX])
def test_functions_without_a_gain(activation: Activation) -> None:
    assert exact_gain(activation) == 1


@pytest.mark.parametrize(
    "names, spec",
    [
        (["relu"], "he:gain=exact"),
        (["gelu_tanh"], "he:gain=exact"),
        (["silu"], "he:gain=exact"),
        (["tanh", "relu"], "he:gain=exact"),
        (["selu"], "lecun"),
        (["tanh"], "xavier"),
        (["sigmoid"], "xavier"),
        (["softmax"], "xavier"),
        (["linear"], "xavier"),
        (["glu"], "xavier"),
        (["other"], "xavier"),
        (["clip"], "xavier"),
        ([], "xavier"),
    ],
)
def test_auto(names: list[str], spec: str) -> None:
    assert str(auto_spec([Activation(n) for n in names])) == spec


def test_auto_tells_clips_apart() -> None:
    assert str(auto_spec([Activation("clip", mean=0.39)])) == "he:gain=exact"
    assert str(auto_spec([Activation("clip", mean=0.0)])) == "xavier"


def test_defaults_of_roles() -> None:
    assert {r: str(s) for r, s in ROLE_DEFAULTS.items()} == {
        "weight": "auto",
        "input_weight": "auto",
        "recurrent_weight": "orthogonal",
        "bias": "zeros",
        "peephole": "zeros",
        "norm_scale": "ones",
        "norm_shift": "zeros",
        "running_mean": "zeros",
        "running_var": "ones",
        "embedding": "embedding",
        "positional": "positional",
        "token": "positional",
        "prelu_slope": "constant:value=0.25",
        "layer_scale": "layer_scale",
    }
    assert set(ROLE_DEFAULTS) < set(ROLES)


def test_what_breaks_symmetry_and_what_does_not() -> None:
    assert {s.name for s in SCHEMES.values() if s.symmetric} == {"zeros", "ones", "constant", "layer_scale"}


def test_what_is_exact_to_the_byte() -> None:
    assert {s.name for s in SCHEMES.values() if s.exact_to != "bytes"} == {"orthogonal", "delta_orthogonal"}

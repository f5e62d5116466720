"""SPECs: read, printed, compared, and every message that a wrong one gets."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.errors import SchemeError
from onnxinit.schemes import SCHEMES, Parameter, Spec, find, parse_spec


def values(parameter: Parameter) -> st.SearchStrategy[object]:
    """Values that a parameter takes, whatever the others are."""
    if parameter.kind == "choice":
        return st.sampled_from(parameter.choices)
    if parameter.kind == "flag":
        return st.booleans()
    if parameter.name in ("path", "weight"):
        return st.text(min_size=1)
    if parameter.kind == "text":
        return st.sampled_from(["he", "xavier:mode=fan_in", "he:mode=fan_out,distribution=uniform"])
    least, most = max(parameter.range.least, -1e6), min(parameter.range.most, 1e6)
    if parameter.name in ("low", "high"):  # kept in order
        least, most = (-9.0, -1.0) if parameter.name == "low" else (-0.5, 9.0)
    return st.integers(int(least), 10**6) if parameter.kind == "integer" else st.floats(least, most)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    scheme = draw(st.sampled_from(list(SCHEMES.values())))
    given = {p.name: draw(values(p)) for p in scheme.parameters if p.name == "path" or draw(st.booleans())}
    gains = st.one_of(st.sampled_from(["paper", "exact", "upstream"]), st.floats(0, 1e9))
    return Spec.of(scheme.name, given, draw(gains) if scheme.gain else "paper")


@given(specs())
def test_a_spec_is_what_it_prints_and_what_it_stores(spec: Spec) -> None:
    assert parse_spec(str(spec)) == spec
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(parse_spec(str(spec))) == hash(spec)
    assert spec.without_gain().gain == "paper" and spec.without_gain().params == spec.params


@pytest.mark.parametrize(
    "text, canonical",
    [
        ("he", "he"),
        ("he:mode=fan_in", "he"),
        ("he:mode=fan_out,distribution=uniform", "he:mode=fan_out,distribution=uniform"),
        ("he:distribution=uniform,mode=fan_out", "he:mode=fan_out,distribution=uniform"),
        (" he : mode = fan_out , gain = 2 ", "he:mode=fan_out,gain=2"),
        ("he_normal", "he"),
        ("he_uniform", "he:distribution=uniform"),
        ("kaiming", "he"),
        ("kaiming_normal:mode=fan_out", "he:mode=fan_out"),
        ("kaiming_uniform:slope=0.2", "he:distribution=uniform,slope=0.2"),
        ("msra", "he"),
        ("xavier_uniform", "xavier:distribution=uniform"),
        ("glorot", "xavier"),
        ("glorot_uniform", "xavier:distribution=uniform"),
        ("glorot_normal", "xavier:distribution=normal"),
        ("xavier:gain=upstream", "xavier:gain=upstream"),
        ("lecun_uniform", "lecun:distribution=uniform"),
        ("trunc_normal:std=2e-2", "truncated_normal"),
        ("constant:value=0.01", "constant:value=0.01"),
        ("const:value=-0.0", "constant"),
        ("constant:value=1e300", "constant:value=1e+300"),
        ("sparse:nonzeros=3.0", "sparse:nonzeros=3"),
        ("normalized:exact=True", "normalized:exact=true"),
        ("dirac:gain=0.5", "identity:gain=0.5"),
        ("eye", "identity"),
        ("irnn", "identity"),
        ("orthogonal:gain=paper", "orthogonal"),
        ("torch_bias", "bias_uniform"),
        ("token", "positional"),
        ("keep", "keep"),
        ("auto", "auto"),
        ('lsuv:base="he:mode=fan_out,gain=2",tol=0.1', 'lsuv:base="he:mode=fan_out,gain=2",tol=0.1'),
        ('lsuv:base = "he" , tol = 0.1', "lsuv:base=he,tol=0.1"),
    ],
)
def test_specs_are_printed_in_one_form(text: str, canonical: str) -> None:
    assert str(parse_spec(text)) == canonical
    assert parse_spec(text) == parse_spec(canonical)


def test_values_of_other_libraries_are_taken() -> None:
    given = {"nonzeros": np.int64(3), "std": np.float32(0.5)}
    assert Spec.of("sparse", given) == parse_spec("sparse:nonzeros=3,std=0.5")
    assert json.loads(json.dumps(Spec.of("sparse", given).to_json()))["params"] == {"nonzeros": 3, "std": 0.5}


def test_all_parameters_with_their_defaults() -> None:
    assert parse_spec("he_uniform").values == {"mode": "fan_in", "distribution": "uniform", "slope": None}


@pytest.mark.parametrize(
    "text, message",
    [
        ("hee", r"there is no scheme named 'hee' \(did you mean 'he'\?\): `onnxinit schemes` lists them"),
        ("Xavier", r"there is no scheme named 'Xavier' \(did you mean 'xavier'\?\): `onnxinit schemes` lists them"),
        ("qqqq", "there is no scheme named 'qqqq': `onnxinit schemes` lists them"),
        ("", "there is no scheme named '': `onnxinit schemes` lists them"),
        (
            "he:moed=fan_in",
            r"the scheme 'he' has no parameter 'moed' \(did you mean 'mode'\?\): it takes mode, distribution, slope, ",
        ),
        ("zeros:std=1", "the scheme 'zeros' has no parameter 'std': it takes none"),
        ("he:mode=fan", r"he: mode must be one of fan_in, fan_out, not 'fan' \(did you mean 'fan_in'\?\)"),
        ("normal:std=-1", "normal: std must be a number, at least 0, not '-1'"),
        ("normal:std=nan", "normal: std must be a number, at least 0, not 'nan'"),
        ("normal:mean=inf", "normal: mean must be a number, finite, not 'inf'"),
        ("normal:mean=two", "normal: mean must be a number, finite, not 'two'"),
        ("sparse:sparsity=1.5", "sparse: sparsity must be a number, from 0 to 1, not '1.5'"),
        ("sparse:nonzeros=1.5", "sparse: nonzeros must be an integer, at least 0, not '1.5'"),
        ("sparse:nonzeros=-1", "sparse: nonzeros must be an integer, at least 0, not '-1'"),
        ("normalized:exact=2", "normalized: exact must be true or false, not '2'"),
        ("uniform:low=1,high=0", "uniform: low must be below high, not 1 and 0"),
        ("truncated_normal:low=3", "truncated_normal: low must be below high, not 3 and 2"),
        ("uniform:gain=2", "the scheme 'uniform' takes no gain: it takes low, high"),
        ("zeros:gain=2", "the scheme 'zeros' takes no gain"),
        ("he:gain=exakt", r"he: gain must be paper, exact, .* not 'exakt' \(did you mean 'exact'\?\)"),
        ("he:gain=-1", "he: gain must be paper, exact, upstream or a number, at least 0, not '-1'"),
        ("he:gain=nan", "he: gain must be paper, exact, upstream or a number, at least 0, not 'nan'"),
        (
            "he_uniform:distribution=normal",
            "'he_uniform' sets distribution itself: write 'he:distribution=...' instead",
        ),
        ("he:mode=fan_in,mode=fan_out", "'he:mode=fan_in,mode=fan_out' gives mode twice"),
        ("he:", "'he:' is not a scheme: write 'name' or 'name:key=value,key=value'"),
        ("he:mode", "'he:mode' is not a scheme: write"),
        ("he:mode=", "'he:mode=' is not a scheme: write"),
        ("he:mode=fan_in,", "'he:mode=fan_in,' is not a scheme: write"),
        ('lsuv:base="he', "'lsuv:base=\"he' opens a quote that it does not close"),
        ('lsuv:base="', "'lsuv:base=\"' opens a quote that it does not close"),
    ],
)
def test_messages(text: str, message: str) -> None:
    with pytest.raises(SchemeError, match=f"^{message}"):
        parse_spec(text)


def test_find_takes_aliases() -> None:
    assert find("kaiming_uniform") is SCHEMES["he"]

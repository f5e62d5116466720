from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.errors import SchemeError
from onnxinit.plan import Rule
from onnxinit.schemes import SCHEMES, parse_spec


@pytest.mark.parametrize(
    ("text", "pattern", "spec"),
    [
        ("role:bias=zeros", "role:bias", "zeros"),
        ("role:bias=constant:value=0.01", "role:bias", "constant:value=0.01"),
        ("fc.*=he:mode=fan_out,gain=2", "fc.*", "he:mode=fan_out,gain=2"),
        ("w=keep", "w", "keep"),
        ("a=b/w=ones", "a=b/w", "ones"),
        ("a=zeros/w=ones", "a=zeros/w", "ones"),
        ("a=zeros=ones", "a=zeros", "ones"),
        ("a==ones", "a=", "ones"),
        ("a=he:b=ones", "a=he:b", "ones"),  # he has no parameter b, so he:b is part of the id
        # A value of a parameter is no scheme, though it is the name of one.
        ("role:weight=he:distribution=uniform", "role:weight", "he:distribution=uniform"),
        ("w=he:mode=fan_out,distribution=normal", "w", "he:mode=fan_out,distribution=normal"),
        ("w=glorot:distribution=uniform", "w", "xavier:distribution=uniform"),
        (r"w=he:distribution\=x=uniform", r"w=he:distribution\=x", "uniform"),
        ('w=lsuv:base="he:mode=fan_out,distribution=uniform"', "w", 'lsuv:base="he:mode=fan_out,distribution=uniform"'),
        ('w=lsuv:base="he",tol=0.1', "w", "lsuv:base=he,tol=0.1"),
        ("w=donor:path=a=b/m.onnx", "w", "donor:path=a=b/m.onnx"),
        ('w=donor:path="a,b=he:mode=fan_out"', "w", 'donor:path="a,b=he:mode=fan_out"'),
        (
            'w=donor:path=m.onnx,fallback="normal:std=0.1,mean=1"',
            "w",
            'donor:path=m.onnx,fallback="normal:std=0.1,mean=1"',
        ),
    ],
)
def test_a_rule_is_read_from_the_right(text: str, pattern: str, spec: str) -> None:
    rule = Rule.parse(text)
    assert (rule.text, rule.pattern.text, rule.spec) == (text, pattern, parse_spec(spec))


@given(st.text("ab=:/*,.", min_size=1), st.sampled_from(sorted(SCHEMES.keys() - {"donor"})))
def test_any_pattern_without_a_scheme_in_it_is_read_whole(pattern: str, scheme: str) -> None:
    assert Rule.parse(f"{pattern}={scheme}").pattern.text == pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zeros", "the rule 'zeros' is not of the form PATTERN=SPEC, such as 'role:bias=zeros'"),
        ("role:bias=", "the rule 'role:bias=' is not of the form PATTERN=SPEC, such as 'role:bias=zeros'"),
        ("w=0.5", "the rule 'w=0.5' is not of the form PATTERN=SPEC, such as 'role:bias=zeros'"),
        ("=zeros", "in the rule '=zeros': the pattern '' is empty: '.' matches everything"),
        ("w=zeroes", "in the rule 'w=zeroes': there is no scheme named 'zeroes'.* 'zeros'"),
        ("w=constant:valu=1", "in the rule 'w=constant:valu=1': .*'constant' has no parameter 'valu'.*'value'"),
        ("w=normal:std=-1", "in the rule 'w=normal:std=-1': normal: std must be a number, at least 0, not '-1'"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SchemeError, match="^" + message) as raised:
        Rule.parse(text)
    assert "\n" not in str(raised.value)

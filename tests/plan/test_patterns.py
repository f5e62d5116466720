from __future__ import annotations

import fnmatch
import string

import pytest
from handmade import GELU, RELU, conv, weight
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.errors import SchemeError
from onnxinit.plan import Pattern

PLAIN = string.ascii_letters + string.digits + "/._-: "


def fits(pattern: str, ident: str) -> bool:
    return Pattern.parse(pattern).matches(conv(ident))


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("a/*", ["a/b", "a/b/c", "a/"], ["a", "b/a/c"]),
        ("*", ["", "a", "a/b\nc"], []),
        ("layer?.weight", ["layer1.weight"], ["layer10.weight", "layer.weight", "Layer1.weight"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[!a-c]x", ["dx"], ["ax", "x"]),
        ("[^a]x", ["^x", "ax"], ["bx"]),
        (r"w\[0\]", ["w[0]"], ["w0"]),
        (r"\*\?\\", [r"*?" + "\\"], ["ab"]),
        ("w[0", ["w[0"], ["w0"]),
        ("w[]", ["w[]"], ["w"]),
        (r"[\]\-]", ["]", "-"], ["\\"]),
        ("a.b+", ["a.b+"], ["axbb"]),
        (r"role\:bias", ["role:bias"], ["bias"]),
        ("id:x", ["id:x"], ["x"]),
        ("onnx::MatMul_*", ["onnx::MatMul_12"], ["onnx:MatMul_12"]),
    ],
)
def test_a_glob_is_matched_with_the_id(pattern: str, fitting: list[str], others: list[str]) -> None:
    assert [i for i in fitting if not fits(pattern, i)] == []
    assert [i for i in others if fits(pattern, i)] == []


@given(st.text(PLAIN + "*?"), st.text(PLAIN))
def test_stars_and_question_marks_are_those_of_fnmatch(glob: str, ident: str) -> None:
    if glob.partition(":")[0] not in ("", "role", "op", "activation") and glob:
        assert fits(glob, ident) == fnmatch.fnmatchcase(ident, glob)


@given(st.text())
def test_escaped_a_text_matches_itself_alone(ident: str) -> None:
    escaped = "".join("\\" + c for c in ident)
    if ident:
        assert fits(escaped, ident)
        assert not fits(escaped, ident + "x")


def test_role_operator_and_activation() -> None:
    bias = weight("b", "bias", (3,), "Gemm")
    kernel = conv("k", downstream=(RELU, GELU))
    assert Pattern.parse("role:bias").matches(bias)
    assert Pattern.parse("role:[bw]*").matches(kernel)
    assert not Pattern.parse("role:bias").matches(kernel)
    assert Pattern.parse("op:Conv*").matches(kernel)
    assert not Pattern.parse("op:conv").matches(kernel)
    assert Pattern.parse("activation:gelu").matches(kernel)
    assert Pattern.parse("activation:linear").matches(bias)
    assert not Pattern.parse("activation:relu").matches(bias)


@pytest.mark.parametrize("text", ["", "role:", "op:"])
def test_an_empty_pattern_is_refused(text: str) -> None:
    with pytest.raises(SchemeError, match=rf"^the pattern '{text}' is empty: '{text}\*' matches everything$"):
        Pattern.parse(text)


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(
        SchemeError, match=r"^the pattern 'w\[z-a\]' is not a glob \(bad character range z-a .*\): escape"
    ):
        Pattern.parse("w[z-a]")

from __future__ import annotations

import io
from typing import Any

import pytest
from handmade import RELU, analysis, conv, gemm, weight
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onnxinit.analysis.weight import Analysis, Kept
from onnxinit.plan import Left, Plan, make_plan
from onnxinit.report.text import KeptList, outcome, sections, total


def printed(*parts: Any, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = Console(file=io.TextIOWrapper(raw, encoding=encoding), width=width, highlight=False, markup=False)
    for part in parts:
        out.print(part)
    out.file.flush()
    return raw.getvalue().decode(encoding)


def text(model: Analysis, width: int = 80, encoding: str = "utf-8", **options: Any) -> str:
    return printed(*sections(make_plan(model, **options), model.weights), width=width, encoding=encoding)


MODEL = analysis(
    conv("stem.conv.weight", 16, 3, downstream=(RELU,)),
    weight("stem.conv.bias", "bias", (16,)),
    gemm("encoder.layers.0.a_rather_long_name.projection.weight", 16, 8),
    kept=[Kept(f"shape{i}", f"shape{i}", "", (2,), "int64", "int64: shapes") for i in range(30)]
    + [Kept("mask", "mask", "", (), "float", "a scalar constant")],
)


WIDE = """\
tensor                                                 role    shape     fan in/out  activation  std     scheme
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
stem.conv.weight                                       weight  16x3x3x3  27/144      relu        0.2722  he
stem.conv.bias                                         bias    16                                0.02    normal:mean=1
encoder.layers.0.a_rather_long_name.projection.weight  weight  16x8      16/8        linear      0.3536  he

kept as they are: 31 tensors
    30  int64: shapes (shape0, shape1, shape2, shape3, shape4, shape5, shape6, shape7, shape8, shape9, shape10, ...)
     1  a scalar constant (mask)

"""


def test_wide_enough_each_weight_has_one_line() -> None:
    assert text(MODEL, 120, scheme="he", rules=["*.bias=normal:mean=1"]) == WIDE


def test_a_long_id_is_never_cut() -> None:
    lines = text(MODEL, 72, scheme="he").splitlines()
    at = lines.index("encoder.layers.0.a_rather_long_name.projection.weight")
    assert lines[at + 1].split() == ["weight", "16x8", "16/8", "linear", "0.3536", "he"]
    assert lines[at + 1].index("weight") == lines[0].index("role")
    assert all(len(line) <= 72 for line in lines)


@given(st.integers(10, 200))
def test_no_line_is_longer_than_the_console(width: int) -> None:
    found = text(MODEL, width)
    assert all(len(line) <= width for line in found.splitlines())
    assert "".join(found.split()).count("encoder.layers.0.a_rather_long_name.projection.weight") == 1


def test_ascii_where_the_terminal_knows_no_more() -> None:
    found = text(MODEL, 100, encoding="ascii")
    assert set(found.splitlines()[1]) == {"-"}


def test_wide_letters_keep_the_columns() -> None:
    lines = text(analysis(conv("層/重み"), conv("plain")), 100).splitlines()
    assert lines[2].index("weight") == lines[3].index("weight") - 3  # three letters of double width


def test_what_is_kept_is_told_by_reason_the_most_frequent_first() -> None:
    kept = [Left("a", "rare"), *(Left(f"t{i}", "often") for i in range(3)), Left("x" * 99, "long")]
    assert printed(KeptList(kept), width=30) == "     3  often (t0, t1, t2)\n     1  rare (a)\n     1  long\n"


def test_warnings_stand_below() -> None:
    found = text(analysis(conv("a")), 60, scheme="zeros")
    assert found.split("\n\n")[1].startswith("warning: 1 weight has the same value everywhere, so that")


@pytest.mark.parametrize(
    ("weights", "nbytes", "expected"),
    [
        ([conv("a", 8, 4)], 1152, "1 tensor, 288 parameters, 1.15 kB, seed 3\n"),
        ([gemm("a", 1000, 1000), gemm("b")], 4_000_512, "2 tensors, 1,000,128 parameters, 4 MB, seed 3\n"),
        ([gemm("a", 1000, 1000)], 5_400_000_000, "1 tensor, 1,000,000 parameters, 5.4 GB, seed 3\n"),
        ([weight("a", "bias", ())], 4, "1 tensor, 1 parameter, 4 bytes, seed 3\n"),
        ([], 0, "nothing to rewrite: the plan draws no tensor of this model\n"),
    ],
)
def test_the_total(weights: list[Any], nbytes: int, expected: str) -> None:
    assert printed(total(Plan(3, 1, ()), weights, nbytes)) == expected


def test_the_outcome() -> None:
    assert printed(outcome(None, 1)) == "dry run: nothing was written\n"

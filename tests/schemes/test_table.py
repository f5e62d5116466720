"""The table itself, and schemes of one's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from onnxinit.errors import SchemeError
from onnxinit.sampling import Stream, stream
from onnxinit.schemes import SCHEMES, Block, Distribution, Range, Scheme, Spec, find, parse_spec, register, scheme


@pytest.mark.parametrize("row", SCHEMES.values(), ids=str.lower and [s for s in SCHEMES])
def test_every_row_says_what_it_is(row: Scheme) -> None:
    assert row.summary and not row.summary.startswith("Formula") and row.formula
    assert row.family in ("constant", "independent", "fan", "structured", "defaults", "passes", "sources")
    assert row.source or row.family in ("constant", "independent", "sources") or row.name in ("embedding",)
    for parameter in row.parameters:
        assert parameter.help, parameter.name
        assert parameter.takes
    for alias in row.aliases:
        assert find(alias) is row
    planned = row.by_pass or row.name in ("auto", "keep", "refit", "measured")
    assert ({row.law, row.make, row.draw_from} == {None}) == planned == Spec(row.name).planned
    assert (row.origin == "") == (row.draw_from is None)


def test_the_names_of_the_field_are_there() -> None:
    names = (
        "zeros ones constant uniform normal truncated_normal trunc_normal xavier xavier_uniform xavier_normal glorot "
    )
    names += "glorot_uniform glorot_normal he he_uniform he_normal kaiming kaiming_uniform kaiming_normal msra lecun "
    names += (
        "lecun_uniform lecun_normal variance_scaling orthogonal delta_orthogonal identity eye dirac irnn normalized "
    )
    names += "sparse auto keep"
    for name in names.split():
        assert find(name)


def test_parameters_are_read_off_the_signature() -> None:
    takes = {p.name: (p.kind, p.default, p.takes) for p in find("sparse").parameters}
    assert takes == {
        "nonzeros": ("integer", 15, "an integer, at least 0"),
        "sparsity": ("number", None, "a number, from 0 to 1"),
        "std": ("number", None, "a number, at least 0"),
    }
    assert find("he").parameters[0].choices == ("fan_in", "fan_out")
    assert find("he").parameters[0].help == "fan_in keeps the variance forward, fan_out backward."


@pytest.mark.usefixtures("own_table")
def test_an_independent_scheme_of_ones_own() -> None:
    @scheme("mine", aliases={"mine_wide": {"scale": 2.0}}, gain=True)
    def mine(
        block: Block,
        *,
        scale: Annotated[float, Range(least=0.0, most=9.0)] = 1,
        side: Literal["left", "right"] = "left",
        bold: bool = False,
        times: int = 3,
    ) -> Distribution:
        """Mine.

        Formula: scale/fan_in
            twice

        Args:
            block: The block.
            scale: How
                wide.
            side: Which one.
        """
        return Distribution.normal(scale / block.fan("fan_in") * times * (-1 if bold else 1) * (side == "left"))

    row = find("mine")
    assert (row.family, row.exact_to, row.formula, row.summary) == ("plugin", "bytes", "scale/fan_in twice", "Mine.")
    assert [(p.name, p.kind, p.help) for p in row.parameters] == [
        ("scale", "number", "How wide."),
        ("side", "choice", "Which one."),
        ("bold", "flag", ""),
        ("times", "integer", ""),
    ]
    spec = parse_spec("mine_wide:times=4,gain=exact")
    assert str(spec) == "mine:scale=2,times=4,gain=exact"
    assert spec.distribution(Block((2, 8), 8, 2)).std == 1
    assert mine(Block((2, 8), 8, 2)).std == 3 / 8
    with pytest.raises(SchemeError, match="mine: scale must be a number, from 0 to 9, not '10'"):
        parse_spec("mine:scale=10")


@pytest.mark.usefixtures("own_table")
def test_a_structured_scheme_of_ones_own() -> None:
    @scheme("checks")
    def checks(block: Block, stream: Stream, *, value: float = 1.0) -> Any:
        return value * (np.indices(block.shape).sum(0) % 2)

    spec = parse_spec("checks:value=3")
    assert spec.structured and find("checks").exact_to == "1e-6"
    drawn = spec.draw(Block((2, 2)), stream(b"k"))
    assert drawn.tolist() == [[0, 3], [3, 0]] and drawn.dtype == np.float32


@pytest.mark.usefixtures("own_table")
def test_a_scheme_of_ones_own_that_draws_from_a_tensor() -> None:
    @scheme("shaken")
    def shaken(block: Block, stream: Stream, old: Any, *, share: float = 0.5) -> Any:
        return share * old

    spec, row = parse_spec("shaken:share=2"), find("shaken")
    assert (row.origin, spec.piece, row.moves, spec.planned, spec.structured) == ("own", "block", False, False, False)
    assert spec.moments(Block((2,))) is None
    assert spec.draw_from(Block((2,)), stream(b"k"), np.array([1.0, 3.0])).tolist() == [2, 6]
    with pytest.raises(SchemeError, match=r"the scheme 'shaken' returned the shape \(2,\) for a block of \(3,\)"):
        spec.draw_from(Block((3,)), stream(b"k"), np.array([1.0, 3.0]))


def wrong_kind(block: Block, *, depth: list[int] = []) -> Any:  # noqa: B006
    ...


def no_default(block: Block, *, depth: int) -> Any: ...


def no_block() -> Any: ...


def positional(block: Block, stream: Stream, old: Any, depth: int = 0) -> Any: ...


@pytest.mark.usefixtures("own_table")
@pytest.mark.parametrize(
    "name, function, message",
    [
        ("mine", wrong_kind, "wrong_kind: the parameter 'depth' must be a float, int, bool, str or Literal of words"),
        ("mine", no_default, "no_default: give the parameter 'depth' a default"),
        ("mine", no_block, r"no_block must take \(block\), \(block, stream\) or \(block, stream, old\)"),
        ("mine", positional, r"positional must take \(block\), \(block, stream\) or \(block, stream, old\)"),
        ("he", lambda block: None, "a scheme named 'he' exists already: choose another name"),
        ("msra", lambda block: None, "a scheme named 'msra' exists already: choose another name"),
        ("my-own", lambda block: None, "'my-own' cannot name a scheme: use letters, digits and _"),
    ],
)
def test_functions_that_are_no_schemes(name: str, function: Callable[..., Any], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        scheme(name)(function)


@pytest.mark.usefixtures("own_table")
def test_schemes_that_return_something_else() -> None:
    scheme("none")(lambda block: 3)
    scheme("flat")(lambda block, stream: np.zeros(3))
    with pytest.raises(SchemeError, match="the scheme 'none' returned int in place of a Distribution"):
        parse_spec("none").distribution(Block((2, 2)))
    with pytest.raises(SchemeError, match=r"the scheme 'flat' returned the shape \(3,\) for a block of \(2, 2\)"):
        parse_spec("flat").draw(Block((2, 2)), stream(b"k"))


@pytest.mark.usefixtures("own_table")
def test_annotations_that_nobody_else_knows() -> None:
    def local(block: Nowhere, *, scale: float = 2.0) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        return Distribution.normal(scale)

    scheme("local")(local)
    assert [(p.name, p.kind) for p in find("local").parameters] == [("scale", "number")]


@pytest.mark.usefixtures("own_table")
def test_rows_without_a_function_are_registered_too() -> None:
    row = register(Scheme("lsuv_like", summary="Planned"))
    assert find("lsuv_like") is row and parse_spec("lsuv_like").planned


PLUGIN = """
import onnxinit.schemes as s

@s.scheme("theirs")
def theirs(block, *, scale: float = 2.0):
    "Theirs."
    return s.Distribution.normal(scale)
"""


def run_with_plugin(folder: Path, module: str, code: str) -> str:
    (folder / "their_schemes.py").write_text(module)
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onnxinit.schemes]\ntheirs = their_schemes\n")
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


def test_schemes_of_other_packages(tmp_path: Path) -> None:
    code = "from onnxinit.schemes import *\nprint(parse_spec('theirs:scale=3'), SCHEMES['theirs'].family)"
    assert run_with_plugin(tmp_path, PLUGIN, code) == "theirs:scale=3 plugin\n"


def test_a_package_that_cannot_be_loaded(tmp_path: Path) -> None:
    code = "from onnxinit.schemes import *\nparse_spec('theirs')"
    message = "SchemeError: the schemes of 'their_schemes' cannot be loaded (RuntimeError: no such luck)"
    assert message in run_with_plugin(tmp_path, "raise RuntimeError('no such luck')", code)

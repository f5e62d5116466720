"""The options for calibration data, as any command can carry them."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from onnxinit.cli import options
from onnxinit.signal import DataOptions, ImageOptions


def told(*args: str) -> Any:
    """What a command with these options is given, or what is said of them."""
    seen: list[Any] = []

    @click.command()
    @click.option("--other")
    @options.data
    def command(other: str | None, data_options: DataOptions) -> None:
        seen.append(data_options)

    result = CliRunner().invoke(command, list(args), standalone_mode=True)
    return seen[0] if seen else result.output or result.exception


def test_nothing_said_is_all_defaults() -> None:
    assert told() == told("--other", "1") == DataOptions()


def test_all_of_it_arrives() -> None:
    given = "--data d --batch-size 4 --samples 9 --dim batch=8,length=5 --dim heads=2 --image-size 24x32 --mean 0.5,1,2"
    assert told(*given.split(), "--std", "0.25", "--layout", "nhwc") == DataOptions(
        "d",
        4,
        9,
        {"batch": 8, "length": 5, "heads": 2},
        ImageOptions((24, 32), (0.5, 1.0, 2.0), (0.25,), "nhwc"),
    )
    assert told("--image-size", "224").images.size == (224, 224)
    assert told("--mean=-0.5").images.mean == (-0.5,)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--image-size", "3x4x5"), "'3x4x5' is no size: give one side, or HEIGHTxWIDTH"),
        (("--image-size", "0"), "'0' is no size"),
        (("--mean", "a,b"), "'a,b' is no number, nor several with commas between them"),
        (("--batch-size", "0"), "0 is not in the range x>=1"),
        (("--layout", "chw"), "'chw' is not one of 'nchw', 'nhwc'"),
        (("--dim", "batch"), "--dim 'batch' is not of the form NAME=LENGTH, such as batch=8"),
    ],
)
def test_what_is_no_option(args: tuple[str, ...], said: str) -> None:
    assert said in str(told(*args))

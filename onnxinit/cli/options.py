"""Options that several commands share, each defined once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

F = TypeVar("F", bound=Callable[..., Any])

model = click.argument("model", type=click.Path(path_type=Path))

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")

external_root = click.option(
    "--external-root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder besides the model's own that its external data may lie in.",
)

_PLAN = [
    click.option(
        "--scheme",
        metavar="SPEC",
        help="How kernels are drawn: NAME or NAME:key=value,key=value; `onnxinit schemes` lists them. [default: auto]",
    ),
    click.option("--seed", metavar="N|random", help="The root seed; the same seed gives the same bytes. [default: 0]"),
    click.option(
        "--rule",
        "rules",
        multiple=True,
        metavar="PATTERN=SPEC",
        help="A scheme for the weights that match; repeatable, the last match wins. A PATTERN is a glob on the id, "
        "or role:, op: or activation: and a glob.",
    ),
    click.option("--include", multiple=True, metavar="PATTERN", help="Rewrite these alone; repeatable."),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Keep these as they are; repeatable."),
    click.option(
        "--cascade",
        type=int,
        metavar="N",
        help="Rewrite the top N layers alone, from the output down, with their biases and norms; layers side by side "
        "count as one.",
    ),
    click.option(
        "--keep-scales",
        is_flag=True,
        help="Leave the scales and zero points of quantised weights; the weights are drawn within their range.",
    ),
    click.option(
        "--tie-equal",
        is_flag=True,
        help="Weights whose stored values are equal stay equal, transposed copies too; the values are read.",
    ),
    click.option(
        "--prune-unused",
        is_flag=True,
        help="Leave out initializers that nothing uses. [default: they are listed and kept]",
    ),
    click.option("--allow-unmatched", is_flag=True, help="A PATTERN that matches nothing is a warning, not an error."),
    click.option(
        "--materialize/--no-materialize",
        default=True,
        help="Whether weights that the graph makes whenever it runs (ConstantOfShape, RandomNormal ...) become "
        "initializers. [default: they do]",
    ),
    click.option(
        "--densify",
        is_flag=True,
        help="Weights that are stored sparse become dense ones. [default: they keep their pattern]",
    ),
    click.option(
        "--input-mean",
        type=float,
        metavar="X",
        help="Mean of the float inputs, for schemes that carry moments. [default: that of --data, else 0]",
    ),
    click.option(
        "--input-var",
        type=click.FloatRange(min=0.0),
        metavar="X",
        help="Variance of the float inputs, likewise. [default: that of --data, else 1]",
    ),
    click.option(
        "--plan",
        type=click.Path(path_type=Path),
        metavar="FILE.json",
        help="Take the plan from a file that --report wrote, instead of the options above.",
    ),
]

ops = click.option(
    "--ops",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="A description of operators that are not known, by their weights' roles and axes; repeatable.",
)

provider = click.option(
    "--provider", metavar="NAME", help="Execution provider of ONNX Runtime. [default: the processor's]"
)

spill = click.option(
    "--spill",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="A folder for activations that are held between layers. [default: memory]",
)

_RUNNING = [
    click.option("--calibrate", is_flag=True, help="Scale the weights of any scheme by LSUV as well."),
    click.option(
        "--recalibrate-norm/--no-recalibrate-norm",
        default=None,
        help="Whether batch norms get the statistics of their input on the data. [default: where LSUV scales]",
    ),
    click.option(
        "--recalibrate-activations/--no-recalibrate-activations",
        default=None,
        help="Whether quantised activations get scales for the range of their values on the data. "
        "[default: where --data is given]",
    ),
    click.option("--strict", is_flag=True, help="Leave with status 3 if a weight could not be scaled."),
    provider,
    spill,
]


def running(command: F) -> F:
    """The options of passes that scale weights on data."""
    for option in reversed(_RUNNING):
        command = option(command)
    return command


def plan(command: F) -> F:
    """The options that make a plan."""
    return _with(_PLAN, command)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Height and width: `224`, or `240x320`."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(s.isdecimal() and int(s) for s in sides):
        raise click.BadParameter(f"{value!r} is no size: give one side, or HEIGHTxWIDTH", ctx, param)
    return int(sides[0]), int(sides[-1])


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """One number, or one for each channel with commas between them."""
    try:
        return tuple(float(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r} is no number, nor several with commas between them", ctx, param) from None


_DATA = [
    click.option(
        "--data",
        metavar="PATH",
        help="What the model is fed: .npz, .npy, a folder of either, ONNX test_data_set_* folders, a folder of images, "
        "or module:callable. [default: synthetic feeds]",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        metavar="N",
        help="Samples a batch. [default: a file's where files are feeds, else 32; synthetic feeds 8]",
    ),
    click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Take the first N samples. [default: all]"),
    click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=LENGTH",
        help="The length of a symbolic dimension, such as batch=8; repeatable, or several with commas.",
    ),
    click.option(
        "--image-size",
        callback=_size,
        metavar="N|HxW",
        help="What images are resized to. [default: the model's size, else their own]",
    ),
    click.option(
        "--mean",
        callback=_numbers,
        metavar="X,X,X",
        help="Taken off images, in 0 ... 1: a number, or one a channel.",
    ),
    click.option("--std", callback=_numbers, metavar="X,X,X", help="What images are divided by, as --mean."),
    click.option(
        "--layout",
        type=click.Choice(["nchw", "nhwc"]),
        help="Where images have their channels. [default: where the model has a length of 1, 3 or 4]",
    ),
]


def data(command: F) -> F:
    """The options that say which data the model is fed: one argument `data_options`, a `DataOptions`."""

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        from onnxinit.signal import DataOptions, ImageOptions, parse_dims

        names = ("data", "batch_size", "samples", "dims", "image_size", "mean", "std", "layout")
        d = {name: given.pop(name) for name in names}
        images = ImageOptions(d["image_size"], d["mean"], d["std"], d["layout"])
        options = DataOptions(d["data"], d["batch_size"], d["samples"], parse_dims(d["dims"]), images)
        return command(**given, data_options=options)

    return _with(_DATA, cast(F, run))


def _with(options: Sequence[Callable[[Any], Any]], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command

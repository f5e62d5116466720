"""Options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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
    click.option("--allow-unmatched", is_flag=True, help="A PATTERN that matches nothing is a warning, not an error."),
    click.option(
        "--plan",
        type=click.Path(path_type=Path),
        metavar="FILE.json",
        help="Take the plan from a file that --report wrote, instead of the options above.",
    ),
]

_RUNNING = [
    click.option("--calibrate", is_flag=True, help="Scale the weights of any scheme by LSUV as well."),
    click.option(
        "--recalibrate-norm/--no-recalibrate-norm",
        default=None,
        help="Whether batch norms get the statistics of their input on the data. [default: where LSUV scales]",
    ),
    click.option("--strict", is_flag=True, help="Leave with status 3 if a weight could not be scaled."),
    click.option("--provider", metavar="NAME", help="Execution provider of ONNX Runtime. [default: the processor's]"),
    click.option(
        "--spill",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        metavar="DIR",
        help="A folder for activations that are held between layers. [default: memory]",
    ),
]


def running(command: F) -> F:
    """The options of passes that scale weights on data."""
    for option in reversed(_RUNNING):
        command = option(command)
    return command


def plan(command: F) -> F:
    """The options that make a plan."""
    for option in reversed(_PLAN):
        command = option(command)
    return command

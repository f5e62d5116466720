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


def plan(command: F) -> F:
    """The options that make a plan."""
    for option in reversed(_PLAN):
        command = option(command)
    return command

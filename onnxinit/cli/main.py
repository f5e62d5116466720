"""The command group: commands are imported when they are called, so that `--help` needs click alone."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence

import click

from onnxinit import __version__
from onnxinit.errors import OnnxinitError

COMMANDS = {
    "reinit": "Write MODEL again with fresh weights.",
    "inspect": "Show what every tensor of MODEL is and what reinit would draw for it.",
    "diagnose": "Say how the signal and the gradient of MODEL fare, layer by layer.",
    "schemes": "List the schemes with their parameters, formulas and sources.",
}


class LazyGroup(click.Group):
    """A group whose command NAME is `command` in the module onnxinit.cli.NAME."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"onnxinit.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Re-initialise ONNX models without the framework that made them."""


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 done; 1 the model, the scheme or the data cannot be handled (one line on stderr); 2 wrong usage;
    3 an expectation does not hold; 130 interrupted.
    """
    # Our own threads share the work; a second crew below numpy would fight them for the processors.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal's encoding lacks
    try:
        status = cli.main(args, prog_name="onnxinit", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except OnnxinitError as e:
        click.echo(f"onnxinit: error: {e}", err=True)
        return e.exit_status
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except click.Abort:
        return 130
    except BrokenPipeError:  # whoever read has read enough; what is still in the buffer must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        click.echo(f"onnxinit: error: {where}{e.strerror or e}", err=True)
        return 1
    except MemoryError:
        click.echo("onnxinit: error: out of memory: --threads 1 needs the least", err=True)
        return 1


def main() -> None:
    """Entry point of the `onnxinit` script and of `python -m onnxinit`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit like any other leaves no temporary files
    sys.exit(run())

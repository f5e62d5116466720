"""Draw the picture of the README: `python docs/picture.py [FILE.svg]`.

Runs the command in its title in a terminal of a fixed width and draws what it printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMAND = "onnxinit reinit models/resnet_bn.onnx --scheme he --dry-run"
WIDTH = 110


def output() -> str:
    """What the command prints on a terminal, with its colours."""
    terminal = {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | terminal
    command = [sys.executable, "-m", *COMMAND.split()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def draw(printed: str) -> str:
    """The picture, as SVG that needs no font from elsewhere."""
    from rich.console import Console
    from rich.text import Text

    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi(printed), soft_wrap=True)
        svg = console.export_svg(title=COMMAND, unique_id="reinit")
    svg = re.sub(r"\s*@font-face \{[^}]*\}", "", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("reinit.svg")
    target.write_text(draw(output()), encoding="utf-8")

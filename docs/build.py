"""Make again what the documentation shows of the program: `python docs/build.py`.

docs/reinit.svg   the picture of the README: what the command in its title prints on a terminal
docs/schemes.md   the reference of the schemes, from their table
README.md         the short list of schemes, between its two markers
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMAND = "onnxinit reinit models/transformer.onnx --scheme he --dry-run"
WIDTH = 110
MARKS = "<!-- schemes: made by docs/build.py -->", "<!-- end of schemes -->"


def printed() -> str:
    """What the command prints on a terminal, with its colours."""
    terminal = {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | terminal
    command = [sys.executable, "-m", *COMMAND.split()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def picture() -> str:
    """The printed text as SVG that needs no font from elsewhere."""
    from rich.console import Console
    from rich.text import Text

    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi(printed()), soft_wrap=True)
        svg = console.export_svg(title=COMMAND, unique_id="reinit")
    svg = re.sub(r"\s*@font-face \{[^}]*\}", "", svg)
    svg = re.sub(r'<text class="(\S+)" x="(\S+)" y="(\S+)" textLength="(\S+)" [^>]*>([^<]*)</text>', _placed, svg)
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"


def _placed(found: re.Match[str]) -> str:
    """A run of text as words, each at its own place: no viewer then has to know how wide a blank is."""
    style, x, y, length, escaped = found.groups()
    text = html.unescape(escaped).replace("\xa0", " ")
    width = float(length) / len(text)
    return "".join(
        f'<text class="{style}" x="{float(x) + width * word.start():.1f}" y="{y}" '
        f'textLength="{width * len(word[0]):.1f}">{html.escape(word[0])}</text>'
        for word in re.finditer(r"\S+", text)
    )


def reference() -> str:
    """The page of the schemes: every row of the table, whole."""
    from onnxinit.schemes import SCHEMES

    lines = [
        "# Schemes",
        "",
        "Made by `python docs/build.py` from the table that the program uses; `onnxinit schemes` prints it too.",
        "A SPEC is `name` or `name:key=value,key=value`, for example `he:mode=fan_out,distribution=uniform`. Where a",
        "scheme takes a gain, `gain=paper` is the default; `exact`, `upstream` and a number are the others",
        "([which is which](guide.md#gains)).",
    ]
    for s in SCHEMES.values():
        lines += ["", f"## {s.name}", "", _sentence(s.summary), "", f"    {s.formula}", ""]
        lines += [f"- `{p.name}`{_default(p.default)}, {p.takes}: {_sentence(p.help)}" for p in s.parameters]
        lines += ["- Takes a gain."] if s.gain else []
        lines += ["- A seed means the same values everywhere to 1e-6 only, since sums are involved."] * (
            s.exact_to != "bytes"
        )
        lines += [f"- Also called {', '.join(map(_alias, s.aliases.items()))}."] if s.aliases else []
        lines += [f"- Source: {_sentence(s.source)}"] if s.source else []
    return "\n".join(lines) + "\n"


def overview() -> str:
    """The short list of schemes."""
    from onnxinit.schemes import SCHEMES

    lines = ["| scheme | also called | what it draws |", "|---|---|---|"]
    lines += [f"| `{s.name}` | {', '.join(s.aliases)} | {_sentence(s.summary)} |" for s in SCHEMES.values()]
    return "\n".join(lines)


def filled(readme: str) -> str:
    """The README with the short list of today between its markers."""
    head, _, rest = readme.partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    return f"{head}{MARKS[0]}\n{overview()}\n{MARKS[1]}{tail}"


def _alias(item: tuple[str, object]) -> str:
    name, sets = item
    assert isinstance(sets, Iterable)
    values = dict(sets) if sets else {}
    return f"`{name}`" + (f" ({', '.join(f'{k}={v}' for k, v in values.items())})" if values else "")


def _default(value: object) -> str:
    return "" if value is None else f" = {str(value).lower() if isinstance(value, bool) else value}"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."


def main() -> None:
    """Write all three."""
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / "docs" / "schemes.md").write_text(reference(), encoding="utf-8")
    (ROOT / "docs" / "reinit.svg").write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The README holds: its commands run, its list of schemes and its picture are those of today."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")

# The first steps of both commands that set everything up: `.ci/run` runs them, the test below runs what follows.
SET_UP = "python3 -m venv .venv && . .venv/bin/activate && pip install "


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The commands of the shell blocks, in order; a line that ends in a backslash goes on."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def installed(command: str) -> str:
    """What a command does after the set-up, in the environment that the tests run in."""
    if not command.startswith(SET_UP):
        return command
    return command.removeprefix(SET_UP).partition(" && ")[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as a new user has it, as far as the commands need it."""
    home = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "models", home / "models", ignore=shutil.ignore_patterns("__pycache__"))
    return home


def run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_two_commands_set_everything_up() -> None:
    main, tests = [c for c in commands(README) if c.startswith(SET_UP)]
    assert installed(main).startswith("onnxinit reinit models/")
    assert installed(tests) == "pytest"
    install = re.search(r"pip install (\S+)", tests)
    assert install is not None
    script = (ROOT / ".ci" / "run").read_text()
    assert f'/pip" install --quiet --no-input --disable-pip-version-check {install[1]}\n' in script
    assert re.search(r'^step "\$bin/pytest"', script, re.MULTILINE)


@pytest.mark.parametrize("text", [README, GUIDE], ids=["readme", "guide"])
def test_every_command_runs(text: str, folder: Path, tmp_path: Path) -> None:
    checkout = shutil.copytree(folder, tmp_path / "checkout")
    ran = [installed(c) for c in commands(text)]
    for command in ran:
        if command != "pytest":  # this very test is part of it
            assert run(["bash", "-euc", command], checkout), f"{command} prints nothing"
    assert any(c.startswith("onnxinit reinit") for c in ran)
    for code in blocks(text, "python"):
        run([sys.executable, "-W", "error", "-c", code], checkout)


def test_the_lists_of_schemes_are_those_of_today(script: ModuleType) -> None:
    assert script.filled(README) == README, "stale: run python docs/build.py"
    assert script.reference() == (ROOT / "docs" / "schemes.md").read_text(encoding="utf-8"), "stale, likewise"


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_picture_shows_what_is_printed(script: ModuleType) -> None:
    def words(svg: str) -> str:
        return "".join(html.unescape("".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))).split())

    drawn = (ROOT / "docs" / "reinit.svg").read_text(encoding="utf-8")
    assert words(script.picture()) == words(drawn), "stale: run python docs/build.py"
    assert f"![{script.COMMAND}](docs/reinit.svg)" in README

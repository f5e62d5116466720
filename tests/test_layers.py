"""How the package hangs together: one direction of imports, one page of public names, an instant --help."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import onnxinit

ROOT = Path(onnxinit.__file__).parent

# Top to bottom: each imports only from those above it.
ROOMS = [
    "errors",
    "plugins",
    "model",
    "analysis",
    "sampling",
    "schemes",
    "plan",
    "values",
    "signal",
    "report",
    "reinit",
    "ir",
    "cli",
]
# The rooms of the signal, likewise.
SIGNAL = ["data", "run", "told", "moments", "health", "passes", "settling"]
SOURCES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem not in ("__init__", "__main__"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, at_start: bool = False) -> set[str]:
    """The modules that a file imports; at the start: those that importing the file imports."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif at_start and isinstance(node, ast.FunctionDef | ast.If):  # run later, or for type checkers only
            continue
        todo += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_the_rooms_above_it(path: Path) -> None:
    here = ROOMS.index(room(path))
    for name in imports(path):
        if name.startswith("onnxinit.") and name != "onnxinit.__version__":
            other = name.split(".")[1]
            assert other in ROOMS, f"{path}: imports {name}"
            assert ROOMS.index(other) <= here, f"{path}: {other} is below {room(path)}"


@pytest.mark.parametrize("path", sorted((ROOT / "signal").rglob("[a-z]*.py")), ids=lambda p: p.stem)
def test_so_do_the_rooms_of_the_signal(path: Path) -> None:
    here = SIGNAL.index(path.relative_to(ROOT / "signal").parts[0].removesuffix(".py"))
    for name in imports(path):
        if name.startswith("onnxinit.signal."):
            assert SIGNAL.index(name.split(".")[2]) <= here, f"{path}: imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_click_and_rich_face_the_user_alone(path: Path) -> None:
    allowed = {"cli": {"click", "rich"}, "report": {"rich"}}.get(room(path), set())
    tops = {name.partition(".")[0] for name in imports(path)}
    assert tops & {"click", "rich"} <= allowed
    at_start = {name.partition(".")[0] for name in imports(path, at_start=True)}
    assert "onnxruntime" not in at_start, "it is imported where it runs"
    if room(path) == "cli":
        assert not at_start & {"numpy", "onnx", "rich"}, "--help needs click alone"


@pytest.mark.parametrize("name", sorted(p.parent.name for p in ROOT.glob("*/__init__.py")))
def test_a_room_names_what_it_offers(name: str) -> None:
    module = importlib.import_module(f"onnxinit.{name}")
    offered = getattr(module, "__all__", [])
    assert len(offered) == len(set(offered))
    assert [n for n in offered if not hasattr(module, n)] == []


def test_the_public_names() -> None:
    submodules = {p.name.removesuffix(".py") for p in ROOT.iterdir()}
    public = {n for n in vars(onnxinit) if not n.startswith("_")} - submodules
    assert set(onnxinit._HOME) | public - {"TYPE_CHECKING", "ModuleType", "annotations", "importlib", "sys"} == (
        set(onnxinit.__all__) - {"__version__"}
    )
    assert sorted(set(onnxinit.__all__)) == dir(onnxinit) == sorted(onnxinit.__all__)
    for name in onnxinit.__all__:
        assert getattr(onnxinit, name) is not None
    with pytest.raises(AttributeError, match=r"^module 'onnxinit' has no attribute 'reinti'$"):
        onnxinit.reinti  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    assert importlib.metadata.version("onnxinit") == onnxinit.__version__


def run(*code: str) -> str:
    done = subprocess.run([sys.executable, "-c", "; ".join(code)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "first", ["import onnxinit.reinit", "from onnxinit.reinit import Result", "import onnxinit.cli.reinit", "pass"]
)
def test_the_function_reinit_is_not_hidden_by_its_module(first: str) -> None:
    assert run(first, "import onnxinit", "print(onnxinit.reinit.__module__, callable(onnxinit.reinit))") == (
        "onnxinit.reinit True"
    )


HEAVY = "[m for m in ('numpy', 'onnx', 'onnxruntime', 'rich') if m in sys.modules]"


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["reinit", "--help"], ["inspect", "--help"], ["nothing"]])
def test_help_imports_neither_numpy_nor_onnx(args: list[str]) -> None:
    code = f"import sys; from onnxinit.cli.main import run; run({args!r}); print({HEAVY})"
    assert run(code).endswith("[]")


def test_importing_the_package_costs_nothing() -> None:
    assert run("import sys, onnxinit", f"print({HEAVY})") == "[]"


def test_import_time_says_so_too() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "onnxinit", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"numpy", "onnx", "onnxruntime"}

"""Sweep: `python -m tests.sweep FOLDER [FOLDER ...]` checks the promises on every .onnx file below the folders.

`--onnx` sweeps the models that the onnx package ships, `--nodes` its node tests, made on the spot. The exit status is 1
where a promise is broken.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.sweep.promises import PROMISES, Checked, check_file
from tests.sweep.workers import Check, sweep


def main(arguments: Sequence[str] | None = None, check: Check = check_file) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sweep", description="Check every promise on every .onnx file below folders."
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="a folder, or a file")
    parser.add_argument("--onnx", action="store_true", help="the models that the installed onnx package ships")
    parser.add_argument("--nodes", action="store_true", help="the node tests of the installed onnx package")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (all processors)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a file (120)")
    options = parser.parse_intermixed_args(arguments)
    folders = list(options.folders)
    if options.onnx:
        folders.append(Path(onnx.__file__).parent)
    with tempfile.TemporaryDirectory() as made:
        if options.nodes:
            write_node_tests(Path(made))
            folders.append(Path(made))
        files = find(folders)
        if not files:
            parser.error("there is no .onnx file to sweep")
        started = time.monotonic()
        found: dict[Path, Checked] = {}
        for file, checked in sweep(files, options.jobs, options.limit, check):
            found[file] = checked
            for promise, trouble in checked.broken.items():
                print(f"BROKEN {promise}: {file}\n    {trouble.strip()}", flush=True)
        print(table(found, time.monotonic() - started))
    return int(any(checked.broken for checked in found.values()))


def find(folders: Iterable[Path]) -> list[Path]:
    """The .onnx files below folders, each once; a file stands for itself."""
    files = {f: None for folder in folders for f in ([folder] if folder.is_file() else sorted(folder.rglob("*.onnx")))}
    return list(files)


def write_node_tests(folder: Path) -> None:
    """Write the models of the onnx package's node tests, which are made by calling them, each in a folder of its own.

    What they feed is written as a second model of each, where all inputs but the first are stored in the file.
    """
    from onnx.backend.test.case.node import collect_testcases

    with np.errstate(all="ignore"):
        cases = collect_testcases("")
    for case in cases:
        if case.model is None or not case.data_sets:
            continue
        (folder / case.name).mkdir()
        onnx.save(case.model, str(folder / case.name / "fed.onnx"))
        inputs, fed = list(case.model.graph.input), case.data_sets[0][0]
        stored = [(i, a) for i, a in zip(inputs, fed, strict=False) if isinstance(a, np.ndarray)][1:]
        if not stored:
            continue
        case.model.graph.initializer.extend(numpy_helper.from_array(array, info.name) for info, array in stored)
        for info, _ in stored:
            case.model.graph.input.remove(info)
        onnx.save(case.model, str(folder / case.name / "stored.onnx"))


def table(found: dict[Path, Checked], seconds: float) -> str:
    """What was checked, how often it held, the refusals by reason, and every failure once more."""
    held = Counter(promise for checked in found.values() for promise in checked.held)
    broken = Counter(promise for checked in found.values() for promise in checked.broken)
    rows = [f"{name:10} {held[name]:7} {broken[name]:7}  {what}" for name, what in PROMISES.items()]
    refused = {file: checked.refused for file, checked in found.items() if checked.refused}
    failed = sum(bool(checked.broken) for checked in found.values())
    weights = sum(checked.weights for checked in found.values())
    return "\n".join(
        [
            *(f"refused: {file.parent.name}/{file.name}: {reason}" for file, reason in refused.items()),
            f"{'promise':10} {'held':>7} {'broken':>7}",
            *rows,
            f"{len(found)} files, {weights} weights rewritten, {len(refused)} files refused, {failed} failed; "
            f"{seconds:.0f} seconds",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

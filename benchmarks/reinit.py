"""Wall time and peak memory of `onnxinit reinit` on a large model.

    python benchmarks/reinit.py                                     400 MB in one file
    python benchmarks/reinit.py --megabytes 4000 --external         4 GB in a data file beside the graph

The model is a chain of square layers, made on the spot. Every contestant is a process of its own; the runs are
interleaved and their medians compared, since a shared machine is steady in ratios only. Memory is the largest resident
set of the process. Beside onnxinit run: loading and saving the model with the onnx package, the file's bytes written
once and flushed (nothing that writes such a file is faster), and numpy's ziggurat drawing as many values without
writing them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

LAYERS = 100
OTHERS = str(Path(__file__).with_name("contestants.py"))


@dataclass
class Contestant:
    """A command and what its runs took."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def run(self, folder: Path) -> None:
        """Run once in an empty folder."""
        for old in folder.iterdir():
            old.unlink()
        os.sync()
        start = time.perf_counter()
        child = subprocess.Popen([sys.executable, *self.command], cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        self.seconds.append(time.perf_counter() - start)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{self.name}: exit status {child.returncode}")
        self.megabytes.append(usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--external", action="store_true", help="keep the values in a data file beside the graph")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scheme", default="he")
    parser.add_argument("--folder", help="where to put the model (default: the system's temporary folder)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        model, out = Path(temporary, "model.onnx"), Path(temporary, "out")
        out.mkdir()
        side = round((args.megabytes * 1e6 / 4 / LAYERS) ** 0.5)
        made = [OTHERS, "make", str(model), str(LAYERS), str(side), str(args.external)]
        subprocess.run([sys.executable, *made], check=True)
        size = str(LAYERS * side * side * 4)

        def reinit(threads: int) -> list[str]:
            shell = ["-m", "onnxinit", "reinit", str(model), "-o", "fresh.onnx", "--quiet"]
            return [*shell, "--scheme", args.scheme, "--threads", str(threads)]

        contestants = [
            Contestant("onnxinit, 1 thread", reinit(1)),
            Contestant("onnxinit, 2 threads", reinit(2)),
            Contestant("onnx load + save", [OTHERS, "load_save", str(model), "saved.onnx", str(args.external)]),
            Contestant("write + fsync only", [OTHERS, "write", "bytes", size]),
            Contestant("numpy normals only", [OTHERS, "draw", size]),
        ]
        for _ in range(args.runs):
            for contestant in contestants:
                contestant.run(out)

    place = "external" if args.external else "embedded"
    print(f"{int(size) / 1e6:.0f} MB, {LAYERS} tensors, {place}, --scheme {args.scheme}")
    print(f"medians of {args.runs} interleaved runs\n")
    print(f"{'':22}{'seconds':>10}{'range':>16}{'ratio':>8}{'peak MB':>10}")
    first = statistics.median(contestants[0].seconds)
    for c in contestants:
        middle = statistics.median(c.seconds)
        span = f"{min(c.seconds):.2f} - {max(c.seconds):.2f}"
        print(f"{c.name:22}{middle:10.2f}{span:>16}{middle / first:8.2f}{max(c.megabytes):10.0f}")


if __name__ == "__main__":
    main()

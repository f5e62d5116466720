"""What the LSUV sweep costs and how exact it is, on a ResNet-50 and on a transformer of 24 layers.

    python benchmarks/lsuv.py                                     all figures of both networks
    python benchmarks/lsuv.py --model resnet50 --figure time      one of them

Needs PyTorch, which makes the networks (`lsuv_torch.py`). The figures:

error    The std of every layer's pre-activation less 1, by a separate run of the saved file in ONNX Runtime with the
         pre-activations as outputs: on the calibration batch, and on a batch of other samples of the same kind.
time     The sweep (planning, sessions, runs, statistics, rescaling; neither loading nor analysis nor drawing) against
         one forward pass of the same file in ONNX Runtime: all optimisations, same batch, same threads. By wall time,
         and by processor time, which other work on the machine moves less.
torch    The wall time of LSUV in PyTorch against the sweep's.
memory   The largest resident set of a process that runs `onnxinit reinit --scheme lsuv`, against its bound: the largest
         weight, the most activations that are alive at once, and 150 MB for Python and ONNX Runtime. A process
         that runs the file once as it comes stands beside it.

Runs are interleaved and their medians compared, since a shared machine is steady in ratios only.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from preactivations import largest_weights, most_alive, session, stds
from reinit import Contestant

import onnxinit
from onnxinit.analysis import analyse
from onnxinit.model import ModelFile
from onnxinit.plan import make_plan
from onnxinit.signal import Calibration, DataOptions, Running, settle
from onnxinit.signal.supply import Supply

HERE = Path(__file__).parent
MODELS = ("resnet50", "resnet50_bn", "transformer")
RUNTIME = 150e6  # bytes that Python, the packages and ONNX Runtime take


@dataclass
class Case:
    """A network in a file, a batch to calibrate on, and another batch."""

    name: str
    folder: Path
    threads: int
    runs: int
    swept: float = 0.0  # seconds of the sweep, once it is measured

    @classmethod
    def make(cls, name: str, folder: Path, threads: int, runs: int) -> Case:
        case = cls(name, folder, threads, runs)
        if not case.model.exists():
            by_torch("export", name, str(case.model))
            for data, seed in ((case.data, 0), (case.other, 1)):
                by_torch("feed", name, str(data), str(seed))
        return case

    @property
    def model(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    @property
    def data(self) -> Path:
        return self.folder / f"{self.name}.npz"

    @property
    def other(self) -> Path:
        return self.folder / f"{self.name}.other.npz"

    # ------------------------------------------------------------ figures

    def error(self) -> None:
        fresh = self.folder / "fresh.onnx"
        result = onnxinit.reinit(
            self.model, fresh, scheme="lsuv", data=self.data, threads=self.threads, seed=1, force=True
        )
        reached = {f.id for f in result.signal.layers if f.status == "set"}
        for label, data in (("on the calibration batch", self.data), ("on another batch", self.other)):
            found = stds(fresh, dict(np.load(data)))
            errors = {name: abs(std - 1) for name, std in found.items()}
            worst = max(errors, key=errors.__getitem__)
            first, middle = next(iter(errors.values())), statistics.median(errors.values())
            print(f"  |std - 1| {label:26}first {first:.1e}, median {middle:.1e}, most {errors[worst]:.1e} ({worst})")
        print(f"  {len(found)} layers in the file, {len(reached & found.keys())} of them reached")

    def time(self) -> None:
        feed = dict(np.load(self.data))
        plain = session(self.model, self.threads)
        forward, sweep, drawing = list[Took](), list[Took](), list[Took]()
        for _ in range(self.runs):
            start = Took.now()
            plain.run(None, feed)
            forward.append(Took.now() - start)
            took, drawn = self._sweep()
            sweep.append(took - drawn)
            drawing.append(drawn)
        (f, f_cpu), (s, s_cpu), (d, _) = map(medians, (forward, sweep, drawing))
        self.swept = s
        print(
            f"  forward pass {f:.3f} s, sweep {s:.3f} s, drawing {d:.3f} s; medians of {self.runs} interleaved runs\n"
            f"  sweep / forward pass {s / f:.2f} by wall time, {s_cpu / f_cpu:.2f} by processor time"
        )

    def torch(self) -> None:
        if not self.swept:
            self.time()
        found = json.loads(by_torch("lsuv", self.name, str(self.data), str(self.threads)))
        print(
            f"  LSUV in PyTorch {found['seconds']:.1f} s ({found['runs']} passes of {found['forward']:.3f} s)\n"
            f"  LSUV in PyTorch / sweep {found['seconds'] / self.swept:.0f}"
        )

    def memory(self) -> None:
        shell = ["-m", "onnxinit", "reinit", str(self.model), "-o", "fresh.onnx", "--quiet"]
        sweep = [*shell, "--scheme", "lsuv", "--data", str(self.data), "--threads", str(self.threads)]
        plain = [str(HERE / "contestants.py"), "forward", str(self.model), str(self.data), str(self.threads)]
        contestants = [Contestant("onnxinit", sweep), Contestant("plain", plain)]
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        for contestant in contestants:
            contestant.run(out)
        weight, alive = largest_weights(self.model), most_alive(self.model, dict(np.load(self.data)))
        ours, others = (max(c.megabytes) for c in contestants)
        print(
            f"  peak {ours:.0f} MB; bound {(weight + alive + RUNTIME) / 1e6:.0f} MB "
            f"({weight / 1e6:.0f} largest weight, {alive / 1e6:.0f} activations, {RUNTIME / 1e6:.0f} runtime); "
            f"one plain run {others:.0f} MB"
        )

    def _sweep(self) -> tuple[Took, Took]:
        """What the passes over the signal took that settle a plan, and what of it went into drawing weights."""
        file = ModelFile.open(self.model)
        analysis = analyse(file)
        plan = make_plan(analysis, scheme="lsuv")
        told = Calibration(DataOptions(self.data), running=Running(threads=self.threads))
        drawn, array = list[Took](), Supply.array

        def timed(supply: Supply, path: str) -> object:
            start = Took.now()
            try:
                return array(supply, path)
            finally:
                if supply.entry(path) is not None:
                    drawn.append(Took.now() - start)

        with patch.object(Supply, "array", timed):
            start = Took.now()
            settle(plan, analysis, file, told)
            took = Took.now() - start
        return took, Took(sum(t.wall for t in drawn), sum(t.processor for t in drawn))


@dataclass(frozen=True)
class Took:
    """Seconds by the wall's clock and of this process."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Took:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Took) -> Took:
        return Took(self.wall - other.wall, self.processor - other.processor)


def medians(took: Sequence[Took]) -> tuple[float, float]:
    return statistics.median(t.wall for t in took), statistics.median(t.processor for t in took)


FIGURES: Mapping[str, Callable[[Case], None]] = {
    "error": Case.error,
    "time": Case.time,
    "torch": Case.torch,
    "memory": Case.memory,
}


def by_torch(*arguments: str) -> str:
    """What `lsuv_torch.py` prints, in a process of its own."""
    command = [sys.executable, str(HERE / "lsuv_torch.py"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append", help="all if not given; may be repeated")
    parser.add_argument("--figure", choices=FIGURES, action="append", help="all if not given; may be repeated")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the models are put and found again (default: temporary)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.model or MODELS:
            case = Case.make(name, folder, args.threads, args.runs)
            print(f"{name}, {args.threads} thread{'s' * (args.threads > 1)}")
            for figure in args.figure or FIGURES:
                FIGURES[figure](case)


if __name__ == "__main__":
    main()

"""What the LSUV sweep costs and how exact it is, on a ResNet-50 and on a transformer of 24 layers.

    python benchmarks/lsuv.py                                     all figures of both networks
    python benchmarks/lsuv.py --model resnet50 --figure time      one of them

Needs PyTorch, which makes the networks (`lsuv_torch.py`). The figures:

error    The std of every layer's pre-activation less 1, by a separate run of the saved file in ONNX Runtime with the
         pre-activations as outputs: on the calibration data, and on as many other samples of the same kind.
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

import onnxinit
from onnxinit.analysis import analyse
from onnxinit.model import ModelFile
from onnxinit.plan import make_plan
from onnxinit.signal import Calibration, DataOptions, Running, settle
from onnxinit.signal.run.supply import Supply

HERE = Path(__file__).parent
MODELS = ("resnet50", "resnet50_bn", "transformer")
RUNTIME = 150e6  # bytes that Python, the packages and ONNX Runtime take


@dataclass
class Case:
    """A network in a file, a batch to calibrate on, and for the errors many, and as many others."""

    name: str
    folder: Path
    threads: int
    runs: int
    batches: int
    swept: Took | None = None  # the sweep, once it is measured

    def make(self) -> None:
        if not self.model.exists():
            by_torch("export", self.name, str(self.model))
        for data, seed, batches in ((self.data, 0, 1), (self.many, 1, self.batches), (self.other, 2, self.batches)):
            by_torch("feed", self.name, str(data), str(seed), str(batches))

    @property
    def model(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    @property
    def data(self) -> Path:
        return self.folder / f"{self.name}.npz"

    @property
    def many(self) -> Path:
        return self.folder / f"{self.name}.many.npz"

    @property
    def other(self) -> Path:
        return self.folder / f"{self.name}.other.npz"

    # ------------------------------------------------------------ figures

    def error(self) -> None:
        fresh, size = self.folder / "fresh.onnx", len(inputs(self.data)["input"])
        result = onnxinit.reinit(
            self.model,
            fresh,
            scheme="lsuv",
            data=self.many,
            batch_size=size,
            threads=self.threads,
            force=True,
        )
        assert result.signal is not None
        reached = {f.id for f in result.signal.layers if f.status == "set"}
        for label, data in (("on the calibration data", self.many), ("on other data", self.other)):
            samples = inputs(data)["input"]
            found = stds(fresh, ({"input": samples[at : at + size]} for at in range(0, len(samples), size)))
            errors = {name: abs(std - 1) for name, std in found.items()}
            worst = max(errors, key=errors.__getitem__)
            first, middle = next(iter(errors.values())), statistics.median(errors.values())
            print(f"  |std - 1| {label:25}first {first:.1e}, median {middle:.1e}, most {errors[worst]:.1e} ({worst})")
        print(f"  {len(reached & found.keys())} of {len(found)} layers reached, {self.batches} batches")

    def time(self) -> None:
        feed = inputs(self.data)
        plain = session(self.model, self.threads)
        forward, sweep, drawing = list[Took](), list[Took](), list[Took]()
        for _ in range(self.runs):
            start = Took.now()
            plain.run(None, feed)
            forward.append(Took.now() - start)
            took, drawn = self._sweep()
            sweep.append(took - drawn)
            drawing.append(drawn)
        plainly, self.swept, drew = map(Took.median, (forward, sweep, drawing))
        print(
            f"  forward pass {plainly.wall:.3f} s, sweep {self.swept.wall:.3f} s, drawing {drew.wall:.3f} s; "
            f"medians of {self.runs} interleaved runs\n"
            f"  sweep / forward pass {self.swept.wall / plainly.wall:.2f} by wall time, "
            f"{self.swept.processor / plainly.processor:.2f} by processor time"
        )

    def torch(self) -> None:
        if self.swept is None:
            self.time()
        assert self.swept is not None
        found = json.loads(by_torch("lsuv", self.name, str(self.data), str(self.threads)))
        print(
            f"  LSUV in PyTorch {found['wall']:.1f} s, {found['runs']} forward passes; against the sweep "
            f"{found['wall'] / self.swept.wall:.0f} by wall time, {found['processor'] / self.swept.processor:.0f} by "
            f"processor time"
        )

    def memory(self) -> None:
        shell = ["-m", "onnxinit", "reinit", str(self.model), "-o", str(self.folder / "out.onnx"), "--quiet", "--force"]
        sweep = [*shell, "--scheme", "lsuv", "--data", str(self.data), "--threads", str(self.threads)]
        plain = [str(HERE / "contestants.py"), "forward", str(self.model), str(self.data), str(self.threads)]
        ours, others = (float(in_python("contestants.py", "peak", *command)) for command in (sweep, plain))
        weight, alive = largest_weights(self.model), most_alive(self.model, inputs(self.data))
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

    @classmethod
    def median(cls, several: Sequence[Took]) -> Took:
        return cls(statistics.median(t.wall for t in several), statistics.median(t.processor for t in several))

    def __sub__(self, other: Took) -> Took:
        return Took(self.wall - other.wall, self.processor - other.processor)


FIGURES: Mapping[str, Callable[[Case], None]] = {
    "error": Case.error,
    "time": Case.time,
    "torch": Case.torch,
    "memory": Case.memory,
}


def inputs(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path))


def by_torch(*arguments: str) -> str:
    return in_python("lsuv_torch.py", *arguments)


def in_python(script: str, *arguments: str) -> str:
    """What a script of this folder prints, in a process of its own."""
    done = subprocess.run([sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append", help="all if not given; may be repeated")
    parser.add_argument("--figure", choices=FIGURES, action="append", help="all if not given; may be repeated")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--batches", type=int, default=32, help="of the data that errors are measured on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the models are put and found again (default: temporary)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.model or MODELS:
            case = Case(name, folder, args.threads, args.runs, args.batches)
            case.make()
            print(f"{name}, {args.threads} thread{'s' * (args.threads > 1)}")
            for figure in args.figure or FIGURES:
                FIGURES[figure](case)


if __name__ == "__main__":
    main()

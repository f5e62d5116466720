"""Speed of drawing values and orthogonal matrices.

    python benchmarks/sampling.py                nanoseconds per value, one thread and two
    python benchmarks/sampling.py orthogonal     milliseconds per matrix, one thread

Beside onnxinit run numpy (PCG64, its fastest calls, into arrays that are there) and PyTorch where it is installed. The
runs are interleaved and their medians compared, since a shared machine is steady in ratios only.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

import numpy as np

from onnxinit.sampling import CHUNK, haar, stream, weight_key

VALUES = 1 << 23
KEY = weight_key(0, "benchmark")

Draw = Callable[[np.ndarray, int], object]


def chunked(draw: Draw) -> Callable[[np.ndarray, int, int], None]:
    """Draw every chunk of an array whose number is `first` modulo `step`."""

    def run(out: np.ndarray, first: int, step: int) -> None:
        for chunk in range(first, out.size // CHUNK, step):
            draw(out[chunk * CHUNK : (chunk + 1) * CHUNK], chunk)

    return run


def numpy_normal(out: np.ndarray, chunk: int) -> None:
    np.random.Generator(np.random.PCG64(chunk)).standard_normal(out=out, dtype=out.dtype)


def numpy_uniform(out: np.ndarray, chunk: int) -> None:
    np.random.Generator(np.random.PCG64(chunk)).random(out=out, dtype=out.dtype)


LAWS: dict[str, dict[str, Draw]] = {
    "normal": {"onnxinit": lambda out, chunk: stream(KEY, chunk).normal(out), "numpy": numpy_normal},
    "truncated normal": {"onnxinit": lambda out, chunk: stream(KEY, chunk).truncated_normal(out, -2, 2)},
    "uniform": {"onnxinit": lambda out, chunk: stream(KEY, chunk).uniform(out, -1, 1), "numpy": numpy_uniform},
}


def add_torch() -> None:
    import torch

    torch.set_num_threads(1)
    LAWS["normal"]["torch"] = lambda out, _: torch.from_numpy(out).normal_()
    LAWS["truncated normal"]["torch"] = lambda out, _: torch.nn.init.trunc_normal_(torch.from_numpy(out))
    LAWS["uniform"]["torch"] = lambda out, _: torch.from_numpy(out).uniform_()


def on_threads(run: Callable[[np.ndarray, int, int], None], out: np.ndarray, threads: int) -> None:
    team = [threading.Thread(target=run, args=(out, i, threads)) for i in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()


def medians(contestants: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Seconds of each, from interleaved runs."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def print_row(label: str, found: Mapping[str, float], unit: float) -> None:
    ours = found["onnxinit"]
    others = "".join(f"{name:>9}{s * unit:9.2f}{s / ours:7.2f}x" for name, s in found.items() if name != "onnxinit")
    print(f"{label:34}{ours * unit:9.2f}{others}")


def values(runs: int) -> None:
    print(f"nanoseconds per value, medians of {runs} interleaved runs over {VALUES} values\n\n{'':34}{'onnxinit':>9}")
    for dtype in (np.float32, np.float64):
        out = np.zeros(VALUES, dtype)
        for law, draws in LAWS.items():
            for threads in (1, 2):
                contestants = {name: partial(on_threads, chunked(draw), out, threads) for name, draw in draws.items()}
                found = medians(contestants, runs)
                print_row(f"{law}, {out.dtype}, {threads} thread{'s' * (threads > 1)}", found, 1e9 / VALUES)


def orthogonal(runs: int) -> None:
    print(f"milliseconds per matrix, one thread, medians of {runs} interleaved runs\n\n{'':34}{'onnxinit':>9}")
    random = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for rows, cols in ((512, 512), (1024, 1024), (2048, 2048), (4096, 1024)):
            contestants: dict[str, Callable[[], object]] = {
                "onnxinit": lambda r=rows, c=cols, d=dtype: haar(r, c, stream(KEY), d),
                "numpy qr": lambda r=rows, c=cols, d=dtype: np.linalg.qr(random.standard_normal((r, c), d)),
            }
            if find_spec("torch"):
                import torch

                torch.set_num_threads(1)
                kind = torch.float32 if dtype is np.float32 else torch.float64
                w = torch.empty(rows, cols, dtype=kind)
                contestants["torch"] = lambda w=w: torch.nn.init.orthogonal_(w)
            print_row(f"{rows} x {cols}, {np.dtype(dtype)}", medians(contestants, runs), 1e3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["values", "orthogonal"], default="values")
    parser.add_argument("--runs", type=int)
    args = parser.parse_args()
    if find_spec("torch"):
        add_torch()
    if args.what == "values":
        values(args.runs or 15)
    else:
        orthogonal(args.runs or 5)

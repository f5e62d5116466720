"""Do many values follow the normal law? `python benchmarks/quality.py [--values 1e8] [--dtype float32] [--seed N]`.

Needs scipy. Prints the first four moments, the correlation of neighbours and the counts of the tails as numbers of
standard errors, chi-square over cells of equal probability, and the Kolmogorov-Smirnov distance.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats
from scipy.special import ndtr, ndtri

from onnxinit.sampling import CHUNK, stream, weight_key

CELLS = 1 << 14
TAILS = np.array([3, 3.5, 4, 4.5, 5, 5.5])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=float, default=1e8)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    chunks = max(1, round(args.values / CHUNK))
    n = chunks * CHUNK
    key = weight_key(args.seed, "quality")
    edges = ndtri(np.arange(1, CELLS) / CELLS)
    counts, powers, beyond = np.zeros(CELLS, np.int64), np.zeros(5), np.zeros((2, len(TAILS)), np.int64)
    products, largest = 0.0, 0.0
    out = np.empty(CHUNK, args.dtype)
    for chunk in range(chunks):
        stream(key, chunk).normal(out)
        x = out.astype(np.float64)
        counts += np.bincount(np.searchsorted(edges, x), minlength=CELLS)
        powers += [(x**k).sum() for k in range(5)]
        beyond += [[(side > edge).sum() for edge in TAILS] for side in (x, -x)]
        products += x[1:] @ x[:-1]
        largest = max(largest, np.abs(x).max())

    m = powers / n
    print(f"{n} values of {args.dtype}, seed {args.seed}")
    for name, value, error in (
        ("mean", m[1], 1),
        ("variance", m[2] - 1, 2),
        ("third moment", m[3], 15),
        ("fourth moment", m[4] - 3, 96),
        ("neighbours", products / n, 1),
    ):
        print(f"{name:16}{value / np.sqrt(error / n):8.2f} standard errors")
    expected = n * ndtr(-TAILS)
    for edge, z in zip(TAILS, ((beyond - expected) / np.sqrt(expected)).T, strict=True):
        print(f"beyond {edge:<9g}{z[0]:8.2f}{z[1]:8.2f} standard errors (upper, lower)")
    for cells in (CELLS, CELLS // 4, CELLS // 16):
        p = stats.chisquare(counts.reshape(cells, -1).sum(1)).pvalue
        print(f"chi-square over {cells} cells: p = {p:.3f}")
    distance = np.abs(np.cumsum(counts) / n - np.arange(1, CELLS + 1) / CELLS).max()
    print(f"Kolmogorov-Smirnov: p = {stats.kstwobign.sf(distance * np.sqrt(n)):.3f}")
    print(f"largest magnitude: {largest:.3f}")


if __name__ == "__main__":
    main()

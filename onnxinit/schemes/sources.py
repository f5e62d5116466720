"""Schemes that take values from a tensor: the one that they replace, or one of another model."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxinit.errors import SchemeError
from onnxinit.sampling import CHUNK, Stream
from onnxinit.schemes.spec import parse_spec
from onnxinit.schemes.table import Block, Floats, Params, scheme

Array = npt.NDArray[np.generic]


@scheme("shuffle", exact_to="bytes", piece="within", moves=True)
def shuffle(block: Block, stream: Stream, old: Array, *, within: Literal["tensor", "block"] = "tensor") -> Array:
    """The tensor's own values in a random order.

    Formula: w = old[p], p a permutation, all as likely; of a quantised weight the codes, whose scales stay

    Args:
        block: What it is drawn for.
        stream: The random bits.
        old: The values that the tensor had.
        within: Whether values move through the whole tensor, or within its blocks (gates, groups, heads) alone.
    """
    return permuted(old.reshape(-1), stream).reshape(block.shape)


def permuted(values: Array, stream: Stream) -> Array:
    """A random permutation of a flat array, by integer steps only.

    Up to `CHUNK` values are sorted by random keys. More are thrown into buckets at random first, and then every bucket
    is permuted, so that beside the values two bytes for each are held and no more.

    Source: Rao: Generation of random permutations of given number of elements using random sampling numbers, Sankhya
    A 23 (1961); Sandelius: A simple randomization procedure, J. R. Stat. Soc. B 24 (1962)
    """
    if values.size <= CHUNK:
        return values[_order(values.size, stream)]
    bits = min(16, (values.size // CHUNK).bit_length() + 1)
    starts = range(0, values.size, CHUNK)
    bucket, sizes = np.empty(values.size, np.uint16), np.zeros(1 << bits, np.int64)
    for at in starts:
        run = bucket[at : at + CHUNK]
        run[...] = stream.words(run.size) >> np.uint64(64 - bits)
        sizes += np.bincount(run, minlength=sizes.size)
    ends = np.cumsum(sizes)
    free = np.concatenate([[0], ends[:-1]])
    out = np.empty_like(values)
    for at in starts:
        run = bucket[at : at + CHUNK]
        order = np.argsort(run, kind="stable")
        counts = np.bincount(run, minlength=sizes.size)
        first = np.repeat(free - (np.cumsum(counts) - counts), counts)
        out[first + np.arange(run.size)] = values[at : at + CHUNK][order]
        free += counts
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        out[begin:end] = out[begin:end][_order(end - begin, stream)]
    return out


def _order(n: int, stream: Stream) -> npt.NDArray[np.uint64]:
    """The numbers below n in the order of random keys; the lower bits of a key are its number, so that no two tie."""
    low = np.uint64(max(0, n - 1).bit_length())
    keys = (stream.words(n) >> low << low) | np.arange(n, dtype=np.uint64)
    keys.sort()
    return keys & ((np.uint64(1) << low) - np.uint64(1))


@scheme("match", exact_to="bytes", piece="chunk")
def match(block: Block, stream: Stream, old: Floats) -> Floats:
    """Normal with the mean and std of the tensor's own non-zero values, and zero where the tensor is zero.

    Formula: w = mean + std z where old != 0, z ~ N(0, 1), mean and std over the non-zero values of old; else 0

    Args:
        block: What it is drawn for.
        stream: The random bits.
        old: The values that the tensor had.
    """
    mean, std = block.moments
    w = np.empty(block.shape, block.dtype)
    stream.normal(w)
    np.multiply(w, w.dtype.type(std), out=w)
    np.add(w, w.dtype.type(mean), out=w)
    w[old == 0] = 0
    return w


def _check_donor(params: Params) -> None:
    if params["path"] is None:
        raise SchemeError("it needs the model to take weights from: donor:path=FILE.onnx")
    if params["fallback"] is not None:
        parse_spec(params["fallback"])


@scheme("donor", exact_to="bytes", origin="model", check=_check_donor)
def donor(
    block: Block,
    stream: Stream,
    old: Array,
    *,
    path: str | None = None,
    weight: str | None = None,
    tile: bool = False,
    fallback: str | None = None,
) -> Array:
    """Weights of another model, matched by id, else by their place in the network; larger ones subsampled evenly.

    Formula: w[i, j, ...] = old[floor(i t/s), floor(j t'/s'), ...] within every block, for s of t units along an axis;
    with tile and t < s: old[i mod t, ...]

    Source: Xu, Chen, Vishniakov, Yin, Shen, Darrell, Liu, Liu: Initializing Models with Larger Ones, ICLR 2024,
    arXiv:2311.18823

    Args:
        block: What it is drawn for.
        stream: The random bits.
        old: The values of the donor's block.
        path: The donor's file.
        weight: Id of the donor's weight; if not given, the one that matches.
        tile: Whether a smaller weight is repeated to fill a larger one.
        fallback: The SPEC of what finds no donor; if not given, what it would get without this scheme.
    """
    for axis, (size, there) in enumerate(zip(block.shape, old.shape, strict=True)):
        old = old if size == there else old.take(picked(size, there), axis)
    return old


def picked(size: int, there: int) -> npt.NDArray[np.int64]:
    """Which units along an axis are taken: evenly spaced ones, or, where there are too few, all again and again."""
    every = np.arange(size)
    return every * there // size if there >= size else every % there

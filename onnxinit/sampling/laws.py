"""A stream of random bits and the laws that are drawn from it, by exactly rounded steps only.

numpy promises the raw streams of its bit generators and nothing about its distributions; integer operations, look-up,
conversion, multiplication and addition are the same everywhere. So these bytes are the same on every numpy, processor
and system.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import BitGenerator

from onnxinit.errors import SchemeError
from onnxinit.sampling.quantiles import Quantiles32, Quantiles64

Floats = npt.NDArray[np.floating[Any]]
Words = npt.NDArray[np.signedinteger[Any]]

BLOCK = 1 << 15
"""Values drawn at a time: with the scratch arrays they fit into a core's cache. No value depends on it."""

_HALF = np.uint64(32)


class Stream:
    """Draws from one bit generator. Not to be shared between threads; every call starts at a fresh 64-bit word.

    float32 values are made from 32 bits each, float64 values from 64 bits (53 of them significant).
    """

    def __init__(self, bits: BitGenerator):
        self._bits = bits

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next `count` raw 64-bit words."""
        return self._bits.random_raw(count)

    def below(self, bounds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """One integer in [0, bound) for every bound, all as likely but for 2^-32.

        Returns:
            int64, the shape of `bounds` (at most 2^31): floor(word * bound / 2^32), of the upper half of a word each.
        """
        upper = (self.words(bounds.size) >> np.uint64(32)).astype(np.int64).reshape(bounds.shape)
        result: npt.NDArray[np.int64] = (upper * bounds) >> 32
        return result

    def uniform(self, out: Floats, low: float = 0.0, high: float = 1.0) -> None:
        """Fill `out` with values uniform on [low, high].

        Formula: (low + high)/2 + (high - low)/2 * w/2^(b-1), with w an odd signed word of b bits: symmetric, never the
        middle itself, and never halfway between two floats, where rounding would prefer the even ones.

        Args:
            out: float32 or float64, C-contiguous, any shape.
            low: The lower bound.
            high: The upper bound.
        """
        real = out.dtype.type
        bits = 8 * out.itemsize
        half = real((high / 2 - low / 2) * 2.0 ** (1 - bits))
        middle = real(high / 2 + low / 2)
        for part, words in self._parts(out):
            np.bitwise_or(words, 1, out=words)
            np.copyto(part, words, casting="unsafe")
            np.multiply(part, half, out=part)
            np.add(part, middle, out=part)
            np.clip(part, real(low), real(high), out=part)

    def normal(self, out: Floats) -> None:
        """Fill `out` with standard normal values (float32 or float64, C-contiguous, any shape)."""
        quantiles = _quantiles(out)
        for part, words in self._parts(out):
            quantiles(words, part)

    def truncated_normal(self, out: Floats, low: float, high: float) -> None:
        """Fill `out` with standard normal values under the condition that they lie in [low, high].

        The words are squeezed, by integer arithmetic, to those whose values lie in the interval. Where that leaves too
        few 32-bit words, 64-bit words are used and rounded to float32.

        Args:
            out: float32 or float64, C-contiguous, any shape.
            low: The lower bound, in standard deviations.
            high: The upper bound, in standard deviations.

        Raises:
            SchemeError: The interval holds less than 2^-32 of the law.
        """
        if out.dtype == np.float32:
            first, count = _window(low, high, 32)
            if count >= 1 << 24:
                quantiles = _quantiles(out)
                for part, words in self._parts(out):
                    _squeeze32(words, first, count)
                    quantiles(words, part)
                    np.clip(part, np.float32(low), np.float32(high), out=part)
                return
            fine = np.empty(out.shape)
            self.truncated_normal(fine, low, high)
            np.clip(fine, low, high, out=out, casting="same_kind")
            return
        first, count = _window(low, high, 64)
        if count < 1 << 32:
            raise SchemeError(
                f"the interval from {low:g} to {high:g} standard deviations holds next to nothing of a normal law "
                "(less than 2^-32): widen low and high, or take a uniform law"
            )
        quantiles = _quantiles(out)
        for part, words in self._parts(out):
            _squeeze64(words, first, count)
            quantiles(words, part)
            np.clip(part, low, high, out=part)

    def _parts(self, out: Floats) -> Iterator[tuple[Any, Any]]:
        """The values of `out` in blocks, each with as many fresh signed words of the same width."""
        flat = out.reshape(-1)
        if flat.size and not np.shares_memory(flat, out):
            raise ValueError("out must be C-contiguous")
        per_word = 8 // out.itemsize
        signed = f"<i{out.itemsize}"
        for at in range(0, flat.size, BLOCK):
            part = flat[at : at + BLOCK]
            # Little-endian, so that the halves of a word come in one order everywhere.
            raw = self.words(-(-part.size // per_word)).astype("<u8", copy=False)
            yield part, raw.view(signed)[: part.size].astype(f"i{out.itemsize}", copy=False)


class _Scratch(threading.local):
    """Each thread's scratch arrays: to ask the system for them with every chunk would cost a fifth of the time."""

    @cached_property
    def single(self) -> Quantiles32:
        return Quantiles32(BLOCK)

    @cached_property
    def double(self) -> Quantiles64:
        return Quantiles64(BLOCK)

    @cached_property
    def wide(self) -> npt.NDArray[np.uint64]:
        return np.empty((2, BLOCK), np.uint64)


_scratch = _Scratch()


def _quantiles(out: Floats) -> Any:
    return _scratch.single if out.dtype == np.float32 else _scratch.double


# As unsigned integers the words are ordered by their values, the largest value first: the tail beyond a value x, in
# words, is where x's own word lies. A window is the run of words whose values lie in an interval.


def _first_at_most(x: float, bits: int) -> int:
    """The smallest unsigned word whose value is at most x: bisection on the table itself, so as exact as the table."""
    real, signed, unsigned = (np.float32, np.int32, np.uint32) if bits == 32 else (np.float64, np.int64, np.uint64)
    out: Floats = np.empty(1, real)
    quantiles = _quantiles(out)
    below, above = -1, 1 << bits
    while above - below > 1:
        middle = (below + above) // 2
        quantiles(np.array([middle], unsigned).view(signed), out)
        if out[0] <= x:
            above = middle
        else:
            below = middle
    return above


@lru_cache(maxsize=64)
def _window(low: float, high: float, bits: int) -> tuple[int, int]:
    """The first word and the number of words of an interval."""
    first = _first_at_most(high, bits)
    return first, _first_at_most(low, bits) - first


def _squeeze32(words: Words, first: int, count: int) -> None:
    """Turn words, unsigned 32-bit, into first + floor(word * count / 2^32)."""
    narrow, wide = words.view(np.uint32), _scratch.wide[0, : words.size]
    np.copyto(wide, narrow)
    np.multiply(wide, np.uint64(count), out=wide)
    np.right_shift(wide, _HALF, out=wide)
    np.add(wide, np.uint64(first), out=wide)
    np.copyto(narrow, wide, casting="unsafe")


def _squeeze64(words: Words, first: int, count: int) -> None:
    """Turn words, unsigned 64-bit, into first + floor(word * count / 2^64), by halves; the lowest carry is left out."""
    word, (upper, lower) = words.view(np.uint64), _scratch.wide[:, : words.size]
    np.right_shift(word, _HALF, out=upper)
    np.bitwise_and(word, np.uint64(0xFFFFFFFF), out=lower)
    np.multiply(upper, np.uint64(count >> 32), out=word)
    np.add(word, np.uint64(first), out=word)
    for part, factor in ((upper, count & 0xFFFFFFFF), (lower, count >> 32)):
        np.multiply(part, np.uint64(factor), out=part)
        np.right_shift(part, _HALF, out=part)
        np.add(word, part, out=word)

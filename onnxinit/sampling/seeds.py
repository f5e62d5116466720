"""Seeds: a root seed, a weight's id and a chunk's number give a stream of random bits, and nothing else does.

    key    = blake2b(version of the stream, root seed, weight id)      one per weight
    stream = SFC64 seeded with blake2b(chunk number, key)              one per chunk of CHUNK values

So a weight's values do not depend on the other weights, on the order of drawing, or on the number of threads.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from numpy.random import SFC64
from numpy.random.bit_generator import ISeedSequence

from onnxinit.sampling.laws import Stream

STREAM = 1
"""Version of the way from a seed to bytes. A change to any value that a seed gives raises it."""

CHUNK = 1 << 18
"""Values per chunk: each chunk of a large tensor has a stream of its own."""

Key = bytes


class _Digest(ISeedSequence):
    """Hands a digest to a bit generator as its seed, as it is."""

    def __init__(self, digest: bytes):
        self._words = np.frombuffer(digest, "<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: npt.DTypeLike = np.uint32) -> npt.NDArray[np.uint64]:
        return self._words[:n_words]


def weight_key(seed: int, weight_id: str) -> Key:
    """The key of a weight's streams.

    Args:
        seed: The root seed, any integer.
        weight_id: The weight's id in its file.

    Returns:
        32 bytes.
    """
    text = f"{STREAM}\0{seed}\0{weight_id}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32, person=b"onnxinit").digest()


def stream(key: Key, chunk: int = 0) -> Stream:
    """The stream of one chunk of a weight.

    Args:
        key: From `weight_key`.
        chunk: The chunk's number, 0 to 2^64 - 1.

    Returns:
        A stream at its start: a BitGenerator of its own, independent of every other.
    """
    digest = hashlib.blake2b(chunk.to_bytes(8, "little"), digest_size=24, key=key, person=b"onnxinit").digest()
    return Stream(SFC64(_Digest(digest)))  # type: ignore[arg-type]  # numpy takes any ISeedSequence, its stubs do not

"""Codes of fewer bits than a byte, several to a byte."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def packed(codes: Bytes, bits: int, high_first: bool = False) -> Bytes:
    """Unsigned codes as a stream of bits, the lowest bit of each first; the last byte is filled up with zeros.

    Args:
        codes: Codes below 2^bits, flat.
        bits: Bits of one, at most 8.
        high_first: Whether of two four-bit codes the first is the high half of its byte.
    """
    if bits == 8:
        return codes
    if 8 % bits:
        stream = np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, :bits]
        return np.packbits(stream, bitorder="little")
    each = 8 // bits
    parts = np.append(codes, np.zeros(-codes.size % each, np.uint8)).reshape(-1, each)
    places = range(each)[::-1] if high_first else range(each)
    out = np.zeros(len(parts), np.uint8)
    for place, column in zip(places, parts.T, strict=True):
        out |= column << np.uint8(bits * place)
    return out


def unpacked(raw: Bytes, bits: int, high_first: bool = False) -> Bytes:
    """The unsigned codes of a stream of bits, flat; of a last byte that is filled up, what it is filled up with too."""
    if bits == 8:
        return raw.reshape(-1)
    if 8 % bits:
        stream = np.unpackbits(raw.reshape(-1), bitorder="little")
        whole: Bytes = stream[: stream.size // bits * bits].reshape(-1, bits)
        return np.packbits(whole, axis=1, bitorder="little").reshape(-1)
    each = 8 // bits
    places = range(each)[::-1] if high_first else range(each)
    parts = [raw.reshape(-1) >> np.uint8(bits * place) & np.uint8((1 << bits) - 1) for place in places]
    codes: Bytes = np.stack(parts, axis=-1).reshape(-1)
    return codes

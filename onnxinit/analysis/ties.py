"""Weights that must stay equal: those whose bytes lie at one place, and, where asked for, those of equal values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import PARAMETER_ROLES, PRIORITY, Weight
from onnxinit.errors import ModelError
from onnxinit.model import ModelFile

Words = npt.NDArray[np.uint64]
Group = list[tuple[Weight, bool]]  # the first gives the values; whether the others hold them transposed

_CHUNK = 1 << 18  # elements read at a time
_SUMS = 2  # of 64 bits each


def tied(weights: Sequence[Weight], file: ModelFile, *, equal: bool) -> list[Weight]:
    """Tie the weights that must stay equal: the first of a group to all others, those to it.

    Args:
        weights: The weights, in file order.
        file: Where they lie.
        equal: Whether weights at places of their own are tied, too, where their values are the same: element by
            element, or of two matrices where one is the transpose of the other. The first is then the one of the
            highest role. What has one value throughout, what is quantised or stored sparse, what the graph made, and
            what follows from other weights, is not.

    Raises:
        ModelError: Values are to be compared and not there.
    """
    places: dict[tuple[object, ...], Group] = {}
    for w in weights:
        places.setdefault(file.tensors[w.path].identity, []).append((w, False))
    groups = list(places.values())
    out: list[Weight] = []
    for (first, _), *rest in _joined(groups, file) if equal else groups:
        out.append(replace(first, tied_to=tuple(w.id for w, _ in rest)) if rest else first)
        out.extend(replace(w, tied_to=(first.id,), shares=first.id, turned=turned) for w, turned in rest)
    return out


def _joined(groups: Iterable[Group], file: ModelFile) -> list[Group]:
    """The groups, those of equal values as one."""
    alike: dict[tuple[object, ...], list[Group]] = {}
    out: list[Group] = []
    for group in groups:
        first = group[0][0]
        bare = first.where in ("generated", "sparse") or first.quantised is not None or bool(first.follows)
        if bare or first.size < 2 or first.role in PARAMETER_ROLES:
            out.append(group)
        else:
            form = tuple(sorted(first.shape)) if len(first.shape) == 2 else first.shape
            alike.setdefault((first.dtype, form), []).append(group)
    for candidates in alike.values():
        out += _by_values(candidates, file) if len(candidates) > 1 else candidates
    return out


def _by_values(groups: Iterable[Group], file: ModelFile) -> list[Group]:
    """Join the groups of one type and form: by their first and last elements, and where these agree by all."""
    near: dict[bytes, list[Group]] = {}
    for group in groups:
        near.setdefault(_ends(group[0][0], file), []).append(group)
    out: list[Group] = []
    for candidates in near.values():
        if len(candidates) == 1:
            out += candidates
            continue
        found: dict[object, list[tuple[Group, bool]]] = {}
        for i, group in enumerate(candidates):
            print_ = _Print.of(group[0][0], file)
            key: object = ("alone", i) if print_.constant else print_.values
            turned = False
            if key not in found and print_.transposed in found:
                key, turned = print_.transposed, True
            found.setdefault(key, []).append((group, turned))
        out += map(_one, found.values())
    return out


def _one(found: list[tuple[Group, bool]]) -> Group:
    """One group of several, in the order of the roles; of one, as it is."""
    if len(found) == 1:
        return found[0][0]
    all_ = [(w, turned) for group, turned in found for w, _ in group]
    all_.sort(key=lambda pair: PRIORITY.index(pair[0].role))
    return [(w, turned != all_[0][1]) for w, turned in all_]


def _ends(weight: Weight, file: ModelFile) -> bytes:
    """The first and the last element, which a transposition leaves where they are."""
    if not file.has_data(weight.path):
        raise ModelError(
            f"{file.label(weight.path)} has no values, which tying equal weights compares: put the external data "
            "beside the model, or leave out --tie-equal"
        )
    return b"".join(file.array(weight.path, (at, 1)).tobytes() for at in (0, weight.size - 1))


@dataclass(frozen=True, slots=True)
class _Print:
    """What tells the values of a tensor from others.

    Attributes:
        values: A digest of the values in their places.
        transposed: What `values` is for the transpose; None for a tensor that is no matrix.
        constant: Whether all values are the same.
    """

    values: object
    transposed: object
    constant: bool

    @classmethod
    def of(cls, weight: Weight, file: ModelFile) -> _Print:
        """Read a tensor, chunk by chunk.

        A matrix gets the sums of h(bits) a[row] b[column] over its elements, modulo 2^64, with random odd a and b:
        those of its transpose come from the same reading, a and b exchanged.
        """
        if len(weight.shape) != 2:
            digest, first, constant = hashlib.blake2b(), b"", True
            for run in file.runs(weight.path, _CHUNK):
                digest.update(run.tobytes())
                first = first or run[:1].tobytes()
                constant = constant and run.tobytes() == first * run.size
            return cls((weight.shape, digest.digest()), None, constant)
        rows, columns = weight.shape
        a, b = (np.random.PCG64(seed).random_raw((_SUMS, max(weight.shape))) | np.uint64(1) for seed in (1, 2))
        straight, across = np.zeros((2, _SUMS), np.uint64)
        at, least, most = 0, ~np.uint64(0), np.uint64(0)
        for run in file.runs(weight.path, _CHUNK):
            bits = run.view(f"u{run.itemsize}").astype(np.uint64)
            least, most = min(least, bits.min()), max(most, bits.max())
            row, column = np.divmod(np.arange(at, at + run.size), columns)
            mixed = _mixed(bits)
            straight += (mixed * a[:, row] * b[:, column]).sum(axis=1, dtype=np.uint64)
            across += (mixed * b[:, row] * a[:, column]).sum(axis=1, dtype=np.uint64)
            at += run.size
        return cls(((rows, columns), straight.tobytes()), ((columns, rows), across.tobytes()), bool(least == most))


def _mixed(bits: Words) -> Words:
    """The words with every bit spread over all others.

    Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014 (SplitMix64)
    """
    x = bits + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

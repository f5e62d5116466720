"""The plan: for every weight its scheme, gain and seed, or the reason why it is kept. A value, JSON both ways."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnxinit.errors import SchemeError
from onnxinit.plan.measured import Aside, Measured, read_aside
from onnxinit.schemes import Spec, parse_spec

FORMAT = "onnxinit.plan/1"

Exact = Literal["bytes", "1e-6"]


@dataclass(frozen=True, slots=True)
class Vector:
    """A gain that differs along one axis of the stored tensor.

    Attributes:
        axis: The axis.
        values: One value for each index there, or one for each index there and on all axes before it, in stored order
            (the gates of both directions of a recurrent kernel).
    """

    axis: int
    values: tuple[float, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of some shape has the axis and as many indices."""
        if self.axis not in range(len(shape)):
            return False
        return len(self.values) in (shape[self.axis], math.prod(shape[: self.axis + 1]))


Gain = float | Vector


@dataclass(frozen=True, slots=True)
class Entry:
    """What one weight gets: `gain * sample(scheme, layout, seed, draws_as)`.

    Attributes:
        id: The weight.
        role: Its role.
        shape: Its stored shape.
        dtype: Its stored type.
        scheme: How it is drawn, at gain 1.
        gain: Multiplier on the sample.
        std: The standard deviation that this asks for, over the whole tensor; None where the scheme states none.
        draws_as: The id that its random stream derives from: its own, or that of the weight whose bytes it shares.
        exact: Whether the values are the same to the byte everywhere, or, where they need BLAS, to 1e-6.
        why: The rule, option or default that chose the scheme.
        measured: Values that stand in place of a sample, where the entry was measured on data.
        turned: Whether the tensor holds the values of the weight `draws_as` transposed.
    """

    id: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    scheme: Spec
    gain: Gain
    std: float | None
    draws_as: str
    exact: Exact
    why: str
    measured: Measured | None = None
    turned: bool = False

    @property
    def pending(self) -> bool:
        """Whether a pass over the signal has yet to say what the weight gets: no file holds such an entry."""
        return self.scheme.pending and self.measured is None

    def to_json(self, aside: Aside | None = None) -> dict[str, Any]:
        """The entry as a JSON object; what has its usual value is left out.

        Args:
            aside: Takes larger measured values; they stand in the entry if it is not given.
        """
        vector = self.gain if isinstance(self.gain, Vector) else None
        measured = {} if self.measured is None else {"measured": self.measured.to_json(self.id, aside)}
        return {
            "id": self.id,
            "role": self.role,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "scheme": str(self.scheme),
            "gain": {"axis": vector.axis, "values": list(vector.values)} if vector else self.gain,
            "std": self.std,
            **({"draws_as": self.draws_as} if self.draws_as != self.id else {}),
            **({"turned": True} if self.turned else {}),
            "exact": self.exact,
            "why": self.why,
            **measured,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], aside: Aside | None = None) -> Entry:
        """Read what `to_json` wrote."""
        gain = data["gain"]
        measured = data.get("measured")
        return cls(
            id=data["id"],
            role=data["role"],
            shape=tuple(int(n) for n in data["shape"]),
            dtype=data["dtype"],
            scheme=parse_spec(data["scheme"]),
            gain=Vector(int(gain["axis"]), tuple(map(float, gain["values"])))
            if isinstance(gain, dict)
            else float(gain),
            std=None if data["std"] is None else float(data["std"]),
            draws_as=data.get("draws_as", data["id"]),
            exact=data["exact"],
            why=data["why"],
            measured=None if measured is None else Measured.from_json(measured, aside or {}),
            turned=bool(data.get("turned", False)),
        )


@dataclass(frozen=True, slots=True)
class Left:
    """A tensor that stays as it is, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run writes. The same plan gives the same bytes, whatever the order and the number of threads.

    Attributes:
        seed: The root seed.
        stream: Version of the random streams.
        entries: The tensors that are rewritten, in file order.
        kept: All others.
        warnings: What a reader should know before using the result.
        arguments: What was asked for to make it, by the names of `reinit`'s arguments, as JSON values.
        flush_subnormals: Whether zeros are written in the place of subnormal numbers.
        removed: Ids of initializers that nothing uses and that are left out.
    """

    seed: int
    stream: int
    entries: tuple[Entry, ...]
    kept: tuple[Left, ...] = ()
    warnings: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    flush_subnormals: bool = False
    removed: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256 (hex) of what determines the values: seed, stream, and of each entry the tensor, scheme and gain."""
        entries = [
            [e.id, e.shape, e.dtype, str(e.scheme), e.to_json()["gain"], e.draws_as, *_sum(e.measured)]
            + ["turned"] * e.turned
            for e in self.entries
        ]
        whole = [self.seed, self.stream, entries, *(["flush"] if self.flush_subnormals else [])]
        text = json.dumps(whole, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self, aside: Aside | None = None) -> dict[str, Any]:
        """The plan as a JSON object.

        Args:
            aside: Takes larger measured values by the id of their weight; they stand in the plan if it is not given.
        """
        return {
            "format": FORMAT,
            "seed": self.seed,
            "stream": self.stream,
            "digest": self.digest(),
            **({"flush_subnormals": True} if self.flush_subnormals else {}),
            "arguments": dict(self.arguments),
            "entries": [e.to_json(aside) for e in self.entries],
            "kept": [{"id": k.id, "reason": k.reason} for k in self.kept],
            **({"removed": list(self.removed)} if self.removed else {}),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, data: Any, aside: Aside | None = None) -> Plan:
        """Read what `to_json` wrote, or a report, which carries it as "plan".

        What was changed by hand since counts: the digest that stands there is not looked at.

        Args:
            data: The JSON value.
            aside: Larger measured values by the id of their weight.

        Raises:
            SchemeError: It is no plan, of another format, or incomplete.
        """
        data = data.get("plan", data) if isinstance(data, dict) else data
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise SchemeError(f"this is no plan of the format {FORMAT}: give a file that --report wrote")
        try:
            return cls(
                seed=int(data["seed"]),
                stream=int(data["stream"]),
                entries=tuple(Entry.from_json(e, aside) for e in data["entries"]),
                kept=tuple(Left(k["id"], k["reason"]) for k in data["kept"]),
                warnings=tuple(map(str, data["warnings"])),
                arguments=dict(data.get("arguments", {})),
                flush_subnormals=bool(data.get("flush_subnormals", False)),
                removed=tuple(map(str, data.get("removed", ()))),
            )
        except KeyError as e:
            raise SchemeError(f"an incomplete plan: it lacks {e}") from None
        except (TypeError, ValueError, AttributeError) as e:
            raise SchemeError(f"a damaged plan: {e}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan or report from a JSON file.

        Raises:
            SchemeError: The file cannot be read, or as `from_json`.
        """
        try:
            data = json.loads(Path(path).read_bytes())
        except OSError as e:
            raise SchemeError(f"the plan {path} cannot be read: {e.strerror}") from None
        except ValueError as e:
            raise SchemeError(f"the plan {path} is not JSON ({e}): give a file that --report wrote") from None
        try:
            return cls.from_json(data, read_aside(Path(path)))
        except SchemeError as e:
            raise SchemeError(f"the plan {path}: {e}") from None


def _sum(measured: Measured | None) -> list[str]:
    return [] if measured is None else [measured.digest()]

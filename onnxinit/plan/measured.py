"""Values that were measured on data and stand in a plan: small ones in its JSON, larger ones in a file beside it."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxinit.errors import SchemeError

INLINE = 4096  # values; a larger tensor goes to the file beside

Aside = MutableMapping[str, npt.NDArray[np.floating[Any]]]

_TYPES = {"float": "<f4", "double": "<f8"}


@dataclass(frozen=True, slots=True)
class Measured:
    """Values of a tensor in stored order.

    Attributes:
        data: Their little-endian bytes.
        dtype: "float" or "double".
    """

    data: bytes
    dtype: str = "float"

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Measured:
        """From numbers of any shape: float64 stays, all else becomes float32."""
        array = np.asarray(values)
        dtype = "double" if array.dtype == np.float64 else "float"
        return cls(np.ascontiguousarray(array, _TYPES[dtype]).tobytes(), dtype)

    @property
    def values(self) -> npt.NDArray[np.floating[Any]]:
        """The numbers, flat."""
        return np.frombuffer(self.data, _TYPES[self.dtype])

    def std(self, gain: object) -> float | None:
        """Their standard deviation at a gain; None where the gain is no single number."""
        return float(self.values.std(dtype=np.float64)) * gain if isinstance(gain, float) else None

    def digest(self) -> str:
        """SHA-256 (hex) of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def to_json(self, ident: str, aside: Aside | None) -> dict[str, Any]:
        """A JSON object; a larger tensor goes to `aside`, under the id of its weight, if that is given."""
        if aside is None or self.values.size <= INLINE:
            return {"dtype": self.dtype, "values": self.values.tolist()}
        aside[ident] = self.values
        return {"dtype": self.dtype, "aside": ident}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], aside: Mapping[str, npt.NDArray[np.floating[Any]]]) -> Measured:
        """Read what `to_json` wrote.

        Raises:
            SchemeError: The values are in a file that is not there, or of an unknown type.
        """
        if data["dtype"] not in _TYPES:
            raise SchemeError(f"measured values of the type '{data['dtype']}': a plan holds float or double")
        if "values" in data:
            return cls(np.asarray(data["values"], _TYPES[data["dtype"]]).tobytes(), data["dtype"])
        if data["aside"] not in aside:
            raise SchemeError(
                f"the measured values of '{data['aside']}' are missing: keep the .npz file that was written with the "
                "plan beside it, under the plan's name"
            )
        return cls(np.asarray(aside[data["aside"]], _TYPES[data["dtype"]]).tobytes(), data["dtype"])


def aside_path(plan: Path) -> Path:
    """Where the larger measured values of a plan lie."""
    return plan.with_name(plan.name + ".npz")


def read_aside(plan: Path) -> Aside:
    """The larger measured values of a plan's file; none where it has no file beside it.

    Raises:
        SchemeError: The file beside it cannot be read.
    """
    path = aside_path(plan)
    if not os.path.exists(path):
        return {}
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise SchemeError(f"the measured values {path} cannot be read: {e}") from None

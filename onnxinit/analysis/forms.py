"""The codes of quantised tensors: their types, how they are packed, and the zero points that stand beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxinit.analysis.operators import FORMS, OPERATORS, PARAMETERS, Form, Site, UnknownFormError, turned_by
from onnxinit.analysis.packing import unpacked
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.walker import Found
from onnxinit.analysis.weight import Quantised
from onnxinit.model import StoredTensor

_T = TensorProto
# Element type -> the least and the largest code, and the bits of one.
CODES: Mapping[int, tuple[float, float, int]] = {
    **{
        kind: (-(1 << b - 1), (1 << b - 1) - 1, b)
        for kind, b in ((_T.INT2, 2), (_T.INT4, 4), (_T.INT8, 8), (_T.INT16, 16), (_T.INT32, 32))
    },
    **{kind: (0, (1 << b) - 1, b) for kind, b in ((_T.UINT2, 2), (_T.UINT4, 4), (_T.UINT8, 8), (_T.UINT16, 16))},
    _T.FLOAT4E2M1: (-6.0, 6.0, 4),
    _T.FLOAT8E4M3FN: (-448.0, 448.0, 8),
    _T.FLOAT8E4M3FNUZ: (-240.0, 240.0, 8),
    _T.FLOAT8E5M2: (-57344.0, 57344.0, 8),
    _T.FLOAT8E5M2FNUZ: (-57344.0, 57344.0, 8),
}
_TURNING = "DequantizeLinear"


def zero_points(held: npt.NDArray[np.generic], one: Quantised) -> npt.NDArray[np.float64]:
    """The zero points that a tensor holds, one for each scale or one for all; several may share a byte."""
    if not one.zero_rows:
        return held.reshape(-1).astype(np.float64)
    rows = unpacked(held.reshape(-1).astype(np.uint8), one.bits).reshape(one.zero_rows, -1)
    return rows[:, : math.prod(one.grid) // one.zero_rows].reshape(-1).astype(np.float64)


def form_of(taken: Sequence[Found], stored: StoredTensor) -> Form | None:
    """The form that an operator with packed weights reads a tensor in, None where none does.

    Raises:
        UnknownFormError: It is not known, or its values are not those that are stored.
    """
    known = [(FORMS.get((f.site.node.domain, f.site.node.op), {}).get(f.site.at), f.site) for f in taken]
    forms = [function(site, stored.data_type) for function, site in known if function is not None]
    if not forms:
        return None
    form = forms[0]
    bits = form.bits or CODES.get(stored.data_type, (0, 0, 0))[2]
    form = replace(form, bits=bits)
    if len(forms) < len(taken) or any(f != forms[0] for f in forms) or not 2 <= bits <= 8 or min(form.blocks) < 1:
        raise UnknownFormError
    bits_of_all = 8 * math.prod(stored.dims) if stored.data_type == _T.UINT8 else bits * math.prod(stored.dims)
    if not bits_of_all - 8 < math.prod(form.shape) * bits <= bits_of_all:
        raise UnknownFormError
    return form


def is_plain(found: Found) -> bool:
    """Whether a use reads 8-bit floats as the numbers that they are."""
    site = found.site
    is_operand = site.at in PARAMETERS.get((site.node.domain, site.node.op), {})
    return not is_operand and _TURNING not in site.trail.via and turned_by(site.node) is None


def unpacked_use(found: Found, shape: tuple[int, ...]) -> Found:
    """The same use of the values as they are unpacked."""
    site = Site(found.site.node, found.site.at, Trail.of(shape))
    reading = OPERATORS[site.node.domain, site.node.op](site)
    if reading is None or found.site.trail != Trail.of(found.site.trail.shape):
        raise UnknownFormError
    return Found(site, reading)

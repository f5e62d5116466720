"""How a weight is drawn: one small function per scheme, one table of them."""

from onnxinit.schemes import constant, fan, independent, passes, sources, structured  # noqa: F401  (their schemes, in the table's order)
from onnxinit.schemes.defaults import ROLE_DEFAULTS, auto_spec
from onnxinit.schemes.distribution import Distribution
from onnxinit.schemes.gains import exact_gain, mean_gain, resolve_gain
from onnxinit.schemes.parameters import Parameter, Range, nearest
from onnxinit.schemes.spec import Spec, parse_spec
from onnxinit.schemes.table import SCHEMES, Block, Scheme, find, register, scheme

__all__ = [
    "ROLE_DEFAULTS",
    "SCHEMES",
    "Block",
    "Distribution",
    "Parameter",
    "Range",
    "Scheme",
    "Spec",
    "auto_spec",
    "exact_gain",
    "find",
    "mean_gain",
    "nearest",
    "parse_spec",
    "register",
    "resolve_gain",
    "scheme",
]

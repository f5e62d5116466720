"""Re-initialise ONNX models without the framework that made them.

    import onnxinit

    result = onnxinit.reinit("model.onnx", "fresh.onnx", scheme="he", seed=0)
    onnxinit.inspect("model.onnx").weights
    onnxinit.diagnose("model.onnx").verdict

Names are imported when they are used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from onnxinit.errors import DataError, ExpectationError, ModelError, OnnxinitError, SchemeError

if TYPE_CHECKING:
    from onnxinit.plan import Plan
    from onnxinit.reinit import Result, diagnose, inspect, reinit
    from onnxinit.report import Inspection
    from onnxinit.schemes import SCHEMES, Block, Distribution, Spec, parse_spec, scheme
    from onnxinit.signal import Diagnosis

__version__ = "0.1.0"

_HOME = {
    "Block": "schemes",
    "Diagnosis": "signal",
    "Distribution": "schemes",
    "Inspection": "report",
    "Plan": "plan",
    "Result": "reinit",
    "SCHEMES": "schemes",
    "Spec": "schemes",
    "diagnose": "reinit",
    "inspect": "reinit",
    "parse_spec": "schemes",
    "reinit": "reinit",
    "scheme": "schemes",
}

__all__ = [
    "SCHEMES",
    "Block",
    "DataError",
    "Diagnosis",
    "Distribution",
    "ExpectationError",
    "Inspection",
    "ModelError",
    "OnnxinitError",
    "Plan",
    "Result",
    "SchemeError",
    "Spec",
    "__version__",
    "diagnose",
    "inspect",
    "parse_spec",
    "reinit",
    "scheme",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'onnxinit' has no attribute '{name}'")
    return getattr(importlib.import_module(f"onnxinit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """The package; importing its module `reinit` does not hide the function of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "reinit" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

"""The operator tables against the schemas of the installed onnx and ONNX Runtime: nothing is left out.

The tables name every operator of `TESTED`. An operator that only a newer release has is kept with the reason that it is
not known, so it is a warning here and no failure; one that a release up to `TESTED` has must be in a table.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import onnx
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxinit.analysis.arithmetic import ARITHMETIC
from onnxinit.analysis.held import OPERANDS
from onnxinit.analysis.operators import ATTRIBUTES, HOLDS, KEEPS, NO_WEIGHTS, OPERATORS, Key, Site
from onnxinit.analysis.operators.table import role_of
from onnxinit.analysis.trail import Trail
from onnxinit.analysis.view import Node, Value
from onnxinit.analysis.weight import ROLES

TESTED = {"onnx": (1, 23), "onnxruntime": (1, 32)}


def _release(package: ModuleType) -> tuple[int, ...]:
    return tuple(int(n) for n in package.__version__.split(".")[:2])


WITH_WEIGHTS = {*OPERATORS, *(("", op) for op in ARITHMETIC)}


def _newest(schemas: Iterable[Any]) -> Mapping[Key, Any]:
    found: dict[Key, Any] = {}
    for schema in sorted(schemas, key=lambda s: int(s.since_version)):
        found["" if schema.domain == "ai.onnx" else schema.domain, schema.name] = schema
    return found


ONNX = _newest(onnx.defs.get_all_schemas_with_history())
RUNTIME = _newest(get_all_operator_schema())


@pytest.mark.parametrize(("package", "schemas"), [(onnx, ONNX), (onnxruntime, RUNTIME)], ids=["onnx", "onnxruntime"])
def test_every_operator_is_known_or_named_as_without_weights(package: Any, schemas: Mapping[Key, Any]) -> None:
    assert len(schemas) > 150
    unknown = sorted(set(schemas) - WITH_WEIGHTS - set(NO_WEIGHTS))
    if unknown and _release(package) > TESTED[package.__name__]:
        warnings.warn(
            f"{package.__name__} {package.__version__} has operators that no table names: {unknown}", stacklevel=1
        )
    else:
        assert not unknown


def test_no_operator_is_in_both_tables() -> None:
    assert not WITH_WEIGHTS & set(NO_WEIGHTS)
    assert set(KEEPS) <= WITH_WEIGHTS | set(NO_WEIGHTS)
    assert set(ATTRIBUTES) <= set(NO_WEIGHTS)
    assert set(HOLDS) == set(OPERATORS)


@pytest.mark.parametrize("key", sorted({*HOLDS, *KEEPS}), ids=":".join)
def test_the_inputs_named_are_inputs_of_the_operator(key: Key) -> None:
    schema = ONNX.get(key) or RUNTIME.get(key)
    if schema is None:
        pytest.skip("of another release")
    named = {*HOLDS.get(key, {}), *KEEPS.get(key, {})}
    variadic = bool(schema.inputs) and "Variadic" in str(schema.inputs[-1].option)
    package = onnx if key in ONNX else onnxruntime
    if _release(package) < TESTED[package.__name__] and max(named) >= len(schema.inputs):
        pytest.skip("an earlier release has fewer inputs")
    held = len(OPERANDS[key]({})) if key in OPERANDS else 0
    assert variadic or max(named) < len(schema.inputs) + held


@pytest.mark.parametrize("key", sorted(ATTRIBUTES), ids=":".join)
def test_the_attributes_named_are_attributes_of_the_operator(key: Key) -> None:
    known = {a for s in onnx.defs.get_all_schemas_with_history() if (s.domain, s.name) == key for a in s.attributes}
    assert known
    assert set(ATTRIBUTES[key]) & known


# Shapes of every rank, of sizes that heads, gates and halves divide.
SHAPES = [(), (24,), (24, 24), (24, 24, 24), (24, 24, 24, 24)]


def _readings(key: Key, at: int) -> set[str]:
    """The roles that a row gives an operand, whatever its rank."""
    equation = onnx.helper.make_attribute("equation", "ab,bc->ac")
    inputs: list[Value | None] = [Value(f"x{i}", "", static=True, shape=(24, 24)) for i in range(24)]
    operator = onnx.helper.make_attribute("operator", "embedding")
    attributes = {"equation": equation, "operator": operator}
    node = Node(key[1], key[0], "", "", inputs, [Value("y", "")], attributes)
    readings = [OPERATORS[key](Site(node, at, Trail.of(shape))) for shape in SHAPES]
    return {r.role for r in readings if r is not None}


@pytest.mark.parametrize("key", sorted(OPERATORS), ids=":".join)
def test_a_row_reads_what_it_is_said_to_hold(key: Key) -> None:
    for at in range(24):
        held = HOLDS[key].get(at)
        assert _readings(key, at) == ({role_of(held)} if held is not None else set())
        assert held is None or role_of(held) in ROLES
        assert held is None or at not in KEEPS.get(key, {})

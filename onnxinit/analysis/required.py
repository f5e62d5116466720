"""Inputs that operators require: a node without one is said to be broken before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import NodeProto

from onnxinit.analysis.view import normal_domain
from onnxinit.errors import ModelError

_SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single


def check_required(model: onnx.ModelProto) -> None:
    """Check that no node lacks an input that its operator requires.

    Raises:
        ModelError: One does; no runtime takes it.
    """
    _check(model.graph.node, _Required(model.opset_import))
    for function in model.functions:
        _check(function.node, _Required(function.opset_import))


class _Required:
    """The required inputs of operators, by name, as their schemas have them at the versions imported."""

    def __init__(self, opsets: Iterable[onnx.OperatorSetIdProto]):
        self._versions = {normal_domain(o.domain): int(o.version) for o in opsets}
        self._known: dict[tuple[str, str], Mapping[int, str]] = {}

    def __call__(self, node: NodeProto) -> Mapping[int, str]:
        key = normal_domain(node.domain), node.op_type
        if key not in self._known:
            self._known[key] = self._look_up(*key)
        return self._known[key]

    def _look_up(self, domain: str, op: str) -> Mapping[int, str]:
        version = self._versions.get(domain, 0)
        if version < 1 or not onnx.defs.has(op, version, domain):
            return {}
        inputs = onnx.defs.get_schema(op, version, domain).inputs
        return {i: p.name for i, p in enumerate(inputs) if p.option == _SINGLE}


def _check(nodes: Iterable[NodeProto], required: _Required) -> None:
    stack = list(nodes)
    while stack:
        node = stack.pop()
        for i, name in required(node).items():
            if i >= len(node.input) or not node.input[i]:
                label = node.name or next(iter(node.output), "")
                raise ModelError(f"node {label!r} ({node.op_type}) lacks its input {name!r}; export the model again")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                stack.extend(attribute.g.node)

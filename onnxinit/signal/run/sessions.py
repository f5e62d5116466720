"""Sessions of ONNX Runtime for pieces of a program, one for all pieces of the same structure.

A piece's model has neither names nor shapes of its own, and weights are its inputs, so that a network of fifty layers
needs a dozen sessions. Steps with subgraphs keep their names, which the subgraphs know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, TypeProto, helper

from onnxinit.errors import SchemeError
from onnxinit.schemes import nearest
from onnxinit.signal.run.program import Step

if TYPE_CHECKING:
    import onnxruntime

Array = npt.NDArray[np.generic]

_PROCESSOR = "CPUExecutionProvider"


@dataclass(frozen=True, eq=False)
class Piece:
    """Steps, what they are fed, and what is asked of them.

    Attributes:
        steps: The steps, in an order of execution.
        types: Type by name, of the values that are fed.
        held: Tensors that are part of the model, by name.
        fetch: Names asked for.
    """

    steps: Sequence[Step]
    types: Mapping[str, TypeProto]
    held: Mapping[str, TensorProto]
    fetch: Sequence[str]

    @cached_property
    def _named(self) -> bool:
        return any(len(s.inputs) > len(s.node.input) for s in self.steps)

    @cached_property
    def _numbers(self) -> dict[str, str]:
        names = dict.fromkeys([*self.types, *self.held, *(n for s in self.steps for n in s.outputs)])
        names.pop("", None)
        return {name: name if self._named else f"v{i}" for i, name in enumerate(names)} | {"": ""}

    @property
    def key(self) -> object:
        """Equal for pieces that one session runs."""
        number = self._numbers
        return (
            tuple((s.signature, *map(number.get, s.inputs), None, *map(number.get, s.outputs)) for s in self.steps),
            tuple((number[n], t.data_type, *t.dims, t.raw_data, *t.string_data) for n, t in self.held.items()),
            tuple((number[n], t.SerializeToString()) for n, t in self.types.items()),
            tuple(map(number.get, self.fetch)),
        )

    def feed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by the names that the model has for them."""
        return {self._numbers[n]: values[n] for n in self.types}

    @property
    def results(self) -> list[str]:
        """What is asked for, by the names that the model has for it."""
        return [self._numbers[n] for n in self.fetch]

    def model(self, shell: onnx.ModelProto) -> onnx.ModelProto:
        """The model of the piece."""
        model = onnx.ModelProto()
        model.CopyFrom(shell)
        graph, number = model.graph, self._numbers
        graph.name = "piece"
        graph.input.extend(onnx.ValueInfoProto(name=number[n], type=t) for n, t in self.types.items())
        graph.output.extend(onnx.ValueInfoProto(name=number[n]) for n in self.fetch)
        for name, tensor in self.held.items():
            graph.initializer.append(tensor)
            graph.initializer[-1].name = number[name]
        for step in self.steps:
            graph.node.append(step.node)
            graph.node[-1].name = ""
            graph.node[-1].input[:] = [number[n] for n in step.node.input]
            graph.node[-1].output[:] = [number[n] for n in step.outputs]
        return model


def type_of(value: Any) -> TypeProto:
    """The type of a value that ONNX Runtime gave or takes: a tensor of any shape, or a sequence of such."""
    if isinstance(value, list):
        first = value[0] if value else np.zeros(0, np.float32)
        return helper.make_sequence_type_proto(type_of(np.asarray(first)))
    kind = TensorProto.STRING if value.dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_type_proto(kind, None)


class Sessions:
    """Sessions by the structure of what they run.

    Args:
        shell: Versions, operator sets and functions of the model.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        provider: An execution provider, by its name or what that begins with (CUDA); None for the processor's.

    Raises:
        SchemeError: ONNX Runtime has no such provider here.
    """

    def __init__(self, shell: onnx.ModelProto, threads: int | None = None, provider: str | None = None):
        self._shell = shell
        self._threads = threads
        self._providers = _providers(provider)
        self._made: dict[object, onnxruntime.InferenceSession] = {}

    def __len__(self) -> int:
        return len(self._made)

    def get(self, piece: Piece) -> onnxruntime.InferenceSession:
        """The session that runs a piece."""
        key = piece.key
        if key not in self._made:
            self._made[key] = self._new(piece.model(self._shell))
        return self._made[key]

    def _new(self, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads or 0
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_mem_pattern = False  # shapes differ from piece to piece
        options.add_session_config_entry("session.use_env_allocators", "1")  # one arena for all
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle pools of others would compete
        _share_arena()
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=self._providers)


def _providers(asked: str | None) -> list[str]:
    if asked is None:
        return [_PROCESSOR]
    import onnxruntime

    there = onnxruntime.get_available_providers()
    named = asked if asked in there else f"{asked}ExecutionProvider"
    if named not in there:
        raise SchemeError(
            f"this ONNX Runtime has no execution provider '{asked}'{nearest(asked, there)}: it has {', '.join(there)}"
        )
    return list(dict.fromkeys([named, _PROCESSOR]))


@cache
def _share_arena() -> None:
    """Let all sessions of the process take their memory from one arena, not each from its own."""
    import onnxruntime as ort

    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(kind, ort.OrtArenaCfg({}))

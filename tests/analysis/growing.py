"""A model that grows at random, and what is known of its tensors while it does: storage, views, graphs in graphs.

`Grower` holds the graphs and stores tensors; `growth.py` says which layers there are. The truth is written down where a
tensor is made, from the definition of the layer, and never read off the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = npt.NDArray[Any]

MICROSOFT = "com.microsoft"
_DATA = "weights.bin"


@dataclass(eq=False)
class Truth:
    """What a stored tensor is.

    Attributes:
        name: Its name in the file.
        role: Its role; "" for what is kept.
        shape: As stored.
        fan_in: Where the role has fans.
        fan_out: Likewise.
        groups: Of a convolution.
        blocks: Independent matrices.
        upstream: Names of the functions around it; None where the design leaves it open.
        downstream: Likewise.
        tied: Names of the tensors that have its bytes.
        slopes: Negative slopes of the leaky functions downstream.
    """

    role: str
    name: str = ""
    shape: tuple[int, ...] = ()
    fan_in: float | None = None
    fan_out: float | None = None
    groups: int = 1
    blocks: int | None = None
    upstream: set[str] | None = None
    downstream: set[str] | None = None
    tied: set[str] = field(default_factory=set)
    slopes: set[float] = field(default_factory=set)

    def before(self, function: str | None, slope: float = 0.0) -> None:
        """Say which function comes after the layer; None where the design leaves it open."""
        if function is None or self.downstream is None:
            self.downstream = None
        else:
            self.downstream.add(function)
            self.slopes.add(slope)


@dataclass(frozen=True)
class Signal:
    """A value on its way.

    Attributes:
        name: The value.
        shape: (N, C), (N, T, C) or (N, C, H, W).
        upstream: The functions that made it; None where the design leaves it open.
        open: Layers whose function is still to come.
        behind: The layer that made it, as long as nothing but a bias could come next.
    """

    name: str
    shape: tuple[int, ...]
    upstream: frozenset[str] | None = frozenset({"linear"})
    open: tuple[Truth, ...] = ()
    behind: Truth | None = None

    @property
    def channels(self) -> int:
        return self.shape[1 if len(self.shape) == 4 else -1]

    def applied(self, name: str, function: str | None, slope: float = 0.0) -> Signal:
        """The signal after a function."""
        for truth in self.open:
            truth.before(function, slope)
        return Signal(name, self.shape, None if function is None else frozenset({function}))

    def moved(self, name: str, shape: tuple[int, ...] | None = None) -> Signal:
        """The signal after something that leaves it what it is."""
        return replace(self, name=name, shape=shape or self.shape, behind=None)


@dataclass(eq=False)
class Frame:
    """A graph or function that is being made.

    Attributes:
        outer: The graph around it; None for the main graph.
        function: Whether it is a function, which sees nothing of the outside.
        nodes: Its nodes.
        stored: Its initializers.
        arguments: Of a function: by the name inside, what the caller hands in.
    """

    outer: Frame | None
    function: bool = False
    nodes: list[NodeProto] = field(default_factory=list)
    stored: list[TensorProto] = field(default_factory=list)
    arguments: dict[str, Callable[[], str]] = field(default_factory=dict)


class Grower:
    """Makes a model.

    Args:
        random: Decides everything.
    """

    def __init__(self, random: Random):
        self.random = random
        self.opset = random.choice([9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24])
        self.ir = 3 if random.random() < 0.1 else random.choice([7, 8, 9, 10])
        self.dtype = np.dtype(random.choice(["f4"] * 8 + ["f2", "f8"]))
        self.main = self.frame = Frame(None)
        self.truths: list[Truth] = []
        self.inputs: list[ValueInfoProto] = []
        self.feeds: dict[str, Array] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.external: set[str] = set()
        self.aliases: dict[str, str] = {}
        self._count = 0
        self._values = np.random.default_rng(random.getrandbits(32))

    # ------------------------------------------------------------ choices

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def size(self) -> int:
        return self.random.choice([2, 3, 4, 6, 8])

    def wide(self) -> int:
        """A width; now and then one large enough to see the moments of a weight."""
        return 48 if self.chance(0.1) else self.size()

    def new(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    # ------------------------------------------------------------ nodes

    def emit(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        return self.several(op, *inputs, outputs=outputs, domain=domain, **attributes)[0]

    def several(self, op: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        made = [self.new("v") for _ in range(outputs)]
        name = self.new("n") if self.chance(0.5) else ""
        self.frame.nodes.append(helper.make_node(op, list(inputs), made, name=name, domain=domain, **attributes))
        return made

    def feed(self, stem: str, array: Array, shape: Sequence[int | str] | None = None) -> str:
        """An input of the model."""
        name = self.new(stem)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape or array.shape)))
        self.feeds[name] = array
        return name

    # ------------------------------------------------------------ storage

    def drawn(self, *shape: int) -> Array:
        return self._values.standard_normal(shape).astype(self.dtype)

    def store(self, array: Array, truth: Truth) -> str:
        """Put a tensor somewhere that the current graph sees, and give its name there."""
        frame = self.frame
        while frame.outer is not None and not frame.function and self.chance(0.5):
            frame = frame.outer
        return self._put(frame, array, truth)

    def _put(self, frame: Frame, array: Array, truth: Truth) -> str:
        if frame.function and frame.outer is not None and self.chance(0.5):
            name, outer = self.new("a"), frame.outer
            frame.arguments[name] = lambda: self._put(outer, array, truth)
            return name
        if truth.fan_in is not None and array.dtype == np.float32 and self.chance(0.06):
            return self._made(frame, array.shape, truth)
        if frame.function or (self.ir == 3 and frame is not self.main) or self.chance(0.3):
            return self.held(frame, array, truth, self.new("t"))
        tensor = self._entered(array, truth, self.new("t"))
        frame.stored.append(tensor)
        if frame is self.main:
            if self.ir == 3 or self.chance(0.1):
                self.inputs.append(helper.make_tensor_value_info(truth.name, tensor.data_type, array.shape))
            elif self.chance(0.2) and array.dtype.kind != "i":
                self.external.add(truth.name)
        return truth.name

    def held(self, frame: Frame, array: Array, truth: Truth, name: str) -> str:
        """Put a tensor into a Constant node, as a tensor or as a list of floats."""
        tensor = self._entered(array, truth, name)
        listed = array.dtype == np.float32 and array.ndim == 1 and self.opset > 11
        if listed and not truth.role.startswith("quant") and self.chance(0.3):
            frame.nodes.insert(0, helper.make_node("Constant", [], [name], value_floats=array.tolist()))
            return name
        tensor.name = self.random.choice(["", name])
        frame.nodes.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        return name

    def _made(self, frame: Frame, shape: tuple[int, ...], truth: Truth) -> str:
        """Let a node make a weight whenever the model runs."""
        truth.name, truth.shape = name, _ = self.new("t"), shape
        self.truths.append(truth)
        op = self.random.choice(["RandomNormal", "RandomUniform", "ConstantOfShape"])
        if op == "ConstantOfShape":
            lengths = self.new("v")
            sizes = numpy_helper.from_array(np.asarray(shape, np.int64))
            frame.nodes.insert(0, helper.make_node(op, [lengths], [name]))
            frame.nodes.insert(0, helper.make_node("Constant", [], [lengths], value=sizes))
        else:
            frame.nodes.insert(0, helper.make_node(op, [], [name], shape=shape))
        return name

    def _entered(self, array: Array, truth: Truth, name: str) -> TensorProto:
        truth.name, truth.shape = name, tuple(array.shape)
        self.truths.append(truth)
        return self._tensor(array, name)

    def _tensor(self, array: Array, name: str) -> TensorProto:
        if self.chance(0.3):
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            return helper.make_tensor(name, kind, array.shape, array.reshape(-1))
        return numpy_helper.from_array(array, name)

    def constant(self, value: Any, dtype: npt.DTypeLike | None = None) -> str:
        """A number or table that nobody learns."""
        array = np.asarray(value, dtype or self.dtype)
        return self.store(array, Truth(""))

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def learned(self, role: str, *shape: int) -> str:
        """A learned vector or table without fans, in some form."""
        return self.view(self.drawn(*shape), Truth(role))

    def positive(self, role: str, *shape: int) -> str:
        return self.view(np.abs(self.drawn(*shape)) + self.dtype.type(0.5), Truth(role))

    # ------------------------------------------------------------ views

    def view(self, array: Array, truth: Truth, steps: int = 2) -> str:
        """Store a tensor in another form, and make the form that is needed of it."""
        while steps and self.chance(0.35):
            steps -= 1
            step = self.random.choice([self._transposed, self._reshaped, self._squeezed, self._cast, self._same])
            return step(array, truth, steps)
        if steps == 2 and truth.fan_in is not None and self.chance(0.15):
            return self.quantised(array, truth)
        return self.store(array, truth)

    def _transposed(self, array: Array, truth: Truth, steps: int) -> str:
        perm = self.random.sample(range(array.ndim), array.ndim)
        inner = self.view(np.ascontiguousarray(array.transpose(np.argsort(perm))), truth, steps)
        return self.emit("Transpose", inner, perm=perm)

    def _reshaped(self, array: Array, truth: Truth, steps: int) -> str:
        """Neighbouring axes stored as one."""
        at = self.random.randint(0, max(0, array.ndim - 2))
        stored = array.reshape(*array.shape[:at], -1, *array.shape[at + 2 :])
        inner = self.view(stored, truth, steps)
        return self.emit("Reshape", inner, self.integers(*array.shape))

    def _squeezed(self, array: Array, truth: Truth, steps: int) -> str:
        axis = self.random.randint(0, array.ndim)
        return self.squeeze(self.view(np.expand_dims(array, axis), truth, steps), axis)

    def _cast(self, array: Array, truth: Truth, steps: int) -> str:
        if self.dtype != np.float32:
            return self._same(array, truth, steps)
        kind = self.random.choice([TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
        inner = self.view(array.astype(helper.tensor_dtype_to_np_dtype(kind)), truth, 0)
        return self.emit("Cast", inner, to=TensorProto.FLOAT)

    def _same(self, array: Array, truth: Truth, steps: int) -> str:
        return self.emit("Identity", self.view(array, truth, steps))

    def quantised(self, array: Array, truth: Truth) -> str:
        """A quantise pair's second half: codes, scale, zero point."""
        if self.dtype != np.float32 or self.opset < 10:
            return self.store(array, truth)
        kind = self.random.choice([np.int8, np.uint8])
        axis = self.random.choice([None, 0, 1]) if self.opset > 12 else None
        shape = () if axis is None else (array.shape[axis],)
        middle = 0 if kind is np.int8 else 128
        zero = middle + self.random.choice([0, 0, 9])
        scale = (float(np.abs(array).max()) or 1.0) / 100
        codes = (np.rint(array / scale) + zero).astype(kind)
        inputs = [self.store(codes, truth), self.store(np.full(shape, scale, np.float32), Truth("quant_scale"))]
        if zero or self.chance(0.5):
            fitted = "" if zero == middle else "quant_zero_point"
            inputs.append(self.store(np.full(shape, zero, kind), Truth(fitted)))
        given: dict[str, Any] = {} if axis is None else {"axis": axis}
        return self.emit("DequantizeLinear", *inputs, **given)

    # ------------------------------------------------------------ operators whose form depends on the version

    def squeeze(self, name: str, *axes: int) -> str:
        return self._by_axes("Squeeze", name, axes)

    def unsqueeze(self, name: str, *axes: int) -> str:
        return self._by_axes("Unsqueeze", name, axes)

    def _by_axes(self, op: str, name: str, axes: tuple[int, ...]) -> str:
        if self.opset < 13:
            return self.emit(op, name, axes=axes)
        return self.emit(op, name, self.integers(*axes))

    def mean(self, name: str, *axes: int) -> str:
        if self.opset < 18:
            return self.emit("ReduceMean", name, axes=axes)
        return self.emit("ReduceMean", name, self.integers(*axes))

    def split(self, name: str, axis: int, *sizes: int) -> list[str]:
        if self.opset < 13:
            return self.several("Split", name, outputs=len(sizes), axis=axis, split=sizes)
        return self.several("Split", name, self.integers(*sizes), outputs=len(sizes), axis=axis)

    def reshape(self, name: str, *shape: int) -> str:
        return self.emit("Reshape", name, self.integers(*shape))

    # ------------------------------------------------------------ graphs in graphs

    def inside(self, make: Callable[[Frame], Signal], *, function: bool = False) -> tuple[Frame, Signal]:
        """Make a graph or function within the current one; gives it and its output."""
        outer, self.frame = self.frame, Frame(self.frame, function)
        inner = self.frame
        try:
            return inner, make(inner)
        finally:
            self.frame = outer

    @property
    def in_function(self) -> bool:
        """Whether the current graph lies in a function, which sees no input of the model."""
        frame: Frame | None = self.frame
        while frame is not None and not frame.function:
            frame = frame.outer
        return frame is not None

    def graph(self, frame: Frame, output: Signal, inputs: Sequence[ValueInfoProto] = ()) -> onnx.GraphProto:
        outs = [self.info(output.name, output.shape)]
        return helper.make_graph(frame.nodes, self.new("g"), list(inputs), outs, frame.stored)

    def info(self, name: str, shape: Sequence[int]) -> ValueInfoProto:
        """A value of the model's type; its lengths are open now and then."""
        dims: list[int | str] = [self.new("d") if self.chance(0.2) else n for n in shape]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(self.dtype), dims)

    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        versions = {"": self.opset, MICROSOFT: 1, **({"local": 1} if self.functions else {})}
        return [helper.make_opsetid(domain, version) for domain, version in versions.items()]

    # ------------------------------------------------------------ the end

    def model(self, output: Signal) -> ModelProto:
        for truth in output.open:
            truth.before("linear")
        outputs = [self.info(output.name, output.shape)]
        fitted = {truth.name for truth in self.truths if truth.role.startswith("quant")}
        free = [tensor for tensor in self.main.stored if tensor.name not in fitted]
        if free and self.chance(0.1):  # a stored tensor may be handed out as well
            held = self.random.choice(free)
            outputs.append(helper.make_tensor_value_info(held.name, held.data_type, held.dims))
        graph = helper.make_graph(self.main.nodes, "grown", self.inputs, outputs, self.main.stored)
        return helper.make_model(
            graph, opset_imports=self.opsets(), ir_version=max(self.ir, 8 if self.functions else 0),
            functions=self.functions,
        )  # fmt: skip

    def save(self, model: ModelProto, path: Path) -> None:
        """Write the model, and beside it the values of tensors that are external."""
        data = bytearray()
        places: dict[str, tuple[int, int]] = {}
        for tensor in model.graph.initializer:
            if tensor.name not in self.external and tensor.name not in self.aliases.values():
                continue
            raw = numpy_helper.to_array(tensor).tobytes()
            twin = self.aliases.get(tensor.name)
            if twin not in places:
                data += bytes(-len(data) % 64)
                places[tensor.name] = len(data), len(raw)
                data += raw
            offset, length = places[tensor.name] = places[twin or tensor.name]
            bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            bare.data_location = TensorProto.EXTERNAL
            for key, value in (("location", _DATA), ("offset", offset), ("length", length)):
                bare.external_data.add(key=key, value=str(value))
            tensor.CopyFrom(bare)
        if data:
            (path.parent / _DATA).write_bytes(data)
        path.write_bytes(model.SerializeToString())

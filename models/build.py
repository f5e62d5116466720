"""Build the small models of this folder: `python models/build.py [FOLDER]`.

| file | network | what it shows |
|---|---|---|
| resnet_bn.onnx | residual CNN | batch norm, shortcut with and without projection, global pooling |
| mlp_tanh30.onnx | 30 dense layers | one activation, no norm: what a wrong gain does to a deep net |
| unet_depthwise.onnx | U-Net | depthwise and pointwise kernels, strided ConvTranspose, ReLU6, skip joins |
| bilstm_tagger.onnx | sequence tagger | embedding, two LSTM directions, gates, a MatMul head |
| transformer.onnx | two decoder blocks | fused QKV, LayerNorm, decomposed GELU, positional table, tied embedding |
| cnn_int8.onnx | quantised CNN | QDQ pairs around int8 kernels and int32 biases, a head left in float |

The weights are *trained-like*: unequal scales from unit to unit, a shared direction, biases and norms off their
defaults, so that a weight that was not rewritten is seen at once. They come from a bit generator's raw stream through
exactly rounded steps, so that the files are the same on every machine; only the ranges of `cnn_int8.onnx` are measured
(by ONNX Runtime's calibration) and may differ in their last bits.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8

Array = npt.NDArray[np.float64]
Shape = Sequence[int | str]


def draw(name: str, shape: Sequence[int]) -> Array:
    """Values of about unit normal law for the tensor of that name: sums of four 16-bit integers.

    Args:
        name: Names the stream, so that a tensor's values do not depend on the tensors beside it.
        shape: Shape of the result.

    Returns:
        float64 values with mean 0 and variance 1, within +-3.47.
    """
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(count).astype("<u8")
    total = raw.view("<u2").reshape(count, 4).sum(axis=1, dtype=np.int64)
    values: Array = (total - 2 * 65535) / (65536 * np.sqrt(1 / 3))
    return values.reshape(shape)


class Net:
    """A graph in the making: nodes and trained-like tensors, in the order they are asked for."""

    def __init__(self, name: str) -> None:
        """Start an empty graph called `name`."""
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: Sequence[str], out: str = "", *, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; give back its output, or the list of its outputs where there are several."""
        label = out or f"{op.lower()}_{len(self.nodes)}"
        names = [label] if outputs == 1 else [f"{label}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"/{label}", **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, name: str, values: Any, dtype: npt.DTypeLike = np.int64) -> str:
        """Add a tensor that nobody trains."""
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def tensor(self, name: str, values: Array) -> str:
        """Add a float32 tensor."""
        return self.constant(name, values, np.float32)

    def weight(self, name: str, shape: Sequence[int], std: float, unit: int = 0) -> str:
        """Add a kernel: noise whose scale goes from unit to unit, and one direction that all units share.

        Args:
            name: The tensor's name.
            shape: The stored shape.
            std: About the standard deviation of the values.
            unit: The stored axis of the output units.
        """
        by_unit = [1] * len(shape)
        by_unit[unit] = shape[unit]
        across = [n if axis != unit else 1 for axis, n in enumerate(shape)]
        scale = 0.8 + 0.2 * draw(name + "/scale", by_unit)
        shared = draw(name + "/unit", by_unit) * draw(name + "/shared", across)
        return self.tensor(name, std * (scale * draw(name, shape) + 0.4 * shared))

    def vector(self, name: str, size: int, centre: float = 0.0, spread: float = 0.1) -> str:
        """Add a bias or a norm parameter: `size` values around `centre`."""
        return self.tensor(name, centre + spread * draw(name, [size]))

    def conv(
        self, name: str, x: str, c_in: int, c_out: int, k: int, *, groups: int = 1, bias: bool = True, **kw: Any
    ) -> str:
        """Convolve with a k x k kernel and "same" padding."""
        fan_in = c_in // groups * k * k
        inputs = [x, self.weight(f"{name}.weight", [c_out, c_in // groups, k, k], (2 / fan_in) ** 0.5)]
        inputs += [self.vector(f"{name}.bias", c_out)] if bias else []
        kw.setdefault("pads", [k // 2] * 4)
        return str(self.node("Conv", inputs, name, kernel_shape=[k, k], group=groups, **kw))

    def batch_norm(self, name: str, x: str, channels: int) -> str:
        """Normalise with running statistics."""
        scale = self.vector(f"{name}.weight", channels, 1.0, 0.2)
        shift = self.vector(f"{name}.bias", channels)
        mean = self.vector(f"{name}.running_mean", channels)
        var = self.tensor(f"{name}.running_var", 1 + 0.2 * draw(f"{name}.running_var", [channels]))
        return str(self.node("BatchNormalization", [x, scale, shift, mean, var], name, epsilon=1e-5))

    def layer_norm(self, name: str, x: str, width: int) -> str:
        """Normalise over the last axis."""
        scale, shift = self.vector(f"{name}.weight", width, 1.0, 0.2), self.vector(f"{name}.bias", width)
        return str(self.node("LayerNormalization", [x, scale, shift], name, axis=-1, epsilon=1e-5))

    def gemm(self, name: str, x: str, n_in: int, n_out: int, std: float) -> str:
        """A dense layer as exporters of eager frameworks store it: (out, in), transposed by the operator."""
        inputs = [x, self.weight(f"{name}.weight", [n_out, n_in], std), self.vector(f"{name}.bias", n_out)]
        return str(self.node("Gemm", inputs, name, transB=1))

    def dense(self, name: str, x: str, n_in: int, n_out: int, std: float) -> str:
        """A dense layer as MatMul and Add, stored (in, out)."""
        y = self.node("MatMul", [x, self.weight(f"{name}.weight", [n_in, n_out], std, unit=1)], f"{name}/product")
        return str(self.node("Add", [self.vector(f"{name}.bias", n_out), y], name))

    def model(
        self, inputs: dict[str, Shape], outputs: dict[str, Shape], dtype: int = TensorProto.FLOAT
    ) -> onnx.ModelProto:
        """Close the graph: what the last node makes is the output; `dtype` is the element type of the inputs."""
        self.nodes[-1].output[:] = list(outputs)
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="onnxinit models")


def resnet_bn() -> onnx.ModelProto:
    """A residual CNN: a stem, three blocks of two convolutions with batch norm, a linear head."""
    net = Net("resnet_bn")

    def conv_bn(name: str, x: str, c_in: int, c_out: int, k: int, stride: int = 1) -> str:
        y = net.conv(f"{name}.conv", x, c_in, c_out, k, bias=False, strides=[stride, stride])
        return net.batch_norm(f"{name}.bn", y, c_out)

    def block(name: str, x: str, c_in: int, c_out: int, stride: int) -> str:
        y = net.node("Relu", [conv_bn(f"{name}.0", x, c_in, c_out, 3, stride)])
        y = conv_bn(f"{name}.1", y, c_out, c_out, 3)
        short = x if stride == 1 and c_in == c_out else conv_bn(f"{name}.shortcut", x, c_in, c_out, 1, stride)
        return str(net.node("Relu", [net.node("Add", [y, short])]))

    x = net.node("Relu", [conv_bn("stem", "image", 3, 16, 3)])
    x = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = block("layer1", x, 16, 16, 1)
    x = block("layer2", x, 16, 32, 2)
    x = block("layer3", x, 32, 32, 1)
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])], axis=1)
    net.gemm("fc", x, 32, 10, 0.2)
    return net.model({"image": ["batch", 3, 32, 32]}, {"logits": ["batch", 10]})


def mlp_tanh30() -> onnx.ModelProto:
    """Thirty dense layers with tanh between them and nothing else."""
    net, width, depth = Net("mlp_tanh30"), 32, 30
    x = "features"
    for i in range(1, depth):
        x = net.node("Tanh", [net.gemm(f"layers.{i}", x, width, width, 1 / width**0.5)])
    net.gemm(f"layers.{depth}", x, width, 10, 1 / width**0.5)
    return net.model({"features": ["batch", width]}, {"logits": ["batch", 10]})


def unet_depthwise() -> onnx.ModelProto:
    """A U-Net of depthwise separable convolutions; the way up is ConvTranspose with stride 2."""
    net = Net("unet_depthwise")

    def relu6(x: str) -> str:
        return str(net.node("Clip", [x, "zero", "six"]))

    def separable(name: str, x: str, c_in: int, c_out: int, stride: int = 1) -> str:
        y = relu6(net.conv(f"{name}.depthwise", x, c_in, c_in, 3, groups=c_in, strides=[stride, stride]))
        return relu6(net.conv(f"{name}.pointwise", y, c_in, c_out, 1))

    def up(name: str, x: str, c_in: int, c_out: int) -> str:
        kernel = net.weight(f"{name}.weight", [c_in, c_out, 2, 2], (2 / c_in) ** 0.5, unit=1)
        inputs = [x, kernel, net.vector(f"{name}.bias", c_out)]
        return str(net.node("ConvTranspose", inputs, name, kernel_shape=[2, 2], strides=[2, 2]))

    net.constant("zero", 0.0, np.float32)
    net.constant("six", 6.0, np.float32)
    fine = relu6(net.conv("stem", "image", 3, 16, 3))
    middle = separable("down1", fine, 16, 32, stride=2)
    coarse = separable("down2", middle, 32, 64, stride=2)
    coarse = separable("bottom", coarse, 64, 64)
    x = net.node("Concat", [up("up1", coarse, 64, 32), middle], axis=1)
    x = separable("merge1", x, 64, 32)
    x = net.node("Concat", [up("up2", x, 32, 16), fine], axis=1)
    x = separable("merge2", x, 32, 16)
    net.node("Sigmoid", [net.conv("head", x, 16, 1, 1)])
    return net.model({"image": ["batch", 3, 32, 32]}, {"mask": ["batch", 1, 32, 32]})


def bilstm_tagger() -> onnx.ModelProto:
    """A tagger: embedding, an LSTM in both directions, one linear layer over every token."""
    net, words, width, hidden, tags = Net("bilstm_tagger"), 300, 24, 32, 12

    def gates(name: str, columns: int) -> str:
        return net.tensor(name, hidden**-0.5 * draw(name, [2, 4 * hidden, columns]))

    table = net.tensor("embedding.weight", 0.3 * draw("embedding.weight", [words, width]))
    x = net.node("Transpose", [net.node("Gather", [table, "tokens"])], perm=[1, 0, 2])
    bias = net.tensor("lstm.B", 0.1 * draw("lstm.B", [2, 8 * hidden]))
    inputs = [x, gates("lstm.W", width), gates("lstm.R", hidden), bias]
    y = net.node("LSTM", inputs, "lstm", hidden_size=hidden, direction="bidirectional")
    y = net.node("Transpose", [y], perm=[2, 0, 1, 3])
    y = net.node("Reshape", [y, net.constant("joined", [0, 0, -1])])
    net.dense("tags", y, 2 * hidden, tags, 0.15)
    return net.model({"tokens": ["batch", "length"]}, {"scores": ["batch", "length", tags]}, TensorProto.INT64)


def gelu(net: Net, x: str) -> str:
    """GELU as exporters write it below opset 20: x/2 * (1 + erf(x / sqrt 2))."""
    erf = net.node("Erf", [net.node("Div", [x, "sqrt2"])])
    return str(net.node("Mul", [net.node("Mul", [x, net.node("Add", [erf, "one"])]), "half"]))


def attention(net: Net, name: str, x: str, width: int, heads: int, std: float) -> str:
    """Causal self-attention over `heads` heads with one fused projection for Q, K and V."""
    fused = net.dense(f"{name}.qkv", x, width, 3 * width, std)
    parts = net.node("Split", [fused, "thirds"], f"{name}.split", outputs=3, axis=-1)
    q, k, v = [net.node("Transpose", [net.node("Reshape", [p, "by_head"])], perm=[0, 2, 1, 3]) for p in parts]
    scores = net.node("MatMul", [q, net.node("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = net.node("Add", [net.node("Mul", [scores, "attention_scale"]), "window"])
    mixed = net.node("MatMul", [net.node("Softmax", [scores], axis=-1), v])
    mixed = net.node("Reshape", [net.node("Transpose", [mixed], perm=[0, 2, 1, 3]), "joined"])
    return net.dense(f"{name}.out", mixed, width, width, std)


def transformer() -> onnx.ModelProto:
    """Two pre-norm decoder blocks; the output layer is the embedding table, transposed."""
    net, words, width, heads, context = Net("transformer"), 256, 48, 4, 32
    net.constant("sqrt2", 2**0.5, np.float32)
    net.constant("one", 1.0, np.float32)
    net.constant("half", 0.5, np.float32)
    net.constant("attention_scale", (width // heads) ** -0.5, np.float32)
    net.constant("mask", np.triu(np.full((1, 1, context, context), -1e4), 1), np.float32)
    net.constant("thirds", [width] * 3)
    net.constant("by_head", [0, 0, heads, width // heads])
    net.constant("joined", [0, 0, -1])
    table = net.weight("embedding.weight", [words, width], 0.05)
    places = net.weight("position.weight", [1, context, width], 0.02, unit=1)

    length = net.node("Shape", ["tokens"], start=1, end=2)
    place = net.node("Slice", [places, "origin", length, "second_axis"])
    square = net.node("Concat", [length, length], axis=0)
    net.node("Slice", ["mask", "corner", square, "square_axes"], "window")
    net.constant("origin", [0])
    net.constant("second_axis", [1])
    net.constant("corner", [0, 0])
    net.constant("square_axes", [2, 3])

    x = net.node("Add", [net.node("Gather", [table, "tokens"]), place])
    std = width**-0.5
    for i in range(2):
        y = net.layer_norm(f"blocks.{i}.norm1", x, width)
        x = net.node("Add", [x, attention(net, f"blocks.{i}.attention", y, width, heads, std)])
        y = net.layer_norm(f"blocks.{i}.norm2", x, width)
        y = gelu(net, net.dense(f"blocks.{i}.mlp.up", y, width, 4 * width, std))
        x = net.node("Add", [x, net.dense(f"blocks.{i}.mlp.down", y, 4 * width, width, std / 2)])
    x = net.layer_norm("norm", x, width)
    net.node("MatMul", [x, net.node("Transpose", [table], perm=[1, 0])])
    return net.model({"tokens": ["batch", "length"]}, {"logits": ["batch", "length", words]}, TensorProto.INT64)


def cnn_int8() -> onnx.ModelProto:
    """A small CNN, quantised statically to QDQ with int8 kernels per channel; its last layer stays in float."""
    net = Net("cnn_int8")
    x = net.node("Relu", [net.conv("conv1", "image", 1, 16, 3, strides=[2, 2])])
    x = net.node("Relu", [net.conv("conv2", x, 16, 32, 3, strides=[2, 2])])
    x = net.node("Relu", [net.conv("conv3", x, 32, 32, 3)])
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])], axis=1)
    net.gemm("fc", x, 32, 10, 0.2)
    return quantised(net.model({"image": ["batch", 1, 28, 28]}, {"logits": ["batch", 10]}), ["Conv"])


def quantised(model: onnx.ModelProto, ops: list[str]) -> onnx.ModelProto:
    """Quantise the operators of those types, with ranges measured by ONNX Runtime on seeded inputs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": draw(f"batch{i}", [8, 1, 28, 28]).astype(np.float32)} for i in range(4)]

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, str(source))
        quantize_static(
            str(source),
            str(target),
            Batches(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=ops,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(str(target))


BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f for f in (resnet_bn, mlp_tanh30, unet_depthwise, bilstm_tagger, transformer, cnn_int8)
}


def main(folder: Path) -> None:
    """Write every model into `folder`."""
    for name, build in BUILDERS.items():
        model = build()
        onnx.checker.check_model(model, full_check=True)
        target = folder / f"{name}.onnx"
        target.write_bytes(model.SerializeToString(deterministic=True))
        print(f"{target}  {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

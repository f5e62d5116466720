"""What a random model is grown of: layers, biases, norms and functions, each with its truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from growing import MICROSOFT, Grower, Signal, Truth

BATCH = 2

# Name, operator, attributes, first opset.
_OPERATORS: list[tuple[str, str, dict[str, Any], int]] = [
    ("relu", "Relu", {}, 9),
    ("leaky_relu", "LeakyRelu", {"alpha": 0.2}, 9),
    ("elu", "Elu", {}, 9),
    ("selu", "Selu", {}, 9),
    ("celu", "Celu", {"alpha": 2.0}, 12),
    ("sigmoid", "Sigmoid", {}, 9),
    ("tanh", "Tanh", {}, 9),
    ("softplus", "Softplus", {}, 9),
    ("softsign", "Softsign", {}, 9),
    ("hardsigmoid", "HardSigmoid", {"alpha": 1 / 6}, 9),
    ("hardswish", "HardSwish", {}, 14),
    ("mish", "Mish", {}, 18),
    ("gelu", "Gelu", {}, 20),
    ("gelu_tanh", "Gelu", {"approximate": "tanh"}, 20),
    ("silu", "Swish", {}, 24),
    ("softmax", "Softmax", {"axis": -1}, 13),
    ("logsoftmax", "LogSoftmax", {"axis": -1}, 13),
    ("other", "ThresholdedRelu", {"alpha": 0.5}, 10),
    ("other", "Sin", {}, 9),
]
_SLOPES = {"LeakyRelu": 0.2}


class Layers(Grower):
    """Steps from signal to signal."""

    # ------------------------------------------------------------ layers

    def layer(self, truth: Truth, signal: Signal, name: str, shape: tuple[int, ...]) -> Signal:
        """Close the layers before and open this one."""
        for before in signal.open:
            before.before("linear")
        truth.upstream = None if signal.upstream is None else set(signal.upstream)
        truth.downstream = set()
        return Signal(name, shape, open=(truth,), behind=truth)

    def dense(self, signal: Signal, width: int | None = None) -> Signal:
        """A matrix product along the last axis, of one of many forms."""
        k, n = signal.shape[-1], width or self.wide()
        truth = Truth("weight", fan_in=k, fan_out=n, blocks=1)
        form = self.random.choice(["matmul", "matmul", "einsum", "gemm", "left", "fused", "implicit"])
        x, flat = signal.name, len(signal.shape) == 2
        if form == "gemm" and flat:
            across = self.chance(0.5)
            w = self.view(self.drawn(*((n, k) if across else (k, n))), truth)
            rest = (
                [self.learned("bias", *self.random.choice([(n,), (1, n)]))]
                if self.opset < 11 or self.chance(0.5)
                else []
            )
            given: dict[str, Any] = {"alpha": 0.5} if self.chance(0.2) else {}
            y = self.emit("Gemm", x, w, *rest, transB=int(across), **given)
            made = self.layer(truth, signal, y, (*signal.shape[:-1], n))
            return replace(made, behind=None) if rest else made
        if form == "einsum" and self.opset > 11:
            lead = "bt"[: len(signal.shape) - 1]
            order = self.random.choice(["io", "oi"])
            w = self.view(self.drawn(*((k, n) if order == "io" else (n, k))), truth)
            first = self.chance(0.5)
            terms = f"{order},{lead}i" if first else f"{lead}i,{order}"
            y = self.emit("Einsum", *((w, x) if first else (x, w)), equation=f"{terms}->{lead}o")
        elif form == "implicit" and flat and self.opset > 11:
            w = self.view(self.drawn(k, n), truth)
            y = self.emit("Einsum", x, w, equation=self.random.choice(["bi,io", "ai, ib", "ci,id -> cd"]))
        elif form == "left" and flat:
            y = self.emit("MatMul", self.view(self.drawn(n, k), truth), self.emit("Transpose", x, perm=[1, 0]))
            y = self.emit("Transpose", y, perm=[1, 0])
        elif form == "fused" and self.dtype == np.float32:
            across = self.chance(0.5)
            w = self.view(self.drawn(*((n, k) if across else (k, n))), truth)
            y = self.emit("FusedMatMul", x, w, domain=MICROSOFT, transB=int(across))
        else:
            y = self.emit("MatMul", x, self.view(self.drawn(k, n), truth))
        return self.layer(truth, signal, y, (*signal.shape[:-1], n))

    def headed(self, signal: Signal) -> Signal:
        """A projection whose outputs stand in heads, or one that takes heads in."""
        b, t, k = signal.shape
        h, n = self.random.choice([2, 3]), self.size()
        if self.chance(0.5):
            truth = Truth("weight", fan_in=k, fan_out=h * n)
            y = self.emit("Einsum", signal.name, self.view(self.drawn(k, h, n), truth), equation="bti,ihd->bthd")
            return self.layer(truth, signal, self.reshape(y, 0, 0, -1), (b, t, h * n))
        heads = next(heads for heads in (3, 2, 1) if k % heads == 0)
        truth = Truth("weight", fan_in=k, fan_out=n)
        x = self.reshape(signal.name, b, t, heads, k // heads)
        w = self.view(self.drawn(heads, k // heads, n), truth)
        return self.layer(truth, signal, self.emit("Einsum", x, w, equation="bthd,hdo->bto"), (b, t, n))

    def fused(self, signal: Signal) -> Signal:
        """A layer of ONNX Runtime with its function in it."""
        name, function, slope = self.random.choice([("relu", "Relu", 0.0), ("tanh", "Tanh", 0.0)])
        if len(signal.shape) == 4:
            m = self.size()
            truth = Truth("weight", fan_in=signal.channels, fan_out=m, blocks=1)
            w = self.view(self.drawn(m, signal.channels, 1, 1), truth)
            y = self.emit("FusedConv", signal.name, w, domain=MICROSOFT, activation=function)
            return self.layer(truth, signal, y, (BATCH, m, *signal.shape[2:])).applied(y, name, slope)
        k, n = signal.channels, self.size()
        truth = Truth("weight", fan_in=k, fan_out=n, blocks=1)
        w = self.view(self.drawn(k, n), truth)
        if len(signal.shape) == 2 and self.chance(0.5):
            y = self.emit("FusedGemm", signal.name, w, self.learned("bias", n), domain=MICROSOFT, activation=function)
            return self.layer(truth, signal, y, (BATCH, n)).applied(y, name, slope)
        y = self.emit("MatMul", signal.name, w)
        made = self.layer(truth, signal, y, (*signal.shape[:-1], n))
        name, op = self.random.choice([("gelu", "BiasGelu"), ("gelu_tanh", "FastGelu")])
        return made.applied(self.emit(op, y, self.learned("bias", n), domain=MICROSOFT), name)

    def batched(self, signal: Signal) -> Signal:
        """A matrix of its own for every step of a sequence."""
        _, t, k = signal.shape
        n = self.size()
        truth = Truth("weight", fan_in=k, fan_out=n, blocks=t)
        if self.opset > 11 and self.chance(0.5):
            w = self.view(self.drawn(t, k, n), truth)
            y = self.emit("Einsum", signal.name, w, equation="bti,tio->bto")
        else:
            w = self.view(self.drawn(t, k, n), truth)
            y = self.emit("MatMul", self.emit("Transpose", signal.name, perm=[1, 0, 2]), w)
            y = self.emit("Transpose", y, perm=[1, 0, 2])
        return self.layer(truth, signal, y, (BATCH, t, n))

    def conv(self, signal: Signal, width: int | None = None, same: bool = False) -> Signal:
        """A convolution in two dimensions, or in one or three of which some have length one."""
        b, c, h, w = signal.shape
        groups = self.random.choice([g for g in range(1, c + 1) if c % g == 0 and (width or c) % g == 0])
        m = width or groups * self.random.choice([1, 2, 3])
        kernel = [self.random.choice([k for k in (1, 2, 3) if k <= n and (k % 2 or not same)]) for n in (h, w)]
        stride = 1 if same else self.random.choice([1, 1, 2])
        pads = [k // 2 for k in kernel] if same or self.chance(0.5) else [0, 0]
        volume = self.chance(0.15)
        fan = math.prod(kernel)
        truth = Truth("weight", fan_in=c // groups * fan, fan_out=m // groups * fan, groups=groups, blocks=groups)
        values = self.drawn(m, c // groups, *([1] if volume else []), *kernel)
        if volume:
            pads = [0, *pads]
        given: dict[str, Any] = {"strides": [1] * (len(pads) - 2) + [stride, stride], "pads": [*pads, *pads]}
        if groups > 1 or self.chance(0.5):
            given["group"] = groups
        if self.chance(0.5):
            given["kernel_shape"] = values.shape[2:]
        x = self.unsqueeze(signal.name, 2) if volume else signal.name
        rest = [self.learned("bias", m)] if self.chance(0.5) else []
        y = self.emit("Conv", x, self.view(values, truth), *rest, **given)
        y = self.squeeze(y, 2) if volume else y
        out = [(n + 2 * p - k) // stride + 1 for n, p, k in zip((h, w), pads[-2:], kernel, strict=True)]
        made = self.layer(truth, signal, y, (b, m, *out))
        return replace(made, behind=None) if rest else made

    def conv_transpose(self, signal: Signal) -> Signal:
        b, c, h, w = signal.shape
        groups = self.random.choice([g for g in range(1, c + 1) if c % g == 0])
        m = self.random.choice([1, 2, 3])
        kernel = [self.random.choice([1, 2, 3]) for _ in (h, w)]
        strides = [self.random.choice([1, 2]) for _ in (h, w)]
        fan = math.prod(kernel)
        truth = Truth(
            "weight", fan_in=c / groups * fan / math.prod(strides), fan_out=m * fan, groups=groups, blocks=groups
        )
        rest = [self.learned("bias", groups * m)] if self.chance(0.5) else []
        kernel_values = self.view(self.drawn(c, m, *kernel), truth)
        y = self.emit("ConvTranspose", signal.name, kernel_values, *rest, strides=strides, group=groups)
        out = [(n - 1) * s + k for n, s, k in zip((h, w), strides, kernel, strict=True)]
        made = self.layer(truth, signal, y, (b, groups * m, *out))
        return replace(made, behind=None) if rest else made

    def conv_along(self, signal: Signal) -> Signal:
        """A convolution along a sequence."""
        b, t, c = signal.shape
        m, k = self.size(), self.random.choice([1, 2, 3])
        truth = Truth("weight", fan_in=c * k, fan_out=m * k, blocks=1)
        x = self.emit("Transpose", signal.name, perm=[0, 2, 1])
        y = self.emit("Conv", x, self.view(self.drawn(m, c, k), truth), auto_pad="SAME_UPPER")
        return self.layer(truth, signal, self.emit("Transpose", y, perm=[0, 2, 1]), (b, t, m))

    def recurrent(self, signal: Signal) -> Signal:
        b, t, c = signal.shape
        h = self.size()
        op, gates = self.random.choice([("RNN", 1), ("GRU", 3), ("LSTM", 4)])
        direction = self.random.choice(["forward", "reverse", "bidirectional"])
        d = 2 if direction == "bidirectional" else 1
        truth = Truth("input_weight", fan_in=c, fan_out=h, blocks=d * gates)
        again = Truth("recurrent_weight", fan_in=h, fan_out=h, blocks=d * gates)
        inputs = [self.view(self.drawn(d, gates * h, c), truth), self.view(self.drawn(d, gates * h, h), again)]
        more = ["", "", "", "", ""]
        if self.chance(0.7):
            more[0] = self.learned("bias", d, 2 * gates * h)
        if self.chance(0.3):
            more[2] = self.constant(np.zeros((d, b, h)))
        if op == "LSTM" and self.chance(0.3):
            more[4] = self.learned("peephole", d, 3 * h)
        while more and not more[-1]:
            more.pop()
        functions = ["Relu"] * d if op == "RNN" and self.chance(0.3) else []
        given: dict[str, Any] = {"activations": functions} if functions else {}
        x = self.emit("Transpose", signal.name, perm=[1, 0, 2])
        y = self.emit(op, x, *inputs, *more, hidden_size=h, direction=direction, **given)
        y = self.reshape(self.emit("Transpose", y, perm=[2, 0, 1, 3]), 0, 0, -1)
        self.layer(truth, signal, y, (b, t, d * h))
        truth.downstream = None
        return Signal(y, (b, t, d * h), frozenset({"relu" if functions else "tanh"}))

    def glu(self, signal: Signal) -> Signal:
        n = self.size()
        made = self.biased(self.dense(signal, 2 * n), 0.5)
        truth = made.open[0]
        truth.fan_out, truth.blocks = n, 2
        a, b = self.split(made.name, -1, n, n)
        return replace(made.applied(self.emit("Mul", a, self.emit("Sigmoid", b)), "glu"), shape=(*signal.shape[:-1], n))

    def gated(self, signal: Signal) -> Signal:
        """SwiGLU: two layers side by side, the function of one times the other."""
        n = self.size()
        gate, up = self.dense(signal, n), self.dense(signal, n)
        for truth in gate.open:
            truth.before("silu")
        for truth in up.open:
            truth.before("linear")
        y = self.emit("Mul", gate.name, self.emit("Sigmoid", gate.name))
        return Signal(self.emit("Mul", y, up.name), gate.shape, None)

    def attention(self, signal: Signal) -> Signal:
        """Self-attention of one head, its projections apart or in one."""
        b, t, c = signal.shape
        n = self.size()
        if self.chance(0.5):
            made = self.biased(self.dense(signal, 3 * n), 0.5)
            (truth,) = made.open
            truth.fan_out, truth.blocks, truth.downstream = n, 3, None
            q, k, v = self.split(made.name, -1, n, n, n)
        else:
            parts = [self.biased(self.dense(signal, n), 0.5) for _ in range(3)]
            for part in parts:
                part.open[0].downstream = None
            q, k, v = (part.name for part in parts)
        scores = self.emit("MatMul", q, self.emit("Transpose", k, perm=[0, 2, 1]))
        scores = self.emit("Div", scores, self.constant(math.sqrt(n)))
        if self.chance(0.3):
            scores = self.emit("Add", scores, self.constant(np.triu(np.full((t, t), -1e4), 1)))
        y = self.emit("MatMul", self.emit("Softmax", scores, axis=2), v)
        return self.dense(Signal(y, (b, t, n), None), c)

    # ------------------------------------------------------------ biases and norms

    def biased(self, signal: Signal, p: float = 1.0) -> Signal:
        """A bias right behind its layer."""
        if signal.behind is None or not self.chance(p):
            return signal
        c = signal.channels
        shape = self.random.choice([(c, 1, 1), (1, c, 1, 1)] if len(signal.shape) == 4 else [(c,), (1, c)])
        b = self.learned("bias", *shape)
        pair = (signal.name, b) if self.chance(0.7) else (b, signal.name)
        return signal.moved(self.emit("Add", *pair))

    def normed(self, signal: Signal) -> Signal:
        if signal.channels == 1:
            return signal  # one number, which is no norm
        c, x = signal.channels, signal.name

        def scale() -> str:
            return self.learned("norm_scale", c)

        def shift() -> str:
            return self.learned("norm_shift", c)

        if len(signal.shape) == 4:
            form = self.random.choice(["BatchNormalization", "InstanceNormalization", "GroupNormalization"])
            if form == "BatchNormalization":
                stats = [self.learned("running_mean", c), self.positive("running_var", c)]
                return signal.moved(self.emit(form, x, scale(), shift(), *stats))
            if form == "GroupNormalization" and self.opset > 20:
                groups = self.random.choice([g for g in range(1, c + 1) if c % g == 0])
                return signal.moved(self.emit(form, x, scale(), shift(), num_groups=groups))
            return signal.moved(self.emit("InstanceNormalization", x, scale(), shift()))
        if self.opset > 22 and self.chance(0.3):
            return signal.moved(self.emit("RMSNormalization", x, scale()))
        if self.opset > 16 and self.chance(0.5):
            return signal.moved(self.emit("LayerNormalization", x, scale(), *([shift()] if self.chance(0.7) else [])))
        d = self.emit("Sub", x, self.mean(x, -1))
        square = self.emit("Mul", d, d) if self.chance(0.5) else self.emit("Pow", d, self.constant(2.0))
        spread = self.emit("Sqrt", self.emit("Add", self.mean(square, -1), self.constant(1e-5)))
        y = self.emit("Add", self.emit("Mul", self.emit("Div", d, spread), scale()), shift())
        return signal.moved(y)

    # ------------------------------------------------------------ functions

    def activated(self, signal: Signal) -> Signal:
        """A function, but none of a function: the two would be one."""
        if not signal.open and signal.upstream not in (None, frozenset({"linear"})):
            return signal
        written = [self._written_silu, self._written_gelu, self._written_quick_gelu, self._clipped, self._prelu]
        if self.chance(0.35):
            return self.random.choice(written)(signal)
        rows = [row for row in _OPERATORS if row[3] <= self.opset]
        if len(signal.shape) == 4:
            rows = [row for row in rows if not row[0].endswith("softmax")]
        if not any(truth.role == "weight" for truth in signal.open):
            rows = [row for row in rows if row[1] != "Sin"]  # of positions it would be an encoding
        name, op, given, _ = self.random.choice(rows)
        return signal.applied(self.emit(op, signal.name, **given), name, _SLOPES.get(op, 0.0))

    def _written_silu(self, signal: Signal) -> Signal:
        return signal.applied(self.emit("Mul", signal.name, self.emit("Sigmoid", signal.name)), "silu")

    def _written_gelu(self, signal: Signal) -> Signal:
        x = signal.name
        e = self.emit("Erf", self.emit("Div", x, self.constant(math.sqrt(2))))
        y = self.emit("Mul", x, self.emit("Add", e, self.constant(1.0)))
        return signal.applied(self.emit("Mul", y, self.constant(0.5)), "gelu")

    def _written_quick_gelu(self, signal: Signal) -> Signal:
        gate = self.emit("Sigmoid", self.emit("Mul", signal.name, self.constant(1.702)))
        return signal.applied(self.emit("Mul", signal.name, gate), "quick_gelu")

    def _clipped(self, signal: Signal) -> Signal:
        low, high = self.random.choice([(0.0, 6.0), (-1.0, 1.0)])
        name = "clip" if low else "relu6"
        if self.opset < 11:
            return signal.applied(self.emit("Clip", signal.name, min=low, max=high), name)
        return signal.applied(self.emit("Clip", signal.name, self.constant(low), self.constant(high)), name)

    def _prelu(self, signal: Signal) -> Signal:
        c = signal.channels
        slope = self.learned("prelu_slope", *((c, 1, 1) if len(signal.shape) == 4 else (c,)))
        return signal.applied(self.emit("PRelu", signal.name, slope), "prelu", 0.25)

    # ------------------------------------------------------------ what changes nothing

    def passed(self, signal: Signal) -> Signal:
        """Through something that leaves a signal what it is."""
        x, shape = signal.name, signal.shape
        ways: list[Callable[[], Signal]] = [
            lambda: signal.moved(self.emit("Identity", x)),
            lambda: signal.moved(self.emit("Dropout", x)),
            lambda: signal.moved(self.reshape(self.reshape(x, -1), *shape)),
            lambda: signal.moved(self.squeeze(self.unsqueeze(x, 0), 0)),
            lambda: signal.moved(self.emit("Mul", x, self.constant(0.5))),
        ]
        if self.dtype == np.float32:
            ways.append(lambda: signal.moved(self.emit("Cast", self.emit("Cast", x, to=11), to=1)))
        if len(shape) == 4 and min(shape[2:]) > 1:
            pooled = (*shape[:2], *(n // 2 for n in shape[2:]))
            for op in ("MaxPool", "AveragePool"):
                ways.append(
                    lambda op=op: signal.moved(self.emit(op, x, kernel_shape=[2, 2], strides=[2, 2]), pooled)  # type: ignore[misc]
                )
        return self.random.choice(ways)()

    def flattened(self, signal: Signal) -> Signal:
        b, c, h, w = signal.shape
        if self.chance(0.5):
            return signal.moved(self.emit("Flatten", signal.name), (b, c * h * w))
        y = self.emit("GlobalAveragePool", signal.name)
        return signal.moved(self.reshape(y, 0, -1), (b, c))

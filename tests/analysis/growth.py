"""Models that grow at random: layers in a row, side by side, in branches, loops and functions, with their truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
from growing import Frame, Signal, Truth
from grown_layers import BATCH, Layers
from onnx import ModelProto, TensorProto, helper

_WORDS = 19


class Growth(Layers):
    """Steps from signal to signal, layers and what layers are put together to.

    Args:
        random: Decides everything.
    """

    def __init__(self, random: Random):
        super().__init__(random)
        self.depth = 0
        self.table = ""  # the embedding, of `width` columns
        self.width = 0

    # ------------------------------------------------------------ joins

    def residual(self, signal: Signal) -> Signal:
        """x + f(x), or x + g f(x) with a learned g for every channel."""
        for truth in signal.open:
            truth.downstream = None
        inner = self.same_width(replace(signal, open=(), behind=None))
        y = inner.name
        if inner.channels > 1 and self.chance(0.4):
            shape = (inner.channels, 1, 1) if len(inner.shape) == 4 else (inner.channels,)
            truth = Truth("layer_scale")
            y = self.emit("Mul", y, self.store(self.drawn(*shape), truth))
        for truth in inner.open:
            truth.downstream = None
        return Signal(self.emit("Add", signal.name, y), inner.shape, None)

    def beside(self, signal: Signal) -> Signal:
        """Two layers side by side, joined; their weights stored apart or in one."""
        n = self.size()
        if self.chance(0.5) and len(signal.shape) < 4:
            k, shape = signal.channels, (*signal.shape[:-1], n)
            truth = Truth("weight", fan_in=k, fan_out=n, blocks=2)
            w, v = self.split(self.view(self.drawn(k, 2 * n), truth), 1, n, n)
            one = self.layer(truth, signal, self.emit("MatMul", signal.name, w), shape)
            other = self.layer(truth, signal, self.emit("MatMul", signal.name, v), shape)
        else:
            one, other = self._side(signal, n), self._side(signal, n)
        axis = 1 if len(signal.shape) == 4 else len(signal.shape) - 1
        y = self.emit("Concat", one.name, other.name, axis=axis)
        return self._joined(y, one, other, (*one.shape[:axis], 2 * n, *one.shape[axis + 1 :]))

    def _side(self, signal: Signal, width: int) -> Signal:
        made = self.conv(signal, width, same=True) if len(signal.shape) == 4 else self.dense(signal, width)
        made = self.biased(made, 0.5)
        return self.activated(made) if self.chance(0.5) else made

    @staticmethod
    def _joined(name: str, one: Signal, other: Signal, shape: tuple[int, ...]) -> Signal:
        """What two signals are made to: both functions are before it, and the layers of both still open."""
        upstream = None if one.upstream is None or other.upstream is None else one.upstream | other.upstream
        return Signal(name, shape, upstream, tuple(dict.fromkeys(one.open + other.open)))

    def same_width(self, signal: Signal) -> Signal:
        """Some layers, the last with the width of the signal."""
        steps = self.random.choice([1, 2])
        made = signal
        for i in range(steps):
            last = self.conv(made, signal.channels, same=True) if len(signal.shape) == 4 else None
            made = self.biased(last or self.dense(made, signal.channels), 0.5)
            if self.chance(0.5):
                made = self.normed(made)
            if i + 1 < steps:
                made = self.activated(made)
        return made

    def tied(self, signal: Signal) -> Signal:
        """Two layers with one square weight: by name, turned, or by its place in an external file."""
        c = signal.shape[-1]
        values, truth = self.drawn(c, c), Truth("weight", fan_in=c, fan_out=c, blocks=1)
        form = self.random.choice(["name", "turned", "place"])
        if form == "place" and self.frame is self.main and self.ir > 3:
            twins = [Truth("weight", fan_in=c, fan_out=c, blocks=1) for _ in range(2)]
            names = []
            for twin in twins:
                twin.name, twin.shape = self.new("t"), (c, c)
                names.append(twin.name)
                self.truths.append(twin)
                self.main.stored.append(self._tensor(values, twin.name))
            self.aliases[names[1]] = names[0]
            self.external |= set(names)
            twins[0].tied, twins[1].tied = {names[1]}, {names[0]}
            first = self.layer(twins[0], signal, self.emit("MatMul", signal.name, names[0]), signal.shape)
            between = self.activated(first)
            return self.layer(twins[1], between, self.emit("MatMul", between.name, names[1]), signal.shape)
        w = self.view(values, truth)
        first = self.layer(truth, signal, self.emit("MatMul", signal.name, w), signal.shape)
        upstream = truth.upstream
        between = self.activated(first)
        downstream = truth.downstream
        if form == "turned":
            w = self.emit("Transpose", w, perm=[1, 0])
        made = self.layer(truth, between, self.emit("MatMul", between.name, w), signal.shape)
        truth.upstream = None if upstream is None or truth.upstream is None else upstream | truth.upstream
        truth.downstream = downstream
        return replace(made, behind=None)

    def dead(self, signal: Signal) -> Signal:
        """A layer whose output nobody reads."""
        (truth,) = self.dense(replace(signal, open=())).open if len(signal.shape) < 4 else (None,)
        if truth is not None:
            truth.before("linear")
            for before in signal.open:
                before.before("linear")
        self.store(self.drawn(self.size(), 3), Truth(""))
        return replace(signal, behind=None)

    # ------------------------------------------------------------ graphs in graphs

    def branched(self, signal: Signal) -> Signal:
        """An If whose branches are layers of the same width."""

        def body(frame: Frame) -> Signal:
            end = self.same_width(replace(signal, behind=None))
            return self.activated(end) if self.chance(0.5) else end

        (yes, one), (no, other) = self.inside(body), self.inside(body)
        graphs: dict[str, Any] = {"then_branch": self.graph(yes, one), "else_branch": self.graph(no, other)}
        fixed = self.in_function or self.chance(0.3)
        way = self.constant(True, np.bool_) if fixed else self.feed("way", np.asarray(self.chance(0.5)))
        return self._joined(self.emit("If", way, **graphs), one, other, one.shape)

    def looped(self, signal: Signal) -> Signal:
        """A Loop that carries the signal through the same layers."""
        state, step, going, on = (self.new(s) for s in ("s", "i", "c", "c"))
        entry: list[Truth] = []

        def body(frame: Frame) -> Signal:
            frame.nodes.append(helper.make_node("Identity", [going], [on]))
            first = self.dense(signal.moved(state), signal.channels)
            entry.extend(first.open)
            end = self.biased(first, 0.5)
            return self.activated(end) if self.chance(0.7) else end

        frame, end = self.inside(body)
        graph = self.graph(frame, end, [self.info(state, signal.shape)])
        graph.input.insert(0, helper.make_tensor_value_info(going, TensorProto.BOOL, []))
        graph.input.insert(0, helper.make_tensor_value_info(step, TensorProto.INT64, []))
        graph.output.insert(0, helper.make_tensor_value_info(on, TensorProto.BOOL, []))
        count, always = self.constant(2, np.int64), self.constant(True, np.bool_)
        y = self.emit("Loop", count, always, signal.name, body=graph)
        for before in end.open:
            before.before("linear")
        self._again(entry[0], end)
        return replace(end, name=y, behind=None)

    @staticmethod
    def _again(entry: Truth, end: Signal) -> None:
        """What a body ends with is also what its first layer is fed."""
        entry.upstream = None if end.upstream is None or entry.upstream is None else entry.upstream | end.upstream

    def scanned(self, signal: Signal) -> Signal:
        """A Scan over the steps of a sequence."""
        b, t, c = signal.shape
        step = self.new("x")

        def body(frame: Frame) -> Signal:
            end = self.biased(self.dense(Signal(step, (b, c), signal.upstream, signal.open)), 0.5)
            return self.activated(end) if self.chance(0.5) else end

        frame, end = self.inside(body)
        graph = self.graph(frame, end, [self.info(step, (b, c))])
        axes: dict[str, Any] = {"scan_input_axes": [1], "scan_output_axes": [1]}
        y = self.emit("Scan", signal.name, body=graph, num_scan_inputs=1, **axes)
        return replace(end, name=y, shape=(b, t, end.channels), behind=None)

    def stacked(self, signal: Signal) -> Signal:
        """A Scan over stacked weights: a layer for each."""
        c, count = signal.channels, self.random.choice([2, 3])
        state, w, b = (self.new(s) for s in ("s", "w", "b"))
        truth = Truth("weight", fan_in=c, fan_out=c, blocks=count)
        weights = self.view(self.drawn(count, c, c), truth)
        biases = self.learned("bias", count, c)

        def body(frame: Frame) -> Signal:
            first = self.layer(truth, signal, self.emit("MatMul", state, w), signal.shape)
            return self.activated(first.moved(self.emit("Add", first.name, b)))

        frame, end = self.inside(body)
        inputs = [self.info(state, signal.shape), self.info(w, (c, c)), self.info(b, (c,))]
        y = self.emit("Scan", signal.name, weights, biases, body=self.graph(frame, end, inputs), num_scan_inputs=2)
        self._again(truth, end)
        return replace(end, name=y)

    def called(self, signal: Signal) -> Signal:
        """A function that holds some layers; some of their weights are its arguments."""
        x = self.new("x")
        frame, end = self.inside(lambda frame: self.grow(signal.moved(x), self.random.choice([1, 2, 3])), function=True)
        name = self._function(frame, x, end)
        y = self.emit(name, signal.name, *(hand() for hand in frame.arguments.values()), domain="local")
        return replace(end, name=y, behind=None)

    def called_twice(self, signal: Signal) -> Signal:
        """A function that is called on its own result, with weights of its own or with others each time."""
        c = signal.channels
        x = self.new("x")
        truths = [Truth("weight", fan_in=c, fan_out=c, blocks=1) for _ in range(2)]
        handed = self.chance(0.5)
        probe = Truth("", downstream=set())

        def body(frame: Frame) -> Signal:
            w = self.new("a")
            if handed:
                frame.arguments[w] = lambda: ""
            else:
                self.held(frame, self.drawn(c, c), truths[0], w)
            return self.activated(Signal(self.emit("MatMul", x, w), signal.shape, open=(probe,)))

        frame, end = self.inside(body, function=True)
        name = self._function(frame, x, end)
        rest = [hand() for hand in list(frame.arguments.values())[handed:]]
        (function,), (slope,) = probe.downstream or {"linear"}, probe.slopes
        at = signal
        for i in range(2):
            truth = truths[i * handed]
            before = truth.upstream
            own = [self.view(self.drawn(c, c), truth)] if handed else []
            at = self.layer(truth, at, self.emit(name, at.name, *own, *rest, domain="local"), signal.shape)
            if i and not handed:
                truth.upstream = None if before is None or truth.upstream is None else before | truth.upstream
            at = at.applied(at.name, function, slope)
        return at

    def _function(self, frame: Frame, x: str, end: Signal) -> str:
        name, inputs = self.new("Fn"), [x, *frame.arguments]
        self.functions.append(helper.make_function("local", name, inputs, [end.name], frame.nodes, self.opsets()))
        return name

    # ------------------------------------------------------------ growing

    def start(self) -> Signal:
        kind = self.random.choice(["flat", "sequence", "image", "tokens"])
        if kind == "tokens":
            return self.looked_up()
        shape: tuple[int, ...] = {
            "flat": (BATCH, self.wide()),
            "sequence": (BATCH, self.random.choice([3, 5]), self.wide()),
            "image": (BATCH, self.size(), self.random.choice([5, 7]), self.random.choice([5, 6])),
        }[kind]
        named: list[int | str] = ["n", *shape[1:]] if self.chance(0.3) and kind != "sequence" else list(shape)
        return Signal(self.feed("x", self.drawn(*shape), named), shape)

    def looked_up(self) -> Signal:
        v, d, t = _WORDS, self.wide(), 5
        ids = self.feed("ids", np.asarray(self._values.integers(0, v, (BATCH, t))))
        truth = Truth("embedding", fan_in=d, fan_out=v)
        self.table = ""
        if self.chance(0.2):
            y = self.emit("Gather", self.view(self.drawn(d, v), truth), ids, axis=1)
            y = self.emit("Transpose", y, perm=[1, 2, 0])
        else:
            self.table = self.view(self.drawn(v, d), truth)
            y = self.emit("Gather", self.table, ids)
        self.width = d
        signal = replace(self.layer(truth, Signal(ids, (BATCH, t)), y, (BATCH, t, d)), behind=None)
        if self.chance(0.4):
            table = self.store(self.drawn(*self.random.choice([(t, d), (1, t, d)])), Truth("positional"))
            signal = signal.moved(self.emit("Add", signal.name, table))
        return signal

    def decoded(self, signal: Signal) -> Signal:
        """The embedding once more, as the layer that scores every word."""
        for before in signal.open:
            before.before("linear")
        y = self.emit("MatMul", signal.name, self.emit("Transpose", self.table, perm=[1, 0]))
        return Signal(y, (*signal.shape[:-1], _WORDS))

    def step(self, signal: Signal) -> Signal:
        rank = len(signal.shape)
        steps: list[Callable[[Signal], Signal]] = [self.activated, self.normed, self.passed, self.biased, self.residual]
        if signal.behind is not None:
            steps += [self.biased] * 3
        if signal.open:
            steps += [self.activated] * 3
        if rank == 4:
            steps += [self.fused, self.beside] if self.dtype == np.float32 else [self.beside]
            steps += [self.conv] * 4 + [self.conv_transpose, self.flattened, self.flattened]
        else:
            steps += [self.fused, self.beside] if self.dtype == np.float32 else [self.beside]
            steps += [self.dense] * 3 + [self.glu, self.gated, self.tied, self.dead]
        if rank == 2:
            steps += [self.stacked]
        if rank == 3:
            steps += [self.headed] if self.opset > 11 else []
            steps += [self.batched, self.conv_along, self.recurrent, self.attention]
        if self.depth < 2:
            steps += [self.branched, self.called]
            steps += [self.looped, self.called_twice] if rank < 4 else []
            steps += [self.scanned] if rank == 3 else []
        return self.random.choice(steps)(signal)

    def grow(self, signal: Signal, steps: int) -> Signal:
        self.depth += 1
        for _ in range(steps):
            signal = self.step(signal)
        self.depth -= 1
        return signal


def grown(random: Random) -> tuple[Growth, ModelProto]:
    """A model that random choices make, and what is known of it."""
    growth = Growth(random)
    end = growth.grow(growth.start(), random.randint(1, 6))
    if growth.table and len(end.shape) == 3 and end.channels == growth.width:
        end = growth.decoded(end)
    return growth, growth.model(end)

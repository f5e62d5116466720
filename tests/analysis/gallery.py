"""Whole models for tests: small ones of every kind, and the sample models."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from graphs import build

MODELS = {p.stem: p for p in sorted((Path(__file__).parents[2] / "models").glob("*.onnx"))}

SMALL: dict[str, Callable[[], onnx.ModelProto]] = {
    "norms, gates, residual": lambda: build(
        """(float[n,t,8] x) => (float[n,t,8] y) { m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) q = Mul(d, d)
        v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) s = Sqrt(e) u = Div(d, s) g = Mul(u, g1) h = Add(g, b1)
        p = MatMul(h, w) a, c = Split<axis = -1>(p) o = Sigmoid(c) i = Mul(a, o) l = MatMul(i, w2) k = Mul(l, ls)
        y = Add(x, k) }""",
        eps=np.array(1e-5, np.float32), g1=(8,), b1=(8,), w=(8, 24), w2=(12, 8), ls=(8,),
    ),
    "a cell in a scan": lambda: build(
        """(float[5,n,4] x, float[n,6] h0) => (float[n,6] last, float[5,n,6] all) {
        last, all = Scan<num_scan_inputs = 1, body = c
        (float[n,6] h, float[n,4] xt) => (float[n,6] h2, float[n,6] out) {
        p = MatMul(xt, w) q = MatMul(h, r) s = Add(p, q) z = Add(s, b) h2 = Tanh(z) out = Identity(h2) }>(h0, x) }""",
        w=(4, 6), r=(6, 6), b=(6,),
    ),
    "a function called twice": lambda: build(
        """(float[n,3,9,9] x) => (float[n,3,9,9] y) { h = local.Block(x, w1, b1) y = local.Block(h, w2, b2) }""",
        functions="""<domain: "local", opset_import: ["": 17]> Block (a, m, c) => (b) {
        k = Constant<value = float[3,1,1,1] {1, 2, 3}>() h = Conv<pads = [1, 1, 1, 1]>(a, m, c)
        d = Conv<group = 3>(h, k) b = Relu(d) }""",
        w1=(3, 3, 3, 3), b1=(3,), w2=(3, 3, 3, 3), b2=(3,),
    ),
    "attention": lambda: build(
        """(int64[n,t] ids) => (float[n,t,50] y) { x = Gather(table, ids) l = LayerNormalization(x, g, b)
        p = MatMul(l, w) q, k, v = Split<axis = -1>(p) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)
        c = Div(s, scale) m = Add(c, mask) a = Softmax(m) o = MatMul(a, v) h = Add(x, o) f = MatMul(h, up)
        e = Erf(f) one = Constant<value_float = 1.0>() e1 = Add(e, one) d = Mul(f, e1) z = MatMul(d, down)
        r = Add(h, z) th = Transpose(table) y = MatMul(r, th) }""",
        table=(50, 8), g=(8,), b=(8,), w=(8, 24), scale=np.array(math.sqrt(8), np.float32), up=(8, 32), down=(32, 8),
        mask=np.triu(np.full((6, 6), -np.inf, np.float32), 1),
    ),
}  # fmt: skip


def model_of(name: str) -> onnx.ModelProto:
    return SMALL[name]() if name in SMALL else onnx.load(MODELS[name])


EVERY = [*SMALL, *MODELS]

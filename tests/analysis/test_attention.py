"""Attention as ONNX Runtime fuses it: projections, biases, norms and tables, against running it and by construction."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Array, build, kinds, roles, weights
from runs import Shapes, blocks, drawn, reasons, run, softmax

# ---------------------------------------------------------------- attention


def heads(x: Array, matrix: Array, bias: Array, n: int) -> Array:
    """Projected signals (batch, heads, time, width)."""
    projected = x @ matrix.T + bias.ravel()
    return projected.reshape(*x.shape[:2], n, -1).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 4, 8)])
@pytest.mark.parametrize("op", ["Attention", "joined"])
def test_the_projections_of_attention(op: str, sizes: tuple[int, int, int]) -> None:
    """The blocks that the layout finds give what ONNX Runtime computes, also where they were stored one by one."""
    given = f"num_heads = 2, qkv_hidden_sizes = [{', '.join(map(str, sizes))}]"
    body = f"y = com.microsoft.Attention<{given}>(x, w, b)"
    shapes: Shapes = {"w": (4, sum(sizes)), "b": (sum(sizes),)}
    if op == "joined":
        body = "w = Concat<axis = 1>(q, k, v) " + body
        shapes = {"q": (4, sizes[0]), "k": (4, sizes[1]), "v": (4, sizes[2]), "b": (sum(sizes),)}
    model = build(f"(float[2,3,4] x) => (float[2,3,{sizes[2]}] y) {{ {body} }}", **shapes)
    found = weights(model)
    names = ["q", "k", "v"] if op == "joined" else ["w"]
    q, k, v = (m for name in names for m in blocks(model, found[name]))
    bq, bk, bv = blocks(model, found["b"])
    x = drawn(2, 3, 4)
    a, b, c = (heads(x, *p, 2) for p in ((q, bq), (k, bk), (v, bv)))
    mixed = softmax(a @ b.transpose(0, 1, 3, 2) / np.sqrt(a.shape[-1])) @ c
    expected = mixed.transpose(0, 2, 1, 3).reshape(2, 3, -1)
    np.testing.assert_allclose(run(model, x=x)[0], expected, atol=1e-5)
    assert {found[n].role for n in names} == {"weight"}
    assert all(found[n].fan_in == 4 for n in names)
    assert found["b"].role == "bias"
    parts = [p for n in names for p in found[n].layout.parts]  # type: ignore[union-attr]
    assert [name for p in parts for name in p.names] == ["q", "k", "v"]


@pytest.mark.parametrize(
    ("node", "shapes", "expected"),
    [
        ("PackedAttention<num_heads = 2>(x, w, b, i, i)", {"w": (4, 12), "b": (12,)}, {"w": (4, 4, 3), "b": 3}),
        ("DecoderMaskedSelfAttention<num_heads = 2>(x, w, b)", {"w": (4, 12), "b": (12,)}, {"w": (4, 4, 3), "b": 3}),
        (
            "LongformerAttention<num_heads = 2, window = 2>(x, w, b, m, v, c, i)",
            {"w": (4, 12), "b": (12,), "v": (4, 12), "c": (12,)},
            {"w": (4, 4, 3), "b": 3, "v": (4, 4, 3), "c": 3},
        ),
        (
            "DecoderAttention<num_heads = 2>(x, x, w, v, b)",
            {"w": (4, 4), "v": (4, 8), "b": (12,)},
            {"w": (4, 4, 1), "v": (4, 4, 2), "b": 3},
        ),
        ("MultiHeadAttention<num_heads = 2>(x, x, x, b)", {"b": (12,)}, {"b": 3}),
        ("PackedMultiHeadAttention<num_heads = 2>(x, x, x, b, i, i)", {"b": (12,)}, {"b": 3}),
        ("DecoderMaskedMultiHeadAttention<num_heads = 2>(x,x,x,m,,,,,,,b)", {"b": (12,)}, {"b": 3}),
        ("QAttention<num_heads = 2>(x, x, b, m, m)", {"b": (12,)}, {"b": 3}),
    ],
)  # fmt: skip
def test_attention_as_it_is_fused(node: str, shapes: Shapes, expected: dict[str, tuple[int, int, int] | int]) -> None:
    text = f"(float[1,3,4] x, float[1,3] m, int32[1] i) => (y) {{ y = com.microsoft.{node} }}"
    found = weights(build(text, check=False, **shapes))
    for name, want in expected.items():
        w = found[name]
        if isinstance(want, int):
            assert (w.role, w.blocks) == ("bias", want)
        else:
            assert (w.role, w.fan_in, w.fan_out, w.blocks) == ("weight", *want)


def test_the_bias_of_attention_belongs_to_the_product_before() -> None:
    text = (
        "(float[1,3,4] x) => (y) { q = MatMul(x, w) y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, q, q, b) }"
    )
    assert weights(build(text, check=False, w=(4, 8), b=(24,)))["b"].fan_in == 4


BY_HEAD = "norm_scale"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            "GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(x,x,x,,,i,i,cos,sin,,t,s,,,q,k)",
            {"cos": "", "sin": "", "t": "positional", "s": "other", "q": BY_HEAD, "k": BY_HEAD},
        ),
        (
            "PagedAttention<num_heads = 2, kv_num_heads = 1>(x,x,x,x,x,i,i,i,cos,sin,,s,q,k)",
            {"cos": "", "sin": "", "s": "other", "q": BY_HEAD, "k": BY_HEAD},
        ),
        (
            "SparsePagedAttention<num_heads = 2, kv_num_heads = 1>(x,x,x,x,x,i,i,i,,,,,,,cos,sin,s,q,k)",
            {"cos": "", "sin": "", "s": "other", "q": BY_HEAD, "k": BY_HEAD},
        ),
        (
            "DynamicSparseAttention<num_heads = 2, kv_num_heads = 1>(x,x,x,,,,,,,,,cos,sin,,q,k,s)",
            {"cos": "", "sin": "", "s": "other", "q": BY_HEAD, "k": BY_HEAD},
        ),
        (
            "SparseAttentionIndexer(x,x,q,k,cos,sin,,,,t)",
            {"cos": "", "sin": "", "t": "positional", "q": BY_HEAD, "k": BY_HEAD},
        ),
        ("SparseAttention<num_heads = 2>(x,x,x,,,i,i,i,i,cos,sin)", {"cos": "", "sin": ""}),
        ("RotaryEmbedding(x, i, cos, sin)", {"cos": "", "sin": ""}),
        ("MRotaryEmbedding(x, i, cos, sin)", {"cos": "", "sin": ""}),
        ("RMSNormRotary(x, q, i, cos, sin)", {"cos": "", "sin": "", "q": BY_HEAD}),
        ("Attention<num_heads = 2>(x, w, b,,,t)", {"w": "weight", "b": "bias", "t": "positional"}),
        ("MultiHeadAttention<num_heads = 2>(x, x, x, b,,t)", {"b": "bias", "t": "positional"}),
        ("BiasSoftmax(x, t)", {"t": "positional"}),
        ("RelativePositionBias(t, i, i)", {"t": "positional"}),
        (
            "GatedRelativePositionBias<num_heads = 2>(x, b, x, v, c, s)",
            {"b": "bias", "v": "weight", "c": "bias", "s": "other"},
        ),
    ],
)  # fmt: skip
def test_what_stands_beside_the_heads(node: str, expected: dict[str, str]) -> None:
    given: Shapes = {
        "cos": (16, 4), "sin": (16, 4), "t": (3, 5), "s": (1, 2, 1, 1), "q": (8,), "k": (8,), "w": (4, 12), "b": (12,),
        "v": (2, 8), "c": (8,),
    }  # fmt: skip
    text = f"(float[1,3,4] x, int32[1] i) => (y) {{ y = com.microsoft.{node} }}"
    model = build(text, check=False, **{n: s for n, s in given.items() if n in expected})
    assert roles(model) == expected
    assert {reasons(model)[n] for n, role in expected.items() if not role} <= {"a rotary table"}


@pytest.mark.parametrize("fill", ["causal", "one value", "computed"])
def test_a_mask_or_a_computed_table_is_no_position_bias(fill: str) -> None:
    distance = np.subtract.outer(np.arange(6), np.arange(6))
    table = {
        "causal": np.where(distance < 0, -1e4, 0.0),
        "one value": np.zeros((6, 6)),
        "computed": 0.5 * distance - 3.0,
    }[fill]
    text = "(float[1,6,4] x) => (y) { y = com.microsoft.MultiHeadAttention<num_heads = 2>(x, x, x,,,t) }"
    assert roles(build(text, check=False, t=table[None, None].astype(np.float32))) == {"t": ""}


TWO, THREE = (
    f"s = Constant<value = int64[5] {{0, 0, 2, {n}, 2}}>() r = Reshape(h, s)" for n in (2, 3)
)  # (batch, time, heads, projections, width)


@pytest.mark.parametrize(
    ("middle", "shape", "blocks"),
    [
        (f"{THREE} y = com.microsoft.MultiHeadAttention<num_heads = 2>(r)", (4, 12), 3),
        (f"{TWO} y = com.microsoft.MultiHeadAttention<num_heads = 2>(x, r)", (4, 8), 2),
        ("y = com.microsoft.GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(h,,,,, i, i)", (4, 12), 3),
        ("g = Add(h, b) y = com.microsoft.PagedAttention<num_heads = 2, kv_num_heads = 2>(g,,,,, i, i)", (4, 12), 3),
        ("y = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 1>(h,,,,, i, i)", (4, 12), 1),
        ("y = com.microsoft.DecoderMaskedMultiHeadAttention<num_heads = 2>(h)", (4, 12), 3),
        ("y = com.microsoft.GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(h, x, x,,, i, i)", (4, 12), 1),
        ("y = com.microsoft.BiasSplitGelu(h, b)", (4, 12), 2),
        ("y = com.microsoft.SwiGLU(h)", (4, 12), 2),
    ],
)  # fmt: skip
def test_a_product_that_an_operator_takes_apart(middle: str, shape: tuple[int, int], blocks: int) -> None:
    text = f"(float[1,3,4] x, int32[1] i) => (y) {{ h = MatMul(x, w) {middle} }}"
    w = weights(build(text, check=False, w=shape, b=(12,)))["w"]
    assert (w.role, w.fan_in, w.blocks) == ("weight", 4, blocks)
    assert w.fan_out == shape[1] / blocks


def test_interleaved_heads_of_a_packed_projection() -> None:
    """(heads, 3, width): the rows of q, k and v take turns by head."""
    text = (
        f"(float[1,3,4] x) => (y) {{ h = MatMul(x, w) {THREE} y = com.microsoft.MultiHeadAttention<num_heads = 2>(r) }}"
    )
    w = weights(build(text, check=False, w=(4, 12)))["w"]
    assert kinds(w) == [((4, "in"),), ((2, "out"), (3, "block"), (2, "out"))]

"""The rows of the operator table beside the layers: recurrent operators, look-ups, norms, fused operators."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import analysed, build, kinds, roles, weights

Shapes = dict[str, tuple[int, ...]]

# ---------------------------------------------------------------- recurrent operators

GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}


@pytest.mark.parametrize("op", sorted(GATES))
@pytest.mark.parametrize("dirs", [1, 2])
def test_recurrent_operators_gate_by_gate(op: str, dirs: int) -> None:
    g, h, i = len(GATES[op]), 3, 5
    direction = "bidirectional" if dirs == 2 else "forward"
    names = ["w", "r", "b", "lens", "h0", *(["c0", "p"] if op == "LSTM" else [])]
    start = np.zeros((dirs, 1, h), np.float32)
    stored: Shapes = {"w": (dirs, g * h, i), "r": (dirs, g * h, h), "b": (dirs, 2 * g * h), "h0": start}
    if op == "LSTM":
        stored |= {"c0": start, "p": (dirs, 3 * h)}
    found = analysed(
        build(
            f"(float[7,1,{i}] x, int32[1] lens) => (float[7,{dirs},1,{h}] y)"
            f' {{ y = {op}<hidden_size = {h}, direction = "{direction}">(x, {", ".join(names)}) }}',
            **stored,
        )
    )
    w, r, b = (found.by_id[n] for n in "wrb")
    assert (w.role, w.fan_in, w.fan_out) == ("input_weight", i, h)
    assert (r.role, r.fan_in, r.fan_out) == ("recurrent_weight", h, h)
    assert (b.role, b.fan_in) == ("bias", i)
    for weight, block in ((w, (h, i)), (r, (h, h)), (b, (h, 1))):
        assert weight.layout is not None
        (part,) = weight.layout.parts
        assert part.block_shape == block
    assert w.layout is not None
    assert r.layout is not None
    assert b.layout is not None
    assert w.layout.parts[0].names == r.layout.parts[0].names == tuple(GATES[op]) * dirs
    assert b.layout.parts[0].names == tuple(f"{half}.{x}" for half in ("Wb", "Rb") for x in GATES[op]) * dirs
    gate = np.zeros((dirs, g * h, i), int)
    gate[:, h * (g - 1) : h * g] = 1
    assert w.layout.parts[0].to_canonical(gate).reshape(dirs, g, -1).min(-1).tolist() == [[0] * (g - 1) + [1]] * dirs
    if op == "LSTM":
        p = found.by_id["p"]
        assert p.role == "peephole"
        assert p.blocks == 3 * dirs
    kept = {k.id: k.reason for k in found.kept}
    assert set(kept) == ({"h0", "c0"} if op == "LSTM" else {"h0"})
    assert all(op in reason for reason in kept.values())


def test_a_first_state_that_holds_values_is_learned() -> None:
    text = "(float[7,n,5] x) => (y) { h = Expand(h0, s) y, z = GRU<hidden_size = 3>(x, w, r, , , h) }"
    model = build(text, check=False, w=(1, 9, 5), r=(1, 9, 3), h0=(1, 1, 3), s=np.array([1, 2, 3]))
    found = weights(model)["h0"]
    assert (found.role, found.default) == ("other", 0.0)


def test_gates_that_the_graph_puts_together_keep_their_names() -> None:
    """Unfolded, as from a framework with gates in another order: f is joined in third place, in both directions."""
    order, names = "ifco", ("i", "f", "c", "o")
    body = []
    for d in "01":
        for kind, axis in (("w", 0), ("r", 0), ("bi", 0), ("bh", 0)):
            cuts = " ".join(f"{kind}{d}{x} = Slice({kind}{d}, k{j}, k{j + 1}, z)" for j, x in enumerate(order))
            joined = ", ".join(f"{kind}{d}{x}" for x in "iofc")
            body.append(f"{cuts} {kind}{d}j = Concat<axis = {axis}>({joined})")
        body.append(f"b{d}j = Concat<axis = 0>(bi{d}j, bh{d}j)")
    for kind in "wrb":
        both = [f"{kind}{d}u = Unsqueeze({kind}{d}j, z)" for d in "01"]
        body.append(f"{' '.join(both)} {kind} = Concat<axis = 0>({kind}0u, {kind}1u)")
    starts = " ".join(f"k{j} = Constant<value = int64[1] {{{3 * j}}}>()" for j in range(5))
    shapes: Shapes = {}
    for d in "01":
        shapes |= {f"w{d}": (12, 5), f"r{d}": (12, 3), f"bi{d}": (12,), f"bh{d}": (12,)}
    found = weights(
        build(
            f"(float[7,1,5] x) => (float[7,2,1,3] y) {{"
            f" z = Constant<value = int64[1] {{0}}>() {starts} {' '.join(body)}"
            ' y = LSTM<hidden_size = 3, direction = "bidirectional">(x, w, r, b) }',
            **shapes,
        )
    )
    for d in "01":
        for name, role, prefix in (
            ("w", "input_weight", ""),
            ("r", "recurrent_weight", ""),
            ("bi", "bias", "Wb."),
            ("bh", "bias", "Rb."),
        ):
            weight = found[f"{name}{d}"]
            assert weight.role == role
            assert weight.layout is not None
            assert tuple(n for p in weight.layout.parts for n in p.names) == tuple(prefix + x for x in names)
            assert weight.blocks == 4
    assert found["w1"].fan_in == 5


# ---------------------------------------------------------------- look-ups


def test_a_table_looked_up_by_the_feed_is_an_embedding() -> None:
    w = weights(build("(int64[n,t] ids) => (float[n,t,6] y) { y = Gather(w, ids) }", w=(50, 6)))["w"]
    assert (w.role, w.fan_in, w.fan_out) == ("embedding", 6, 50)
    assert kinds(w) == [((50, "out"),), ((6, "in"),)]


def test_a_table_that_is_stored_turned() -> None:
    w = weights(build("(int64[n,t] ids) => (float[6,n,t] y) { y = Gather<axis = 1>(w, ids) }", w=(6, 50)))["w"]
    assert (w.role, w.fan_in, w.fan_out) == ("embedding", 6, 50)
    assert kinds(w) == [((6, "in"),), ((50, "out"),)]


def test_gathers_of_shapes_and_by_constants_look_nothing_up() -> None:
    found = roles(
        build(
            "(float[n,t,4] x) => (float[n,4] y, int64 k) { s = Shape(x) one = Constant<value = int64 {1}>()"
            " k = Gather(s, one) h = Gather<axis = 1>(x, one) p = Gather(w, one) y = MatMul(h, p) }",
            w=(2, 4, 4),
        )
    )
    assert found == {"w": "weight", "one": ""}


def test_positions_counted_in_the_graph_look_up_a_position_table() -> None:
    found = roles(
        build(
            "(int64[n,t] ids) => (float[n,t,6] y) { zero = Constant<value_int = 0>() one = Constant<value_int = 1>()"
            " s = Shape(ids) t = Gather(s, one) at = Range(zero, t, one) p = Gather(pos, at) e = Gather(w, ids)"
            " y = Add(e, p) }",
            w=(50, 6),
            pos=(20, 6),
        )
    )
    assert (found["w"], found["pos"]) == ("embedding", "positional")


def test_a_table_read_twice_is_one_weight_with_two_uses() -> None:
    """A language model whose head is its embedding."""
    w = weights(
        build(
            "(int64[n,t] ids) => (float[n,t,50] y) { e = Gather(w, ids) h = Tanh(e)"
            " t = Transpose(w) y = MatMul(h, t) }",
            w=(50, 6),
        )
    )["w"]
    assert w.role == "embedding"
    assert [(u.op, u.input, u.via) for u in w.uses] == [("Gather", 0, ()), ("MatMul", 1, ("Transpose",))]
    assert (w.fan_in, w.fan_out) == (6, 50)


# ---------------------------------------------------------------- norms and slopes

NORMS = [
    (
        "y = BatchNormalization(h, a, b, c, d)", 17,
        {"a": "norm_scale", "b": "norm_shift", "c": "running_mean", "d": "running_var"},
    ),
    ("y = InstanceNormalization(h, a, b)", 17, {"a": "norm_scale", "b": "norm_shift"}),
    ("y = GroupNormalization<num_groups = 2>(h, a, b)", 21, {"a": "norm_scale", "b": "norm_shift"}),
    ("t = Transpose<perm = [0, 2, 1]>(h) y = LayerNormalization(t, a, b)", 17, {"a": "norm_scale", "b": "norm_shift"}),
    ("t = Transpose<perm = [0, 2, 1]>(h) y = LayerNormalization(t, a)", 17, {"a": "norm_scale"}),
    ("t = Transpose<perm = [0, 2, 1]>(h) y = RMSNormalization(t, a)", 23, {"a": "norm_scale"}),
    (
        "t = Transpose<perm = [0, 2, 1]>(h) y = com.microsoft.SimplifiedLayerNormalization(t, a)", 17,
        {"a": "norm_scale"},
    ),
    (
        "t = Transpose<perm = [0, 2, 1]>(h) y = com.microsoft.SkipLayerNormalization(t, t, a, b, c)", 17,
        {"a": "norm_scale", "b": "norm_shift", "c": "bias"},
    ),
    (
        "t = Transpose<perm = [0, 2, 1]>(h) y = com.microsoft.SkipSimplifiedLayerNormalization(t, t, a, b)", 17,
        {"a": "norm_scale", "b": "bias"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "opset", "truth"), NORMS, ids=[n[0].split("(")[0].split()[-1] for n in NORMS])
def test_the_parts_of_a_norm(body: str, opset: int, truth: dict[str, str]) -> None:
    model = build(
        f"(float[n,3,9] x) => (y) {{ h = Conv(x, w) {body} }}",
        opset=opset,
        check=False,
        w=(6, 3, 3),
        **{name: (6,) for name in truth},
    )
    assert roles(model) == {"w": "weight", **truth}


def test_a_norm_without_a_scale_is_no_weight_but_a_norm_all_the_same() -> None:
    found = analysed(
        build(
            "(float[n,3,9] x) => (y) { h = Conv(x, w) y = InstanceNormalization(h, one, zero) }",
            check=False,
            w=(6, 3, 3),
            one=np.ones(6, np.float32),
            zero=np.zeros(6, np.float32),
        )
    )
    assert [w.id for w in found.weights] == ["w"]
    assert not found.normless


DECOMPOSED = """m = ReduceMean<axes = [-1]>(h) d = Sub(h, m) two = Constant<value_float = 2.0>() q = Pow(d, two)
    v = ReduceMean<axes = [-1]>(q) eps = Constant<value_float = 0.00001>() e = Add(v, eps) r = Sqrt(e) n = Div(d, r)"""


def test_a_norm_that_is_written_out() -> None:
    model = build(
        f"(float[n,t,4] x) => (float[n,t,6] y) {{ h = MatMul(x, w) {DECOMPOSED} s = Mul(n, g) y = Add(s, b) }}",
        w=(4, 6),
        g=(6,),
        b=(6,),
    )
    found = analysed(model)
    assert {w.id: w.role for w in found.weights} == {"w": "weight", "g": "norm_scale", "b": "norm_shift"}
    assert not found.normless


def test_a_scale_stored_as_what_is_added_to_one_starts_from_zero() -> None:
    model = build(
        """(float[n,t,4] x) => (float[n,t,6] y) { h = MatMul(x, w) two = Constant<value_float = 2.0>() q = Pow(h, two)
        v = ReduceMean<axes = [-1]>(q) eps = Constant<value_float = 0.000001>() e = Add(v, eps) r = Sqrt(e)
        n = Div(h, r) one = Constant<value_float = 1.0>() g1 = Add(g, one) y = Mul(n, g1) }""",
        w=(4, 6),
        g=(6,),
    )
    g = weights(model)["g"]
    assert (g.role, g.default) == ("norm_scale", 0.0)


def test_a_parametric_slope() -> None:
    found = weights(
        build("(float[n,3,9] x) => (y) { h = Conv(x, w) y = PRelu(h, a) }", check=False, w=(6, 3, 3), a=(6, 1))
    )
    assert found["a"].role == "prelu_slope"
    (f,) = found["w"].downstream
    assert (f.name, f.slope) == ("prelu", 0.25)


# ---------------------------------------------------------------- the optimiser's fused operators


def test_fused_attention_is_three_blocks() -> None:
    found = weights(
        build(
            "(float[n,t,8] x) => (y) { y = com.microsoft.Attention<num_heads = 2>(x, w, b) }",
            check=False,
            w=(8, 24),
            b=(24,),
        )
    )
    w, b = found["w"], found["b"]
    assert (w.role, w.fan_in, w.fan_out, w.blocks) == ("weight", 8, 8, 3)
    assert kinds(w) == [((8, "in"),), ((3, "block"), (8, "out"))]
    assert w.layout is not None
    assert w.layout.parts[0].names == ("q", "k", "v")
    assert (b.role, b.fan_in, b.blocks) == ("bias", 8, 3)


def test_fused_attention_with_values_of_another_width() -> None:
    w = weights(
        build(
            "(float[n,t,8] x) => (y) {"
            " y = com.microsoft.Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 12]>(x, w, b) }",
            check=False,
            w=(8, 28),
            b=(28,),
        )
    )["w"]
    assert (w.role, w.fan_in) == ("weight", 8)


def test_the_bias_of_fused_heads() -> None:
    b = weights(
        build("(float[n,t,8] x) => (y) { y = com.microsoft.MultiHeadAttention(x, x, x, b) }", check=False, b=(24,))
    )["b"]
    assert b.role == "bias"


def test_the_tables_of_fused_embeddings() -> None:
    body = "y, m = com.microsoft.EmbedLayerNormalization(ids, seg, words, places, kinds, g, b)"
    model = build(
        f"(int32[n,t] ids, int32[n,t] seg) => (y) {{ {body} }}",
        check=False, words=(50, 6), places=(20, 6), kinds=(2, 6), g=(6,), b=(6,),
    )  # fmt: skip
    assert roles(model) == {
        "words": "embedding", "places": "positional", "kinds": "embedding", "g": "norm_scale", "b": "norm_shift",
    }  # fmt: skip


@pytest.mark.parametrize("at", [0, 3, 4, 5])
def test_an_operand_of_an_unknown_operator_is_kept_with_its_reason(at: int) -> None:
    given = ", ".join("w" if i == at else "x" for i in range(6))
    (kept,) = analysed(build(f"(float[n,4] x) => (y) {{ y = com.example.Mixer({given}) }}", check=False, w=(4, 4))).kept
    assert kept.reason == "feeds Mixer of domain 'com.example', which is not known"

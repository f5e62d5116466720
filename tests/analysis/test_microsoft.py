"""Operators of ONNX Runtime: what they hold, against running them and by construction."""

from __future__ import annotations

import numpy as np
import pytest
from connections import assert_counts
from graphs import MICROSOFT, build, kinds, roles, weights
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
from runs import Shapes, blocks, drawn, reasons, run, run_if_it_can, softmax, stored

REGISTERED = {s.name for s in get_all_operator_schema() if s.domain == MICROSOFT}

# ---------------------------------------------------------------- layers, by their connections

LINEAR: list[tuple[str, str, Shapes]] = [
    (
        "convolution",
        "(float[1,4,5] x) => (float[1,6,3] y) { y = com.microsoft.FusedConv<group = 2>(x, w) }",
        {"w": (6, 2, 3)},
    ),
    ("product", "(float[2,4] x) => (float[2,3] y) { y = com.microsoft.FusedMatMul<transB = 1>(x, w) }", {"w": (3, 4)}),
    (
        "product, left",
        "(float[2,4] x) => (float[3,4] y) { y = com.microsoft.FusedMatMul<transA = 1>(w, x) }",
        {"w": (2, 3)},
    ),
    (
        "product, batched behind its rows",
        "(float[3,2,4] x) => (float[3,2,5] y) { y = com.microsoft.FusedMatMul<transBatchB = 1>(x, w) }",
        {"w": (4, 3, 5)},
    ),
    (
        "product, batched behind its columns",
        "(float[3,2,4] x) => (float[3,2,5] y) { y = com.microsoft.FusedMatMul<transB = 1, transBatchB = 1>(x, w) }",
        {"w": (5, 3, 4)},
    ),
    (
        "product, left, batched behind its rows",
        "(float[3,4,2] x) => (float[3,5,2] y) { y = com.microsoft.FusedMatMul<transBatchA = 1>(w, x) }",
        {"w": (5, 3, 4)},
    ),
    (
        "causal convolution",
        "(float[1,3,6] x) => (float[1,3,6] y) { y, s = com.microsoft.CausalConvWithState(x, w) }",
        {"w": (3, 1, 2)},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shapes"), [c[1:] for c in LINEAR], ids=[c[0] for c in LINEAR])
def test_fans_and_blocks_are_those_of_the_connections(text: str, shapes: Shapes) -> None:
    model = build(text, **shapes)
    if not {n.op_type for n in model.graph.node if n.domain == MICROSOFT} <= REGISTERED:
        pytest.skip("an earlier release of the runtime lacks the operator")
    assert_counts(model, list(shapes))
    assert {w.role for w in weights(model).values()} == {"weight"}


@pytest.mark.parametrize(
    ("attributes", "shape", "signal", "block"),
    [
        ("kernel_shape = [3, 2]", (6, 4, 3, 2), "float[1,5,5,4]", (6, 4, 3, 2)),
        ("kernel_shape = [3, 2]", (6, 3, 2, 4), "float[1,5,5,4]", (6, 4, 3, 2)),
        ("kernel_shape = [1, 1]", (6, 1, 1, 4), "float[1,5,5,4]", (6, 4)),
        ("group = 2, kernel_shape = [3, 3]", (6, 3, 3, 2), "float[1,5,5,4]", (3, 2, 3, 3)),
        ("", (6, 3, 2, 4), "float[n,5,5,4]", (6, 4, 3, 2)),
        ("", (6, 4, 3, 2), "float[n,5,5,4]", (6, 4, 3, 2)),
        ("", (6, 4, 3, 2), "float", (6, 4, 3, 2)),
    ],
)
def test_a_kernel_with_its_channels_last(
    attributes: str, shape: tuple[int, ...], signal: str, block: tuple[int, ...]
) -> None:
    """The specification says (M, C/g, k...), the optimiser of diffusion models writes (M, k..., C/g)."""
    text = f"({signal} x) => (y) {{ y = com.microsoft.NhwcConv<{attributes}>(x, w, b) }}".replace("<>", "")
    found = weights(build(text, check=False, w=shape, b=(6,)))
    assert found["w"].layout is not None
    assert found["w"].layout.parts[0].block_shape == block
    assert found["w"].fan_in == np.prod(block[1:])
    assert (found["b"].role, found["b"].fan_in) == ("bias", found["w"].fan_in)


def test_a_kernel_whose_axis_of_channels_shows_in_its_content() -> None:
    w = weights(build("(float[1,5,5,4] x) => (y) { y = com.microsoft.NhwcConv(x, w) }", check=False, w=(6, 3, 2, 4)))[
        "w"
    ]
    assert kinds(w) == [((6, "out"),), ((3, "kernel"),), ((2, "kernel"),), ((4, "in"),)]


@pytest.mark.parametrize(
    ("node", "shapes", "fans", "activation"),
    [
        ('FusedConv<activation = "Relu">(x, w, b)', {"w": (6, 4, 1), "b": (6,)}, (4, 6), "relu"),
        ("ConvTransposeWithDynamicPads<strides = [2]>(x, w, p, b)", {"w": (4, 6, 2), "b": (6,)}, (4, 12), "linear"),
        ('FusedGemm<activation = "Tanh">(x, w, b)', {"w": (4, 6), "b": (6,)}, (4, 6), "tanh"),
        ("GemmFastGelu(x, w, b)", {"w": (4, 6), "b": (6,)}, (4, 6), "gelu_tanh"),
        ('FusedMatMulActivation<activation = "Relu">(x, w)', {"w": (4, 6)}, (4, 6), "relu"),
        ('CausalConvWithState<activation = "silu">(x, w, b)', {"w": (4, 1, 3), "b": (4,)}, (3, 3), "silu"),
        ('CausalConvWithState<activation = "none">(x, w, b)', {"w": (4, 1, 3), "b": (4,)}, (3, 3), "linear"),
        ("RouterGateUpProj<router_size = 2>(x, w)", {"w": (4, 10)}, (4, 3.6), "silu"),
        ("GatedAdd(x, x, x, w)", {"w": (4, 1)}, (4, 1), "sigmoid"),
    ],
)  # fmt: skip
def test_the_function_within_a_layer(node: str, shapes: Shapes, fans: tuple[float, float], activation: str) -> None:
    found = weights(build(f"(float[2,4,3] x, int64[2] p) => (y) {{ y = com.microsoft.{node} }}", check=False, **shapes))
    w = found["w"]
    assert w.role == "weight"
    assert (w.fan_in, w.fan_out) == (pytest.approx(fans[0]), pytest.approx(fans[1]))
    assert [a.name for a in w.downstream] == [activation]
    assert "b" not in shapes or (found["b"].role, found["b"].fan_in) == ("bias", w.fan_in)


def test_a_layer_fed_by_one_with_a_function_within() -> None:
    text = "(float[2,4] x) => (y) { h = com.microsoft.GemmFastGelu(x, w, b) y = MatMul(h, v) }"
    v = weights(build(text, check=False, w=(4, 6), b=(6,), v=(6, 2)))["v"]
    assert [a.name for a in v.upstream] == ["gelu_tanh"]


@pytest.mark.parametrize("domain", ["", "com.microsoft."])
def test_a_gated_unit_in_one_operator(domain: str) -> None:
    text = (
        f"(float[n,4] x) => (y) {{ g = MatMul(x, gate) u = MatMul(x, trunk) a = {domain}SwiGLU(g, u)"
        " y = MatMul(a, down) }"
    )
    found = weights(build(text, opset=28, check=False, gate=(4, 6), trunk=(4, 6), down=(6, 4)))
    assert [a.name for a in found["gate"].downstream] == ["silu"]
    assert [a.name for a in found["trunk"].downstream] == ["linear"]
    assert [a.name for a in found["down"].upstream] == ["silu"]
    assert found["down"].upstream[0].second == found["gate"].downstream[0].second


# ---------------------------------------------------------------- experts

ACT = {"relu": lambda z: np.maximum(z, 0), "silu": lambda z: z / (1 + np.exp(-z)), "identity": lambda z: z}


@pytest.mark.parametrize("activation", ["relu", "silu", "identity"])
def test_a_mixture_of_experts(activation: str) -> None:
    model = build(
        "(float[5,4] x, float[5,3] p) => (float[5,4] y)"
        f' {{ y = com.microsoft.MoE<k = 1, activation_type = "{activation}">(x, p, up, b, down, c) }}',
        up=(3, 6, 4), b=(3, 6), down=(3, 4, 6), c=(3, 4),
    )  # fmt: skip
    found = weights(model)
    up, down, b, c = (*(blocks(model, found[n]) for n in ("up", "down")), stored(model, "b"), stored(model, "c"))
    x, p = drawn(5, 4), drawn(5, 3)
    best, share = p.argmax(-1), softmax(p).max(-1)
    rows = [ACT[activation](up[e] @ row + b[e]) for row, e in zip(x, best, strict=True)]
    made = [s * (down[e] @ row + c[e]) for s, row, e in zip(share, rows, best, strict=True)]
    np.testing.assert_allclose(run_if_it_can(model, x=x, p=p)[0], np.array(made), atol=1e-4)
    said = {n: (w.role, w.fan_in, w.fan_out) for n, w in found.items()}
    assert said["up"] == ("weight", 4, 6)
    assert said["down"] == ("weight", 6, 4)
    assert [found[n].role for n in "bc"] == ["bias", "bias"]
    name = {"identity": "linear"}.get(activation, activation)
    assert [a.name for a in found["up"].downstream] == [a.name for a in found["down"].upstream] == [name]


@pytest.mark.parametrize("fusion", [1, 2])
def test_gated_experts(fusion: int) -> None:
    """Gate and trunk in one stack: in turns, or one after the other."""
    model = build(
        f'(float[5,4] x, float[5,3] p) => (float[5,4] y) {{ y = com.microsoft.MoE<k = 1, activation_type = "swiglu",'
        f" swiglu_fusion = {fusion}, activation_alpha: float = 1.0, activation_beta: float = 0.0>(x, p, up,, down) }}",
        check=False, up=(3, 12, 4), down=(3, 4, 6),
    )  # fmt: skip
    found = weights(model)
    up = np.reshape(blocks(model, found["up"]), (3, 2, 6, 4))
    down = blocks(model, found["down"])
    assert (found["up"].blocks, found["up"].fan_in, found["up"].fan_out) == (6, 4, 6)
    assert [a.name for a in found["up"].downstream] == ["silu"]
    x, p = drawn(5, 4), drawn(5, 3)
    result = run_if_it_can(model, x=x, p=p)[0]
    best, share = p.argmax(-1), softmax(p).max(-1)
    gated = [ACT["silu"](up[e, 0] @ row) * (up[e, 1] @ row) for row, e in zip(x, best, strict=True)]
    made = [s * (down[e] @ row) for s, row, e in zip(share, gated, best, strict=True)]
    np.testing.assert_allclose(result, np.array(made), atol=1e-4)


@pytest.mark.parametrize("signal", ["float[n,4]", "float"])
def test_stacks_of_experts_as_earlier_versions_wrote_them(signal: str) -> None:
    """(experts, in, out): the widths tell, of the signal where it is known, else of the two stacks."""
    text = f"({signal} x, float[n,3] p) => (y) {{ y = com.microsoft.MoE<k = 1>(x, p, up,, down) }}"
    found = weights(build(text, check=False, up=(3, 4, 6), down=(3, 6, 4)))
    assert (found["up"].fan_in, found["up"].fan_out) == ((4, 6) if signal != "float" else (6, 4))
    assert kinds(found["up"])[0] == ((3, "block"),)


def test_quantised_experts_are_stacks_of_matrices() -> None:
    node = "y = com.microsoft.QMoE<k = 1>(x, p, up, s, b, down, t, c)"
    model = build(
        f"(float[n,4] x, float[n,3] p) => (y) {{ {node} }}",
        check=False, up=np.ones((3, 6, 2), np.uint8), s=(3, 6), b=(3, 6),
        down=np.ones((3, 4, 3), np.uint8), t=(3, 4), c=(3, 4),
    )  # fmt: skip
    assert roles(model) == {
        "up": "weight", "s": "quant_scale", "b": "bias", "down": "weight", "t": "quant_scale", "c": "bias"
    }  # fmt: skip
    held = weights(model)
    up, down = held["up"], held["down"]
    assert (up.blocks, up.fan_in, up.fan_out, up.downstream[0].name) == (3, 4, 6, "relu")
    assert (down.blocks, down.fan_in, down.fan_out, down.upstream[0].name) == (3, 6, 4, "relu")


# ---------------------------------------------------------------- embeddings, norms, recurrence


def test_characters_convolved_to_words() -> None:
    model = build(
        "(int32[2,5] x) => (float[2,6] y) { y = com.microsoft.WordConvEmbedding(x, w, b, c) }",
        w=(6, 1, 2, 3), b=(6,), c=(20, 3),
    )  # fmt: skip
    found = weights(model)
    assert {n: w.role for n, w in found.items()} == {"w": "weight", "b": "bias", "c": "embedding"}
    assert (found["w"].fan_in, found["c"].fan_in, found["c"].fan_out) == (6, 3, 20)
    assert [a.name for a in found["w"].downstream] == ["tanh"]
    ids = np.array([[1, 2, 3, 4, 5], [7, 9, 11, 13, 15]], np.int32)
    (kernel,) = blocks(model, found["w"])  # (out, in * D, taps)
    signal = stored(model, "c")[ids]  # (words, characters, D)
    taps = np.stack([signal[:, i : i + 2] for i in range(4)], 1)  # (words, places, taps, D)
    expected = np.tanh(np.einsum("wptd,odt->wpo", taps, kernel) + stored(model, "b")).max(1)
    np.testing.assert_allclose(run(model, x=ids)[0], expected, atol=1e-5)


def test_words_are_embeddings_whatever_counts_the_segments() -> None:
    body = "seg = Cast<to = 6>(zeros)"
    node = "y, m = com.microsoft.EmbedLayerNormalization(ids, seg, words, places, kinds, g, b)"
    model = build(
        f"(int32[n,t] ids) => (y) {{ {body} {node} }}",
        check=False, words=(50, 6), places=(20, 6), kinds=(2, 6), g=(6,), b=(6,), zeros=np.zeros((1, 4), np.int64),
    )  # fmt: skip
    assert roles(model) == {
        "words": "embedding", "places": "positional", "kinds": "embedding", "g": "norm_scale", "b": "norm_shift",
        "zeros": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            "SkipGroupNorm<groups = 2, activation = 0>(x, g, h, x, b)",
            {"g": "norm_scale", "h": "norm_shift", "b": "bias"},
        ),
        ("GroupNorm<groups = 2, activation = 1>(x, g, h)", {"g": "norm_scale", "h": "norm_shift"}),
        ("SkipSimplifiedLayerNormalization(x, x, g, b)", {"g": "norm_scale", "b": "bias"}),
        ("BranchwiseRMSNorm(x, g)", {"g": "norm_scale"}),
        ("GatedRMSNorm(x, g, x)", {"g": "norm_scale"}),
        ("BitmaskBiasDropout(x, b)", {"b": "bias"}),
        ("BiasAdd(x, b, x)", {"b": "bias"}),
        ("LinearAttentionGate(x, b, h, x)", {"b": "bias", "h": "other"}),
        ("MatMulNBits<K = 8, N = 8>(x, i, h,,, b)", {"h": "", "b": "bias"}),
        ("DynamicQuantizeMatMul(x, i, h,, b)", {"h": "", "b": "bias"}),
        ("TorchEmbedding(v, i)", {"v": "embedding"}),
        ("GatherND(v, i)", {"v": "embedding"}),
        ("MoEGroupRouter(x, b, v)", {"b": "bias", "v": "weight"}),
        ("QuickGelu(g)", {"g": ""}),
        ("CDist(x, v)", {"v": ""}),
    ],
)  # fmt: skip
def test_vectors_and_tables(node: str, expected: dict[str, str]) -> None:
    shapes: Shapes = {"g": (8,), "h": (8,), "b": (8,), "v": (6, 8)}
    text = f"(float[1,3,2,8] x, int64[1,2] i) => (y) {{ y = com.microsoft.{node} }}"
    assert roles(build(text, check=False, **{n: s for n, s in shapes.items() if n in expected})) == expected


def test_an_lstm_with_attention() -> None:
    model = build(
        "(float[3,1,4] x, float[1,6,5] m) => (float[3,1,1,3] y)"
        " { y = com.microsoft.AttnLSTM<hidden_size = 3>(x, w, r, b,,,, p, q, k, v, m,, a) }",
        w=(1, 12, 11), r=(1, 12, 3), b=(1, 24), p=(1, 9), q=(1, 3, 8), k=(1, 5, 8), v=(1, 8), a=(1, 8, 7),
    )  # fmt: skip
    found = {n: (w.role, w.fan_in, w.blocks) for n, w in weights(model).items()}
    assert found == {
        "w": ("input_weight", 11, 4), "r": ("recurrent_weight", 3, 4), "b": ("bias", 11, 8), "p": ("peephole", None, 3),
        "q": ("weight", 3, 1), "k": ("weight", 5, 1), "v": ("weight", 8, 1), "a": ("weight", 8, 1),
    }  # fmt: skip
    options = {"x": drawn(3, 1, 4), "m": drawn(1, 6, 5)}
    assert run(model, **options)[0].shape == (3, 1, 1, 3)


def test_a_state_space_in_one_operator() -> None:
    node = "y, s, t = com.microsoft.Mamba2Verify<heads = 2>(x, s0, s1, w, b, d, a, f, g, i)"
    shapes: Shapes = {"w": (8, 4), "b": (8,), "d": (2,), "a": (2,), "f": (2,), "g": (8,)}
    shapes["s0"] = np.zeros((1, 8, 3), np.float32)
    model = build(f"(float[3,20] x, float s1, int32[1] i) => (y) {{ {node} }}", check=False, **shapes)
    found = weights(model)
    assert {n: w.role for n, w in found.items()} == {
        "w": "weight", "b": "bias", "d": "bias", "a": "other", "f": "other", "g": "norm_scale",
    }  # fmt: skip
    assert (found["w"].fan_in, found["w"].groups, found["w"].blocks) == (4, 8, 8)
    assert [found[n].default for n in "af"] == [-1.0, 1.0]
    assert reasons(model)["s0"] == "a first state of Mamba2Verify"


# ---------------------------------------------------------------- searches, other domains


def test_the_networks_of_a_search() -> None:
    """A beam search holds its decoder as a subgraph, which it feeds itself."""
    body = build(
        "(int32[n,t] ids, float[n,t,6] past) => (float[n,t,50] y) { e = Gather(w, ids) s = Add(e, past)"
        " h = Tanh(s) y = MatMul(h, v) }",
        w=(50, 6), v=(6, 50),
    ).graph  # fmt: skip
    node = helper.make_node(
        "BeamSearch", ["ids", "n", "m", "b", "r"], ["y"], domain=MICROSOFT, decoder=body, name="search"
    )
    one = [helper.make_tensor_value_info(n, TensorProto.INT32, [1]) for n in "nmbr"]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, [1, 4])
    graph = helper.make_graph([node], "g", [ids, *one], [helper.make_tensor_value_info("y", TensorProto.INT32, None)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    found = weights(helper.make_model(graph, opset_imports=opsets))
    assert {n: w.role for n, w in found.items()} == {"search.decoder/w": "embedding", "search.decoder/v": "weight"}
    assert [a.name for a in found["search.decoder/v"].upstream] == ["tanh"]


def test_kernels_in_blocks_for_one_processor_are_kept() -> None:
    model = build(
        "(float[1,8,5,5] x) => (y) { y = com.microsoft.nchwc.Conv(x, w, b) }", check=False, w=(8, 8, 1, 1), b=(8,)
    )
    assert roles(model) == {"w": "", "b": ""}
    assert reasons(model)["w"] == (
        "a kernel in the blocked layout of one processor: take the model as it was before ONNX Runtime optimised it so"
    )


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("Conv(x, w, b)", {"w": "weight", "b": "bias"}),
        ("ConvTranspose(x, w, b)", {"w": "weight", "b": "bias"}),
        ("InstanceNormalization(x, b, c)", {"b": "norm_scale", "c": "norm_shift"}),
        (
            "BatchNormalization(x, b, c, d, e)",
            {"b": "norm_scale", "c": "norm_shift", "d": "running_mean", "e": "running_var"},
        ),
    ],
)
def test_operators_with_their_channels_last(node: str, expected: dict[str, str]) -> None:
    shapes: Shapes = {"w": (8, 8, 3, 3), **{n: (8,) for n in "bcde"}}
    text = f"(float[1,5,5,8] x) => (y) {{ y = com.ms.internal.nhwc.{node} }}"
    assert roles(build(text, check=False, **{n: s for n, s in shapes.items() if n in expected})) == expected


# ---------------------------------------------------------------- the newest of ONNX


@pytest.mark.parametrize(
    ("text", "shapes", "expected"),
    [
        ("(float[1,2,3,4] x) => (y) { y = Attention(x, x, x, t) }", {"t": (3, 3)}, {"t": "positional"}),
        ("(float[1,2,3,4] x) => (y) { y = RMSNormalization(x, g) }", {"g": (4,)}, {"g": "norm_scale"}),
        ("(float[1,2,3,4] x) => (y) { y = RotaryEmbedding(x, c, s) }", {"c": (3, 2), "s": (3, 2)}, {"c": "", "s": ""}),
        ("(float[1,8] x, int64 f) => (y) { y = STFT(x, f, w) }", {"w": (4,)}, {"w": ""}),
        (
            "(float[1,3,4] x) => (y) { y = CausalConvWithState(x, w, b) }",
            {"w": (3, 1, 2), "b": (3,)},
            {"w": "weight", "b": "bias"},
        ),
        ("(float[1,3,4] x) => (y) { y = TensorScatter(x, x, w) }", {"w": (3,)}, {"w": ""}),
    ],
)  # fmt: skip
def test_the_newest_operators(text: str, shapes: Shapes, expected: dict[str, str]) -> None:
    assert roles(build(text, opset=24, check=False, **shapes)) == expected


def test_reasons_are_plain() -> None:
    text = "(float[4] x, float[1,1,4] s) => (y) { y = Clip(x, low, high) z, h = GRU<hidden_size = 2>(s, w, r,,, h0) }"
    model = build(
        text,
        check=False,
        low=np.array(0.0, np.float32),
        high=np.array(1.5, np.float32),
        w=(1, 6, 4),
        r=(1, 6, 2),
        h0=np.zeros((1, 1, 2), np.float32),
    )
    assert reasons(model) == {
        "low": "feeds input 1 of Clip, which holds no weights",
        "high": "feeds input 2 of Clip, which holds no weights",
        "h0": "a first state of GRU",
    }
    unknown = build("(float[4] x) => (y) { y = Brandnew(x, w) z = LSTM(x, x, x,, w) }", check=False, w=(4,))
    assert reasons(unknown) == {"w": "feeds input 1 of Brandnew, which is not known"}
    between = build("(float[4] x) => (y) { y = Conv(x, x, x, w) }", check=False, w=(4,))
    assert reasons(between) == {"w": "feeds input 3 of Conv, which holds no weight there"}


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_positions_that_a_fused_norm_adds(op: str, at: int) -> None:
    operands = "t, h" if at == 0 else "h, t"
    model = build(
        f"(float[2,6,8] x) => (y) {{ h = MatMul(x, w) r = Relu(h) y = com.microsoft.{op}({operands}, g) }}",
        check=False, w=(8, 8), t=(1, 6, 8), g=(8,),
    )  # fmt: skip
    assert roles(model) == {"w": "weight", "t": "positional", "g": "norm_scale"}

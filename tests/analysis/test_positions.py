"""Tables of positions: learned or computed, added to a signal or multiplied by one."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Given, analysed, build, roles, weights

QKV: dict[str, Given] = {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8)}
HEAD = """q0 = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) half = Constant<value_float = 0.3535>()
q = Mul(q0, half) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)"""
TAIL = "p = Softmax(t) y = MatMul(p, v)"


def attention(body: str, head: str = HEAD, tail: str = TAIL, **tensors: Given) -> dict[str, str]:
    """The roles in attention over six places, whose scores s become t."""
    text = f"(float[2,6,8] x) => (float[2,6,8] y) {{ {head} {body} {tail} }}"
    return roles(build(text, check=False, **QKV, **tensors))


DISTANCES = np.arange(6)[:, None] - np.arange(6) + 5


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("r = MatMul(q, b) t = Add(s, r)", (8, 6)),
        ("r = MatMul(q0, b) t = Add(r, s)", (8, 6)),
        ('e = Gather(b, places) r = Einsum<equation = "bqd,qkd->bqk">(q, e) t = Add(s, r)', (11, 8)),
        ('e = Gather(b, places) r = Einsum<equation = "bqd,qkd->bqk">(q, e) m = Mul(r, half) t = Add(m, s)', (11, 8)),
        ("r = MatMul(q, b) u = MatMul(q, c) a = Add(s, u) t = Add(a, r)", (8, 6)),
        # The places by paddings: (6, 11) distances, one more at the end of each row, cut into rows of 11 again.
        (
            "r = MatMul(q, b) w = Pad(r, one) f = Reshape(w, flat) g = Pad(f, five) h = Reshape(g, rows) i = Slice(h,"
            " l0, l6, l1) j = Slice(i, l5, l11, l2) t = Add(s, j)",
            (8, 11),
        ),
    ],
    ids=["product", "before the scaling", "by distance", "scaled alone", "two tables", "by paddings"],
)
def test_a_table_that_meets_the_query_on_the_way_to_the_softmax_is_positional(body: str, shape: Given) -> None:
    given: dict[str, Given] = {
        "places": DISTANCES, "one": np.array([0, 0, 0, 0, 0, 1]), "flat": np.array([2, -1]),
        "five": np.array([0, 0, 0, 5]), "rows": np.array([2, 7, 11]), "c": (8, 6),
        **{f"l{n}": np.array([n]) for n in (0, 1, 2, 5, 6, 11)},
    }  # fmt: skip
    found = attention(body, b=shape, **given)
    assert found["b"] == "positional"
    assert {found[w] for w in QKV} == {"weight"}


def test_a_table_that_meets_what_the_softmax_gives_is_positional() -> None:
    tail = "p = Softmax(s) a = MatMul(p, v) r = MatMul(p, b) y = Add(a, r)"
    assert attention("", tail=tail, b=(6, 8))["b"] == "positional"


def test_a_layer_beside_a_product_of_signals_is_a_layer() -> None:
    """A graph layer with a skip, even before a softmax: the other product is of another signal, or on another side."""
    model = build(
        """(float[6,8] x, float[6,6] a) => (float[6,8] y) { h = MatMul(x, w) m = MatMul(a, h) s = MatMul(x, b)
        t = Add(m, s) y = Softmax(t) }""",
        w=(8, 8), b=(8, 8),
    )  # fmt: skip
    assert roles(model) == {"w": "weight", "b": "weight"}
    model = build("(float[6,8] x, float[6,6] a) => (y) { m = MatMul(a, x) s = MatMul(x, b) t = Add(m, s) "
                  "y = Softmax(t) }", check=False, b=(8, 8))  # fmt: skip
    assert roles(model) == {"b": "weight"}


def test_a_table_of_scores_behind_a_gate_is_positional() -> None:
    body = "g0 = MatMul(q, wg) g = Sigmoid(g0) r = Mul(g, b) t = Add(s, r)"
    found = attention(body, wg=(8, 1), b=(6, 6))
    assert (found["b"], found["wg"]) == ("positional", "weight")
    decay = np.tril(0.9 ** (np.arange(6)[:, None] - np.arange(6))).astype(np.float32)
    assert attention(body, wg=(8, 1), b=decay)["b"] == ""
    assert attention(body, wg=(8, 1), b=np.ones((6, 6), np.float32))["b"] == ""


def test_ones_and_zeros_that_pick_rows_are_a_constant_and_the_rows_positional() -> None:
    """The look-up of a relative table as products with one-hot matrices."""
    picks = np.zeros((6, 6, 11), np.float32)
    picks[np.arange(6)[:, None], np.arange(6), DISTANCES] = 1
    body = 'r = Einsum<equation = "hd,qkd->hqk">(b, picks) t = Add(s, r)'
    assert {k: attention(body, b=(1, 11), picks=picks)[k] for k in ("b", "picks")} == {"b": "positional", "picks": ""}


def test_a_table_of_a_length_that_the_feed_decides_is_no_bias() -> None:
    """A class row joined to a table that is stretched to the picture's size."""
    model = build(
        """(float[1,n,8] x) => (y) { h = MatMul(x, w) l = Shape(x) z = Resize(b, , , l) c = Concat<axis = 1>(a, z)
        y = Add(h, c) }""",
        check=False, w=(8, 8), a=(1, 1, 8), b=(1, 4, 8),
    )  # fmt: skip
    assert roles(model) == {"w": "weight", "a": "positional", "b": "positional"}


# ---------------------------------------------------------------- computed tables

RATIOS = (10000.0 ** (-np.arange(8) / 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("what", "given"),
    [
        ("coordinates", np.array([[0.125], [0.375], [0.625], [0.875]], np.float32)),
        ("whole numbers", (np.arange(16) % 4 - np.arange(16)[:, None] % 4).astype(np.float32)),
        ("decays", RATIOS),
    ],
)
def test_a_computed_table_is_no_factor_in_the_making_of_a_weight(what: str, given: np.ndarray) -> None:
    body = "z = Mul(c, b) f = Flatten<axis = 0>(z) y = Mul(h, f)"
    model = build(
        f"(float[2,8] x) => (y) {{ h = MatMul(x, w) {body} }}",
        check=False, w=(8, given.size), c=given.shape, b=given,
    )  # fmt: skip
    assert roles(model)["b"] == "", what


def test_positions_that_a_small_network_turns_into_biases_are_data() -> None:
    """Swin v2's: log-spaced coordinates through a layer of their own, as a Gemm too."""
    axis = np.log1p(np.abs(np.arange(-3, 4))) * np.sign(np.arange(-3, 4))
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(49, 2).astype(np.float32)
    body = "g = Gemm<transB = 1>(b, w1, b1) r = Relu(g) o = MatMul(r, w2) f = Reshape(o, one) t = Mul(s, f)"
    found = attention(body, b=grid, w1=(16, 2), b1=(16,), w2=(16, 1), one=np.array([49, 1, 1]))
    assert {k: found[k] for k in ("b", "w1", "b1", "w2")} == {"b": "", "w1": "weight", "b1": "bias", "w2": "weight"}


def test_a_computed_table_cut_to_the_length_of_the_feed_is_data_of_its_layer() -> None:
    angles = np.arange(20)[:, None] * RATIOS
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(1, 20, 16).astype(np.float32)
    model = build(
        """(float[1,n,8] x) => (y) { l = Shape<start = 1, end = 2>(x) e = Slice(b, zero, l, one) r = MatMul(e, w)
        y = MatMul(x, r) }""",
        check=False, zero=np.array([0]), one=np.array([1]), b=table, w=(16, 8),
    )  # fmt: skip
    assert {k: v for k, v in roles(model).items() if v} == {"w": "weight"}


def test_learned_angles_are_told_from_computed_ones() -> None:
    text = "(float[n,12] x) => (y) { c = Cos(b) s = Sin(b) u = Concat<axis = 1>(c, s) y = Add(x, u) }"
    assert roles(build(text, check=False, b=(1, 6)))["b"] == "positional"
    learned = np.random.default_rng(1).standard_normal((1, 6)).astype(np.float32)
    assert roles(build(text, check=False, b=np.tile(learned, 2)))["b"] == "positional"
    for fixed in (
        RATIOS[None, :6],
        np.array([[1, 0.8, 0.3, 0.1, 0.02, 0.01]], np.float32),
        np.tile(RATIOS[:3], 2)[None],
    ):
        assert roles(build(text, check=False, b=fixed))["b"] == ""


def test_frequencies_of_an_outer_product_are_constants() -> None:
    model = build(
        """(float[2,6,16] x) => (y) { e = Einsum<equation = "i,j->ij">(a, b) s = Sin(e) c = Cos(e)
        t = Concat<axis = 1>(s, c) y = Add(x, t) }""",
        check=False, a=np.arange(6, dtype=np.float32), b=RATIOS,
    )  # fmt: skip
    assert set(roles(model).values()) == {""}


def test_sines_and_cosines_in_any_order_are_computed() -> None:
    y, x = np.divmod(np.arange(16), 4)
    a, b = (v[:, None] / 10.0 ** np.arange(4) for v in (y, x))
    parts = np.stack([np.sin(a), np.cos(a), np.sin(b), np.cos(b)]).astype(np.float32)
    text = "(float[n,16,16] x) => (y) { h = MatMul(x, w) r = Relu(h) y = Add(r, b) }"
    for order in (parts.transpose(1, 0, 2), parts.transpose(1, 2, 0)):
        assert roles(build(text, check=False, w=(16, 16), b=order.reshape(16, 16)))["b"] == ""
    assert roles(build(text, check=False, w=(16, 16), b=(16, 16)))["b"] == "positional"


# ---------------------------------------------------------------- words


def test_zeros_added_to_the_scores_of_words_are_kept() -> None:
    """BART's: a row of zeros, with an axis for the batch, for callers to fill; the head's own bias has one axis."""

    def found(given: np.ndarray, table: Given = (30, 8)) -> dict[str, str]:
        text = "(int64[n,t] i) => (y) { e = Gather(t, i) h = MatMul(e, w) d = MatMul(h, o) y = Add(d, b) }"
        return roles(build(text, check=False, t=table, w=(8, 8), o=(8, 30), b=given))

    assert found(np.zeros((1, 30), np.float32))["b"] == ""
    assert found(np.zeros(30, np.float32))["b"] == "bias"
    assert found(np.full((1, 30), 0.5, np.float32))["b"] == "bias"
    assert found(np.zeros((1, 30), np.float32), table=(20, 8))["b"] == "bias"


def test_the_state_that_a_recurrence_starts_from_is_kept() -> None:
    model = build(
        "(float[2,4,6,8] x) => (y) { s = MatMul(x, b) h = MatMul(x, w) y = Add(s, h) }",
        check=False, b=np.zeros((1, 4, 8, 8), np.float32), w=(1, 4, 8, 8),
    )  # fmt: skip
    assert roles(model) == {"b": "", "w": "weight"}
    assert weights(build("(float[2,8] x) => (y) { y = MatMul(x, w) }", check=False, w=np.zeros((8, 3), np.float32)))


def test_a_mask_that_covers_the_feed_is_kept() -> None:
    model = build(
        "(float[1,6,3] x) => (y) { m = Mul(x, b) a = Constant<value = int64[1] {1}>() y = ReduceSum(m, a) }",
        check=False, b=np.ones((1, 6, 3), np.float32),
    )  # fmt: skip
    assert {k.id for k in analysed(model).kept} >= {"b"}

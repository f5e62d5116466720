"""Which weight of a donor stands where a weight of the model stands."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from handmade import analysis, conv, gemm, lstm, part, weight
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.analysis.weight import Analysis, Weight
from onnxinit.plan.alignment import align
from onnxinit.plan.pairing import Form, Pairing, pair


def at(w: Weight, depth: int, place: int = 0) -> Weight:
    return replace(w, depth=depth, place=place or depth)


def matched(model: Analysis, donor: Analysis, **options: bool) -> dict[str, str]:
    return {ours: theirs for ours, (theirs, _) in align(model, donor, **options).items()}


def stack(widths: Sequence[int], prefix: str, bias: bool = False) -> Analysis:
    """A multilayer perceptron of some widths."""
    weights = []
    for i, (inn, out) in enumerate(itertools.pairwise(widths)):
        weights.append(at(gemm(f"{prefix}{i}", inn, out), i, 1 + i))
        if bias:
            weights.append(at(weight(f"{prefix}{i}.bias", "bias", (out,), "Gemm"), i + 1, 1 + i))
    return analysis(*weights)


def test_the_same_ids_match() -> None:
    model = stack([4, 8, 8, 2], "w", bias=True)
    assert align(model, model) == {w.id: (w.id, "id") for w in model.weights}


def test_wider_networks_match_by_position() -> None:
    model, donor = stack([4, 8, 8, 2], "ours", bias=True), stack([4, 32, 32, 5], "theirs", bias=True)
    assert matched(model, donor) == {w.id: w.id.replace("ours", "theirs") for w in model.weights}
    assert {how for _, how in align(model, donor).values()} == {"position"}


def test_a_deeper_donor_gives_its_first_layers_and_its_head() -> None:
    model, donor = stack([4, 8, 8, 8, 2], "a"), stack([4, 16, 16, 16, 16, 16, 2], "b")
    assert matched(model, donor) == {"a0": "b0", "a1": "b1", "a2": "b2", "a3": "b5"}


def test_biases_go_with_their_layers() -> None:
    model = stack([4, 8, 8, 2], "a", bias=True)
    donor = stack([4, 16, 16, 16, 16, 2], "b", bias=True)
    donor = analysis(*(w for w in donor.weights if w.id != "b0.bias"))  # the donor's first layer has none
    found = matched(model, donor)
    assert {k: v for k, v in found.items() if "bias" not in k} == {"a0": "b0", "a1": "b1", "a2": "b4"}
    assert {k: v for k, v in found.items() if "bias" in k} == {"a1.bias": "b1.bias", "a2.bias": "b4.bias"}


def stages(depths: Sequence[int], width: int, prefix: str) -> Analysis:
    """A convolutional network whose stages double the width, each with a 1x1 shortcut at its first layer."""
    weights, depth, inn = [at(conv(f"{prefix}.stem", width, 3, (7, 7)), 0)], 1, width
    for s, layers in enumerate(depths):
        out = width * 2**s
        for i in range(layers):
            if i == 0 and s:
                weights.append(at(conv(f"{prefix}.{s}.short", out, inn, (1, 1)), depth, 100 + depth))
            weights.append(at(conv(f"{prefix}.{s}.{i}", out, inn, (3, 3)), depth))
            depth, inn = depth + 1, out
    return analysis(*weights, at(gemm(f"{prefix}.head", inn, 10), depth))


@pytest.mark.parametrize("width", [8, 16, 24])
def test_stages_match_whatever_their_widths_and_depths(width: int) -> None:
    model, donor = stages([2, 2, 2], 8, "a"), stages([3, 6, 3], width, "b")
    assert matched(model, donor) == {w.id: "b" + w.id[1:] for w in model.weights}


def test_ids_that_are_the_same_by_accident_do_not_match() -> None:
    """Running numbers of an exporter: node_9 is the last layer here and the first one there."""
    names = ["node_7", "node_8", "node_9", "node_11"]
    theirs = ["node_9", "node_12", "x", "y"]
    model = analysis(*(at(gemm(n, 8, 8), i) for i, n in enumerate(names)))
    roles = ("norm_scale", "norm_shift")
    norms = [at(weight(f"{role}{i}", role, (8,)), i + 1) for i in range(4) for role in roles]
    donor = analysis(*(at(gemm(n, 8, 8), i) for i, n in enumerate(theirs)), *norms)
    model = analysis(*model.weights, *norms)
    found = align(model, donor)
    assert {k: found[k][0] for k in names} == dict(zip(names, theirs, strict=True))
    assert all(found[w.id] == (w.id, "id") for w in norms)


def test_layers_side_by_side_keep_their_names_in_any_order() -> None:
    ours = analysis(*(at(gemm(n, 8, 8), 0, i) for i, n in enumerate("qkv")), at(gemm("o", 8, 8), 1))
    theirs = analysis(*(at(gemm(n, 16, 16), 0, i) for i, n in enumerate("vkq")), at(gemm("o", 16, 16), 1))
    assert matched(ours, theirs) == {n: n for n in "qkvo"}


def test_biases_of_layers_side_by_side_go_with_theirs() -> None:
    """Two convolutions at one depth, in another order there: their kernels differ, their biases do not."""

    def branches(prefix: str, first: int, second: int) -> Analysis:
        return analysis(
            at(conv(f"{prefix}.main", 8, 4, (3, 3)), 0, first),
            at(weight(f"{prefix}.main.bias", "bias", (8,)), 1, first),
            at(conv(f"{prefix}.side", 8, 4, (1, 1)), 0, second),
            at(weight(f"{prefix}.side.bias", "bias", (8,)), 1, second),
        )

    ours, theirs = branches("a", 1, 2), branches("b", 2, 1)
    assert matched(ours, theirs) == {w.id: "b" + w.id[1:] for w in ours.weights}


def test_one_id_matches_in_the_end_wherever_it_stands() -> None:
    ours = analysis(*(at(gemm(f"w{i}", 8, 8), i) for i in range(4)), at(weight("table", "positional", (1, 5, 8)), 1))
    theirs = analysis(*(at(gemm(f"w{i}", 8, 8), i) for i in range(4)), at(weight("table", "positional", (1, 5, 8)), 3))
    assert align(ours, theirs)["table"] == ("table", "id")


def test_what_does_not_fit_finds_nothing() -> None:
    model = analysis(at(gemm("a", 8, 8), 0), at(conv("b", 8, 8, (3, 3)), 1), at(weight("n", "norm_scale", (8,)), 2))
    donor = analysis(at(gemm("x", 4, 8), 0), at(conv("y", 8, 8, (1, 1)), 1), at(weight("m", "norm_shift", (8,)), 2))
    assert matched(model, donor) == {}
    assert matched(model, donor, tile=True) == {"a": "x"}


@given(st.lists(st.integers(1, 9), min_size=2, max_size=7), st.lists(st.integers(1, 9), min_size=2, max_size=7))
def test_positions_are_in_order_and_fit(ours: list[int], theirs: list[int]) -> None:
    model, donor = stack(ours, "a"), stack(theirs, "b")
    pairs = [(int(a[1:]), int(b[1:])) for a, b in matched(model, donor).items()]
    assert pairs == sorted(pairs) and len({b for _, b in pairs}) == len(pairs)
    for i, j in pairs:
        assert theirs[j] >= ours[i] and theirs[j + 1] >= ours[i + 1]
    fits = [
        [theirs[j] >= a and theirs[j + 1] >= b for j in range(len(theirs) - 1)] for a, b in itertools.pairwise(ours)
    ]
    most = [[0] * len(theirs) for _ in ours]  # the longest common subsequence, the textbook's way
    for i, row in enumerate(fits):
        for j, fit in enumerate(row):
            most[i + 1][j + 1] = max(most[i][j + 1], most[i + 1][j], most[i][j] + fit)
    assert len(pairs) == most[-1][-1]


# ---------------------------------------------------------------- blocks


def test_gates_pair_by_name_in_each_direction() -> None:
    w, r, b = lstm("l", 6, 5)
    big = lstm("m", 12, 5)
    for ours, theirs in zip((w, r, b), big, strict=True):
        found = pair(Form.of(ours), Form.of(theirs))
        assert isinstance(found, Pairing)
        assert found.blocks == tuple(range(len(Form.of(ours).blocks))) and found.how == "subsampled"


def test_gates_in_another_order() -> None:
    layouts = [part([[4, 3], [2]], [["block", "out"], ["in"]], names=names) for names in ("iofc", "ifco")]
    ours, theirs = (weight("w", "weight", (12, 2), parts=[p]) for p in layouts)
    assert pair(Form.of(ours), Form.of(theirs)) == Pairing((0, 3, 1, 2))


def test_groups_are_taken_evenly() -> None:
    ours = weight("w", "weight", (4, 1, 3), parts=[part([[4, 1], [1], [3]], [["block", "out"], ["in"], ["kernel"]])])
    theirs = weight(
        "v", "weight", (10, 1, 3), parts=[part([[10, 1], [1], [3]], [["block", "out"], ["in"], ["kernel"]])]
    )
    assert pair(Form.of(ours), Form.of(theirs)) == Pairing((0, 2, 5, 7), how="subsampled")
    assert pair(Form.of(theirs), Form.of(ours)) == "has fewer blocks"
    assert pair(Form.of(theirs), Form.of(ours), tile=True) == Pairing((0, 1, 2, 3, 0, 1, 2, 3, 0, 1), how="repeated")


@pytest.mark.parametrize(
    ("shape", "there", "found"),
    [
        ((8,), (8,), Pairing((0,), (8,))),
        ((1, 8, 1, 1), (16,), Pairing((0,), (1, 16, 1, 1), "subsampled")),
        ((8,), (1, 16, 1), Pairing((0,), (16,), "subsampled")),
        ((8,), (4,), "is smaller"),
        ((8,), (4, 4), "has another rank"),
        ((), (4,), "has another rank"),
        ((1, 7, 8), (10, 9), Pairing((0,), (1, 10, 9), "subsampled")),
    ],
)
def test_tensors_without_a_layout(shape: tuple[int, ...], there: tuple[int, ...], found: object) -> None:
    assert pair(Form.of(weight("w", "bias", shape)), Form.of(weight("v", "bias", there))) == found


def test_roles_and_layouts_must_agree() -> None:
    w, bias = gemm("w"), weight("b", "bias", (8,))
    assert pair(Form.of(w), Form.of(bias)) == "is a bias"
    assert pair(Form.of(replace(bias, role="weight")), Form.of(w)) == "is cut into other blocks"
    assert pair(Form.of(lstm("l")[0]), Form.of(replace(lstm("l")[1], role="input_weight"))) != "is a recurrent_weight"
    assert math.prod(Form.of(conv("c")).blocks[0][1]) == conv("c").size

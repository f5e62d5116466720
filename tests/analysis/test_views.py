"""Operators that only move elements: where a tensor's elements are behind each, against the reference evaluator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graphs import arange, build, kinds, value, view_of, weights
from hypothesis import event, given
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxinit.analysis.shapes import fill_shapes
from onnxinit.analysis.trail import Tile, Trail
from onnxinit.analysis.view import GraphView
from onnxinit.analysis.views import step

Ids = npt.NDArray[np.int64]


def opened(model: onnx.ModelProto) -> GraphView:
    view = view_of(onnx.shape_inference.infer_shapes(model, data_prop=True))
    fill_shapes(view)
    return view


def arrivals(model: onnx.ModelProto, name: str = "w") -> dict[str, Trail]:
    """Where a tensor arrives through views alone: its arrangement by the name of the value."""
    view = opened(model)
    start = value(view, name)
    assert start.shape is not None
    front = [(start, Trail.of([n or 0 for n in start.shape]))]
    found: dict[str, Trail] = {}
    while front:
        at, trail = front.pop()
        for node, index in at.uses:
            for out, moved in step(node, index, trail) or ():
                found[out.name] = moved
                front.append((out, moved))
    return found


def moved_ids(model: onnx.ModelProto, names: list[str], name: str = "w") -> dict[str, Ids]:
    """The index tensor of `name` in every value named; -1 stands for other tensors."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        dims = tuple(tensor.dims)
        if tensor.data_type == onnx.TensorProto.FLOAT:
            ids = arange(dims) if tensor.name == name else np.full(dims, -1)
            tensor.CopyFrom(numpy_helper.from_array(ids.astype(np.float32), tensor.name))
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    feed = {i.name: np.zeros([2] * len(i.type.tensor_type.shape.dim), np.float32) for i in whole.graph.input}
    made = ReferenceEvaluator(whole).run(names, feed)
    return {n: np.asarray(a).astype(np.int64) for n, a in zip(names, made, strict=True)}


def assert_arrangement(trail: Trail, stored: tuple[int, ...], ids: Ids) -> None:
    """The trail knows the value's shape, and every element of the tensor is at the place that it says."""
    assert trail.shape == ids.shape
    if trail.lost or trail.apart:
        return
    whole = trail.part([[(n, "out")] for n in ids.shape])
    assert whole is not None
    held = whole.to_canonical(arange(stored)).ravel()
    assert sorted(held.tolist()) == sorted(set(ids[ids >= 0].tolist()))
    for axis in range(ids.ndim):  # elements share an index on an axis in the value just where the part says so
        tiles: list[list[Tile]] = [[(n, "block" if i == axis else "out")] for i, n in enumerate(ids.shape)]
        part = trail.part(tiles)
        assert part is not None
        at = np.broadcast_to(np.arange(ids.shape[axis]).reshape([-1] + [1] * (ids.ndim - axis - 1)), ids.shape)
        truth: dict[int, set[int]] = {}
        for element, index in zip(ids.ravel().tolist(), at.ravel().tolist(), strict=True):
            truth.setdefault(element, set()).add(index)
        blocks = [set(b.ravel().tolist()) for b in part.to_canonical(arange(stored))]
        assert sum(map(len, blocks)) == held.size
        places = [{frozenset(truth[e]) for e in block} for block in blocks]
        assert all(len(p) == 1 for p in places)
        assert len(set.union(*places)) == len(blocks)


# ---------------------------------------------------------------- each operator

ONE: list[tuple[str, str]] = [
    ("Identity", "y = Identity(w)"),
    ("Cast", "y = Cast<to = 11>(w)"),
    ("CastLike", "y = CastLike(w, o)"),
    ("Dropout", "y = Dropout(w)"),
    ("Transpose", "y = Transpose<perm = [1, 2, 0]>(w)"),
    ("Transpose without an order", "y = Transpose(w)"),
    ("Reshape", "s = Constant<value = int64[2] {8, 9}>() y = Reshape(w, s)"),
    ("Reshape with what is left", "s = Constant<value = int64[3] {0, -1, 3}>() y = Reshape(w, s)"),
    ("Reshape to a row", "s = Constant<value = int64[1] {-1}>() y = Reshape(w, s)"),
    ("Reshape to a computed shape", "z = Shape(w) y = Reshape(w, z)"),
    ("Flatten", "y = Flatten(w)"),
    ("Flatten at the end", "y = Flatten<axis = -1>(w)"),
    ("Flatten at the start", "y = Flatten<axis = 0>(w)"),
    ("Unsqueeze", "a = Constant<value = int64[2] {-1, 1}>() y = Unsqueeze(w, a)"),
    ("Squeeze", "a = Constant<value = int64[1] {1}>() u = Unsqueeze(w, a) y = Squeeze(u, a)"),
    ("Squeeze without axes", "a = Constant<value = int64[2] {0, 4}>() u = Unsqueeze(w, a) y = Squeeze(u)"),
    ("Expand", "s = Constant<value = int64[4] {5, 4, 6, 3}>() y = Expand(w, s)"),
    ("Expand to less axes", "s = Constant<value = int64[2] {1, 3}>() y = Expand(w, s)"),
    ("Tile along a new axis", "a = Constant<value = int64[1] {0}>() u = Unsqueeze(w, a)"
     " s = Constant<value = int64[4] {3, 1, 1, 1}>() y = Tile(u, s)"),
    ("Tile along a stored axis", "s = Constant<value = int64[3] {1, 2, 1}>() y = Tile(w, s)"),
    ("Slice", "b = Constant<value = int64[1] {1}>() e = Constant<value = int64[1] {3}>() y = Slice(w, b, e)"),
    ("Slice from the end", "b = Constant<value = int64[1] {-2}>() a = Constant<value = int64[1] {-2}>()"
     " e = Constant<value = int64[1] {9223372036854775807}>() y = Slice(w, b, e, a)"),
    ("Slice of two axes", "b = Constant<value = int64[2] {1, 2}>() e = Constant<value = int64[2] {4, -1}>()"
     " y = Slice(w, b, e)"),
    ("Slice by steps", "b = Constant<value = int64[1] {0}>() e = Constant<value = int64[1] {6}>()"
     " a = Constant<value = int64[1] {1}>() s = Constant<value = int64[1] {2}>() y = Slice(w, b, e, a, s)"),
    ("Gather one", "i = Constant<value = int64 {-1}>() y = Gather<axis = 1>(w, i)"),
    ("Gather a run", "i = Constant<value = int64[3] {2, 3, 4}>() y = Gather<axis = 1>(w, i)"),
    ("Gather another order", "i = Constant<value = int64[4] {3, 1, 0, 2}>() y = Gather(w, i)"),
    ("Gather a grid", "i = Constant<value = int64[2,2] {0, 1, 2, 3}>() y = Gather(w, i)"),
    ("Split", "y, z = Split<axis = 1>(w)"),
    ("Split with lengths", "s = Constant<value = int64[3] {1, 2, 3}>() y, z, q = Split<axis = -2>(w, s)"),
    ("Split unevenly", "y, z = Split<axis = 2, num_outputs = 2>(w)"),
    ("Concat in front", "y = Concat<axis = 0>(w, o)"),
    ("Concat behind", "y = Concat<axis = -3>(o, w, o)"),
    ("Concat twice", "z = Concat<axis = 0>(o, w) y = Concat<axis = 0>(o, z)"),
    ("Concat and cut", "z = Concat<axis = 0>(o, w, o) b = Constant<value = int64[1] {3}>()"
     " e = Constant<value = int64[1] {10}>() y = Slice(z, b, e)"),
]  # fmt: skip


# Elements that are no window of the stored tensor, or not in its order: only the shape is known.
LOST = {"Tile along a stored axis", "Slice by steps", "Gather another order", "Gather a grid"}


@pytest.mark.parametrize(("name", "body"), ONE, ids=[n for n, _ in ONE])
def test_one_view(name: str, body: str) -> None:
    opset = 18 if "num_outputs" in body else 17
    text = f"(float[n] x) => (float[n] x2, y) {{ x2 = Relu(x) {body} }}"
    model = build(text, opset=opset, check=False, w=(4, 6, 3), o=(4, 6, 3))
    found = arrivals(model)
    truth = moved_ids(model, list(found))
    assert "y" in found
    for at, ids in truth.items():
        assert_arrangement(found[at], (4, 6, 3), ids)
    assert found["y"].lost == (name in LOST)


def test_a_piece_that_the_tensor_is_not_in_is_no_arrival() -> None:
    model = build(
        "(float[n] x) => (float[n] x2) { x2 = Relu(x) z = Concat<axis = 0>(o, w) a, b = Split<axis = 0>(z) }",
        check=False, w=(4, 3), o=(4, 3),
    )  # fmt: skip
    assert set(arrivals(model)) == {"z", "b"}


@pytest.mark.parametrize(
    "body",
    [
        "y = Reshape(w, k)",
        "y = Unsqueeze(w, k)",
        "y = Expand(w, k)",
        "y = Slice(w, k, k)",
        "y = Gather(w, k)",
        "a, y = Split(w, k)",
        "y = Transpose<perm = [0, 0, 5]>(w)",
    ],
)
def test_what_a_feed_decides_is_not_known_but_no_fault(body: str) -> None:
    model = build(f"(float[n] x, int64[m] k) => (float[n] x2, y) {{ x2 = Relu(x) {body} }}", check=False, w=(4, 6, 3))
    view = opened(model)
    for node, at in value(view, "w").uses:
        step(node, at, Trail.of((4, 6, 3)))


def test_a_range_that_a_feed_decides_can_reach_over_all_of_it() -> None:
    """The positions of as many tokens as there are."""
    model = build(
        """(int64[n,t] ids) => (y) { s = Shape(ids) one = Constant<value = int64[1] {1}>() t = Gather(s, one)
        zero = Constant<value = int64[1] {0}>() p = Slice(w, zero, t, one) x = Gather(table, ids) y = Add(x, p) }""",
        check=False,
        w=(1, 20, 6),
        table=(50, 6),
    )
    assert arrivals(model)["p"].shape == (1, 20, 6)
    assert weights(model)["w"].role == "positional"


def test_a_branch_of_an_if_is_a_view() -> None:
    model = build(
        "(float[n,4] x, bool c) => (float[n,3] y) { m = If(c) <"
        " then_branch = t () => (float[4,3] a) { a = Identity(w) },"
        " else_branch = e () => (float[4,3] b) { b = Transpose(v) } > y = MatMul(x, m) }",
        w=(4, 3),
        v=(3, 4),
    )
    found = weights(model)
    assert kinds(found["w"]) == [((4, "in"),), ((3, "out"),)]
    assert kinds(found["v"]) == [((3, "out"),), ((4, "in"),)]


def test_a_quantise_pair_is_a_view() -> None:
    model = build(
        "(float[n,4] x) => (float[n,3] y) { q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) t = Transpose(d)"
        " y = MatMul(x, t) }",
        w=(3, 4),
        s=np.array(0.1, np.float32),
        z=np.array(0, np.int8),
    )
    found = weights(model)
    assert list(found) == ["w", "s"]
    assert found["w"].uses[0].via == ("QuantizeLinear", "DequantizeLinear", "Transpose")


def test_a_scan_over_a_stack_makes_each_layer_a_block() -> None:
    """Layers of one shape, stacked and stepped through."""
    model = build(
        "(float[n,4] x) => (float[n,4] y) { y = Scan<num_scan_inputs = 1, body = b (float[n,4] h, float[4,4] m)"
        " => (float[n,4] h2) { p = MatMul(h, m) h2 = Tanh(p) }>(x, w) }",
        w=(5, 4, 4),
    )
    w = weights(model)["w"]
    assert (w.blocks, w.fan_in, w.fan_out) == (5, 4, 4)


# ---------------------------------------------------------------- any chain


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], str]:
    """A stored shape and a chain of views over it, as text; names w, v0, v1, ..."""
    stored = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    lines: list[str] = []
    dims, at = list(stored), "w"

    def constant(name: str, held: list[int]) -> str:
        lines.append(f"{name} = Constant<value = int64[{len(held)}] {{{', '.join(map(str, held))}}}>()")
        return name

    for i in range(draw(st.integers(1, 5))):
        out, rank = f"v{i}", len(dims)
        op = draw(st.sampled_from(["Transpose", "Join", "Cut", "Slice", "Unsqueeze", "Concat", "Gather", "Split"]))
        axis = draw(st.integers(0, rank - 1)) if rank else 0
        if op == "Transpose" and rank:
            perm = draw(st.permutations(range(rank)))
            lines.append(f"{out} = Transpose<perm = {list(perm)}>({at})")
            dims = [dims[p] for p in perm]
        elif op == "Join" and rank > 1:
            axis = min(axis, rank - 2)
            dims = [*dims[:axis], dims[axis] * dims[axis + 1], *dims[axis + 2 :]]
            lines.append(f"{out} = Reshape({at}, {constant(f's{i}', dims)})")
        elif op == "Cut" and rank:
            k = draw(st.sampled_from([k for k in range(1, dims[axis] + 1) if dims[axis] % k == 0]))
            dims = [*dims[:axis], k, dims[axis] // k, *dims[axis + 1 :]]
            lines.append(f"{out} = Reshape({at}, {constant(f's{i}', dims)})")
        elif op == "Slice" and rank:
            begin = draw(st.integers(0, dims[axis] - 1))
            end = draw(st.integers(begin + 1, dims[axis]))
            ranges = [constant(f"{n}{i}", [k]) for n, k in (("b", begin - dims[axis]), ("e", end), ("a", axis))]
            lines.append(f"{out} = Slice({at}, {', '.join(ranges)})")
            dims[axis] = end - begin
        elif op == "Unsqueeze":
            axis = draw(st.integers(0, rank))
            lines.append(f"{out} = Unsqueeze({at}, {constant(f'a{i}', [axis])})")
            dims.insert(axis, 1)
        elif op == "Concat" and rank:
            other = f"o{i}"
            lines.append(f"{other} = ConstantOfShape({constant(f'z{i}', dims)})")
            first, last = draw(st.sampled_from([(other, at), (at, other)]))
            lines.append(f"{out} = Concat<axis = {axis}>({first}, {last})")
            dims[axis] *= 2
        elif op == "Gather" and rank:
            index = draw(st.integers(-dims[axis], dims[axis] - 1))
            lines.append(f"i{i} = Constant<value = int64 {{{index}}}>() {out} = Gather<axis = {axis}>({at}, i{i})")
            del dims[axis]
        elif op == "Split" and rank and dims[axis] % 2 == 0:
            halves = draw(st.permutations([out, f"r{i}"]))
            lines.append(f"{', '.join(halves)} = Split<axis = {axis}>({at})")
            dims[axis] //= 2
        else:
            continue
        at = out
    return stored, " ".join(lines)


@given(chains())
def test_any_chain_of_views(chain: tuple[tuple[int, ...], str]) -> None:
    stored, body = chain
    model = build(f"(float[n] x) => (float[n] x2) {{ x2 = Relu(x) {body} }}", check=False, w=stored)
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            node.attribute.append(onnx.helper.make_attribute("value", onnx.helper.make_tensor("value", 1, [1], [-1.0])))
    found = arrivals(model)
    for name, ids in moved_ids(model, list(found)).items():
        assert_arrangement(found[name], stored, ids)
        event("lost" if found[name].lost else "known")

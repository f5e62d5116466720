"""What a trail says of a stored tensor, against the same moves of an index tensor in numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from graphs import arange
from hypothesis import event, given
from hypothesis import strategies as st

from onnxinit.analysis.trail import Tile, Trail
from onnxinit.analysis.weight import Kind, Part

Ids = npt.NDArray[np.int64]
KINDS: tuple[Kind, ...] = ("block", "out", "in", "kernel")
LENGTHS = st.sampled_from([1, 2, 2, 3, 4, 4, 5, 6, 8, 12])


@dataclass
class Moved:
    """A trail, and the index tensor that went the same way; -1 stands where other tensors are.

    Axes that an unknown index took away lead the index tensor: each of their indices is a block of its own.
    """

    stored: tuple[int, ...]
    trail: Trail
    ids: Ids
    hidden: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ids.shape[self.hidden :]

    def to(self, trail: Trail | None, move: Callable[[Ids], Ids]) -> Moved:
        """Both one move further; where the trail cannot follow, neither goes."""
        if trail is None:
            return self
        lead = self.ids.shape[: self.hidden]
        moved = [move(one) for one in self.ids.reshape(-1, *self.shape)]
        out = Moved(self.stored, trail, np.stack(moved).reshape((*lead, *moved[0].shape)), self.hidden)
        assert trail.shape == out.shape
        return out


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


@st.composite
def factored(draw: st.DrawFn, n: int, most: int = 3) -> list[int]:
    """A length as a product, ones allowed."""
    parts: list[int] = []
    for _ in range(draw(st.integers(0, most - 1))):
        k = draw(st.sampled_from(divisors(n)))
        parts.append(k)
        n //= k
    return [*parts, n]


def transpose(draw: st.DrawFn, m: Moved) -> Moved:
    perm = draw(st.permutations(range(len(m.shape))))
    return m.to(m.trail.transpose(perm), lambda a: a.transpose(perm))


def split_axes(draw: st.DrawFn, m: Moved) -> Moved:
    dims = [k for n in m.shape for k in draw(factored(n, 2))]
    return m.to(m.trail.reshape(dims), lambda a: a.reshape(dims))


def join_axes(draw: st.DrawFn, m: Moved) -> Moved:
    if len(m.shape) < 2:
        return m
    i = draw(st.integers(0, len(m.shape) - 2))
    dims = [*m.shape[:i], m.shape[i] * m.shape[i + 1], *m.shape[i + 2 :]]
    return m.to(m.trail.reshape(dims), lambda a: a.reshape(dims))


def any_shape(draw: st.DrawFn, m: Moved) -> Moved:
    dims = draw(factored(math.prod(m.shape), 4))
    return m.to(m.trail.reshape(dims), lambda a: a.reshape(dims))


def cut(draw: st.DrawFn, m: Moved) -> Moved:
    if not m.shape:
        return m
    axis = draw(st.integers(0, len(m.shape) - 1))
    n = m.shape[axis]
    length = draw(st.sampled_from([*divisors(n), draw(st.integers(1, n))]))
    begin = draw(st.sampled_from(range(0, n - length + 1, length if n % length == 0 else 1)))
    here = (slice(None),) * axis + (slice(begin, begin + length),)
    return m.to(m.trail.window(axis, begin, length), lambda a: a[here])


def squeeze(draw: st.DrawFn, m: Moved) -> Moved:
    ones = [i for i, n in enumerate(m.shape) if n == 1]
    axes = draw(st.lists(st.sampled_from(ones), unique=True)) if ones else []
    if draw(st.booleans()):
        return m.to(m.trail.squeeze(None), np.squeeze)
    return m.to(m.trail.squeeze(axes), lambda a: np.squeeze(a, tuple(axes)))


def unsqueeze(draw: st.DrawFn, m: Moved) -> Moved:
    axis = draw(st.integers(-len(m.shape) - 1, len(m.shape)))
    return m.to(m.trail.unsqueeze([axis]), lambda a: np.expand_dims(a, axis))


def concat(draw: st.DrawFn, m: Moved) -> Moved:
    if not m.shape:
        return m
    axis = draw(st.integers(0, len(m.shape) - 1))
    n = m.shape[axis]
    before, after = (draw(st.sampled_from([0, n, 2 * n, draw(st.integers(0, 4))])) for _ in range(2))

    def move(a: Ids) -> Ids:
        pads = [np.full([k if i == axis else s for i, s in enumerate(a.shape)], -1) for k in (before, after)]
        return np.concatenate([pads[0], a, pads[1]], axis)

    return m.to(m.trail.concat(axis, before, before + n + after), move)


def pick(draw: st.DrawFn, m: Moved) -> Moved:
    if not m.shape:
        return m
    axis = draw(st.integers(0, len(m.shape) - 1))
    if m.trail.spans[axis].size != m.shape[axis]:
        return m
    return Moved(m.stored, m.trail.pick(axis), np.moveaxis(m.ids, m.hidden + axis, 0), m.hidden + 1)


MOVES = {
    "transpose": transpose, "split": split_axes, "join": join_axes, "shape": any_shape, "cut": cut,
    "squeeze": squeeze, "unsqueeze": unsqueeze, "concat": concat, "pick": pick,
}  # fmt: skip


@st.composite
def moved(draw: st.DrawFn) -> Moved:
    shape = draw(st.lists(LENGTHS, min_size=1, max_size=4).filter(lambda s: math.prod(s) <= 600))
    m = Moved(tuple(shape), Trail.of(shape), arange(shape))
    for name in draw(st.lists(st.sampled_from(sorted(MOVES)), max_size=6)):
        m = MOVES[name](draw, m)
        if m.ids.size > 5000 or len(m.shape) > 7:
            break
    return m


@st.composite
def tilings(draw: st.DrawFn, shape: tuple[int, ...]) -> list[list[Tile]]:
    return [[(n, draw(st.sampled_from(KINDS))) for n in draw(factored(length))] for length in shape]


def coordinates(m: Moved, tiles: list[list[Tile]]) -> dict[int, dict[Kind, tuple[int, ...]]]:
    """By stored element, where the tiles put it: its block, output, input and tap."""
    flat = [t for tiling in tiles for t in tiling]
    kinds: list[Kind] = ["block"] * m.hidden + [k for _, k in flat]
    fine = m.ids.reshape((*m.ids.shape[: m.hidden], *(n for n, _ in flat)))
    where: dict[int, dict[Kind, tuple[int, ...]]] = {}
    for at in np.ndindex(fine.shape):
        if fine[at] >= 0:
            assert int(fine[at]) not in where
            where[int(fine[at])] = {
                kind: tuple(i for i, k in zip(at, kinds, strict=True) if k == kind) for kind in KINDS
            }
    return where


def assert_same(part: Part, stored: tuple[int, ...], truth: dict[int, dict[Kind, tuple[int, ...]]]) -> None:
    """Blocks, outputs, inputs and taps are the same, whatever the order among themselves."""
    canonical = part.to_canonical(arange(stored))
    assert canonical.shape == (part.blocks, *part.block_shape)
    assert sorted(canonical.ravel().tolist()) == sorted(truth)
    to: dict[Kind, dict[object, object]] = {k: {} for k in KINDS}
    for (b, o, i, *tap), element in np.ndenumerate(canonical):
        mine: dict[Kind, object] = {"block": b, "out": o, "in": i, "kernel": tuple(tap)}
        for kind in KINDS:
            assert to[kind].setdefault(mine[kind], truth[int(element)][kind]) == truth[int(element)][kind], kind
    for kind in KINDS:
        assert len(set(to[kind].values())) == len(to[kind]), kind


@given(st.data())
def test_a_part_says_what_numpy_says(data: st.DataObject) -> None:
    m = data.draw(moved())
    tiles = data.draw(tilings(m.shape))
    part = m.trail.part(tiles)
    event("part" if part is not None else "no part")
    if part is not None:
        assert_same(part, m.stored, coordinates(m, tiles))


@given(st.data())
def test_values_go_back_to_their_places_and_nowhere_else(data: st.DataObject) -> None:
    m = data.draw(moved())
    part = m.trail.part(data.draw(tilings(m.shape)))
    if part is None:
        return
    stored = arange(m.stored)
    blank = np.full(m.stored, -1)
    part.from_canonical(part.to_canonical(stored), blank)
    window = tuple(slice(a, a + n) for a, n in zip(part.start, part.shape, strict=True))
    np.testing.assert_array_equal(blank[window], stored[window])
    assert (blank >= 0).sum() == stored[window].size


@given(st.data())
def test_places_are_where_numpy_put_the_elements(data: st.DataObject) -> None:
    m = data.draw(moved())
    places = m.trail.places(m.stored)
    if m.hidden and m.ids.shape[: m.hidden] != (1,) * m.hidden:
        event("an axis that is not known")
        assert places is None
    elif math.prod(m.trail.extent) != len(np.unique(m.ids[m.ids >= 0])):
        event("one of several pieces")
        assert m.trail.apart
        assert places is None
    else:
        assert places is not None
        np.testing.assert_array_equal(places, m.ids.reshape(m.shape))


@given(st.data())
def test_names_stay_with_their_blocks(data: st.DataObject) -> None:
    m = data.draw(moved().filter(lambda m: not m.hidden))
    tiles = data.draw(tilings(m.shape))
    counts = [n for tiling in tiles for n, kind in tiling if kind == "block"]
    named = dict(zip(np.ndindex(*counts), map(str, itertools.count()), strict=False))
    part = m.trail.part(tiles, tuple(named.values()))
    if part is None or not part.names:
        return
    event("named")
    truth = coordinates(m, tiles)
    for name, block in zip(part.names, part.to_canonical(arange(m.stored)), strict=True):
        assert {named[truth[int(element)]["block"]] for element in block.ravel()} == {name}


@given(st.data())
def test_whole_axes_are_never_lost(data: st.DataObject) -> None:
    """What tiles name whole stored axes, in any order and grouping, is always found."""
    shape = data.draw(st.lists(LENGTHS, min_size=1, max_size=4))
    perm = data.draw(st.permutations(range(len(shape))))
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=len(shape), max_size=len(shape)))
    trail = Trail.of(shape).transpose(perm).reshape([math.prod(shape)])
    assert trail is not None
    part = trail.part([[(shape[p], kinds[p]) for p in perm]], ())
    assert part is not None
    assert (part.start, part.shape) == ((0,) * len(shape), tuple(shape))
    for kind, n in zip(KINDS, (part.blocks, *part.block_shape[:2], math.prod(part.block_shape[2:])), strict=True):
        assert n == math.prod(shape[i] for i, k in enumerate(kinds) if k == kind)


def test_blocks_are_in_stored_order_and_so_are_their_names() -> None:
    """(gates, directions, h) in the file, (directions, gates, h) at the use, which names its blocks."""
    trail = Trail.of((2, 3, 5)).transpose([1, 0, 2]).reshape([3, 10])
    assert trail is not None
    names = tuple(f"{d}{g}" for d in "abc" for g in "fi")
    part = trail.part([[(3, "block")], [(2, "block"), (5, "out")]], names)
    assert part is not None
    assert part.names == ("af", "bf", "cf", "ai", "bi", "ci")


@pytest.mark.parametrize(("direction", "gate"), list(itertools.product(range(2), range(4))))
def test_a_gate_that_was_joined_to_others_keeps_its_name(direction: int, gate: int) -> None:
    """One gate's matrix, joined to the other gates and then to the other direction."""
    trail = Trail.of((5, 3)).concat(0, 5 * gate, 20).unsqueeze([0]).concat(0, direction, 2)
    names = tuple(f"{d}.{g}" for d in range(2) for g in "iofc")
    part = trail.part([[(2, "block")], [(4, "block"), (5, "out")], [(3, "in")]], names)
    assert part is not None
    assert part.block_shape == (5, 3)
    assert part.names == (f"{direction}.{'iofc'[gate]}",)


def test_half_of_a_block_carries_no_name_of_another() -> None:
    trail = Trail.of((4, 3)).concat(0, 4, 16)
    part = trail.part([[(2, "block"), (8, "out")], [(3, "in")]], ("a", "b"))
    assert part is not None
    assert (part.blocks, part.block_shape) == (1, (4, 3))
    assert part.names in ((), ("a",))


def test_a_stretch_across_two_blocks_is_no_part() -> None:
    trail = Trail.of((4, 3)).concat(0, 6, 16)
    assert trail.part([[(2, "block"), (8, "out")], [(3, "in")]]) is None


def test_an_index_that_is_not_known_makes_blocks_where_its_digit_stands() -> None:
    """Rows numbered (2, expert 3, 5): the expert is picked, the rows of one expert are not neighbours."""
    trail = Trail.of((30, 7)).reshape([2, 3, 5, 7])
    assert trail is not None
    part = trail.pick(1).part([[(2, "out")], [(5, "out")], [(7, "in")]])
    assert part is not None
    assert (part.blocks, part.block_shape) == (3, (10, 7))
    rows = part.to_canonical(arange((30, 7)))[1, :, 0] // 7
    assert rows.tolist() == [5, 6, 7, 8, 9, 20, 21, 22, 23, 24]


def test_a_repeated_axis_adds_nothing_to_the_stored_tensor() -> None:
    trail = Trail.of((4, 1)).expand([3, 4, 6])
    assert trail.shape == (3, 4, 6)
    part = trail.part([[(3, "block")], [(4, "out")], [(6, "in")]])
    assert part is not None
    assert (part.blocks, part.block_shape) == (1, (4, 1))


def test_equal_slices_of_an_inner_digit_are_blocks_side_by_side() -> None:
    """Every second row is no window of the stored tensor, but one of two that are alike."""
    trail = Trail.of((24,)).reshape([4, 6])
    assert trail is not None
    for begin in (0, 3):
        piece = trail.window(1, begin, 3)
        part = piece.part([[(4, "in")], [(3, "out")]]) if piece is not None else None
        assert part is not None
        assert (part.start, part.shape, part.blocks, part.block_shape) == ((0,), (24,), 2, (3, 4))
        assert piece is not None and piece.places((24,)) is None
    assert trail.window(1, 0, 4) is None
    assert trail.window(1, 1, 2) is None


def test_a_torn_reshape_is_not_followed() -> None:
    assert Trail.of((2, 3)).reshape([3, 2]) is None
    assert Trail.of((2, 3)).transpose([1, 0]).reshape([2, 3]) is None
    assert Trail.of((4, 6)).reshape([5, 5]) is None


def test_a_lost_arrangement_keeps_the_shape_but_makes_no_part() -> None:
    lost = Trail.of((4, 6)).lose((None, 6))
    assert lost.shape == (1, 6)
    assert lost.transpose([1, 0]).shape == (6, 1)
    assert lost.part([[], [(6, "in")]]) is None


def test_an_empty_tensor_moves_without_a_fault() -> None:
    trail = Trail.of((0, 4))
    for step in (trail.reshape([4, 0]), trail.concat(0, 0, 3).window(0, 0, 2), trail.transpose([1, 0])):
        assert step is None or len(step.shape) == 2


def test_a_trail_remembers_the_operators_it_passed() -> None:
    assert Trail.of((2, 3)).transpose([1, 0]).through("Transpose").through("Cast").via == ("Transpose", "Cast")

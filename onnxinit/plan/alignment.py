"""Which weight of a donor stands where a weight of the model stands: by id, then by position in the topology."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.weight import FAN_ROLES, PARAMETER_ROLES, Analysis, Weight
from onnxinit.plan.pairing import Form, likeness, pair

Matches = dict[str, tuple[str, str]]
"""By id of the model's weight, the donor's id and how they were matched: "id" or "position"."""


def align(model: Analysis, donor: Analysis, *, tile: bool = False) -> Matches:
    """Match the weights of a model with those of a donor.

    Weights of one id and role match where that puts them in the same order in both networks: an exporter's running
    numbers can be the same by accident. All others are aligned by position: kernels in topological order, and then
    every other role. As many as possible match of those that have the same kernel extents and can give the values;
    rather those that look alike (`likeness`); biases and norms by the layers that they belong to or follow; and of
    equals the donor's first, so that a deeper donor gives the first layers of every stage. What is then left over on
    both sides under one id matches after all.

    Args:
        model: The model that gets values.
        donor: The model that gives them.
        tile: Whether a smaller weight can give values to a larger one.
    """
    ours, theirs = _in_order(model), _in_order(donor)
    found = _by_id(ours, {w.id: w for w in theirs})
    kernels = [w for w in ours if w.role in FAN_ROLES], [w for w in theirs if w.role in FAN_ROLES]
    found |= _by_position(*kernels, found, None, tile)
    found |= _of_layers(ours, theirs, found, tile)
    levels = _levels(ours, {w.id: w.depth for w in theirs}, found)
    for role in dict.fromkeys(w.role for w in ours if w.role not in FAN_ROLES):
        rest = [w for w in ours if w.role == role], [w for w in theirs if w.role == role]
        found |= _by_position(*rest, found, levels, tile)
    return found | _left(ours, theirs, found, tile)


def _in_order(analysis: Analysis) -> list[Weight]:
    """The weights in topological order; layers side by side by their form, in which both models agree."""
    weights = [w for w in analysis.weights if w.role not in PARAMETER_ROLES and not w.shares]
    return sorted(weights, key=lambda w: (w.depth, repr(_key(w)), w.place, w.uses[0].input if w.uses else 0))


def _key(weight: Weight) -> tuple[object, ...]:
    """What must be the same for weights to match by position: role, rank, names of blocks and kernel extents."""
    form = Form.of(weight)
    shapes = {shape[2:] if form.laid_out else (sum(n != 1 for n in shape),) for _, shape in form.blocks}
    return weight.role, form.laid_out, tuple(sorted({name for name, _ in form.blocks})), tuple(sorted(shapes))


def _by_id(ours: Sequence[Weight], theirs: Mapping[str, Weight]) -> Matches:
    """Pairs of one id whose depths are in the same order in both networks: the heaviest non-decreasing subsequence.

    A pair weighs as much as there are pairs of its two depths: what is named in common bears each other out.
    """
    pairs = [(w, theirs[w.id]) for w in ours if w.id in theirs and theirs[w.id].role == w.role]
    pairs.sort(key=lambda p: (p[0].depth, p[1].depth))
    votes = Counter((w.depth, other.depth) for w, other in pairs)
    depth = np.array([other.depth for _, other in pairs])
    best = np.zeros(len(pairs))
    before: list[int] = []
    for i, (w, other) in enumerate(pairs):
        ending = np.where(depth[:i] <= other.depth, best[:i], 0)
        before.append(int(ending.argmax()) if ending.any() else -1)
        best[i] = ending.max(initial=0) + votes[w.depth, other.depth]
    found: Matches = {}
    i = int(best.argmax()) if pairs else -1
    while i >= 0:
        found[pairs[i][0].id] = (pairs[i][1].id, "id")
        i = before[i]
    return found


def _by_position(
    ours: Sequence[Weight],
    theirs: Sequence[Weight],
    found: Matches,
    levels: Mapping[int, Collection[int]] | None,
    tile: bool,
) -> Matches:
    """The best alignment of what has no match yet, between the matches that there are.

    Args:
        ours: Weights of the model, in order.
        theirs: Weights of the donor, in order.
        found: The matches so far.
        levels: By depth, the donor's depths that go with it, where matched layers tell; None for the layers themselves.
        tile: Whether a smaller weight can give values to a larger one.
    """
    depths = {w.id: w.depth for w in theirs}
    anchors = sorted((w.depth, depths[found[w.id][0]]) for w in ours if w.id in found and found[w.id][0] in depths)
    taken = {ident for ident, _ in found.values()}
    ours = [w for w in ours if w.id not in found]
    theirs = [w for w in theirs if w.id not in taken]
    if not ours or not theirs:
        return {}
    scores = _scores(ours, theirs, tile)
    depth = np.array([w.depth for w in theirs])
    for row, w in zip(scores, ours, strict=True):
        least = max((there for here, there in anchors if here < w.depth), default=0)
        most = min((there for here, there in anchors if here > w.depth), default=int(depth.max()))
        row[(depth < least) | (depth > most)] = 0
        if levels is not None:
            row[~np.isin(depth, list(levels.get(w.depth, ())))] = 0
    return {ours[i].id: (theirs[j].id, "position") for i, j in _best(scores)}


def _of_layers(ours: Sequence[Weight], theirs: Sequence[Weight], found: Matches, tile: bool) -> Matches:
    """What stands at the nodes of matched layers: the biases within their operators."""
    places = {w.id: w.place for w in theirs}
    layers = {w.place: places[found[w.id][0]] for w in ours if w.role in FAN_ROLES and w.id in found}
    taken = {ident for ident, _ in found.values()}
    there = {(w.place, w.role): w for w in theirs if w.role not in FAN_ROLES and w.id not in taken}
    matches: Matches = {}
    for w in ours:
        other = there.get((layers.get(w.place, -1), w.role))
        if other is not None and w.id not in found and _fits(w, other, tile):
            matches[w.id] = (other.id, "position")
            del there[other.place, other.role]
    return matches


def _left(ours: Sequence[Weight], theirs: Sequence[Weight], found: Matches, tile: bool) -> Matches:
    taken = {ident for ident, _ in found.values()}
    there = {w.id: w for w in theirs if w.id not in taken}
    return {w.id: (w.id, "id") for w in ours if w.id not in found and w.id in there and _fits(w, there[w.id], tile)}


def _fits(weight: Weight, donor: Weight, tile: bool) -> bool:
    return not isinstance(pair(Form.of(weight), Form.of(donor), tile=tile), str)


def _levels(ours: Sequence[Weight], depths: Mapping[str, int], found: Matches) -> dict[int, Collection[int]]:
    """By depth of a bias, a norm or the like, the donor's depths that go with it, as matched layers tell.

    What follows no matched layer has none. Where no layer has its weight (the second use of a tied one), the depths
    between those around count.
    """
    layers = [w for w in ours if w.role in FAN_ROLES]
    told: dict[int, set[int]] = {0: {0}} | {w.depth + 1: set() for w in layers}
    for w in layers:
        if w.id in found:
            told[w.depth + 1].add(depths[found[w.id][0]] + 1)
    levels: dict[int, Collection[int]] = dict(told)
    for depth in {w.depth for w in ours} - told.keys():
        below = max(max(there) for here, there in told.items() if here < depth and there)
        above = min(
            (min(there) for here, there in told.items() if here > depth and there), default=max(depths.values()) + 1
        )
        levels[depth] = range(below + 1, above)
    return levels


def _scores(ours: Sequence[Weight], theirs: Sequence[Weight], tile: bool) -> npt.NDArray[np.float32]:
    """For each pair 0, where they cannot match, or 2 and the likeness: (ours, theirs)."""
    here, at = _kinds(ours)
    there, to = _kinds(theirs)
    table = np.zeros((len(here), len(there)), np.float32)
    for i, (key, form, op) in enumerate(here):
        for j, (other_key, other, other_op) in enumerate(there):
            if key == other_key and not isinstance(pair(form, other, tile=tile), str):
                table[i, j] = 2 + likeness(form, other) + 0.25 * (op == other_op)
    return table[np.ix_(at, to)]


def _kinds(weights: Sequence[Weight]) -> tuple[list[tuple[tuple[object, ...], Form, str]], list[int]]:
    """The different kinds among weights, and which one each is: a few dozen in thousands."""
    numbers: dict[tuple[tuple[object, ...], Form, str], int] = {}
    each = [numbers.setdefault((_key(w), Form.of(w), w.uses[0].op if w.uses else ""), len(numbers)) for w in weights]
    return list(numbers), each


def _best(scores: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """The pairs of the alignment with the largest sum of scores; of equal ones that of the lowest columns."""
    rows, columns = scores.shape
    best = np.zeros((rows + 1, columns + 1), np.float32)
    for i in range(rows):
        taken = np.where(scores[i] > 0, best[i, :-1] + scores[i], 0)
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], taken))
    pairs: list[tuple[int, int]] = []
    i, j = rows, columns
    while i and j:
        if best[i, j] == best[i, j - 1]:
            j -= 1
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]

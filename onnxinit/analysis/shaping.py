"""From readings to layouts: the parts of a stored tensor, their blocks and fans."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace

from onnxinit.analysis.operators import Reading, Site
from onnxinit.analysis.splits import partition
from onnxinit.analysis.trail import Tile, Trail
from onnxinit.analysis.walker import Found
from onnxinit.analysis.weight import FAN_ROLES, Layout, Part


def layout_of(shape: Sequence[int], found: Sequence[Found]) -> Layout | None:
    """The layout of a tensor from the uses that decide its role.

    Args:
        shape: The stored shape.
        found: Those uses, the deciding one first.

    Returns:
        The parts that tile the tensor, None where its role has no matrices.
    """
    readings = [(f.site, f.verdict) for f in found if isinstance(f.verdict, Reading) and f.verdict.tiles is not None]
    if not readings:
        return None
    parts = _apart([p for site, reading in readings for p in _parts(site, reading)], shape)
    return Layout(_merge(parts) if _tile(parts, shape) else (_whole(parts[0], shape),))


def thinned(layout: Layout | None, live: float) -> Layout | None:
    """A layout whose fans count the share of the elements that is not zero for good."""
    if layout is None or live == 1.0:
        return layout
    fans = (tuple(f if f is None else f * live for f in (p.fan_in, p.fan_out)) for p in layout.parts)
    return Layout(tuple(replace(p, fan_in=a, fan_out=b) for p, (a, b) in zip(layout.parts, fans, strict=True)))


def _parts(site: Site, reading: Reading) -> list[Part]:
    """What one use says: a part for each matrix that the operator cuts the operand into, mostly one."""
    assert reading.tiles is not None
    axis, begin, parts = reading.out_axis, 0, list[Part]()
    for k, size in enumerate(reading.cuts if axis is not None else ()):
        assert axis is not None
        piece = site.trail.window(axis, begin, size)
        tiles: list[Sequence[Tile]] = [*reading.tiles]
        tiles[axis] = [(size, "out")]
        part = piece.part(tiles, reading.names[k : k + 1]) if piece is not None else None
        if part is not None:
            parts.append(_with_fans(part, tiles, reading))
        begin += size
    whole = sum(math.prod(p.shape) for p in parts) == math.prod(site.trail.extent)
    return parts if whole else [_part(site, reading)]


def _part(site: Site, reading: Reading) -> Part:
    assert reading.tiles is not None
    tiles = [list(t) for t in reading.tiles]
    axis = reading.out_axis
    if reading.fuses is not None and reading.output is not None and axis is not None:
        cut = partition(reading.output, reading.fuses, site.shape[axis])
        if cut is not None:
            tiles[axis] = list(cut)
    part = site.trail.part(tiles, reading.names) or _guess(site.trail, tiles)
    return _with_fans(part, tiles, reading)


def _with_fans(part: Part, tiles: Sequence[Sequence[Tile]], reading: Reading) -> Part:
    """Count connections; where other tensors stand beside this one on a contracted axis, they count too."""
    if reading.role not in FAN_ROLES:
        return part
    out, own_in, *kernel = part.block_shape
    contracted = math.prod(n for tile in tiles for n, kind in tile if kind == "in")
    field = math.prod(kernel)
    return replace(part, fan_in=max(contracted, own_in) * field / reading.taps, fan_out=float(out * field))


def _guess(trail: Trail, tiles: Sequence[Sequence[Tile]]) -> Part:
    """The arrangement is lost: take every stored axis whole, in the order of the operand where the sizes allow."""
    left = [(math.prod(n for n, _ in tile), tile[-1][1]) for tile in tiles if tile]
    kinds = []
    for n in trail.extent:
        match = next((t for t in left if t[0] == n), None)
        if match is not None:
            left.remove(match)
        kinds.append(match[1] if match is not None else "block")
    if "out" not in kinds and "block" in kinds:
        kinds[kinds.index("block")] = "out"
    return Part(trail.start, trail.extent, tuple((n,) for n in trail.extent), tuple((k,) for k in kinds))


def _apart(parts: Sequence[Part], shape: Sequence[int]) -> list[Part]:
    """The parts that overlap none before them, in stored order; of slices along one axis only neighbours can."""
    cut = [i for i, n in enumerate(shape) if any(p.shape[i] != n for p in parts)]
    kept: list[Part] = []
    for part in parts:
        at, near = len(kept), kept
        if len(cut) == 1:
            at = bisect(kept, part.start[cut[0]], key=lambda p: p.start[cut[0]])
            near = kept[max(0, at - 1) : at + 1]
        if not any(_overlap(part, other) for other in near):
            kept.insert(at, part)
    return sorted(kept, key=lambda p: p.start)


def _overlap(a: Part, b: Part) -> bool:
    both = zip(a.start, a.shape, b.start, b.shape, strict=True)
    return all(s < t + m and t < s + n for s, n, t, m in both)


def _tile(parts: Sequence[Part], shape: Sequence[int]) -> bool:
    return sum(math.prod(p.shape) for p in parts) == math.prod(shape)


def _whole(part: Part, shape: Sequence[int]) -> Part:
    """A part stretched over the tensor, where its uses leave a rest unread."""
    factors = tuple(
        f if n == m else ((n // math.prod(f[1:]), *f[1:]) if f and n % math.prod(f[1:]) == 0 else (n,))
        for f, n, m in zip(part.factors, shape, part.shape, strict=True)
    )
    kinds = tuple(
        k if len(k) == len(f) else (k[0] if k else "block",) for k, f in zip(part.kinds, factors, strict=True)
    )
    return Part((0,) * len(shape), tuple(shape), factors, kinds, part.fan_in, part.fan_out)


def _merge(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Equal neighbours along one axis become one part with more blocks."""
    first = parts[0]
    axes = [i for i in range(len(first.start)) if len({p.start[i] for p in parts}) > 1]
    alike = len({(p.shape, p.factors, p.kinds, p.fan_in, p.fan_out) for p in parts}) == 1
    if len(parts) == 1 or len(axes) != 1 or not alike:
        return tuple(parts)
    axis, n = axes[0], len(parts)
    shape, factors, kinds = list(first.shape), list(first.factors), list(first.kinds)
    shape[axis] *= n
    factors[axis] = (n, *factors[axis])
    kinds[axis] = ("block", *kinds[axis])
    names = tuple(name for p in parts for name in p.names)
    merged = replace(first, shape=tuple(shape), factors=tuple(factors), kinds=tuple(kinds), names=())
    return (replace(merged, names=names) if len(names) == merged.blocks else merged,)

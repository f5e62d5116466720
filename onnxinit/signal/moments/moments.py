"""What is carried for every value, and the arithmetic of it.

A value is a random tensor: over the fresh weights, the inputs and the places in it. Carried are

    mean, var      over the whole tensor, in expectation
    rho[a]         the correlation of two elements that differ on axis a alone
    parts          value = mean + sum of parts[s] u_s over *sources* s: uncorrelated, of mean 0 and variance 1
    law            value = f(m + s z), z standard normal: what pointwise functions are applied to

**Sources.** A layer of fresh weights of mean 0 makes a new source: E[w] = 0, so that its output is uncorrelated with
its input and with all that came before. A branch that ends in one is uncorrelated with its skip, whatever is inside;
x + x has the same source twice, and its amplitude doubles. Through a function f of a normal value x, f(x) = E f + a_1 z
+ rest with the rest uncorrelated with z (Bussgang 1952): the sources of x go on by a_1, the rest is a new one.

**Axes.** rho is what decides about means over an axis, contractions, the weights of a softmax and norms. It obeys

    layer          C'[a] = S Var[w] C[a] with C[a] = mean^2 + rho[a] var: the mean becomes a shared part, since one
                   draw of the weights serves all places (S of its K taps meet the signal at both, on average);
                   outputs of a layer differ in their weights: rho = 0 there
    function       E[f(z) f(z')] = sum of a_k^2 rho^k (Mehler 1866)
    mean over n    var (1/n + (1 - 1/n) rho)

Elements that differ on two axes correlate by the smaller of both rho, or by the product where one is negative (the
weights of a softmax sum up to one along the keys, for every query); values that were centred over several axes at once
by what all pairs there have, -1/(n - 1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxinit.analysis.pointwise import Expression
from onnxinit.signal.moments import gauss

IDENTITY = Expression()
MOST_PARTS = 48
HUGE = 1e3  # what is added to logits to hide them is beyond; no activation is

_keys = itertools.count(1)

Rho = tuple[float, ...]
Edge = tuple[tuple[int, tuple[float, ...]], ...]
Apart = tuple[tuple[int, ...], float]


@dataclass(frozen=True, slots=True)
class Law:
    """The distribution of one element: f(mean + std z), z standard normal.

    Attributes:
        f: The function.
        mean: Of its argument.
        std: Of its argument, above 0.
        rho: Correlations of z along the axes.
        parts: Sources of z; the squares sum up to 1.
        key: Equal for values that are functions of the same z, element by element.
        root: Equal for those that have the same spread too, once they are centred.
        depth: How many operators f is made of.
    """

    f: Expression
    mean: float
    std: float
    rho: Rho
    parts: Mapping[int, float]
    key: int
    root: int
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of a value; `law` is None where it does not vary.

    Attributes:
        mean: Its mean.
        var: Its variance.
        rho: By axis, the correlation of elements that differ there alone; empty for an unknown rank.
        parts: Amplitudes of its sources.
        law: The distribution of its elements.
        hidden: The share of its elements that are hugely negative, of a mask or of masked logits; the others are meant
            by the mean and the variance.
        reduced: The root of the law whose sum or mean over an axis this follows from, 0 where there is none.
        edge: By axis how E[x^2] varies along it, relative to its mean: what padding does to a picture.
        apart: The axes of a picture, and by how much elements that differ on two of them correlate less than those that
            differ on one: the ends of both axes take taps away.
        middle: Of a mean over axes the law that it is the mean of, the axes, and how many elements they have.
    """

    mean: float
    var: float
    rho: Rho = ()
    parts: Mapping[int, float] = frozenset()  # type: ignore[assignment]
    law: Law | None = None
    hidden: float = 0.0
    reduced: int = 0
    middle: tuple[Law, tuple[int, ...], float] | None = None
    edge: Edge = ()
    apart: Apart = ((), 1.0)

    @property
    def second(self) -> float:
        """E[x^2]."""
        return self.mean * self.mean + self.var

    @property
    def std(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.var)

    def along(self, axis: int) -> float:
        """The correlation along an axis; 0 where the rank is not known."""
        return self.rho[axis] if -len(self.rho) <= axis < len(self.rho) else 0.0

    def both(self, i: int, j: int) -> float:
        """The correlation of elements that differ on two axes."""
        i, j = i % max(1, len(self.rho)), j % max(1, len(self.rho))
        less = self.apart[1] if i in self.apart[0] and j in self.apart[0] else 1.0
        return less * joint(self.along(i), self.along(j))

    def shared(self, axis: int) -> float:
        """E[x x'] of elements that differ on an axis."""
        return self.mean * self.mean + self.along(axis) * self.var


def fresh() -> int:
    """A key or source that nothing had before."""
    return next(_keys)


def constant(value: float, rank: int = 0, hidden: float = 0.0) -> Moments:
    """The same number everywhere."""
    return Moments(value, 0.0, (1.0,) * rank, {}, None, hidden)


def normal(
    mean: float,
    var: float,
    rho: Sequence[float] = (),
    parts: Mapping[int, float] | None = None,
    *,
    positive: bool = False,
    reduced: int = 0,
    hidden: float = 0.0,
    root: int = 0,
) -> Moments:
    """A normal value, of one new source where none are given; log-normal where it is `positive`."""
    if not (math.isfinite(mean) and math.isfinite(var)):
        mean, var = 0.0, 1.0
    rho = tuple(max(-1.0, min(1.0, r)) for r in rho)
    if var <= 1e-24 * max(mean * mean, 1e-30):
        return Moments(mean, 0.0, (1.0,) * len(rho), {}, None, hidden, reduced)
    std = math.sqrt(var)
    held = _limited(parts, var) if parts else {fresh(): std}
    unit = {s: a / std for s, a in held.items()}
    key = fresh()
    if positive and mean > 0.0:
        spread = math.log1p(var / mean**2)
        law = Law(EXP, math.log(mean) - 0.5 * spread, math.sqrt(spread), rho, unit, key, root or key, 1)
    else:
        law = Law(IDENTITY, mean, std, rho, unit, key, root or key)
    return Moments(mean, var, rho, held, law, hidden, reduced)


def _limited(parts: Mapping[int, float], var: float) -> dict[int, float]:
    """The amplitudes, made to have the variance; beyond `MOST_PARTS` the smallest become one new source."""
    known = {s: a for s, a in parts.items() if a * a > 1e-6 * var}
    if len(known) > MOST_PARTS:
        known = dict(sorted(known.items(), key=lambda item: -abs(item[1]))[:MOST_PARTS])
    rest = var - math.fsum(a * a for a in known.values())
    if rest < -1e-9 * var:
        scale = math.sqrt(var / (var - rest))
        return {s: a * scale for s, a in known.items()}
    if rest > 1e-9 * var:
        known[fresh()] = math.sqrt(rest)
    return known


def _exponential() -> Expression:
    from onnxinit.analysis.view import Node

    return Expression(Node("Exp", "", "", "", [], [], {}), (IDENTITY,))


EXP = _exponential()


def shaped(m: Moments, change: Callable[[Rho], Rho], *, same: bool = True) -> Moments:
    """The same elements with other axes.

    Args:
        m: The value.
        change: From correlations by axis to those of the result.
        same: Whether the elements keep their order, so that the result is still the same function of the same z.
    """
    law = m.law
    if law is not None:
        law = replace(law, rho=change(law.rho), key=law.key if same else fresh())
    return replace(m, rho=change(m.rho), law=law, edge=(), apart=((), 1.0))


def piece(m: Moments, change: Callable[[Rho], Rho] | None = None) -> Moments:
    """Some of the elements: alike, and not the same as those of any other piece."""
    edge, apart = (m.edge, m.apart) if change is None else ((), ((), 1.0))
    change = change or (lambda rho: rho)
    if m.law is None:
        return replace(m, rho=change(m.rho), edge=edge, apart=apart)
    key = fresh()
    law = replace(m.law, rho=change(m.law.rho), parts={fresh(): 1.0}, key=key, root=key)
    return replace(m, rho=change(m.rho), parts={fresh(): m.std}, law=law, middle=None, edge=edge, apart=apart)


def scaled(m: Moments, factor: float, shift: float = 0.0) -> Moments:
    """The value times a number, plus a number."""
    parts = {s: a * factor for s, a in m.parts.items()}
    return _affine(m, factor, shift, parts)


def _affine(m: Moments, factor: float, shift: float, parts: Mapping[int, float]) -> Moments:
    if m.law is not None and m.law.f is IDENTITY and factor:
        sign = math.copysign(1.0, factor)
        law = replace(
            m.law,
            mean=factor * m.law.mean + shift,
            std=abs(factor) * m.law.std,
            parts={s: sign * a for s, a in m.law.parts.items()},
            key=fresh(),
        )
        return replace(m, mean=factor * m.mean + shift, var=factor * factor * m.var, parts=parts, law=law, middle=None)
    positive = m.law is not None and m.law.f is EXP and factor > 0 and shift == 0
    made = normal(
        factor * m.mean + shift, factor**2 * m.var, m.rho, parts, positive=positive, reduced=m.reduced, hidden=m.hidden
    )
    return replace(made, edge=m.edge, apart=m.apart)


def joint(a: float, b: float) -> float:
    """The correlation of elements that differ on two axes."""
    if a < 0.0 and b < 0.0:
        return max(a, b)
    return a * b if a < 0.0 or b < 0.0 else min(a, b)


def covariance(a: Moments, b: Moments) -> float:
    """Of the same elements of two values."""
    if len(a.parts) > len(b.parts):
        a, b = b, a
    return math.fsum(x * b.parts[s] for s, x in a.parts.items() if s in b.parts)


def add(a: Moments, b: Moments, sign: float = 1.0) -> Moments:
    """A + b, or a - b; both aligned to the axes of the result."""
    hidden = max(a.hidden, b.hidden)
    if a.var == 0.0 or b.var == 0.0:
        moving, still = (a, b) if b.var == 0.0 else (b, a)
        factor = 1.0 if moving is a else sign
        return replace(scaled(moving, factor, still.mean * (sign if still is b else 1.0)), hidden=hidden)
    cov = sign * covariance(a, b)
    var = max(0.0, a.var + b.var + 2.0 * cov)
    parts = dict(a.parts)
    for s, x in b.parts.items():
        parts[s] = parts.get(s, 0.0) + sign * x
    rho = [
        (a.var * p + b.var * q + 2.0 * cov * joint(p, q)) / var if var else 1.0
        for p, q in zip(a.rho, b.rho, strict=False)
    ]
    made = normal(a.mean + sign * b.mean, var, rho, parts, hidden=hidden)
    return replace(made, edge=blended([(a.second, a), (b.second, b)]), apart=_apart(a, b))


def _apart(a: Moments, b: Moments) -> Apart:
    """Of a sum or a product: the mean of both, by what is shared in each."""
    axes = a.apart[0] or b.apart[0]
    held = [(m.var * min((max(0.0, m.along(i)) for i in axes), default=0.0), m.apart[1]) for m in (a, b)]
    total = math.fsum(share for share, _ in held)
    return (axes, math.fsum(share * less for share, less in held) / total) if total > 0.0 else (axes, 1.0)


def blended(values: Sequence[tuple[float, Moments]]) -> Edge:
    """How the second moment of a sum or of a mixture varies along the axes, from those of its terms."""
    found: dict[int, tuple[float, ...]] = {}
    lengths = {axis: len(p) for _, m in values for axis, p in m.edge}
    total = math.fsum(share for share, _ in values)
    for axis, n in lengths.items():
        mixed = [0.0] * n
        for share, m in values:
            own = dict(m.edge).get(axis)
            for i in range(n):
                mixed[i] += share * (own[i] if own is not None and len(own) == n else 1.0)
        if total > 0.0:
            found[axis] = tuple(x / total for x in mixed)
    return tuple(found.items())


def multiply(a: Moments, b: Moments) -> Moments:
    """A b, element by element, of jointly normal values (Isserlis 1918); both aligned to the axes of the result.

    Var = m_a^2 v_b + m_b^2 v_a + 2 m_a m_b c + v_a v_b + c^2
    """
    if a.var == 0.0 or b.var == 0.0:
        moving, still = (a, b) if b.var == 0.0 else (b, a)
        hidden = moving.hidden if still.mean else 0.0
        if still.hidden and moving.mean:
            hidden = max(hidden, still.hidden * min(1.0, abs(moving.mean)))
        return replace(scaled(moving, still.mean), hidden=hidden) if still.mean else constant(0.0, len(a.rho), hidden)
    c = covariance(a, b)
    linear = a.mean**2 * b.var + b.mean**2 * a.var + 2.0 * a.mean * b.mean * c
    var = linear + a.var * b.var + c * c
    rho = [
        (
            a.mean**2 * b.var * q
            + b.mean**2 * a.var * p
            + p * q * a.var * b.var
            + (2.0 * a.mean * b.mean * c + c * c) * joint(p, q)
        )
        / var
        if var
        else 1.0
        for p, q in zip(a.rho, b.rho, strict=False)
    ]
    parts = {s: b.mean * x for s, x in a.parts.items()}
    for s, x in b.parts.items():
        parts[s] = parts.get(s, 0.0) + a.mean * x
    made = normal(a.mean * b.mean + c, var, rho, parts if linear > 0 else None, hidden=max(a.hidden, b.hidden))
    return replace(made, edge=a.edge or b.edge, apart=_apart(a, b))


def mix(values: Sequence[tuple[float, Moments]], axis: int | None = None) -> Moments:
    """Elements of several values in given shares, side by side along `axis`, or chosen by something else."""
    values = [(share, m) for share, m in values if share > 0.0]
    if len(values) == 1:
        return values[0][1] if values[0][0] == 1.0 else piece(values[0][1])
    total = math.fsum(share for share, _ in values)
    values = [(share / total, m) for share, m in values]
    mean = math.fsum(w * m.mean for w, m in values)
    var = max(0.0, math.fsum(w * m.second for w, m in values) - mean * mean)
    ranks = min(len(m.rho) for _, m in values)
    rho: list[float] = []
    for i in range(ranks):
        if i == axis:
            between = math.fsum(w * w * m.shared(i) for w, m in values)
            between += mean * mean - math.fsum((w * m.mean) ** 2 for w, m in values)
        else:
            between = math.fsum(w * m.shared(i) for w, m in values)
        rho.append((between - mean * mean) / var if var > 0.0 else 1.0)
    hidden = math.fsum(w * m.hidden for w, m in values)
    edge = tuple((i, p) for i, p in blended([(w * m.second, m) for w, m in values]) if i != axis)
    first = values[0][1].law
    if first is not None and all(
        m.law is not None and m.law.f is first.f and (m.law.mean, m.law.std) == (first.mean, first.std)
        for _, m in values
    ):
        key = fresh()
        law = replace(first, rho=tuple(rho), parts={fresh(): 1.0}, key=key, root=key)
        return Moments(mean, var, tuple(rho), {fresh(): math.sqrt(var)}, law, hidden, edge=edge)
    return replace(normal(mean, var, rho, hidden=hidden), edge=edge)


def average(m: Moments, axis: int, count: float, gathered: float | None = None) -> Moments:
    """The mean of `count` elements along an axis, or a mean with weights whose squares sum up to `gathered`.

    var' = var (g + (1 - g) rho), g = 1/count; the law is normal, log-normal for values that are never negative.
    """
    g = 1.0 / max(count, 1.0) if gathered is None else gathered
    if m.var == 0.0:
        return m
    own = m.along(axis)
    var = m.var * (g + (1.0 - g) * own)
    if var <= 0.0:
        return constant(m.mean, len(m.rho))
    rho = [
        own / (g + (1.0 - g) * own)
        if i == axis % max(1, len(m.rho))
        else m.var * (g * r + (1.0 - g) * m.both(i, axis)) / var
        for i, r in enumerate(m.rho)
    ]
    law = m.law
    positive = law is not None and gauss.is_positive(law.f, law.mean, law.std)
    parts = {s: a * own for s, a in m.parts.items()} if own > 0.0 else None
    made = normal(m.mean, var, rho, parts, positive=positive, reduced=law.root if law is not None else 0)
    return replace(made, apart=m.apart)


def centre(m: Moments, axes: Sequence[int], count: float) -> Moments:
    """The value without its mean over axes of `count` elements: what all elements there share goes."""
    own = m.along(axes[0]) if axes else 0.0
    for axis in axes[1:]:
        own = min(joint(own, m.along(axis)), m.both(axes[0], axis))
    own = max(0.0, own)
    left = 1.0 - own
    if left <= 1e-12 or m.var == 0.0:
        return constant(0.0, len(m.rho))
    at = {a % max(1, len(m.rho)) for a in axes}
    apart = -1.0 / (count - 1.0) if count > 1.0 else 1.0
    rho = [apart if i in at else max(0.0, (r - joint(r, own)) / left) for i, r in enumerate(m.rho)]
    var = m.var * left * (1.0 - 1.0 / max(1.0, count))
    parts = {s: a * left for s, a in m.parts.items()}
    return normal(0.0, var, rho, parts, root=m.law.root if m.law is not None else 0)

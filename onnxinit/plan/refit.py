"""Which tensors a plan works out from the weights that it draws.

The scales and zero points of quantised weights, and what the graph puts together with others: the scale of a weight
norm, the vectors of a spectral norm, the copy of a kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from onnxinit.analysis.weight import PARAMETER_ROLES, Analysis, Weight
from onnxinit.plan.plan import Entry, Gain, Left
from onnxinit.schemes import Spec

REFIT = "refit"


def with_fitted(
    analysis: Analysis,
    made: Mapping[str, Entry | Left],
    spared: Mapping[str, Left],
    planned: Mapping[str, Entry] | None = None,
    measured: Collection[str] = (),
) -> list[Entry | Left]:
    """The plan's lines for all weights in file order: those given, and those of what follows from the others.

    A scale is fitted where all that it says the values of is drawn, a bias whose scale is a product with it included;
    otherwise it stays, and the weights are drawn within the range that they had.

    Args:
        analysis: What the tensors are.
        made: The lines of what schemes draw, by id.
        spared: The lines of those that follow and that the user keeps, by id.
        planned: Entries of an earlier plan by id, whose gains count.
        measured: Paths of scales of activations that were measured, which move the scale of a bias with them.
    """
    drawn = {ident for ident, line in made.items() if isinstance(line, Entry) and not moves_codes(line)}
    parameters = {w.path: w for w in analysis.weights if w.id not in made}
    owners = _owners(analysis)
    moving = {path for path, w in parameters.items() if w.id not in spared and all(o.id in drawn for o in owners[path])}
    while held := {path for path in moving if not _can_move(path, parameters, moving, owners[path], measured)}:
        moving -= held
    lines: list[Entry | Left] = []
    for weight in analysis.weights:
        if weight.id in made:
            lines.append(made[weight.id])
        elif weight.path in moving:
            before = (planned or {}).get(weight.id)
            lines.append(_entry(weight, owners[weight.path], made, None if before is None else before.gain))
        else:
            lines.append(spared.get(weight.id) or Left(weight.id, _why_held(weight, owners[weight.path], made)))
    return lines


def follows(weight: Weight) -> bool:
    """Whether a tensor is worked out from weights, if nothing else is asked for."""
    return weight.role in PARAMETER_ROLES or bool(weight.follows)


def _why_held(weight: Weight, owners: Collection[Weight], made: Mapping[str, Entry | Left]) -> str:
    moved = any(isinstance(line := made[o.id], Entry) and moves_codes(line) for o in owners)
    what = "follows from weights" if weight.follows else "a scale or zero point of values"
    return f"{what} that are {'moved as they are' if moved else 'kept'}"


def moves_codes(entry: Entry) -> bool:
    """Whether an entry moves what is stored about as it is: codes stay codes, and their scales stay too."""
    return entry.scheme.scheme.moves and entry.gain == 1.0


def held_to_old_scales(analysis: Analysis, entries: Collection[Entry]) -> Iterator[str]:
    """The ids of the quantised weights that are drawn within the range that they had: their scale stays."""
    fitted = {analysis.by_id[e.id].path for e in entries if e.scheme.name == REFIT or e.role == "quant_scale"}
    for entry in entries:
        quantised = analysis.by_id[entry.id].codes
        if (
            quantised is not None
            and not fitted & {quantised.scale, *quantised.factors}
            and entry.std != 0
            and not moves_codes(entry)
        ):
            yield entry.id


def _owners(analysis: Analysis) -> dict[str, list[Weight]]:
    """By path of what follows from weights, these: of a scale or zero point all whose values it has a say in."""
    owners: dict[str, list[Weight]] = {}
    for w in analysis.weights:
        if w.follows:
            owners[w.path] = [analysis.by_id[ident] for ident in w.follows]
        for path in {w.codes.scale, w.codes.zero_point, *w.codes.factors} if w.codes else ():
            owners.setdefault(path, []).append(w)
    return owners


def _can_move(
    path: str,
    parameters: Mapping[str, Weight],
    moving: Collection[str],
    owners: Collection[Weight],
    measured: Collection[str],
) -> bool:
    """Whether what a scale or zero point is worked out from, or has to agree with, moves too."""
    for owner in owners:
        q = owner.codes
        if q is None:
            continue
        if path == q.zero_point and q.scale not in moving:
            return False
        if path == q.scale and q.factors and not any(f in moving or f in measured for f in q.factors):
            return False
        if path in q.factors and q.scale in parameters and q.scale not in moving:
            return False
    return True


def _entry(
    weight: Weight, owners: Collection[Weight], made: Mapping[str, Entry | Left], gain: Gain | None = None
) -> Entry:
    """The line of what follows from others; the gain of a scale leaves as much room as there was."""
    own = weight.follows or tuple(
        o.id for o in owners if o.codes and weight.path in (o.codes.scale, o.codes.zero_point)
    )
    room = [o.codes.headroom for o in owners if o.codes and weight.path == o.codes.scale]
    by_blas = bool(weight.follows) or any(isinstance(e := made[o.id], Entry) and e.exact == "1e-6" for o in owners)
    return Entry(
        id=weight.id,
        role=weight.role,
        shape=weight.shape,
        dtype=weight.dtype,
        scheme=Spec.of(REFIT),
        gain=min(room, default=1.0) if gain is None else gain,
        std=None,
        draws_as=weight.id,
        exact="1e-6" if by_blas else "bytes",
        why=f"{'follows' if weight.follows else 'refit to'} {', '.join(own)}",
    )

"""From an analysis, a scheme and rules to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxinit.analysis.weight import PARAMETER_ROLES, Analysis, Weight
from onnxinit.errors import SchemeError
from onnxinit.plan.advice import INSTEAD, KEPT_POSITIVE, advise
from onnxinit.plan.blocks import asked_std, effective_gain, label, of_weight, sampled
from onnxinit.plan.defaults import SIGNAL_ROLES, default_spec, possible, resolve_auto
from onnxinit.plan.donors import Donors
from onnxinit.plan.measured import Measured
from onnxinit.plan.patterns import Pattern
from onnxinit.plan.plan import Entry, Gain, Left, Plan
from onnxinit.plan.refit import REFIT, follows, held_to_old_scales, with_fitted
from onnxinit.plan.rules import Rule
from onnxinit.plan.steady import DEEP, STEADY, steady, swells
from onnxinit.sampling import STREAM
from onnxinit.schemes import Spec, parse_spec

_NEVER_ASKED = {
    REFIT: "tensors that follow from weights, such as the scales of quantised ones,",
    "measured": "tensors that a pass over calibration data measures",
}


def make_plan(
    analysis: Analysis,
    *,
    scheme: str | Spec = "auto",
    seed: int = 0,
    rules: str | Iterable[str] = (),
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    allow_unmatched: bool = False,
    cascade: int | None = None,
    donors: Donors | None = None,
    keep_scales: bool = False,
) -> Plan:
    """Say for every tensor what it gets, or why it is kept.

    Args:
        analysis: What the tensors are.
        scheme: The SPEC for kernels; other roles have defaults of their own.
        seed: The root seed, at least 0.
        rules: PATTERN=SPEC each; the last that matches a weight wins.
        include: PATTERNs; where there are any, a weight that none matches is kept.
        exclude: PATTERNs; a weight that one matches is kept.
        allow_unmatched: Whether a pattern that matches no weight is a warning and not an error.
        cascade: How many levels of layers are rewritten, from the output down; all of them if None. The level of a
            weight is its height, the number of layers after it on the longest way on: 0 for the last layer of every
            output, the same for the queries, keys and values of an attention, and for biases and norms that of the
            layer before them.
        donors: Opens the models that weights are taken from.
        keep_scales: Whether scales and zero points of quantised weights stay, and the weights are drawn within the
            range that these give them.

    Raises:
        ModelError: A donor cannot be read.
        SchemeError: A scheme, parameter, pattern, the seed or the cascade is wrong, a pattern matches nothing, or a
            scheme cannot draw a weight that gets it.
    """
    if seed < 0:
        raise SchemeError(f"the seed {seed} is below 0: give a whole number from 0 on, or 'random'")
    if cascade is not None and cascade < 0:
        raise SchemeError(
            f"a cascade of {cascade} layers is below 0: give how many layers to rewrite from the output down"
        )
    choice = _Choice(
        analysis,
        parse_spec(scheme) if isinstance(scheme, str) else scheme,
        [Rule.parse(text) for text in _several(rules)],
        [Pattern.parse(text) for text in _several(include)],
        [Pattern.parse(text) for text in _several(exclude)],
        cascade,
        donors or Donors(),
    )
    unmatched = choice.unmatched()
    if unmatched and not allow_unmatched:
        raise SchemeError(
            f"{unmatched[0]} matches no weight of the model: `onnxinit inspect` lists their ids, roles and operators; "
            "--allow-unmatched makes this a warning"
        )
    following = [w for w in analysis.weights if choice.fits(w)]
    fitted = {w.id for w in following}
    drawn = {w.id: choice.of(w) for w in analysis.weights if w.id not in fitted}
    drawn |= _steadied(analysis, drawn)
    spared = {w.id: left for w in following if (left := choice.spares(w))}
    if keep_scales:
        scales = (w for w in following if w.role in PARAMETER_ROLES)
        spared |= {w.id: Left(w.id, "kept by --keep-scales") for w in scales}
    made = with_fitted(analysis, drawn, spared)
    entries = tuple(m for m in made if isinstance(m, Entry))
    kept = (*(m for m in made if isinstance(m, Left)), *(Left(k.id, k.reason) for k in analysis.kept))
    warnings = (
        *(f"{text} matches no weight" for text in unmatched),
        *advise(entries, kept, held_to_old_scales(analysis, entries)),
    )
    return Plan(seed, STREAM, entries, kept, warnings)


def _steadied(analysis: Analysis, drawn: Mapping[str, Entry | Left]) -> dict[str, Entry]:
    """The entries of sparse layers anew, where there are so many without norms that the signal would overflow."""
    sparse = [e for e in drawn.values() if isinstance(e, Entry) and e.scheme.name == "sparse"]
    pairs = [(e, owner) for e in sparse if swells(e.scheme, owner := analysis.by_id[e.draws_as])]
    if not analysis.normless or len(pairs) < DEEP:
        return {}
    anew = [(e, entry_of(owner, steady(e.scheme, owner), e.why + STEADY)) for e, owner in pairs]
    return {old.id: of_weight(new, analysis.by_id[old.id]) for old, new in anew}


def _several(texts: str | Iterable[str]) -> Sequence[str]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The user's wishes, and what they mean for each weight."""

    analysis: Analysis
    scheme: Spec
    rules: Sequence[Rule]
    include: Sequence[Pattern]
    exclude: Sequence[Pattern]
    cascade: int | None
    donors: Donors

    def unmatched(self) -> list[str]:
        """What the user asked for that no weight answers to."""
        named = [(f"the rule '{rule.text}'", rule.pattern) for rule in self.rules]
        named += [(f"--include '{p.text}'", p) for p in self.include]
        named += [(f"--exclude '{p.text}'", p) for p in self.exclude]
        return [text for text, pattern in named if not any(map(pattern.matches, self.analysis.weights))]

    def of(self, weight: Weight) -> Entry | Left:
        """The entry of a weight; one that shares the bytes of another gets what that one gets."""
        owner = self.analysis.by_id[weight.shares] if weight.shares else weight
        same = [owner, *(w for w in map(self.analysis.by_id.get, owner.tied_to) if w and w.shares == owner.id)]
        left = self._left(same)
        if left:
            return Left(weight.id, left)
        spec, why, without = self._with_donor(owner, *self._spec(owner, same))
        if spec.scheme.origin == "own" and owner.role == "running_var" and not spec.scheme.moves:
            spec, why = Spec.of("shuffle"), why + KEPT_POSITIVE
        if spec.name == "auto" or (spec.pending and owner.role not in SIGNAL_ROLES):
            spec, why = resolve_auto(owner, self.analysis)
        if spec.name == "keep":
            return Left(weight.id, f"{without}kept by {why}")
        if spec.name in _NEVER_ASKED:
            raise SchemeError(
                f"{label(owner)} cannot be drawn by {spec}, {why}: it is what {_NEVER_ASKED[spec.name]} get; take a "
                "scheme that draws"
            )
        if not possible(spec, owner):
            spec, why = Spec.of("orthogonal", gain=spec.gain), why + INSTEAD
        return of_weight(entry_of(owner, spec, without + why), weight)

    def _with_donor(self, owner: Weight, spec: Spec, why: str) -> tuple[Spec, str, str]:
        """Name the donor's weight in the spec; where there is none, what is done without, why, and which had none.

        A fallback takes the place of its donor: as `--scheme` it is for kernels, in a rule for what the rule names.
        """
        by_rule, without = spec is not self.scheme, ""
        while spec.scheme.origin == "model":
            taken = self.donors.choose(self.analysis, owner, spec)
            if not isinstance(taken, str):
                return taken[0], f"{why}: {taken[1]}", without
            fallback, without = spec.values["fallback"], f"{without}{taken}; "
            if fallback is not None and by_rule:
                spec, why = parse_spec(str(fallback)), f"the fallback {fallback}"
                continue
            scheme = Spec.of("auto") if self.scheme.scheme.origin == "model" else self.scheme
            scheme = scheme if fallback is None else parse_spec(str(fallback))
            spec, why = default_spec(owner, scheme, self.analysis)
        return spec, why, without

    def fits(self, weight: Weight) -> bool:
        """Whether a tensor is worked out from weights: what is no scale of codes can be drawn in another way too."""
        if weight.role in PARAMETER_ROLES or not follows(weight):
            return follows(weight)
        rule = self._rule([weight])
        if rule is not None:
            return rule.spec.name == "keep"
        taken = self.scheme.scheme.origin == "model"
        return not taken or isinstance(self.donors.choose(self.analysis, weight, self.scheme), str)

    def spares(self, weight: Weight) -> Left | None:
        """Why what would be worked out stays although its weights are drawn; of the rules, one to keep it counts."""
        if weight.follows and (left := self._left([weight])):
            return Left(weight.id, left)
        out = _matching(self.exclude, [weight])
        if out:
            return Left(weight.id, f"--exclude {out[-1].text}")
        rule = self._rule([weight])
        return Left(weight.id, f"kept by the rule '{rule.text}'") if rule and rule.spec.name == "keep" else None

    def _left(self, same: Sequence[Weight]) -> str:
        """Why a weight is not selected, or "" where it is."""
        if self.cascade is not None and min(w.height for w in same) >= self.cascade:
            return f"further from the output than --cascade {self.cascade} goes"
        if self.include and not _matching(self.include, same):
            return f"not selected by --include {' '.join(p.text for p in self.include)}"
        out = _matching(self.exclude, same)
        return f"--exclude {out[-1].text}" if out else ""

    def _spec(self, owner: Weight, same: Sequence[Weight]) -> tuple[Spec, str]:
        rule = self._rule(same)
        if rule is not None:
            return rule.spec, f"the rule '{rule.text}'"
        return default_spec(owner, self.scheme, self.analysis)

    def _rule(self, same: Sequence[Weight]) -> Rule | None:
        """The rule that wins for a weight."""
        return next((rule for rule in reversed(self.rules) if _matching([rule.pattern], same)), None)


def _matching(patterns: Sequence[Pattern], same: Sequence[Weight]) -> list[Pattern]:
    return [p for p in patterns if any(map(p.matches, same))]


def entry_of(
    weight: Weight,
    spec: Spec,
    why: str,
    gain: Gain | None = None,
    draws_as: str = "",
    measured: Measured | None = None,
) -> Entry:
    """The entry of one weight.

    Args:
        weight: The weight.
        spec: What draws it.
        why: What chose the scheme.
        gain: The gain; if None, what the spec's gain means for the weight.
        draws_as: The id that its stream derives from, if not its own.
        measured: Values in place of a sample.

    Raises:
        SchemeError: The scheme needs a fan that the weight has not.
    """
    if gain is None:
        gain = effective_gain(weight, spec)
    try:
        std = measured.std(gain) if measured else asked_std(weight, spec, gain)
    except SchemeError as e:
        raise SchemeError(f"{label(weight)} cannot be drawn by {spec}, {why}: {e}") from None
    return Entry(
        id=weight.id,
        role=weight.role,
        shape=weight.shape,
        dtype=weight.dtype,
        scheme=spec.without_gain(),
        gain=gain,
        std=std,
        draws_as=draws_as or weight.id,
        exact="bytes" if measured else spec.scheme.exact_to,
        why=why,
        measured=measured,
    )


def base_entry(entry: Entry, analysis: Analysis) -> Entry:
    """What draws a weight whose entry is pending, before a pass settles its gain: the base that its scheme names.

    Raises:
        SchemeError: The base cannot draw the weight.
    """
    weight, owner = analysis.by_id[entry.id], sampled(entry, analysis)
    spec, why = parse_spec(str(entry.scheme.values["base"])), f"the base of {entry.scheme}"
    if not possible(spec, owner):
        spec, why = Spec.of("orthogonal", gain=spec.gain), why + INSTEAD
    made = entry_of(owner, spec, why, draws_as=entry.draws_as)
    return replace(made, id=weight.id, role=weight.role, shape=weight.shape, turned=entry.turned)

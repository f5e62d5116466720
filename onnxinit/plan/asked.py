"""The arguments that make a plan."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from onnxinit.analysis import Analysis
from onnxinit.analysis.operators import Key, Operators, load_operators
from onnxinit.errors import SchemeError
from onnxinit.plan.advice import on_folded
from onnxinit.plan.donors import Donors
from onnxinit.plan.fit import fit_plan
from onnxinit.plan.make import make_plan
from onnxinit.plan.plan import Plan
from onnxinit.schemes import Spec


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks for; None or empty where it was left out.

    Attributes:
        scheme: The SPEC for kernels.
        seed: The root seed, or "random".
        rules: PATTERN=SPEC each.
        include: PATTERNs of what is rewritten.
        exclude: PATTERNs of what is kept.
        allow_unmatched: Whether a pattern that matches nothing is a warning.
        cascade: How many levels of layers are rewritten, from the output down.
        materialize: Whether weights that the graph makes at run time become stored ones.
        densify: Whether weights that are stored sparse become dense ones.
        plan: A plan, or a file with one, in place of all above.
        ops: Files that describe operators; with a plan, in place of those that it was made with.
        tie_equal: Whether weights of equal values are tied.
        keep_scales: Whether scales and zero points of quantised weights stay.
        flush_subnormals: Whether zeros are written in the place of subnormal numbers.
        prune_unused: Whether initializers that nothing uses are left out.
    """

    scheme: str | Spec | None = None
    seed: int | str | None = None
    rules: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow_unmatched: bool = False
    cascade: int | None = None
    materialize: bool = True
    densify: bool = False
    plan: Plan | str | os.PathLike[str] | None = None
    ops: tuple[str, ...] = ()
    tie_equal: bool = False
    keep_scales: bool = False
    flush_subnormals: bool = False
    prune_unused: bool = False

    def with_plan(self) -> Asked:
        """The same with the plan read, where it is a file.

        Raises:
            SchemeError: As `Plan.load`.
        """
        return self if self.plan is None or isinstance(self.plan, Plan) else replace(self, plan=Plan.load(self.plan))

    def operators(self) -> Operators:
        """The operators that are described: those given, else those that the plan was made with.

        Raises:
            SchemeError: As `load_operators`.
        """
        noted = self.plan.arguments.get("ops", ()) if isinstance(self.plan, Plan) else ()
        if self.ops or not noted:
            return load_operators(*self.ops)
        try:
            return load_operators(*several(noted))
        except SchemeError as e:
            raise SchemeError(f"{e}; the plan was made with them: give them by --ops if they are elsewhere") from None

    def plan_for(
        self, analysis: Analysis, donors: Donors, described: Collection[Key] = (), *, calibrated: bool = False
    ) -> Plan:
        """The plan for a model.

        Args:
            analysis: The model.
            donors: Opens the models that weights are taken from.
            described: The operators that the user describes.
            calibrated: Whether a pass over data will scale what is drawn.

        Raises:
            SchemeError: As `make_plan` and `fit_plan`, or where a plan and other arguments are given.
        """
        made = self._made(analysis, donors)
        if self.plan is None and not calibrated:
            made = replace(made, warnings=(*made.warnings, *on_folded(made, analysis)))
        there = {(n.domain, n.op) for n in analysis.graph.view.nodes} if analysis.graph is not None else set(described)
        if described and there.isdisjoint(described):
            named = ", ".join(f"{op} of domain '{domain}'" for domain, op in described)
            return replace(made, warnings=(*made.warnings, f"the model has none of the operators described: {named}"))
        return made

    def _made(self, analysis: Analysis, donors: Donors) -> Plan:
        given = self.given()
        if self.plan is not None:
            said = [name for name in given if name != "ops"]
            if said:
                raise SchemeError(f"a plan is given, which says it all: leave out {' and '.join(said)}")
            return fit_plan(self.plan if isinstance(self.plan, Plan) else Plan.load(self.plan), analysis)
        made = make_plan(
            analysis,
            scheme="auto" if self.scheme is None else self.scheme,
            seed=_seed(self.seed),
            rules=self.rules,
            include=self.include,
            exclude=self.exclude,
            allow_unmatched=self.allow_unmatched,
            cascade=self.cascade,
            donors=donors,
            keep_scales=self.keep_scales,
        )
        return replace(made, arguments=given, flush_subnormals=self.flush_subnormals)

    def set_to(self, name: str) -> bool:
        """Whether a switch by some name is on, as a plan has it where one is given."""
        planned = self.plan.arguments if isinstance(self.plan, Plan) else {}
        return bool(planned.get(name, getattr(self, name)))

    def given(self) -> dict[str, object]:
        """The arguments that were given, as JSON values."""
        several = {"rules": self.rules, "include": self.include, "exclude": self.exclude, "ops": self.ops}
        given = {
            "scheme": None if self.scheme is None else str(self.scheme),
            "seed": self.seed,
            **{k: list(v) or None for k, v in several.items()},
            "cascade": self.cascade,
            "keep_scales": self.keep_scales or None,
            "flush_subnormals": self.flush_subnormals or None,
            "materialize": None if self.materialize else False,
            "densify": self.densify or None,
            "tie_equal": self.tie_equal or None,
            "prune_unused": self.prune_unused or None,
        }
        return {k: v for k, v in given.items() if v is not None}


def several(texts: str | Iterable[str]) -> tuple[str, ...]:
    """One text or many as a tuple."""
    return (texts,) if isinstance(texts, str) else tuple(texts)


def _seed(seed: int | str | None) -> int:
    """The root seed: the number, 0, or for "random" 32 bits of the system's."""
    if seed == "random":
        return secrets.randbits(32)
    try:
        return 0 if seed is None else int(seed)
    except ValueError:
        raise SchemeError(f"the seed '{seed}' is neither a whole number nor 'random'") from None

"""The arguments that make a plan."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from onnxinit.analysis import Analysis
from onnxinit.errors import SchemeError
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
        keep_scales: Whether scales and zero points of quantised weights stay.
        flush_subnormals: Whether zeros are written in the place of subnormal numbers.
        plan: A plan, or a file with one, in place of all above.
    """

    scheme: str | Spec | None = None
    seed: int | str | None = None
    rules: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow_unmatched: bool = False
    cascade: int | None = None
    materialize: bool = True
    keep_scales: bool = False
    flush_subnormals: bool = False
    plan: Plan | str | os.PathLike[str] | None = None

    def plan_for(self, analysis: Analysis, donors: Donors) -> Plan:
        """The plan for a model.

        Raises:
            SchemeError: As `make_plan` and `fit_plan`, or where a plan and other arguments are given.
        """
        given = self.given()
        if self.plan is not None:
            if given:
                raise SchemeError(f"a plan is given, which says it all: leave out {' and '.join(given)}")
            return fit_plan(self._read(self.plan), analysis)
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

    @property
    def materializes(self) -> bool:
        """Whether weights that the graph makes at run time become stored ones, as a plan has it where one is given.

        Raises:
            SchemeError: The plan cannot be read.
        """
        planned = self._read(self.plan).arguments if self.plan is not None else {}
        return self.materialize and planned.get("materialize") is not False

    @staticmethod
    def _read(plan: Plan | str | os.PathLike[str]) -> Plan:
        return plan if isinstance(plan, Plan) else Plan.load(plan)

    def given(self) -> dict[str, object]:
        """The arguments that were given, as JSON values."""
        several = {"rules": self.rules, "include": self.include, "exclude": self.exclude}
        given = {
            "scheme": None if self.scheme is None else str(self.scheme),
            "seed": self.seed,
            **{k: list(v) or None for k, v in several.items()},
            "cascade": self.cascade,
            "keep_scales": self.keep_scales or None,
            "flush_subnormals": self.flush_subnormals or None,
            "materialize": None if self.materialize else False,
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

"""What `inspect` answers: every tensor of a model, what it is, and what the plan would draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxinit.analysis.weight import Analysis, Kept, Weight
from onnxinit.model import ModelFile
from onnxinit.plan import Entry, Plan

FORMAT = "onnxinit.inspection/1"


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model, understood.

    Attributes:
        path: The file; "" for a model in memory.
        ir_version: Its IR version.
        opsets: Version by domain.
        weights: What training learns, in file order.
        kept: All other tensors, with the reasons.
        plan: What `reinit` would do with the same options.
    """

    path: str
    ir_version: int
    opsets: dict[str, int]
    weights: tuple[Weight, ...]
    kept: tuple[Kept, ...]
    plan: Plan

    @classmethod
    def of(cls, file: ModelFile, analysis: Analysis, plan: Plan) -> Inspection:
        """Put an inspection together."""
        return cls(
            path=str(file.path or ""),
            ir_version=file.proto.ir_version,
            opsets={o.domain: o.version for o in file.proto.opset_import},
            weights=analysis.weights,
            kept=analysis.kept,
            plan=plan,
        )

    def to_json(self) -> dict[str, Any]:
        """The inspection as a JSON object, in the format `onnxinit.inspection/1`."""
        drawn = {e.id: e for e in self.plan.entries}
        return {
            "format": FORMAT,
            "model": {"path": self.path, "ir_version": self.ir_version, "opsets": self.opsets},
            "weights": [_weight(w, drawn.get(w.id)) for w in self.weights],
            "kept": [_kept(k) for k in self.kept],
            "warnings": list(self.plan.warnings),
        }


def _weight(weight: Weight, entry: Entry | None) -> dict[str, Any]:
    use = weight.uses[0] if weight.uses else None
    return {
        "id": weight.id,
        "name": weight.name,
        "scope": weight.scope,
        "where": weight.where,
        "role": weight.role,
        "shape": list(weight.shape),
        "dtype": weight.dtype,
        "op": use.op if use else "",
        "node": use.node if use else "",
        "input": use.input if use else 0,
        "fan_in": weight.fan_in,
        "fan_out": weight.fan_out,
        "groups": weight.groups,
        "blocks": weight.blocks,
        "upstream": [a.name for a in weight.upstream],
        "downstream": [a.name for a in weight.downstream],
        "tied_to": list(weight.tied_to),
        "scheme": str(entry.scheme) if entry else None,
        "gain": entry.gain if entry and isinstance(entry.gain, float) else None,
        "std": entry.std if entry else None,
    }


def _kept(kept: Kept) -> dict[str, Any]:
    return {
        "id": kept.id,
        "name": kept.name,
        "scope": kept.scope,
        "shape": list(kept.shape),
        "dtype": kept.dtype,
        "reason": kept.reason,
    }

"""What a weight gets where no rule names it, and what auto means for it."""

from __future__ import annotations

from onnxinit.analysis.weight import FAN_ROLES, Analysis, Weight
from onnxinit.schemes import ROLE_DEFAULTS, Spec, auto_spec

SIGNAL_ROLES = frozenset({"weight", "input_weight"})  # what --scheme is for, and a pass over the signal can settle

AUTO = "auto: "  # begins why auto chose a scheme

# A recurrent weight follows the scheme for kernels only where it is one of these.
_ALSO_RECURRENT = frozenset({"zeros", "ones", "constant", "identity", "keep"})

STARTS_SO = "what such a factor starts as"

# Learned, but nobody knows what: small values of both signs break no symmetry and blow nothing up.
_OTHER = Spec.of("truncated_normal", {"std": 0.02})


def default_spec(weight: Weight, scheme: Spec, analysis: Analysis) -> tuple[Spec, str]:
    """The scheme of a weight that no rule names, and why.

    Args:
        weight: The weight.
        scheme: What `--scheme` says, for kernels; where it takes values from another model, for everything, and where
            it takes the tensor's own, for embeddings and recurrent kernels too.
        analysis: The whole, for the depth of the network.
    """
    role = weight.role
    if scheme.scheme.origin == "model":
        return scheme, f"the scheme, {scheme.name}"
    if scheme.scheme.origin == "own" and role in FAN_ROLES:
        return scheme, f"the scheme for kernels, {scheme}"
    if role in SIGNAL_ROLES and weight.default is not None:
        return _by_role(weight, analysis), STARTS_SO
    if role in SIGNAL_ROLES or (role == "recurrent_weight" and scheme.name in _ALSO_RECURRENT):
        return scheme, f"the scheme for kernels, {scheme}"
    return _by_role(weight, analysis), f"the default of the role {role}"


def _by_role(weight: Weight, analysis: Analysis) -> Spec:
    if weight.default is not None:
        return Spec.of("constant", {"value": weight.default})
    if weight.role == "layer_scale":
        return Spec.of("layer_scale", {"depth": analysis.depth})
    if weight.role == "bias" and any("Wb.f" in part.names for part in (weight.layout.parts if weight.layout else ())):
        return Spec.of("forget_bias")
    return ROLE_DEFAULTS.get(weight.role, _OTHER)


def resolve_auto(weight: Weight, analysis: Analysis) -> tuple[Spec, str]:
    """What auto means for a weight, and why.

    A kernel gets its scheme by its downstream activation. In a network without norms nothing corrects a variance that
    grows or shrinks, so there the gains are the analytic ones, which a pass over the graph settles; without a graph
    that of the upstream activation. Other roles get their own.
    """
    if weight.role not in SIGNAL_ROLES:
        return _by_role(weight, analysis), f"the default of the role {weight.role}"
    spec = auto_spec(weight.downstream)
    if analysis.normless and spec.name != "lecun":
        upstream = _names(weight, upstream=True)
        keeps = Spec.of("analytic") if analysis.graph is not None else Spec.of("he", gain="upstream")
        return keeps, f"{AUTO}keeps the variance after {upstream} in a network without norms"
    return spec, f"{AUTO}before {_names(weight, upstream=False)}"


def _names(weight: Weight, *, upstream: bool) -> str:
    return ", ".join(a.name for a in (weight.upstream if upstream else weight.downstream)) or "linear"


def possible(spec: Spec, weight: Weight) -> bool:
    """Whether the blocks have the shape that the scheme needs: delta_orthogonal has no more inputs than outputs."""
    shapes = [part.block_shape for part in weight.layout.parts] if weight.layout is not None else []
    return spec.name != "delta_orthogonal" or all(len(shape) == 2 or shape[0] >= shape[1] for shape in shapes)

from __future__ import annotations

import math
from typing import Any

import pytest
from handmade import GELU, RELU, SELU, TANH, analysis, conv, gemm, lstm, part, weight
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.analysis.weight import LINEAR, ROLES, Activation, Analysis, Kept
from onnxinit.errors import SchemeError
from onnxinit.plan import Entry, Plan, make_plan
from onnxinit.schemes import Block


def entries(model: Analysis, **options: Any) -> dict[str, Entry]:
    return {e.id: e for e in make_plan(model, **options).entries}


def schemes(model: Analysis, **options: Any) -> dict[str, str]:
    return {ident: str(e.scheme) for ident, e in entries(model, **options).items()}


def reasons(plan: Plan) -> dict[str, str]:
    return {left.id: left.reason for left in plan.kept}


MODEL = analysis(
    conv("conv", downstream=(RELU,)),
    weight("conv.bias", "bias", (8,)),
    gemm("fc", downstream=(TANH,)),
    *lstm("lstm"),
    kept=[Kept("shape", "shape", "", (2,), "int64", "int64: shapes", "")],
)


def test_every_tensor_is_in_the_plan_once() -> None:
    plan = make_plan(MODEL, exclude="fc")
    named = [e.id for e in plan.entries] + [left.id for left in plan.kept]
    assert sorted(named) == sorted([w.id for w in MODEL.weights] + ["shape"])
    assert reasons(plan) == {"fc": "--exclude fc", "shape": "int64: shapes"}


def test_the_scheme_is_for_kernels_and_the_rest_has_defaults() -> None:
    assert schemes(MODEL, scheme="he") == {
        "conv": "he",
        "conv.bias": "zeros",
        "fc": "he",
        "lstm.W": "he",
        "lstm.R": "orthogonal",
        "lstm.B": "forget_bias",
    }


@pytest.mark.parametrize("scheme", ["zeros", "ones", "constant:value=0.5", "identity", "irnn"])
def test_recurrent_weights_follow_some_schemes(scheme: str) -> None:
    found = schemes(MODEL, scheme=scheme)
    assert found["lstm.R"] == found["conv"]
    assert found["lstm.B"] == "forget_bias"


def test_keep_keeps_kernels_and_says_so() -> None:
    plan = make_plan(MODEL, scheme="keep", rules=["fc=ones"])
    assert [e.id for e in plan.entries] == ["conv.bias", "fc", "lstm.B"]
    assert reasons(plan)["conv"] == reasons(plan)["lstm.R"] == "kept by the scheme for kernels, keep"
    plan = make_plan(MODEL, rules=["role:bias=keep"])
    assert reasons(plan)["conv.bias"] == "kept by the rule 'role:bias=keep'"


ROLE_STD = {
    "bias": ("zeros", 0.0),
    "peephole": ("zeros", 0.0),
    "norm_scale": ("ones", 0.0),
    "norm_shift": ("zeros", 0.0),
    "running_mean": ("zeros", 0.0),
    "running_var": ("ones", 0.0),
    "prelu_slope": ("constant:value=0.25", 0.0),
    "positional": ("positional", 0.02 * 0.87962566103423978),
    "token": ("positional", 0.02 * 0.87962566103423978),
    "other": ("truncated_normal", 0.02 * 0.87962566103423978),
}


@pytest.mark.parametrize("role", ROLE_STD)
def test_role_defaults(role: str) -> None:
    entry = entries(analysis(weight("w", role, (8,))), scheme="he")["w"]
    assert str(entry.scheme) == ROLE_STD[role][0]
    assert entry.std == pytest.approx(ROLE_STD[role][1])
    assert entry.gain == 1
    assert entry.why == f"the default of the role {role}"


def test_a_norm_scale_used_as_one_plus_w_is_zero() -> None:
    assert schemes(analysis(weight("w", "norm_scale", (8,), default=0.0))) == {"w": "constant"}


def test_an_embedding_has_variance_one_over_its_width() -> None:
    table = weight("e", "embedding", (50, 16), "Gather", [part([[50], [16]], [["out"], ["in"]], 16, 50)])
    assert entries(analysis(table))["e"].std == pytest.approx(0.25)


@pytest.mark.parametrize(("depth", "std"), [(2, 0.1), (18, 0.1), (24, 1e-5), (36, 1e-6)])
def test_layer_scale_goes_by_depth(depth: int, std: float) -> None:
    entry = entries(analysis(weight("w", "layer_scale", (8,)), depth=depth))["w"]
    law = entry.scheme.distribution(Block((8,)))
    assert law.mean == std


@pytest.mark.parametrize(
    ("downstream", "scheme", "gain"),
    [
        (RELU, "he", math.sqrt(2)),
        (GELU, "he", 1.533530),
        (TANH, "xavier", 1.0),
        (LINEAR, "xavier", 1.0),
        (Activation("softmax"), "xavier", 1.0),
        (SELU, "lecun", 1.0),
    ],
)
def test_auto_goes_by_the_downstream_activation(downstream: Activation, scheme: str, gain: float) -> None:
    entry = entries(analysis(conv("w", downstream=(downstream,))))["w"]
    assert str(entry.scheme) == scheme
    assert entry.gain == pytest.approx(gain, rel=1e-6)
    assert entry.why == f"auto: before {downstream.name}"


def test_auto_keeps_the_variance_in_a_network_without_norms() -> None:
    weights = [conv("a", downstream=(TANH,)), conv("b", upstream=(TANH,)), conv("c", downstream=(SELU,))]
    found = entries(analysis(*weights, normless=True))
    assert [str(found[i].scheme) for i in "abc"] == ["he", "he", "lecun"]
    assert [found[i].gain for i in "abc"] == pytest.approx([1, 1.592537, 1], rel=1e-5)
    assert found["b"].why == "auto: keeps the variance after tanh in a network without norms"


def test_auto_for_other_roles_is_their_default() -> None:
    found = schemes(MODEL, rules=["*=auto"])
    assert found["lstm.R"] == "orthogonal"
    assert found["conv.bias"] == "zeros"
    assert found["lstm.B"] == "forget_bias"


@pytest.mark.parametrize(
    ("spec", "gain"),
    [
        ("he", math.sqrt(2)),
        ("he:gain=paper", math.sqrt(2)),
        ("he:gain=exact", 1.533530),
        ("he:gain=upstream", 1.592537),
        ("he:gain=3", 3),
        ("lecun", 1),
        ("xavier:gain=exact", 1.533530),
        ("orthogonal:gain=0.5", 0.5),
    ],
)
def test_gains(spec: str, gain: float) -> None:
    model = analysis(gemm("w", downstream=(GELU,), upstream=(TANH,)))
    entry = entries(model, scheme=spec)["w"]
    assert entry.gain == pytest.approx(gain, rel=1e-5)
    assert entry.scheme.gain == "paper"


@given(st.integers(1, 64), st.integers(1, 64), st.floats(0, 4))
def test_std_asked(inn: int, out: int, gain: float) -> None:
    model = analysis(gemm("w", inn, out))
    for scheme, variance in [("he", 1 / inn), ("xavier", 2 / (inn + out)), ("lecun:distribution=uniform", 1 / inn)]:
        separator = "," if ":" in scheme else ":"
        entry = entries(model, scheme=f"{scheme}{separator}gain={gain!r}")["w"]
        assert entry.std == pytest.approx(gain * math.sqrt(variance))


def test_std_asked_over_parts_of_unlike_fans() -> None:
    parts = [
        part([[2], [6]], [["out"], ["in"]], 6, 2),
        part([[4], [6]], [["out"], ["in"]], 24, 4, start=(2, 0)),
    ]
    model = analysis(weight("w", "weight", (6, 6), "MatMul", parts))
    assert entries(model, scheme="lecun")["w"].std == pytest.approx(math.sqrt((1 / 6 + 2 / 24) / 3))
    for scheme, std in [
        ("constant:value=0.1", 0),
        ("constant:value=1e200", 0),
        ("normal:std=1e200", 1e200),
        ("uniform:low=-1e308,high=1e308", None),
    ]:
        assert entries(model, scheme=scheme)["w"].std == pytest.approx(std)


def test_what_needs_blas_is_marked() -> None:
    found = entries(MODEL, rules=["conv=he", "fc=orthogonal", "lstm.W=sparse"])
    assert [found[i].exact for i in ("conv", "fc", "lstm.W", "lstm.R", "lstm.B")] == [
        "bytes", "1e-6", "bytes", "1e-6", "bytes",
    ]  # fmt: skip


def test_the_last_matching_rule_wins() -> None:
    rules = ["*=ones", "role:weight=he:mode=fan_out", "fc=zeros", "conv*=keep", "conv.bias=normal"]
    plan = make_plan(MODEL, rules=rules)
    found = {e.id: (str(e.scheme), e.why) for e in plan.entries}
    assert found["fc"] == ("zeros", "the rule 'fc=zeros'")
    assert found["conv.bias"] == ("normal", "the rule 'conv.bias=normal'")
    assert found["lstm.R"] == ("ones", "the rule '*=ones'")
    assert reasons(plan)["conv"] == "kept by the rule 'conv*=keep'"


def test_include_and_exclude() -> None:
    plan = make_plan(MODEL, include=["conv*", "op:LSTM"], exclude=["role:bias", "lstm.R"])
    assert [e.id for e in plan.entries] == ["conv", "lstm.W"]
    assert reasons(plan) == {
        "conv.bias": "--exclude role:bias",
        "fc": "not selected by --include conv* op:LSTM",
        "lstm.R": "--exclude lstm.R",
        "lstm.B": "--exclude role:bias",
        "shape": "int64: shapes",
    }


@given(st.sets(st.sampled_from([w.id for w in MODEL.weights]), min_size=1))
def test_a_selection_changes_no_other_entry(selected: set[str]) -> None:
    whole = entries(MODEL)
    some = entries(MODEL, include=sorted(selected))
    assert some == {ident: whole[ident] for ident in whole if ident in selected}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rules": ["cnov=zeros"]}, "the rule 'cnov=zeros'"),
        ({"include": "role:embedding"}, "--include 'role:embedding'"),
        ({"exclude": ["conv", "shape"]}, "--exclude 'shape'"),
    ],
)
def test_a_pattern_that_matches_nothing(options: dict[str, Any], what: str) -> None:
    with pytest.raises(SchemeError) as raised:
        make_plan(MODEL, **options)
    assert str(raised.value) == (
        f"{what} matches no weight of the model: `onnxinit inspect` lists their ids, roles and operators; "
        "--allow-unmatched makes this a warning"
    )
    assert make_plan(MODEL, **options, allow_unmatched=True).warnings == (f"{what} matches no weight",)


def test_a_scheme_without_its_fan_names_the_weight() -> None:
    with pytest.raises(SchemeError) as raised:
        make_plan(MODEL, rules=["conv.bias=xavier"])
    assert str(raised.value).startswith(
        "the weight 'conv.bias' (Conv, float[8]) cannot be drawn by xavier, the rule 'conv.bias=xavier': fan_avg is not"
    )


def test_a_structured_scheme_needs_a_matrix() -> None:
    with pytest.raises(
        SchemeError, match=r"^the weight 'conv.bias' .* cannot be drawn by orthogonal, the rule .* no matrix"
    ):
        make_plan(MODEL, rules=["conv.bias=orthogonal"])


def test_a_bias_has_the_fan_in_of_its_layer() -> None:
    model = analysis(weight("b", "bias", (8,), fan_in=36.0))
    assert entries(model, rules=["b=bias_uniform"])["b"].std == pytest.approx(1 / 6 / math.sqrt(3))


def test_a_seed_below_zero() -> None:
    with pytest.raises(SchemeError, match=r"^the seed -1 is below 0: give a whole number from 0 on, or 'random'$"):
        make_plan(MODEL, seed=-1)


@pytest.mark.parametrize("scheme", ["zeros", "constant:value=2", "normal:std=0", "he:gain=0", "orthogonal:gain=0"])
def test_a_scheme_that_breaks_symmetry_breaking_is_a_warning(scheme: str) -> None:
    [warning] = make_plan(MODEL, rules=["conv=" + scheme]).warnings
    assert warning.startswith(
        "1 weight has the same value everywhere, so that training cannot tell the units apart: conv;"
    )
    assert make_plan(MODEL, rules=["role:bias=zeros"]).warnings == ()


def test_delta_orthogonal_where_it_cannot_be() -> None:
    model = analysis(conv("up", 4, 2), conv("down", 2, 4), conv("down2", 2, 4), gemm("fc", 9, 3))
    plan = make_plan(model, scheme="delta_orthogonal:gain=2")
    assert [(str(e.scheme), e.gain) for e in plan.entries] == [
        ("delta_orthogonal", 2), ("orthogonal", 2), ("orthogonal", 2), ("delta_orthogonal", 2),
    ]  # fmt: skip
    [warning] = plan.warnings
    assert warning.startswith("2 weights have fewer outputs than inputs and cannot be delta_orthogonal")
    assert warning.endswith("so orthogonal draws them: down, down2")


def test_what_fits_no_role_is_a_warning() -> None:
    model = analysis(*(weight(f"t{i}", "other", (1,)) for i in range(5)))
    assert make_plan(model).warnings == (
        "5 weights have a purpose that the graph does not tell: t0, t1, t2 and 2 more; --exclude role:other keeps them",
    )


def test_weights_that_share_their_bytes_get_one_entry() -> None:
    model = analysis(
        gemm("a", 8, 4, tied_to=("b",)), weight("b", "weight", (4, 8), shares="a", tied_to=("a",)), gemm("c", 8, 4)
    )
    for rule in ("a=normal", "b=normal"):  # a pattern that fits one of them is for both
        a, b, c = make_plan(model, rules=[rule]).entries
        assert (b.id, b.shape, b.draws_as) == ("b", (4, 8), "a")
        assert (a.scheme, a.gain, a.std, a.why, a.draws_as) == (b.scheme, b.gain, b.std, b.why, "a")
        assert (str(a.scheme), str(c.scheme), c.draws_as) == ("normal", "xavier", "c")
    assert reasons(make_plan(model, exclude="b")) == {"a": "--exclude b", "b": "--exclude b"}


def test_every_role_has_a_default() -> None:
    for role in set(ROLES) - {"quant_scale", "quant_zero_point"}:
        whole = part([[4], [6]], [["out"], ["in"]], 6, 4)
        assert len(make_plan(analysis(weight("w", role, (4, 6), parts=[whole]))).entries) == 1

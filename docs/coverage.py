"""Make `docs/coverage.md` again, from the tables that the analysis uses: `python docs/coverage.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxinit.analysis.activations import NAMED, TABLE
from onnxinit.analysis.arithmetic import ARITHMETIC
from onnxinit.analysis.norms import FUSED
from onnxinit.analysis.operators import ATTRIBUTES, HOLDS, KEEPS, NO_WEIGHTS, Key, reason_of_attribute
from onnxinit.analysis.views import moving_operators

PAGE = Path(__file__).parent / "coverage.md"

INTRODUCTION = """\
# Coverage

Made by `python docs/coverage.py` from the tables that the analysis uses.

What a tensor is follows from how it is used. This page lists what the analysis understands: which inputs of which
operators hold weights, what their axes mean, and what it sees through. `onnxinit inspect MODEL` says it of one model,
tensor by tensor.

## Operators with weights

By input: the role, and the stored layout with its axes. An integer tensor at such an input is a quantised weight.
`g` is the number of groups, `k...` the kernel, `h` a hidden size, `D` a model's width, `V` a vocabulary."""

AROUND = """\
## Operators that say nothing of their operand

What stands around these decides: the layer before an Add makes its operand a bias, a softmax behind it a mask or a
position bias, a residual sum behind a Mul a layer scale, sines and cosines a rotary table."""

MOVING = """\
## Operators that move elements

A weight is followed through these to its use, each with any attributes; so it is through casts, quantise pairs,
subgraphs (If, Loop, Scan, SequenceMap) and local functions, and through arithmetic among stored tensors."""

ACTIVATIONS = """\
## Activations

A function is known by its values, whatever it is written with; one that none of these names fits is `other`, with its
exact moments all the same."""

NORMS = """\
## Normalisations

As one operator, and written out: a signal divided by the root of its second moment, centred or not, over any axes, with
its scale and shift before or after casts, or folded into a Mul and an Add (batch norm)."""

KEPT = """\
## Operands that are kept, and why"""

LISTS = """\
## Attributes that are kept, and why"""

WITHOUT = """\
## Operators without weights"""

OWN = """\
## Operators of your own

An operator that no table names keeps its tensors and says so. A file (`--ops FILE.toml`) describes one, a few lines for
each operand:

```toml
[[operator]]
domain = "com.example"
op = "GroupedLinear"
input = 1
role = "weight"
axes = ["g*out", "in"]   # one word for every axis of the operand: out, in, kernel or block
groups = "group"         # the attribute that g stands for
```

A number before a word, as in `"3*out"`, says that so many matrices stand side by side along the axis. A role without
matrices (`bias`, `norm_scale` ...) needs no axes. A package enters operators through the entry point
`onnxinit.operators`, a module that calls `onnxinit.analysis.operators.row` or `vectors`."""


def page() -> str:
    """The page of today."""
    sections = [
        [INTRODUCTION, *_by_domain(HOLDS, _operands)],
        [AROUND, "", _codes(ARITHMETIC)],
        [MOVING, "", _codes(moving_operators())],
        [ACTIVATIONS, "", *_activations()],
        [NORMS, *_names_by_domain(FUSED)],
        [KEPT, *_by_domain(KEEPS, _operands)],
        [LISTS, *_by_domain(ATTRIBUTES, _attributes)],
        [WITHOUT, *_kinds()],
        [OWN],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _domain(domain: str) -> str:
    return domain or "ai.onnx"


def _by_domain(table: Iterable[Key], describe: object) -> Iterator[str]:
    assert callable(describe)
    for domain in sorted({d for d, _ in table}, key=_domain):
        yield f"\n### {_domain(domain)}\n"
        yield "| operator | input |\n|---|---|"
        for key in sorted(k for k in table if k[0] == domain):
            yield f"| {key[1]} | {'<br>'.join(describe(key, table))} |"


def _operands(key: Key, table: dict[Key, dict[int, str]]) -> Iterator[str]:
    return (f"{i}: {text}" for i, text in sorted(table[key].items()))


def _attributes(key: Key, table: dict[Key, dict[str, str]]) -> Iterator[str]:
    return (f"`{name}`: {reason_of_attribute(*key, name)}" for name in table[key])


def _activations() -> Iterator[str]:
    yield "| name | ONNX operator |\n|---|---|"
    operators = {r.name: r.operator for r in TABLE} | {a.name: op for (domain, op), a in NAMED.items() if not domain}
    yield from (f"| `{name}` | {op} |" for name, op in operators.items())
    yield "| `glu` | the sigmoid of one half times the other |"
    yield "| `linear` | none |"


def _names_by_domain(table: Iterable[Key]) -> Iterator[str]:
    yield ""
    for domain in sorted({d for d, _ in table}, key=_domain):
        yield f"- {_domain(domain)}: {_codes(op for d, op in table if d == domain)}"


def _kinds() -> Iterator[str]:
    for domain in sorted({d for d, _ in NO_WEIGHTS}, key=_domain):
        yield f"\n### {_domain(domain)}\n"
        yield "| kind | operators |\n|---|---|"
        kinds = dict.fromkeys(kind for (d, _), kind in NO_WEIGHTS.items() if d == domain)
        yield from (
            f"| {k} | {_plain(op for (d, op), v in NO_WEIGHTS.items() if (d, v) == (domain, k))} |" for k in kinds
        )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in sorted(names))


def _plain(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

r"""PATTERN: which weights are meant.

    encoder/*            a case-sensitive glob on the weight's id: * (also across "/"), ?, [abc], [a-z], [!abc]
    role:bias            the same glob on the role
    op:Conv*             on the operator of the deciding use
    activation:relu      on any of the downstream activations

A backslash takes the next character as it is: `w\[0\]` is the id w[0].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from onnxinit.analysis.weight import Weight
from onnxinit.errors import SchemeError

_FIELDS: dict[str, Callable[[Weight], Iterable[str]]] = {
    "id": lambda w: (w.id,),
    "role": lambda w: (w.role,),
    "op": lambda w: (w.uses[0].op,) if w.uses else (),
    "activation": lambda w: (a.name for a in w.downstream),
}

_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<any>\*)|(?P<one>\?)|\[(?P<not>!?)(?P<set>(?:\\.|[^\]\\])+)\]|(?P<plain>.)", re.DOTALL
)


def _translate(glob: str) -> str:
    """The regular expression of a glob; a bracket that never closes stands for itself."""

    def token(m: re.Match[str]) -> str:
        if m["any"]:
            return ".*"
        if m["one"]:
            return "."
        if m["set"]:
            inner = re.sub(r"\\(.)|([\[^&~|])", lambda c: re.escape(c[1]) if c[1] else "\\" + c[2], m["set"])
            return f"[{'^' if m['not'] else ''}{inner}]"
        return re.escape(m["escaped"] or m["plain"] or m[0])

    return _TOKEN.sub(token, glob)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled PATTERN.

    Attributes:
        text: As the user wrote it.
        of: What the glob is matched with: id, role, op or activation.
        regex: The glob, compiled.
    """

    text: str
    of: str
    regex: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Compile a PATTERN.

        Raises:
            SchemeError: The pattern is empty, or a bracket holds a range that runs backwards.
        """
        prefix, colon, rest = text.partition(":")
        of, glob = (prefix, rest) if colon and prefix in _FIELDS and prefix != "id" else ("id", text)
        if not glob:
            raise SchemeError(f"the pattern '{text}' is empty: '{text}*' matches everything")
        try:
            return cls(text, of, re.compile(_translate(glob), re.DOTALL))
        except re.error as e:
            raise SchemeError(
                f"the pattern '{text}' is not a glob ({e}): escape a literal '[' with a backslash"
            ) from None

    def matches(self, weight: Weight) -> bool:
        """Whether the weight is meant."""
        return any(self.regex.fullmatch(value) for value in _FIELDS[self.of](weight))

"""Rules: PATTERN=SPEC."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxinit.errors import SchemeError
from onnxinit.plan.patterns import Pattern
from onnxinit.schemes import Spec, find, parse_spec

# An "=" that no backslash escapes, followed by what can be a scheme's name, alone or with parameters.
_SEPARATOR = re.compile(r"(?<!\\)(?:\\\\)*=(?=(?P<name>[A-Za-z]\w*)(?::|$))")
_QUOTED = re.compile(r'[:,]\s*\w+\s*=\s*"(?:[^"]|"")*"')
_KEY = re.compile(r"[:,](\w+)=$")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        text: As the user wrote it.
        pattern: Which weights it is for.
        spec: What they get.
    """

    text: str
    pattern: Pattern
    spec: Spec

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a rule from the right: the SPEC starts after the last "=" that is followed by the name of a scheme.

        An "=" that gives a value to a parameter of a SPEC further left is none of these: in
        `role:weight=he:distribution=uniform` the word uniform, a scheme's name too, is such a value. A backslash keeps
        an "=" in the pattern, and so do the quotes around the value of a parameter.

        Raises:
            SchemeError: There is no such "=", the pattern is not a glob, or the SPEC has a wrong parameter.
        """
        quoted = [m.span() for m in _QUOTED.finditer(text)]
        found = [
            (m.end(), m["name"])
            for m in _SEPARATOR.finditer(text)
            if not any(start < m.start() < end for start, end in quoted)
        ]
        if not found:
            raise SchemeError(f"the rule '{text}' is not of the form PATTERN=SPEC, such as 'role:bias=zeros'")
        try:
            known = [(at, name) for at, name in found if _is_scheme(name)]
            outer = [at for at, _ in known if not _gives_value(text, at, known)]
            at = outer[-1] if outer else found[-1][0]
            return cls(text, Pattern.parse(text[: at - 1]), parse_spec(text[at:]))
        except SchemeError as e:
            raise SchemeError(f"in the rule '{text}': {e}") from None


def _is_scheme(name: str) -> bool:
    try:
        find(name)
    except SchemeError:
        return False
    return True


def _gives_value(text: str, at: int, known: list[tuple[int, str]]) -> bool:
    """Whether the "=" before `at` stands behind a parameter of a scheme that is named further left."""
    key = _KEY.search(text[:at])
    return key is not None and any(
        key[1] in {p.name for p in find(name).parameters} for start, name in known if start < at
    )

"""What other packages add: modules that their entry points name, imported when they are first needed."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from onnxinit.errors import SchemeError

OPERATORS = "onnxinit.operators"
SCHEMES = "onnxinit.schemes"


@cache
def load_plugins(group: str) -> None:
    """Import what other packages enter under a group, once.

    An entry point names a module, or a function in it, that enters rows into the tables of operators or schemes with
    their decorators.

    Args:
        group: `OPERATORS` or `SCHEMES`.

    Raises:
        SchemeError: One of them cannot be imported.
    """
    for point in entry_points(group=group):
        try:
            point.load()
        except Exception as e:  # whatever a stranger's module raises
            what = group.rpartition(".")[2]
            raise SchemeError(f"the {what} of '{point.value}' cannot be loaded ({type(e).__name__}: {e})") from e

"""The graph behind an analysis: what the walker walked, and where it met the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxinit.analysis.constants import Constants
from onnxinit.analysis.operators import Site
from onnxinit.analysis.recipes import Recipe
from onnxinit.analysis.view import GraphView


@dataclass(frozen=True, eq=False, slots=True)
class Graph:
    """What the analysis found on its way.

    Attributes:
        view: The whole model, laid open, shapes filled in.
        sites: By the id of each weight its uses in topological order: node, input, and how it stands there.
        ids: By the path of each stored tensor its id.
        constants: Small static values.
        read: The values of a stored tensor by its path, None where its data is missing.
        recipes: By the path of each tensor that follows from weights how it does.
    """

    view: GraphView
    sites: Mapping[str, tuple[Site, ...]]
    ids: Mapping[str, str]
    constants: Constants
    read: Callable[[str], npt.NDArray[np.generic] | None]
    recipes: Mapping[str, Recipe] = field(default_factory=dict)

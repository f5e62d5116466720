"""Weights that the graph makes at run time, stored so that they can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Collection

from onnxinit.analysis.weight import Analysis, Weight
from onnxinit.model import ModelFile, materialised


def with_stored(
    file: ModelFile, read: Callable[[ModelFile], Analysis], spare: Collection[Weight] = ()
) -> tuple[ModelFile, Analysis]:
    """The file with the weights that its graph makes as stored tensors without values, and what is in that.

    Args:
        file: The model.
        read: Analyses a model.
        spare: Weights of an earlier answer that the graph shall still make.
    """
    analysis, spared = read(file), {(w.scope, w.name) for w in spare}
    made = [m.stored for m in analysis.generated if (m.kept.scope, m.kept.name) not in spared]
    if not made:
        return file, analysis
    file = materialised(file, made)
    return file, read(file)

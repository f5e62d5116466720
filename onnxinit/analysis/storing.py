"""Weights that the graph makes at run time, stored so that they can be drawn."""

from __future__ import annotations

from collections.abc import Collection

from onnxinit.analysis.analyse import analyse
from onnxinit.analysis.weight import Analysis, Weight
from onnxinit.model import ModelFile, materialised


def with_stored(file: ModelFile, analysis: Analysis, spare: Collection[Weight] = ()) -> tuple[ModelFile, Analysis]:
    """The file with the weights that its graph makes as stored tensors without values, and the analysis of that.

    Args:
        file: The model.
        analysis: What is in it.
        spare: Weights of an earlier answer that the graph shall still make.
    """
    spared = {(w.scope, w.name) for w in spare}
    made = [m.stored for m in analysis.generated if (m.kept.scope, m.kept.name) not in spared]
    if not made:
        return file, analysis
    file = materialised(file, made)
    return file, analyse(file)

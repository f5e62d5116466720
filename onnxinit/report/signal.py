"""What passes over calibration data found, for a person."""

from __future__ import annotations

from collections.abc import Iterator

from onnxinit.plan import Left
from onnxinit.report.rows import printable
from onnxinit.report.text import KeptList, Paragraph, count
from onnxinit.signal import Finding, Signal

_WORDS = {
    "not converged": "did not converge",
    "dead": "dead",
    "missed": "not reached, so its base stands",
    "later use": "used again",
}


def findings(signal: Signal) -> Iterator[Paragraph | KeptList]:
    """One line on what was measured, then what a reader should look at, one line for each reason.

    Args:
        signal: What was found.
    """
    done = [f for f in signal.layers if f.status == "set"]
    if signal.layers or signal.norms or signal.ranges or signal.notes:
        yield Paragraph((_summary(signal, done), "bold"))
        yield KeptList([Left(_where(f), _reason(f)) for f in signal.layers if f.status != "set" or f.note])
        for note in signal.notes:
            yield Paragraph(printable(note), indent=8)
        yield Paragraph()


def _summary(signal: Signal, done: list[Finding]) -> str:
    samples = count(signal.samples, "sample")
    data = (
        f"{samples} of {printable(signal.source)}" if signal.source != "synthetic" else f"{samples} of synthetic data"
    )
    parts = [f"measured on {data}: "]
    stds = [f.before for f in done if f.before is not None]
    if stds:
        parts.append(f"{count(len(done), 'layer')} scaled, whose std had been {min(stds):.3g} to {max(stds):.3g}")
    if signal.norms:
        parts.append(f"{', ' if stds else ''}{count(len(signal.norms), 'running statistic')} set")
    if signal.ranges:
        parts.append(f"{', ' if stds or signal.norms else ''}{count(len(signal.ranges), 'scale')} of activations set")
    if not stds and not signal.norms and not signal.ranges:
        parts.append("nothing could be scaled")
    return "".join(parts)


def _where(finding: Finding) -> str:
    return f"{finding.id}: std {finding.after:.3g}" if finding.status == "later use" and finding.after else finding.id


def _reason(finding: Finding) -> str:
    if finding.status == "set":
        return finding.note
    words = _WORDS[finding.status]
    return f"{words}: {finding.note}" if finding.note else words

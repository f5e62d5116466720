"""Text and JSON for the reader."""

from onnxinit.report.inspection import Inspection
from onnxinit.report.rows import Row, printable, rows
from onnxinit.report.written import Written, measure

__all__ = ["Inspection", "Row", "Written", "measure", "printable", "rows"]

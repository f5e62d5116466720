"""The page of what is understood is that of today's tables."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_of_coverage_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("docs_coverage", ROOT / "docs" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert page == script.page(), "run `python docs/coverage.py`"

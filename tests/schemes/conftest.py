"""Fixtures for the tests of schemes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from onnxinit.schemes import table


@pytest.fixture
def own_table() -> Iterator[None]:
    """What the test registers is gone after it."""
    rows, names = dict(table._TABLE), dict(table._NAMES)
    yield
    for held, before in ((table._TABLE, rows), (table._NAMES, names)):
        held.clear()
        held.update(before)

"""What the tests of rows share: nothing stays open, and pages that are few rows."""

from collections.abc import Iterator

import pytest

from media import query
from tests.media.tables import Connections, counted_connections


@pytest.fixture
def connections() -> Iterator[Connections]:
    """The test closes what it opens."""
    with counted_connections() as counted:
        yield counted


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most ten rows."""
    monkeypatch.setattr(query, "PAGE_ROWS", 10)

"""What several tests of a room share: of rows, that nothing stays open and pages are few rows; channels."""

from collections.abc import Iterator

import pytest

from media import query
from media.subscriptions import Channels
from tests.media.channels import ROWS
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


@pytest.fixture
def channels() -> Channels:
    """Three channels, nothing published."""
    return Channels(ROWS)

"""A server without sockets for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.http_site import Site, a_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """Give a server; at the end nothing may be held and no callback may have failed."""
    async with a_site() as site:
        yield site

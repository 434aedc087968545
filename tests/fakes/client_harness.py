"""What the tests of the client share: a client that is open, what it posts, and what that may come to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from forwarder.growlytics.client import GrowlyticsClient
from forwarder.growlytics.outcome import Outcome, Retryable
from forwarder.settings import GrowlyticsSettings, Secret
from tests.fakes.raw_server import answer

KEY = "a-key-of-a-project"
BODY = b'{"customerId":"c-1","name":"Bought","time":1700000000000,"attributes":{}}'
OK = answer("200 OK", b'{"success":true}', "Content-Type: application/json")
NOW = 1_700_000_000.0
"""What the client's clock says."""
PATIENCE_SECONDS = 30.0
"""The client's timeout where none should happen, however busy the machine is."""
RISING_SECONDS = (0.3, 1.5, 6.0, 20.0)
"""The client's timeouts where one should happen: a busy machine may not get as far in the short ones."""
LOST = Retryable("network", maybe_delivered=True)
NEVER_SENT = Retryable("network", maybe_delivered=False)
NO_ANSWER = Retryable("timeout", maybe_delivered=True)
NO_CONNECTION = Retryable("timeout", maybe_delivered=False)


async def comes_to(expected: Outcome, attempt: Callable[[float], Awaitable[Outcome]]) -> None:
    """Make attempts, each given its timeout, as long as they time out elsewhere than they should; the last one must not."""
    for seconds in RISING_SECONDS[:-1]:
        outcome = await attempt(seconds)
        if outcome == expected:
            return
        assert outcome in (NO_CONNECTION, NO_ANSWER)
    assert await attempt(RISING_SECONDS[-1]) == expected


@asynccontextmanager
async def opened(
    url: str,
    *,
    timeout: float = PATIENCE_SECONDS,
    ca_file: Path | None = None,
    proxy: str | None = None,
    max_age: float = 300.0,
    clock: Callable[[], float] = lambda: NOW,
) -> AsyncIterator[GrowlyticsClient]:
    settings = GrowlyticsSettings(
        url=url,
        api_key=Secret(KEY),
        timeout_seconds=timeout,
        connection_max_age_seconds=max_age,
        ca_file=None if ca_file is None else str(ca_file),
        proxy=None if proxy is None else Secret(proxy),
    )
    client = GrowlyticsClient(settings, clock=clock)
    await client.open()
    try:
        yield client
    finally:
        await client.close()

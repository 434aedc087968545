"""The way of one event through our code does not grow unseen, and neither does what the daemon does when there is none."""

import asyncio
from pathlib import Path

from tests.bench.calls import count_way
from tests.system.processes import KEY, example_event, running_daemon, running_sandbox, until

MOST_CALLS, MOST_CHANGES = 140, 120
"""For one plain post, alone, from the socket to the committed ack. Lower it when the way has become shorter."""
MOST_IDLE_CALLS, MOST_IDLE_SWITCHES = 60, 3
"""A second."""
IDLE_SECONDS = 10


async def test_a_plain_post_alone_takes_no_more_of_our_functions_than_it_did(tmp_path: Path) -> None:
    way = await count_way(tmp_path)
    assert 10 < way.calls <= MOST_CALLS, way
    assert 5 < way.changes <= MOST_CHANGES, way
    assert way.idle_calls_per_second <= MOST_IDLE_CALLS, way


async def test_an_idle_daemon_is_seldom_woken(tmp_path: Path) -> None:
    """Counted are the times that its threads waited for something. It has delivered, and clients keep a connection to it."""
    key = tmp_path / "key"
    key.write_text(KEY)
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, growlytics__api_key_file=key) as daemon,
    ):
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200
        await until(daemon.drained, "the event is delivered")

        async def is_idle() -> bool:
            before = daemon.switches()
            await asyncio.sleep(IDLE_SECONDS)
            return daemon.switches() - before <= MOST_IDLE_SWITCHES * IDLE_SECONDS

        # What follows an event is soon over, such as a note of it in the history.
        await until(is_idle, f"it is woken at most {MOST_IDLE_SWITCHES} times a second", seconds=60)

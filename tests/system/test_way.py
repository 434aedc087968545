"""The way of one event through our code does not grow unseen."""

from pathlib import Path

from tests.bench.calls import count_way

MOST_CALLS, MOST_CHANGES = 420, 260
"""For one plain post, alone, from the socket to the committed ack. Lower it when the way has become shorter."""


async def test_a_plain_post_alone_takes_no_more_of_our_functions_than_it_did(tmp_path: Path) -> None:
    way = await count_way(tmp_path)
    assert 10 < way.calls <= MOST_CALLS, way
    assert 5 < way.changes <= MOST_CHANGES, way

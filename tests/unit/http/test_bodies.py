"""The large bodies of all connections together: how much they may take, and who goes if they would take more."""

import tracemalloc

import pytest

from forwarder.http.reading import LARGE_BODY_BYTES
from tests.fakes.http_site import Site, a_site, chunked, get, post
from tests.fakes.http_transport import FakeTransport, turn

LARGE = 100_000


def begin(site: Site, path: str = "/a", size: int = LARGE) -> FakeTransport:
    """Return a connection with a body of which half has come."""
    client = site.connect()
    client.send(post(path, b"x" * size * 2)[:-size])
    return client


async def test_the_one_that_began_first_goes_if_too_much_comes() -> None:
    async with a_site(max_held_bytes=3 * LARGE) as site:
        first, second, third = (begin(site) for _ in range(3))
        assert site.bodies.held_bytes == 3 * LARGE
        fourth = begin(site)
        assert [client.bodies for client in (first, second, third, fourth)] == [["busy"], [], [], []]
        assert site.application.refusals == [("busy", "/a")]
        assert site.bodies.held_bytes == 3 * LARGE


async def test_it_is_who_began_first_and_not_who_sent_last() -> None:
    async with a_site(max_held_bytes=3 * LARGE) as site:
        first, second = begin(site), begin(site)
        first.send(b"x" * 10)
        second.send(b"x" * LARGE)
        begin(site)
        assert first.bodies == ["busy"]
        assert second.bodies == ["/a 200000"]


async def test_complete_ones_stay_and_who_would_have_no_room_goes_itself() -> None:
    async with a_site(max_held_bytes=5 * LARGE) as site:
        complete = [begin(site, "/future") for _ in range(2)]
        for client in complete:
            client.send(b"x" * LARGE)
        assert site.bodies.held_bytes == 4 * LARGE
        last = begin(site)
        last.send(b"x" * LARGE)
        assert last.bodies == ["busy"]
        assert site.bodies.held_bytes == 4 * LARGE
        site.application.end_all()
        await turn()
        assert [client.statuses for client in complete] == [[200], [200]]
        assert site.bodies.held_bytes == 0


async def test_one_that_comes_at_once_pushes_out_those_on_their_way() -> None:
    async with a_site(max_held_bytes=3 * LARGE) as site:
        slow = [begin(site) for _ in range(3)]
        client = site.connect()
        client.send(post("/future", b"x" * 2 * LARGE))
        assert [other.bodies for other in slow] == [["busy"], ["busy"], []]
        assert site.bodies.held_bytes == 3 * LARGE
        client.send(get("/b"))
        site.application.end_all()
        await turn()
        assert client.statuses == [200, 200]


async def test_one_that_is_alone_too_large_goes_itself() -> None:
    async with a_site(max_held_bytes=LARGE) as site:
        for stream in (post("/a", b"x" * (LARGE + 1)), chunked("/a", b"x" * (LARGE + 1))):
            for size in (len(stream), 70_000):
                client = site.connect()
                client.send_in_pieces(stream, size)
                assert client.bodies == ["busy"]


async def test_who_is_refused_costs_no_more_memory_at_once() -> None:
    async with a_site(max_held_bytes=0) as site:
        tracemalloc.start()
        try:
            for _ in range(50):
                assert begin(site).bodies == ["busy"]
            assert tracemalloc.get_traced_memory()[0] < 10 * LARGE
        finally:
            tracemalloc.stop()


async def test_small_ones_are_not_counted() -> None:
    async with a_site(max_held_bytes=0) as site:
        clients = [begin(site, size=LARGE_BODY_BYTES // 2) for _ in range(100)]
        assert site.bodies.held_bytes == 0
        for client in clients:
            client.send(b"x" * (LARGE_BODY_BYTES // 2))
            assert client.bodies == [f"/a {LARGE_BODY_BYTES}"]


async def test_unwanted_ones_are_not_counted(site: Site) -> None:
    begin(site, "/missing")
    assert site.bodies.held_bytes == 0


@pytest.mark.parametrize("path", ["/sync", "/future", "/coroutine", "/raises", "/closes"])
async def test_a_body_counts_until_it_is_answered(site: Site, path: str) -> None:
    client = begin(site, path)
    assert site.bodies.held_bytes == LARGE
    client.send(b"x" * LARGE)
    await turn()
    assert site.bodies.held_bytes == (2 * LARGE if site.application.waiting else 0)
    site.application.end_all()
    await turn()
    assert site.bodies.held_bytes == 0
    assert len(client.statuses) == 1


async def test_a_body_whose_client_hung_up_counts_until_its_answer_is_there(site: Site) -> None:
    """The application still has it."""
    client = begin(site, "/future")
    client.send(b"x" * LARGE)
    client.reset()
    await turn()
    assert site.bodies.held_bytes == 2 * LARGE
    site.application.end_all()
    await turn()
    assert site.bodies.held_bytes == 0


async def test_bodies_that_wait_behind_others_count(site: Site) -> None:
    client = site.connect()
    client.send(get("/coroutine") + post("/a", b"x" * LARGE))
    await turn()
    assert site.bodies.held_bytes == LARGE
    site.application.end_all()
    await turn()
    assert site.bodies.held_bytes == 0
    assert client.statuses == [200, 200]


async def test_the_one_that_goes_may_have_answers_before_it() -> None:
    async with a_site(max_held_bytes=LARGE) as site:
        client = site.connect()
        client.send(get("/future") + post("/a", b"x" * 2 * LARGE)[:-LARGE])
        begin(site)
        assert client.statuses == []
        assert site.bodies.held_bytes == LARGE
        site.application.end_all()
        await turn()
        assert client.bodies == ["/future 0", "busy"]


async def test_three_hundred_half_sent_bodies_leave_nothing(site: Site) -> None:
    for _ in range(300):
        client = begin(site)
        client.reset()
        await turn()
    assert site.bodies.held_bytes == 0
    assert site.application.refusals == [("malformed_body", "/a")] * 300

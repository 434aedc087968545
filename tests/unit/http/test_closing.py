"""Which connections are closed for others, and how all are closed at the end."""

import pytest

from forwarder.http.messages import State
from tests.fakes.http_site import LIMITS, Site, a_site, connection_of, get, post
from tests.fakes.http_transport import FakeTransport, turn


def used(site: Site) -> FakeTransport:
    client = site.connect()
    client.send(get("/a"))
    assert client.statuses == [200]
    return client


async def test_the_oldest_new_connection_goes_first() -> None:
    async with a_site(max_connections=5) as site:
        old = used(site)
        new = [site.connect() for _ in range(5)]
        await turn()
        assert [client.is_lost for client in new] == [True, False, False, False, False]
        assert not old.is_lost
        assert site.application.closed == ["too_many"]


async def test_new_connections_never_push_out_used_ones() -> None:
    async with a_site(max_connections=5) as site:
        clients = [used(site) for _ in range(5)]
        silent = [site.connect() for _ in range(100)]
        for client in silent[::2]:
            client.send(b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12345678")
        await turn()
        assert not any(client.is_lost for client in clients)
        assert [client.is_lost for client in silent] == [True] * 99 + [False]
        assert len(site.connections) == 6


async def test_one_that_becomes_used_takes_the_place_of_the_one_used_longest_ago() -> None:
    async with a_site(max_connections=3) as site:
        first, second, third = (used(site) for _ in range(3))
        first.send(get("/a"))
        fourth = used(site)
        await turn()
        assert [client.is_lost for client in (first, second, third, fourth)] == [False, True, False, False]


async def test_many_new_ones_that_each_ask_at_once_are_all_answered() -> None:
    async with a_site(max_connections=3) as site:
        clients = [used(site) for _ in range(50)]
        await turn()
        assert len(site.connections) == 3
        assert [client.is_lost for client in clients] == [True] * 47 + [False] * 3


async def test_one_connection_at_most_still_serves_whoever_asks() -> None:
    async with a_site(max_connections=1) as site:
        first = site.connect()
        second = site.connect()
        await turn()
        assert (first.is_lost, second.is_lost) == (True, False)
        second.send(get("/a"))
        third = site.connect()
        third.send(get("/a"))
        await turn()
        assert (second.is_lost, third.is_lost) == (True, False)
        assert third.statuses == [200]


async def test_closing_ends_those_that_ask_for_nothing_now(site: Site) -> None:
    new, idle, head = site.connect(), used(site), site.connect()
    head.send(b"GET /a HT")
    site.connections.finish()
    await turn()
    assert new.is_lost
    assert idle.is_lost
    assert head.is_lost
    assert site.connections.emptied.is_set()


@pytest.mark.parametrize("path", ["/future", "/coroutine"])
async def test_what_is_being_answered_is_answered_and_then_closed(site: Site, path: str) -> None:
    client = site.connect()
    client.send(get(path + "?1") + get(path + "?2") + b"GET /a HT")
    await turn()
    site.connections.finish()
    await turn()
    assert not client.is_lost
    for _ in range(2):
        site.application.end_all()
        await turn()
    assert client.statuses == [200, 200]
    assert client.written.count(b"Connection: close") == 1
    assert client.is_lost


async def test_a_body_on_its_way_is_taken(site: Site) -> None:
    client, leave = site.connect(), site.connect()
    client.send(post("/a", b"12345")[:-2])
    leave.send(post("/a", b"12345", "Expect: 100-continue")[:-5])
    site.connections.finish()
    await turn()
    client.send(b"45" + get("/b"))
    leave.send(b"12345")
    await turn()
    assert client.statuses == [200, 200]
    assert client.written.count(b"Connection: close") == 1
    assert leave.statuses == [100, 200]
    assert client.is_lost
    assert leave.is_lost


async def test_one_that_connects_while_all_is_closing_is_closed(site: Site) -> None:
    """It was accepted before the listener was closed."""
    site.connections.finish()
    client = site.connect()
    await turn()
    assert client.is_lost


async def test_an_unread_answer_may_be_read_while_all_is_closing(site: Site) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(get("/large"))
    site.connections.finish()
    await turn()
    assert not client.is_lost
    client.read_all()
    await turn()
    assert client.is_lost


async def test_the_rest_is_aborted(site: Site) -> None:
    clients = [site.connect() for _ in range(4)]
    clients[0].send(get("/future"))
    clients[1].send(get("/coroutine"))
    clients[2].send(post("/a", b"x" * 100_000)[:-1])
    clients[3].send(b"bad\r\n\r\n")
    await turn()
    site.connections.finish()
    await turn()
    assert not site.connections.emptied.is_set()
    site.connections.abort()
    await turn()
    assert all(client.is_lost for client in clients)
    assert site.connections.emptied.is_set()


async def test_times_hold_while_all_is_closing(site: Site) -> None:
    client = site.connect()
    client.send(post("/a", b"12345")[:-2])
    site.connections.finish()
    await site.pass_time(LIMITS.body_seconds + 1)
    assert client.bodies == ["body_too_slow"]
    assert connection_of(client).state is State.LINGERING
    await site.pass_time(LIMITS.lingering_seconds + 1)
    assert client.is_lost

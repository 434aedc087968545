"""How long each state of a connection may last; the clock is moved by hand, and then swept."""

import asyncio

import pytest

from forwarder.http.messages import State
from tests.fakes.http_site import LIMITS, Site, a_site, chunked, connection_of, get, post
from tests.fakes.http_transport import FakeTransport, turn
from tests.fakes.virtual_time import in_virtual_time, now

HALF_HEAD = b"GET /a HTTP/1.1\r\nHo"
HALF_BODY = post("/a", b"12345")[:-2]


def state_of(client: FakeTransport) -> State:
    return connection_of(client).state


async def just_before_and_after(site: Site, client: FakeTransport, seconds: float) -> None:
    """Let a state last as long as it may, see that nothing happens, and then longer."""
    writes = list(client.writes)
    await site.pass_time(seconds)
    assert (client.is_lost, client.writes) == (False, writes)
    await site.pass_time(0.1)


async def test_a_client_that_says_nothing_is_closed(site: Site) -> None:
    client = site.connect()
    assert state_of(client) is State.NEW
    await just_before_and_after(site, client, LIMITS.head_seconds)
    assert client.is_lost
    assert client.writes == []
    assert site.application.closed == ["header_timeout"]


async def test_empty_lines_are_nothing_said(site: Site) -> None:
    client = site.connect()
    for _ in range(9):
        client.send(b"\r\n" * 1000)
        await site.pass_time(1)
    await just_before_and_after(site, client, LIMITS.head_seconds - 9)
    assert client.is_lost


@pytest.mark.parametrize("before", [b"", b"\r\n", get("/a")], ids=["first", "after empty lines", "second"])
async def test_a_head_that_does_not_end_is_refused(site: Site, before: bytes) -> None:
    client = site.connect()
    client.send(before)
    await site.pass_time(5)
    client.send(HALF_HEAD)
    assert state_of(client) is State.HEAD
    await site.pass_time(9)
    client.send(b"st: x\r\nA: ")
    await just_before_and_after(site, client, LIMITS.head_seconds - 9)
    assert client.statuses[-1] == 400
    assert client.bodies[-1] == "headers_too_slow"
    assert site.application.refusals == [("headers_too_slow", "/a")]
    assert site.application.closed == ["header_timeout"]


@pytest.mark.parametrize("head", [HALF_BODY, chunked("/a", b"12345")[:-9], post("/missing", b"12345")[:-2]])
async def test_a_body_that_does_not_end_is_refused(site: Site, head: bytes) -> None:
    client = site.connect()
    client.send(head)
    assert state_of(client) is State.BODY
    await site.pass_time(19)
    client.send(b"1")
    await just_before_and_after(site, client, LIMITS.body_seconds - 19)
    assert len(client.statuses) == 1
    assert b"Connection: close\r\n" in client.written
    assert state_of(client) is State.LINGERING
    assert site.application.closed == ["body_timeout"]
    assert site.application.seen == []


async def test_the_body_has_its_own_time_after_a_slow_head(site: Site) -> None:
    client = site.connect()
    client.send(HALF_HEAD)
    await site.pass_time(9)
    client.send(b"st: x\r\nContent-Length: 5\r\n\r\n")
    await just_before_and_after(site, client, LIMITS.body_seconds)
    assert client.bodies == ["body_too_slow"]


async def test_an_idle_client_is_closed_after_its_time(site: Site) -> None:
    client = site.connect()
    client.send(get("/a"))
    assert state_of(client) is State.IDLE
    await just_before_and_after(site, client, LIMITS.idle_seconds)
    assert client.is_lost
    assert site.application.closed == []


@pytest.mark.parametrize("path", ["/sync", "/future", "/coroutine", "/missing"])
async def test_idle_time_counts_from_the_last_answer(site: Site, path: str) -> None:
    client = site.connect()
    for _ in range(3):
        client.send(post(path, b"x"))
        await turn()
        site.application.end_all()
        await turn()
        await site.pass_time(70)
    assert not client.is_lost
    await site.pass_time(6)
    assert client.is_lost


@pytest.mark.parametrize("path", ["/future", "/coroutine"])
async def test_an_answer_may_take_any_time(site: Site, path: str) -> None:
    client = site.connect()
    client.send(get(path) + HALF_BODY)
    await turn()
    assert state_of(client) is State.ANSWERING
    for _ in range(10):
        await site.pass_time(1000)
    assert (client.is_lost, client.writes) == (False, [])
    site.application.end_all()
    await turn()
    assert client.statuses == [200]
    await just_before_and_after(site, client, LIMITS.body_seconds)
    assert client.statuses == [200, 400]


@pytest.mark.parametrize("cut", [10, 60, len(post("/a", b"x" * 50)) - 1])
async def test_requests_that_follow_each_other_are_not_taken_for_slow(site: Site, cut: int) -> None:
    """Each segment ends one request and begins another: the state stays, its time does not."""
    client = site.connect()
    request = post("/a", b"x" * 50)
    client.send(request[:cut])
    for number in range(1, 30):
        await site.pass_time(9)
        client.send(request[cut:] + request[:cut])
        assert client.statuses == [200] * number
    assert site.application.refusals == []


async def test_a_head_that_begins_behind_a_body_has_its_own_time(site: Site) -> None:
    client = site.connect()
    client.send(HALF_BODY)
    await site.pass_time(18)
    client.send(b"45" + HALF_HEAD)
    await just_before_and_after(site, client, LIMITS.head_seconds)
    assert client.statuses == [200, 400]


async def test_who_does_not_read_is_closed(site: Site) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(get("/large"))
    assert state_of(client) is State.UNREAD
    await just_before_and_after(site, client, LIMITS.answer_seconds)
    assert client.is_lost
    assert site.application.closed == ["answer_timeout"]


async def test_who_does_not_read_gains_no_time_by_asking_more(site: Site) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(get("/large"))
    for _ in range(3):
        await site.pass_time(9)
        client.send(get("/large") + HALF_HEAD[:5])
    await site.pass_time(4)
    assert client.is_lost


async def test_who_reads_at_last_is_served_on(site: Site) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(get("/large"))
    await site.pass_time(29)
    client.read_all()
    assert state_of(client) is State.IDLE
    await site.pass_time(29)
    client.send(get("/a"))
    assert client.statuses == [200, 200]


async def test_a_refused_client_has_a_little_time_to_read_why(site: Site) -> None:
    client = site.connect()
    client.send(b"bad\r\n\r\n")
    assert state_of(client) is State.LINGERING
    assert client.has_written_eof
    await site.pass_time(1)
    client.send(b"x" * 100_000)
    await just_before_and_after(site, client, LIMITS.lingering_seconds - 1)
    assert client.is_lost
    assert client.statuses == [400]


async def test_lingering_ends_with_the_client(site: Site) -> None:
    client = site.connect()
    client.send(b"bad\r\n\r\n")
    client.end()
    await turn()
    assert client.is_lost


async def test_a_closed_client_that_does_not_read_what_was_written_is_cut_off(site: Site) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(get("/large", "Connection: close"))
    assert state_of(client) is State.CLOSED
    await just_before_and_after(site, client, LIMITS.answer_seconds)
    assert client.is_lost
    assert site.application.closed == ["answer_timeout"]


@in_virtual_time
async def test_the_sweep_runs_by_itself_while_there_are_connections() -> None:
    """Were a timer left behind the last one, or none made for the second, this would not end."""
    for _ in range(2):
        async with a_site(clock=now) as site:
            began = now()
            client = site.connect()
            await site.connections.emptied.wait()
            assert client.is_lost
            assert LIMITS.head_seconds < now() - began <= LIMITS.head_seconds + 2
            await asyncio.sleep(5)

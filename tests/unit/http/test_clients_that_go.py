"""Clients that end their half of the connection, or hang up, in every state; and applications that fail."""

import asyncio

import pytest

from forwarder.http.messages import State
from tests.fakes.http_site import Site, answer_to, chunked, connection_of, get, post
from tests.fakes.http_transport import turn

STATES = {
    "new": b"",
    "empty lines": b"\r\n\r\n",
    "in a method": b"GE",
    "in a target": b"GET /a",
    "in a header": b"GET /a HTTP/1.1\r\nHost: x",
    "in a body": post("/a", b"12345")[:-1],
    "in a large body": post("/a", b"x" * 200_000)[:-1],
    "in a chunk": chunked("/a", b"12345")[:-9],
    "in trailers": chunked("/a", b"12345", trailers="A: b\r\n")[:-4],
    "in an unwanted body": post("/missing", b"12345")[:-1],
    "before leave to send": post("/future") + post("/a", b"12345", "Expect: 100-continue")[:-5],
    "with leave to send": post("/a", b"12345", "Expect: 100-continue")[:-5],
    "idle": get("/a"),
    "after an upgrade": get("/a", "Upgrade: x", "Connection: upgrade"),
    "before an answer": get("/future"),
    "before a coroutine's answer": post("/coroutine", b"x" * 100_000),
    "before many answers": post("/future", b"x" * 70_000) + get("/coroutine") * 3 + post("/a", b"x" * 70_000) * 3,
    "with more than is read": get("/coroutine") * 1000,
    "in the next body": get("/future") + post("/a", b"12345")[:-1],
    "refused": b"bad\r\n\r\n",
    "refused behind an answer to come": get("/future") + b"bad\r\n\r\n",
    "much unread": get("/large") * 3,
    "last and unread": get("/large", "Connection: close"),
}


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("stream", STATES.values(), ids=STATES)
async def test_a_client_may_hang_up_at_any_time(site: Site, stream: bytes, reads: bool) -> None:
    client = site.connect()
    client.client_reads = reads
    client.send(stream)
    await turn()
    client.reset()
    await turn()
    assert connection_of(client).state is State.CLOSED
    assert len(site.connections) == 0
    writes = len(client.writes)
    await site.pass_time(1000)
    while site.application.waiting:
        site.application.end_all()
        await turn()
    assert len(client.writes) == writes
    assert site.bodies.held_bytes == 0
    assert site.application.closed == []


@pytest.mark.parametrize("stream", STATES.values(), ids=STATES)
async def test_a_client_that_ends_its_half_is_answered_and_closed(site: Site, stream: bytes) -> None:
    client = site.connect()
    client.send(stream)
    client.end()
    await turn()
    for _ in range(1100):
        if not site.application.waiting:
            break
        site.application.end_all()
        await turn()
    assert client.is_lost
    statuses = [status for status in client.statuses if status != 100]
    assert len(statuses) == len(site.application.seen) + len(site.application.refusals) or b"/missing" in stream
    assert site.application.closed == []


async def test_what_was_asked_for_completely_is_answered_though_the_client_sends_no_more(site: Site) -> None:
    client = site.connect()
    client.send(post("/future?1", b"x") + post("/coroutine?2", b"y") + post("/a?3", b"z")[:-1])
    client.end()
    await turn()
    assert not client.is_lost
    for _ in range(2):
        site.application.end_all()
        await turn()
    assert client.bodies == ["/future?1 1", "/coroutine?2 1", "malformed_body"]
    assert client.is_lost


async def test_over_tls_there_are_no_halves(site: Site) -> None:
    client = site.connect(is_tls=True)
    client.send(get("/future"))
    client.end()
    await turn()
    assert client.is_lost


async def test_over_tls_a_refusal_lingers_without_an_end_of_writing(site: Site) -> None:
    client = site.connect(is_tls=True)
    client.send(b"bad\r\n\r\n")
    assert connection_of(client).state is State.LINGERING
    assert not client.has_written_eof
    await site.pass_time(3)
    assert client.is_lost


@pytest.mark.parametrize("target", ["/raises", "/begin-raises"])
async def test_only_the_request_suffers_at_which_something_raises(site: Site, target: str) -> None:
    client = site.connect()
    client.send(get("/future?1") + post(target, b"x") + get("/a"))
    site.application.end_all()
    await turn()
    assert client.statuses == [200, 500, 200]
    assert [(name, type(error)) for name, error in site.application.failures] == [(target, ZeroDivisionError)]


@pytest.mark.parametrize("path", ["/future", "/coroutine"])
@pytest.mark.parametrize("error", [ZeroDivisionError(), None], ids=["raises", "is cancelled"])
async def test_only_the_request_suffers_whose_answer_does_not_come(
    site: Site, path: str, error: BaseException | None
) -> None:
    client = site.connect()
    client.send(post(path, b"x" * 100_000) + get("/a"))
    await turn()
    ((_, future),) = site.application.waiting
    if error is None:
        future.cancel()
    else:
        future.set_exception(error)
    await turn()
    assert client.statuses == [500, 200]
    expected = ZeroDivisionError if error else asyncio.CancelledError
    assert [type(error) for _, error in site.application.failures] == [expected]


async def test_failures_among_many_leave_the_order(site: Site) -> None:
    client = site.connect()
    client.send(get("/future") * 30)
    for number, (request, future) in enumerate(site.application.waiting):
        if number % 3 == 0:
            future.set_exception(ZeroDivisionError())
        elif number % 3 == 1:
            future.cancel()
        else:
            future.set_result(answer_to(request))
    await turn()
    assert client.statuses == [500, 500, 200] * 10
    assert len(client.writes) == 1


async def test_cancelled_tasks_of_a_closed_connection_disturb_nobody(site: Site) -> None:
    client = site.connect()
    client.send(get("/coroutine"))
    await turn()
    client.reset()
    await turn()
    for task in site.connections.tasks:
        task.cancel()
    await turn()
    assert not site.connections.tasks

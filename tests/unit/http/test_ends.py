"""How connections and what answers them end: nobody is cut off for a newcomer, and nothing goes on."""

import asyncio

import pytest

from tests.fakes.http_site import Site, get, post
from tests.fakes.http_transport import turn

pytestmark = pytest.mark.asyncio


async def test_a_refused_client_has_its_time_to_read_the_answers_before_the_refusal(site: Site) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(get("/page") + b"BAD\r\n\r\n")
    await turn()
    await site.pass_time(site.connections.limits.lingering_seconds + 1)
    assert not client.is_lost, "50 KB of an answer are unread, for which there are answer_seconds"


async def test_who_is_being_answered_does_not_go_for_a_newcomer_while_others_are_idle() -> None:
    site = Site(max_connections=2)
    answering, idle = site.connect(), site.connect()
    answering.send(get("/future"))
    idle.send(get("/sync"))
    newcomer = site.connect()
    newcomer.send(get("/sync"))
    await turn()
    assert not answering.is_lost
    assert idle.is_lost
    site.connections.abort()
    await turn()


async def test_no_task_is_left_when_the_server_is_closed(site: Site) -> None:
    client = site.connect()
    client.send(post("/coroutine"))
    await turn()
    site.connections.finish()
    site.connections.abort()
    await turn()
    await asyncio.sleep(0)
    assert not site.connections.tasks

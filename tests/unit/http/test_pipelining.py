"""Requests that come before the answers to those before them: answered in order, however many, in bounded memory."""

import random

import pytest

from forwarder.http.messages import State
from tests.fakes.http_site import Site, answer_to, chunked, connection_of, get, post
from tests.fakes.http_transport import FakeTransport, turn

MAX_WAITING = 128 + 4 * 1024 // 25
"""As many requests of a connection may wait: the bound, and what one slice has of the shortest ones."""


def posts(path: str, count: int, body: bytes = b"1") -> bytes:
    return b"".join(post(f"{path}?{number}", body) for number in range(count))


def numbers(client: FakeTransport) -> list[int]:
    """Return which requests were answered, in their order."""
    return [int(body.partition("?")[2].partition(" ")[0]) for body in client.bodies]


async def test_futures_are_all_asked_at_once_and_answered_in_order(site: Site) -> None:
    client = site.connect()
    client.send(posts("/future", 60))
    assert len(site.application.seen) == 60
    random.Random(1).shuffle(site.application.waiting)
    for request, future in site.application.waiting:
        future.set_result(answer_to(request))
        await turn()
    assert numbers(client) == list(range(60))


async def test_those_that_end_in_one_turn_are_written_together(site: Site) -> None:
    client = site.connect()
    client.send(posts("/future", 150))
    asked = len(site.application.seen)
    assert asked >= 64
    site.application.end_all()
    await turn()
    assert len(client.writes) == 1
    while site.application.waiting:
        site.application.end_all()
        await turn()
    assert numbers(client) == list(range(150))
    assert connection_of(client).state is State.IDLE


async def test_synchronous_answers_are_written_together(site: Site) -> None:
    client = site.connect()
    client.send(posts("/sync", 150))
    assert numbers(client) == list(range(150))
    assert len(client.writes) <= 4  # one for each slice


async def test_a_coroutine_ends_before_the_next_request_is_asked(site: Site) -> None:
    client = site.connect()
    client.send(posts("/coroutine", 150))
    for number in range(150):
        await turn()
        assert len(site.application.seen) == number + 1
        assert len(site.application.waiting) == 1
        site.application.end_all()
    await turn()
    assert numbers(client) == list(range(150))


@pytest.mark.parametrize("seed", range(10))
async def test_any_mixture_is_answered_in_order(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    paths = chance.choices(["/sync", "/future", "/coroutine", "/missing", "/raises"], k=150)
    client = site.connect()
    requests = [post(f"{path}?{number}", b"1") for number, path in enumerate(paths)]
    client.send_in_pieces(b"".join(requests), *chance.choices([1, 30, 500, 5000], k=20))
    while len(client.statuses) < 150:
        await turn()
        waiting = site.application.waiting
        request, future = waiting.pop(chance.randrange(len(waiting)))
        future.set_result(answer_to(request))
        await turn()
    assert numbers(client) == list(range(150))


async def test_the_requests_behind_a_future_are_asked_but_not_those_behind_a_coroutine(site: Site) -> None:
    client = site.connect()
    client.send(post("/future?0") + post("/sync?1") + post("/coroutine?2") + post("/sync?3"))
    await turn()
    assert [request.target for request in site.application.seen] == ["/future?0", "/sync?1", "/coroutine?2"]
    site.application.waiting[1][1].set_result(answer_to(site.application.seen[2]))
    await turn()
    assert len(site.application.seen) == 4
    assert client.writes == []
    site.application.end_all()
    await turn()
    assert numbers(client) == [0, 1, 2, 3]
    assert len(client.writes) == 1


async def test_a_future_that_ends_beside_a_coroutine_has_nothing_asked_behind_that(site: Site) -> None:
    client = site.connect()
    client.send(get("/future?0") + get("/coroutine?1") + get("/sync?2"))
    await turn()
    site.application.waiting.pop(0)[1].set_result(answer_to(site.application.seen[0]))
    await turn()
    assert numbers(client) == [0]
    assert len(site.application.seen) == 2
    site.application.end_all()
    await turn()
    assert numbers(client) == [0, 1, 2]


@pytest.mark.parametrize("path", ["/future", "/sync"])
async def test_ten_thousand_in_one_write_wait_in_bounded_number(site: Site, path: str) -> None:
    client = site.connect()
    client.send(posts(path, 10_000))
    while site.application.waiting:
        assert len(site.application.waiting) <= MAX_WAITING
        site.application.end_all()
        await turn()
    assert numbers(client) == list(range(10_000))


async def test_coroutines_of_ten_thousand_requests_pause_the_reading(site: Site) -> None:
    client = site.connect()
    client.send(posts("/coroutine", 10_000))
    client.send(get("/last"))
    assert not client.is_reading()
    for _ in range(3000):
        await turn()
        site.application.end_all()
    await turn()
    assert numbers(client) == list(range(3000))


async def test_reading_pauses_while_much_waits_and_goes_on_afterwards(site: Site) -> None:
    client = site.connect()
    for number in range(200):
        client.send(get(f"/future?{number}"))
    asked = len(site.application.seen)
    assert 64 <= asked <= 128
    assert not client.is_reading()
    site.application.waiting.pop(0)[1].set_result(answer_to(site.application.seen[0]))
    await turn()
    assert len(site.application.seen) == asked + 1
    while site.application.waiting:
        site.application.end_all()
        await turn()
    assert numbers(client) == list(range(200))
    assert client.is_reading()


async def test_reading_pauses_for_few_large_bodies_too(site: Site) -> None:
    client = site.connect()
    for number in range(9):
        client.send(post(f"/coroutine?{number}", b"x" * 40_000))
    await turn()
    assert len(site.application.seen) == 1
    assert not client.is_reading()
    for _ in range(9):
        site.application.end_all()
        await turn()
    assert numbers(client) == list(range(9))


async def test_heads_that_wait_have_a_bound_in_bytes(site: Site) -> None:
    client = site.connect()
    large = get("/coroutine", *(f"X-{number}: {'y' * 150}" for number in range(190)))
    many = get("/coroutine", *(f"X-{number}:" for number in range(190)))
    for _ in range(32):
        client.send(large)
        client.send(many)
    await turn()
    assert not client.is_reading()
    assert len(site.application.began) <= 6
    for _ in range(64):
        site.application.end_all()
        await turn()
    assert client.statuses == [200] * 64


async def test_a_client_that_reads_nothing_is_asked_for_no_more_and_costs_little(site: Site) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(posts("/sync", 10_000))
    assert connection_of(client).state is State.UNREAD
    assert not client.is_reading()
    assert client.unread_bytes < 200_000
    assert len(site.application.seen) < 2000
    while client.unread_bytes:
        client.read_all()
        await turn()
    assert numbers(client) == list(range(10_000))
    assert connection_of(client).state is State.IDLE


@pytest.mark.parametrize("before", [b"", get("/future")])
async def test_a_client_that_asks_for_much_gets_it_in_bounded_steps(site: Site, before: bytes) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(before + get("/large") * 80)
    assert sum(request.target == "/large" for request in site.application.seen) <= 3
    site.application.end_all()
    await turn()
    assert max(map(len, client.writes)) < 400_000
    while client.unread_bytes:
        client.read_all()
        await turn()
    assert client.statuses == [200] * (80 + bool(before))


async def test_a_refusal_comes_after_the_answers_before_it(site: Site) -> None:
    client = site.connect()
    client.send(posts("/future", 3) + b"bad\r\n\r\n" + get("/sync"))
    assert client.statuses == []
    site.application.end_all()
    await turn()
    assert client.statuses == [200, 200, 200, 400]
    assert len(client.writes) == 1
    assert len(site.application.seen) == 3


async def test_what_comes_while_a_refusal_waits_for_its_turn_is_thrown_away(site: Site) -> None:
    client = site.connect()
    client.send(posts("/future", 2) + chunked("/future", b"1").replace(b"\r\n1\r\n", b"\r\nZ\r\n"))
    for _ in range(1000):
        client.send(b"x" * 1000)
    assert client.is_reading()
    site.application.end_all()
    await turn()
    assert client.statuses == [200, 200, 400]


async def test_a_refused_client_can_send_on_though_much_waited_behind(site: Site) -> None:
    client = site.connect()
    client.client_reads = False
    client.send(get("/large"))
    client.send(get("/closes") + b"".join(post("/sync", b"x" * 40_000) for _ in range(6)))
    assert not client.is_reading()
    client.read_all()
    await turn()
    assert client.statuses == [200, 200]
    assert connection_of(client).state is State.LINGERING
    for _ in range(10):
        client.send(b"x" * 100_000)
        await turn()
    assert client.is_reading()


async def test_an_answer_that_is_there_before_it_is_awaited_is_written(site: Site) -> None:
    client = site.connect()
    client.send(get("/future?0"))
    site.application.end_all()
    assert client.writes == []
    await turn()
    assert numbers(client) == [0]

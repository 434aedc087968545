"""Whatever clients, applications and time do: answers keep their order, nobody waits for ever, and nothing stays held."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder.http.messages import State
from tests.fakes.http_site import Site, a_site, answer_to, chunked, connection_of, get, post
from tests.fakes.http_transport import FakeTransport, turn

REQUESTS = st.sampled_from(["small", "chunks", "upgrade", "large", "page", "unwanted", "none"])
PATHS = st.sampled_from(["/sync", "/future", "/coroutine", "/raises"])
STEPS = st.one_of(
    st.tuples(st.just("ask"), REQUESTS, PATHS),
    st.tuples(st.just("ask"), REQUESTS, PATHS),
    st.tuples(st.just("come"), st.integers(1, 300_000), st.just("")),
    st.tuples(st.just("answer"), st.integers(0, 9), st.sampled_from(["", "fail", "cancel"])),
    st.tuples(st.just("turn"), st.just(0), st.just("")),
    st.tuples(st.just("leave unread"), st.just(0), st.just("")),
    st.tuples(st.just("read"), st.just(0), st.just("")),
)
Step = tuple[str, int | str, str]


class Client:
    """Asks with numbers, in any pieces."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.transport: FakeTransport = site.connect()
        self.asked = 0
        self.unsent = b""

    async def take(self, step: Step) -> None:
        """Do one thing."""
        match step:
            case "ask", kind, path:
                self.unsent += request(str(kind), f"{path}?{self.asked}", f"?{self.asked}")
                self.asked += 1
            case "come", int(size), _:
                piece, self.unsent = self.unsent[:size], self.unsent[size:]
                if piece:
                    self.transport.send(piece)
            case "answer", int(which), how:
                answer_one(self.site, which, how)
            case "leave unread", _, _:
                self.transport.client_reads = False
            case "read", _, _:
                self.transport.read_all()
            case _:
                await turn()

    @property
    def answered(self) -> list[int]:
        return [int(body.partition("?")[2].split()[0]) for body in self.transport.bodies]


def request(kind: str, target: str, query: str) -> bytes:
    """Return a request of some kind."""
    return {
        "small": post(target, b"x" * 20),
        "chunks": chunked(target, b"x" * 5, b"y", trailers="A: b\r\n"),
        "upgrade": post(target, b"GET /no HTTP/1.1\r\n\r\n", "Connection: Upgrade", "Upgrade: x"),
        "large": post(target, b"x" * 150_000),
        "page": get("/page" + query),
        "unwanted": post("/missing" + query, b"x" * 20),
        "none": get(target),
    }[kind]


def answer_one(site: Site, which: int, how: str) -> None:
    """End one of the answers that are awaited."""
    waiting = site.application.waiting
    if not waiting:
        return
    asked, future = waiting.pop(which % len(waiting))
    if how == "fail":
        future.set_exception(ZeroDivisionError())
    elif how == "cancel":
        future.cancel()
    else:
        future.set_result(answer_to(asked))


async def all_is_answered(steps: list[Step]) -> None:
    async with a_site(max_held_bytes=1 << 30) as site:
        client = Client(site)
        for step in steps:
            await client.take(step)
            assert client.answered == list(range(len(client.answered)))
        await client.take(("come", 1 << 30, ""))
        for _ in range(3 * len(steps) + 3):
            client.transport.read_all()
            await turn()
            answer_one(site, 0, "")
            await turn()
        assert client.answered == list(range(client.asked))
        assert connection_of(client.transport).state in (State.IDLE, State.NEW)
        assert client.transport.is_reading()
        assert site.bodies.held_bytes == 0


async def nothing_is_held(courses: list[tuple[int, Step | str]]) -> None:
    async with a_site(max_connections=3, max_held_bytes=400_000) as site:
        clients = [Client(site) for _ in range(4)]
        for number, step in courses:
            client = clients[number]
            match step:
                case "wait":
                    await site.pass_time(7)
                case "reset":
                    client.transport.reset()
                    clients[number] = Client(site)
                case "end":
                    client.transport.end()
                    clients[number] = Client(site)
                case str():
                    site.connections.finish()
                case _:
                    await client.take(step)
            answered = client.answered if 400 not in client.transport.statuses else []
            assert answered == list(range(len(answered)))
            assert site.bodies.held_bytes <= 400_000 + 300_000


@given(st.lists(STEPS, max_size=40))
def test_a_client_with_patience_gets_all_its_answers_in_order(steps: list[Step]) -> None:
    asyncio.run(all_is_answered(steps))


COURSES = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(STEPS, STEPS, STEPS, st.sampled_from(["wait", "reset", "end", "close"]))),
    max_size=80,
)


@given(COURSES)
def test_whatever_happens_nothing_stays_held(courses: list[tuple[int, Step | str]]) -> None:
    asyncio.run(nothing_is_held(courses))


@pytest.mark.soak
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(COURSES)
def test_whatever_happens_for_long_nothing_stays_held(courses: list[tuple[int, Step | str]]) -> None:
    asyncio.run(nothing_is_held(courses))

"""A head that came before, but for its Content-Length, is not parsed again; nobody can tell, but by the time it takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.http.messages import Answer, Request, Resource
from forwarder.http.reading import LARGE_BODY_BYTES, KnownHead, KnownHeads
from tests.fakes.http_site import Site, a_site, answer_to, chunked, connection_of, get, post
from tests.fakes.http_transport import turn

PLAIN = post("/sync", b"12345", "X-Key: a")
OTHERS = {
    "another target": post("/sync?", b"12345", "X-Key: a"),
    "another value": post("/sync", b"12345", "X-Key: b"),
    "another case": post("/sync", b"12345", "X-key: a"),
    "one space more": post("/sync", b"12345", "X-Key:  a"),
    "one header more": post("/sync", b"12345", "X-Key: a", "A: b"),
    "two hosts": post("/sync", b"12345", "X-Key: a", "Host: y"),
    "two lengths": post("/sync", b"12345", "X-Key: a", "Content-Length: 5"),
    "a sign": PLAIN.replace(b": 5\r\n", b": +5\r\n"),
    "a zero in front": PLAIN.replace(b": 5\r\n", b": 05\r\n"),
    "no length": PLAIN.replace(b"Content-Length: 5\r\n", b""),
    "a bare line feed": PLAIN.replace(b"X-Key: a\r\n", b"X-Key: a\n"),
    "its end": post("/sync", b"12345", "X-Key: a", "Connection: close"),
    "a blank line before it": b"\r\n" + PLAIN,
    "chunks": chunked("/sync", b"12345", headers="X-Key: a\r\n"),
    "another method": PLAIN.replace(b"POST", b"PUT"),
    "HTTP/1.0": post("/sync", b"12345", "X-Key: a", version="1.0"),
    "HTTP/0.9": post("/sync", b"12345", "X-Key: a", version="0.9"),
    "too large a body": post("/sync", b"x" * 2000, "X-Key: a"),
    "more behind it": PLAIN + get("/sync"),
    "less than all of it": PLAIN[:-1],
}
USUAL = ["X-Key: a", "Connection: keep-alive", "Expect: 100-continue", "Upgrade: x", "Connection: close", "Trailer: a"]


def seen(site: Site) -> list[tuple[str, str, dict[str, str], bytes]]:
    return [(r.method, r.target, dict(r.headers), r.body) for r in site.application.seen]


async def test_the_same_head_is_asked_about_once_whatever_the_length_of_its_body() -> None:
    async with a_site() as site:
        for body in (b"1", b"12345", b"x" * 1000, b"123"):
            site.connect().send(post("/sync", body))
        assert site.application.began == ["/sync"]
        assert [request.body for request in site.application.seen] == [b"1", b"12345", b"x" * 1000, b"123"]
        assert [request.headers["content-length"] for request in site.application.seen] == ["1", "5", "1000", "3"]


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_what_differs_otherwise_is_read_as_if_nothing_was_known(other: bytes) -> None:
    async with a_site() as site:
        site.application.max_body_bytes = 1000
        known, fresh = site.connect(), site.connect()
        known.send(PLAIN)
        before = len(site.application.seen), len(site.application.refusals), len(known.written)
        known.send(other)
        one = seen(site)[before[0] :], site.application.refusals[before[1] :], known.written[before[2] :]
        before = len(site.application.seen), len(site.application.refusals), 0
        fresh.send_in_pieces(other, *[1] * len(other))
        two = seen(site)[before[0] :], site.application.refusals[before[1] :], fresh.written
        assert one == two


@given(
    st.lists(st.sampled_from(USUAL), max_size=2),
    st.sampled_from(["POST", "GET", "HEAD", "CONNECT"]),
    st.sampled_from(["1.1", "1.0"]),
    st.integers(0, 70_000),
)
async def test_a_request_that_comes_again_is_seen_and_answered_as_before(
    headers: list[str], method: str, version: str, size: int
) -> None:
    request = post("/sync", b"x" * size, *headers, version=version).replace(b"POST", method.encode(), 1)
    async with a_site() as site:
        first, again = site.connect(), site.connect()
        first.send(request)
        again.send(request)
        await turn()
        assert again.written == first.written
        assert again.has_written_eof == first.has_written_eof
        assert seen(site)[: len(seen(site)) // 2] == seen(site)[len(seen(site)) // 2 :]


class ForgetfulHeads(KnownHeads):
    """Knows no head, so that each goes the general way."""

    def find(self, data: bytes) -> tuple[KnownHead, Request] | None:  # noqa: ARG002 - as KnownHeads
        return None


PATHS = ["/sync", "/future", "/coroutine", "/page", "/large", "/raises", "/closes"]
COURSES = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "answer", "answer", "turn", "read", "leave unread"]), st.integers(0, 6)),
    max_size=25,
)


@given(COURSES)
async def test_whatever_comes_and_is_answered_when_known_heads_are_answered_as_unknown_ones(
    course: list[tuple[str, int]],
) -> None:
    async def told(site: Site) -> tuple[list[object], bytes, list[tuple[str, str, dict[str, str], bytes]]]:
        for path in PATHS:
            site.connect().send(post(path, b"x"))
            site.application.end_all()
            await turn()
        client = site.connect(high_water_bytes=60_000)
        told: list[object] = []
        for number, (step, which) in enumerate(course, 1):
            waiting = site.application.waiting
            match step:
                case "ask":
                    client.send(post(PATHS[which], b"x" * number))
                case "answer" if waiting:
                    request, future = waiting.pop(which % len(waiting))
                    if not future.done():
                        future.set_result(answer_to(request))
                case "turn" | "answer":
                    await turn()
                case "read":
                    client.read_all()
                case _:
                    client.client_reads = False
            told.append((connection_of(client).state, len(site.application.seen), len(client.written)))
        for _ in range(30):
            site.application.end_all()
            client.read_all()
            await turn()
        return told, client.written, seen(site)

    async with a_site() as knowing, a_site() as forgetful:
        forgetful.connections.known_heads = ForgetfulHeads()
        assert await told(knowing) == await told(forgetful)


async def test_other_rules_count_for_the_next_request() -> None:
    async with a_site() as site:
        client = site.connect()
        client.send(PLAIN)
        site.connections.known_heads.forget()
        client.send(PLAIN)
        assert site.application.began == ["/sync", "/sync"]


async def test_a_server_that_closes_answers_no_known_head() -> None:
    async with a_site() as site:
        client, later = site.connect(), site.connect()
        client.send(post("/future", b"1"))
        site.connections.finish()
        later.send(post("/future", b"1"))
        assert [request.target for request, _ in site.application.waiting] == ["/future"]


async def test_a_client_may_send_blank_lines_between_known_requests_for_ever() -> None:
    async with a_site() as site:
        client = site.connect()
        for _ in range(10_000):
            client.send(post("/sync", b"1"))
            client.send(b"\r\n" * 4)
        assert site.application.refusals == []
        assert len(site.application.seen) == 10_000
        assert not connection_of(client).state.name.startswith("L")


def test_heads_are_few_and_short() -> None:
    heads = KnownHeads()
    resource = Resource(lambda _: Answer(200, {}), 1 << 20, is_lasting=True)

    def is_known(*headers: str) -> bool:
        data = post("/sync", b"1", *headers)
        heads.learn(data, Request("POST", "/sync", {}, b"1", None), len(data), resource)
        return heads.find(data) is not None

    assert is_known("A: " + "x" * 1800)
    assert not is_known("A: " + "x" * 2048)
    for number in range(1000):
        assert is_known(f"A: {number}")
    assert sum(heads.find(post("/sync", b"1", f"A: {number}")) is not None for number in range(1000)) <= 32


def test_a_large_body_is_never_taken_for_granted() -> None:
    heads = KnownHeads()
    data = post("/sync", b"1")
    heads.learn(data, Request("POST", "/sync", {}, b"1", None), 30, Resource(lambda _: Answer(200, {}), 1 << 20))
    assert heads.find(post("/sync", b"x" * LARGE_BODY_BYTES)) is not None
    assert heads.find(post("/sync", b"x" * (LARGE_BODY_BYTES + 1))) is None

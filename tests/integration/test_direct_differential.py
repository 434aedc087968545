"""The same requests to an intake that takes plain posts directly, and to one that never does: same answers, same effects."""

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from forwarder.intake.connections import Connection as PlainConnection
from forwarder.intake.connections import Server
from forwarder.settings import Secret
from tests.fakes.http_intake_harness import Served, request_bytes, serving

BOTH_LOOPS = True
ONE = "/track/event"
GOOD = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'
SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "token": {"token": Secret("some-token")},
    "small bodies": {"max_body_bytes": len(GOOD)},
    "small buffer": {"max_events": 3},
    "any host": {"allowed_hosts": ("*",), "allowed_origins": ("https://good.example",)},
}

BODIES = st.sampled_from([GOOD, b"{}", b"{", b"", b"[1]", b"\r\n\r\n", GOOD.replace(b"1.50", b'"x"')])
PLAIN = st.builds(
    lambda body, headers: request_bytes(ONE, body, **headers),
    BODIES,
    st.fixed_dictionaries(
        {"x_growlytics_key": st.just("some-token")},
        optional={"Idempotency_Key": st.sampled_from("ab"), "Content_Type": st.just("application/json")},
    ),
)
"""Nearly all are taken directly, unless they come in parts or together."""

HEADERS = st.lists(
    st.one_of(
        st.tuples(st.just("Host"), st.sampled_from(["evil.example", "", "127.0.0.1:1", "[::1]"])),
        st.tuples(st.just("Origin"), st.sampled_from(["https://evil.example", "https://good.example", "null"])),
        st.tuples(st.just("Content-Type"), st.sampled_from(["text/plain", "application/json; charset=utf-8", ""])),
        st.tuples(st.just("Content-Encoding"), st.sampled_from(["identity", "gzip", "br", ""])),
        st.tuples(st.just("Connection"), st.sampled_from(["close", "keep-alive", "TE, close", "x"])),
        st.tuples(st.just("Expect"), st.sampled_from(["100-continue", "x"])),
        st.tuples(st.just("Sec-Fetch-Site"), st.just("cross-site")),
        st.tuples(st.just("x-growlytics-key"), st.sampled_from(["some-token", "wrong"])),
        st.tuples(st.just("Authorization"), st.sampled_from(["Bearer some-token", "Basic x"])),
        st.tuples(st.just("Idempotency-Key"), st.sampled_from(["a", "\u00fc", ""])),
        st.tuples(st.just("X-Long"), st.sampled_from(["x" * 8000, "x" * 20_000])),
    ),
    max_size=2,
).map(dict)
ALTERED = {
    b"POST ": b"POST ",
    b"HTTP/1.1": b"HTTP/1.0",
    b"Host:": b"Host : ",
    b"\r\nHost": b"\r\n folded: x\r\nHost",
    b"Content-Length": b"content-length",
    b"Content-Length: ": b"Content-Length: 0",
    b"\r\nContent-Length": b"\r\nContent-Length: 3\r\nContent-Length",
    b"\r\n\r\n": b"\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"Host: localhost": b"X: \xff\x00",
    b"POST": b"\r\nPOST",
    b"POST /track/event": b"PUT /track/event",
    b"/track/event": b"/track/event?a=b",
    b" /": b" http://localhost/",
}
SPECIAL = st.builds(
    lambda body, headers, altered, chunked: request_bytes(ONE, [body] if chunked else body, **headers).replace(
        altered, ALTERED[altered], 1
    ),
    st.one_of(BODIES, st.just(GOOD + b" "), st.just(GOOD + b" " * 9000)),
    HEADERS,
    st.just(b"POST ") | st.sampled_from(list(ALTERED)),
    st.sampled_from([False, False, True]),
)
"""Any of these may end its connection, or be no request."""

GROUPS = st.lists(
    st.tuples(st.lists(PLAIN, max_size=3), st.lists(st.integers(0, 400), max_size=3), SPECIAL | st.none()),
    max_size=4,
)
"""Posts that are sent without waiting for answers, and where they are cut; then what may end the connection, whole, as what
comes after that would have it reset.
"""


async def told(served: Served, groups: Iterable[tuple[list[bytes], list[int], bytes | None]]) -> list[object]:
    """Send all that can be sent, and return what was answered, without what is different each time."""
    found: list[object] = []
    async with served.connection() as connection:
        for posts, cuts, special in groups:
            data = b"".join(posts)
            for start, end in pairwise(sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})):
                await connection.send(data[start:end])
                await turns()
            for request in (*posts, *([] if special is None else [special])):
                if request is special:
                    await connection.send(special)
                answer = await connection.answer()
                if answer.status == 100:
                    found.append(100)
                    answer = await connection.answer()
                content = answer.content if answer.body else {}
                fields = {name: value for name, value in answer.headers.items() if name != "date"}
                found.append((answer.status, fields, {name: value for name, value in content.items() if name != "id"}))
                if answer.announces_close:
                    assert await connection.has_ended()
                    return found
    return found


async def turns() -> None:
    """Let what was sent be taken in by itself."""
    for _ in range(5):
        await asyncio.sleep(0)


async def effects(served: Served) -> list[object]:
    durations = served.telemetry.registry.get_sample_value("growlytics_forwarder_intake_duration_seconds_count")
    return [served.counts(), durations, [event.body for event in await served.take_all()]]


@given(options=st.sampled_from(list(SETTINGS)), groups=GROUPS)
async def test_whether_posts_are_taken_directly_changes_nothing(options: str, groups: Any) -> None:
    async with serving(**SETTINGS[options]) as direct, serving(**SETTINGS[options]) as plain:
        assert plain.intake._runner is not None
        server = plain.intake._runner.server
        assert isinstance(server, Server)
        server._make = PlainConnection
        assert await told(direct, groups) == await told(plain, groups)
        assert await effects(direct) == await effects(plain)

"""What is spelt in another way is taken for what it means: marks before JSON, encodings, hosts. And headers of answers."""

import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from tests.fakes.http_intake_harness import Served, serving
from tests.fakes.wire import BATCH, GOOD, ONE, Reply, event, get, in_chunks, post, wire_to

BOM = b"\xef\xbb\xbf"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(header_timeout_seconds=60, body_timeout_seconds=60) as running:
        yield running


async def ask(served: Served, data: bytes, *, to: str = "POST") -> Reply:
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(data)
        return await wire.reply(to=to)


MARKED: dict[str, tuple[str, bytes, list[str], list[bytes]]] = {
    "an event": (ONE, BOM + GOOD, [], [GOOD]),
    "an event among spaces": (ONE, BOM + b" \r\n" + GOOD, [], [GOOD]),
    "a batch of one": (BATCH, BOM + GOOD, [], [GOOD]),
    "an array": (BATCH, BOM + b"[%b,%b]" % (GOOD, event(1)), [], [GOOD, event(1)]),
    "lines": (BATCH, BOM + GOOD + b"\n" + event(1), ["Content-Type: application/x-ndjson"], [GOOD, event(1)]),
    "lines of Windows": (BATCH, BOM + GOOD + b"\r\n", ["Content-Type: application/x-ndjson"], [GOOD]),
    "a compressed event": (ONE, gzip.compress(BOM + GOOD), ["Content-Encoding: gzip"], [GOOD]),
}


@pytest.mark.parametrize(("path", "body", "fields", "stored"), MARKED.values(), ids=MARKED)
async def test_a_byte_order_mark_before_json_is_no_part_of_it(
    served: Served, path: str, body: bytes, fields: list[str], stored: list[bytes]
) -> None:
    for data in (post(path, body, *fields), in_chunks(path, [body[:2], body[2:]], *fields)):
        assert (await ask(served, data)).status in (200, 202)
        assert [event.body.strip() for event in await served.take_all()] == stored


@pytest.mark.parametrize(
    "body",
    [BOM, BOM + BOM + GOOD, GOOD + BOM, BOM[:2] + GOOD, b"\xff\xfe" + GOOD, GOOD.decode().encode("utf-16"), BOM + b"{"],
)
async def test_what_only_resembles_a_byte_order_mark_is_no_json(served: Served, body: bytes) -> None:
    for path in (ONE, BATCH):
        reply = await ask(served, post(path, body))
        assert (reply.status, reply.code) == (400, "malformed_json")
    assert served.counts().accepted == 0


GZIP = [
    "gzip",
    "x-gzip",
    "X-Gzip",
    "GZIP",
    "gzip, identity",
    "identity, gzip",
    "x-gzip,identity",
    "identity,identity,gzip",
]
PLAIN = ["identity", "Identity", "", "identity, identity"]
NEITHER = ["br", "gzip, br", "br, gzip", "x-bzip2", "compress", "gzipped", "x-gzipx", "*", "gzip;q=1"]


@pytest.mark.parametrize("encoding", GZIP + PLAIN + NEITHER)
async def test_an_encoding_is_understood_in_every_spelling(served: Served, encoding: str) -> None:
    body = gzip.compress(GOOD) if encoding in GZIP else GOOD
    for path in (ONE, BATCH):
        for data in (
            post(path, body, f"Content-Encoding: {encoding}"),
            in_chunks(path, [body], f"Content-Encoding: {encoding}"),
        ):
            reply = await ask(served, data)
            assert reply.status in ((415,) if encoding in NEITHER else (200, 202)), reply
    assert [event.body for event in await served.take_all()] == [GOOD] * (0 if encoding in NEITHER else 4)


@pytest.mark.parametrize("encoding", ["x-gzip", "gzip, identity", "identity, deflate"])
async def test_a_spelling_changes_nothing_about_what_is_cut_short_or_too_large(encoding: str) -> None:
    pack = zlib.compress if "deflate" in encoding else gzip.compress
    async with serving(max_body_bytes=5000) as served:
        fields = f"Content-Encoding: {encoding}"
        assert (await ask(served, post(ONE, pack(GOOD)[:-3], fields))).code == "malformed_body"
        assert (await ask(served, post(ONE, pack(b" " * 5001), fields))).code == "body_too_large"
        assert (await ask(served, post(ONE, GOOD, fields))).code == "malformed_body"


HOSTS = [
    "localhost.",
    "LOCALHOST.",
    "localhost.:8920",
    "localhost:8920",
    "Localhost",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]:8920",
]
STRANGERS = [
    "localhost..",
    ".localhost",
    "localhost.evil.example",
    "localhost.evil.example.",
    "evil.example",
    "evil.example.",
    "evillocalhost.",
    ".",
    "localhost.:x",
    "localhost:.",
    "local.host",
]


@pytest.mark.parametrize("host", HOSTS + STRANGERS)
async def test_a_host_may_end_in_the_dot_of_the_root(served: Served, host: str) -> None:
    reply = await ask(served, post(ONE).replace(b"Host: localhost", b"Host: " + host.encode()))
    assert reply.status == (200 if host in HOSTS else 403)


async def test_a_host_that_is_allowed_is_so_with_the_dot_and_without() -> None:
    async with serving(allowed_hosts=("app.internal",)) as served:
        for host in ("app.internal", "app.internal.", "APP.internal.:80"):
            reply = await ask(served, post(ONE).replace(b"Host: localhost", b"Host: " + host.encode()))
            assert reply.status == 200, host


# Headers of answers


ANSWERS: dict[str, bytes] = {
    "200": post(ONE),
    "202": post(BATCH),
    "202 of lines": post(BATCH, GOOD, "Content-Type: application/x-ndjson"),
    "422": post(ONE, b"{}"),
    "422 of a batch": post(BATCH, b"[{}]"),
    "400 JSON": post(ONE, b"{"),
    "400 HTTP": b"}\r\n\r\n",
    "400 body": post(ONE, b"x", "Content-Encoding: gzip"),
    "403": post(ONE).replace(b"localhost", b"evil.example"),
    "403 origin": post(ONE, GOOD, "Origin: https://evil.example"),
    "404": post("/nothing"),
    "405": get(ONE),
    "413": post(ONE, b"").replace(b"Length: 0", b"Length: 99999999"),
    "414": post(ONE + "?" + "x" * 9000),
    "415": post(ONE, GOOD, "Content-Type: text/plain"),
    "431": post(ONE, GOOD, "Cookie: " + "x" * 40_000),
    "501": in_chunks(ONE, [GOOD]).replace(b": chunked", b": gzip, chunked"),
    "status": get("/v1/status"),
    "a receipt": get("/v1/events/1"),
    "dead letters": get("/v1/dead-letters"),
    "dead letters without leave": get("/v1/dead-letters?payload=true"),
}


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS)
async def test_answers_in_json_are_never_guessed_at_nor_kept_by_caches(served: Served, data: bytes) -> None:
    reply = await ask(served, data)
    assert reply.headers["content-type"].startswith("application/json")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"


async def test_answers_about_time_and_of_an_origin_have_these_headers_too() -> None:
    shop = "https://shop.example"
    async with serving(allowed_origins=(shop,), max_events=1) as served:
        fields = [f"Origin: {shop}", "Content-Type: application/json"]
        for status in (200, 429):
            reply = await ask(served, post(ONE, GOOD, *fields))
            assert reply.status == status
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["access-control-allow-origin"] == shop

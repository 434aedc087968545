"""What real clients do beside the plain post: HTTP/1.0, HEAD, offers to upgrade, expectations."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.http_intake_harness import Served, serving
from tests.fakes.wire import BATCH, GOOD, ONE, Reply, by_bytes, cut, event, get, in_chunks, post, wire_to


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(header_timeout_seconds=60, body_timeout_seconds=60) as running:
        yield running


async def ask(served: Served, data: bytes, *, to: str = "POST") -> Reply:
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(data)
        return await wire.reply(to=to)


# Upgrades


UPGRADES: dict[str, list[str]] = {
    "h2c, as curl and Java offer it": [
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    ],
    "a websocket": [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ],
    "keep-alive and upgrade": ["Connection: keep-alive, Upgrade", "Upgrade: foo/2"],
    "TLS": ["Connection: upgrade", "Upgrade: TLS/1.3, HTTP/1.1"],
    "two lines": ["Upgrade: h2c", "Connection: HTTP2-Settings", "Connection: Upgrade"],
    "an upgrade that Connection does not name": ["Upgrade: h2c"],
    "a Connection without an upgrade": ["Connection: Upgrade"],
    "an empty upgrade": ["Connection: Upgrade", "Upgrade:"],
}


@pytest.mark.parametrize("fields", UPGRADES.values(), ids=UPGRADES)
async def test_an_offer_to_upgrade_is_served_without_it_and_what_follows_is_answered(
    served: Served, fields: list[str]
) -> None:
    data = b"".join(
        (
            post(ONE, event(0), *fields),
            post(ONE, event(1)),
            in_chunks(BATCH, [event(2)[:20], event(2)[20:]], *fields, trailers=b"X: y\r\n"),
            get("/v1/status", *fields),
            post(ONE, event(3), *fields),
            post(ONE, event(4), *fields, "Expect: 100-continue"),
            post(BATCH, event(5)),
        )
    )
    wanted = [200, 200, 202, 200, 200, 200, 202]
    for segments in ([data], by_bytes(data), cut(data, *range(0, len(data), 97)), cut(data, *range(0, len(data), 331))):
        async with wire_to(served.place) as wire:
            await wire.send(*segments)
            statuses: list[int] = []
            while len(statuses) < len(wanted):
                reply = await wire.reply()
                assert "upgrade" not in reply.headers
                statuses += [reply.status] * (reply.status != 100)
            assert statuses == wanted
        assert [event.body for event in await served.take_all()] == [event(i) for i in range(6)]


async def test_every_cut_of_an_upgrade_with_a_body_and_a_post_behind_it(served: Served) -> None:
    for first in (post(ONE, event(0), *UPGRADES["two lines"]), in_chunks(ONE, [event(0)], *UPGRADES["two lines"])):
        data = first + post(ONE, event(1))
        async with wire_to(served.place) as wire:
            for place in range(1, len(data), 3):
                await wire.send(*cut(data, place))
                assert [reply.status for reply in await wire.replies(2)] == [200, 200], place
        assert {event.body for event in await served.take_all()} == {event(0), event(1)}


@pytest.mark.parametrize(
    "fields", [["Connection: Upgrade", "Upgrade: h2c"], ["Connection: Upgrade, close", "Upgrade: x"]]
)
async def test_a_body_behind_an_offer_to_upgrade_has_the_same_bounds(fields: list[str]) -> None:
    async with serving(max_body_bytes=1000, body_timeout_seconds=60) as served:
        assert (await ask(served, post(ONE, b" " * 1001, *fields))).status == 413
        assert (await ask(served, in_chunks(ONE, [b" " * 600] * 2, *fields))).status == 413
        assert (await ask(served, in_chunks(ONE, [b"x"], *fields).replace(b"1\r\nx", b"z\r\nx"))).status == 400
        twice = post(ONE, GOOD, *fields, "Transfer-Encoding: chunked")
        assert (await ask(served, twice)).code == "malformed_http"
        assert served.counts().accepted == 0


# Expectations


async def test_leave_is_given_only_when_the_body_will_be_read(served: Served) -> None:
    expecting = "Expect: 100-continue"
    refused = {
        "too long": (post(ONE, b"", expecting).replace(b"Length: 0", b"Length: 99999999"), 413),
        "another encoding": (post(ONE, GOOD, expecting, "Content-Encoding: rot13")[: -len(GOOD)], 415),
        "another path": (post("/nothing", GOOD, expecting)[: -len(GOOD)], 404),
        "another method": (post(ONE, GOOD, expecting, method="PUT")[: -len(GOOD)], 405),
        "another host": (post(ONE, GOOD, expecting).replace(b"localhost", b"evil.example")[: -len(GOOD)], 403),
        "two framings": (post(ONE, GOOD, expecting, "Transfer-Encoding: chunked")[: -len(GOOD)], 400),
        "another coding": (
            post(ONE, GOOD, expecting, "Transfer-Encoding: gzip, chunked").replace(b"Content-Length: 78\r\n", b""),
            501,
        ),
    }
    for name, (data, status) in refused.items():
        reply = await ask(served, data)
        assert reply.status == status, name
    assert served.counts().accepted == 0


async def test_a_connection_whose_expectation_was_refused_is_closed_or_waits_for_the_body(served: Served) -> None:
    data = post("/nothing", GOOD, "Expect: 100-continue")
    async with wire_to(served.place) as wire:
        await wire.send(data[: -len(GOOD)])
        reply = await wire.reply()
        assert reply.status == 404
        await wire.send_what_is_taken(GOOD + post(ONE, event(1)))
        if reply.closes:
            assert await wire.rest() == []
        else:
            assert (await wire.reply()).status == 200


async def test_leave_is_given_after_the_answers_to_what_came_before(served: Served) -> None:
    async with wire_to(served.place) as wire:
        waiting = post(BATCH, event(2), "Expect: 100-continue")
        body = waiting.partition(b"\r\n\r\n")[2]
        await wire.send(post(ONE, event(0)) + post(BATCH, event(1)) + waiting[: -len(body)])
        assert [reply.status for reply in await wire.replies(3)] == [200, 202, 100]
        assert await wire.is_silent()
        await wire.send(body + post(ONE, event(3)))
        assert [reply.status for reply in await wire.replies(2)] == [202, 200]
    assert [event.body for event in await served.take_all()] == [event(i) for i in range(4)]


@pytest.mark.parametrize("expected", ["100-Continue", "100-CONTINUE"])
async def test_leave_is_asked_for_in_any_case_of_letters(served: Served, expected: str) -> None:
    async with wire_to(served.place) as wire:
        for _ in range(3):
            await wire.send(in_chunks(ONE, [GOOD], f"Expect: {expected}").partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            assert (await wire.reply()).status == 100
            await wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD))
            assert (await wire.reply()).status == 200


async def test_a_client_of_http_1_0_is_never_told_to_go_on(served: Served) -> None:
    data = post(ONE, GOOD, "Expect: 100-continue", version="1.0")
    async with wire_to(served.place) as wire:
        await wire.send(data[: -len(GOOD)])
        assert await wire.is_silent()
        await wire.send(GOOD)
        assert [reply.status for reply in await wire.rest()] == [200]


@pytest.mark.parametrize("expected", ["a-miracle", "200-ok", "", "100-continue-please"])
async def test_another_expectation_is_ignored_or_fails_and_never_hangs(served: Served, expected: str) -> None:
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(post(ONE, GOOD, f"Expect: {expected}"))
        reply = await wire.reply()
        assert reply.status in (200, 417)
        if not reply.closes:
            await wire.send(post(ONE))
            assert (await wire.reply()).status == 200


async def test_nobody_is_told_to_go_on_who_sends_nothing_more(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(get("/v1/status", "Expect: 100-continue"))
        assert (await wire.reply()).status == 200


# HEAD and HTTP/1.0


@pytest.mark.parametrize(
    "path", ["/", "/v1/status", "/v1/events/1", "/v1/attribute-types", "/nothing", "/v1/dead-letters"]
)
async def test_head_is_answered_like_get_without_the_body(served: Served, path: str) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(
            get(path, "Accept: text/html") + get(path, "Accept: text/html", method="HEAD") + get("/v1/status")
        )
        full, bare, other = await wire.reply(), await wire.reply(to="HEAD"), await wire.reply()
        assert bare.status == full.status
        varying = {"date"}
        assert {name: bare.headers[name] for name in bare.headers.keys() - varying} == {
            name: full.headers[name] for name in full.headers.keys() - varying
        }
        assert other.status == 200


@pytest.mark.parametrize("path", [ONE, BATCH])
async def test_head_of_what_is_posted_to_is_no_method(served: Served, path: str) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(get(path, method="HEAD") + post(ONE))
        reply = await wire.reply(to="HEAD")
        assert (reply.status, reply.headers["allow"], reply.body) == (405, "POST", b"")
        assert (await wire.reply()).status == 200
    assert served.counts().received == 1


async def test_head_with_a_body_is_read_to_its_end(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(post("/v1/status", GOOD, method="HEAD") + post(ONE))
        assert (await wire.reply(to="HEAD")).status == 200
        assert (await wire.reply()).status == 200


async def test_a_client_of_http_1_0_is_closed_unless_it_asks_to_be_kept(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(post(ONE, GOOD, version="1.0"))
        assert [(reply.status, reply.closes) for reply in await wire.rest()] == [(200, True)]
    async with wire_to(served.place) as wire:
        for wish in ("keep-alive", "Keep-Alive", "TE, keep-alive"):
            await wire.send(post(ONE, GOOD, f"Connection: {wish}", version="1.0"))
            reply = await wire.reply()
            assert (reply.status, reply.headers["connection"].lower()) == (200, "keep-alive")
        await wire.send(get("/v1/status", version="1.0"))
        assert [reply.status for reply in await wire.rest()] == [200]
    async with wire_to(served.place) as wire:
        await wire.send(post(ONE, GOOD, "Connection: keep-alive", version="1.0") * 5 + post(ONE, version="1.0"))
        assert [reply.status for reply in await wire.rest()] == [200] * 6


async def test_a_unix_socket_needs_no_host_in_http_1_0(tmp_path: Path) -> None:
    async with serving(unix=tmp_path / "s") as served:
        data = post(ONE, GOOD, version="1.0").replace(b"Host: localhost\r\n", b"")
        assert (await ask(served, data)).status == 200

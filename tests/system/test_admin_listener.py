"""The admin listener: HTTP as the intake speaks it, a few connections of its own, answers to its own names only."""

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.wire import GOOD, ONE, get, in_chunks, post, wire_to
from tests.system.processes import COMMAND, Daemon, running_daemon, starting_daemon, until

NOWHERE = "http://127.0.0.1:9/track/event"
MB = 1_000_000
LOOPS = ["uvloop", "asyncio"]


@pytest.fixture(params=LOOPS)
async def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Daemon]:
    settings = {"intake__header_timeout_seconds": 60, "intake__body_timeout_seconds": 60}
    async with running_daemon(tmp_path, NOWHERE, loop=request.param, shutdown__drain_seconds=0, **settings) as running:
        yield running
        await assert_well(running)
        assert [line for line in running.lines if line["level"] == "error"] == []


async def assert_well(daemon: Daemon) -> None:
    ledger = await daemon.ledger()
    assert ledger["received"] == ledger["accepted"] + ledger["duplicates"] + ledger["rejected"]
    assert ledger["unaccounted"] == 0


def places(daemon: Daemon) -> list[object]:
    return [daemon.ready["http"], daemon.unix_socket]


PROBES = ["/livez", "/readyz", "/healthz", "/metrics"]


async def test_the_admin_listener_speaks_http_as_the_intake_does(daemon: Daemon) -> None:
    admin = daemon.ready["admin"]
    async with wire_to(admin) as wire:
        await wire.send(get("/livez") * 150 + b"".join(get(path) + get(path, method="HEAD") for path in PROBES))
        assert {reply.status for reply in await wire.replies(150)} == {200}
        for path in PROBES:
            full, bare = await wire.reply(), await wire.reply(to="HEAD")
            assert (full.status, bare.status, bare.body) == (200, 200, b"")
            assert bare.headers["content-type"] == full.headers["content-type"]
            # The metrics have changed meanwhile, by a few digits.
            assert abs(int(bare.headers["content-length"]) - len(full.body)) <= (200 if path == "/metrics" else 0)
        wire.half_close()
        assert await wire.rest() == []
    asked: dict[str, tuple[bytes, list[int]]] = {
        "half-closed": (get("/metrics"), [200]),
        "half-closed in a head": (get("/livez")[:20], [400]),
        "another path": (get("/nothing") + get("/livez"), [404, 200]),
        "another method": (post("/livez") + get("/livez"), [405, 200]),
        "HTTP/1.0": (get("/livez", version="1.0"), [200]),
        "HTTP/1.0 without a Host": (b"GET /livez HTTP/1.0\r\n\r\n", [200]),
        "HTTP/1.0, kept": (get("/livez", "Connection: keep-alive", version="1.0") * 2, [200, 200]),
        "an upgrade": (get("/livez", "Connection: Upgrade", "Upgrade: h2c") + get("/livez"), [200, 200]),
        "malformed": (b"}\r\n\r\n", [400]),
        "two framings": (post("/livez", GOOD, "Transfer-Encoding: chunked"), [400]),
        "large headers": (get("/livez", "Cookie: " + "x" * 40_000), [431]),
        "many headers": (get("/livez", *["X: y"] * 300), [431]),
        "a long target": (get("/livez?" + "x" * 9000), [414]),
        "a head without an end": (b"GET /livez HTTP/1.1\r\nX: " + b"y" * 300_000, [431]),
    }
    for name, (data, statuses) in asked.items():
        async with wire_to(admin) as wire:
            await wire.send_what_is_taken(data)
            wire.half_close()
            assert [reply.status for reply in await wire.rest()] == statuses, name
    assert (await daemon.ledger())["received"] == 0


async def test_a_body_that_the_admin_listener_does_not_want_is_bounded_too(daemon: Daemon) -> None:
    for data in (post("/livez", b" " * 5 * MB), in_chunks("/metrics", [b" " * MB] * 5)):
        async with wire_to(daemon.ready["admin"]) as wire:
            await wire.send_what_is_taken(data)
            assert (await wire.reply()).status in (405, 413)


@pytest.mark.parametrize("allowed", ["localhost", "localhost,forwarder.internal"])
async def test_the_admin_listener_answers_to_addresses_and_allowed_names_only(tmp_path: Path, allowed: str) -> None:
    async with running_daemon(tmp_path, NOWHERE, intake__allowed_hosts=allowed) as daemon:
        _, _, port = daemon.ready["admin"].rpartition(":")
        good = [
            "localhost",
            f"localhost:{port}",
            "LOCALHOST.",
            "127.0.0.1",
            f"127.0.0.1:{port}",
            "10.1.2.3:9920",
            "[::1]",
        ]
        good += ["[fd00::1]:9920"]
        bad = [
            "evil.example",
            "evil.example:9920",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.1.2.3.4",
            "1x",
        ]
        (good if "forwarder" in allowed else bad).append("forwarder.internal:9920")
        for path in [*PROBES, "/nothing"]:
            for host in good + bad:
                async with wire_to(daemon.ready["admin"]) as wire:
                    await wire.send(get(path).replace(b"Host: localhost", b"Host: " + host.encode()))
                    status = (await wire.reply()).status
                    assert status == ((404 if path == "/nothing" else 200) if host in good else 403), (path, host)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
async def test_silent_connections_to_the_admin_listener_take_neither_descriptors_nor_answers(tmp_path: Path) -> None:
    """A scraper and probes that are kept are not pushed out either."""
    limited = ["sh", "-c", 'ulimit -n 1024; exec "$@"', "sh", *COMMAND]
    async with starting_daemon(tmp_path, NOWHERE, limited) as daemon, AsyncExitStack() as stack:
        assert await daemon.until_ready(), daemon.lines
        admin = daemon.ready["admin"]
        kept = await stack.enter_async_context(wire_to(admin))
        await kept.send(get("/metrics"))
        assert (await kept.reply()).status == 200
        for _ in range(13):
            for number in range(100):
                silent = await stack.enter_async_context(wire_to(admin))
                await silent.send_what_is_taken(b"" if number % 2 else b"GET /livez HT")
            for place in places(daemon):
                async with wire_to(place) as wire:
                    await wire.send(post(ONE))
                    assert (await wire.reply()).status == 200
            async with wire_to(admin) as wire:
                await wire.send(get("/livez"))
                assert (await wire.reply()).status == 200
        await kept.send(get("/metrics"))
        assert (await kept.reply()).status == 200
        assert open_files(daemon) < 200


async def test_descriptors_that_run_out_are_a_line_in_the_log_and_no_end(daemon: Daemon) -> None:
    pid = daemon.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    before = len(daemon.lines)

    def said() -> list[dict[str, Any]]:
        return [line for line in daemon.lines[before:] if "open files" in line["message"]]

    async with AsyncExitStack() as stack:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(daemon) + 5, limits[1]))
        for _ in range(40):
            await stack.enter_async_context(wire_to(daemon.ready["http"]))
        await until(said, "it is logged", seconds=30)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    async def is_served() -> bool:
        async with wire_to(daemon.ready["http"]) as wire:
            await wire.send_what_is_taken(get("/v1/status", "Connection: close"))
            return [reply.status for reply in await wire.rest()] == [200]

    await until(is_served, "it serves again")
    assert len(daemon.lines) - before <= 5
    assert all("traceback" not in line for line in daemon.lines)
    daemon.lines[before:] = []


def open_files(daemon: Daemon) -> int:
    return sum(1 for _ in Path(f"/proc/{daemon.process.pid}/fd").iterdir())


async def test_half_a_head_to_the_admin_listener_is_too_slow(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE, intake__header_timeout_seconds=4) as daemon:
        async with wire_to(daemon.ready["admin"]) as wire:
            await wire.send(b"GET /livez HT")
            assert [reply.status for reply in await wire.rest()] == [408]
        async with wire_to(daemon.ready["admin"]) as wire:
            assert await wire.rest() == []
        await until(lambda: open_files(daemon) < 100, "its descriptors are free")

"""curl in the ways in which people use it, over TCP and the Unix socket, on both event loops."""

import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.wire import GOOD, ONE
from tests.system.clients import MIB, NOWHERE, accepted, batch, daemon_that_stays_well, run
from tests.system.processes import Daemon, running_daemon
from tests.system.tools import needs


@pytest.fixture(params=["uvloop", "asyncio"])
async def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Daemon]:
    async with daemon_that_stays_well(tmp_path, request.param) as running:
        yield running


class Curl:
    """curl, towards one of a daemon's addresses."""

    def __init__(self, daemon: Daemon, place: str) -> None:
        self._place = ["--unix-socket", str(daemon.unix_socket)] if place == "unix" else []
        self.base = "http://localhost" if place == "unix" else daemon.base

    async def __call__(self, *arguments: str, path: str = ONE, stdin: bytes = b"") -> tuple[list[str], str]:
        """Return what it says of each transfer, which is the status, and what it says when it is verbose."""
        common = [*self._place, "--silent", "--show-error", "--verbose", "--max-time", "20", "--output", os.devnull]
        out, err = await run(
            needs("curl"), *common, "--write-out", "%{http_code}\n", *arguments, self.base + path, stdin=stdin
        )
        return out.decode().split(), err


@pytest.fixture(params=["tcp", "unix"])
def curl(request: pytest.FixtureRequest, daemon: Daemon) -> Curl:
    return Curl(daemon, request.param)


TYPE: Final = ("--header", "Content-Type: application/json")


async def test_curl_posts_in_every_way_it_has(daemon: Daemon, curl: Curl, tmp_path: Path) -> None:
    packed = tmp_path / "event.gz"
    packed.write_bytes(gzip.compress(GOOD))
    from_stdin = ("--data-binary", "@-")
    ways: dict[str, tuple[tuple[str, ...], bytes]] = {
        "plain": ((*TYPE, "--data", GOOD.decode()), b""),
        "json": (("--json", "@-"), GOOD),
        "HTTP/1.0": ((*TYPE, "--http1.0", *from_stdin), GOOD),
        "an offer of HTTP/2": ((*TYPE, "--http2", *from_stdin), GOOD),
        "chunked": ((*TYPE, "--header", "Transfer-Encoding: chunked", *from_stdin), GOOD),
        "an upload from a pipe": ((*TYPE, "--request", "POST", "--upload-file", "-"), GOOD),
        "an upload from a pipe with an offer": ((*TYPE, "--http2", "--request", "POST", "--upload-file", "-"), GOOD),
        "an expectation": ((*TYPE, "--header", "Expect: 100-continue", *from_stdin), GOOD),
        "compressed": ((*TYPE, "--header", "Content-Encoding: gzip", "--data-binary", f"@{packed}"), b""),
        "a large cookie": ((*TYPE, "--cookie", "a=" + "x" * 7000, *from_stdin), GOOD),
        "a byte order mark": ((*TYPE, *from_stdin), b"\xef\xbb\xbf" + GOOD),
        "a large event": ((*TYPE, *from_stdin), GOOD + b" " * 900_000),
    }
    for name, (arguments, stdin) in ways.items():
        statuses, said = await curl(*arguments, stdin=stdin)
        assert statuses == ["200"], (name, said)
        assert "left intact" in said or "Closing connection" in said
    assert await accepted(daemon) == len(ways)


async def test_curl_asks_for_heads_and_pages(curl: Curl) -> None:
    for path, status in (("/v1/status", "200"), ("/", "200"), ("/nothing", "404"), (ONE, "405")):
        for how in ((), ("--head",), ("--http1.0",), ("--http1.0", "--head"), ("--http2",), ("--compressed",)):
            statuses, said = await curl(*how, path=path)
            assert statuses == [status], (path, how, said)


async def test_curl_keeps_its_connection(daemon: Daemon, curl: Curl) -> None:
    more = ["--output", os.devnull, curl.base + ONE] * 3
    statuses, said = await curl(*TYPE, "--data-binary", GOOD.decode(), *more)
    assert statuses == ["200"] * 4
    assert said.count("Re-using existing connection") == 3, said
    assert await accepted(daemon) == 4


async def test_curl_learns_that_two_mebibytes_are_too_large_before_it_sends_them_and_while_it_does(
    daemon: Daemon, curl: Curl
) -> None:
    body = batch(2 * MIB)
    for path in (ONE, "/v1/events"):
        waits = (*TYPE, "--data-binary", "@-")
        statuses, said = await curl(*waits, path=path, stdin=body)
        assert statuses == ["413"]
        assert "100 Continue" not in said
        statuses, _ = await curl(*waits, "--header", "Expect:", path=path, stdin=body)
        assert statuses == ["413"]
        statuses, _ = await curl(*TYPE, "--request", "POST", "--upload-file", "-", path=path, stdin=body)
        assert statuses == ["413"]
    ledger = await daemon.ledger()
    assert (ledger["accepted"], ledger["rejected"]) == (0, 6)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("place", ["tcp", "unix"])
async def test_curl_is_told_to_go_on_where_two_mebibytes_are_allowed(tmp_path: Path, loop: str, place: str) -> None:
    body = batch(2 * MIB)
    settings = {"intake__max_body_bytes": 4 * MIB, "buffer__max_bytes": 256 * MIB}
    async with running_daemon(tmp_path, NOWHERE, loop=loop, shutdown__drain_seconds=0, **settings) as daemon:
        curl = Curl(daemon, place)
        for how in (("--data-binary", "@-"), ("--request", "POST", "--upload-file", "-")):
            statuses, said = await curl(*TYPE, *how, path="/v1/events", stdin=body)
            assert statuses == ["202"]
            assert "100 Continue" in said
            assert "Done waiting for 100-continue" not in said
        assert await accepted(daemon) == 2 * body.count(b"customerId")

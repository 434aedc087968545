"""When no more files can be opened, one line says so, and afterwards everything is accepted as before: on both loops."""

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, until


def about_files(daemon: Daemon) -> list[dict[str, Any]]:
    return [line for line in daemon.lines if "the limit of open files is reached" in line["message"]]


def connected(daemon: Daemon, way_in: str) -> socket.socket:
    """Return a connection on which nothing is sent."""
    if way_in == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(daemon.unix_socket))
        return connection
    host, _, port = daemon.ready[way_in].rpartition(":")
    return socket.create_connection((host, int(port)))


@contextmanager
def exhausted(daemon: Daemon, way_in: str) -> Iterator[int]:
    """Have a daemon with no room for another file while the block runs; give the limit."""
    pid = daemon.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()) + 1
    # Some numbers below that are free, so a few connections are accepted.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    with ExitStack() as idle:
        for _ in range(40):
            idle.enter_context(connected(daemon, way_in))
        yield limit
        if daemon.process.returncode is None:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def accepted(daemon: Daemon, number: int) -> bool:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(number)) as response:
        return response.status == 200


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("way_in", ["http", "unix", "admin"])
async def test_the_limit_of_open_files_is_told_once_and_then_all_is_as_before(
    tmp_path: Path, loop: str, way_in: str
) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, loop=loop) as daemon:
        assert await accepted(daemon, 1)
        with exhausted(daemon, way_in) as limit:
            (line,) = await until(lambda: about_files(daemon), "it is told")
            assert (line["level"], line["limit"]) == ("error", limit)
            assert "ulimit -n" in line["message"]
            assert await accepted(daemon, 2), "a connection that is open already goes on"
        for way in ("http", "unix", "admin"):
            with connected(daemon, way) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await asyncio.to_thread(connection.recv, 5)).startswith(b"HTTP")
        await until(daemon.drained, "both events are delivered")
        assert await daemon.stop() == 0
    assert_clean_log(daemon)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_daemon_without_room_for_another_file_stops_as_ever(tmp_path: Path, loop: str) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, loop=loop) as daemon:
        with exhausted(daemon, "http"):
            await until(lambda: about_files(daemon), "it is told")
            assert await daemon.stop() == 0
    assert_clean_log(daemon)


def assert_clean_log(daemon: Daemon) -> None:
    assert [line for line in daemon.lines if "traceback" in line or "socket.accept" in line["message"]] == []
    assert len(about_files(daemon)) == 1

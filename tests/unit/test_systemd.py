"""What systemd is told, over real datagram sockets; and that nobody else notices anything of it."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from forwarder.host.systemd import Systemd
from tests.fakes.virtual_time import in_virtual_time


class Listener:
    """A socket as systemd has one."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(path)

    def received(self) -> list[str]:
        datagrams = []
        with suppress(BlockingIOError):
            while True:
                datagrams.append(self.socket.recv(4096).decode())
        return datagrams


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(str(tmp_path / "notify"))
    yield listener
    listener.socket.close()


async def beats(systemd: Systemd, listener: Listener, seconds: float) -> list[str]:
    """Return what comes while it serves for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await systemd.serve(lambda: "ready,\n 3 events")
    return listener.received()


def test_it_tells_that_it_is_ready_and_how_long_stopping_may_take(listener: Listener) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": listener.socket.getsockname()})
    systemd.ready()
    assert listener.received() == ["READY=1"]
    systemd.stopping(within_seconds=22.5)
    assert listener.received() == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=22500000"]


def test_the_socket_may_be_in_the_abstract_namespace() -> None:
    name = f"forwarder-test-{os.getpid()}-{time.monotonic_ns()}"
    listener = Listener(f"\0{name}")
    Systemd({"NOTIFY_SOCKET": f"@{name}"}).ready()
    assert listener.received() == ["READY=1"]
    listener.socket.close()


@in_virtual_time
async def test_a_sign_of_life_comes_twice_as_often_as_the_watchdog_wants_one(listener: Listener) -> None:
    environment = {"NOTIFY_SOCKET": listener.socket.getsockname(), "WATCHDOG_USEC": "200000"}
    came = await beats(Systemd(environment | {"WATCHDOG_PID": str(os.getpid())}), listener, 0.55)
    assert set(came) == {"WATCHDOG=1\nSTATUS=ready, 3 events"}
    assert len(came) == 6


async def test_a_loop_that_hangs_gives_no_sign_of_life(listener: Listener) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": listener.socket.getsockname(), "WATCHDOG_USEC": "100000"})
    serving = asyncio.create_task(systemd.serve(lambda: "ready"))
    await asyncio.sleep(0.1)
    assert listener.received()
    time.sleep(0.3)  # noqa: ASYNC251 - it is to hang
    assert listener.received() == []
    serving.cancel()


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "often"}])
async def test_without_a_watchdog_only_the_status_is_told(listener: Listener, watchdog: dict[str, str]) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": listener.socket.getsockname()} | watchdog)
    assert await beats(systemd, listener, 0.05) == ["STATUS=ready, 3 events"]


async def test_another_processes_watchdog_is_not_this_ones(listener: Listener) -> None:
    watchdog = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid() + 1)}
    systemd = Systemd({"NOTIFY_SOCKET": listener.socket.getsockname()} | watchdog)
    assert await beats(systemd, listener, 0.05) == ["STATUS=ready, 3 events"]


async def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr("forwarder.host.systemd.socket.socket", fail)
    systemd = Systemd({"WATCHDOG_USEC": "100000"})
    systemd.ready()
    systemd.stopping(within_seconds=1)
    async with asyncio.timeout(20):
        await systemd.serve(lambda: "ready")


@pytest.mark.parametrize("address", ["/nobody/is/here", "relative", "vsock:2:1234", "/" + "x" * 200, "/\0", "@"])
async def test_whatever_the_address_is_it_does_not_fail(address: str, listener: Listener) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"})
    systemd.ready()
    systemd.stopping(within_seconds=1)
    assert await beats(systemd, listener, 0.05) == []


def test_a_socket_that_nobody_reads_does_not_hold_it_up(listener: Listener) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": listener.socket.getsockname()})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, suppress(BlockingIOError):
        filler.setblocking(False)
        while True:
            filler.sendto(b"X", listener.socket.getsockname())
    systemd.ready()
    assert "READY=1" not in listener.received()

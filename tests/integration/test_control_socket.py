"""The control socket in a place that changes while the daemon runs: it comes back, and takes nobody else's place."""

import asyncio
import json
import logging
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from forwarder.control_socket import ControlSocket
from forwarder.settings import ControlSettings, Group, Settings
from tests.fakes.http_intake_harness import Served, serving, until

BOTH_LOOPS = True


@dataclass
class Control:
    """A control socket that is looked after very often."""

    socket: ControlSocket
    place: Path
    served: Served
    changes: list[str | None] = field(default_factory=list)
    """Its address after each change."""

    def settings(self, group: int | None = None) -> Settings:
        return Settings(
            control=ControlSettings(socket=str(self.place), group=None if group is None else Group("operators", group))
        )

    async def until_answers(self) -> None:
        await until(lambda: self.socket.address == str(self.place) and self.place.exists(), what="it is there")
        assert await asked(self.place) == "ready"

    async def until_changed(self, times: int) -> None:
        await until(lambda: len(self.changes) == times, what="it is made again")

    async def until_gone(self) -> None:
        await until(lambda: self.socket.address is None, what="it is known to be gone")


async def asked(place: Path) -> str:
    """Return the state that a daemon says it is in."""
    reader, writer = await asyncio.open_unix_connection(place)
    writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    state: str = json.loads(answer.partition(b"\r\n\r\n")[2])["state"]
    return state


@asynccontextmanager
async def controlling(directory: Path, *, group: int | None = None) -> AsyncIterator[Control]:
    place = directory / "own" / "control.sock"
    place.parent.mkdir(exist_ok=True)
    async with serving(unix=directory / "first.sock") as served:
        control = Control(ControlSocket(served.intake, telemetry=served.telemetry, look_seconds=0.01), place, served)
        await control.socket.open(control.settings(group), taken=())
        serving_it = asyncio.create_task(control.socket.serve(lambda: control.changes.append(control.socket.address)))
        try:
            yield control
        finally:
            serving_it.cancel()
            await control.socket.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def test_it_is_made_again_when_its_file_was_removed_and_those_who_are_connected_stay(tmp_path: Path) -> None:
    async with controlling(tmp_path) as control:
        reader, writer = await asyncio.open_unix_connection(control.place)
        for number in (1, 2, 3):
            control.place.unlink()
            await control.until_changed(number)
            await control.until_answers()
            assert stat.S_IMODE(control.place.stat().st_mode) == 0o600
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(30):
            assert b'"ready"' in await reader.read()
        writer.close()
        await control.socket.close()
        assert not control.place.exists()


def _removed(place: Path) -> None:
    shutil.rmtree(place.parent)


def _moved(place: Path) -> None:
    place.parent.rename(place.parent.with_name("elsewhere"))


def _made(place: Path) -> None:
    place.parent.mkdir()


def _moved_back(place: Path) -> None:
    place.parent.with_name("elsewhere").rename(place.parent)


@pytest.mark.parametrize(("lose", "restore"), [(_removed, _made), (_moved, _moved_back), (_moved, _made)])
async def test_it_comes_back_with_its_directory_and_is_no_address_meanwhile(
    tmp_path: Path,
    lose: Callable[[Path], object],
    restore: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with controlling(tmp_path) as control:
        lose(control.place)
        await control.until_gone()
        restore(control.place)
        await control.until_answers()
        await until(lambda: control.changes == [None, str(control.place)], what="the change is told, both times")
        assert len(warnings(caplog)) == 1, "it says so once, not each time that it looks"


async def test_another_file_or_daemon_in_its_place_is_left_alone_until_it_is_gone(tmp_path: Path) -> None:
    async with controlling(tmp_path) as control:
        new = control.place.with_name("new")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(new))
            other.listen()
            inode = new.stat().st_ino
            new.rename(control.place)
            await control.until_gone()
            assert control.place.stat().st_ino == inode
        await control.until_answers()

        new.write_text("precious")
        new.rename(control.place)
        await control.until_gone()
        assert control.place.read_text() == "precious"
        await control.socket.close()
        assert control.place.read_text() == "precious"


async def test_the_place_that_another_daemon_had_at_the_start_is_left_to_that_when_it_is_restarted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "own" / "control.sock"
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place))
        other.listen()
        async with controlling(tmp_path) as control:
            assert control.socket.address is None
            assert len(warnings(caplog)) == 1
            other.close()
            async with asyncio.timeout(30):
                await control.socket.serve(lambda: None)
            assert control.socket.address is None
        assert place.exists()


async def test_it_is_for_the_group_when_it_is_made_again_and_for_the_group_of_a_reload_meanwhile(
    tmp_path: Path,
) -> None:
    async with controlling(tmp_path, group=os.getgid()) as control:
        assert stat.S_IMODE(control.place.stat().st_mode) == 0o660
        control.place.unlink()
        await control.until_changed(1)
        assert stat.S_IMODE(control.place.stat().st_mode) == 0o660
        shutil.rmtree(control.place.parent)
        await control.until_gone()
        control.socket.use(control.settings())
        control.place.parent.mkdir()
        await control.until_answers()
        assert stat.S_IMODE(control.place.stat().st_mode) == 0o600

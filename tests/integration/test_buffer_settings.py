"""Each setting of the buffer changes what it says, in the whole app."""

import asyncio
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from forwarder.app import App
from forwarder.buffer.disk import DiskBuffer
from forwarder.database.directory import DirectoryError, DirectoryInUseError
from forwarder.settings import (
    Address,
    AdminSettings,
    BufferSettings,
    GrowlyticsSettings,
    IntakeSettings,
    Secret,
    Settings,
    ShutdownSettings,
)

EVENT = '{"name": "n", "customerId": "c", "time": 1700000000000, "attributes": {}}'
NOBODY = "http://127.0.0.1:9/track/event"


def app_with(buffer: BufferSettings) -> App:
    return App(
        Settings(
            growlytics=GrowlyticsSettings(url=NOBODY, api_key=Secret("k")),
            intake=IntakeSettings(http=Address("127.0.0.1", 0)),
            buffer=buffer,
            admin=AdminSettings(http=None),
            shutdown=ShutdownSettings(drain_seconds=0),
        )
    )


async def post(app: App, http: aiohttp.ClientSession) -> int:
    async with http.post(f"http://{app.addresses['http']}/track/event", data=EVENT.encode()) as response:
        return response.status


@pytest.mark.parametrize(("fsync", "synchronous"), [(False, 1), (True, 2)])
async def test_fsync_chooses_whether_each_commit_waits_for_the_disk(
    tmp_path: Path, fsync: bool, synchronous: int
) -> None:
    app = app_with(BufferSettings(directory=str(tmp_path), fsync=fsync))
    await app.open()
    try:
        database = cast("DiskBuffer", app.buffer)._database
        found = await database.run(lambda each: each.connection.execute("PRAGMA synchronous").fetchone()[0])
        mode = await database.run(lambda each: each.connection.execute("PRAGMA journal_mode").fetchone()[0])
        assert (found, mode) == (synchronous, b"wal")
    finally:
        await app.close()


@pytest.mark.parametrize("kind", ["disk", "memory"])
@pytest.mark.parametrize(("when_full", "third"), [("reject", 429), ("drop_oldest", 200)])
async def test_when_full_chooses_between_refusing_and_dropping_the_oldest(
    tmp_path: Path, kind: str, when_full: str, third: int
) -> None:
    settings = BufferSettings(
        kind="disk" if kind == "disk" else "memory",
        directory=str(tmp_path),
        max_events=2,
        when_full="drop_oldest" if when_full == "drop_oldest" else "reject",
    )
    app = app_with(settings)
    await app.open()  # and nobody takes anything, as it does not serve
    try:
        async with aiohttp.ClientSession() as http:
            assert [await post(app, http) for _ in range(3)] == [200, 200, third]
        ledger = app.buffer.ledger()
        assert (ledger.buffered, ledger.dropped["drop_oldest"], ledger.unaccounted) == (2, int(third == 200), 0)
    finally:
        await app.close()


async def test_the_directory_is_made_where_the_setting_says_and_is_for_one_process_alone(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there"
    app, second = (app_with(BufferSettings(directory=str(directory))) for _ in range(2))
    await app.open()
    try:
        assert (directory / "buffer.db").exists()
        assert directory.stat().st_mode & 0o777 == 0o700
        with pytest.raises(DirectoryInUseError, match=r"is in use by process \d+"):
            await second.open()
    finally:
        await second.close()
        await app.close()
    again = app_with(BufferSettings(directory=str(directory)))
    await again.open()
    await again.close()


async def test_a_directory_that_cannot_be_is_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app = app_with(BufferSettings(directory=str(tmp_path / "file" / "buffer")))
    with pytest.raises(DirectoryError, match=r"^buffer.directory: cannot use .*; name a directory that"):
        await app.open()
    await app.close()


async def test_with_the_buffer_in_memory_no_directory_is_touched(tmp_path: Path) -> None:
    app = app_with(BufferSettings(kind="memory", directory=str(tmp_path / "no")))
    await app.open()
    await app.close()
    await asyncio.sleep(0)
    assert not (tmp_path / "no").exists()

"""A look at a directory that is not used: how many events wait there, and nothing there changes."""

import os
import sqlite3
from pathlib import Path

import pytest

from forwarder.database import events
from forwarder.database.connection import Database, Transaction
from forwarder.database.elsewhere import LeftBehind, left_behind, look_at
from forwarder.settings import BufferSettings
from tests.fakes.events import EventMaker
from tests.fixtures.buffer_0_1_0 import contents, copy_to

LOG = "buffer.db-wal"


def state_of(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in directory.iterdir()
        if path.name != "reserve"
    }


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_events_of_a_file_are_counted_also_those_that_are_only_in_its_log_and_nothing_changes(
    tmp_path: Path, how: str
) -> None:
    directory = copy_to(tmp_path / "buffer", how)
    before = state_of(directory)
    assert look_at(directory) == LeftBehind(directory, contents(how).ledger["buffered"], in_use=False)
    assert state_of(directory) == before


async def test_a_directory_that_is_in_use_is_looked_at_without_a_trace(tmp_path: Path) -> None:
    database = Database(tmp_path, reserve_bytes=4096)
    await database.open()
    made = EventMaker().of("abc")

    def store(transaction: Transaction) -> None:
        events.insert(transaction, made)
        transaction.count("buffered", len(made))

    for number in range(1, 4):
        await database.run(store if number == 1 else lambda transaction: transaction.count("buffered", 1))
        before = state_of(tmp_path)
        assert look_at(tmp_path) == LeftBehind(tmp_path, 2 + number, in_use=True)
        assert state_of(tmp_path) == before
    await database.close()
    found = look_at(tmp_path)
    assert found is not None
    assert (found.events, found.in_use) == (5, False)


async def logs_of(directory: Path, *, transactions: int) -> list[bytes]:
    """Commit an event each; return the log after each. What it has is not in the file."""
    database = Database(directory, reserve_bytes=4096)
    await database.open()
    logs = []
    for _ in range(transactions):
        await database.run(lambda transaction: transaction.count("buffered"))
        logs.append((directory / LOG).read_bytes())
    await database.close()
    return logs


def events_by(log: bytes, directory: Path) -> int:
    (directory / LOG).write_bytes(log)
    found = look_at(directory)
    assert found is not None
    return found.events


async def test_of_the_log_only_what_is_committed_and_of_its_last_round_counts(tmp_path: Path) -> None:
    logs = await logs_of(tmp_path, transactions=3)
    assert [events_by(log, tmp_path) for log in logs] == [1, 2, 3]
    head, frame = 32, 24 + 4096
    assert (len(logs[2]) - head) % frame == 0
    last = len(logs[2]) - frame
    uncommitted = logs[2][: last + 4] + bytes(4) + logs[2][last + 8 :]
    assert events_by(uncommitted, tmp_path) == 2, "the page is there, but not the end of the transaction"
    first_round = b"".join(
        logs[0][at : at + 8] + b"salts..." + logs[0][at + 16 : at + frame] for at in range(head, len(logs[0]), frame)
    )
    assert events_by(logs[2] + first_round, tmp_path) == 3, "the rest was written before the log was begun again"


async def test_events_of_a_process_that_runs_are_its_own_affair_where_the_buffer_is_on_disk(tmp_path: Path) -> None:
    database = Database(tmp_path / "used", reserve_bytes=4096)
    await database.open()
    await database.run(lambda transaction: transaction.count("buffered"))
    on_disk, in_memory = (
        BufferSettings(directory=str(tmp_path / "new")),
        BufferSettings(kind="memory", directory=str(tmp_path / "used")),
    )
    assert left_behind(on_disk, state_directory=str(tmp_path / "used")) == []
    assert left_behind(in_memory, state_directory="") == [LeftBehind(tmp_path / "used", 1, in_use=True)]
    await database.close()
    assert left_behind(on_disk, state_directory=str(tmp_path / "used")) == [
        LeftBehind(tmp_path / "used", 1, in_use=False)
    ]


def test_where_there_is_nothing_or_nothing_of_ours_nothing_is_said(tmp_path: Path) -> None:
    def look(name: str, content: bytes) -> LeftBehind | None:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "buffer.db").write_bytes(content)
        return look_at(directory)

    assert look_at(tmp_path / "missing") is None
    assert look("empty", b"") is None
    assert look("nonsense", os.urandom(8192)) is None
    stopped = (copy_to(tmp_path / "real", "stopped") / "buffer.db").read_bytes()
    assert look("cut off", stopped[:8192]) is None
    assert look("whole", stopped) is not None
    other = sqlite3.connect(":memory:")
    other.execute("CREATE TABLE ledger (x)")
    assert look("another program's", other.serialize()) is None
    other.close()
    pipe = tmp_path / "pipe"
    pipe.mkdir()
    os.mkfifo(pipe / "buffer.db")
    assert look_at(pipe) is None
    link = tmp_path / "link"
    link.mkdir()
    (link / "buffer.db").symlink_to(tmp_path / "real" / "buffer.db")
    assert look_at(link) is None


def test_a_buffer_in_memory_asks_for_its_own_directory_and_one_on_disk_for_systemds(tmp_path: Path) -> None:
    directory = copy_to(tmp_path / "old", "stopped")
    events_there = contents("stopped").ledger["buffered"]
    for settings, state, number in (
        (BufferSettings(kind="memory", directory=str(directory)), "", events_there),
        (BufferSettings(kind="memory", directory=str(tmp_path)), str(directory), None),
        (BufferSettings(directory=str(tmp_path / "new")), str(directory), events_there),
        (BufferSettings(directory=str(directory)), str(directory), None),
        (BufferSettings(directory=f"{directory}/../old"), str(directory), None),
        (BufferSettings(directory=str(directory)), "", None),
    ):
        found = [each.events for each in left_behind(settings, state_directory=state)]
        assert found == ([] if number is None else [number])

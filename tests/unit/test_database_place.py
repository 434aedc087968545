"""The database's file in its place: made for the first time, locked by others, removed, renamed, replaced."""

import fcntl
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from forwarder.database import events
from forwarder.database.connection import Database, MovedError, Transaction
from forwarder.database.directory import DirectoryError, DirectoryInUseError
from forwarder.event import Event
from tests.fakes.databases import inline_database
from tests.fakes.other_users import not_root, open_directory

PLACE = "buffer"
FILE, LOG, LOCK = "buffer.db", "buffer.db-wal", "lock"


def store(number: int) -> Callable[[Transaction], None]:
    made = [Event(number, "c", "n", b"{}", 1e9)]

    def job(transaction: Transaction) -> None:
        events.insert(transaction, made)
        transaction.count("buffered")

    return job


def read(transaction: Transaction) -> list[int]:
    return [event.id for event in events.read_after(transaction, -1, max_events=100, max_bytes=1 << 20).events]


def why_nothing_may_be_put(transaction: Transaction) -> MovedError | None:
    return transaction.moved


async def opened(directory: Path) -> Database:
    database = Database(directory, reserve_bytes=4096)
    await database.open()
    return database


async def ids_in(directory: Path) -> list[int]:
    """Open what is there as after a kill, and return what is in it."""
    database = await opened(directory)
    try:
        assert database.generation == 0, "it is not damaged"
        return await database.run(read)
    finally:
        await database.close()


def killed(directory: Path, to: Path) -> Path:
    return Path(shutil.copytree(directory, to))


# Gone, and perhaps back


def remove_directory(directory: Path) -> None:
    shutil.rmtree(directory)


def remove_file(directory: Path) -> None:
    (directory / FILE).unlink()


def rename_file(directory: Path) -> None:
    (directory / FILE).rename(directory / "kept")


def rename_directory(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def put_an_empty_directory_there(directory: Path) -> None:
    rename_directory(directory)
    directory.mkdir()


def put_a_file_there(directory: Path) -> None:
    rename_directory(directory)
    directory.write_bytes(b"")


def put_a_copy_there(directory: Path) -> None:
    shutil.copyfile(directory / FILE, directory / "copy")
    (directory / "copy").rename(directory / FILE)


def put_a_link_there(directory: Path) -> None:
    rename_file(directory)
    (directory / FILE).symlink_to("kept")


def put_an_empty_file_there(directory: Path) -> None:
    remove_file(directory)
    (directory / FILE).touch()


WAYS = (
    remove_directory,
    remove_file,
    rename_file,
    rename_directory,
    put_an_empty_directory_there,
    put_a_file_there,
    put_a_copy_there,
    put_a_link_there,
    put_an_empty_file_there,
)


@pytest.mark.parametrize("lose", WAYS)
async def test_a_file_that_is_gone_is_noticed_and_can_be_read_and_emptied_but_nothing_is_to_be_put_there(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    database = await opened(tmp_path / PLACE)
    await database.run(store(1))
    await database.run(store(2))
    assert (await database.look()).moved is None
    assert await database.run(why_nothing_may_be_put) is None
    lose(tmp_path / PLACE)
    found = await database.look()
    assert str(tmp_path / PLACE / FILE) in str(found.moved)
    assert (await database.look()).moved is not None
    assert str(await database.run(why_nothing_may_be_put)) == str(found.moved)
    assert await database.run(read) == [1, 2]
    await database.run(lambda transaction: events.remove(transaction, [1]))
    assert await database.run(read) == [2]
    assert (tmp_path / PLACE / LOCK).exists() == (lose not in (remove_directory, rename_directory, *TAKEN_AWAY))
    await database.close()


TAKEN_AWAY = (put_an_empty_directory_there, put_a_file_there)


@pytest.mark.parametrize("lose", [put_a_copy_there, put_an_empty_file_there])
async def test_a_file_that_is_put_in_its_place_is_never_written_to_nor_is_the_log_applied_to_it(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    directory = tmp_path / PLACE
    database = await opened(directory)
    for number in range(1, 20):
        await database.run(store(number))
    lose(directory)
    other = (directory / FILE).read_bytes()
    await database.look()
    await database.run(lambda transaction: events.remove(transaction, [1]))
    assert {path.name for path in directory.iterdir()} == {FILE, LOCK, "reserve"}
    at_a_kill = killed(directory, tmp_path / "killed")
    await database.close()
    for each in (directory, at_a_kill):
        assert (each / FILE).read_bytes() == other
        assert not (each / LOG).exists()
        assert await ids_in(each) == [], "it was copied before anything was written into it"


async def test_a_directory_in_its_place_keeps_its_own_files(tmp_path: Path) -> None:
    directory = tmp_path / PLACE
    database = await opened(directory)
    await database.run(store(1))
    rename_directory(directory)
    other = await opened(directory)  # by another process, say
    await other.run(store(7))
    before = {path.name: path.stat() for path in directory.iterdir()}
    assert (await database.look()).moved is not None
    database.free_reserve(lambda _: None)
    await database.run(lambda transaction: events.remove(transaction, [1]))
    await database.close()
    assert {path.name: path.stat() for path in directory.iterdir()} == before
    assert await other.run(read) == [7]
    assert (await other.look()).moved is None
    await other.close()


@pytest.mark.parametrize("lose", [rename_file, rename_directory])
async def test_what_is_renamed_back_is_as_good_as_before_and_all_that_was_done_meanwhile_is_in_it(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    directory = tmp_path / PLACE
    database = await opened(directory)
    await database.run(store(1))
    await database.run(store(2))
    lose(directory)
    assert (await database.look()).moved is not None
    await database.run(lambda transaction: events.remove(transaction, [1]))
    if lose is rename_file:
        (directory / "kept").rename(directory / FILE)
    else:
        (tmp_path / "elsewhere").rename(directory)
    found = await database.look()
    assert (found.moved, found.recreated) == (None, [])
    assert await database.run(why_nothing_may_be_put) is None
    await database.run(store(3))
    assert await ids_in(killed(directory, tmp_path / "killed")) == [2, 3]
    await database.close()
    assert await ids_in(directory) == [2, 3]


@pytest.mark.parametrize("lose", [rename_file, rename_directory])
async def test_what_was_renamed_has_everything_also_if_it_is_put_back_after_the_end(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    directory = tmp_path / PLACE
    database = await opened(directory)
    for number in (1, 2, 3):
        await database.run(store(number))
    lose(directory)
    await database.look()
    await database.close()
    kept = tmp_path / "put back"
    if lose is rename_file:
        kept.mkdir()
        shutil.copyfile(directory / "kept", kept / FILE)
    else:
        (tmp_path / "elsewhere").rename(kept)
    assert await ids_in(kept) == [1, 2, 3]


# A log or a lock that is gone


@pytest.mark.parametrize("replace", [False, True])
async def test_a_log_that_is_removed_or_replaced_is_begun_anew_and_nothing_is_missing_after_a_kill(
    tmp_path: Path, replace: bool
) -> None:
    directory = tmp_path / PLACE
    database = await opened(directory)
    await database.run(store(1))
    (directory / LOG).unlink()
    if replace:
        (directory / LOG).write_bytes(b"of somebody else")
    found = await database.look()
    assert (found.moved, found.recreated) == (None, ["log"])
    assert await ids_in(killed(directory, tmp_path / "killed at once")) == [1]
    await database.run(store(2))
    assert (await database.look()).recreated == []
    assert await ids_in(killed(directory, tmp_path / "killed later")) == [1, 2]
    await database.close()
    assert await ids_in(directory) == [1, 2]


@pytest.mark.parametrize("replace", [False, True])
async def test_a_lock_that_is_removed_or_replaced_is_taken_anew_so_that_no_other_process_can(
    tmp_path: Path, replace: bool
) -> None:
    database = await opened(tmp_path)
    (tmp_path / LOCK).unlink()
    if replace:
        (tmp_path / LOCK).touch()
    assert (await database.look()).recreated == ["lock"]
    with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}; stop it"):
        await opened(tmp_path)
    assert (await database.look()).recreated == []
    await database.close()


async def test_a_lock_that_another_process_has_made_and_locked_meanwhile_stays_with_that(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    (tmp_path / LOCK).unlink()
    with (tmp_path / LOCK).open("x") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for _ in range(2):
            found = await database.look()
            assert (found.moved, found.recreated) == (None, [])
    assert (await database.look()).recreated == ["lock"], "it is free"
    await database.close()


async def test_a_lock_that_cannot_be_made_anew_counts_as_gone_until_it_can(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    assert "lock is a directory" in str((await database.look()).moved)
    (tmp_path / LOCK).rmdir()
    found = await database.look()
    assert (found.moved, found.recreated) == (None, ["lock"])
    await database.close()


async def test_a_log_that_cannot_be_made_anew_counts_as_gone_at_every_look_until_it_can(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    await database.run(store(1))
    (tmp_path / LOG).unlink()
    (tmp_path / LOG).mkdir()
    assert "cannot be recreated" in str((await database.look()).moved)
    assert "cannot be recreated" in str((await database.look()).moved), "and was not: nothing came back"
    (tmp_path / LOG).rmdir()
    assert await database.run(read) == [1]
    assert (await database.look()).moved is None
    await database.run(store(2))
    await database.close()
    assert await ids_in(tmp_path) == [1, 2]


async def test_a_database_in_memory_or_one_that_is_closed_has_no_place_to_look_at(tmp_path: Path) -> None:
    database = Database(None)
    await database.open()
    assert (await database.look()).moved is None
    await database.close()
    database = await opened(tmp_path)
    await database.close()
    remove_directory(tmp_path)
    assert (await database.look()).moved is None


# The first start, and others at the start


@pytest.mark.parametrize("left", [(), (LOG,), ("buffer.db-shm",), (LOG, "buffer.db-shm")])
async def test_an_empty_file_is_a_new_one(tmp_path: Path, left: tuple[str, ...]) -> None:
    for name in (FILE, *left):
        (tmp_path / name).touch()
    database = await opened(tmp_path)
    assert (database.generation, database.ledger) == (0, {})
    assert database.directory is not None
    assert database.directory.damaged() == []
    await database.run(store(1))
    await database.close()
    assert await ids_in(tmp_path) == [1]


async def test_a_file_with_only_a_head_is_a_new_one(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert (tmp_path / FILE).stat().st_size == 4096
    database = await opened(tmp_path)
    assert (database.generation, database.ledger) == (0, {})
    await database.run(store(1))
    await database.close()


class Death:
    """Ends this process before its nth call of the system or of SQLite."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, _: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and (getattr(function, "__module__", "") == "posix" or function.__name__ == "execute"):
            self._left -= 1
            if self._left < 0:
                os._exit(1)


def first_starts(tmp_path: Path) -> Iterator[Path]:
    """Yield directories whose first start was killed, a little later each time, up to one that was not."""
    for number in count(0, 4):
        directory = tmp_path / str(number)
        child = os.fork()
        if child == 0:
            database = inline_database(directory, reserve_bytes=4096)
            sys.setprofile(Death(number))
            database._open()
            sys.setprofile(None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        yield directory
        if os.waitstatus_to_exitcode(status) == 0:
            return


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child has one thread, and needs no other
async def test_a_first_start_that_is_killed_at_any_moment_leaves_nothing_that_looks_like_damage(
    tmp_path: Path,
) -> None:
    assert await ids_in(tmp_path / "another") == []  # what is the same in every process is done once
    tried = 0
    sizes = set()
    for directory in first_starts(tmp_path):
        tried += 1
        sizes.add((directory / FILE).stat().st_size if (directory / FILE).exists() else None)
        database = inline_database(directory, reserve_bytes=4096)
        await database.open()
        assert (database.generation, database.ledger) == (0, {}), directory
        await database.run(store(1))
        await database.close()
    assert tried > 8
    assert {None, 0, 4096} <= sizes


async def test_a_file_that_another_program_has_locked_is_in_use_and_not_damaged(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    await database.run(store(1))
    await database.close()
    reader = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM ledger").fetchall()
    with pytest.raises(DirectoryInUseError, match=r"buffer.db is locked by another program, such as a backup .*; wait"):
        await opened(tmp_path)
    reader.close()
    assert await ids_in(tmp_path) == [1]


NOBODY = 65534


@pytest.fixture
def directory_of_nobody() -> Iterator[Path]:
    """Run as a user who may use this directory, and not all that is in it."""
    if os.geteuid():
        pytest.skip("only root may be another user")
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(directory)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("name", "owner", "mode", "told"),
    [
        (
            LOCK,
            0,
            0o600,
            r"lock belongs to another user \(uid 0, and this process runs as uid 65534\); run as that user, or",
        ),
        (FILE, 0, 0o666, r"buffer.db belongs to another user \(uid 0"),
    ],
)
async def test_a_file_of_another_user_is_named(
    directory_of_nobody: Path, name: str, owner: int, mode: int, told: str
) -> None:
    path = directory_of_nobody / name
    path.touch()
    os.seteuid(0)
    os.chown(path, owner, owner)
    path.chmod(mode)
    os.seteuid(NOBODY)
    with pytest.raises(DirectoryError, match=told):
        await opened(directory_of_nobody)


async def test_a_path_that_is_too_long_for_sqlite_is_named_as_that(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 150)
    with pytest.raises(DirectoryError, match=r"too long for SQLite .*; name a directory with a shorter path"):
        await opened(directory)


# Not to be written


@pytest.mark.parametrize("name", [FILE, LOG, LOCK])
@pytest.mark.parametrize("mode", [0o400, 0])
async def test_a_file_that_may_not_be_written_is_named_with_the_fix(name: str, mode: int) -> None:
    with open_directory() as directory:
        place = directory / PLACE
        await (await opened(place)).close()
        (place / name).touch()
        (place / name).chmod(mode)
        before = {path.name for path in place.iterdir()}
        with not_root(place, *place.iterdir()):
            with pytest.raises(DirectoryError) as told:
                await opened(place)
            assert f"{place}: {place / name} may not be written: Permission denied; make it writable for this" in str(
                told.value
            )
            assert {path.name for path in place.iterdir()} == before, "nothing is set aside"
            (place / name).chmod(0o600)
            await (await opened(place)).close()


@pytest.mark.parametrize("lose", [[], [LOCK], [FILE]])
async def test_a_directory_in_which_nothing_can_be_created_is_told_as_that(lose: list[str]) -> None:
    with open_directory() as directory:
        place = directory / PLACE
        await (await opened(place)).close()
        for name in lose:
            (place / name).unlink()
        with not_root(place, *place.iterdir()):
            place.chmod(0o500)
            with pytest.raises(DirectoryError) as told:
                await opened(place)
            assert f"cannot use {place}: nothing can be created in it: Permission denied; name a" in str(told.value)

"""The database: one connection on one thread. Each job is one transaction, and the ledger changes in it.

Jobs run in the order they are submitted, and what becomes of them is told in that order on the event loop. A job may be
run on a file whose disk is full or whose content is damaged: both are answers, not surprises. A damaged file is set aside,
and a new one put in its place at once; no other job is run on that before the one that restores what is in memory. A file
that is not in its place any more, as somebody removed or renamed it, can still be read and written, but whatever is in it
ends with the process: see `look`. A disk that is full when the first file is to be made is tried again with each job. `path`
None is a database in memory, which has no such troubles and is gone when it is closed.

Disk: pages freed by what was deleted are used again, and given back to the file system little by little. The file is at
most `max_bytes`; the write-ahead log is written over from its start once it has `CHECKPOINT_PAGES`, so it grows to that and
one transaction more; the reserve is `reserve_bytes`.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Generic, TypeVar

from forwarder.database import ledger, schema
from forwarder.database.directory import RESERVE_BYTES, Directory, DirectoryError, DirectoryInUseError, NoRoomError
from forwarder.database.files import UnfitFileError
from forwarder.database.ledger import Counters
from forwarder.database.schema import PAGE_BYTES

CHECKPOINT_PAGES: Final = 1000
LOOK_SECONDS: Final = 1.0
"""How old what is known of the file's place may be when a job begins."""
_VACUUM_PAGES: Final = 512
_BUSY_SECONDS: Final = 2.0
"""How long the start waits for another program, such as a backup, that has the file locked."""
_ERROR: Final = 1
_READONLY: Final = 8
_BUSY: Final = 5
_FULL: Final = 13
_CANNOT_OPEN: Final = 14
_NO_ROOM: Final = frozenset({_FULL, 778})
"""SQLITE_FULL, IOERR_WRITE: a quota, or a limit of the process, is told so."""
_DAMAGED: Final = frozenset({11, 18, 26})
"""SQLITE_CORRUPT, TOOBIG, NOTADB."""
_CUT_OFF: Final = frozenset({522, 8202, 8458})
"""SQLITE_IOERR_SHORT_READ, IOERR_DATA, IOERR_CORRUPTFS: extended codes that say the same."""
_UNAVAILABLE: Final = frozenset({5, 7, _READONLY, 10, _FULL, _CANNOT_OPEN, 15})
"""SQLITE_BUSY, NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL: what may pass without anything being lost."""

T = TypeVar("T")


class UnavailableError(Exception):
    """Nothing was committed, as the disk is full or fails; it may be tried again."""


class MovedError(UnavailableError):
    """The file is not in its place any more, so what is put there would be gone with the process. The message says why."""


class DamagedError(Exception):
    """The file was found damaged and was set aside as `name`; a new and empty one is in its place."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the database was damaged and is set aside as {name}")
        self.name = name


@dataclass(slots=True)
class Transaction:
    """What a job works with."""

    connection: sqlite3.Connection
    ledger: Counters
    """The counters as they are when this transaction is committed."""
    moved: MovedError | None = None
    """Why nothing new may be put there, if that is so."""
    failed_before: int = 0
    """How many transactions were rolled back before it."""
    then_shrink: bool = False
    """Set it to have the log written into the file, and the file cut, once this is committed."""

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter of the ledger."""
        if number:
            self.ledger[name] += number


Job = Callable[[Transaction], T]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the directory found."""

    moved: MovedError | None = None
    made_anew: Sequence[str] = field(default_factory=list)
    """Names of files beside the database's that were gone."""
    may_shrink: bool = False
    """What the job returned that was to run next."""


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """What a job returned, once its transaction is committed."""

    value: T


class Database:
    """The database in a directory, or in memory."""

    def __init__(
        self,
        directory: Path | None,
        *,
        fsync: bool = False,
        max_bytes: int = 1 << 40,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self.directory = None if directory is None else Directory(directory, reserve_bytes=reserve_bytes)
        self.ledger = Counters()
        """The counters as committed last, on the event loop's side. Never changed, but replaced."""
        self.generation = 0
        """How often the file was set aside: what a job found before is not true after."""
        self.on_damaged: Callable[[str], None] | None = None
        """Called with the damaged file's new name before the callback of the job; must schedule the restore."""
        self._synchronous = "FULL" if fsync else "NORMAL"
        self._max_pages = max(1024, max_bytes // PAGE_BYTES)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        self._connection: sqlite3.Connection | None = None
        # On the thread's side:
        self._is_open = False
        self._moved: MovedError | None = None
        self._looked_at = 0.0
        self._made_anew: list[str] = []  # since that was told last
        self._stored = Counters()  # as committed last; never changed, but replaced, as the loop reads them
        self._generation = 0
        self._set_aside_as = ""
        self._must_be_restored = False
        self._failed = 0

    async def open(self) -> None:
        """Lock the directory and open the file. Raises DirectoryError or DirectoryInUseError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        self.ledger = self._stored
        self.generation = self._generation

    async def run(self, job: Job[T]) -> T:
        """Run a job; return what it returned, once committed. Raises UnavailableError or DamagedError.

        Being cancelled does not stop the job.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def tell(result: Committed[T] | Exception) -> None:
            if done.cancelled():
                return
            if isinstance(result, Committed):
                done.set_result(result.value)
            else:
                done.set_exception(result)

        self.submit(job, tell)
        return await done

    def submit(self, job: Job[T], then: Callable[[Committed[T] | Exception], None], *, restores: bool = False) -> None:
        """Run a job, and call `then` on the event loop with what it returned, once committed, or with why it was not.

        `restores`: it is the one that writes to a new file what is known of the one that was set aside.
        """
        loop = asyncio.get_running_loop()
        self._thread.submit(self._run, loop, job, then, generation=self.generation, restores=restores)

    def _deliver(
        self,
        then: Callable[[Committed[T] | Exception], None],
        result: Committed[T] | Exception,
        stored: Counters,
        generation: int,
        set_aside_as: str,
    ) -> None:
        """Tell what became of a job, on the event loop."""
        if isinstance(result, Committed):
            self.ledger = stored
        if generation != self.generation:
            self.generation = generation
            if self.on_damaged is not None:
                try:
                    self.on_damaged(set_aside_as)
                except Exception as error:  # noqa: BLE001 - a bug, told to who submitted the job
                    result = error
        then(result)

    def give_up_reserve(self, then: Callable[[bool], None]) -> None:
        """Let the space in reserve be used, and call `then` on the event loop with whether there was any."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            given = self.directory is not None and self.directory.give_up_reserve()
            loop.call_soon_threadsafe(then, given)

        self._thread.submit(work)

    async def look(self, *, then: Job[bool] | None = None) -> Look:
        """Look whether the file, its log and the lock are in their places. To be asked now and then, and at the end.

        A log or a lock that is gone is recreated, without a loss. While the file is gone no job may put anything in it, but
        what it has can be read and removed. The file may come back. `then` is a job to run next, in the same turn of the
        thread, whose failure the next job tells. A job that begins LOOK_SECONDS after the last look is preceded by one.
        """
        looking = self._thread.submit(self._tell_look)
        if then is None:
            return await asyncio.wrap_future(looking)
        may_shrink = False
        with suppress(UnavailableError, DamagedError):
            may_shrink = await self.run(then)
        return replace(looking.result(), may_shrink=may_shrink)

    @property
    def lacks_file(self) -> bool:
        """Whether the disk is too full for the first file; it is tried again with each job."""
        return self.directory is not None and self._is_open and self._connection is None

    async def close(self) -> None:
        """Write everything to the file and let the directory go. May be called again."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)

    # On the thread

    def _open(self) -> None:
        if self.directory is None:
            self._connect(":memory:")
            return
        try:
            self._open_directory()
            self._is_open = True
        except NoRoomError:  # as a disk that is full later: nothing is accepted until there is room
            self._is_open = True
        except sqlite3.Error as error:
            if self._is_new and (getattr(error, "sqlite_errorcode", None) in _NO_ROOM or self._is_full(error)):
                self._is_open = True
                return
            why = self._cannot_open(error)  # it looks at the disk, in the directory that is still open
            self._close()
            raise why from error
        except OSError as error:
            self._close()
            raise self.directory.unusable(error) from error
        except BaseException:
            self._close()
            raise

    def _open_directory(self) -> None:
        assert self.directory is not None
        if not self.directory.is_open:
            self.directory.open()
        with suppress(OSError):  # no room: nothing is accepted until there is, but what is there is delivered
            self.directory.reserve()
        if self.directory.has_lost_its_file:
            self._set_aside()
        else:
            self._connect_to_file()

    @property
    def _is_new(self) -> bool:
        """Whether there was nothing yet that a full disk could keep from being read."""
        return self.directory is not None and not self._generation and self.directory.has_no_data

    def _cannot_open(self, error: sqlite3.Error) -> Exception:
        assert self.directory is not None
        if _code(error) == _BUSY:
            return DirectoryInUseError(
                f"buffer.directory: {self.directory.file} is locked by another program, such as a backup or a database "
                "browser; wait until that has ended, or end it"
            )
        return self.directory.unusable(error)

    def _connect_to_file(self, *, is_new: bool = False) -> None:
        """Open the file, or set it aside and make a new one."""
        assert self.directory is not None
        try:
            self._connect(str(self.directory.file))
            self.directory.note_files()
        except (UnfitFileError, OSError) as error:
            self._disconnect()
            raise DirectoryError(f"buffer.directory: {error}") from None
        except sqlite3.Error as error:
            if self._is_full(error) and self.directory.give_up_reserve():
                self._connect_to_file(is_new=is_new)
            elif self._is_damage(error) and not is_new:
                self._set_aside()
            else:
                raise

    def _connect(self, file: str) -> None:
        connection = sqlite3.connect(file, isolation_level=None, timeout=_BUSY_SECONDS, cached_statements=64)
        try:
            connection.text_factory = bytes  # nothing in a damaged file may fail to be decoded
            # Also keeps the log's index out of shared memory, which a full disk turns into a crash.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            version = schema.identify(connection, name=file)
            if version == 0:  # else it would write, for which a full disk has no room
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * PAGE_BYTES}")
            connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA secure_delete = OFF")  # or each event that goes is written once more, as zeros
            schema.migrate(connection, version)
            self._stored = ledger.load(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        job: Job[T],
        then: Callable[[Committed[T] | Exception], None],
        *,
        generation: int,
        restores: bool,
    ) -> None:
        """Run a job that was submitted when the file was of this generation, and have `then` told what became of it."""
        result: Committed[T] | Exception
        try:
            if self._connection is None and self._is_open and self.directory is not None:
                self._open_directory()
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._look()
            if self._connection is None:
                result = UnavailableError("the database is closed")
            elif generation != self._generation or (self._must_be_restored and not restores):
                result = DamagedError(self._set_aside_as)
            else:
                result = self._transact(job, self._connection)
                if restores and isinstance(result, Committed):
                    self._must_be_restored = False
        except (sqlite3.Error, OSError, DirectoryError, DirectoryInUseError) as error:
            result = UnavailableError(str(error))
        except Exception as error:  # noqa: BLE001 - a bug, told to who submitted the job
            result = error
        loop.call_soon_threadsafe(self._deliver, then, result, self._stored, self._generation, self._set_aside_as)

    def _transact(self, job: Job[T], connection: sqlite3.Connection) -> Committed[T] | Exception:
        transaction = Transaction(connection, Counters(self._stored), self._moved, failed_before=self._failed)
        try:
            connection.execute("BEGIN IMMEDIATE")
            value = job(transaction)
            changed = transaction.ledger != self._stored
            if changed:
                ledger.store(connection, transaction.ledger)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            return self._judge(error)
        except UnicodeDecodeError as error:  # of SQLite's message, which may quote what it found
            self._roll_back(connection)
            altered = schema.version_of(connection) != schema.VERSION
            return self._judge(ledger.AlteredError(str(error))) if altered else error
        except Exception as error:  # noqa: BLE001 - MovedError, or a bug, told to who submitted the job
            self._roll_back(connection)
            return error
        if changed:
            self._stored = transaction.ledger
        if transaction.then_shrink:
            with suppress(sqlite3.Error):  # the next commit tells
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return Committed(value)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        self._failed += 1
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _judge(self, error: sqlite3.Error) -> Exception:
        if self.directory is None:
            return error
        if self._is_damage(error):
            try:
                self._set_aside()
            except (sqlite3.Error, OSError, DirectoryError) as failure:
                return UnavailableError(f"the file is damaged, and no new one can be made: {failure}")
            return DamagedError(self._set_aside_as)
        return UnavailableError(str(error)) if _code(error) in _UNAVAILABLE else error

    def _is_full(self, error: sqlite3.Error) -> bool:
        """Return whether an error says that the disk is full, of bytes or of files."""
        assert self.directory is not None
        return _code(error) == _FULL or (_code(error) == _CANNOT_OPEN and self.directory.is_full)

    def _is_damage(self, error: sqlite3.Error) -> bool:
        """Return whether an error says that the file is not as it was written."""
        assert self.directory is not None
        code = _code(error)
        if code == _ERROR:  # our statements are right, so it is the tables that are not, unless they are
            return self._connection is None or schema.version_of(self._connection) != schema.VERSION
        if code == _READONLY:  # the header may say so, or the file be another one now
            return self.directory.is_writable
        if code == _FULL:  # where there is room, SQLite may have been sent to a page far beyond the end
            return self._connection is not None and self.directory.has_room and not _is_sound(self._connection)
        if isinstance(error, ledger.AlteredError) or code in _DAMAGED:
            return True
        return getattr(error, "sqlite_errorcode", None) in _CUT_OFF

    def _set_aside(self) -> None:
        """Put a new file in the place of the damaged one. Raises OSError if that is not in its place."""
        assert self.directory is not None
        if why := self.directory.moved():
            raise FileNotFoundError(why)
        self._disconnect()
        self._set_aside_as = self.directory.set_aside()
        self._generation += 1
        self._must_be_restored = self._is_open and self.on_damaged is not None
        self._stored = Counters()
        self._connect_to_file(is_new=True)

    def _tell_look(self) -> Look:
        self._look()
        made_anew, self._made_anew = self._made_anew, []
        return Look(self._moved, made_anew)

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        if self.directory is None or self._connection is None:
            return  # if a file beside it could not be recreated, that is tried again with the next job
        if self.directory.is_intact:
            self._moved = None
            return
        why = self.directory.moved()
        if why is None:
            self._moved = None
            self._make_anew(self.directory, self._connection)
            return
        with suppress(sqlite3.Error, OSError):  # all that is in the log belongs in the file, whoever brings that back
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.directory.disown_log()
        self._moved = MovedError(why)

    def _make_anew(self, directory: Directory, connection: sqlite3.Connection) -> None:
        """Recreate the log and the lock, if they are gone. The file holds all, so SQLite begins a new log beside it."""
        try:
            if directory.lock_again():
                self._made_anew.append("lock")
            if directory.has_lost_its_log:
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if busy:
                    raise sqlite3.OperationalError("the log cannot be written into the file")
                self._disconnect()
                self._connect_to_file()
                self._made_anew.append("log")
        except (sqlite3.Error, OSError, DirectoryError) as error:
            self._moved = MovedError(f"a file beside {directory.file} is gone, and cannot be recreated: {error}")

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _close(self) -> None:
        self._is_open = False
        self._disconnect()
        if self.directory is not None:
            self.directory.close()


def give_back_space(transaction: Transaction, *, whatever_it_is: bool = False) -> bool:
    """Give some pages back to the file system, if a good part of the file is free. Return whether it gave any."""
    (free,) = transaction.connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = transaction.connection.execute("PRAGMA page_count").fetchone()
    if not free or not (whatever_it_is or (free > CHECKPOINT_PAGES and 4 * free > pages)):
        return False
    for _ in range(min(free, _VACUUM_PAGES)):
        # The module takes one step of it only, and each step gives back one page.
        transaction.connection.execute("PRAGMA incremental_vacuum(1)")
    transaction.then_shrink = True
    return True


def is_sound(transaction: Transaction) -> bool:
    """Have SQLite look through the whole file, which takes a while."""
    return _is_sound(transaction.connection)


def _is_sound(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == (b"ok",))
    except sqlite3.Error:
        return False


def _code(error: sqlite3.Error) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF

"""The database: one connection on one thread. Each job is one transaction, and the ledger changes in it.

Jobs run in the order in which they are submitted, and their results arrive in that order on the event loop. A full disk and
a damaged file are results, not surprises. A damaged file is quarantined, which means renamed, and a new one made in its
place at once. The first job on the new file is the one that restores what is in memory. If somebody removes or renames the
file, it can still be read and written, but whatever is in it ends with the process: see `look`. If the disk is too full to
make the first file, each job tries again. Without a directory the database is in memory, and gone when it is closed.

Disk: SQLite uses the pages of deleted rows again, and `return_space` returns some to the file system. The file has at most
`max_bytes`. The write-ahead log is overwritten from its start once it has `CHECKPOINT_PAGES`, so it grows to that and one
transaction more. The reserve has `reserve_bytes`.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Generic, TypeVar

from forwarder.database import ledger, schema
from forwarder.database.directory import RESERVE_BYTES, Directory, DirectoryError, DirectoryInUseError, NoRoomError
from forwarder.database.files import UnfitFileError
from forwarder.database.ledger import Counters
from forwarder.database.schema import PAGE_BYTES
from forwarder.host.threads import JobThread

CHECKPOINT_PAGES: Final = 1000
LOOK_SECONDS: Final = 1.0
"""How long before a job the last look may have been."""
_VACUUM_PAGES: Final = 512
_OVERWRITE_WHAT_IS_WRITTEN: Final = "PRAGMA secure_delete = FAST"
"""Deleted rows are overwritten with zeros in pages that are written anyway, at no cost; pages that become free are not."""
_BUSY_SECONDS: Final = 2.0
"""How long the start waits for another program, such as a backup, that has the file locked."""
_ERROR: Final = 1
_READONLY: Final = 8
_BUSY: Final = 5
_FULL: Final = 13
_CANNOT_OPEN: Final = 14
_NO_ROOM: Final = frozenset({_FULL, 778})
"""SQLITE_FULL, IOERR_WRITE; the latter also for a quota, or a limit of the process."""
_DAMAGED: Final = frozenset({11, 18, 26})
"""SQLITE_CORRUPT, TOOBIG, NOTADB."""
_CUT_OFF: Final = frozenset({522, 8202, 8458})
"""SQLITE_IOERR_SHORT_READ, IOERR_DATA, IOERR_CORRUPTFS: extended codes of damage."""
_UNAVAILABLE: Final = frozenset({5, 7, _READONLY, 10, _FULL, _CANNOT_OPEN, 15})
"""SQLITE_BUSY, NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL: these may pass, and nothing is lost."""

T = TypeVar("T")


class UnavailableError(Exception):
    """Nothing was committed, because the disk is full or fails. The caller may try again."""


class MovedError(UnavailableError):
    """The file is not in its place any more, so what is put in it would end with the process. The message says why."""


class DamagedError(Exception):
    """The file was found damaged and was renamed to `name`; a new and empty one is in its place."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the database was damaged and was renamed to {name}")
        self.name = name


@dataclass(slots=True)
class Transaction:
    """What a job works on."""

    connection: sqlite3.Connection
    ledger: Counters
    """The counters as they are when this transaction is committed."""
    moved: MovedError | None = None
    """Why nothing new may be put into the file; None if it may."""
    failed_before: int = 0
    """How many transactions were rolled back before this one."""
    then_shrink: bool = False
    """A job sets it to have the log written into the file, and the file cut, after the commit."""
    then_clear_log: bool = False
    """A job that changes nothing sets it to have the log written into the file and emptied, or else to fail."""
    overwrites: bool = False
    """Whether what is deleted is overwritten in the file."""

    def overwrite(self) -> None:
        """Until the commit, overwrite what is deleted with zeros, also in pages that become free."""
        self.connection.execute("PRAGMA secure_delete = ON").fetchall()
        self.overwrites = True

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter of the ledger."""
        if number:
            self.ledger[name] += number


Job = Callable[[Transaction], T]


@dataclass(frozen=True, slots=True)
class Look:
    """What `Database.look` found."""

    moved: MovedError | None = None
    recreated: Sequence[str] = field(default_factory=list)
    """Which files beside the database's were gone: "log", "lock"."""
    may_shrink: bool = False
    """What the job `then` returned."""


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """What a job returned whose transaction is committed."""

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
        """How often the file was quarantined. What a job found in an earlier generation is not true any more."""
        self.on_damaged: Callable[[str], None] | None = None
        """Called with the damaged file's new name before the job's callback; must schedule the restore."""
        self._synchronous = "FULL" if fsync else "NORMAL"
        self._max_pages = max(1024, max_bytes // PAGE_BYTES)
        self._thread = JobThread("database")
        self._connection: sqlite3.Connection | None = None
        # On the thread's side:
        self._is_open = False
        self._moved: MovedError | None = None
        self._looked_at = 0.0
        self._recreated: list[str] = []  # since the last look that was told
        self._stored = Counters()  # as committed last; never changed, but replaced, as the loop reads them
        self._generation = 0
        self._quarantined_as = ""
        self._must_be_restored = False
        self._failed = 0

    async def open(self) -> None:
        """Lock the directory and open the file. Raise DirectoryError or DirectoryInUseError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        self.ledger = self._stored
        self.generation = self._generation

    async def run(self, job: Job[T]) -> T:
        """Run a job; return what it returned, once committed. Raise UnavailableError or DamagedError.

        The job goes on if the caller is cancelled.
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
        """Run a job, then call `then` on the event loop with its result, or with the reason why it was not committed.

        `restores`: the job writes to a new file what is known of the quarantined one.
        """
        loop = asyncio.get_running_loop()
        self._thread.post(self._run, loop, job, then, self.generation, restores)

    def _deliver(
        self,
        then: Callable[[Committed[T] | Exception], None],
        result: Committed[T] | Exception,
        stored: Counters,
        generation: int,
        quarantined_as: str,
    ) -> None:
        """Hand over a job's result, on the event loop."""
        if isinstance(result, Committed):
            self.ledger = stored
        if generation != self.generation:
            self.generation = generation
            if self.on_damaged is not None:
                try:
                    self.on_damaged(quarantined_as)
                except Exception as error:  # noqa: BLE001 - a bug: the caller ends the process
                    result = error
        then(result)

    def free_reserve(self, then: Callable[[bool], None]) -> None:
        """Remove the reserve, then call `then` on the event loop with whether there was one."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            given = self.directory is not None and self.directory.free_reserve()
            loop.call_soon_threadsafe(then, given)

        self._thread.post(work)

    async def look(self, *, then: Job[bool] | None = None) -> Look:
        """Look whether the file, its log and the lock are in their places. Call it now and then, and at the end.

        A log or a lock that is gone is recreated, without a loss. While the file is gone no job may put anything into it,
        but what it has can be read and removed. The file may return. `then` is a job to run next on the thread; the next
        job shows its failure. The database looks by itself before a job that begins LOOK_SECONDS after the last look.
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
        """Whether the disk is too full for the first file. Each job tries to make it."""
        return self.directory is not None and self._is_open and self._connection is None

    async def close(self) -> None:
        """Write everything to the file and unlock the directory. May be called again."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.end()

    # On the thread

    def _open(self) -> None:
        if self.directory is None:
            self._connect(":memory:")
            return
        try:
            self._open_directory()
            self._is_open = True
        except NoRoomError:  # treated as a disk that is full later: nothing is accepted until there is room
            self._is_open = True
        except sqlite3.Error as error:
            if self._is_new and (getattr(error, "sqlite_errorcode", None) in _NO_ROOM or self._is_full(error)):
                self._is_open = True
                return
            why = self._cannot_open(error)  # before `_close`, as it looks into the open directory
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
        with suppress(OSError):  # no room: nothing is accepted until there is, but delivery goes on
            self.directory.reserve()
        if self.directory.has_lost_its_file:
            self._quarantine()
        else:
            self._connect_to_file()

    @property
    def _is_new(self) -> bool:
        """Whether there are no data yet that a full disk keeps from being read."""
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
        """Open the file; if it is damaged, quarantine it and make a new one."""
        assert self.directory is not None
        try:
            self._connect(str(self.directory.file))
            self.directory.note_files()
        except (UnfitFileError, OSError) as error:
            self._disconnect()
            raise DirectoryError(f"buffer.directory: {error}") from None
        except sqlite3.Error as error:
            if self._is_full(error) and self.directory.free_reserve():
                self._connect_to_file(is_new=is_new)
            elif self._is_damage(error) and not is_new:
                self._quarantine()
            else:
                raise

    def _connect(self, file: str) -> None:
        connection = sqlite3.connect(file, isolation_level=None, timeout=_BUSY_SECONDS, cached_statements=64)
        try:
            connection.text_factory = bytes  # nothing in a damaged file may fail to be decoded
            # It also keeps the log's index out of shared memory, where a full disk is a crash.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            version = schema.identify(connection, name=file)
            if version == 0:  # otherwise these would write, for which a full disk has no room
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * PAGE_BYTES}")
            connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute(_OVERWRITE_WHAT_IS_WRITTEN).fetchall()
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
        generation: int,
        restores: bool,  # noqa: FBT001 - as `post` passes it
    ) -> None:
        """Run a job that was submitted when the file was of this generation, and send its result to `then`."""
        result: Committed[T] | Exception
        try:
            if self._connection is None and self._is_open and self.directory is not None:
                self._open_directory()
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._look()
            if self._connection is None:
                result = UnavailableError("the database is closed")
            elif generation != self._generation or (self._must_be_restored and not restores):
                result = DamagedError(self._quarantined_as)
            else:
                result = self._transact(job, self._connection)
                if restores and isinstance(result, Committed):
                    self._must_be_restored = False
        except (sqlite3.Error, OSError, DirectoryError, DirectoryInUseError) as error:
            result = UnavailableError(str(error))
        except Exception as error:  # noqa: BLE001 - a bug: the caller ends the process
            result = error
        loop.call_soon_threadsafe(self._deliver, then, result, self._stored, self._generation, self._quarantined_as)

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
        except UnicodeDecodeError as error:  # SQLite's message may quote what it found in the file
            self._roll_back(connection)
            altered = schema.version_of(connection) != schema.VERSION
            return self._judge(ledger.AlteredError(str(error))) if altered else error
        except Exception as error:  # noqa: BLE001 - MovedError, or a bug: the caller ends the process
            self._roll_back(connection)
            return error
        finally:
            if transaction.overwrites:
                with suppress(sqlite3.Error):  # closed, as the file was quarantined
                    connection.execute(_OVERWRITE_WHAT_IS_WRITTEN).fetchall()
        if changed:
            self._stored = transaction.ledger
        if transaction.then_shrink:
            with suppress(sqlite3.Error):  # the next commit shows the error
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        failure = self._clear_log(connection) if transaction.then_clear_log else None
        return failure or Committed(value)

    def _clear_log(self, connection: sqlite3.Connection) -> Exception | None:
        """Write the log into the file and empty it; return why that cannot be done."""
        try:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            return self._judge(error)
        return UnavailableError("the log cannot be written into the file") if busy else None

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
                self._quarantine()
            except (sqlite3.Error, OSError, DirectoryError) as failure:
                return UnavailableError(f"the file is damaged, and no new one can be made: {failure}")
            return DamagedError(self._quarantined_as)
        return UnavailableError(str(error)) if _code(error) in _UNAVAILABLE else error

    def _is_full(self, error: sqlite3.Error) -> bool:
        """Return whether an error says that the disk has no room for more bytes, or for another file."""
        assert self.directory is not None
        return _code(error) == _FULL or (_code(error) == _CANNOT_OPEN and self.directory.is_full)

    def _is_damage(self, error: sqlite3.Error) -> bool:
        """Return whether an error says that the file is not as it was written."""
        assert self.directory is not None
        code = _code(error)
        if code == _ERROR:  # a bug in a statement, unless the tables are not ours any more
            return self._connection is None or schema.version_of(self._connection) != schema.VERSION
        if code == _READONLY:  # if the disk allows writing, a damaged header forbids it
            return self.directory.is_writable
        if code == _FULL:  # if the disk has room, a damaged page number may point far beyond the end
            return self._connection is not None and self.directory.has_room and not _is_sound(self._connection)
        if isinstance(error, ledger.AlteredError) or code in _DAMAGED:
            return True
        return getattr(error, "sqlite_errorcode", None) in _CUT_OFF

    def _quarantine(self) -> None:
        """Make a new file in the place of the damaged one. Raise OSError if that is not in its place."""
        assert self.directory is not None
        if why := self.directory.moved():
            raise FileNotFoundError(why)
        self._disconnect()
        self._quarantined_as = self.directory.quarantine()
        self._generation += 1
        self._must_be_restored = self._is_open and self.on_damaged is not None
        self._stored = Counters()
        self._connect_to_file(is_new=True)

    def _tell_look(self) -> Look:
        self._look()
        recreated, self._recreated = self._recreated, []
        return Look(self._moved, recreated)

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        if self.directory is None or self._connection is None:
            return  # the next job opens it
        if self.directory.is_intact:
            self._moved = None
            return
        why = self.directory.moved()
        if why is None:
            self._moved = None
            self._recreate(self.directory, self._connection)
            return
        # Somebody may return the file to its place: it must hold what the log has.
        with suppress(sqlite3.Error, OSError):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.directory.disown_log()
        self._moved = MovedError(why)

    def _recreate(self, directory: Directory, connection: sqlite3.Connection) -> None:
        """Recreate the log and the lock, if they are gone. A checkpoint first writes what the lost log has to the file."""
        try:
            if directory.lock_again():
                self._recreated.append("lock")
            if directory.has_lost_its_log:
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if busy:
                    raise sqlite3.OperationalError("the log cannot be written into the file")
                self._disconnect()
                self._connect_to_file()
                self._recreated.append("log")
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


def return_space(transaction: Transaction, *, whatever_it_is: bool = False) -> bool:
    """Return some pages to the file system, if a good part of the file is free. Return whether it did."""
    (free,) = transaction.connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = transaction.connection.execute("PRAGMA page_count").fetchone()
    if not free or not (whatever_it_is or (free > CHECKPOINT_PAGES and 4 * free > pages)):
        return False
    for _ in range(min(free, _VACUUM_PAGES)):
        # The sqlite3 module runs a single step of the statement, and each step returns one page.
        transaction.connection.execute("PRAGMA incremental_vacuum(1)")
    transaction.then_shrink = True
    return True


def is_sound(transaction: Transaction) -> bool:
    """Return whether SQLite finds no fault in the whole file, which takes a while."""
    return _is_sound(transaction.connection)


def _is_sound(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == (b"ok",))
    except sqlite3.Error:
        return False


def _code(error: sqlite3.Error) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF

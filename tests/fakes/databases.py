"""A real database whose jobs run at once, on the thread that submits them: for virtual time, and for speed.

And one whose disk does not answer for a while, or cannot be read.
"""

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from forwarder.buffer.writing import write
from forwarder.database import events as rows
from forwarder.database.connection import Committed, Database, Job, Transaction, UnavailableError
from forwarder.host.threads import JobThread

MAX_COMMITS = 1000

_to_close: list[Callable[[], object]] = []


class InlineThread(JobThread):
    """Runs each job at once."""

    def __init__(self) -> None:
        super().__init__("inline")

    def post(self, job: Callable[..., object], *args: Any) -> None:
        job(*args)


class StubbornDatabase(Database):
    """A database on a disk that does not answer as long as it is told so, or that fails to read or to commit."""

    hangs: Literal["before the job", "after the job"] | None = None
    reserve_hangs = False
    """Whether it answers no more once it is to give up the space in reserve."""
    fails_to_read = False
    fails_to_commit = 0
    """How many more batches of the buffer are not committed."""
    commits = 0
    """How many batches, and restores of a damaged file, it was given."""
    fails_to_restore = 0
    """How many more restores are not committed."""
    reads = 0
    """How many reads of events were asked for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._held: list[Callable[[], None]] = []

    def submit(self, job: Job[Any], then: Callable[[Committed[Any] | Exception], None], **how: bool) -> None:
        if not self.hangs and (how.get("restores") or (isinstance(job, partial) and job.func is write)):
            self.commits += 1
            assert self.commits < MAX_COMMITS, "it commits again and again"
            if how.get("restores") and self.fails_to_restore:
                self.fails_to_restore -= 1
                job = _fail
            elif self.fails_to_commit:
                self.fails_to_commit -= 1
                job = _fail
        is_read = isinstance(job, partial) and job.func in (rows.read_after, rows.read_ids)
        self.reads += is_read
        if is_read and self.fails_to_read:
            super().submit(lambda _: None, lambda _: then(UnavailableError("disk I/O error")))
        elif self.hangs == "before the job" or (self._held and self.hangs):
            self._held.append(partial(self.submit, job, then, **how))
        elif self.hangs == "after the job":
            super().submit(job, lambda result: self._held.append(partial(then, result)), **how)
        else:
            super().submit(job, then, **how)

    def free_reserve(self, then: Callable[[bool], None]) -> None:
        if self.reserve_hangs:
            self.hangs = "before the job"
        if self.hangs:
            self._held.append(partial(self.free_reserve, then))
        else:
            super().free_reserve(then)

    def answer(self) -> None:
        """Do, or tell, what was held back, in its order."""
        self.hangs, self.reserve_hangs = None, False
        held, self._held = self._held, []
        for each in held:
            each()


def _fail(_: Transaction) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = 13
    raise error


def inline_database(directory: Path | None = None, *, of: type[Database] = Database, **options: Any) -> Database:
    """Return a database, not yet open; in memory without a directory. It is closed after the test if not before."""
    database = of(directory, **options)
    database._thread.shutdown()
    database._thread = InlineThread()
    close_after_test(database._close)
    return database


def close_after_test(close: Callable[[], object]) -> None:
    """Have this called after the test: from Python 3.13 on, a connection that nobody closed is a warning."""
    _to_close.append(close)


def close_databases() -> None:
    """Close what the test opened and left open; closing twice does no harm."""
    while _to_close:
        _to_close.pop()()

"""Group commit: what comes while one transaction is being committed goes into the next.

An ack that nobody waits for joins the next commit, or is committed alone: after `ACK_SECONDS`, or as soon as
`MAX_WAITING_ACKS` wait.

A put is answered when it is committed. When the disk is full or fails, puts are refused, and acks and marks are tried
without the puts, then with the space of the reserve, and then every second until they are committed. When there is room
again, and something could be written, puts are accepted again, and what was noted for intake is committed. When the file
was damaged, the job given to `restore` runs on the new file before anything else. A bug in any of this ends the process:
see `watch`. Used by the disk buffer alone, on the event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Final, Generic, TypeVar

from forwarder.buffer.base import Unavailable
from forwarder.buffer.batch import Batch, Noted, Put
from forwarder.buffer.fates import Fate
from forwarder.database import ledger
from forwarder.database.connection import (
    Committed,
    DamagedError,
    Database,
    Job,
    MovedError,
    Transaction,
    UnavailableError,
    return_space,
)
from forwarder.database.marks import Changes, Mark
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry

MAX_COMMIT_BYTES: Final = 1024 * 1024
"""How much is put in one transaction, unless one put has more; see `upkeep`."""
RETRY_SECONDS: Final = 1.0
ACK_SECONDS: Final = 0.1
"""How long acks wait for a put to be committed with. Then they are committed alone."""
MAX_WAITING_ACKS: Final = 32
"""As soon as so many acks wait, they are committed."""
PUT_SECONDS: Final = 5.0
"""How long a put may wait for the disk. Then it is refused, and so are others until the disk has answered."""
_TOGETHER_SECONDS: Final = 0.05
"""Puts whose time is up within this are refused together, so that many of them take few looks."""
_LATE_SECONDS: Final = 1.0
"""A look that comes this late means nothing: the process was stopped, so it could not see the disk's answers."""
MAX_DAMAGES_IN_A_ROW: Final = 3
"""After so many new files were damaged before anything was committed in them, another one is no help."""

T = TypeVar("T")
F = TypeVar("F")
_NOTHING: Final = Batch()


class GroupCommit(Generic[T]):
    """Commits batches, one after the other.

    `job_of(batch)` returns the job that writes a batch. `apply(batch, value)` is called when that is committed, with what
    the job returned; `refuse(put)` when a put is not stored.
    """

    def __init__(
        self,
        database: Database,
        *,
        job_of: Callable[[Batch], Job[T]],
        apply: Callable[[Batch, T], None],
        refuse: Callable[[Put], None],
        telemetry: Telemetry,
    ) -> None:
        self.available = True
        """Whether puts are worth trying: the disk worked when it was last tried."""
        self.waiting = Batch()
        """What the next batch will have, without what is noted."""
        self._noted: Noted | None = None
        self._database = database
        self._job_of = job_of
        self._apply = apply
        self._refuse = refuse
        self._telemetry = telemetry
        self._committing = False
        self._current = _NOTHING
        self._stalled = False  # not even acks can be committed, until the next try
        self._restore: Job[None] | None = None
        self._then: Callable[[], None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        self._acks_are_due = False
        self._tally_is_due = False
        self._failure: Exception | None = None
        self._failed = asyncio.Event()
        self._damages_in_a_row = 0
        self._ended = asyncio.Event()

    def put(self, put: Put) -> None:
        """Store events, or refuse them at the put's deadline, which is not before that of any earlier put."""
        if self._failure is not None:
            raise self._failure
        self.waiting.puts.append(put)
        if self._watchdog is None:
            self._watch(put.deadline)
        if not (self._committing or self._stalled):
            self._committing = True
            asyncio.get_running_loop().call_soon(self._begin)

    def ack(self, fates: Sequence[tuple[Event, Fate]], done: asyncio.Future[None] | None = None) -> None:
        """Remove events, each with its fate."""
        self.waiting.acks += fates
        if done is not None:
            self._raise_if_failed()
            self.waiting.waiters.append(done)
        self.commit()

    def begin_ack(self, event: Event, fate: Fate) -> None:
        """Remove an event with the next commit, or within `ACK_SECONDS`."""
        acks = self.waiting.acks
        acks.append((event, fate))
        if len(acks) >= MAX_WAITING_ACKS:
            self.commit()
        elif self._ack_timer is None and not (self._committing or self._stalled):
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._commit_acks)

    @property
    def has_acks(self) -> bool:
        """Whether acks are waiting or being committed."""
        return bool(self._current.acks or self.waiting.acks)

    def mark(self, changes: Changes, done: asyncio.Future[None] | None = None) -> None:
        """Change marks."""
        if done is not None:
            self._raise_if_failed()
            self.waiting.waiters.append(done)
        self.waiting.marks |= changes
        self.commit()

    def note(self, noted: Noted) -> None:
        """Change what is kept for intake."""
        self._raise_if_failed()
        self._noted = noted if self._noted is None else self._noted.then(noted)
        self.commit()

    def uncommitted_puts(self) -> list[Put]:
        """Return the puts that are waiting or being committed."""
        return self._current.puts + self.waiting.puts

    def uncommitted_acks(self) -> set[int]:
        """Return the ids of the events whose acks are waiting or being committed."""
        return {event.id for event, _ in chain(self._current.acks, self.waiting.acks)}

    def uncommitted_corrupt(self) -> list[int]:
        """Return the ids of the unreadable rows that are not removed yet."""
        return self._current.corrupt + self.waiting.corrupt

    def forget_corrupt(self) -> None:
        """Leave unreadable rows alone that are not removed yet."""
        self._current.corrupt.clear()
        self.waiting.corrupt.clear()

    @property
    def stalled(self) -> bool:
        """Whether not even acks could be committed at the last try."""
        return self._stalled

    @property
    def restoring(self) -> bool:
        """Whether a job must run before anything else is committed."""
        return self._restore is not None

    def restore(self, job: Job[None], *, then: Callable[[], None]) -> None:
        """Run this job before anything else is committed, and then call `then`."""
        self._restore, self._then = job, then
        self._stalled = False
        self.commit()

    def commit(self) -> None:
        """Begin a commit, unless one is under way: in the next turn of the loop, because more may come in this one.

        If nothing but acks waits, they may wait for a put.
        """
        if self._committing or self._stalled:
            return
        waiting = self.waiting
        acks = len(waiting.acks)
        if (
            waiting.puts
            or self._restore is not None
            or acks >= MAX_WAITING_ACKS
            or (acks and self._acks_are_due)
            or waiting.marks
            or waiting.waiters
            or waiting.corrupt
            or self._tally_is_due
            or (self._noted is not None and self.available)
        ):
            self._committing = True
            asyncio.get_running_loop().call_soon(self._begin)
        elif acks and self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._commit_acks)

    def commit_tally(self) -> None:
        """Commit what intake counts, even if nothing else waits. `job_of` adds it to the batch."""
        self._tally_is_due = True
        if self.available:
            self.commit()

    def _commit_acks(self) -> None:
        self._ack_timer = None
        self.hurry_acks()

    def _begin(self) -> None:
        if self._restore is not None:
            self._database.submit(self._restore, self._restored, restores=True)
            return
        batch, self.waiting = self.waiting, Batch()
        self._current = batch
        self._acks_are_due = self._tally_is_due = False
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self.available and self._noted is not None:
            # Without room it waits, as puts do: with it, acks might not fit either.
            batch.noted, self._noted = self._noted, None
        if len(batch.puts) > 1:
            self._split(batch)
        try:
            self._database.submit(self._job_of(batch), partial(self._committed, batch))
        except Exception as error:  # noqa: BLE001 - a bug, which ends the process
            self._committed(batch, error)

    def _split(self, batch: Batch) -> None:
        """Leave puts beyond `MAX_COMMIT_BYTES` for the next batch."""
        size = 0
        for index, put in enumerate(batch.puts):
            size += put.size_bytes
            if index and size > MAX_COMMIT_BYTES:
                batch.puts, self.waiting.puts = batch.puts[:index], batch.puts[index:]
                break

    async def flush(self) -> None:
        """Commit everything that waits, as far as that is possible now."""
        self._stalled = False
        self.hurry_acks()
        while self._committing:
            self._ended.clear()
            await self._ended.wait()
            self.hurry_acks()

    def hurry_acks(self) -> None:
        """Commit the waiting acks as soon as a transaction may begin."""
        self._acks_are_due = bool(self.waiting.acks)
        self.commit()

    async def watch(self) -> None:
        """Wait until a bug is found, and raise it."""
        await self._failed.wait()
        self._raise_if_failed()

    def close(self) -> None:
        """Try no more."""
        for timer in (self._retry, self._watchdog, self._ack_timer):
            if timer is not None:
                timer.cancel()

    def disk_hangs(self) -> None:
        """Refuse the puts that wait for a disk that does not answer in time, and accept none until it does.

        Of the puts being written, those whose time is up get this answer, too, but are stored if the disk still does that.
        """
        soon = asyncio.get_running_loop().time() + _TOGETHER_SECONDS
        for put in self._current.puts:
            if put.deadline <= soon:
                put.overdue = True
                tell(put.done, Unavailable())
        self._refuse_puts(self.waiting.puts)
        if self.available:
            self.lacks_room(UnavailableError(f"a put has waited {PUT_SECONDS:g} seconds for the disk"))

    def lacks_room(self, error: Exception) -> None:
        """Refuse puts until the reserve has its room."""
        if isinstance(error, MovedError):  # the upkeep finds that out soon, too, and logs it
            self._telemetry.buffer_moved(error, is_news=False)
        else:
            self._telemetry.buffer_failed("commit", error)
        self.available = False
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._try_again)

    def _watch(self, at: float) -> None:
        """Look at a time, the oldest put's deadline. One timer is enough, as nearly all puts are stored long before."""
        self._watchdog = asyncio.get_running_loop().call_at(at, self._look, at)

    def _look(self, at: float) -> None:
        """Refuse the puts whose time is up, whatever the database is doing."""
        self._watchdog = None
        now = asyncio.get_running_loop().time()
        if now > at + _LATE_SECONDS:
            self._watch(now + _LATE_SECONDS)
            return
        if (oldest := self._oldest_put()) is not None and oldest.deadline <= now + _TOGETHER_SECONDS:
            try:
                self.disk_hangs()
            except Exception as error:  # noqa: BLE001 - a bug, which ends the process
                self._fail(self._current, error)
                return
            oldest = self._oldest_put()
        if oldest is not None:
            self._watch(oldest.deadline)

    def _oldest_put(self) -> Put | None:
        """Return the oldest put that is not overdue."""
        return next((put for put in chain(self._current.puts, self.waiting.puts) if not put.overdue), None)

    def _restored(self, result: Committed[None] | Exception) -> None:
        self._committing = False
        try:
            match result:
                case Committed():
                    self._restore = None
                    if self._then is not None:
                        self._then()
                case DamagedError() if self._damages_in_a_row < MAX_DAMAGES_IN_A_ROW:
                    self._damages_in_a_row += 1  # `restore` was called again, with another job
                case UnavailableError():
                    self._give_way(result, more=False)
                case _:
                    self._fail(_NOTHING, result)
        except Exception as error:  # noqa: BLE001 - a bug, which ends the process
            self._fail(_NOTHING, error)
        self._go_on()

    def _committed(self, batch: Batch, result: Committed[T] | Exception) -> None:
        self._committing = False
        self._current = _NOTHING
        try:
            if isinstance(result, Committed):
                self._damages_in_a_row = 0
                self._apply(batch, result.value)
            else:
                self._not_committed(batch, result)
        except Exception as error:  # noqa: BLE001 - a bug, which ends the process
            self._fail(batch, error)
        self.commit()
        if not self._committing:
            self._ended.set()

    def _not_committed(self, batch: Batch, error: Exception) -> None:
        match error:
            case DamagedError() if self._damages_in_a_row < MAX_DAMAGES_IN_A_ROW:
                # The database has called the buffer, which restores what it can. The dead letters are not in the new file
                # yet, so none can be replayed now.
                self._damages_in_a_row += 1
                self._requeue(batch)
                self._refuse_puts([put for put in self.waiting.puts if put.replayed])
            case UnavailableError():
                more = bool(batch.puts or batch.noted is not None)
                self._requeue(batch)
                self._give_way(error, more=more)
            case _:
                self._fail(batch, error)
                # The acks are true, so the close tries once more to commit them.
                self.waiting = Batch(acks=batch.acks, marks=_removals(batch.marks)) + self.waiting

    def _go_on(self) -> None:
        self.commit()
        if not self._committing:
            self._ended.set()

    def _give_way(self, error: UnavailableError, *, more: bool) -> None:
        """Refuse puts. If `more` than acks was tried, the acks are tried next; if not, they get the space of the reserve.

        What is noted waits until there is room, even if somebody waits for it.
        """
        self.lacks_room(error)
        self._refuse_puts(self.waiting.puts)
        if more:
            return
        self._stalled = True
        waiting = self.waiting
        cannot_wait = waiting.acks or waiting.marks or waiting.waiters or waiting.corrupt
        if cannot_wait or self.restoring:
            self._committing = True
            self._database.free_reserve(self._freed_reserve)

    def _refuse_puts(self, puts: Sequence[Put]) -> None:
        refused = set(puts)
        self.waiting.puts = [put for put in self.waiting.puts if put not in refused]
        for put in puts:
            self._refuse(put)

    def _freed_reserve(self, given: bool) -> None:  # noqa: FBT001 - as the database calls it
        self._committing, self._stalled = False, not given
        self._go_on()

    def _requeue(self, batch: Batch) -> None:
        if batch.noted is not None:
            self._noted, batch.noted = batch.noted.then(self._noted), None
        self.waiting = batch + self.waiting
        self._acks_are_due = bool(self.waiting.acks)
        self._tally_is_due |= bool(batch.refused or batch.duplicates)

    def _raise_if_failed(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Raise a bug in everybody who waits, and end the process: see `watch`."""
        self._stalled, self._failure = True, error
        self._failed.set()
        noted = self._noted.waiters if self._noted is not None else ()
        for done in chain(batch.all_waiters(), self.waiting.all_waiters(), noted):
            if not done.done():
                done.set_exception(error)
        # The close must neither store what may be put again, nor mark an event whose attempt does not begin now.
        self.waiting.puts.clear()
        self.waiting.marks = _removals(self.waiting.marks)

    def _try_again(self) -> None:
        self._retry = None
        if self._failure is not None:
            return
        self._stalled = False
        self._database.submit(prove_room(self._database), self._proved_room)
        self.commit()

    def _proved_room(self, result: Committed[bool] | Exception) -> None:
        if isinstance(result, Committed) and result.value and not self.restoring:
            self.available = True
            self._stalled = self._failure is not None  # no retry follows
            self._telemetry.buffer_recovered()
            self.commit()
        else:
            self.lacks_room(
                result if isinstance(result, Exception) else UnavailableError("there is no room in reserve")
            )


def _removals(changes: Changes) -> dict[int, Mark | None]:
    """Return those changes of marks that remove one."""
    return {event_id: None for event_id, mark in changes.items() if mark is None}


def tell(done: asyncio.Future[F], value: F) -> None:
    """Answer who waits, unless that was answered already, or was cancelled."""
    if not done.done():
        done.set_result(value)


def prove_room(database: Database) -> Job[bool]:
    """Return a job that makes the reserve, and returns whether the disk had room for it and for more.

    It also writes something, which fails if the disk fails for another reason.
    """

    def job(transaction: Transaction) -> bool:
        assert database.directory is not None
        if transaction.moved:
            raise transaction.moved
        try:
            database.directory.reserve()
        except OSError:
            return False
        if not database.directory.has_room:
            return_space(transaction, whatever_it_is=True)
            return False
        ledger.store(transaction.connection, transaction.ledger)
        return True

    return job

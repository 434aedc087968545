"""Runs work that may block for ever, such as reading from a file system that hangs, beside the event loop.

Each piece of work has a thread of its own. The process waits only a moment for these threads when it ends; for the threads
of asyncio's executor it would wait for ever.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")
_Job = tuple[Callable[..., object], tuple[Any, ...]]


class NoThreadError(Exception):
    """The system has no more threads for this process at present."""


def end_threads(*, within_seconds: float) -> None:
    """At the end of the process, wait so long for threads that still work.

    A thread that is inside OpenSSL when the process exits would crash it; one that hangs in a file system would not.
    """
    deadline = time.monotonic() + within_seconds
    for thread in threading.enumerate():
        if thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))


async def in_own_thread(work: Callable[[], Result], *, name: str) -> Result:
    """Return what `work` returns, or raise what it raises, or NoThreadError.

    If this is cancelled, the work goes on, and its result is lost.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(outcome: Callable[[], None]) -> None:
        if not done.done():
            outcome()

    def run() -> None:
        outcome: Callable[[], None]
        try:
            outcome = partial(done.set_result, work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the caller waits
            outcome = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, outcome)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise NoThreadError from error
    return await done


class JobThread(Executor):
    """A thread that runs jobs one after the other. It starts with the first job, and anew after `end`.

    Only the event loop's thread may call it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] | None = None  # of the thread that runs

    def post(self, job: Callable[..., object], *args: Any) -> None:
        """Run a job that tells the event loop itself what came of it, without a future, which costs more than the rest.

        Raise RuntimeError if the system has no more threads.
        """
        jobs = self._jobs
        if jobs is None:
            jobs = SimpleQueue()
            threading.Thread(target=_run, args=(jobs,), name=self._name, daemon=True).start()
            self._jobs = jobs
        jobs.put((job, args))

    def submit(self, job: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        """See Executor."""
        done: Future[Result] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(job(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is told to who waits
                done.set_exception(error)

        self.post(run)
        return done

    def end(self) -> None:
        """End the thread after the jobs that it has."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None


def _run(jobs: "SimpleQueue[_Job | None]") -> None:
    while (each := jobs.get()) is not None:
        try:
            each[0](*each[1])
        except RuntimeError:
            pass  # the event loop has ended meanwhile
        except Exception:  # noqa: BLE001 - a bug; the jobs after it must run all the same
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        del each  # what the job holds is not kept while the thread waits

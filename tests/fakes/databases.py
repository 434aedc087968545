"""A real database whose jobs run at once, on the thread that submits them: for virtual time, and for speed."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from forwarder.database.connection import Database

_to_close: list[Callable[[], object]] = []


class InlineExecutor(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - told to who waits
            done.set_exception(error)
        return done


def inline_database(directory: Path | None = None, **options: Any) -> Database:
    """Return a database, not yet open; in memory without a directory. It is closed after the test if not before."""
    database = Database(directory, **options)
    database._thread.shutdown()
    database._thread = InlineExecutor()  # type: ignore[assignment]  # it stands in for the thread
    close_after_test(database._close)
    return database


def close_after_test(close: Callable[[], object]) -> None:
    """Have this called after the test: from Python 3.13 on, a connection that nobody closed is a warning."""
    _to_close.append(close)


def close_databases() -> None:
    """Close what the test opened and left open; closing twice does no harm."""
    while _to_close:
        _to_close.pop()()

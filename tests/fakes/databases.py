"""A real database whose jobs run at once, on the thread that submits them: for virtual time, and for speed."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from forwarder.database.connection import Database


class InlineExecutor(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - told to who waits
            done.set_exception(error)
        return done


def inline_database(directory: Path | None = None, **options: Any) -> Database:
    """Return a database, not yet open; in memory without a directory."""
    database = Database(directory, **options)
    database._thread.shutdown()
    database._thread = InlineExecutor()  # type: ignore[assignment]  # it stands in for the thread
    return database

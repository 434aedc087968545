"""How many files the process may have open, which connections are, too: the limit is raised, and connections are capped.

When the limit is reached all the same, one line says so and how to raise it, whatever the event loop makes of it. asyncio
tells its exception handler, dozens of times a second, and tries again a second later. uvloop tells nobody: it takes the
connections that wait by the one descriptor that it keeps for that, and closes them. So whether a file can be opened is also
tried every few seconds. Used by `process`.
"""

import asyncio
import errno
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

_RESERVED_FILES: Final = 256
"""For all that is no connection of an intake: the buffer, the admin listener, delivery beside `others`, the log."""
_LEAST_FILES: Final = 32
"""With fewer, not even the buffer and the listeners can be opened."""
_ACCEPTED_AT_ONCE: Final = 128
"""As many as an event loop may accept of each listener before anything here can close others."""
_TRYING_SECONDS: Final = 5.0
_NONE_LEFT: Final = (errno.EMFILE, errno.ENFILE)


def too_few_files() -> str | None:
    """Return why the process cannot be a daemon, with as few files open as it may have; None if it can.

    The soft limit is raised to the least that a daemon needs, if it is lower and the hard limit allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_LEAST_FILES, hard))
        except (ValueError, OSError):
            return (
                f"the limit of open files (RLIMIT_NOFILE) is {soft}, and the daemon needs {_LEAST_FILES} at least: raise "
                "it, with ulimit -n 4096, LimitNOFILE=4096 in a unit of systemd, or --ulimit nofile=4096 of docker run"
            )
    return None


def affordable(max_connections: int, *, listeners: int, others: int = 0) -> int:
    """Return how many connections each of `listeners` can have before file descriptors run out, at most `max_connections`.

    The process's soft limit is raised as far as that takes, and the hard limit allows. `others` are descriptors that are
    wanted for something else, such as delivery's connections.
    """
    beside = _RESERVED_FILES + others + listeners * _ACCEPTED_AT_ONCE
    wanted = beside + listeners * max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # some systems have a lower limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, (soft - beside) // max(1, listeners)))


class OpenFiles:
    """Tells when no more files can be opened. `try_one` opens one and closes it, or raises OSError.

    `exhausted` is called with how many the process may have open, or None where the machine can open no more.
    """

    def __init__(self, exhausted: Callable[..., None], *, try_one: Callable[[], None] | None = None) -> None:
        self._exhausted = exhausted
        self._try_one = try_one or _open_and_close

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error of the event loop: tell of the limit; log all others as the loop does."""
        if not self._tell(context.get("exception")):
            loop.default_exception_handler(context)

    async def serve(self) -> None:
        """Try again and again whether a file can be opened."""
        while True:
            self.poll()
            await asyncio.sleep(_TRYING_SECONDS)

    def poll(self) -> None:
        """Try once. Other errors say nothing of a limit, and are left to whoever needs a file."""
        try:
            self._try_one()
        except OSError as error:
            self._tell(error)

    def _tell(self, error: object) -> bool:
        """Return whether this is about the limit, and is told."""
        if not isinstance(error, OSError) or error.errno not in _NONE_LEFT:
            return False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._exhausted(limit=soft if error.errno == errno.EMFILE else None)
        return True


def _open_and_close() -> None:
    os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

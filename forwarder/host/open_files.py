"""The limit of open files, which connections count against: it is raised, and the number of connections is capped.

If the limit is reached all the same, one log line says so and how to raise it. asyncio tells its exception handler, dozens
of times a second. uvloop tells nobody: with a spare descriptor it accepts waiting connections and closes them. So the
process also tries every few seconds whether a file can be opened. Used by `process`.
"""

import asyncio
import errno
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

_RESERVED_FILES: Final = 256
"""For everything except connections of intakes and `others`: the buffer, the admin listener, the log."""
_LEAST_FILES: Final = 32
"""With fewer, the buffer and the listeners cannot be opened."""
_ACCEPTED_AT_ONCE: Final = 128
"""How many connections an event loop may accept from a listener before others can be closed."""
_TRYING_SECONDS: Final = 5.0
_NONE_LEFT: Final = (errno.EMFILE, errno.ENFILE)


def too_few_files() -> str | None:
    """Return why the limit is too low for a daemon; None if it is not.

    Raise the soft limit to what a daemon needs, if it is lower and the hard limit allows that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_LEAST_FILES, hard))
        except (ValueError, OSError):
            return (
                f"the limit of open files (RLIMIT_NOFILE) is {soft}, and the daemon needs at least {_LEAST_FILES}: raise "
                "it, with ulimit -n 4096, LimitNOFILE=4096 in a unit of systemd, or --ulimit nofile=4096 of docker run"
            )
    return None


def affordable(max_connections: int, *, listeners: int, others: int = 0) -> int:
    """Return how many connections each of `listeners` can have before files run out, at most `max_connections`.

    Raise the soft limit as far as needed and as the hard limit allows. `others` is the number of files for other purposes,
    such as delivery's connections.
    """
    beside = _RESERVED_FILES + others + listeners * _ACCEPTED_AT_ONCE
    wanted = beside + listeners * max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # some systems have a lower limit that they do not show
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, (soft - beside) // max(1, listeners)))


class OpenFiles:
    """Calls `exhausted` when no more files can be opened. `try_one` opens and closes a file, or raises OSError.

    `exhausted` gets the limit of the process, or None if the machine's limit is reached.
    """

    def __init__(self, exhausted: Callable[..., None], *, try_one: Callable[[], None] | None = None) -> None:
        self._exhausted = exhausted
        self._try_one = try_one or _open_and_close

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error of the event loop: report the limit, and log all other errors as the loop does."""
        if not self._tell(context.get("exception")):
            loop.default_exception_handler(context)

    async def serve(self) -> None:
        """Try every few seconds whether a file can be opened."""
        while True:
            self.poll()
            await asyncio.sleep(_TRYING_SECONDS)

    def poll(self) -> None:
        """Try once. Ignore errors that are not about a limit."""
        try:
            self._try_one()
        except OSError as error:
            self._tell(error)

    def _tell(self, error: object) -> bool:
        """Report an error about the limit. Return whether it is one."""
        if not isinstance(error, OSError) or error.errno not in _NONE_LEFT:
            return False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._exhausted(limit=soft if error.errno == errno.EMFILE else None)
        return True


def _open_and_close() -> None:
    os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

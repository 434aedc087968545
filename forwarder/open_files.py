"""The limit of open files: when it is reached, one line says so and how to raise it, whatever the event loop makes of it.

asyncio tells its exception handler, dozens of times a second, and tries again a second later. uvloop tells nobody: it takes
the connections that wait by the one descriptor that it keeps for that, and closes them. So whether a file can be opened is
also tried every second. Used by `process`.
"""

import asyncio
import errno
import os
import resource
from collections.abc import Callable
from typing import Any, Final

from forwarder.telemetry import Telemetry

_TRYING_SECONDS: Final = 1.0
_NONE_LEFT: Final = (errno.EMFILE, errno.ENFILE)


class OpenFiles:
    """Tells `telemetry` when no more files can be opened. `try_one` opens one and closes it, or raises OSError."""

    def __init__(self, telemetry: Telemetry, *, try_one: Callable[[], None] | None = None) -> None:
        self._telemetry = telemetry
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
        self._telemetry.open_files_exhausted(limit=soft if error.errno == errno.EMFILE else None)
        return True


def _open_and_close() -> None:
    os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

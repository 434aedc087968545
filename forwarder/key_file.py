"""The file of the API key, read again when it changes and when somebody asks.

Invariants: what settings would refuse never replaces a key; neither it nor a good key is ever shown; whatever the file does,
nothing is raised; what is wrong with it is said once, and the file is read at every poll until it is mended, as it may be
half written. It is polled rather than watched, because a mounted secret changes by symbolic links that are swapped
elsewhere. Made and served by the composition root.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from forwarder.settings import RefusedError, Secret, read_secret_file
from forwarder.telemetry import Telemetry

POLL_SECONDS: Final = 1.0

Signature = tuple[int, ...]
"""What the file system tells of a file, which changes with its content, or nearly always; empty if it tells nothing."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found when the file was read."""

    signature: Signature
    """From before it was read, so that what is written meanwhile shows at the next poll."""
    key: Secret | None
    fault: str
    """Why there is no key."""


class KeyFile:
    """Calls `on_new_key` when the file at `path` holds another key than `current`, later another than it called with.

    Without a path `reload` has it said that there is nothing to be read, and that is all.
    """

    def __init__(
        self,
        path: str | None,
        *,
        current: Secret,
        on_new_key: Callable[[Secret], None],
        telemetry: Telemetry,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._path = path
        self._current = current
        self._on_new_key = on_new_key
        self._telemetry = telemetry
        self._poll_seconds = None if path is None else poll_seconds
        self._asked = asyncio.Event()
        self._signature: Signature | None = None  # of the last look; None before the first
        self._fault = ""  # of the last look

    async def serve(self) -> None:
        """Poll now, then every `poll_seconds` and at each request, until cancelled."""
        while True:
            await self.poll()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._asked.wait()

    def reload(self) -> None:
        """Ask for the file to be read at once, even if it seems unchanged; a signal handler of the loop may call this.

        Requests that come before the file is read are one.
        """
        self._asked.set()

    async def poll(self) -> None:
        """Look at the file, and read it if it changed, was of no use the last time, or somebody asked."""
        asked = self._asked.is_set()
        self._asked.clear()
        if self._path is None:
            if asked:
                self._telemetry.nothing_to_reload()
            return
        unless = None if asked or self._fault else self._signature
        # In a thread, as it may be on a file system that does not answer.
        look = await asyncio.to_thread(_look, self._path, unless)
        if look is not None:
            self._take_in(look, asked=asked)

    def _take_in(self, look: _Look, *, asked: bool) -> None:
        # The first look only finds out whether the file changed since the settings were loaded.
        noticed = asked or self._signature not in {None, look.signature}
        fault, self._fault = self._fault, look.fault
        self._signature = look.signature
        if look.key is None:
            if noticed or look.fault != fault:
                self._telemetry.key_reload_failed(look.fault, notable=asked or look.fault != fault)
        elif look.key != self._current:
            self._current = look.key
            self._on_new_key(look.key)
            self._telemetry.key_reloaded("changed")
        elif noticed or fault:
            self._telemetry.key_reloaded("unchanged", notable=asked or bool(fault))


def _look(path: str, unless: Signature | None) -> _Look | None:
    """Read the file; None if its signature is `unless`."""
    signature: Signature = ()
    try:
        # Links are followed: what they lead to is what counts.
        found = os.stat(path)  # noqa: PTH116  # the path is text, and is not needed as anything else
        signature = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if signature == unless:
            return None
        if not stat.S_ISREG(found.st_mode):  # reading a device or a pipe might never end
            return _Look(signature, None, "names something that is no file")
        return _Look(signature, read_secret_file(path), "")
    except OSError as error:
        return _Look(signature, None, f"names a file that cannot be read: {error.strerror}")
    except RefusedError as refused:
        return _Look(signature, None, str(refused))

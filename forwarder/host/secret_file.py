"""A file that a setting names, such as the API key or certificates, read again when it changes.

Invariants: content that settings would refuse never replaces the value in use; no content is ever shown; whatever happens
to the file, nothing is raised; a fault is reported once, and the file is read at every poll until it is fixed, as it may be
half written. The file is polled because a mounted secret changes by symbolic links elsewhere, which cannot be watched. Made
and served by the composition root.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from forwarder.host.threads import NoThreadError, in_own_thread
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import RefusedError

POLL_SECONDS: Final = 5.0

Value = TypeVar("Value")

Signature = tuple[int, ...]
"""What the file system shows of a file, which changes with its content; empty if it shows nothing."""


@dataclass(frozen=True, slots=True)
class _Look(Generic[Value]):
    """The result of reading the file."""

    signature: Signature
    """From before the read, so that the next poll notices what is written meanwhile."""
    value: Value | None
    fault: str
    """Why there is no value."""


class WatchedFile(Generic[Value]):
    """Calls `on_new` whenever the file at `path` has a new value; the first is compared with `current`.

    `setting` names the file; if it names none, there is nothing to watch. `read` returns the value of a file, or raises
    RefusedError or OSError; it may block.
    """

    def __init__(
        self,
        path: str | None,
        *,
        setting: str,
        read: Callable[[str], Value],
        current: Value | None,
        on_new: Callable[[Value], None],
        telemetry: Telemetry,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._path = path
        self._is_named = asyncio.Event()
        self._setting = setting
        self._read = read
        self._current = current
        self._on_new = on_new
        self._telemetry = telemetry
        self._poll_seconds = poll_seconds
        self._signature: Signature | None = None  # of the last look; None before the first
        self._fault = ""  # of the last look
        self.use(path, current)

    @property
    def fault(self) -> str:
        """Why the file cannot be used now, to follow the setting's name; empty if it can, or there is none."""
        return self._fault

    async def serve(self) -> None:
        """Poll now, then every `poll_seconds`, until cancelled. Wait while there is nothing to watch."""
        while True:
            await self._is_named.wait()
            await self.poll()
            await asyncio.sleep(self._poll_seconds)

    def use(self, path: str | None, current: Value | None) -> None:
        """Watch this file from now on, or none. `current` is the value in use.

        The file is read once more, as it may have changed since the settings were read.
        """
        if path != self._path:
            self._path, self._fault = path, ""
        self._current, self._signature = current, None
        if path is None:
            self._is_named.clear()
        else:
            self._is_named.set()

    async def poll(self) -> bool:
        """Read the file if it changed, or could not be used the last time.

        Return whether it has a new value, with which `on_new` was called.
        """
        if (path := self._path) is None:
            return False
        unless = None if self._fault else self._signature
        try:
            look = await in_own_thread(partial(_look, path, unless, self._read), name=self._setting)
        except NoThreadError:
            return False  # the next poll may get a thread
        return look is not None and path == self._path and self._take_in(look)

    def _take_in(self, look: _Look[Value]) -> bool:
        # The first look only shows whether the file changed since the settings were loaded.
        noticed = self._signature not in {None, look.signature}
        fault, self._fault = self._fault, look.fault
        self._signature = look.signature
        if look.value is None:
            if noticed or look.fault != fault:
                self._telemetry.file_reload_failed(self._setting, look.fault, notable=look.fault != fault)
        elif look.value != self._current:
            self._current = look.value
            self._on_new(look.value)
            self._telemetry.file_reloaded(self._setting, "changed")
            return True
        elif noticed or fault:
            self._telemetry.file_reloaded(self._setting, "unchanged", notable=bool(fault))
        return False


def _look(path: str, unless: Signature | None, read: Callable[[str], Value]) -> _Look[Value] | None:
    """Read the file; None if its signature is `unless`."""
    signature: Signature = ()
    try:
        # Links are followed.
        found = os.stat(path)  # noqa: PTH116 - the path is text
        signature = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if signature == unless:
            return None
        if not stat.S_ISREG(found.st_mode):  # reading a device or a pipe might never end
            return _Look(signature, None, "names something that is no file")
        return _Look(signature, read(path), "")
    except OSError as error:
        return _Look(signature, None, f"names a file that cannot be read: {error.strerror}")
    except RefusedError as refused:
        return _Look(signature, None, str(refused))

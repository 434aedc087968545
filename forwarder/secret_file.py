"""A secret's file, such as that of the API key, read again when it changes.

Invariants: what settings would refuse never replaces a secret; neither it nor a good one is ever shown; whatever the file
does, nothing is raised; what is wrong with it is said once, and the file is read at every poll until it is mended, as it
may be half written. It is polled rather than watched, because a mounted secret changes by symbolic links that are swapped
elsewhere. Made and served by the composition root.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from forwarder.settings import RefusedError, Secret, read_secret_file
from forwarder.telemetry import Telemetry
from forwarder.threads import NoThreadError, in_own_thread

POLL_SECONDS: Final = 1.0

Signature = tuple[int, ...]
"""What the file system tells of a file, which changes with its content, or nearly always; empty if it tells nothing."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found when the file was read."""

    signature: Signature
    """From before it was read, so that what is written meanwhile shows at the next poll."""
    secret: Secret | None
    fault: str
    """Why there is no secret."""


class WatchedSecret:
    """Calls `on_new` when the file at `path` holds another secret than `current`, later another than it called with.

    `setting` is the one that names the file; where it names none there is nothing to watch.
    """

    def __init__(
        self,
        path: str | None,
        *,
        setting: str,
        current: Secret | None,
        on_new: Callable[[Secret], None],
        telemetry: Telemetry,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._path = path
        self._setting = setting
        self._current = current
        self._on_new = on_new
        self._telemetry = telemetry
        self._poll_seconds = poll_seconds
        self._signature: Signature | None = None  # of the last look; None before the first
        self._fault = ""  # of the last look

    async def serve(self) -> None:
        """Poll now, then every `poll_seconds`, until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(self._poll_seconds)

    def use(self, path: str | None, current: Secret | None) -> None:
        """Watch this file from now on, or none; `current` is the secret in use.

        The file is read once more, as what it holds may be newer than what was read from it together with all settings.
        """
        if path != self._path:
            self._path, self._fault = path, ""
        self._current, self._signature = current, None

    async def poll(self) -> None:
        """Look at the file, and read it if it changed, or was of no use the last time."""
        if (path := self._path) is None:
            return
        unless = None if self._fault else self._signature
        try:
            look = await in_own_thread(partial(_look, path, unless), name=self._setting)
        except NoThreadError:
            return  # there may be one for the next poll
        if look is not None and path == self._path:
            self._take_in(look)

    def _take_in(self, look: _Look) -> None:
        # The first look only finds out whether the file changed since the settings were loaded.
        noticed = self._signature not in {None, look.signature}
        fault, self._fault = self._fault, look.fault
        self._signature = look.signature
        if look.secret is None:
            if noticed or look.fault != fault:
                self._telemetry.secret_reload_failed(self._setting, look.fault, notable=look.fault != fault)
        elif look.secret != self._current:
            self._current = look.secret
            self._on_new(look.secret)
            self._telemetry.secret_reloaded(self._setting, "changed")
        elif noticed or fault:
            self._telemetry.secret_reloaded(self._setting, "unchanged", notable=bool(fault))


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

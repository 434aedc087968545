"""The control socket of a daemon: made at the start, made again when its file is gone, removed at the end.

No app needs it, so whatever is wrong with its place is logged, and never ends the daemon. One that cannot be made at the
start is not made later: its place may be that of another daemon, which is just being restarted. The file may be removed
while the daemon runs, by a cleaner of temporary files or with its directory. Files are looked at in a thread, since a file
system may hang. Made and served by `parts`.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from forwarder.host.sockets import CannotBindError, barred_directory, bind_unix, remove_unix, share_unix
from forwarder.host.threads import NoThreadError, in_own_thread
from forwarder.intake.http import HttpIntake
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import Settings
from forwarder.settings.control import control_socket

LOOK_SECONDS: Final = 10.0
"""How often it is looked whether the file is still there."""
_MODE: Final = 0o600


class ControlSocket:
    """Serves operators with `intake`."""

    def __init__(self, intake: HttpIntake, *, telemetry: Telemetry, look_seconds: float = LOOK_SECONDS) -> None:
        self._intake = intake
        self._telemetry = telemetry
        self._look_seconds = look_seconds
        self._path: Path | None = None
        """Where it was made; None if it was not."""
        self._file: tuple[int, int] | None = None
        """The device and inode of the file that was made last."""
        self._group: int | None = None
        self._is_needed_by_group = False
        """Whether the group's members have no other socket to connect to."""
        self.address: str | None = None
        """Where it is; None while it is nowhere."""

    async def open(self, settings: Settings, *, taken: Collection[Path]) -> None:
        """Make it, if it is not off. Where that fails, only say so. The apps' sockets have `taken` these paths."""
        if (path := control_socket(settings, os.environ)) is None:
            if settings.control.socket is not None:
                self._telemetry.control_socket_unusable("the app has a socket in buffer.directory")
            return
        if path in taken:
            self._telemetry.control_socket_unusable(f"control.socket: {path} is the path of a socket for apps, too")
            return
        try:
            made = _made(path)
        except CannotBindError as error:
            self._telemetry.control_socket_unusable(str(error))
            return
        self._path = path
        self._is_needed_by_group = settings.intake.unix_socket is None
        self._group = settings.control.group.number if settings.control.group else None
        await self._serve_at(path, *made)

    def use(self, settings: Settings) -> None:
        """Let the group of these settings connect, and nobody else but the owner."""
        group = settings.control.group.number if settings.control.group else None
        if group == self._group:
            return
        self._group = group
        if self.address is not None:
            self._share()

    async def serve(self, has_changed: Callable[[], object]) -> None:
        """Make it again whenever its file is gone, until cancelled; `has_changed` is called when the address has."""
        while self._path is not None:
            await asyncio.sleep(self._look_seconds)
            before = self._file, self.address
            try:
                await self._look_after(self._path)
            except NoThreadError:
                continue
            if (self._file, self.address) != before:
                if self.address is not None:
                    self._telemetry.control_socket_back(self.address)
                has_changed()

    def refuse_posts(self) -> None:
        """From now on answer only what changes nothing."""
        self._intake.refuse_posts()

    async def close(self) -> None:
        """Stop, and remove the file. May be called again."""
        await self._intake.close()
        if self._path is not None:
            remove_unix(self._path)
        self._path = self._file = self.address = None

    async def _look_after(self, path: Path) -> None:
        """Make it again, if that is needed and possible."""
        file = self._file

        def look() -> tuple[socket.socket, tuple[int, int]] | None:
            return None if _identity(path) == file else _made(path)

        try:
            made = await in_own_thread(look, name="control socket")
        except CannotBindError as error:
            if self.address is not None:
                self._telemetry.control_socket_gone(str(error))
            self.address = None
        else:
            self.address = str(path)
            if made is not None:
                await self._serve_at(path, *made)

    async def _serve_at(self, path: Path, listener: socket.socket, file: tuple[int, int]) -> None:
        self._file, self.address = file, str(path)
        if self._group is not None:
            self._share()
        await self._intake.open(listener)

    def _share(self) -> None:
        assert self._path is not None
        try:
            share_unix(self._path, group=self._group)
        except OSError as error:
            self._telemetry.control_group_unusable(error)
            return
        if not self._is_needed_by_group or self._group is None:
            return
        if directory := barred_directory(self._path, group=self._group):
            self._telemetry.control_group_barred(str(directory))


def _made(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """Return a socket that listens at a path, and its file's device and inode. Raise CannotBindError."""
    listener = bind_unix(path, mode=_MODE, setting="control.socket")
    file = _identity(path)
    if file is None:
        listener.close()
        raise CannotBindError(f"control.socket: {path} was removed again at once")
    return listener, file


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file; None if it cannot be seen."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

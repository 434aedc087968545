"""The running daemon that a configuration is of, which `check-config` must not mistake for another's.

systemd checks the settings before each reload: then the daemon has the directory, the ports and the sockets. It is found by
what it holds: systemd names its process in MAINPID, and of a buffer on disk the process that has locked the directory is it.
A buffer in memory has neither; there it is who answers at the configuration's own addresses. What that process has is known
from /proc or, where another user namespace hides that (systemd's PrivateUsers), from what it says at its own sockets.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Final, NamedTuple

from forwarder.cli.daemon import Daemon, DaemonError, HostPort, Place
from forwarder.database.files import LOCK_NAME, OPEN_FLAGS
from forwarder.host import listeners
from forwarder.settings import Settings
from forwarder.settings.control import control_socket

_CONNECT_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 3.0
_MAX_ANSWER_BYTES: Final = 1024 * 1024
_CREDENTIALS: Final = struct.Struct("=iII")
_MAX_NOTE_BYTES: Final = 300


class Holder(NamedTuple):
    """Who has locked a directory."""

    process: int | None
    """None if it cannot be seen from here, as one in another container."""
    note: str
    """What the lock's file says: the process, and its host."""


def holder_of(directory: Path) -> Holder | None:
    """Return who has locked a buffer's directory; None if nobody has, or if it cannot be looked into."""
    try:
        file = os.open(directory / LOCK_NAME, os.O_RDONLY | OPEN_FLAGS)
    except OSError:
        return None
    try:
        if not _is_locked(file):
            return None
        note = os.pread(file, _MAX_NOTE_BYTES, 0).decode("utf-8", "replace")
        lockers = listeners.lockers_of(os.fstat(file).st_ino) or set()
    except OSError:
        return None
    finally:
        os.close(file)
    noted = int(note.split()[0]) if note and note.split()[0].isdecimal() else None
    if noted in lockers:
        return Holder(noted, note)
    return Holder(next(iter(lockers)) if len(lockers) == 1 else None, note)


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def listening_at(path: str) -> int | None:
    """Return the process that listens on a Unix stream socket; None if none does, or it cannot be seen from here.

    Raise OSError if it cannot be connected to: ConnectionRefusedError if nobody listens.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        probe.connect(path)
        process, _, _ = _CREDENTIALS.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return process or None


class OwnDaemon:
    """The daemon. `tell` returns the addresses that it says it listens on, by their names; None if it says nothing.

    It is asked only if /proc does not tell, as a daemon that hangs takes long not to answer.
    """

    def __init__(self, process: int | None, tell: Callable[[], Mapping[str, str] | None]) -> None:
        self.process: Final = process
        self._tell = tell

    @cached_property
    def _told(self) -> Mapping[str, str] | None:
        return self._tell()

    def has_tcp(self, host: str, port: int) -> bool | None:
        """Return whether it keeps others from listening on an IP address and port; None if that is unknown."""
        if self.process is not None:
            found = [each.inode for each in listeners.listeners_on(host, port)]
            has = listeners.has_sockets(self.process, found) if found else None
            if has is not None:
                return has
        if self._told is None:
            return None
        parsed = [HostPort.parse(each) for each in self._told.values()]
        return any(each and each.port == port and listeners.overlap(each.host, host) for each in parsed)

    def has_unix(self, path: str) -> bool | None:
        """Return whether it has the socket at a path, of any kind; None if that is unknown."""
        if self.process is not None:
            with suppress(OSError):
                return listening_at(path) == self.process
            inode = listeners.bound_to(path)
            has = None if inode is None else listeners.has_sockets(self.process, [inode])
            if has is not None:
                return has
        return None if self._told is None else str(Path(path).absolute()) in self._told.values()


def own_daemon(settings: Settings, environ: Mapping[str, str]) -> OwnDaemon | None:
    """Return the running daemon of this configuration; None if none runs."""
    control = control_socket(settings, environ)
    sockets = [str(each) for each in (control, settings.intake.unix_socket) if each is not None]
    process = _main_process(environ)
    if process is None and settings.buffer.kind == "disk":
        holder = holder_of(Path(settings.buffer.directory))
        process = None if holder is None else holder.process
    if process is not None:
        return OwnDaemon(process, partial(_told_by, process, sockets))
    return _in_memory(settings, sockets) if settings.buffer.kind == "memory" else None


def _main_process(environ: Mapping[str, str]) -> int | None:
    """Return the service's main process, which systemd names to ExecReload; None if there is none."""
    text = environ.get("MAINPID", "")
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        return None
    try:
        os.kill(int(text), 0)  # nothing is sent; /proc may hide the process (systemd's ProtectProc)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return int(text)


def _told_by(process: int, sockets: Sequence[str]) -> Mapping[str, str] | None:
    """Return the addresses that this process tells of itself."""
    for path in sockets:
        with suppress(OSError):
            if listening_at(path) == process:
                addresses, _ = _status_of(Place(None, path))
                if addresses is not None:
                    return addresses
    return None


def _in_memory(settings: Settings, sockets: Sequence[str]) -> OwnDaemon | None:
    """Return the daemon with a buffer in memory that listens on all addresses of the configuration."""
    intake = settings.intake
    places: list[tuple[Place, str | None]] = [(Place(None, path), path) for path in sockets if Path(path).exists()]
    if intake.http is not None and intake.http.port:
        token = None if intake.token is None else intake.token.reveal()
        places.append((Place(HostPort(intake.http.host, intake.http.port).reachable(), token=token), None))
    for place, path in places:
        told, kind = _status_of(place)
        if told is None or kind != "memory":
            continue
        process = None
        with suppress(OSError):
            process = None if path is None else listening_at(path)
        if _is_at(settings, told):
            return OwnDaemon(process, partial(dict, told))
    return None


def _is_at(settings: Settings, told: Mapping[str, str]) -> bool:
    """Return whether a daemon that tells these addresses has those of the settings."""
    intake, admin = settings.intake, settings.admin
    paths = {"unix": intake.unix_socket, "lines": intake.lines_socket, "datagram": intake.datagram_socket}
    ports = {"http": intake.http, "admin": admin.http}
    return all(path is None or told.get(name) == str(Path(path).absolute()) for name, path in paths.items()) and all(
        address is None or address.port in {0, (HostPort.parse(told.get(name, "")) or HostPort("", -1)).port}
        for name, address in ports.items()
    )


def _status_of(place: Place) -> tuple[Mapping[str, str] | None, str]:
    """Return the addresses and the kind of buffer that a daemon tells; no addresses if it is no forwarder."""
    try:
        with Daemon(place) as daemon:
            answer = daemon.get("/v1/status", max_answer_bytes=_MAX_ANSWER_BYTES, answer_seconds=_ANSWER_SECONDS)
    except (DaemonError, OSError):
        return None, ""
    addresses, buffer = answer.content.get("addresses"), answer.content.get("buffer")
    if answer.status != 200 or not isinstance(addresses, dict) or not isinstance(buffer, dict):
        return None, ""
    return {str(name): str(each) for name, each in addresses.items()}, str(buffer.get("kind"))

"""The sockets of the intakes, bound before the daemon is ready; and who is at the other end of a Unix socket.

An error says what cannot be had, and why. The kernel tells whose the process was when it connected, so nothing that happens
to the process later counts. In a user namespace (a container, systemd's PrivateUsers) it tells the same number for all
users, or groups, that are not part of that: they are nobody's.
"""

import array
import os
import pwd
import socket
import stat
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forwarder.settings import Address

_BACKLOG: Final = 1024
_SO_PEERCRED: Final = getattr(socket, "SO_PEERCRED", None)
_SO_PEERGROUPS: Final = 59
"""Of Linux, which Python has no name for."""
_MAX_OPTION_BYTES: Final = 1024
"""The most that Python reads of an option: 256 groups."""
_CREDENTIALS: Final = struct.Struct("=iII")
_ALL: Final = ["0", "0", "4294967295"]
"""The map of a user namespace that all users, or groups, are part of."""
_USUAL_STAND_IN: Final = 65534


class CannotBindError(Exception):
    """An address or a path cannot be listened on; the message says which and why."""


def bind_tcp(address: Address, *, setting: str) -> socket.socket:
    """Listen on a TCP address; `setting` is the one that names it."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # Of a name that has both, such as localhost, IPv4 is what the documentation and most clients use.
        family, *_, place = min(found, key=lambda one: one[0] != socket.AF_INET)
        return socket.create_server(place[:2], family=family, backlog=_BACKLOG)
    except UnicodeError:
        raise CannotBindError(f"{setting}: cannot listen on {address}: that is no name of a host") from None
    except OSError as error:
        raise CannotBindError(f"{setting}: cannot listen on {address}: {error.strerror or error}") from error


def bind_unix(path: Path, *, mode: int, setting: str) -> socket.socket:
    """Listen on a Unix socket with the given mode.

    A socket file that nobody listens on any more is replaced. One that somebody does, and a file that is no socket, are
    left as they are.
    """
    listener = _bound(path, socket.SOCK_STREAM, mode=mode, setting=setting)
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(path, setting, error) from error
    return listener


def bind_unix_datagram(path: Path, *, mode: int, setting: str) -> socket.socket:
    """Receive datagrams at a Unix socket with the given mode; files that are there are treated as `bind_unix` does."""
    return _bound(path, socket.SOCK_DGRAM, mode=mode, setting=setting)


def remove_unix(path: Path) -> None:
    """Remove a socket file on closing, unless a successor listens on it."""
    with suppress(CannotBindError):
        _remove_stale(path)


def _bound(path: Path, kind: socket.SocketKind, *, mode: int, setting: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, kind)
    try:
        _remove_stale(path)
        bound.bind(str(path))
        path.chmod(mode)  # before it listens, so nobody connects under another mode
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise _cannot_listen(path, setting, error) from error
    except CannotBindError as error:
        bound.close()
        raise CannotBindError(f"{setting}: {error}") from None
    return bound


def _cannot_listen(path: Path, setting: str, error: OSError) -> CannotBindError:
    return CannotBindError(f"{setting}: cannot listen on {path}: {error.strerror or error}")


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotBindError(f"{path} is there and is no socket; name another path or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:  # so it is of any kind of socket
            path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError:
            pass  # somebody is there, too busy or of another kind
    raise CannotBindError(f"another process listens on {path}; stop it or name another path")


@dataclass(frozen=True, slots=True)
class Peer:
    """Whose the process was that connected."""

    user: int | None
    """None if it is not part of this user namespace."""
    groups: Collection[int]
    """Its own, and the supplementary ones, as far as they are part of it."""


def peer_of(connected: Any) -> Peer | None:
    """Return who connected this socket, as asyncio or uvloop give it; None if the system does not tell."""
    if _SO_PEERCRED is None or connected is None:
        return None
    try:
        told = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    _, user, group = _CREDENTIALS.unpack(told)
    groups: Collection[int]
    try:
        groups = array.array("I", connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)).tolist()
    except OSError:  # the system has no such option, or they are too many
        groups = _groups_of(user, group)
    return Peer(None if user == _stand_in("uid") else user, {group, *groups} - {_stand_in("gid")})


def _stand_in(kind: str) -> int | None:
    """Return the number that stands for all users, or groups, who are not part of this user namespace; None if all are."""
    with suppress(OSError, ValueError):
        if Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").split() == _ALL:
            return None
        return int(Path(f"/proc/sys/kernel/overflow{kind}").read_text(encoding="ascii"))
    return _USUAL_STAND_IN


def _groups_of(user: int, group: int) -> Collection[int]:
    """Return the groups that the system's database gives a user."""
    with suppress(KeyError, OSError):
        return os.getgrouplist(pwd.getpwuid(user).pw_name, group)
    return ()

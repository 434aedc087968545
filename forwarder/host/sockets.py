"""The sockets of the intakes, bound before the daemon is ready; and the user at the other end of a Unix socket.

The kernel tells the user and groups that a process had when it connected. In a user namespace (a container, systemd's
PrivateUsers) it tells one number for all users, or groups, outside the namespace: these count as unknown.
"""

import array
import errno
import os
import pwd
import socket
import stat
import struct
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forwarder.settings import Address

_BACKLOG: Final = 1024
_FIRST_FREE_PORT: Final = 1024
"""Linux lets only root listen on lower ones, unless it is set up otherwise."""
_BIND_FAULTS: Final[Mapping[int | None, tuple[str, str]]] = {
    errno.EADDRINUSE: ("another process listens there", "stop it, or choose another port"),
    errno.EACCES: (f"ports below {_FIRST_FREE_PORT} are for root", "choose a higher one"),
    errno.EADDRNOTAVAIL: (
        "this machine has no such address",
        "use one that it has, or 0.0.0.0 or [::] for all of them",
    ),
    errno.EAFNOSUPPORT: ("this machine has no IPv6", "use an IPv4 address"),
}
_UNIX_FAULTS: Final[Mapping[int | None, tuple[str, str]]] = {
    errno.ENOENT: ("its directory does not exist", "make it, or name a path in another one"),
    errno.ENOTDIR: ("a part of its path is no directory", "name another path"),
    errno.EACCES: ("this user may not make a file in its directory", "allow that, or name a path in another one"),
    errno.EROFS: ("its directory cannot be written", "name a path in another one"),
}
_SO_PEERCRED: Final = getattr(socket, "SO_PEERCRED", None)
_SO_PEERGROUPS: Final = 59
"""The number on Linux; Python has no name for it."""
_MAX_OPTION_BYTES: Final = 1024
"""The most that Python reads: 256 groups."""
_CREDENTIALS: Final = struct.Struct("=iII")
_ALL: Final = ["0", "0", "4294967295"]
"""The map of a user namespace that contains all users, or groups."""
_USUAL_STAND_IN: Final = 65534


class CannotBindError(Exception):
    """The daemon cannot listen on an address or a path; the message says which and why."""


def bind_tcp(address: Address, *, setting: str) -> socket.socket:
    """Listen on a TCP address, which `setting` names."""
    try:
        family, place = resolved(address)
        return socket.create_server(place, family=family, backlog=_BACKLOG)
    except (UnicodeError, OSError) as error:
        raise CannotBindError(f"{setting}: cannot listen on {address}: {bind_fault(address, error)}") from None


def bound_for_a_moment(address: Address) -> None:
    """Bind a TCP address as `bind_tcp` does, but do not listen, and close it. Raise OSError or UnicodeError."""
    family, place = resolved(address)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(place)


def resolved(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the family, the IP address and the port to listen on. Raise OSError or UnicodeError."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # If a name has both, such as localhost, use IPv4, like the documentation and most clients.
    family, *_, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, (str(place[0]), int(place[1]))


def bind_fault(address: Address, error: OSError | UnicodeError) -> str:
    """Return why nothing can listen on an address, and the fix."""
    if isinstance(error, UnicodeError):
        return "that is not the name of a host"
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; name an address of this machine, such as 127.0.0.1"
    # Python adds to the system's text, which would say the address twice.
    told = os.strerror(error.errno) if error.errno else str(error)
    why, fix = _BIND_FAULTS.get(error.errno, ("", ""))
    if error.errno == errno.EACCES and not 0 < address.port < _FIRST_FREE_PORT:
        why = ""
    return f"{why} ({told}); {fix}" if why else told


def bind_unix(path: Path, *, mode: int, setting: str) -> socket.socket:
    """Listen on a Unix socket with the given mode.

    A stale socket file, on which no process listens, is replaced. Any other file is left as it is.
    """
    listener = _bound(path, socket.SOCK_STREAM, mode=mode, setting=setting)
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(path, setting, error) from error
    return listener


def share_unix(path: Path, *, group: int | None) -> None:
    """Let the members of a group connect to a socket, besides its owner; with None the owner alone. Raise OSError.

    A link in its place, or another kind of file, is left as it is: others may be able to write to its directory.
    """
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.fstat(held).st_mode):
            raise OSError(errno.ENOTSOCK, "another file is in its place")
        file = Path(f"/proc/self/fd/{held}")  # what is open, whatever has its path by now
        file.chmod(0o600)  # also if the next fails
        if group is not None:
            os.chown(file, -1, group)
            file.chmod(0o660)
    finally:
        os.close(held)


def barred_directory(path: Path, *, group: int) -> Path | None:
    """Return the first directory on the way to a path that the members of a group may not enter; None if they may.

    Lists of access rights beyond the mode are not looked at. What cannot be seen counts as fine.
    """
    directory = Path(os.path.realpath(path.parent))
    for each in (*reversed(directory.parents), directory):
        try:
            found = each.stat()
        except OSError:
            return None
        if not found.st_mode & (stat.S_IXGRP if found.st_gid == group else stat.S_IXOTH):
            return each
    return None


def bind_unix_datagram(path: Path, *, mode: int, setting: str) -> socket.socket:
    """Receive datagrams at a Unix socket with the given mode. Existing files are treated as by `bind_unix`."""
    return _bound(path, socket.SOCK_DGRAM, mode=mode, setting=setting)


def remove_unix(path: Path) -> None:
    """Remove a socket file, unless another process listens on it. It may stay: the next daemon there replaces it."""
    with suppress(CannotBindError, OSError):  # the directory may have changed since
        _remove_stale(path)


def _bound(path: Path, kind: socket.SocketKind, *, mode: int, setting: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, kind)
    try:
        _remove_stale(path)
        bound.bind(str(path))
        path.chmod(mode)  # before it listens, so that nobody connects under another mode
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise _cannot_listen(path, setting, error) from error
    except CannotBindError as error:
        bound.close()
        raise CannotBindError(f"{setting}: {error}") from None
    return bound


def _cannot_listen(path: Path, setting: str, error: OSError) -> CannotBindError:
    return CannotBindError(f"{setting}: cannot listen on {path}: {unix_fault(error)}")


def unix_fault(error: OSError) -> str:
    """Return why no socket can be made at a path, and the fix."""
    told = error.strerror or str(error)
    why, fix = _UNIX_FAULTS.get(error.errno, ("", ""))
    return f"{why} ({told}); {fix}" if why else told


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotBindError(f"{path} exists and is not a socket; name another path or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:  # no process listens, whatever kind of socket it is
            path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError:
            pass  # a process listens, but is busy or has another kind of socket
    raise CannotBindError(f"another process listens on {path}; stop it or name another path")


@dataclass(frozen=True, slots=True)
class Peer:
    """The user and groups of the process that connected."""

    user: int | None
    """None if the user is not part of this user namespace."""
    groups: Collection[int]
    """Its own and supplementary groups, as far as they are part of this user namespace."""


def peer_of(connected: Any) -> Peer | None:
    """Return who connected this socket, which is asyncio's or uvloop's; None if the system does not tell."""
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
    except OSError:  # the system has no such option, or there are too many groups
        groups = _groups_of(user, group)
    return Peer(None if user == _stand_in("uid") else user, {group, *groups} - {_stand_in("gid")})


def user_of(connected: Any) -> int | None:
    """Return the number of the user who connected this socket; None if the system does not tell, or over TCP."""
    if getattr(connected, "family", None) != socket.AF_UNIX or (peer := peer_of(connected)) is None:
        return None
    return peer.user


def _stand_in(kind: str) -> int | None:
    """Return the number of all users, or groups, outside this user namespace; None if there are none."""
    with suppress(OSError, ValueError):
        if Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").split() == _ALL:
            return None
        return int(Path(f"/proc/sys/kernel/overflow{kind}").read_text(encoding="ascii"))
    return _USUAL_STAND_IN


def _groups_of(user: int, group: int) -> Collection[int]:
    """Return the groups of a user by the system's database."""
    with suppress(KeyError, OSError):
        return os.getgrouplist(pwd.getpwuid(user).pw_name, group)
    return ()

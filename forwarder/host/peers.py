"""Who is at the other end of a Unix socket.

The kernel tells whose the process was when it connected, so that nothing which happens to the process later counts. In a
user namespace (a container, systemd's PrivateUsers) it tells the same number for all users, or groups, that are not part of
that: they are nobody's. Used by the HTTP intake alone.
"""

import array
import os
import pwd
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SO_PEERCRED: Final = getattr(socket, "SO_PEERCRED", None)
_SO_PEERGROUPS: Final = 59
"""Of Linux, which Python has no name for."""
_MAX_OPTION_BYTES: Final = 1024
"""The most that Python reads of an option: 256 groups."""
_CREDENTIALS: Final = struct.Struct("=iII")
_ALL: Final = ["0", "0", "4294967295"]
"""The map of a user namespace that all users, or groups, are part of."""
_USUAL_STAND_IN: Final = 65534


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

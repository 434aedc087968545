"""Who is at the other end of a Unix socket, and who of them may operate the daemon: see payloads, and change something.

The daemon's own user, root, and the members of `control.group`. The kernel tells whose the process was when it connected, so
that nothing which happens to the process later counts. Used by the HTTP intake alone.
"""

import array
import os
import pwd
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from forwarder.settings import ControlSettings

_SO_PEERCRED: Final = getattr(socket, "SO_PEERCRED", None)
_SO_PEERGROUPS: Final = 59
"""Of Linux, which Python has no name for."""
_MAX_OPTION_BYTES: Final = 1024
"""The most that Python reads of an option: 256 groups."""
_CREDENTIALS: Final = struct.Struct("=iII")
_ROOT: Final = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """Whose the process was that connected."""

    user: int
    groups: Collection[int]
    """Its own, and the supplementary ones."""


class Operators:
    """Who may operate the daemon over a Unix socket."""

    def __init__(self, settings: ControlSettings) -> None:
        self._own = os.geteuid()
        self.use(settings)

    def use(self, settings: ControlSettings) -> None:
        """Go by these settings from now on."""
        self._group = None if settings.group is None else settings.group.number

    def include(self, peer: Peer | None) -> bool:
        """Whether this is one of them; who is not known is not."""
        return peer is not None and (peer.user in (self._own, _ROOT) or self._group in peer.groups)


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
    return Peer(user, {group, *groups})


def _groups_of(user: int, group: int) -> Collection[int]:
    """Return the groups that the system's database gives a user."""
    with suppress(KeyError, OSError):
        return os.getgrouplist(pwd.getpwuid(user).pw_name, group)
    return ()

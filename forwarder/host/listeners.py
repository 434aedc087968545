"""Which process listens on a TCP port or has a file locked, as Linux tells in /proc. Nothing is opened, locked or connected.

Another system tells nothing, and of another user's process only root learns which sockets it has: then these functions
return None, which says "unknown".
"""

import re
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"
_LOCK: Final = re.compile(r"\d+: FLOCK +\S+ +WRITE (\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ")


class Listener(NamedTuple):
    """A TCP socket that listens, of any process of this network namespace."""

    host: str
    inode: int


def listeners_on(host: str, port: int) -> list[Listener]:
    """Return those sockets that keep others from listening on an IP address and port; none if the system does not tell."""
    return [each for each in (*_listeners("tcp", port), *_listeners("tcp6", port)) if overlap(each.host, host)]


def overlap(one: str, other: str) -> bool:
    """Return whether two listeners cannot have the same port: they have one address, or one has all of them."""
    return one == other or "0.0.0.0" in (one, other) or "::" in (one, other)  # noqa: S104 - nothing is bound


def _listeners(table: str, port: int) -> Iterator[Listener]:
    with suppress(OSError):
        for line in (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
            columns = line.split()
            address, _, its_port = columns[1].partition(":")
            if columns[3] == _LISTENING and int(its_port, 16) == port:
                yield Listener(_host(address), int(columns[9]))


def _host(digits: str) -> str:
    """Return an address that the kernel writes as words of 32 bits in its own byte order."""
    words = struct.unpack(f">{len(digits) // 8}I", bytes.fromhex(digits))
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))


def bound_to(path: str) -> int | None:
    """Return the inode of the socket that is bound to a path; None if there is none, or the system does not tell."""
    with suppress(OSError):
        text = (_PROC / "net" / "unix").read_text(encoding="utf-8", errors="surrogateescape")
        for line in text.splitlines()[1:]:
            columns = line.split(None, 7)
            if len(columns) == 8 and columns[7] == path:
                return int(columns[6])
    return None


def has_sockets(process: int, inodes: Collection[int]) -> bool | None:
    """Return whether a process has any of these sockets; None if that is unknown."""
    try:
        return bool(_sockets_of(process) & set(inodes))
    except OSError:
        return None


def process_with(inodes: Collection[int]) -> int | None:
    """Return a process that has any of these sockets; None if that is unknown."""
    wanted = set(inodes)
    for each in _PROC.iterdir() if wanted else ():
        if each.name.isdecimal():
            with suppress(OSError):
                if _sockets_of(int(each.name)) & wanted:
                    return int(each.name)
    return None


def _sockets_of(process: int) -> set[int]:
    found = set()
    for file in (_PROC / str(process) / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            target = str(file.readlink())
            if target.startswith("socket:["):
                found.add(int(target[len("socket:[") : -1]))
    return found


def lockers_of(inode: int) -> set[int] | None:
    """Return the processes that have locked a file of this inode (of any file system); None if the system does not tell."""
    try:
        text = (_PROC / "locks").read_text(encoding="ascii")
    except OSError:
        return None
    return {int(process) for process, its_inode in _LOCK.findall(text) if int(its_inode) == inode}


def name_of(process: int) -> str:
    """Return a process's name, without its arguments, which may hold secrets; empty if that is unknown."""
    with suppress(OSError):
        return (_PROC / str(process) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""

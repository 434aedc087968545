"""The sockets of the intakes, bound before the daemon is ready. An error says what cannot be had, and why."""

import socket
import stat
from contextlib import suppress
from pathlib import Path

from forwarder.settings import Address

_BACKLOG = 1024


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

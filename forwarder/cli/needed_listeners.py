"""Whether a daemon could listen where the settings say, for `check-config`.

A port is bound for a moment, without listening, so that nobody can connect and a daemon that starts just then can still have
it. No socket's file is made or removed. The words are those in which the daemon says it.
"""

import errno
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Final

from forwarder.cli.needs import Finding, doubt, problem
from forwarder.cli.own_daemon import OwnDaemon, listening_at
from forwarder.host import listeners
from forwarder.host.sockets import barred_directory, bind_fault, bound_for_a_moment, resolved, unix_fault
from forwarder.settings import MAX_SOCKET_PATH_BYTES, Address, Group, Settings
from forwarder.settings.control import control_socket

_WRITABLE: Final = os.W_OK | os.X_OK
_CONTROL: Final = "control.socket"
_WITHOUT_CONTROL: Final = "commands then need --url or --unix-socket"


def check_ports(settings: Settings, *, own: OwnDaemon | None) -> Iterator[Finding]:
    """Yield what is wrong with the TCP addresses."""
    found = {"intake.http": settings.intake.http, "admin.http": settings.admin.http}
    wanted = {setting: address for setting, address in found.items() if address is not None}
    places: dict[str, tuple[str, int]] = {}
    for setting, address in wanted.items():
        try:
            _, places[setting] = resolved(address)
            bound_for_a_moment(address)
        except UnicodeError as error:
            yield problem(setting, f"cannot listen on {address}: {bind_fault(address, error)}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE and setting in places:
                yield from _in_use(setting, address, places[setting], own)
            else:
                yield problem(setting, f"cannot listen on {address}: {bind_fault(address, error)}")
    for one, other in combinations(places, 2):
        (host, port), (other_host, other_port) = places[one], places[other]
        if port and port == other_port and listeners.overlap(host, other_host):
            yield problem(other, f"{wanted[other]} has the port of {one}, {wanted[one]}, too; choose another port")


def _in_use(setting: str, address: Address, place: tuple[str, int], own: OwnDaemon | None) -> Iterator[Finding]:
    """Yield what is wrong with a port that somebody has; nothing if the configuration's own daemon has it."""
    has = None if own is None else own.has_tcp(*place)
    if has:
        return
    who = _named(listeners.process_with([each.inode for each in listeners.listeners_on(*place)]))
    if own is not None and has is None and not who:
        yield doubt(
            setting,
            f"{address} is in use, and it cannot be found out by whom: the configuration's daemon (process {own.process}), "
            "or another process; run this as root to know",
        )
        return
    fault = bind_fault(address, OSError(errno.EADDRINUSE, ""))
    yield problem(
        setting, f"cannot listen on {address}: {fault.replace('another process', f'another process{who}', 1)}"
    )


def check_sockets(
    settings: Settings, environ: Mapping[str, str], *, own: OwnDaemon | None, made: Collection[Path]
) -> Iterator[Finding]:
    """Yield what is wrong with the Unix sockets. `made` are directories that the daemon makes before it binds them."""
    intake = settings.intake
    paths = {
        "intake.unix_socket": intake.unix_socket,
        "intake.lines_socket": intake.lines_socket,
        "intake.datagram_socket": intake.datagram_socket,
    }
    for setting, path in paths.items():
        if path and (fault := _fault(Path(path), own=own, made=made)):
            yield problem(setting, fault)
    yield from _check_control(settings, environ, own=own, made=made, others={*paths.values()})
    group = settings.control.group
    if group is not None and os.geteuid() and group.number not in {os.getegid(), *os.getgroups()}:
        text = f"this user is not a member of {group}, so the control socket cannot be given to it; make it one"
        yield doubt("control.group", text)
    elif group is not None and intake.unix_socket is None:
        yield from _check_group(control_socket(settings, environ), group, made=made)


def _check_group(path: Path | None, group: Group, *, made: Collection[Path]) -> Iterator[Finding]:
    """Yield a doubt if the members of a group cannot reach the control socket, which is all that they may connect to."""
    if path is not None and (closed := _closed_to(group.number, path, made)) is not None:
        fix = "name a path for control.socket in a directory that they may enter"
        yield doubt("control.group", f"the members of {group} may not enter {closed}, so they cannot use {path}; {fix}")


def _closed_to(group: int, path: Path, made: Collection[Path]) -> Path | None:
    """Return a directory on the way to a socket that a group may not enter; None if none is seen."""
    directory = path.parent.absolute()
    return directory if directory in made else barred_directory(path, group=group)  # the daemon makes it for itself


def _check_control(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    own: OwnDaemon | None,
    made: Collection[Path],
    others: Collection[str | None],
) -> Iterator[Finding]:
    """Yield a doubt at most: a daemon starts without its control socket."""
    path = control_socket(settings, environ)
    if path is None:
        if settings.control.socket is not None:
            yield doubt(_CONTROL, f"is off, as the app has a socket in buffer.directory; {_WITHOUT_CONTROL}")
    elif str(path) in others:
        yield doubt(_CONTROL, f"{path} is the path of a socket for apps, too; {_WITHOUT_CONTROL}; name another path")
    elif fault := _fault(path, own=own, made=made):
        yield doubt(_CONTROL, f"{fault}; {_WITHOUT_CONTROL}")


def _fault(path: Path, *, own: OwnDaemon | None, made: Collection[Path]) -> str:
    """Return why no socket could be made at a path; empty if one could, or if the configuration's own daemon has it."""
    if (length := len(os.fsencode(path))) > MAX_SOCKET_PATH_BYTES:
        text = f"{path} has {length} bytes, and the path of a socket at most {MAX_SOCKET_PATH_BYTES}"
        return f"{text}; name a shorter one"
    if path.parent.absolute() in made:
        return ""
    try:
        found = path.lstat()
    except FileNotFoundError:
        number = _refusal(path.parent)
    except OSError as error:
        number = error.errno or errno.EIO
    else:
        return _occupied(path, found, own)
    return f"cannot listen on {path}: {unix_fault(OSError(number, os.strerror(number)))}" if number else ""


def _refusal(directory: Path) -> int:
    """Return the number of the error that making a file in a directory would have; 0 if none."""
    if not directory.exists():
        return errno.ENOENT
    if not directory.is_dir():
        return errno.ENOTDIR
    if os.access(directory, _WRITABLE, effective_ids=True):
        return 0
    return errno.EROFS if os.statvfs(directory).f_flag & os.ST_RDONLY else errno.EACCES


def _occupied(path: Path, found: os.stat_result, own: OwnDaemon | None) -> str:
    """Return what is wrong with what is at a socket's path; empty if the daemon would replace it, or made it."""
    if not stat.S_ISSOCK(found.st_mode):
        return f"{path} exists and is not a socket; name another path or remove it"
    process: int | None = None
    try:
        process = listening_at(str(path))
    except (ConnectionRefusedError, FileNotFoundError):  # nobody listens, whatever kind of socket it is
        return _unremovable(path, found)
    except OSError:  # another kind of socket, or one that this user may not connect to
        inode = listeners.bound_to(str(path))
        process = None if inode is None else listeners.process_with([inode])
    if own is not None and own.has_unix(str(path)):
        return ""
    return f"another process{_named(process)} listens on {path}; stop it or name another path"


def _unremovable(path: Path, found: os.stat_result) -> str:
    """Return why a stale socket cannot be replaced; empty if it can."""
    user, directory = os.geteuid(), path.parent
    number = _refusal(directory)
    if not number and user and directory.stat().st_mode & stat.S_ISVTX:
        number = 0 if user in {found.st_uid, directory.stat().st_uid} else errno.EPERM
    if not number:
        return ""
    return f"{path} is left of a daemon that has ended, and cannot be removed ({os.strerror(number)}); remove it"


def _named(process: int | None) -> str:
    """Return words that name a process; empty if it is not known."""
    if process is None:
        return ""
    name = listeners.name_of(process)
    return f" (process {process}{f', {name}' if name else ''})"

"""What `run` needs besides correct settings, as `check-config` finds it: a problem keeps it from starting, a doubt does not.

What the configuration's own daemon has counts as free. Nothing is changed on the machine.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from forwarder.settings import Settings

if TYPE_CHECKING:
    from forwarder.cli.own_daemon import OwnDaemon


class Finding(NamedTuple):
    """One thing that was found."""

    setting: str
    message: str
    """What is wrong, and the fix."""
    is_problem: bool


def problem(setting: str, message: str) -> Finding:
    """Return what keeps the daemon from starting."""
    return Finding(setting, message, is_problem=True)


def doubt(setting: str, message: str) -> Finding:
    """Return what the daemon starts with, but is hardly wanted."""
    return Finding(setting, message, is_problem=False)


def check_needs(settings: Settings, environ: Mapping[str, str], own: "OwnDaemon | None") -> Iterator[Finding]:
    """Yield what is wrong with this machine for a daemon with these settings. `own` is the one that runs, if one does."""
    from forwarder.cli.needed_directory import check_directory
    from forwarder.cli.needed_listeners import check_ports, check_sockets
    from forwarder.host.open_files import too_few_files
    from forwarder.parts import reserve_of

    made: list[Path] = []
    if settings.buffer.kind == "disk":
        directory = Path(settings.buffer.directory).absolute()
        yield from check_directory(directory, reserve_bytes=reserve_of(settings), own=own)
        with suppress(OSError):
            # Made by the daemon, or there is a problem already: then its control socket is none besides.
            made = [each for each in (directory, *directory.parents) if not each.exists()]
    yield from check_sockets(settings, environ, own=own, made=made)
    yield from check_ports(settings, own=own)
    if own is not None:
        yield from _check_identity(settings, own, environ)
    if why := too_few_files():
        yield problem("RLIMIT_NOFILE", why)


def _check_identity(settings: Settings, own: "OwnDaemon", environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a doubt if the daemon that has the directory listens nowhere else where the settings say."""
    if environ.get("MAINPID") or settings.buffer.kind != "disk":
        return
    from forwarder.host.sockets import resolved

    intake = settings.intake
    paths = filter(None, (intake.unix_socket, intake.lines_socket, intake.datagram_socket))
    has = [own.has_unix(path) for path in paths]
    for address in (intake.http, settings.admin.http):
        if address is not None and address.port:
            try:
                has.append(own.has_tcp(*resolved(address)[1]))
            except (OSError, UnicodeError):
                return
    if has and not any(each or each is None for each in has):
        yield doubt(
            "buffer.directory",
            f"process {own.process} uses it, and listens on none of these addresses: if that is the daemon of another "
            "configuration, give each a directory of its own",
        )

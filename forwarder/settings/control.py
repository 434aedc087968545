"""Where the control socket is: where a daemon makes it, and where a command looks for it. Only symbolic links are read.

It must not be in a directory that the app shares, such as the one of `intake.unix_socket`: whoever may write to that could
put a socket of their own there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from forwarder.settings.sections import Settings

NAME: Final = "control.sock"
DEFAULT_CONTROL_SOCKETS: Final = (
    Path("/run/growlytics-forwarder-control") / NAME,
    Path("/var/lib/growlytics-forwarder") / NAME,
)
"""Where a command finds a daemon without knowing its settings: the unit's directory, and the default buffer.directory."""


def control_socket(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return where a daemon with these settings and this environment makes its control socket.

    None if it is off, or if the app has a socket in every directory it could be in. Under systemd, `RUNTIME_DIRECTORY` in
    `environ` lists the unit's directories.
    """
    wanted = settings.control.socket
    if wanted != "auto":
        return Path(wanted) if wanted else None
    intake = settings.intake
    sockets = filter(None, (intake.unix_socket, intake.lines_socket, intake.datagram_socket))
    shared = {Path(each).parent.resolve() for each in sockets}
    own = [*filter(None, environ.get("RUNTIME_DIRECTORY", "").split(":")), settings.buffer.directory]
    return next((Path(each) / NAME for each in own if Path(each).resolve() not in shared), None)


def control_sockets(settings: Settings, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where a command looks for the control socket of a daemon with these settings, the likeliest first.

    The command's own environment mostly lacks what systemd gave the daemon, so the unit's directory is tried, too.
    """
    own = control_socket(settings, environ)
    units = DEFAULT_CONTROL_SOCKETS[0] if settings.control.socket == "auto" else None
    return tuple(dict.fromkeys(filter(None, (own, units))))

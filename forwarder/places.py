"""Where a daemon is by default, where its control socket is, and how this program is typed.

A daemon makes its control socket there, and a command looks there. All modules may import this one; it imports none of ours,
so that a command that reads no settings starts fast. Here only links are read, and whether a program is there. The control
socket must not be in a directory that the app shares, such as the one of `intake.unix_socket`: whoever may write to that
could put a socket of their own there.
"""

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

INTAKE_HTTP: Final = ("127.0.0.1", 8920)
"""The default of `intake.http`."""
ADMIN_HTTP: Final = ("127.0.0.1", 9920)
"""The default of `admin.http`."""
BUFFER_DIRECTORY: Final = "/var/lib/growlytics-forwarder"
"""The default of `buffer.directory`."""
CONFIG: Final = Path("/etc/growlytics-forwarder/config.toml")
"""Where packages and images keep the settings."""
CONFIG_VARIABLE: Final = "FORWARDER_CONFIG"
"""The variable of the environment that names a file of settings, where no `--config` does."""

PROGRAM: Final = "growlytics-forwarder"
"""The command, as it is installed."""
_NAME: Final = "control.sock"
_OF_THE_UNIT: Final = Path("/run/growlytics-forwarder-control") / _NAME
_BESIDE_THE_APPS: Final = Path("/run/growlytics-forwarder") / _NAME
"""Where the unit's daemon has it if the app has no socket there."""
DEFAULT_CONTROL_SOCKETS: Final = (_OF_THE_UNIT, Path(BUFFER_DIRECTORY) / _NAME, _BESIDE_THE_APPS)
"""Where a command finds a daemon without knowing its settings: the unit's directories, and the default buffer.directory."""


def control_socket(
    wanted: str | None, *, directory: str, app_sockets: Iterable[str], environ: Mapping[str, str]
) -> Path | None:
    """Return where a daemon makes its control socket.

    `wanted` is `control.socket`, `directory` is `buffer.directory`, and `app_sockets` are those of `[intake]`. None if it is
    off, or if the app has a socket in every directory it could be in. Under systemd, `RUNTIME_DIRECTORY` in `environ` lists
    the unit's directories.
    """
    if wanted != "auto":
        return Path(wanted) if wanted else None
    shared = {_real(Path(each).parent) for each in app_sockets}
    own = [*filter(None, environ.get("RUNTIME_DIRECTORY", "").split(":")), directory]
    return next((Path(each) / _NAME for each in own if _real(Path(each)) not in shared), None)


def _real(path: Path) -> str:
    """Return where a path leads, as far as it leads anywhere: there may be a circle, or no working directory."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # ValueError: a NUL in it
        return str(path)


def control_sockets(
    wanted: str | None, *, directory: str, app_sockets: Iterable[str], environ: Mapping[str, str]
) -> tuple[Path, ...]:
    """Return where a command looks for the control socket of a daemon with these settings, the likeliest first.

    The command's own environment mostly lacks what systemd gave the daemon, so the unit's directories are tried, too; but
    not for a daemon with a directory of its own, which is another one than the unit's.
    """
    own = control_socket(wanted, directory=directory, app_sockets=app_sockets, environ=environ)
    found = [] if own is None else [own]
    if wanted == "auto" and directory == BUFFER_DIRECTORY:
        shared = {_real(Path(each).parent) for each in app_sockets}
        found += [each for each in (_OF_THE_UNIT, _BESIDE_THE_APPS) if _real(each.parent) not in shared]
    return tuple(dict.fromkeys(found))


def typed_program(environ: Mapping[str, str], *, python: str = sys.executable) -> str:
    """Return what to type into a shell of this machine to run this program.

    By its name it is found only in `PATH`; one that was installed into an environment of its own often is not there.
    `python` is the interpreter of that environment.
    """
    folders = filter(None, environ.get("PATH", os.defpath).split(os.pathsep))
    if any(os.access(Path(each) / PROGRAM, os.X_OK) for each in folders):
        return PROGRAM
    beside = Path(python).absolute().with_name(PROGRAM)
    return shlex.quote(str(beside)) if os.access(beside, os.X_OK) else f"{shlex.quote(python)} -m forwarder"

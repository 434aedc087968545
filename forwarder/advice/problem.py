"""What one problem is, and the commands that people may type about it on the daemon's machine."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from forwarder.places import DEFAULT_CONTROL_SOCKETS
from forwarder.words import Mood

_FOUND_BY_COMMANDS: Final = frozenset(map(str, DEFAULT_CONTROL_SOCKETS))
Content = Mapping[str, Any]
"""The content of /v1/status, or a part of it. This daemon made it, so it is as the API document says."""


@dataclass(frozen=True, slots=True)
class StatusProblem:
    """Something that a person should know of. All texts are for people."""

    kind: str
    """A stable code."""
    mood: Mood
    what: str
    cause: str = ""
    fix: str = ""
    commands: tuple[str, ...] = ()
    """Each works as typed in a shell on the daemon's machine, as its user or root."""

    def described(self) -> dict[str, object]:
        """Return the problem as /v1/status shows it."""
        return {**asdict(self), "commands": list(self.commands)}


class Commands:
    """Makes commands that reach this very daemon."""

    def __init__(self, status: Content) -> None:
        self._program: Final[str] = status["command"]
        self._doors = doors(status)
        self.reload: Final = (f"kill -HUP {status['pid']}",)
        """The command that makes the daemon read its settings again."""

    def looking(self, command: str) -> tuple[str, ...]:
        """Return a command that shows no payloads; none if nothing can be asked of this daemon."""
        return self._typed(command, self._doors.any)

    def operating(self, command: str, *names: str) -> tuple[str, ...]:
        """Return a command that shows payloads or changes something. `names` are strangers' texts, its last arguments."""
        after = " --" if any(each.startswith("-") for each in names) else ""
        after += "".join(f" {shlex.quote(each)}" for each in names)
        return tuple(f"{each}{after}" for each in self._typed(command, self._doors.operator))

    def controlling(self, command: str) -> tuple[str, ...]:
        """Return a command that only the control socket answers."""
        return self._typed(command, self._doors.control)

    def _typed(self, command: str, door: str | None) -> tuple[str, ...]:
        return () if door is None else (f"{self._program} {command}{door}",)


class Doors(NamedTuple):
    """The flags with which a command reaches a daemon, after a space; None where there is no way."""

    any: str | None
    """For what shows no payloads."""
    operator: str | None
    """For what shows payloads or changes something."""
    control: str | None
    """For what only the control socket answers."""


def doors(status: Content) -> Doors:
    """Return how a daemon is reached: by its control socket, else the app's Unix socket, else TCP."""
    addresses, settings, buffer = status["addresses"], status["settings"], status["buffer"]
    control: str | None = addresses.get("control")
    if control is not None and is_gone(buffer) and _is_below(buffer["directory"], control):
        control = None  # its file is gone with the directory
    if control is not None:
        flags = "" if control in _FOUND_BY_COMMANDS else f" --unix-socket {shlex.quote(control)}"
        return Doors(flags, flags, flags)
    if (unix := addresses.get("unix")) is not None:
        flags = f" --unix-socket {shlex.quote(unix)}"
        return Doors(flags, flags, None)
    if (address := addresses.get("http")) is None:
        return Doors(None, None, None)
    flags = f" --url http://{_reachable(address)}"
    if not settings["needs_token"]:
        return Doors(flags, None, None)
    if (token_file := settings["token_file"]) is None:
        return Doors(None, None, None)
    flags += f" --token-file {shlex.quote(token_file)}"
    return Doors(flags, flags, None)


def is_gone(buffer: Content) -> bool:
    """Return whether the buffer's file is gone from its place."""
    failure = buffer["last_error"]
    return not buffer["available"] and failure is not None and failure["operation"] == "directory"


def _is_below(directory: str | None, path: str) -> bool:
    return directory is not None and Path(path).is_relative_to(directory)


def _reachable(address: str) -> str:
    """Return where to connect to reach what listens on this address; of "every address" that is the loopback one."""
    return re.sub(r"^0\.0\.0\.0(?=:)", "127.0.0.1", re.sub(r"^\[::\]", "[::1]", address))

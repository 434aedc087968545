"""What one problem is, and the commands that people may type about it on the daemon's machine."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from forwarder.places import DEFAULT_CONTROL_SOCKETS
from forwarder.words import Mood

COMMAND: Final = "growlytics-forwarder"
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
    """Makes commands that reach this very daemon, from its addresses."""

    def __init__(self, status: Content) -> None:
        addresses: dict[str, str] = dict(status["addresses"])
        if is_gone(status["buffer"]) and _is_below(status["buffer"]["directory"], addresses.get("control")):
            del addresses["control"]  # its file is gone with the directory
        token_file: str | None = status["settings"]["token_file"]
        self._control = _control_door(addresses)
        self._operator = self._control
        """How payloads and changes are reached; None if that is impossible."""
        self._any = self._control
        if self._control is None and (socket := addresses.get("unix")):
            self._any = self._operator = f" --unix-socket {shlex.quote(socket)}"
        elif self._control is None and (address := addresses.get("http")):
            self._any = f" --url http://{_reachable(address)}"
            if token_file is not None:
                self._any = self._operator = f"{self._any} --token-file {shlex.quote(token_file)}"
        self.reload: Final = (f"kill -HUP {status['pid']}",)
        """The command that makes the daemon read its settings again."""

    def looking(self, command: str) -> tuple[str, ...]:
        """Return a command that shows no payloads; none if nothing can be asked of this daemon."""
        return _typed(command, self._any)

    def operating(self, command: str) -> tuple[str, ...]:
        """Return a command that shows payloads or changes something."""
        return _typed(command, self._operator)

    def controlling(self, command: str) -> tuple[str, ...]:
        """Return a command that only the control socket answers."""
        return _typed(command, self._control)


def is_gone(buffer: Content) -> bool:
    """Return whether the buffer's file is gone from its place."""
    failure = buffer["last_error"]
    return not buffer["available"] and failure is not None and failure["operation"] == "directory"


def _is_below(directory: str | None, path: str | None) -> bool:
    return directory is not None and path is not None and Path(path).is_relative_to(directory)


def _typed(command: str, door: str | None) -> tuple[str, ...]:
    return () if door is None else (f"{COMMAND} {command}{door}",)


def _control_door(addresses: Mapping[str, str]) -> str | None:
    if (socket := addresses.get("control")) is None:
        return None
    return "" if socket in _FOUND_BY_COMMANDS else f" --unix-socket {shlex.quote(socket)}"


def _reachable(address: str) -> str:
    """Return where to connect to reach what listens on this address; of "every address" that is the loopback one."""
    return re.sub(r"^0\.0\.0\.0(?=:)", "127.0.0.1", re.sub(r"^\[::\]", "[::1]", address))

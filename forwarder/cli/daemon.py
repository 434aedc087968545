"""How a command asks a running daemon over HTTP, on TCP or on a Unix socket.

An answer is checked like a stranger's text, as the address may be another program's. This module imports little, as
`healthcheck` uses it too; `connection` is imported just before the first request. Only commands use it.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from forwarder.cli.options import ErrorShown
from forwarder.text import printable

if TYPE_CHECKING:
    from forwarder.cli.connection import DaemonConnection, RawAnswer

ANSWER_SECONDS: Final = 60
"""The longest that one request may take, from connecting to the end of the answer."""

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""The default. More than the longest list of refusals."""
UNAUTHORIZED_FIX: Final = (
    "run it with sudo and without --url; or use --unix-socket, or --token-file if the daemon has a token"
)
_START_FIX: Final = "start it with `growlytics-forwarder run`, or say where it is with --config, --url or --unix-socket"
FORBIDDEN_FIX: Final = "run it with sudo or as one of them, or use --token-file if the daemon has a token"
"""For requests over a Unix socket."""

Content = TypeVar("Content")

_MAX_RETRY_AFTER_SECONDS: Final = 3600
"""A longer Retry-After is cut to this."""
_LABEL: Final = "[A-Za-z0-9_-]{1,63}"
_HOST_PORT: Final = re.compile(rf"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|({_LABEL}(?:\.{_LABEL})*\.?)):([0-9]{{1,5}})")


class DaemonError(Exception):
    """The daemon did not do what it was asked. The message says why; `fix`, if not empty, what to do."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self._fix = fix

    @property
    def explained(self) -> str:
        """The message with the fix."""
        return f"{self}; {self._fix}" if self._fix else str(self)


class UnreachableError(DaemonError):
    """No connection was made, so nothing was sent. `tried` has each place with the reason, in order."""

    def __init__(self, tried: Sequence[str], *, fix: str) -> None:
        super().__init__(f"no daemon can be reached{' at' if len(tried) == 1 else ':'} {'; '.join(tried)}", fix=fix)
        self._tried = tried

    @property
    def explained(self) -> str:
        if len(self._tried) == 1:
            return super().explained
        return "\n  ".join(["no daemon can be reached; tried, in this order:", *self._tried]) + f"\n{self._fix}"


class AnswerLostError(DaemonError):
    """Something was sent, but no complete answer came back: the daemon may have accepted it, or not."""


class StoppedError(DaemonError):
    """Asking again, or for anything else, is useless; the message says why."""


class HostPort(NamedTuple):
    """An address to connect to."""

    host: str
    """A name, or an address without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "HostPort | None":
        """Return what `host:port` or `[IPv6]:port` means; None if the text is neither."""
        parts = _HOST_PORT.fullmatch(text)
        return cls(parts[1] or parts[2], int(parts[3])) if parts and int(parts[3]) <= 65535 else None

    def reachable(self) -> "HostPort":
        """Return where to connect to reach what listens here; of "every address" that is the loopback one."""
        if self.host.strip("0.:"):
            return self
        return HostPort("::1" if ":" in self.host else "127.0.0.1", self.port)


def add_url_argument(parser: argparse._ActionsContainer, help_text: str) -> None:
    """Add `--url http://HOST:PORT` to a parser or a group."""
    parser.add_argument("--url", metavar="http://HOST:PORT", type=url_argument, help=help_text)


def url_argument(text: str) -> HostPort:
    """Read the value of `--url`."""
    scheme, separator, rest = text.partition("://")
    found = HostPort.parse(rest.removesuffix("/"))
    if not separator or scheme.lower() != "http" or found is None:
        raise argparse.ArgumentTypeError("must be http://HOST:PORT, without a path; a daemon speaks plain HTTP")
    return found


class Place(NamedTuple):
    """Where a daemon accepts requests."""

    host_port: HostPort | None
    unix_socket: str | None = None
    """Used instead of `host_port` if set."""
    is_control: bool = False
    """Whether the Unix socket is the one for operators."""
    token: str | None = None
    token_fault: str = ""
    """Why there is no token although the settings have one."""

    def __str__(self) -> str:
        if self.unix_socket is None:
            return f"http://{self.host_port}"
        return f"the {'control' if self.is_control else 'Unix'} socket {printable(self.unix_socket, 200)}"

    def __repr__(self) -> str:
        return str(self)  # without the token


class DaemonAnswer(NamedTuple):
    """An answer of the daemon."""

    status: int
    content: Mapping[str, object]
    """The JSON object, with numbers as `json_text.parse` returns them; empty if the body was anything else."""
    retry_after_seconds: int | None
    """At most an hour; None if it is missing or not in seconds."""
    text: bytes | None = b""
    """The body; None if it was longer than allowed and not read to its end."""


class Daemon:
    """A running daemon. The first request connects; the connection is kept until `close`, at the end of a `with`."""

    def __init__(self, *where: Place | str) -> None:
        """Look for it `where` it may be, in this order; it stays where it was found. A text says why a place is left out."""
        self._where = where
        self._barred: Place | None = None
        """A control socket that is there, but not for this user."""
        self._connection: DaemonConnection | None = None
        self._was_found = False

    @property
    def place(self) -> Place:
        """Where it was found, or is looked for first."""
        return next(each for each in self._where if isinstance(each, Place))

    @property
    def was_found(self) -> bool:
        """Whether it was connected to, so that `place` is where it is."""
        return self._was_found

    def close(self) -> None:
        """Close the connection. May be called again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def get(
        self, path: str, *, max_answer_bytes: int = MAX_ANSWER_BYTES, answer_seconds: float = ANSWER_SECONDS
    ) -> DaemonAnswer:
        """Send one GET. Raises UnreachableError or AnswerLostError."""
        was_kept = self._connection is not None and self._connection.is_usable
        try:
            return self._exchange("GET", path, answer_seconds=answer_seconds, max_answer_bytes=max_answer_bytes)
        except AnswerLostError as error:
            # The daemon may have closed a kept connection just then.
            if not was_kept or not isinstance(error.__cause__, ConnectionError):
                raise
        return self._exchange("GET", path, answer_seconds=answer_seconds, max_answer_bytes=max_answer_bytes)

    def post(
        self, path: str, body: bytes, *, content_type: str, answer_seconds: float = ANSWER_SECONDS
    ) -> DaemonAnswer:
        """Send one POST. Raises UnreachableError or AnswerLostError."""
        return self._exchange("POST", path, body, content_type=content_type, answer_seconds=answer_seconds)

    def read(self, answer: DaemonAnswer, kind: "type[Content]") -> "Content":
        """Return the content of an answer as a msgspec struct. Raises StoppedError if it does not fit."""
        import msgspec

        try:
            return msgspec.convert(answer.content, kind)
        except msgspec.ValidationError:
            raise self.strange(answer) from None

    def refused(self, answer: DaemonAnswer) -> StoppedError:
        """Return the error for an answer that refuses a whole request."""
        errors = described_errors(answer.content)
        if answer.status < 400 or not errors:
            return self.strange(answer)
        return StoppedError(f"{self.place} answered {answer.status}: {errors[0]}", fix=self.fix_for(answer.status))

    def fix_for(self, status: int) -> str:
        """Return what to do about an answer with this status; empty if that is not known."""
        if status not in {401, 403}:
            return ""
        if self._barred:
            return f"run it with sudo, or as the daemon's user, to use {self._barred}"
        if status == 401 and self.place.token is not None:
            return "the token that was sent is not the daemon's: correct it, or use --unix-socket"
        if status == 401:
            return f"{self.place.token_fault}; {UNAUTHORIZED_FIX}" if self.place.token_fault else UNAUTHORIZED_FIX
        return FORBIDDEN_FIX if self.place.unix_socket is not None else ""

    def strange(self, answer: DaemonAnswer) -> StoppedError:
        """Return the error for an answer that no forwarder gives."""
        return StoppedError(not_a_forwarder(self.place, answer.status))

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str | None = None,
        answer_seconds: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> DaemonAnswer:
        from http.client import HTTPException

        # For the answer. Not when that is there: Ctrl-C in the middle of this import crashes Python, and a person who waits
        # for an answer presses it.
        import orjson  # noqa: F401

        deadline = monotonic() + answer_seconds
        connection = self._connected(deadline)
        headers = {"Accept": "application/json"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if self.place.token is not None:
            headers["Authorization"] = f"Bearer {self.place.token}"
        try:
            raw = connection.exchange(method, path, body, headers, deadline=deadline, max_answer_bytes=max_answer_bytes)
        except (HTTPException, OSError) as error:
            self.close()
            fix = "try again" if body is None else "the daemon may or may not have accepted what was sent"
            reason = _reason(error)
            if _is_late(error):
                reason = f"not all of it came within {answer_seconds:g} s"
                fix += "; if none ever comes, the daemon hangs: keep its log, and restart it"
            raise AnswerLostError(f"the answer of {self.place} was lost: {reason}", fix=fix) from error
        except BaseException:
            self.close()  # half an answer is of no use to the next request
            raise
        return _answer(raw)

    def _connected(self, deadline: float) -> "DaemonConnection":
        """Return the kept connection, or a new one if there is none or it was closed meanwhile."""
        if self._connection is not None and self._connection.is_usable:
            return self._connection
        self.close()
        tried: list[str] = []
        fix = ""
        for each in self._where:
            if isinstance(each, str):
                tried.append(each)
                continue
            try:
                self._connection = _connected(each, deadline)
            except OSError as error:
                tried.append(f"{each}: {_reason(error)}")
                if each.is_control and isinstance(error, PermissionError):
                    self._barred = each
                fix = _fix(each, error)
            else:
                self._where = (each,)
                self._was_found = True
                return self._connection
        if self._barred:
            member = "members of control.group must also be able to enter its directory"
            fix = f"if it runs, use sudo or be its user, so that the control socket lets you in ({member})"
            fix += f"; else {_START_FIX}"
        raise UnreachableError(tried, fix=fix)


def _connected(place: Place, deadline: float) -> "DaemonConnection":
    from forwarder.cli.connection import DaemonConnection

    host, port = place.host_port or ("localhost", None)
    connection = DaemonConnection(host, port, unix_socket=place.unix_socket)
    connection.open(deadline=deadline)
    return connection


def shown_errors(content: Mapping[str, object]) -> list[ErrorShown]:
    """Return the `errors` of an answer, safe to print; none if no forwarder gave the answer."""
    errors = content.get("errors")
    return [_shown(error) for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def described_errors(content: Mapping[str, object]) -> list[str]:
    """Return the `errors` of an answer, each as `field: message (code)`; none if no forwarder gave the answer."""
    return list(map(str, shown_errors(content)))


def not_a_forwarder(place: Place, status: int) -> str:
    """Return the message for an answer that no forwarder gives."""
    return (
        f"{place} answered {status}, but not like a growlytics-forwarder; "
        "is this the address of the daemon's intake (intake.http, not admin.http)?"
    )


def _shown(error: Mapping[str, object]) -> ErrorShown:
    field, message, code = (error.get(key) for key in ("field", "message", "code"))
    where = printable(field, 200) if isinstance(field, str) else None
    return ErrorShown(printable(str(code)), where, printable(str(message), 500))


def _answer(raw: "RawAnswer") -> DaemonAnswer:
    return DaemonAnswer(raw.status, _object(raw.text), _seconds(raw.retry_after), raw.text)


def _object(text: bytes | None) -> Mapping[str, object]:
    import orjson

    content: object
    try:
        content = orjson.loads(text or b"")
    except orjson.JSONDecodeError:
        # An answer may quote what apps sent, which orjson may refuse. This takes as long to import as all else together.
        from forwarder.growlytics import json_text

        try:
            content = json_text.parse(text or b"")
        except json_text.MalformedJsonError:
            return {}
    return content if isinstance(content, dict) else {}


def _seconds(retry_after: str | None) -> int | None:
    # The daemon sends an integer. A date, which HTTP also allows, is ignored.
    if retry_after is None or re.fullmatch(r"[0-9]{1,9}", retry_after) is None:
        return None
    return min(int(retry_after), _MAX_RETRY_AFTER_SECONDS)


def _fix(place: Place, error: Exception) -> str:
    if place.host_port is not None and place.host_port.port == 0:
        return "port 0 is another port at each start: take the port from the daemon's log and use --url"
    if isinstance(error, PermissionError):
        return (
            "control.group (for the control socket) or intake.unix_socket_mode (for the app's), and the permissions of the "
            "directory, decide who may connect: use sudo, or be the daemon's user"
        )
    return _START_FIX


def _is_late(error: Exception) -> bool:
    """Return whether our own deadline passed."""
    return isinstance(error, TimeoutError) and error.errno is None


def _reason(error: Exception) -> str:
    from http.client import BadStatusLine, IncompleteRead

    match error:
        case TimeoutError() if _is_late(error):
            return "it did not answer in time"
        case ConnectionError() if error.errno is None:
            return "the connection was closed"
        case IncompleteRead():
            return "the connection was closed within the answer"
        case BadStatusLine():
            return "it is not HTTP"
        case OSError() if error.errno is not None and error.errno > 0:
            return printable(os.strerror(error.errno))
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)

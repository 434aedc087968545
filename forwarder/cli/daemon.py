"""How a command talks to a running daemon over HTTP, on TCP or on a Unix socket.

What the daemon answers is checked as any stranger's text is: the address may be another program's. The module imports
little, as `healthcheck` uses it too; aiohttp is imported when the first request is near. Used by the commands only.
"""

import io
import os
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 60
"""The longest that one request may take, from connecting to the end of the answer."""

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""If nobody says otherwise. More than the longest list of refusals takes."""
MAX_LISTED_ERRORS: Final = 5
"""Of one event."""
UNAUTHORIZED_FIX: Final = "use --unix-socket, or --token-file where the daemon has a token"
FORBIDDEN_FIX: Final = "run it with sudo or as one of them, or use --token-file where the daemon has a token"
"""Over a Unix socket."""

Content = TypeVar("Content")

_MAX_RETRY_AFTER_SECONDS: Final = 3600
"""Who asks for a longer wait is asked again after this one."""
_LABEL: Final = "[A-Za-z0-9_-]{1,63}"
_HOST_PORT: Final = re.compile(rf"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|({_LABEL}(?:\.{_LABEL})*\.?)):([0-9]{{1,5}})")


class DaemonError(Exception):
    """The daemon did not do what it was asked. The message says why; `fix`, if there is one, what to do about it."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self._fix = fix

    @property
    def explained(self) -> str:
        """The message with the fix."""
        return f"{self}; {self._fix}" if self._fix else str(self)


class UnreachableError(DaemonError):
    """There is no connection, so nothing was sent."""


class AnswerLostError(DaemonError):
    """Something was sent, and no whole answer came back: the daemon may have accepted it, or not."""


class StoppedError(DaemonError):
    """There is no point in asking again, nor for the rest; the message says why."""


class HostPort(NamedTuple):
    """Where to connect to."""

    host: str
    """A name, or an address without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "HostPort | None":
        """Read `host:port` or `[IPv6]:port`, or return None."""
        parts = _HOST_PORT.fullmatch(text)
        return cls(parts[1] or parts[2], int(parts[3])) if parts and int(parts[3]) <= 65535 else None

    def reachable(self) -> "HostPort":
        """Return where to connect to in order to reach what listens here: every address includes the loopback one."""
        if self.host.strip("0.:"):
            return self
        return HostPort("::1" if ":" in self.host else "127.0.0.1", self.port)


class Place(NamedTuple):
    """Where a daemon takes requests."""

    host_port: HostPort | None
    unix_socket: str | None = None
    """If set, it is this socket instead."""

    @property
    def url(self) -> str:
        """What the paths are appended to."""
        return "http://localhost" if self.host_port is None else f"http://{self.host_port}"

    def __str__(self) -> str:
        if self.unix_socket is None:
            return self.url
        from forwarder.text import printable

        return f"the Unix socket {printable(self.unix_socket, 200)}"


class DaemonAnswer(NamedTuple):
    """What came back."""

    status: int
    content: Mapping[str, object]
    """The JSON object, with numbers as `json_text.parse` gives them; empty if it was anything else."""
    retry_after_seconds: int | None
    """At most an hour; None if there was none that could be read."""
    text: bytes | None = b""
    """What the content was made of; None if it was longer than it may be, and not read to its end."""


class Daemon:
    """A running daemon; it is opened, used and closed on one event loop."""

    def __init__(self, place: Place, *, token: str | None = None) -> None:
        self.place: Final = place
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> Self:
        """Make ready; connect only at the first request."""
        import aiohttp

        socket = self.place.unix_socket
        authorization = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector() if socket is None else aiohttp.UnixConnector(socket),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
            # An answer that has to be inflated could be of any size.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"} | authorization,
            auto_decompress=False,
        )
        return self

    async def close(self) -> None:
        """Close the connection. May be called again."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def get(self, path: str, *, max_answer_bytes: int = MAX_ANSWER_BYTES) -> DaemonAnswer:
        """Ask once. Raises UnreachableError or AnswerLostError."""
        return await self._exchange("GET", path, fix="try again", max_answer_bytes=max_answer_bytes)

    async def post(self, path: str, body: bytes, *, content_type: str) -> DaemonAnswer:
        """Post once. Raises UnreachableError or AnswerLostError."""
        fix = "what was sent may have been taken, or not"
        return await self._exchange("POST", path, body, content_type=content_type, fix=fix)

    def read(self, answer: DaemonAnswer, kind: "type[Content]") -> "Content":
        """Return the content of an answer as a struct of msgspec. Raises StoppedError if it is another."""
        import msgspec

        try:
            return msgspec.convert(answer.content, kind)
        except msgspec.ValidationError:
            raise self.strange(answer) from None

    def refused(self, answer: DaemonAnswer) -> StoppedError:
        """Return the error for an answer that refuses a request as a whole."""
        errors = described_errors(answer.content)
        if answer.status < 400 or not errors:
            return self.strange(answer)
        fix = UNAUTHORIZED_FIX if answer.status == 401 else ""
        if answer.status == 403 and self.place.unix_socket is not None:
            fix = FORBIDDEN_FIX
        return StoppedError(f"{self.place} answered {answer.status}: {errors[0]}", fix=fix)

    def strange(self, answer: DaemonAnswer) -> StoppedError:
        """Return the error for an answer that no forwarder gives."""
        return StoppedError(not_a_forwarder(self.place, answer.status))

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        fix: str,
        content_type: str | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> DaemonAnswer:
        import aiohttp

        assert self._session is not None, "open it first"
        try:
            async with self._session.request(
                method,
                self.place.url + path,
                # As BytesIO, a long body is written piece by piece; aiohttp warns of long bytes.
                data=None if body is None else io.BytesIO(body),
                headers=None if content_type is None else {"Content-Type": content_type},
                allow_redirects=False,
            ) as response:
                text = await _read(response, max_answer_bytes)
                retry_after_seconds = _seconds(response.headers.get("Retry-After"))
                return DaemonAnswer(response.status, _object(text), retry_after_seconds, text)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            message = f"no daemon can be reached at {self.place}: {_reason(error)}"
            raise UnreachableError(message, fix=_fix(self.place, error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"the answer of {self.place} was lost: {_reason(error)}"
            raise AnswerLostError(message, fix=fix) from error


def described_errors(content: Mapping[str, object]) -> list[str]:
    """Return each of the `errors` of an answer as `field: message (code)`; none if it is not the forwarder's answer."""
    errors = content.get("errors")
    return [_described(error) for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def in_one_line(errors: Sequence[str]) -> str:
    """Return the first errors, and how many more there are."""
    more = f"; and {len(errors) - MAX_LISTED_ERRORS} more" if len(errors) > MAX_LISTED_ERRORS else ""
    return f"{'; '.join(errors[:MAX_LISTED_ERRORS])}{more}"


def not_a_forwarder(place: Place, status: int) -> str:
    """Return the message for an answer that no forwarder gives."""
    return (
        f"{place} answered {status}, and not as a growlytics-forwarder does; "
        "is it the address of the daemon's intake (intake.http, not admin.http)?"
    )


def _described(error: Mapping[str, object]) -> str:
    from forwarder.text import printable

    field, message, code = (error.get(key) for key in ("field", "message", "code"))
    where = f"{printable(field, 200)}: " if isinstance(field, str) else ""
    return f"{where}{printable(str(message), 500)} ({printable(str(code))})"


async def _read(response: "aiohttp.ClientResponse", max_bytes: int) -> bytes | None:
    text = bytearray()
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) > max_bytes:
            return None
    return bytes(text)


def _object(text: bytes | None) -> Mapping[str, object]:
    from forwarder.growlytics import json_text

    try:
        # Not orjson alone: what apps sent may be quoted, and hold what it refuses.
        content = json_text.parse(text or b"")
    except json_text.MalformedJsonError:
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(retry_after: str | None) -> int | None:
    # The daemon gives an integer. A date, which HTTP also allows, is as good as none.
    if retry_after is None or re.fullmatch(r"[0-9]{1,9}", retry_after) is None:
        return None
    return min(int(retry_after), _MAX_RETRY_AFTER_SECONDS)


def _fix(place: Place, error: Exception) -> str:
    if place.host_port is not None and place.host_port.port == 0:
        return "port 0 is a different one at each start: name the one in the daemon's log with --url"
    if isinstance(_cause(error), PermissionError):
        return "who may connect is set by intake.unix_socket_mode and the permissions of the directory"
    return "start it with `growlytics-forwarder run`, or say where it is with --config, --url or --unix-socket"


def _cause(error: Exception) -> BaseException:
    cause = getattr(error, "os_error", error)
    return cause if isinstance(cause, BaseException) else error


def _reason(error: Exception) -> str:
    from forwarder.text import printable

    cause = _cause(error)
    # asyncio puts a text of its own, and the address again, where the system's would be.
    number = cause.errno if isinstance(cause, OSError) else None
    text = os.strerror(number) if number is not None and number > 0 else getattr(cause, "strerror", None)
    return printable(text or str(cause) or type(cause).__name__, 200)

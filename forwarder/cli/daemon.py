"""How a command finds a running daemon, and talks to it over HTTP, on TCP or on a Unix socket.

What the daemon answers is checked as any stranger's text is: the address may be another program's. The module imports
little, as `healthcheck` uses it too; aiohttp is imported when the first request is near. Used by the commands only.
"""

import argparse
import io
import os
import re
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 60
"""The longest that one request may take, from connecting to the end of the answer."""

_MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""More than the longest list of refusals takes."""
_MAX_RETRY_AFTER_SECONDS: Final = 3600
"""Who asks for a longer wait is asked again after this one."""
_LABEL: Final = "[A-Za-z0-9_-]{1,63}"
_HOST_PORT: Final = re.compile(rf"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|({_LABEL}(?:\.{_LABEL})*\.?)):([0-9]{{1,5}})")


class DaemonError(Exception):
    """The daemon gave no answer. The message says where and why; with `mend` it is complete."""

    def __init__(self, message: str, *, mend: str) -> None:
        super().__init__(message)
        self.mend: Final = mend


class UnreachableError(DaemonError):
    """There is no connection, so nothing was sent."""


class AnswerLostError(DaemonError):
    """Something was sent, and no whole answer came back: the daemon may have taken it, or not."""


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
        from forwarder.event import printable

        return f"the Unix socket {printable(self.unix_socket, 200)}"


class Answer(NamedTuple):
    """What came back."""

    status: int
    content: Mapping[str, object]
    """The JSON object; empty if it was anything else."""
    retry_after_seconds: int | None
    """At most an hour; None if there was none that could be read."""


def add_daemon_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what tells the command where the daemon is: `--config` and `--set`, or `--url`, or `--unix-socket`."""
    from forwarder.cli.options import add_config_arguments

    add_config_arguments(parser)
    place = parser.add_mutually_exclusive_group()
    add_url_argument(place, "the daemon's intake.http; instead of --config")
    place.add_argument("--unix-socket", metavar="PATH", help="the daemon's intake.unix_socket; instead of --config")


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


def place_of(args: argparse.Namespace) -> Place:
    """Return where the daemon is, from the arguments or else its settings; exit with 78 if these are bad."""
    if args.unix_socket is not None:
        return Place(None, args.unix_socket)
    if args.url is not None:
        return Place(args.url)
    from forwarder.cli.options import load_settings

    intake = load_settings(args, require_api_key=False).intake
    if intake.unix_socket is not None:
        return Place(None, intake.unix_socket)
    assert intake.http is not None, "settings with neither are refused"
    return Place(HostPort(intake.http.host, intake.http.port).reachable())


class Daemon:
    """A running daemon; it is opened, used and closed on one event loop."""

    def __init__(self, place: Place) -> None:
        self.place: Final = place
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> Self:
        """Make ready; connect only at the first request."""
        import aiohttp

        socket = self.place.unix_socket
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector() if socket is None else aiohttp.UnixConnector(socket),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
            # An answer that has to be inflated could be of any size.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
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

    async def post(self, path: str, body: bytes, *, content_type: str) -> Answer:
        """Post once. Raises UnreachableError or AnswerLostError."""
        import aiohttp

        assert self._session is not None, "open it first"
        # As BytesIO, a long body is written piece by piece; aiohttp warns of long bytes.
        try:
            async with self._session.post(
                self.place.url + path,
                data=io.BytesIO(body),
                headers={"Content-Type": content_type},
                allow_redirects=False,
            ) as response:
                content = await _read_object(response)
                return Answer(response.status, content, _seconds(response.headers.get("Retry-After")))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            message = f"no daemon can be reached at {self.place}: {_reason(error)}"
            raise UnreachableError(message, mend=_mend(self.place, error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"the answer of {self.place} was lost: {_reason(error)}"
            raise AnswerLostError(message, mend="what was sent may have been taken, or not") from error


def described_errors(content: Mapping[str, object]) -> list[str]:
    """Return each of the `errors` of an answer as `field: message (code)`; none if it is not the forwarder's answer."""
    errors = content.get("errors")
    return [_described(error) for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def not_a_forwarder(place: Place, status: int) -> str:
    """Return the message for an answer that no forwarder gives."""
    return (
        f"{place} answered {status}, and not as a growlytics-forwarder does; "
        "is it the address of the daemon's intake (intake.http, not admin.http)?"
    )


def _described(error: Mapping[str, object]) -> str:
    from forwarder.event import printable

    field, message, code = (error.get(key) for key in ("field", "message", "code"))
    where = f"{printable(field, 200)}: " if isinstance(field, str) else ""
    return f"{where}{printable(str(message), 500)} ({printable(str(code))})"


async def _read_object(response: "aiohttp.ClientResponse") -> Mapping[str, object]:
    import orjson

    text = bytearray()
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) > _MAX_ANSWER_BYTES:
            return {}
    try:
        content = orjson.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(retry_after: str | None) -> int | None:
    # The daemon gives an integer. A date, which HTTP also allows, is as good as none.
    if retry_after is None or re.fullmatch(r"[0-9]{1,9}", retry_after) is None:
        return None
    return min(int(retry_after), _MAX_RETRY_AFTER_SECONDS)


def _mend(place: Place, error: Exception) -> str:
    if place.host_port is not None and place.host_port.port == 0:
        return "port 0 is a different one at each start: name the one in the daemon's log with --url"
    if isinstance(_cause(error), PermissionError):
        return "who may connect is set by intake.unix_socket_mode and the permissions of the directory"
    return "start it with `growlytics-forwarder run`, or say where it is with --config, --url or --unix-socket"


def _cause(error: Exception) -> BaseException:
    cause = getattr(error, "os_error", error)
    return cause if isinstance(cause, BaseException) else error


def _reason(error: Exception) -> str:
    from forwarder.event import printable

    cause = _cause(error)
    # asyncio puts a text of its own, and the address again, where the system's would be.
    number = cause.errno if isinstance(cause, OSError) else None
    text = os.strerror(number) if number is not None and number > 0 else getattr(cause, "strerror", None)
    return printable(text or str(cause) or type(cause).__name__, 200)

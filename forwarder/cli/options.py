"""What commands share, besides the daemon: arguments, the environment of TLS, output, the event loop.

Every command imports this module, and `healthcheck` must start fast, so it imports little.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from importlib.util import find_spec
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from forwarder.places import CONFIG_VARIABLE

if TYPE_CHECKING:
    import asyncio

    from forwarder.words import LoopName

KEY_LOG: Final = "SSLKEYLOGFILE"
BAR_SECONDS: Final = 0.1
LINE_SECONDS: Final = 5
"""How often progress is shown, at most: on a terminal, and elsewhere."""


# Arguments


def add_config_arguments(parser: argparse._ActionsContainer) -> None:
    """Add `--config FILE`, by default that of the environment, and the repeatable `--set section.key=value`."""
    default = os.environ.get(CONFIG_VARIABLE) or None
    help_text = f"the settings, as TOML; by default what {CONFIG_VARIABLE} names"
    parser.add_argument("--config", metavar="FILE", type=Path, default=default, help=help_text)
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="one setting, which overrides the file and the environment; may be repeated",
    )


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a type for argparse: an integer within a range."""

    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,18}", text) is None or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}")
        return int(text)

    return parse


# The environment of TLS: corrected or reported before the libraries that obey it are imported. A sidecar should start, so a
# useless value is ignored with one warning; only what makes TLS impossible is an error.


def ignore_useless_key_log(environ: MutableMapping[str, str]) -> Iterator[str]:
    """Remove SSLKEYLOGFILE and yield a warning if its file cannot be written, as every TLS connection would fail."""
    path = environ.get(KEY_LOG, "")
    if not path:
        return
    try:
        # Non-blocking, so a pipe without a reader is an error, and does not keep us waiting.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"# growlytics-forwarder\n")  # a comment; writing it shows a full disk
        finally:
            os.close(descriptor)
    except OSError as error:
        del environ[KEY_LOG]
        yield f"{KEY_LOG} was ignored: it names a file that cannot be written ({error.strerror})"


def key_log_warnings(environ: MutableMapping[str, str]) -> Iterator[str]:
    """Yield a warning if TLS secrets are written to a file."""
    if environ.get(KEY_LOG):
        yield (
            f"{KEY_LOG} is set: whoever can read its file, and the network, can read the events and the API key; "
            "unset it unless you are debugging TLS"
        )


def tls_fault() -> str | None:
    """Return why TLS cannot be used at all; None if it can."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without loading authorities, which takes time and memory
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        return f"TLS cannot be used ({reason}); look at the file that OPENSSL_CONF names, or unset it"
    return None


def certificate_warnings(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the default certificate authorities, which growlytics.ca_file would replace."""
    import ssl

    from forwarder.settings import certificates_fault

    fix = "or name the file of certificates with growlytics.ca_file"
    if (file := environ.get("SSL_CERT_FILE")) is not None and (wrong := certificates_fault(file)):
        yield f"SSL_CERT_FILE {wrong}; correct it, unset it, {fix}"
    for directory in filter(None, environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        try:
            next(Path(directory).iterdir(), None)
        except OSError as error:
            yield f"SSL_CERT_DIR names a directory that cannot be read: {error.strerror}; correct it, unset it, {fix}"
    paths = ssl.get_default_verify_paths()
    directories = environ.get(paths.openssl_capath_env, paths.openssl_capath).split(os.pathsep)
    if not any(map(_has_certificates, directories)) and not ssl.create_default_context().cert_store_stats()["x509"]:
        yield f"no certificate authority is known, so nothing can be delivered: install ca-certificates, {fix}"


def _has_certificates(directory: str) -> bool:
    """Whether OpenSSL will find certificates in a directory: their files are named by a hash."""
    try:
        return bool(directory) and any(
            re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", file.name) for file in Path(directory).iterdir()
        )
    except OSError:
        return False


# Output


class ErrorShown(NamedTuple):
    """What is wrong with an event or a request. All of it is safe to print."""

    code: str
    field: str | None
    message: str

    def __str__(self) -> str:
        return f"{f'{self.field}: ' if self.field else ''}{self.message} ({self.code})"


def print_json(content: Mapping[str, object]) -> None:
    """Print the one JSON object that a command gives to programs, in ASCII. What JSON does not have becomes null."""
    import json

    print(json.dumps(content, default=lambda _: None))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[str]) -> list[str]:
    """Return the lines of a table with its headings, columns in `numbers` flush right; none if there are no rows."""
    lines = [headings, *rows]
    if len(lines) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if heading in numbers else cell.ljust(width)
            for heading, cell, width in zip(headings, line, widths, strict=True)
        )
        for line in lines
    ]


def utc(seconds: float | None) -> str:
    """Return a time in seconds since 1970 as text for people; a dash for None."""
    from datetime import UTC, datetime

    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def discard_output() -> None:
    """Discard all further output after its reader, such as `head`, has left; Python would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Ticker:
    """Shows progress: a bar on a terminal, else a line now and then. Other messages go above the bar."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._every_seconds = BAR_SECONDS if self._is_terminal else LINE_SECONDS
        self._began = clock()
        self._shown = self._began
        self._noted = -inf

    def tell(self, text: str, *, bar: str = "", note: str = "") -> None:
        """Show progress, unless it was shown a moment ago. `note` says why nothing moves; a bar always shows it."""
        now = self._clock()
        since_seconds = now - (self._noted if note else self._shown)
        if since_seconds < self._every_seconds and not (note and self._is_terminal):
            return
        self._shown = now
        self._noted = now if note else self._noted
        text = f"{note}; {text}" if note else text  # in this order, as a narrow terminal cuts the end
        if self._is_terminal:
            columns = _columns(self._stream)
            self._write(f"\r\x1b[K{f'{bar} {text}'[: columns - 1]}")
        else:
            self._write(f"{text}\n")

    def say(self, line: str) -> None:
        """Print a separate line."""
        self.clear()
        self._write(f"{line}\n")

    def clear(self) -> None:
        """Remove the bar."""
        if self._is_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def progress_bar(done: int, total: int | None) -> str:
    """Return the bar with its per cent; empty if the total is not known."""
    if not total:
        return ""
    share = min(done / total, 1.0)  # the file may grow
    return f"[{'#' * int(share * 20):<20}] {int(share * 100):>3} %"


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


# The event loop


class LoopMissingError(Exception):
    """uvloop was asked for and is not installed."""


def loop_factory(name: "LoopName") -> "Callable[[], asyncio.AbstractEventLoop]":
    """Return the function that makes the event loop; `auto` is uvloop if it is installed. Raises LoopMissingError."""
    import asyncio

    if name == "asyncio" or (name == "auto" and find_spec("uvloop") is None):
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        raise LoopMissingError(
            "loop: uvloop is not installed; pip install 'growlytics-forwarder[speed]', or set loop to auto"
        ) from None
    return uvloop.new_event_loop

"""What commands share: options, settings, the daemon to talk to, the event loop, and how a command ends.

Every command imports this module, and `healthcheck` must start fast, so it imports little.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO
from forwarder.cli.daemon import Daemon, DaemonError, HostPort, Place

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from forwarder.settings import Settings
    from forwarder.words import LoopName

_MAX_TOKEN_FILE_BYTES: Final = 64 * 1024


# Settings


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE` and the repeatable `--set section.key=value`."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="the settings, as TOML")
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="one setting, over the file and the environment; may be repeated",
    )


def load_settings(args: argparse.Namespace, *, require_api_key: bool) -> "Settings":
    """Return the settings that the arguments and the environment give; print warnings on standard error.

    If there are errors, print them all there and exit with 78.
    """
    from forwarder.settings import SettingsError, load

    try:
        loaded = load(args.config, environ=os.environ, overrides=args.overrides, require_api_key=require_api_key)
    except SettingsError as error:
        _warn(error.warnings)
        raise _refused([str(problem) for problem in error.problems]) from None
    settings = loaded.settings
    _warn((*loaded.warnings, *_tls_warnings(settings)))
    if require_api_key and settings.contract.types_file is not None:
        from forwarder.attribute_types import types_file

        try:
            types_file.read(settings.contract.types_file)
        except types_file.TypesFileError as error:
            raise _refused([f"contract.types_file: {problem}" for problem in error.problems]) from None
    return settings


def _tls_warnings(settings: "Settings") -> "Iterator[str]":
    """Yield what is odd about TLS; exit if TLS cannot be used, because the libraries do not even start then."""
    from forwarder.cli import tls

    yield from tls.key_log_warnings(os.environ)
    if fault := tls.fault():
        raise _refused([fault])
    if settings.growlytics.url.startswith("https:") and settings.growlytics.ca_file is None:
        yield from tls.certificate_warnings(os.environ)


def _refused(problems: list[str]) -> SystemExit:
    """Print all problems; return what ends the command."""
    print(f"configuration: {len(problems)} problem{'' if len(problems) == 1 else 's'}:", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return SystemExit(EXIT_CONFIGURATION)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print(f"configuration: warning: {warning}", file=sys.stderr)


# The daemon


def add_daemon_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what tells where the daemon is, `--config` and `--set`, or `--url`, or `--unix-socket`; and `--token-file`."""
    add_config_arguments(parser)
    place = parser.add_mutually_exclusive_group()
    add_url_argument(place, "the daemon's intake.http; instead of --config")
    place.add_argument("--unix-socket", metavar="PATH", help="the daemon's intake.unix_socket; instead of --config")
    parser.add_argument("--token-file", metavar="FILE", help="a file that holds the daemon's token, where it has one")


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


def daemon_of(args: argparse.Namespace) -> Daemon:
    """Return the daemon that the arguments or the settings name, not opened; exit with 78 if they are bad."""
    return Daemon(place_of(args), token=None if args.token_file is None else _token(args.token_file))


def place_of(args: argparse.Namespace) -> Place:
    """Return where the daemon is, from the arguments or else its settings; exit with 78 if these are bad."""
    if args.unix_socket is not None:
        return Place(None, args.unix_socket)
    if args.url is not None:
        return Place(args.url)
    intake = load_settings(args, require_api_key=False).intake
    if intake.unix_socket is not None:
        return Place(None, intake.unix_socket)
    assert intake.http is not None, "settings with neither are refused"
    return Place(HostPort(intake.http.host, intake.http.port).reachable())


def _token(path: str) -> str:
    """Return the token in a file, or exit with 78. No message shows the path: it may be the token in the wrong place."""
    content, fault = b"", ""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_TOKEN_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        fault = f"cannot be read: {getattr(error, 'strerror', None) or 'it has no such name'}"
    token = content.strip()
    if not fault and len(content) > _MAX_TOKEN_FILE_BYTES:
        fault = "is larger than 64 KiB, too large for a token"
    elif not fault and not token:
        fault = "is empty"
    elif not fault and re.fullmatch(rb"[\x21-\x7e]+", token) is None:
        fault = "holds what cannot be sent in an HTTP header: only printable ASCII can, without spaces"
    if fault:
        print(f"--token-file names a file that {fault}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIGURATION)
    return token.decode("ascii")


def actions_of(
    parser: argparse.ArgumentParser,
) -> Callable[[str, str, Callable[[argparse.Namespace], int]], argparse.ArgumentParser]:
    """Return what adds an action to a command that talks to a daemon: its name, a summary and what it does."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, summary: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=summary)
        add_daemon_arguments(action)
        action.set_defaults(run_action=run)
        return action

    return add


def run_action(args: argparse.Namespace) -> int:
    """Run the action that was chosen; return its exit code, or 1 after saying why the daemon did not do it."""
    try:
        code: int = args.run_action(args)
        sys.stdout.flush()
    except DaemonError as error:
        print(error.explained, file=sys.stderr)
        return EXIT_NO
    except BrokenPipeError:
        discard_output()
        return EXIT_NO
    return code


# Output


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[str]) -> list[str]:
    """Return the lines of a table with its headings, `numbers` flush right; none if there are no rows."""
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
    """Return a time in seconds since 1970 as people read it; a dash for None."""
    from datetime import UTC, datetime

    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def discard_output() -> None:
    """Throw away what is still to be written after the reader left, as `head` does; Python would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# The event loop


class LoopMissingError(Exception):
    """uvloop was asked for and is not installed."""


def loop_factory(name: "LoopName") -> "Callable[[], asyncio.AbstractEventLoop]":
    """Return what makes the event loop; `auto` is uvloop if that is installed. Raises LoopMissingError."""
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

"""The arguments by which a command finds a running daemon and is let in.

The module imports little, as `healthcheck` uses it too. Used by the commands only.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final, NoReturn

from forwarder.cli import EXIT_CONFIGURATION
from forwarder.cli.daemon import Daemon, HostPort, Place

_MAX_TOKEN_FILE_BYTES: Final = 64 * 1024


def add_daemon_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what tells where the daemon is, `--config` and `--set`, or `--url`, or `--unix-socket`; and `--token-file`."""
    from forwarder.cli.options import add_config_arguments

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
    """Return the daemon that the arguments or else the settings name, not opened; exit with 78 if they are bad."""
    return Daemon(place_of(args), token=None if args.token_file is None else _token(args.token_file))


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


def _token(path: str) -> str:
    # Neither the path is shown, which may be the token in the wrong place, nor the content.
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_TOKEN_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        _refuse_token_file(f"cannot be read: {getattr(error, 'strerror', None) or 'it has no such name'}")
    if len(content) > _MAX_TOKEN_FILE_BYTES:
        _refuse_token_file("is larger than 64 KiB, too large for a token")
    token = content.strip()
    if not token:
        _refuse_token_file("is empty")
    if re.fullmatch(rb"[\x21-\x7e]+", token) is None:
        _refuse_token_file("holds what cannot be sent in an HTTP header: only printable ASCII can, without spaces")
    return token.decode("ascii")


def _refuse_token_file(why: str) -> NoReturn:
    print(f"--token-file names a file that {why}", file=sys.stderr)
    raise SystemExit(EXIT_CONFIGURATION)

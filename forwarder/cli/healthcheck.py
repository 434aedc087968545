"""`healthcheck`: exits with 0 if the daemon answers `/livez`. Container health checks run it again and again.

So it must start fast and stay small: it uses a bare socket, and reads only `admin.http` of the settings, by hand. Also, a
mistake in another setting cannot make a running daemon look ill.
"""

import argparse
import os
import socket
import sys
from pathlib import Path
from time import monotonic
from typing import Final

from forwarder import places
from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.daemon import HostPort, add_url_argument
from forwarder.cli.options import add_config_arguments

_DEADLINE_SECONDS: Final = 2
_MAX_STATUS_LINE_BYTES: Final = 1024


class _UnknownAddressError(Exception):
    """The daemon's address is not known; the message says why, and how to fix it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    add_url_argument(parser, "the daemon's admin.http; instead of --config, and faster")


def run(args: argparse.Namespace) -> int:
    """Ask once. Return 0 if the daemon is alive; else say why not on standard error."""
    try:
        address: HostPort = args.url or _listening(admin_http(args))
    except _UnknownAddressError as error:
        return _no(str(error))
    try:
        status = _ask(address, deadline=monotonic() + _DEADLINE_SECONDS)
    except OSError as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or error
        return _no(f"no daemon can be reached at http://{address}: {reason}")
    if status == 403:
        return _no(f"http://{address}/livez answered 403: add {address.host} to the daemon's intake.allowed_hosts")
    if status != 200:
        answered = "did not answer in HTTP" if status is None else f"answered {status}, not 200"
        return _no(f"http://{address}/livez {answered}; is this the daemon's admin.http?")
    return EXIT_OK


def admin_http(args: argparse.Namespace, *, usual: Path = places.CONFIG) -> str:
    """Return `admin.http` from the arguments, the environment or a file, in this order, or its default.

    The file is that of the arguments or of the environment, or else the `usual` one, if it can be read.
    """
    given = [value for path, _, value in (each.partition("=") for each in args.overrides) if path == "admin.http"]
    if not given:
        variables = sorted(name for name in os.environ if name.startswith("FORWARDER_"))
        given = [os.environ[name] for name in variables if name.lower() == "forwarder_admin__http"]
    if not given and (args.config is not None or os.access(usual, os.R_OK)):
        given = _in_file(args.config or usual)
    return given[-1] if given else str(HostPort(*places.ADMIN_HTTP))


def _no(why: str) -> int:
    print(f"healthcheck: {why}", file=sys.stderr)
    return EXIT_NO


def _in_file(config: Path) -> list[str]:
    import tomllib

    try:
        section = tomllib.loads(config.read_bytes().decode("utf-8-sig")).get("admin", {})
    except OSError as error:
        raise _UnknownAddressError(
            f"{config} cannot be read: {error.strerror}; correct --config or {places.CONFIG_VARIABLE}, or use --url"
        ) from None
    except (ValueError, RecursionError):
        raise _UnknownAddressError(f"{config} is not TOML; `check-config` says where") from None
    return [str(section["http"])] if isinstance(section, dict) and "http" in section else []


def _listening(setting: str) -> HostPort:
    if not setting:
        raise _UnknownAddressError("admin.http is off, so nothing answers /livez; set it, or remove this check")
    found = HostPort.parse(setting)
    if found is None:
        raise _UnknownAddressError("admin.http is not an address; `check-config` says why")
    if found.port == 0:
        raise _UnknownAddressError(
            "admin.http has port 0, which is another port at each start; set a port, or use --url"
        )
    return found.reachable()


def _ask(address: HostPort, *, deadline: float) -> int | None:
    """Return the status of `/livez`, or None if the answer is not HTTP. Raises OSError."""
    unreached: OSError | None = None
    host = address.host.encode("ascii")  # text would import the codec for international names
    for family, kind, protocol, _, place in socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(_left(deadline))
            try:
                connection.connect(place)
            except OSError as error:  # a name may have several addresses, and the daemon may listen on one of them
                unreached = error
                continue
            return _exchange(connection, address, deadline=deadline)
    assert unreached is not None, "a name without addresses is an error"
    raise unreached


def _exchange(connection: socket.socket, address: HostPort, *, deadline: float) -> int | None:
    connection.sendall(f"GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    answer = b""
    while b"\n" not in answer and len(answer) < _MAX_STATUS_LINE_BYTES:
        connection.settimeout(_left(deadline))
        piece = connection.recv(_MAX_STATUS_LINE_BYTES)
        if not piece:
            break
        answer += piece
    version, _, rest = answer.partition(b" ")
    return int(rest[:3]) if version.startswith(b"HTTP/1.") and rest[:3].isdigit() else None


def _left(deadline: float) -> float:
    left_seconds = deadline - monotonic()
    if left_seconds <= 0:
        raise TimeoutError
    return left_seconds

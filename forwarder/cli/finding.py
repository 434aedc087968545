"""How a command finds its daemon: by what it is told, or else where a daemon usually is.

What the command line names counts alone: a dead place there is an error. Otherwise a command tries, one after the other, the
settings that `FORWARDER_CONFIG` names, those of the environment, the control socket in its default places, the settings in
/etc, and the default address. Of settings it tries the control socket, `intake.unix_socket` and `intake.http`.

A command that changes something must not do so at another daemon than was meant, because that one is stopped. So its search
ends after `FORWARDER_CONFIG`, or after an environment that says where a daemon is, and it is an error if these settings
cannot be used.

A command may run as another user than the daemon, beside settings that are wrong in other ways. So this reads only what it
needs of them, by hand; the settings package also takes as long to import as all else that a command needs to start.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from forwarder import places
from forwarder.cli.daemon import HostPort, Place
from forwarder.places import control_sockets
from forwarder.text import printable

_MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024
_MAX_TOKEN_FILE_BYTES: Final = 64 * 1024
_APP_SOCKETS: Final = ("intake.unix_socket", "intake.lines_socket", "intake.datagram_socket")
_NEEDED: Final = (
    *_APP_SOCKETS,
    "intake.http",
    "intake.token",
    "intake.token_file",
    "buffer.directory",
    "control.socket",
)
_PLACES: Final = (*_APP_SOCKETS, "intake.http", "buffer.directory", "control.socket")
"""Settings that say which daemon is meant."""
_NOWHERE: Final = (
    "so commands cannot reach the daemon: correct or set one of control.socket, intake.unix_socket and intake.http"
)


class UnusableError(Exception):
    """The arguments or the settings that they name cannot be used; the message says why, and shows no secret."""


class Defaults(NamedTuple):
    """Where to look without being told."""

    control_sockets: Sequence[Path] = places.DEFAULT_CONTROL_SOCKETS
    config: Path = places.CONFIG
    http: HostPort = HostPort(*places.INTAKE_HTTP)


class _Given(NamedTuple):
    value: object
    origin: str
    """As in "in FILE"."""


_Settings = dict[str, _Given]
"""By path."""


def find(
    args: argparse.Namespace, environ: Mapping[str, str], defaults: Defaults | None = None, *, changes: bool = False
) -> list[Place | str]:
    """Return where the daemon may be, in this order. A text is what need not be tried, and says why.

    `changes` is for commands that do not only look. Raises UnusableError if the command line names settings that cannot be
    used, or if the environment does and the command changes something.
    """
    token = None if args.token_file is None else _token_argument(args.token_file)
    if args.unix_socket is not None or args.url is not None:
        if token is None and args.config is not None:
            token, _ = _token(_read(args.config, {}, []))
        found: list[Place | str] = [Place(args.url, args.unix_socket, token=token)]
    elif args.config is not None or args.overrides:
        named = environ.get(places.CONFIG_VARIABLE)
        found = _only_places(_read(args.config or (Path(named) if named else None), environ, args.overrides), environ)
    elif changes and (meant := _meant(environ)):
        found = meant
    else:
        usual: dict[str, Place | str] = {}
        for each in _usual(environ, defaults or Defaults()):
            usual.setdefault(str(each), each)
        found = [*usual.values()]
    return [each._replace(token=token) if token and isinstance(each, Place) else each for each in found]


def _only_places(given: _Settings, environ: Mapping[str, str]) -> list[Place | str]:
    """Return where a daemon with these settings is. Raises UnusableError if it is nowhere."""
    found = list(_places(given, environ))
    if not any(isinstance(each, Place) for each in found):
        raise UnusableError("; ".join([*map(str, found), _NOWHERE]))
    return found


def _meant(environ: Mapping[str, str]) -> list[Place | str]:
    """Return where the daemon is that the environment means; nothing if it does not say. Raises UnusableError."""
    if path := environ.get(places.CONFIG_VARIABLE):
        named = places.CONFIG_VARIABLE
        try:
            found = _only_places(_read(Path(path), environ, []), environ)
        except UnusableError as error:
            fix = f"correct or unset {named}, or say where the daemon is with --config, --url or --unix-socket"
            raise UnusableError(f"{named}: {error}; {fix}") from None
    else:
        given = _read(None, environ, [])
        if not any(setting in given for setting in _PLACES):
            return []
        named = "the environment"
        found = _only_places(given, environ)
    return [
        *found,
        f"other places are not tried, as {named} says which daemon is meant and this command changes something",
    ]


def _usual(environ: Mapping[str, str], defaults: Defaults) -> Iterator[Place | str]:
    from_environ = _read(None, environ, [])
    if path := environ.get(places.CONFIG_VARIABLE):
        yield from _places_in(Path(path), environ, f"{places.CONFIG_VARIABLE}: ")
    elif "STATE_DIRECTORY" in environ or any(re.match("FORWARDER_.+__", name) for name in environ):
        yield from _places(from_environ, environ, default_http=False)
    for each in defaults.control_sockets:
        yield Place(None, str(each), is_control=True)
    yield from _places_in(defaults.config, environ, "")
    # Where the settings name another address, a stranger may listen here, who must not get the daemon's token.
    is_its = not path and "intake.http" not in from_environ
    token, token_fault = _token(from_environ) if is_its else (None, "")
    yield Place(defaults.http, token=token, token_fault=token_fault)


def _places_in(config: Path, environ: Mapping[str, str], introduction: str) -> Iterator[Place | str]:
    try:
        yield from _places(_read(config, environ, []), environ)
    except UnusableError as error:
        yield f"{introduction}{error}"


def _places(given: _Settings, environ: Mapping[str, str], *, default_http: bool = True) -> Iterator[Place | str]:
    """Yield where a daemon with these settings is, the best first."""
    texts = {}
    for path, each in given.items():
        if isinstance(each.value, str):
            texts[path] = each.value
        else:
            yield f"{path} is not text ({each.origin}); `check-config` says more"
    token, token_fault = _token(given)
    control = control_sockets(
        texts.get("control.socket", "auto"),
        directory=texts.get("buffer.directory", places.BUFFER_DIRECTORY),
        app_sockets=[texts[path] for path in _APP_SOCKETS if texts.get(path)],
        environ=environ,
    )
    for control_socket in control:
        yield Place(None, str(control_socket), is_control=True)
    if socket := texts.get("intake.unix_socket"):
        yield Place(None, socket, token=token, token_fault=token_fault)
    http = texts.get("intake.http", "{}:{}".format(*places.INTAKE_HTTP) if default_http else None)
    if http == "":
        yield f"intake.http is off ({given['intake.http'].origin})"
    elif http is not None:
        if (host_port := HostPort.parse(http)) is None:
            yield f"intake.http is not HOST:PORT ({given['intake.http'].origin}); `check-config` says more"
        else:
            yield Place(host_port.reachable(), token=token, token_fault=token_fault)


# Settings. As everywhere, the environment overrides the file, and --set both.


def _read(config: Path | None, environ: Mapping[str, str], overrides: Sequence[str]) -> _Settings:
    """Return what is needed of all sources. Raises UnusableError."""
    from_file = {} if config is None else _from_file(config)
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    from_systemd = {"buffer.directory": _Given(state, "in STATE_DIRECTORY")} if state else {}
    return from_systemd | from_file | _from_environ(environ) | _from_overrides(overrides)


def _from_file(config: Path) -> _Settings:
    import tomllib

    try:
        with config.open("rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnusableError(f"{_shown(config)} cannot be read: {_why(error)}") from None
    if len(content) > _MAX_CONFIG_BYTES:
        raise UnusableError(f"{_shown(config)} is larger than 4 MiB, too large for settings")
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise UnusableError(f"{_shown(config)} is not TOML; `check-config` says where") from None
    found = {}
    for path in _NEEDED:
        section, _, key = path.partition(".")
        settings = document.get(section, {})
        if not isinstance(settings, dict):
            raise UnusableError(f"{_shown(config)}: {section} is not a section; `check-config` says more")
        if key in settings:
            found[path] = _Given(settings[key], f"in {_shown(config)}")
    return found


def _from_environ(environ: Mapping[str, str]) -> _Settings:
    """Return what the environment gives; its names count in upper and lower case."""
    found = {}
    for variable in sorted(environ):
        if variable.startswith("FORWARDER_"):
            path = variable.removeprefix("FORWARDER_").lower().replace("__", ".", 1)
            if path in _NEEDED:
                found[path] = _Given(environ[variable], f"in {printable(variable)}")
    return found


def _from_overrides(overrides: Sequence[str]) -> _Settings:
    found = {}
    for number, override in enumerate(overrides, start=1):
        path, equals, value = override.partition("=")
        if not equals:  # it is not shown, as it may hold a token
            raise UnusableError(f"--set (number {number}) must be written section.key=value")
        if path in _NEEDED:
            found[path] = _Given(value, "in --set")
        else:
            _refuse_unknown(path)
    return found


def _refuse_unknown(path: str) -> None:
    from forwarder.settings import reference

    known = [each.path for each in reference()]
    if path not in known:
        import difflib

        near = difflib.get_close_matches(path, known, n=1)
        fix = f"did you mean {near[0]}?" if near else "config/README.md lists the settings"
        raise UnusableError(f"--set names {printable(path)}, which is not a setting; {fix}")


# Tokens


def _token(given: _Settings) -> tuple[str | None, str]:
    """Return the token that settings give, or why there is none although they do: not each user may read it."""
    itself, file = given.get("intake.token"), given.get("intake.token_file")
    if itself is not None:
        token = str(itself.value)
        return (token, "") if _is_token(token) else (None, f"intake.token is no token ({itself.origin})")
    if file is None:
        return None, ""
    try:
        return read_token(str(file.value)), ""
    except UnusableError as error:
        return None, f"intake.token_file {error} ({file.origin})"


def _token_argument(path: str) -> str:
    try:
        return read_token(path)
    except UnusableError as error:
        raise UnusableError(f"--token-file {error}") from None


def read_token(path: str) -> str:
    """Return the token in a file. Raises UnusableError, which does not show the path: it may be the token by mistake."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_TOKEN_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UnusableError(f"names a file that cannot be read: {_why(error)}") from None
    token = content.strip().decode("latin-1")
    if len(content) > _MAX_TOKEN_FILE_BYTES:
        raise UnusableError("names a file that is larger than 64 KiB, too large for a token")
    if not token:
        raise UnusableError("names a file that is empty")
    if not _is_token(token):
        raise UnusableError("names a file that does not hold a token, which is printable ASCII")
    return token


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip() != ""


def _shown(path: Path) -> str:
    return printable(str(path), 200)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it has an invalid name"

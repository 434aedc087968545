"""The values that settings have, and one reader for each kind of value, which reads, describes and writes it.

A reader gets what TOML gave (a string, an integer, a table, …) or a `Text`. It returns the setting's value or raises
`RefusedError`. It coerces nothing. All but `GROUP` is pure. Only the modules of this package import this one; all others
find `Secret` and `Address` in `forwarder.settings`.
"""

import grp
import hmac
import ipaddress
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar, get_args
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from forwarder.settings import mistakes

KIB = 1024
MIB = 1024 * KIB

_UNIT_BYTES = {"GiB": 1024 * MIB, "MiB": MIB, "KiB": KIB}
_MASK = "********"
_EMPTY = "is empty; leave the setting out if there is none"
_MALFORMED_HOST = "its host or port is malformed"
_SMALLEST = sys.float_info.min * sys.float_info.epsilon
"""The smallest number above 0."""
_MAX_GROUP_NUMBER = (1 << 32) - 2  # the last one means "none" to system calls
MAX_SOCKET_PATH_BYTES = 107  # Linux has room for 108, of which one is the final NUL.


class Text(str):
    """A value from the environment or `--set`, to be parsed as the setting's type."""

    __slots__ = ()


class RefusedError(ValueError):
    """A setting cannot have this value. The message says what is wrong and how to fix it; it never shows a secret."""


class _UnfitError(ValueError):
    """Raised by a parser: `Reader.read` is to say what the value must be. The message is a hint, and may be empty."""


class Secret:
    """Text that is never shown: only `reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, only to send or compare it."""
        return self._value

    def __repr__(self) -> str:
        return _MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)


@attrs.frozen
class Address:
    """Where to listen on TCP."""

    host: str
    """An IPv4 or IPv6 address (without brackets) or a host name."""
    port: int
    """0 to 65535; 0 is any free port."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. No name but `localhost` counts: others may resolve to any address."""
        return _is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class Group:
    """A group of this machine's users."""

    name: str
    """As the setting has it: a name, or a number in digits."""
    number: int

    def __str__(self) -> str:
        return self.name


Value = TypeVar("Value")


def _no_doubt(_value: object) -> str:
    return ""


def _written(value: object) -> str | None:
    return None if value is None else _toml(value)


@attrs.frozen
class Reader(Generic[Value]):
    """Reads, describes and writes one kind of value."""

    type_text: str
    """What a value must be, to follow the words "must be"."""
    parse: Callable[[object], Value]
    """Returns the setting's value; raises `_UnfitError`, or `RefusedError` with a message of its own."""
    doubt: Callable[[Any], str] = _no_doubt
    """Returns what may be wrong with a value that was read, to follow the setting's name; empty if nothing is."""
    toml: Callable[[Any], str | None] = _written
    """Returns a setting's value as TOML text; None if only leaving the setting out says "not set"."""
    shows_value: bool = True
    """Whether an error may show the value."""
    table_example: str = ""
    """Of a kind that only the file can hold, as it is a table: an example. Empty for all other kinds."""

    def read(self, value: object) -> Value:
        """Return the setting's value, or raise `RefusedError`."""
        try:
            return self.parse(value)
        except _UnfitError as unfit:
            shown = f", not {_shown(value)}" if self.shows_value else ""
            hint = f"; {unfit}" if unfit.args else ""
            raise RefusedError(f"must be {self.type_text}{shown}{hint}") from None


@attrs.frozen
class About:
    """What a setting's declaration says of it, besides its default."""

    reader: Reader[Any]
    description: str
    live: bool
    """Whether a running daemon takes it up on SIGHUP."""


def live(default: Value, reader: Reader[Any], description: str) -> Value:
    """Declare a setting that a running daemon takes up on SIGHUP."""
    return attrs.field(default=default, metadata={About: About(reader, description, live=True)})


def fixed(default: Value, reader: Reader[Any], description: str) -> Value:
    """Declare a setting that only a restart changes."""
    return attrs.field(default=default, metadata={About: About(reader, description, live=False)})


def _text(value: object, *, printable: bool = False) -> str:
    if not isinstance(value, str) or (printable and not value.isprintable()):
        raise _UnfitError
    return str(value)


def _raise_first(faults: Mapping[str, bool]) -> None:
    """Raise `_UnfitError` with the first fault that was found."""
    for fault, found in faults.items():
        if found:
            raise _UnfitError(fault)


# Switches, numbers and words


def _flag(value: object) -> bool:
    if isinstance(value, Text) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise _UnfitError
    return value


FLAG: Final = Reader("true or false", _flag)


def integer(low: int, high: int | None = None) -> Reader[int]:
    """Return the reader of an integer within a range; without `high` it has no upper end."""
    return Reader(f"an integer {_range(low, high, str)}", lambda value: _within(_integer(value), low, high))


def size(low: int, high: int | None = None) -> Reader[int]:
    """Return the reader of a number of bytes within a range, given as an integer or with a unit."""
    text = f'a size {_range(low, high, size_text)}, in bytes or like "256 MiB"'
    return Reader(text, lambda value: _within(_bytes(value), low, high), toml=_size_toml)


def _range(low: int, high: int | None, show: Callable[[int], str]) -> str:
    return f"from {show(low)} " + ("up" if high is None else f"to {show(high)}")


def _within(number: int | None, low: int, high: int | None) -> int:
    if number is None or number < low or (high is not None and number > high):
        raise _UnfitError
    return number


def _bytes(value: object) -> int | None:
    number = _integer(value)
    if number is not None or not isinstance(value, str):
        return number
    with_unit = re.fullmatch(r"([0-9]{1,15}) ?(KiB|MiB|GiB)", value)
    if with_unit is None:
        raise _UnfitError("the units are KiB, MiB and GiB, after a whole number")
    return int(with_unit[1]) * _UNIT_BYTES[with_unit[2]]


def _size_toml(size_bytes: int) -> str:
    text = size_text(size_bytes)
    return text if text.isdecimal() else _toml(text)


def seconds(at_most: int, *, zero: bool = False) -> Reader[float]:
    """Return the reader of a duration in seconds, above 0; with `zero`, 0 is allowed too."""
    text = f"a number of seconds, {'from 0' if zero else 'above 0 and up'} to {at_most}"
    return _real(text, _SMALLEST, at_most, zero=zero)


def rate(at_least: float, at_most: int) -> Reader[float]:
    """Return the reader of how often a second something may happen; 0 is no limit."""
    return _real(f"a number per second, from {at_least} to {at_most}, or 0 for no limit", at_least, at_most, zero=True)


def _real(type_text: str, low: float, high: float, *, zero: bool) -> Reader[float]:
    def parse(value: object) -> float:
        number = _number(value)
        # NaN and infinity fail this, as do integers that no float can hold.
        if number is None or not (low <= number <= high or (zero and number == 0)):
            raise _UnfitError
        return float(number)

    return Reader(type_text, parse)


def choice(literal: Any) -> Reader[str]:
    """Return the reader of one of the words of a `Literal`."""
    words = get_args(literal)

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise _UnfitError(*_suggestion(value, words))
        return str(value)

    return Reader(_one_of(words), parse)


def _one_of(words: tuple[str, ...]) -> str:
    *most, last = map(_toml, words)
    return f"{', '.join(most)} or {last}" if most else last


def _suggestion(value: object, words: tuple[str, ...]) -> list[str]:
    """Return a question for the word that was probably meant; none if no word is near."""
    typed = value.lower().replace("-", "_") if isinstance(value, str) else ""
    import difflib  # noqa: PLC0415  # few need it, and it takes memory for ever

    return [f"did you mean {_toml(near)}?" for near in difflib.get_close_matches(typed, words, n=1)]


def choice_table(words: tuple[str, ...], *, names: str, example: str) -> Reader[Mapping[str, str]]:
    """Return the reader of a table that has one of a few words for each of its names. `names` says what they are."""

    def parse(value: object) -> Mapping[str, str]:
        if isinstance(value, Text):
            raise RefusedError(f"can be set in the file only, as it is a table, like {example}")
        if not isinstance(value, dict):
            raise _UnfitError
        if wrong := [refusal(name, word) for name, word in value.items() if word not in words]:
            raise RefusedError(f"must be {_one_of(words)} for each of its names, not {', nor '.join(wrong)}")
        return MappingProxyType(dict(value))

    def refusal(name: str, word: object) -> str:
        hints = ["a name with dots belongs in quotes"] if isinstance(word, dict) else _suggestion(word, words)
        return f"{_shown(word)} for {_shown(name)}" + "".join(f" ({hint})" for hint in hints)

    text = f"a table of {names}, each with {_one_of(words)}, like {example}; in the file only"
    return Reader(text, parse, table_example=example)


# Addresses, URLs, names of hosts


def _listen_address(value: object) -> Address | None:
    text = _text(value)
    if not text:
        return None
    parts = re.fullmatch(r"(?:\[(?P<ipv6>[^]]*)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", text)
    if parts is None:
        raise _UnfitError("every address of this machine is 0.0.0.0, or [::] with IPv6")
    if parts["ipv6"] is not None and not _is_ipv6(parts["ipv6"]):
        raise _UnfitError("the brackets must hold an IPv6 address")
    if int(parts["port"]) > 65535:
        raise _UnfitError("the highest port is 65535")
    return Address(parts["host"] or parts["ipv6"], int(parts["port"]))


LISTEN_ADDRESS: Final = Reader(
    '"host:port" ("[::1]:8920" for IPv6, port 0 for any free one) or "" for off',
    _listen_address,
    toml=lambda address: _toml(address or ""),
)
"""Where to listen on TCP; None is nowhere, written as the empty string."""


def _url_parts(url: str) -> tuple[SplitResult, str]:
    """Return the parts of a URL and its host, which may be empty."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # reading the port checks it
    except ValueError:
        raise _UnfitError(_MALFORMED_HOST) from None
    return parts, host


def _https_url(value: object) -> str:
    text = _text(value)
    if not text.isprintable() or " " in text:  # first, as urlsplit silently drops tabs and newlines
        raise _UnfitError("it must not hold spaces or control characters")
    parts, host = _url_parts(text)
    _raise_first(
        {
            "it must begin with https:// and a host": parts.scheme not in {"https", "http"} or not host,
            "it must not hold a user name or password": "@" in parts.netloc,
            _MALFORMED_HOST: not _is_authority(parts.netloc, host),
            "it must not have a fragment, a part after #": "#" in text,
            "plain http would show the key to the network": parts.scheme == "http" and not _is_loopback(host),
        }
    )
    return text


HTTPS_URL: Final = Reader(
    "an https URL (http only to this machine: localhost, 127.0.0.0/8 or [::1])",
    _https_url,
    doubt=mistakes.url_doubt,
    shows_value=False,
)
"""Where to send. No error shows the URL, as people put passwords into URLs."""


def _text_list(items: str, example: str, normal: Callable[[str], str | None]) -> Reader[tuple[str, ...]]:
    """Return the reader of a list of `items`. `normal` returns an item in its normal form, None for what is not one."""
    type_text = f"a list of {items}, like {example} (in the environment separated by commas)"

    def parse(value: object) -> tuple[str, ...]:
        if isinstance(value, Text):
            value = [part.strip() for part in value.split(",")] if value.strip() else []
        if not isinstance(value, list):
            raise _UnfitError
        found = [normal(each) if isinstance(each, str) else None for each in value]
        if wrong := [_shown(each) for each, item in zip(value, found, strict=True) if item is None]:
            raise RefusedError(f"must be {type_text}, not {' nor '.join(wrong[:3])}")
        return tuple(item for item in found if item is not None)

    return Reader(type_text, parse)


def _host_name(text: str) -> str | None:
    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if _is_ipv6(address):
        return str(ipaddress.IPv6Address(address))
    return text.lower() if text == "*" or re.fullmatch(r"[A-Za-z0-9._-]+", text) else None


HOST_NAMES: Final = _text_list(
    'host names and addresses, without ports, or "*" for any', '["localhost", "forwarder.internal"]', _host_name
)
"""In lower case, and IPv6 addresses without brackets."""


def _origin(text: str) -> str | None:
    parts = re.fullmatch(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", text.lower())
    if parts is None:
        return None
    usual = {"http": ":80", "https": ":443"}[parts[1]]
    return text.lower().removesuffix(usual) if parts[3] == usual else text.lower()


ORIGINS: Final = _text_list(
    "web origins, each a scheme, a host and perhaps a port",
    '["https://shop.example", "http://localhost:3000"]',
    _origin,
)
"""As browsers send them: the port is left out if it is the scheme's own."""


# Paths, permissions, groups. Whether a path exists is found out by those who use it.


def _path(value: object) -> str:
    path = _text(value, printable=True)
    if fault := mistakes.path_fault(path):
        raise _UnfitError(f"it {fault}")
    return path


def _path_of(what: str, *, if_empty: str = _EMPTY, shows_value: bool = True) -> Reader[str]:
    def parse(value: object) -> str:
        if path := _path(value):
            return path
        raise RefusedError(if_empty)

    return Reader(f"the path of {what}", parse, doubt=mistakes.path_doubt, shows_value=shows_value)


DIRECTORY: Final = _path_of(
    "a directory", if_empty='must be the path of a directory, not ""; the working directory is "."'
)
FILE: Final = _path_of("a file")
CERTIFICATES_FILE: Final = _path_of("a file of certificates in PEM form")
SECRET_FILE: Final = _path_of("a file that holds the secret", shows_value=False)
"""No error shows the path: somebody may have written the secret itself there."""


def _socket_path(value: object) -> str | None:
    path = _path(value)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise _UnfitError("choose a shorter directory")
    return path or None


SOCKET_PATH: Final = Reader(
    f"the path of a Unix socket, of at most {MAX_SOCKET_PATH_BYTES} bytes",
    _socket_path,
    doubt=lambda path: mistakes.path_doubt(path or ""),
)
"""None is no socket; so is the empty string."""


def _control_socket(value: object) -> str | None:
    return "auto" if value == "auto" else _path(value) or None


CONTROL_SOCKET: Final = Reader(
    '"auto", the path of a Unix socket, or "" for off',
    _control_socket,
    doubt=lambda path: "" if path in {None, "auto"} else mistakes.path_doubt(path),
    toml=lambda path: _toml(path or ""),
)
"""A path that is too long is no error here: a daemon must start without its control socket, too."""


def _file_mode(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{3,4}", value):
        return _within(int(value, 8), 0, 0o777)
    return _within(None if isinstance(value, str) else _integer(value), 0, 0o777)


FILE_MODE: Final = Reader(
    'octal permission digits in quotes, like "0660"', _file_mode, toml=lambda mode: f'"{mode:04o}"'
)
"""As an integer it must be below 0o1000, which catches most modes that were written in decimal, such as 660."""


def _group(value: object) -> Group | None:
    if value == "":
        return None
    number = _integer(Text(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value)
    if number is not None:
        return Group(str(number), _within(number, 0, _MAX_GROUP_NUMBER))
    name = _text(value, printable=True)
    try:
        return Group(name, grp.getgrnam(name).gr_gid)
    except KeyError:
        raise _UnfitError("there is no such group: create it, or name another") from None


GROUP: Final = Reader("the name or the number of a group of this machine", _group)
"""A group of this machine's users; None is none, and so is the empty string. It must exist unless given as a number."""


# Secrets


def _secret(value: object) -> Secret:
    if isinstance(value, Secret):  # from a secret file, whose content was already read by this function
        return value
    if not isinstance(value, str):
        raise RefusedError("must be a string, in quotes")
    if not value:
        raise RefusedError(_EMPTY)
    if fault := mistakes.secret_fault(value):
        raise RefusedError(fault)
    if value == _MASK:
        raise RefusedError(f"is {_MASK}, which stands for a secret where settings are shown; give the secret itself")
    return Secret(str(value))


def _secret_doubt(secret: Secret) -> str:
    return mistakes.secret_doubt(secret.reveal())


def _proxy_url(value: object) -> Secret:
    secret = _secret(value)
    parts, host = _url_parts(secret.reveal())
    userinfo, _, address = parts.netloc.rpartition("@")
    encode = "in user and password, write what is no letter or digit as in %40 for @"
    is_odd = re.search(r"[@\\]", userinfo) is not None or ":" in unquote(parts.username or "")
    _raise_first(
        {
            "it must begin with http:// or https:// and a host": parts.scheme not in {"http", "https"} or not host,
            encode: is_odd,
            _MALFORMED_HOST: not _is_authority(address, host),
            f"nothing may follow the port; {encode}": any((parts.path.strip("/"), parts.query, parts.fragment)),
        }
    )
    return secret


_HEADER_TEXT = "a secret, of printable ASCII as it is sent in an HTTP header"
SECRET: Final = Reader(_HEADER_TEXT, _secret, doubt=_secret_doubt, shows_value=False)
API_KEY: Final = Reader(
    _HEADER_TEXT,
    _secret,
    doubt=lambda key: _secret_doubt(key) or mistakes.key_doubt(key.reveal()),
    shows_value=False,
)
"""Growlytics' key, in which an equals sign is suspicious; a token of one's own may look in any way."""
PROXY_URL: Final = Reader(
    "http://host:port or https://host:port, before the host user:password@ if the proxy asks for them",
    _proxy_url,
    doubt=_secret_doubt,
    shows_value=False,
)
"""All of the URL is a secret, as it may hold a password."""


# What the readers share


def _integer(value: object) -> int | None:
    if isinstance(value, Text) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> int | float | None:
    if isinstance(value, Text) and re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", value):
        return float(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def size_text(size_bytes: int) -> str:
    """Return a number of bytes in the largest unit that keeps it whole: `1 MiB`, `1000`."""
    for unit, unit_bytes in _UNIT_BYTES.items():
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes} {unit}"
    return str(size_bytes)


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_authority(text: str, host: str) -> bool:
    """Whether the part of a URL in which urlsplit found the host and a sound port holds these and nothing else."""
    if text.startswith("["):
        return _is_ipv6(host) and re.fullmatch(r"\[[^]]+\](:[0-9]*)?", text) is not None
    return re.search(r"[] \\[]", text) is None


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.IPv6Address(host) is not None
    except ValueError:
        return False


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        entries = ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items())
        return f"{{ {entries} }}" if entries else "{}"
    # A JSON string is a TOML string, unless characters beyond 16 bits are escaped in pairs. What JSON does not escape but
    # cannot be shown, is: TOML wants that of the delete character, and a terminal is grateful for the others.
    text = json.dumps(str(value), ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def _shown(value: object) -> str:
    """Return a refused value fit for an error message: short, and nothing that plays with a terminal."""
    match value:
        case str():
            text = json.dumps(str(value))
        case int() if value.bit_length() > 1000:  # Python refuses to write integers of thousands of digits
            text = "an enormous integer"
        case int() | float():
            text = _toml(value)
        case dict():
            text = "a table"
        case list():
            text = "an array"
        case _:
            text = "a date or time"
    return text if len(text) <= 80 else text[:79] + "…"

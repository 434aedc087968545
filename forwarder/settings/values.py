"""The values that settings have, and what reads, describes and writes each kind of them.

A reader gets what TOML gave (a string, an integer, a table, …) or `Text`, and returns the setting's value or raises
`RefusedError`. Nothing is coerced, and all is pure. Only `forwarder.settings` and `forwarder.settings.sources` import
this module; everybody else finds `Secret` and `Address` in `forwarder.settings`.
"""

import grp
import hmac
import ipaddress
import json
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from forwarder.settings import mistakes

KIB = 1024
MIB = 1024 * KIB

_UNIT_BYTES = {"GiB": 1024 * MIB, "MiB": MIB, "KiB": KIB}
_MASK = "********"
_NO_FILE = "is empty; leave the setting out if there is none"
_MALFORMED_HOST = "its host or port is malformed"
_SMALLEST = sys.float_info.min * sys.float_info.epsilon
"""The smallest number above 0."""
_MAX_GROUP_NUMBER = (1 << 32) - 2  # the last one means "none" to system calls
_MAX_SOCKET_PATH_BYTES = 107  # Linux has room for 108, of which one is the final NUL.


class Text(str):
    """A value from the environment or `--set`: it is parsed as the setting's type demands."""

    __slots__ = ()


class RefusedError(ValueError):
    """A value that a setting cannot take. The message says what is wrong and how to fix it; it never holds a secret."""


class Secret:
    """Text that is never shown: only `reveal` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, to be sent and nothing else."""
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
        """Whether only this machine can reach it. Of names only `localhost` counts: others may resolve anywhere."""
        return _is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class Group:
    """A group of this machine's users."""

    name: str
    """As the setting has it: perhaps the number."""
    number: int

    def __str__(self) -> str:
        return self.name


class Reader(ABC):
    """Reads one kind of value."""

    @property
    @abstractmethod
    def type_text(self) -> str:
        """What a value must be, to follow the words "must be"."""

    @abstractmethod
    def read(self, value: object) -> object:
        """Return the setting's value, or raise `RefusedError`."""

    def doubt(self, value: object) -> str:  # noqa: ARG002 - most have none
        """Return what may be wrong with a value that was read, to follow the setting's name; empty if nothing is."""
        return ""

    def toml(self, value: object) -> str | None:
        """Return a setting's value as TOML text; None if only leaving the setting out says "not set"."""
        return None if value is None else _toml(value)

    def refuse(self, value: object, fix: str = "") -> RefusedError:
        """Return the error for a value, which it shows."""
        return RefusedError(f"must be {self.type_text}, not {_shown(value)}" + (fix and f"; {fix}"))

    def refuse_first(self, faults: Mapping[str, bool]) -> None:
        """Raise `RefusedError` with the first fault that was found, without the value."""
        for fault, found in faults.items():
            if found:
                raise RefusedError(f"must be {self.type_text}; {fault}")

    def split(self, url: str) -> tuple[SplitResult, str]:
        """Return the parts of a URL and its host, which may be empty, or raise `RefusedError`, which does not show it."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port  # the port is only checked when it is asked for
        except ValueError:
            raise RefusedError(f"must be {self.type_text}; {_MALFORMED_HOST}") from None
        return parts, host


@attrs.frozen
class Flag(Reader):
    type_text = "true or false"

    def read(self, value: object) -> bool:
        if isinstance(value, Text) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise self.refuse(value)
        return value


@attrs.frozen
class Integer(Reader):
    low: int
    high: int | None = None

    @property
    def type_text(self) -> str:
        return f"an integer {self._range(str)}"

    def read(self, value: object) -> int:
        number = self._parse(value)
        if number is None or number < self.low or (self.high is not None and number > self.high):
            raise self.refuse(value)
        return number

    def _parse(self, value: object) -> int | None:
        return _integer(value)

    def _range(self, show: Callable[[int], str]) -> str:
        return f"from {show(self.low)} " + ("up" if self.high is None else f"to {show(self.high)}")


@attrs.frozen
class Size(Integer):
    """A number of bytes, as an integer or with a unit."""

    @property
    def type_text(self) -> str:
        return f'a size {self._range(size_text)}, in bytes or like "256 MiB"'

    def _parse(self, value: object) -> int | None:
        number = _integer(value)
        if number is not None or not isinstance(value, str):
            return number
        with_unit = re.fullmatch(r"([0-9]{1,15}) ?(KiB|MiB|GiB)", value)
        if with_unit is None:
            raise self.refuse(value, "the units are KiB, MiB and GiB, after a whole number")
        return int(with_unit[1]) * _UNIT_BYTES[with_unit[2]]

    def toml(self, value: object) -> str:
        assert isinstance(value, int)
        text = size_text(value)
        return text if text.isdecimal() else _toml(text)


@attrs.frozen
class Number(Reader):
    """A number within a range, or 0 where that means "none"; an integer is as good as a float."""

    type_text: str
    low: float
    high: float
    zero: bool = False
    """Whether 0 is allowed beside the range."""

    def read(self, value: object) -> float:
        number = _number(value)
        # NaN and infinity fail this, as do integers that no float can hold.
        if number is None or not (self.low <= number <= self.high or (self.zero and number == 0)):
            raise self.refuse(value)
        return float(number)


def seconds(at_most: int, *, zero: bool = False) -> Number:
    """Return what reads a duration in seconds."""
    return Number(
        f"a number of seconds, {'from 0' if zero else 'above 0 and up'} to {at_most}", _SMALLEST, at_most, zero
    )


def rate(at_least: float, at_most: int) -> Number:
    """Return what reads how often a second something may happen; 0 is no limit."""
    text = f"a number per second, from {at_least} to {at_most}, or 0 for no limit"
    return Number(text, at_least, at_most, zero=True)


@attrs.frozen
class Choice(Reader):
    words: tuple[str, ...]

    @property
    def type_text(self) -> str:
        *most, last = (_toml(word) for word in self.words)
        return f"{', '.join(most)} or {last}" if most else last

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise self.refuse(value, self.suggestion(value))
        return str(value)

    def suggestion(self, value: object) -> str:
        """Return a question after the word that was probably meant; empty if none is near."""
        typed = value.lower().replace("-", "_") if isinstance(value, str) else ""
        import difflib  # noqa: PLC0415  # few need it, and it takes memory for ever

        near = difflib.get_close_matches(typed, self.words, n=1)
        return f"did you mean {_toml(near[0])}?" if near else ""


@attrs.frozen
class ChoiceTable(Reader):
    """A table in the file that has one of a few words for each name. The names may be any text."""

    words: tuple[str, ...]
    keys: str
    """What the names are, in the plural."""
    example: str

    @property
    def type_text(self) -> str:
        return f"a table of {self.keys}, each with {self._choice.type_text}, like {self.example}; in the file only"

    def read(self, value: object) -> Mapping[str, str]:
        if isinstance(value, Text):
            raise RefusedError(f"can be set in the file only, as it is a table, like {self.example}")
        if not isinstance(value, dict):
            raise self.refuse(value)
        if wrong := [self._refusal(name, word) for name, word in value.items() if word not in self.words]:
            raise RefusedError(f"must be {self._choice.type_text} for each of its names, not {', nor '.join(wrong)}")
        return MappingProxyType(dict(value))

    @property
    def _choice(self) -> Choice:
        return Choice(self.words)

    def _refusal(self, name: str, word: object) -> str:
        fix = "a name with dots belongs in quotes" if isinstance(word, dict) else self._choice.suggestion(word)
        return f"{_shown(word)} for {_shown(name)}" + (fix and f" ({fix})")


@attrs.frozen
class ListenAddress(Reader):
    """Where to listen on TCP; None is nowhere, written as the empty string."""

    type_text = '"host:port" ("[::1]:8920" for IPv6, port 0 for any free one) or "" for off'

    def read(self, value: object) -> Address | None:
        if not isinstance(value, str):
            raise self.refuse(value)
        if not value:
            return None
        parts = re.fullmatch(r"(?:\[(?P<ipv6>[^]]*)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", value)
        if parts is None:
            raise self.refuse(value, "every address of this machine is 0.0.0.0, or [::] with IPv6")
        if parts["ipv6"] is not None and not _is_ipv6(parts["ipv6"]):
            raise self.refuse(value, "the brackets must hold an IPv6 address")
        if int(parts["port"]) > 65535:
            raise self.refuse(value, "the highest port is 65535")
        return Address(parts["host"] or parts["ipv6"], int(parts["port"]))

    def toml(self, value: object) -> str:
        return _toml("" if value is None else value)


@attrs.frozen
class HttpsUrl(Reader):
    """Where to send. No error shows the URL, as people put passwords into URLs."""

    type_text = "an https URL (http only to this machine: localhost, 127.0.0.0/8 or [::1])"

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        # urlsplit drops tabs and newlines without a word, so look first.
        if not value.isprintable() or " " in value:
            raise RefusedError(f"must be {self.type_text}, without spaces and control characters")
        parts, host = self.split(value)
        self.refuse_first(
            {
                "it must begin with https:// and a host": parts.scheme not in {"https", "http"} or not host,
                "it must not hold a user name or password": "@" in parts.netloc,
                _MALFORMED_HOST: not _is_authority(parts.netloc, host),
                "it must not have a fragment, a part after #": "#" in value,
                "plain http would show the key to the network": parts.scheme == "http" and not _is_loopback(host),
            }
        )
        return str(value)


@attrs.frozen
class PathOf(Reader):
    """The path of something, absolute or relative. Whether it is there is for those to find out who use it."""

    what: str
    if_empty: str
    """Why it must not be empty, as the end of an error."""

    @property
    def type_text(self) -> str:
        return f"the path of {self.what}"

    def read(self, value: object) -> str:
        if path := self.path(value):
            return path
        raise RefusedError(self.if_empty)

    def path(self, value: object) -> str:
        """Return the path, which may be empty, or raise `RefusedError`."""
        if not isinstance(value, str) or not value.isprintable():
            raise self.refuse(value)
        if fault := mistakes.path_fault(value):
            raise self.refuse(value, f"it {fault}")
        return str(value)

    def doubt(self, value: object) -> str:
        return mistakes.path_doubt(value) if isinstance(value, str) else ""


def directory_path() -> PathOf:
    """Return what reads the path of a directory."""
    return PathOf("a directory", 'must be the path of a directory, not ""; the working directory is "."')


def file_path(what: str = "a file") -> PathOf:
    """Return what reads the path of a file."""
    return PathOf(what, _NO_FILE)


@attrs.frozen
class SecretFile(PathOf):
    """The path of a file that holds a secret. No error shows it: it may be the secret, in the wrong place."""

    what: str = "a file that holds the secret"
    if_empty: str = _NO_FILE

    def refuse(self, value: object, fix: str = "") -> RefusedError:  # noqa: ARG002 - it is not shown
        return RefusedError(f"must be {self.type_text}" + (fix and f"; {fix}"))


@attrs.frozen
class SocketPath(PathOf):
    """The path of a Unix socket; None is no socket, and so is the empty string."""

    what: str = f"a Unix socket, of at most {_MAX_SOCKET_PATH_BYTES} bytes"
    if_empty: str = ""

    def read(self, value: object) -> str | None:  # type: ignore[override]  # an empty path is allowed here
        path = self.path(value)
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
            raise self.refuse(value, "choose a shorter directory")
        return path or None


@attrs.frozen
class GroupName(Reader):
    """A group of this machine's users; None is none, and so is the empty string. It must be there, but for a number."""

    type_text = "the name or the number of a group of this machine"

    def read(self, value: object) -> Group | None:
        if value == "":
            return None
        number = _integer(Text(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value)
        if number is not None:
            if not 0 <= number <= _MAX_GROUP_NUMBER:
                raise self.refuse(value)
            return Group(str(number), number)
        if not isinstance(value, str) or not value.isprintable():
            raise self.refuse(value)
        try:
            return Group(str(value), grp.getgrnam(value).gr_gid)
        except KeyError:
            raise self.refuse(value, "there is no such group: create it, or name another") from None

    def toml(self, value: object) -> str | None:
        return None if value is None else _toml(str(value))


@attrs.frozen
class TextList(Reader):
    """A list of texts; in the environment they are separated by commas."""

    items: str
    """What its items must be."""
    example: str
    item: Callable[[str], str | None]
    """Returns an item in its normal form; None if it is none."""

    @property
    def type_text(self) -> str:
        return f"a list of {self.items}, like {self.example} (in the environment separated by commas)"

    def read(self, value: object) -> tuple[str, ...]:
        if isinstance(value, Text):
            value = [part.strip() for part in value.split(",")] if value.strip() else []
        if not isinstance(value, list):
            raise self.refuse(value)
        items = [self.item(each) if isinstance(each, str) else None for each in value]
        if wrong := [_shown(each) for each, item in zip(value, items, strict=True) if item is None]:
            raise RefusedError(f"must be {self.type_text}, not {' nor '.join(wrong[:3])}")
        return tuple(item for item in items if item is not None)


def host_names() -> TextList:
    """Return what reads names and addresses of hosts, in lower case and IPv6 without brackets; `*` is any."""
    items = 'host names and addresses, without ports, or "*" for any'
    return TextList(items, '["localhost", "forwarder.internal"]', _host_name)


def _host_name(text: str) -> str | None:
    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if _is_ipv6(address):
        return str(ipaddress.IPv6Address(address))
    return text.lower() if text == "*" or re.fullmatch(r"[A-Za-z0-9._-]+", text) else None


def origins() -> TextList:
    """Return what reads origins as browsers send them: scheme, host and a port that is not the scheme's own."""
    items = "web origins, each a scheme, a host and perhaps a port"
    return TextList(items, '["https://shop.example", "http://localhost:3000"]', _origin)


def _origin(text: str) -> str | None:
    parts = re.fullmatch(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", text.lower())
    if parts is None:
        return None
    usual = {"http": ":80", "https": ":443"}[parts[1]]
    return text.lower().removesuffix(usual) if parts[3] == usual else text.lower()


@attrs.frozen
class FileMode(Reader):
    """Permission bits; as an integer they must be below 0o1000, so a decimal 660 or 777 is found out."""

    type_text = 'octal permission digits in quotes, like "0660"'

    def read(self, value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{3,4}", value):
            mode: int | None = int(value, 8)
        else:
            mode = _integer(value) if not isinstance(value, str) else None
        if mode is None or not 0 <= mode <= 0o777:
            raise self.refuse(value)
        return mode

    def toml(self, value: object) -> str:
        return f'"{value:04o}"'


@attrs.frozen
class SecretText(Reader):
    """A secret that is sent as the value of an HTTP header. No error shows it, whatever its type."""

    type_text = "a secret, of printable ASCII as it is sent in an HTTP header"

    def read(self, value: object) -> Secret:
        if isinstance(value, Secret):  # from a secret file, where it was read by this very method
            return value
        if not isinstance(value, str):
            raise RefusedError("must be a string, in quotes")
        if not value:
            raise RefusedError("is empty; leave the setting out if there is none")
        if fault := mistakes.secret_fault(value):
            raise RefusedError(fault)
        if value == _MASK:
            raise RefusedError(
                f"is {_MASK}, which stands for a secret where settings are shown; give the secret itself"
            )
        return Secret(str(value))

    def doubt(self, value: object) -> str:
        return mistakes.secret_doubt(value.reveal()) if isinstance(value, Secret) else ""


@attrs.frozen
class ApiKey(SecretText):
    """The key of Growlytics, which issues it; a token of one's own may look in any way."""

    def doubt(self, value: object) -> str:
        return super().doubt(value) or (mistakes.key_doubt(value.reveal()) if isinstance(value, Secret) else "")


@attrs.frozen
class ProxyUrl(SecretText):
    """The URL of a forward proxy, which may hold a password, so all of it is a secret."""

    type_text = "http://host:port or https://host:port, before the host user:password@ if the proxy asks for them"

    def read(self, value: object) -> Secret:
        secret = SecretText().read(value)
        parts, host = self.split(secret.reveal())
        userinfo, _, address = parts.netloc.rpartition("@")
        encode = "in user and password, write what is no letter or digit as in %40 for @"
        is_odd = re.search(r"[@\\]", userinfo) is not None or ":" in unquote(parts.username or "")
        self.refuse_first(
            {
                "it must begin with http:// or https:// and a host": parts.scheme not in {"http", "https"} or not host,
                encode: is_odd,
                _MALFORMED_HOST: not _is_authority(address, host),
                f"nothing may follow the port; {encode}": any((parts.path.strip("/"), parts.query, parts.fragment)),
            }
        )
        return secret


def reader_of(kind: Any) -> Reader | None:
    """Return what reads a setting annotated as `kind`: the reader named there, or a choice for a `Literal`."""
    for each in (*getattr(kind, "__metadata__", ()), getattr(kind, "__origin__", None)):
        if isinstance(each, Reader):
            return each
        if getattr(each, "__origin__", None) is Literal:
            return Choice(get_args(each))
    return None


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

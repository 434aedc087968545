"""Reads names and dates of a server's certificate (X.509, DER), also of one that cannot be verified.

Python shows a certificate's content only if OpenSSL has verified it; an operator must see above all those that are not. So
this reads the few fields that are needed. The bytes are a stranger's: whatever they are, this returns what is there or
raises StrangeCertificateError, and reads each byte a few times at most. Texts are not safe to print yet. Pure.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final, NamedTuple

MAX_NAMES: Final = 50
"""How many names are read; some certificates have hundreds."""

_SEQUENCE: Final = 0x30
_OCTETS: Final = 0x04
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_UTF_16: Final = 0x1E
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87
_OBJECT_ID: Final = 0x06
_ALTERNATIVE_NAMES: Final = bytes.fromhex("551d11")
_COMMON_NAME: Final = bytes.fromhex("550403")
_ORGANIZATION: Final = bytes.fromhex("55040a")


class StrangeCertificateError(Exception):
    """The bytes are no certificate, or one that this module cannot read."""


class Certificate(NamedTuple):
    """What a certificate says."""

    names: tuple[str, ...]
    """The hosts for which it is valid: its alternative names; without them its common name, which no client accepts."""
    issuer: str
    """Organization and common name, as far as it has them."""
    subject: str
    valid_from: float
    """Seconds since 1970, here as below."""
    valid_to: float


class _Element(NamedTuple):
    tag: int
    content: bytes


def read_certificate(der: bytes) -> Certificate:
    """Return what a certificate says. Raise StrangeCertificateError."""
    try:
        return _read(der)
    except (ValueError, IndexError, StopIteration, OverflowError):
        raise StrangeCertificateError from None


def _read(der: bytes) -> Certificate:
    certificate = next(_elements(der))
    signed = next(_elements(_of(certificate, _SEQUENCE)))
    parts = list(_elements(_of(signed, _SEQUENCE)))
    if parts[0].tag == _VERSION:
        del parts[0]
    _, _, issuer, validity, subject, *rest = parts
    valid_from, valid_to = map(_time, _elements(_of(validity, _SEQUENCE)))
    names: list[str] = []
    for part in rest:
        if part.tag == _EXTENSIONS:
            names = list(_alternative_names(next(_elements(part.content))))
    common_names = _name_parts(subject).get(_COMMON_NAME, [])
    return Certificate(tuple(names or common_names), _named(issuer), _named(subject), valid_from, valid_to)


def _elements(data: bytes) -> Iterator[_Element]:
    """Yield the elements that follow each other in `data`. Raise ValueError or IndexError if one is cut off."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4:
                raise ValueError
            length = int.from_bytes(data[at : at + size])
            at += size
        if at + length > len(data):
            raise ValueError
        yield _Element(tag, data[at : at + length])
        at += length


def _of(element: _Element, tag: int) -> bytes:
    if element.tag != tag:
        raise ValueError
    return element.content


def _time(element: _Element) -> float:
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME:  # its years are from 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    elif element.tag != _GENERALIZED_TIME:
        raise ValueError
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _named(name: _Element) -> str:
    """Return a name for people: organization and common name, each once."""
    parts = _name_parts(name)
    return ", ".join(dict.fromkeys([*parts.get(_ORGANIZATION, []), *parts.get(_COMMON_NAME, [])]))


def _name_parts(name: _Element) -> dict[bytes, list[str]]:
    """Return the texts of a name, by the identifiers of their kinds."""
    found: dict[bytes, list[str]] = {}
    for group in _elements(_of(name, _SEQUENCE)):
        for pair in _elements(group.content):
            kind, value = _elements(pair.content)
            encoding = "utf-16-be" if value.tag == _UTF_16 else "utf-8"
            found.setdefault(kind.content, []).append(value.content.decode(encoding, "replace"))
    return found


def _alternative_names(extensions: _Element) -> Iterator[str]:
    for extension in _elements(_of(extensions, _SEQUENCE)):
        kind, *_, value = _elements(_of(extension, _SEQUENCE))
        if kind != (_OBJECT_ID, _ALTERNATIVE_NAMES):
            continue
        listed = next(_elements(_of(value, _OCTETS)))
        for number, name in enumerate(_elements(_of(listed, _SEQUENCE))):
            if number == MAX_NAMES:
                return
            if name.tag == _DNS_NAME:
                yield name.content.decode("utf-8", "replace")
            elif name.tag == _IP_ADDRESS:
                yield str(ip_address(name.content))

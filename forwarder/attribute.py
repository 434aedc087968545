"""Attributes of events: the types of their values, which values say the same in another type, and learned types. Pure.

Everybody may import this module; it imports only `words` of the project.

On the wire a Date is a string, so that a string is a date if it looks like one: RFC 3339, `YYYY-MM-DD` or
`YYYY-MM-DD HH:mm:ss`. How Growlytics tells them apart is not documented; hence string for date, or the reverse, is never
certain to be a conflict, and nothing is ever converted to a date or from one.

A number and its text say the same if JavaScript, which the far side speaks, prints the number as exactly that text, without
an exponent, and can tell it from its neighbours: `3` and `"3"`, but not `"3.0"`, `"007"`, `"1e3"` or `" 3"`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from forwarder.words import AttributeType

Value = str | int | float | bool
Place = tuple[str, str]
"""The name of events, and the name of an attribute of theirs."""


@dataclass(frozen=True, slots=True)
class LearnedType:
    """The type that an attribute had first."""

    type: AttributeType
    first_seen: float
    """Seconds since 1970."""
    seen_again: bool = False
    """Whether the attribute came more than once, so that it is likely to come again."""


TypeChanges = Mapping[Place, LearnedType | None]
"""The types that were learned; None where one is forgotten."""

TYPE_OF: Final[dict[type, AttributeType]] = {str: "string", int: "number", float: "number", bool: "boolean"}
"""Of Python's types; but a string may be a date."""
MAX_ATTRIBUTE_BYTES: Final = 256
"""Of the name of an attribute whose type is known, in UTF-8."""

_MAX_SAFE_INTEGER: Final = (1 << 53) - 1
_MIN_PLAIN: Final = 1e-6
"""What is nearer to 0 is printed with an exponent."""
_MAX_PLAIN_CHARACTERS: Final = 32
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")

_DAY: Final = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_MINUTE: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_SECOND: Final = rf"{_MINUTE}:(?:[0-5][0-9]|60)"
_DATE: Final = re.compile(rf"{_DAY}(?: {_SECOND}|[Tt]{_SECOND}(?:\.[0-9]+)?(?:[Zz]|[+-]{_MINUTE}))?")

is_date: Final = _DATE.fullmatch
"""Tells whether a string is a date. A look before, whether it has over 9 characters, the fifth a hyphen, is cheaper."""


def type_of(value: Value) -> AttributeType:
    """Return the type of an attribute's value."""
    if type(value) is str:
        return "date" if len(value) > 9 and value[4] == "-" and is_date(value) else "string"
    return TYPE_OF[type(value)]


def is_soft(expected: AttributeType, found: AttributeType) -> bool:
    """Return whether these differ only as a string and a date do."""
    return {expected, found} == {"string", "date"}


def converted(value: Value, wanted: AttributeType) -> Value | None:
    """Return what says the same in another type; None if nothing does. It leads back to `value`."""
    match wanted:
        case "string" if type(value) is bool:
            return "true" if value else "false"
        case "string" if type(value) is int or type(value) is float:
            return _plain_text(value)
        case "number" if type(value) is str:
            return _plain_number(value)
        case "boolean" if type(value) is str:
            return {"true": True, "false": False}.get(value)
    return None


def is_nameable(attribute: str) -> bool:
    """Return whether the type of an attribute of this name may be known."""
    return len(attribute) * 4 <= MAX_ATTRIBUTE_BYTES or (
        len(attribute) <= MAX_ATTRIBUTE_BYTES and len(attribute.encode(errors="surrogatepass")) <= MAX_ATTRIBUTE_BYTES
    )


def _plain_number(text: str) -> int | float | None:
    if len(text) > _MAX_PLAIN_CHARACTERS or _NUMBER.fullmatch(text) is None:
        return None
    number = float(text) if "." in text else int(text)
    return number if _plain_text(number) == text else None


def _plain_text(number: float) -> str | None:
    """Return what JavaScript prints; None if that has an exponent, may stand for other integers too, or is "0" for -0."""
    if type(number) is int or (number.is_integer() and str(number) != "-0.0"):
        return str(int(number)) if abs(number) <= _MAX_SAFE_INTEGER else None
    if abs(number) < _MIN_PLAIN:
        return None
    text = repr(number)
    return text if "e" not in text else format(Decimal(text), "f")

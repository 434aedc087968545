"""The contract of the Track Event API, as far as one event alone can violate it: rules 1 to 4 and the required fields.

Pure: takes a parsed value, and returns the event's customer and name, or every violation. The text of a violation contains
no value of the event, only names of fields and attributes. The rules are those of the vendor's document:

1. event names have fewer than 50 characters, counted as JavaScript does, in UTF-16 code units;
2. attribute names are case-sensitive, so nothing here folds case;
3. attributes are strings, numbers, booleans or dates (which are sent as strings);
4. an event has at most 50 attributes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Final

from forwarder.growlytics.json_text import OutOfRange
from forwarder.text import printable
from forwarder.words import EventCode

MAX_NAME_UNITS: Final = 49
MAX_ATTRIBUTES: Final = 50
MIN_TIME_MILLISECONDS: Final = 1e11
"""March 1973. A smaller number is not meant as milliseconds: the time now in seconds is smaller."""
END_TIME_MILLISECONDS: Final = 1e14
"""The year 5138. This or a larger number is not meant as milliseconds: the time now in microseconds is larger."""

MAX_LANE_CHARACTERS: Final = 128

MAX_LISTED_VIOLATIONS: Final = 100
"""Of the attributes of one event. More are only counted, or a small request could demand a huge answer."""

_FIELDS: Final = frozenset({"customerId", "name", "time", "attributes"})
_ALLOWED_TYPES: Final = frozenset({str, int, float, bool})
_ALLOWED_OR_OUT_OF_RANGE: Final = _ALLOWED_TYPES | {OutOfRange}


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which an event violates the contract."""

    code: EventCode
    field: str | None
    """Such as `name` or `attributes.Price`; None for the event as a whole."""
    message: str
    """What is wrong and how to fix it, for a person."""


@dataclass(slots=True)
class Conforming:
    """What the forwarder needs to know of an event that satisfies the contract.

    `Final` is for mypy only: a frozen class takes three times as long to make.
    """

    customer: Final[str]
    """The `customerId`, or its digest if it is long: it is kept beside the event's bytes, so it must be short."""
    name: Final[str]
    attributes: Final[Mapping[str, str | int | float | bool]]
    """For checking their types only: integers beyond 64 bits may have become floats."""


@dataclass(frozen=True, slots=True)
class Refused:
    """All that is wrong with an event; at least one violation."""

    violations: tuple[Violation, ...]
    name: str | None = None
    """The event's name, if it has one: untrusted text of any length."""


def check(event: object) -> Conforming | Refused:
    """Check one value of `json_text.parse`."""
    if type(event) is not dict:
        message = f"an event must be a JSON object, not {_kind(event)}"
        return Refused((Violation("not_an_object", None, message),))
    customer, name = event.get("customerId"), event.get("name")
    time, attributes = event.get("time"), event.get("attributes")
    if (
        type(customer) is str
        and customer
        and type(name) is str
        and 0 < len(name) <= MAX_NAME_UNITS
        and (name.isascii() or _utf16_units(name) <= MAX_NAME_UNITS)
        and (type(time) is int or type(time) is float)
        and MIN_TIME_MILLISECONDS <= time < END_TIME_MILLISECONDS
        and type(attributes) is dict
        and len(attributes) <= MAX_ATTRIBUTES
        and _ALLOWED_TYPES.issuperset(map(type, attributes.values()))
        and (len(event) == len(_FIELDS) or not _out_of_range_fields(event))
    ):
        return Conforming(customer if len(customer) <= MAX_LANE_CHARACTERS else _digest(customer), name, attributes)
    return Refused(tuple(_violations(event)), name if type(name) is str else None)


def _violations(event: dict[str, object]) -> Iterator[Violation]:
    for field, rule in (
        ("customerId", _customer_violations),
        ("name", _name_violations),
        ("time", _time_violations),
        ("attributes", _attributes_violations),
    ):
        if field not in event:
            yield Violation("missing_field", field, f"the event has no {field}{_look_alike(field, event)}")
        else:
            yield from rule(event[field])
    unknown = _out_of_range_fields(event)
    for field in unknown[:MAX_LISTED_VIOLATIONS]:
        yield Violation("number_out_of_range", field, "the field holds a number that no double can hold")
    yield from _unlisted("number_out_of_range", None, "fields", len(unknown))


def _look_alike(field: str, event: dict[str, object]) -> str:
    """Return a hint if the field is there in another case or with underscores, a common mistake."""
    for other in event:
        if other.replace("_", "").lower() == field.lower():
            return f"; is {printable(other)} meant? Field names are case-sensitive"
    return ""


def _customer_violations(customer: object) -> Iterator[Violation]:
    if type(customer) is not str:
        hint = "; put it in quotes" if _is_number(customer) else ""
        yield Violation("wrong_type", "customerId", f"customerId must be a string, not {_kind(customer)}{hint}")
    elif not customer:
        yield Violation("empty", "customerId", "customerId must not be empty")


def _name_violations(name: object) -> Iterator[Violation]:
    if type(name) is not str:
        yield Violation("wrong_type", "name", f"name must be a string, not {_kind(name)}")
    elif not name:
        yield Violation("empty", "name", "name must not be empty")
    elif (units := _utf16_units(name)) > MAX_NAME_UNITS:
        message = f"name must have fewer than 50 characters (UTF-16 code units), and has {units}"
        yield Violation("name_too_long", "name", message)


def _time_violations(time: object) -> Iterator[Violation]:
    if isinstance(time, OutOfRange):
        yield Violation("number_out_of_range", "time", "time is a number that no double can hold")
    elif type(time) is not int and type(time) is not float:
        hint = "; send milliseconds since 1970 as a number, without quotes" if type(time) is str else ""
        yield Violation("wrong_type", "time", f"time must be a number, not {_kind(time)}{hint}")
    elif time < MIN_TIME_MILLISECONDS:
        guess = "looks like seconds: multiply it by 1000" if time >= MIN_TIME_MILLISECONDS / 1000 else "is too small"
        yield Violation("time_not_milliseconds", "time", f"time must be in milliseconds since 1970, and {guess}")
    elif time >= END_TIME_MILLISECONDS:
        guess = "looks like micro- or nanoseconds: divide it by 1000 or 1000000"
        yield Violation("time_not_milliseconds", "time", f"time must be in milliseconds since 1970, and {guess}")


def _attributes_violations(attributes: object) -> Iterator[Violation]:
    if type(attributes) is not dict:
        yield Violation("wrong_type", "attributes", f"attributes must be an object, not {_kind(attributes)}")
        return
    if len(attributes) > MAX_ATTRIBUTES:
        message = f"an event may have at most {MAX_ATTRIBUTES} attributes, and this has {len(attributes)}"
        yield Violation("too_many_attributes", "attributes", message)
    too_large = [name for name, value in attributes.items() if isinstance(value, OutOfRange)]
    for name in too_large[:MAX_LISTED_VIOLATIONS]:
        message = "the value is a number that no double can hold"
        yield Violation("number_out_of_range", f"attributes.{printable(name)}", message)
    yield from _unlisted("number_out_of_range", "attributes", "attributes", len(too_large))
    bad = {name: value for name, value in attributes.items() if type(value) not in _ALLOWED_OR_OUT_OF_RANGE}
    for name, value in islice(bad.items(), MAX_LISTED_VIOLATIONS):
        message = f"an attribute must be a string, a number, true or false, or a date (a string), not {_kind(value)}"
        yield Violation("attribute_type_not_allowed", f"attributes.{printable(name)}", message)
    yield from _unlisted("attribute_type_not_allowed", "attributes", "attributes", len(bad))


def _unlisted(code: EventCode, field: str | None, what: str, count: int) -> Iterator[Violation]:
    if count > MAX_LISTED_VIOLATIONS:
        yield Violation(code, field, f"the same is wrong with {count - MAX_LISTED_VIOLATIONS} more {what}")


def _out_of_range_fields(event: dict[str, object]) -> list[str]:
    """Return the fields outside the contract that hold a number out of range, at any depth."""
    return [printable(field) for field, value in event.items() if field not in _FIELDS and _holds_out_of_range(value)]


def _holds_out_of_range(value: object) -> bool:
    pending = [value]
    while pending:
        match pending.pop():
            case OutOfRange():
                return True
            case dict() as nested:
                pending.extend(nested.values())
            case list() as nested:
                pending.extend(nested)
    return False


def lane_of_customer(customer: str) -> str:
    """Return the `customer` of the events with this `customerId`, as `check` does."""
    return customer if len(customer) <= MAX_LANE_CHARACTERS else _digest(customer)


def _digest(customer: str) -> str:
    return "blake2b:" + blake2b(customer.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def _utf16_units(text: str) -> int:
    return len(text) + sum(c > "\uffff" for c in text)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) or isinstance(value, OutOfRange)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case int() | float() | OutOfRange():
            return "a number"
        case list():
            return "an array"
        case _:
            return "an object"

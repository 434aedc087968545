"""A judge of events that knows only the vendor's document and the interface's words, and makers of events to judge."""

import json
import math
from collections.abc import Iterator
from typing import Final, NoReturn

from hypothesis import strategies as st


class Huge:
    """In a generated value: a number that no double holds."""

    def __repr__(self) -> str:
        return "HUGE"


HUGE: Final = Huge()
FIELDS: Final = ("customerId", "name", "time", "attributes")


def render(value: object) -> str:
    """Write a generated value as JSON."""
    match value:
        case Huge():
            return "-1e400"
        case dict():
            return "{" + ",".join(f"{json.dumps(key)}:{render(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(render, value)) + "]"
        case _:
            return json.dumps(value, allow_nan=False)


def read(text: bytes) -> object:
    """Parse JSON to the letter of RFC 8259, with HUGE for numbers out of range. Raises ValueError or RecursionError."""
    return json.loads(text.decode(), parse_constant=_refuse, parse_float=_number, parse_int=_number)


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _number(digits: str) -> object:
    if math.isinf(float(digits)):
        return HUGE
    return int(digits) if digits.lstrip("-").isdigit() else float(digits)


# The oracle


def javascript_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def as_read(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return texts as they come out of JSON, where two lone surrogates in the right order are one character."""
    return tuple(json.loads(json.dumps(text)) for text in texts)


def holds_huge(value: object) -> bool:
    if isinstance(value, dict):
        return any(holds_huge(item) for item in value.values())
    if isinstance(value, list):
        return any(holds_huge(item) for item in value)
    return isinstance(value, Huge)


def wrongs(event: object) -> Iterator[tuple[str, str | None]]:
    """Yield the code and the field of everything that is wrong with an event."""
    if not isinstance(event, dict):
        yield "not_an_object", None
        return
    judges = {
        "customerId": wrong_customer,
        "name": wrong_name,
        "time": wrong_time,
        "attributes": wrong_attributes,
    }
    for field, judge in judges.items():
        if field not in event:
            yield "missing_field", field
        else:
            yield from judge(event[field])
    for field, value in event.items():
        if field not in judges and holds_huge(value):
            yield "number_out_of_range", field


def wrong_customer(customer: object) -> Iterator[tuple[str, str]]:
    if not isinstance(customer, str):
        yield "wrong_type", "customerId"
    elif customer == "":
        yield "empty", "customerId"


def wrong_name(name: object) -> Iterator[tuple[str, str]]:
    if not isinstance(name, str):
        yield "wrong_type", "name"
    elif name == "":
        yield "empty", "name"
    elif not javascript_length(name) < 50:  # rule 1
        yield "name_too_long", "name"


def wrong_time(time: object) -> Iterator[tuple[str, str]]:
    if isinstance(time, bool) or not isinstance(time, int | float | Huge):
        yield "wrong_type", "time"
    elif isinstance(time, Huge):
        yield "number_out_of_range", "time"
    elif not 10**11 <= time < 10**14:
        yield "time_not_milliseconds", "time"


def wrong_attributes(attributes: object) -> Iterator[tuple[str, str]]:
    if not isinstance(attributes, dict):
        yield "wrong_type", "attributes"
        return
    if len(attributes) > 50:  # rule 4; rule 2, that case counts, lies in the keys of a dictionary
        yield "too_many_attributes", "attributes"
    for name, value in attributes.items():
        if isinstance(value, Huge):
            yield "number_out_of_range", f"attributes.{name}"
        elif value is None or isinstance(value, list | dict):  # rule 3
            yield "attribute_type_not_allowed", f"attributes.{name}"


# Events that are nearly right

PRINTABLE = st.characters(categories=["L", "N", "P", "S"])
NAMES = st.one_of(st.sampled_from(["Price", "price", "PRICE", "name", "a.b", ""]), st.text(PRINTABLE, max_size=20))
TEXTS = st.one_of(st.text(max_size=5), st.text(st.sampled_from("aé☃\U0001f600\ud83d\ude00"), min_size=20, max_size=55))
NUMBERS = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53 + 1, 2**64 + 1, 10**29, -(10**40), 0.1, -0.0, HUGE]),
)
SCALARS = st.one_of(st.none(), st.booleans(), TEXTS, NUMBERS)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
ALLOWED = st.one_of(st.booleans(), TEXTS, st.integers(), st.just("2020-01-20T19:14:15.000Z"))

TIMES = st.one_of(
    st.integers(10**11, 10**14 - 1),
    st.floats(1e11, 1e14, exclude_max=True),
    st.sampled_from([10**11 - 1, 10**11, 10**14 - 1, 10**14, 99_999_999_999.99, 1_700_000_000, 1.7e15, True, HUGE]),
)
GOOD_ATTRIBUTES = st.one_of(
    st.dictionaries(NAMES, ALLOWED, max_size=4),
    st.integers(45, 55).map(lambda count: {f"attribute {i}": i for i in range(count)}),
)
ATTRIBUTES = st.one_of(GOOD_ATTRIBUTES, st.dictionaries(NAMES, ANYTHING, max_size=5))
EXTRAS: st.SearchStrategy[dict[str, object]] = st.one_of(
    st.builds(dict[str, object]),
    st.dictionaries(
        st.one_of(st.sampled_from(["Name", "customer_id", "Time", "type"]), NAMES).filter(lambda n: n not in FIELDS),
        ANYTHING,
        max_size=2,
    ),
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, object]:
    """Draw an object with each field right, nearly right, wrong or missing, in any order."""
    usual: dict[str, st.SearchStrategy[object]] = {
        "customerId": st.text(min_size=1, max_size=5),
        "name": TEXTS,
        "time": TIMES,
        "attributes": ATTRIBUTES,
    }
    event: dict[str, object] = {}
    flaws = draw(st.sampled_from([0, 0, 0, 1, 2]))
    for field, strategy in usual.items():
        if flaws and draw(st.booleans()):
            flaws -= 1
            if draw(st.booleans()):
                continue
            event[field] = draw(ANYTHING)
        else:
            event[field] = draw(strategy)
    event |= draw(EXTRAS)
    return dict(draw(st.permutations(list(event.items()))))

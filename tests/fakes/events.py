"""Events for tests, and short words for reading what became of them."""

from collections.abc import Iterable
from itertools import count

from forwarder.attribute import LearnedType
from forwarder.buffer.base import Notes
from forwarder.event import DuplicateKey, Event
from forwarder.observing.telemetry import Telemetry
from forwarder.words import AttributeType


class EventMaker:
    """Makes events with rising ids, and bodies that tell them apart."""

    def __init__(self) -> None:
        self._ids = count(1)

    def __call__(
        self, customer: str = "c", *, name: str = "", size_bytes: int = 20, accepted_at: float | None = None
    ) -> Event:
        """Return the next event: its body is its id, filled up to `size_bytes`; it is accepted a second after the last."""
        number = next(self._ids)
        body = str(number).encode().ljust(size_bytes, b" ")
        assert len(body) == size_bytes
        name = name or f"event {number}"
        return Event(number, customer, name, body, 1e9 + number if accepted_at is None else accepted_at)

    def of(self, customers: Iterable[str], *, size_bytes: int = 20) -> list[Event]:
        """Return one event for each customer, in that order; `of("aab")` is two of a and one of b."""
        return [self(customer, size_bytes=size_bytes) for customer in customers]


def learned(kind: AttributeType = "string", first_seen: float = 1e9 + 0.5) -> LearnedType:
    return LearnedType(kind, first_seen)


def keys_of(events: Iterable[Event]) -> tuple[DuplicateKey, ...]:
    """Return a key for each event, made of its id."""
    return tuple(DuplicateKey(event.id, event.id.to_bytes(16, "big"), event.accepted_at, event.id) for event in events)


def notes_of(events: Iterable[Event], *, keys_forgotten_to: int = 0, **types: LearnedType | None) -> Notes:
    """Return what goes with a put: a key for each event, and types of attributes of events named n."""
    changes = {("n", attribute): each for attribute, each in types.items()}
    return Notes(changes, keys_of(events), keys_forgotten_to)


def ids(events: Iterable[Event]) -> list[int]:
    return [event.id for event in events]


def counted(telemetry: Telemetry, name: str, **labels: str) -> float:
    """Return what a metric says, by its name without the prefix; the series must exist."""
    value = telemetry.registry.get_sample_value(f"growlytics_forwarder_{name}", labels)
    assert value is not None, f"there is no series {name} {labels}"
    return value

"""What the sandbox has stored and counted. It applies rule 5 of the contract as Growlytics does.

Rule 5: the first value of an attribute of an event name fixes the attribute's type. A later value of another type is not
stored, and the client is not told.

The types are string, number and boolean. A Date is sent as a string, and Growlytics does not document how it tells one
from the other. Here every string is a string. So Growlytics may drop a date that follows another text, or the reverse,
where the sandbox keeps it.

Pure. The number of events kept is bounded. The types and the counters are not: they grow with the names and statuses that
tests use. Only the sandbox and tests import this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from forwarder.growlytics import json_text

_TYPE_NAMES: Final[Mapping[type, str]] = {str: "string", int: "number", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class StoredEvent:
    """One event that was accepted. Its body is decoded on first use."""

    sequence: int
    """1 for the first event since the start, or since events were last forgotten; then 2, and so on."""
    received_at: float
    """Seconds since 1970."""
    raw: bytes
    """The body exactly as it came."""
    dropped: tuple[str, ...]
    """The names of the attributes left out by rule 5, in the order of the body."""

    @cached_property
    def _body(self) -> dict[str, Any]:
        body = json_text.parse(self.raw)
        assert isinstance(body, dict), "only events that satisfy the contract are stored"
        return body

    @property
    def customer(self) -> str:
        """The `customerId`."""
        return str(self._body["customerId"])

    @property
    def name(self) -> str:
        """The event name."""
        return str(self._body["name"])

    @property
    def time(self) -> int | float:
        """The event time, in milliseconds since 1970."""
        time: int | float = self._body["time"]
        return time

    @property
    def attributes(self) -> dict[str, str | float | bool]:
        """The attributes kept. Integers beyond 64 bits may be floats here; `raw` has every digit."""
        return {name: value for name, value in self._body["attributes"].items() if name not in self.dropped}

    def as_json(self) -> dict[str, Any]:
        """Return what the control endpoint shows."""
        return {
            "sequence": self.sequence,
            "received_at": self.received_at,
            "customerId": self.customer,
            "name": self.name,
            "time": self.time,
            "attributes": self.attributes,
            "dropped": list(self.dropped),
            "raw": self.raw.decode(),
        }


class Store:
    """The first `max_events` events that were accepted, and the first-seen types of attributes."""

    def __init__(self, *, max_events: int) -> None:
        self._max_events = max_events
        # Plain tuples: the garbage collector stops tracking tuples of plain values, so a million of them cost it nothing.
        self._kept: list[tuple[float, bytes, tuple[str, ...]]] = []
        self._types: dict[str, dict[str, str]] = {}
        self._stored = 0
        self._attributes_dropped = 0

    def add(self, raw: bytes, name: str, attributes: Mapping[str, object], received_at: float) -> None:
        """Store the event `name` whose body `raw` satisfies the contract and holds `attributes`."""
        types = self._types.setdefault(name, {})
        dropped: tuple[str, ...] = ()
        for attribute, value in attributes.items():
            type_name = _TYPE_NAMES[type(value)]
            if types.setdefault(attribute, type_name) != type_name:
                dropped += (attribute,)
        self._stored += 1
        self._attributes_dropped += len(dropped)
        if len(self._kept) < self._max_events:
            self._kept.append((received_at, raw, dropped))

    def events(self, offset: int = 0, limit: int | None = None) -> list[StoredEvent]:
        """Return up to `limit` events, all by default, after the first `offset`, in order of arrival."""
        page = self._page(offset, limit)
        return [StoredEvent(offset + number, *kept) for number, kept in enumerate(page, 1)]

    def raw_texts(self, offset: int = 0, limit: int | None = None) -> list[str]:
        """Return the same page as bodies alone, for a tenth of the work."""
        return [raw.decode() for _, raw, _ in self._page(offset, limit)]

    def _page(self, offset: int, limit: int | None) -> list[tuple[float, bytes, tuple[str, ...]]]:
        return self._kept[offset : None if limit is None else offset + limit]

    def counters(self) -> dict[str, int]:
        """Return how many events were stored, how many of them were not kept for lack of room, and attributes dropped."""
        return {
            "stored": self._stored,
            "stored_not_kept": self._stored - len(self._kept),
            "attributes_dropped": self._attributes_dropped,
        }

    def forget(self) -> None:
        """Forget the events, the types and the counts."""
        self._kept.clear()
        self._types.clear()
        self._stored = self._attributes_dropped = 0


class RequestCounts:
    """What happened to the requests for the API; control requests are not counted.

    When nothing is in flight, `requests` is the sum of `stored`,
    `unauthorized`, `contract_violations`, `rate_limited`, `success_false`,
    `reset_before_read`, `reset_after_read`, `hangs`, every `injected_<status>` and every `refused_<status>`.
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._max_in_flight = 0
        self._counts: dict[str, int] = {}
        self.forget()

    def forget(self) -> None:
        """Start again from 0, but for the requests in flight."""
        self._max_in_flight = self._in_flight
        self._counts = dict.fromkeys(_COUNTED, 0)

    def arrived(self) -> None:
        """Count a request that arrived; it is in flight until `left`."""
        self._counts["requests"] += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)

    def left(self) -> None:
        """Count a request as no longer in flight."""
        self._in_flight -= 1

    def count(self, name: str) -> None:
        """Add one to the counter `name`."""
        self._counts[name] = self._counts.get(name, 0) + 1

    def as_dict(self) -> dict[str, int]:
        """Return every counter by its name."""
        return {**self._counts, "in_flight": self._in_flight, "max_in_flight": self._max_in_flight}


_COUNTED: Final = (
    "requests",
    "unauthorized",
    "contract_violations",
    "rate_limited",
    "success_false",
    "reset_before_read",
    "reset_after_read",
    "reset_after_store",
    "hangs",
    "connections_opened",
    "idle_connections_closed",
)

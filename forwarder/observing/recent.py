"""What happened last: refusals, dead letters, the last failed attempt, the times of attempts; and receipts of events.

All of it is in memory and bounded. Nothing is a payload, a customer id or a text of Growlytics. Names of events and fields
are escaped before they are shown. Telemetry adds to `Recent`, the buffers add to `Receipts`.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, TypedDict

from forwarder.event import Clock
from forwarder.settings import ReceiptsSettings
from forwarder.text import printable
from forwarder.words import (
    BufferOperation,
    DeadReason,
    DropReason,
    FailureKind,
    Intake,
    ReceiptState,
    RefusalReason,
)

MAX_SHOWN: Final = 20
"""How many kinds of refusals and how many dead letters are kept."""
MAX_TIMES: Final = 1000
"""How many times of attempts and of deliveries are kept."""


Receipt = Mapping[str, object]


class FailureFields(TypedDict):
    """Why an attempt failed."""

    kind: FailureKind
    status: int | None
    """Of the answer, if any."""
    error: str
    """In words."""
    host: str | None


@dataclass(slots=True)
class _Refusal:
    """Refusals of one kind. `at` is the time of the last one, in seconds since 1970."""

    at: float
    events: int


class Recent:
    """What /v1/status shows of the last minutes. `clock` returns seconds since 1970."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._refusals: OrderedDict[tuple[Intake, RefusalReason, str | None, str | None], _Refusal] = OrderedDict()
        """By intake, code, name and field, so that a flood of one kind does not hide the others. The latest is last."""
        self._dead_letters: deque[tuple[int, float, DeadReason, int | None, str]] = deque(maxlen=MAX_SHOWN)
        self._last_failure: tuple[float, FailureFields] | None = None
        self._dropped_at: dict[DropReason, float] = {}
        self._buffer_failure: tuple[float, BufferOperation, str] | None = None
        self.attempt_times: deque[float] = deque(maxlen=MAX_TIMES)
        """How many seconds the last attempts took. Telemetry appends."""
        self.latency_times: deque[float] = deque(maxlen=MAX_TIMES)
        """How many seconds passed before the last events were delivered. Telemetry appends."""

    def refused(
        self, count: int, *, intake: Intake, code: RefusalReason, name: str | None = None, field: str | None = None
    ) -> None:
        """`count` events were refused. `name` and `field` are those of one of them, if known."""
        kind = intake, code, None if name is None else printable(name), None if field is None else printable(field)
        refusal = self._refusals.get(kind)
        if refusal is None:
            refusal = self._refusals[kind] = _Refusal(0.0, 0)
            if len(self._refusals) > MAX_SHOWN:
                self._refusals.popitem(last=False)
        refusal.at = self._clock()
        refusal.events += count
        self._refusals.move_to_end(kind)

    def dead_lettered(self, event_id: int, *, reason: DeadReason, status: int | None, name: str) -> None:
        """An event became a dead letter. `status` is that of the last answer, if any."""
        self._dead_letters.append((event_id, self._clock(), reason, status, name))

    def failed(self, failure: FailureFields) -> None:
        """An attempt did not deliver."""
        self._last_failure = self._clock(), failure

    def dropped(self, reason: DropReason) -> None:
        """Events were dropped."""
        self._dropped_at[reason] = self._clock()

    def buffer_failed(self, operation: BufferOperation, error: str) -> None:
        """The buffer's disk failed in an operation."""
        self._buffer_failure = self._clock(), operation, error

    def dropped_at(self) -> dict[DropReason, float]:
        """Return when events were dropped last, in seconds since 1970, by reason."""
        return {**self._dropped_at}

    def buffer_failure(self) -> dict[str, object] | None:
        """Return when the buffer's disk failed last, in which operation, and how; None if it has not since the start."""
        if self._buffer_failure is None:
            return None
        at, operation, error = self._buffer_failure
        return {"at": at, "operation": operation, "error": error}

    def last_failure(self) -> dict[str, object] | None:
        """Return when the last attempt failed, in seconds since 1970, and why; None if none has failed since the start."""
        if self._last_failure is None:
            return None
        at, failure = self._last_failure
        return {"at": at, **failure}

    def attempt_seconds(self) -> dict[str, float | None]:
        """Return quantiles of the times of the last attempts."""
        return _quantiles(self.attempt_times)

    def latency_seconds(self) -> dict[str, float | None]:
        """Return quantiles of the times from accepting to delivering the last events."""
        return _quantiles(self.latency_times)

    def described(self) -> dict[str, object]:
        """Return the refusals and dead letters, newest first, as /v1/status shows them."""
        return {
            "refusals": [
                {
                    "at": refusal.at,
                    "intake": intake,
                    "code": code,
                    "name": name,
                    "field": field,
                    "events": refusal.events,
                }
                for (intake, code, name, field), refusal in reversed(self._refusals.items())
            ],
            "dead_letters": [
                {"id": str(event_id), "at": at, "reason": reason, "status": status, "name": printable(name)}
                for event_id, at, reason, status, name in reversed(self._dead_letters)
            ],
        }


class Receipts:
    """The fates of the last `receipts.max_events` events that left the buffer. `clock` returns seconds since 1970."""

    def __init__(self, settings: ReceiptsSettings, *, clock: Clock) -> None:
        self._max_events = settings.max_events
        self._clock = clock
        self._ended: OrderedDict[int, tuple[ReceiptState, float, str | int | None, int]] = OrderedDict()

    def ended(
        self, event_id: int, state: ReceiptState, detail: str | int | None = None, customer: str | None = None
    ) -> None:
        """An event left the buffer. `detail` is the reason if it became a dead letter or was dropped.

        If it was `replaced`, by a replay or a salvage, `detail` is its new id. Of the customer, None if unknown, only a hash
        is kept, which is another in each process.
        """
        ended = self._ended
        ended[event_id] = (state, self._clock(), detail, hash(customer))
        ended.move_to_end(event_id)
        if len(ended) > self._max_events:
            ended.popitem(last=False)

    def erase(self, customer: str, *, up_to: int, dry_run: bool = False) -> int:
        """Remove the receipts of a customer with ids up to this one, and return how many they are. Looks at all."""
        meant = hash(customer)
        ids = [event_id for event_id, ended in self._ended.items() if ended[-1] == meant and event_id <= up_to]
        if not dry_run:
            for event_id in ids:
                del self._ended[event_id]
        return len(ids)

    def find(self, event_id: int) -> Receipt | None:
        """Return the fate of an event; None if it has not left the buffer, or left it too long ago."""
        found = self._ended.get(event_id)
        if found is None:
            return None
        state, at, detail, _ = found
        receipt: dict[str, object] = {"state": state, "at": at}
        if state == "replaced":
            receipt["new_id"] = str(detail)
        elif detail is not None:
            receipt["reason"] = detail
        return receipt


def _quantiles(seconds: deque[float]) -> dict[str, float | None]:
    """Return the median and the 99th percentile, each None if there are no times."""
    ordered = sorted(seconds)
    return {
        name: round(ordered[ceil(share * len(ordered)) - 1], 4) if ordered else None
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }

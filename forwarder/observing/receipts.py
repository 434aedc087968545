"""What became of the events that ended last: a bounded ring in memory, for who asks where an event is.

Events that did not end are not here: the buffer knows of them.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from forwarder.settings import ReceiptsSettings
from forwarder.words import DeadReason, DropReason, ReceiptState

Receipt = Mapping[str, object]


class Receipts:
    """Receipts of the last `max_events` events that ended. `clock` gives seconds since 1970."""

    def __init__(self, settings: ReceiptsSettings, *, clock: Callable[[], float]) -> None:
        self._max_events = settings.max_events
        self._clock = clock
        self._ended: OrderedDict[int, tuple[ReceiptState, float, str | int | None]] = OrderedDict()

    def delivered(self, event_id: int) -> None:
        """Growlytics has it."""
        self._end(event_id, "delivered", None)

    def dead_lettered(self, event_id: int, reason: DeadReason) -> None:
        """It became a dead letter."""
        self._end(event_id, "dead_letter", reason)

    def dropped(self, event_id: int, reason: DropReason) -> None:
        """It is lost."""
        self._end(event_id, "dropped", reason)

    def replaced(self, event_id: int, new_id: int) -> None:
        """It goes on under a new id: a dead letter that was replayed, or an event from a damaged file."""
        self._end(event_id, "replaced", new_id)

    def find(self, event_id: int) -> Receipt | None:
        """Return what became of an event; None if it has not ended, or too long ago."""
        found = self._ended.get(event_id)
        if found is None:
            return None
        state, at, detail = found
        receipt: dict[str, object] = {"state": state, "at": at}
        if state == "replaced":
            receipt["new_id"] = str(detail)
        elif detail is not None:
            receipt["reason"] = detail
        return receipt

    def _end(self, event_id: int, state: ReceiptState, detail: str | int | None) -> None:
        self._ended[event_id] = (state, self._clock(), detail)
        self._ended.move_to_end(event_id)
        if len(self._ended) > self._max_events:
            self._ended.popitem(last=False)

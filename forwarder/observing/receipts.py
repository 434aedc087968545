"""What became of the events that left the buffer last. It answers the question where an event is.

It is a bounded ring in memory. The buffer itself knows of the events that have not left it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from forwarder.settings import ReceiptsSettings
from forwarder.words import ReceiptState

Receipt = Mapping[str, object]


class Receipts:
    """Receipts of the last `max_events` events that left. `clock` gives seconds since 1970."""

    def __init__(self, settings: ReceiptsSettings, *, clock: Callable[[], float]) -> None:
        self._max_events = settings.max_events
        self._clock = clock
        self._ended: OrderedDict[int, tuple[ReceiptState, float, str | int | None]] = OrderedDict()

    def ended(self, event_id: int, state: ReceiptState, detail: str | int | None = None) -> None:
        """An event left the buffer. `detail` is the reason if it became a dead letter or was dropped.

        If it was `replaced`, so a dead letter was replayed or a damaged file was salvaged, `detail` is the new id.
        """
        ended = self._ended
        ended[event_id] = (state, self._clock(), detail)
        ended.move_to_end(event_id)
        if len(ended) > self._max_events:
            ended.popitem(last=False)

    def find(self, event_id: int) -> Receipt | None:
        """Return what became of an event; None if it has not left the buffer, or left it too long ago."""
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

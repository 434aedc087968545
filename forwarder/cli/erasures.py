"""What a daemon says of an erasure, in words."""

from typing import Annotated

import msgspec

from forwarder.cli.daemon import Place

_Count = Annotated[int, msgspec.Meta(ge=0)]


class ErasureShown(msgspec.Struct, frozen=True):
    """How much was removed, or would be. If it is not complete, nothing is said yet."""

    complete: bool
    dry_run: bool = False
    buffered: _Count = 0
    in_flight: _Count = 0
    """Events that were being sent: those that arrived count as delivered, the others were dropped."""
    dead_letters: _Count = 0
    receipts: _Count = 0
    quarantined_files: _Count = 0

    def described(self) -> dict[str, object]:
        """Return all fields, for JSON."""
        return msgspec.structs.asdict(self)

    def would(self, place: Place) -> str:
        """Return what would be removed from the daemon at a place."""
        return f"Would erase {self._counts} of the daemon at {place}{self._sent('is being sent', 'are being sent')}."

    def done(self, place: Place) -> str:
        """Return what was removed from the daemon at a place."""
        sent = self._sent(
            "was being sent, and was delivered or dropped", "were being sent, and were delivered or dropped"
        )
        return f"Erased {self._counts} of the daemon at {place}{sent}."

    @property
    def _counts(self) -> str:
        return (
            f"{_number(self.buffered, 'buffered event')}, {_number(self.dead_letters, 'dead letter')}, "
            f"{_number(self.receipts, 'receipt')} and {_number(self.quarantined_files, 'damaged file')}"
        )

    def _sent(self, one: str, several: str) -> str:
        if not self.in_flight:
            return ""
        return f"; {_number(self.in_flight, 'more event')} {one if self.in_flight == 1 else several}"


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

"""Events that came and are never in a buffer: refused ones and duplicates. From the tally they come to the ledger.

They are written with whatever is committed next; until then the ledger that is shown has them besides what is committed.
"""

from collections import Counter

from forwarder.buffer.base import Ledger
from forwarder.tally import Tally
from forwarder.words import DEAD_REASONS, DROP_REASONS


class Declined:
    """Used by the disk buffer alone. Events are counted by the names of the ledger's counters."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._noted: Counter[str] = Counter()
        self._noted_total = 0
        self._committed: Counter[str] = Counter()

    def since_last(self) -> Counter[str]:
        """Return those since the last time that this was asked: they are to be committed."""
        total = self._tally.refused + self._tally.duplicates
        if total == self._noted_total:  # they only rise
            return Counter()
        now = self._now()
        news = now - self._noted
        self._noted, self._noted_total = now, total
        return news

    def committed(self, counts: Counter[str]) -> None:
        """Those are in the ledger."""
        self._committed += counts

    def ledger(self, counters: Counter[str]) -> Ledger:
        """Return the ledger with these counters, as committed, and besides those that are not in it yet."""
        uncommitted = self._now() - self._committed
        return Ledger(
            received=counters["received"] + uncommitted.total(),
            accepted=counters["accepted"],
            duplicates=counters["duplicates"] + uncommitted["duplicates"],
            rejected=counters["rejected"] + uncommitted["rejected"],
            delivered=counters["delivered"],
            dead_lettered={reason: counters[f"dead_lettered.{reason}"] for reason in DEAD_REASONS},
            dropped={reason: counters[f"dropped.{reason}"] for reason in DROP_REASONS},
            buffered=counters["buffered"],
        )

    def _now(self) -> Counter[str]:
        return Counter(rejected=self._tally.refused, duplicates=self._tally.duplicates)

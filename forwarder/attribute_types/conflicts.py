"""Which attributes came with another type than the first time, how often, and the last time. Used by `attribute_types`.

Bounded: where there are many, those are forgotten whose last conflict is longest ago; the metrics count them all.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from forwarder.attribute import Place, is_soft
from forwarder.text import printable
from forwarder.words import AttributeType, ConflictAction, ConflictKind

MAX_RECORDED_ATTRIBUTES: Final = 10_000
MAX_SHOWN_ATTRIBUTES: Final = 100


@dataclass(frozen=True, slots=True)
class Conflict:
    """One attribute of one event that is of another type than before, and what was done."""

    attribute: str
    expected: AttributeType
    found: AttributeType
    action: ConflictAction
    is_usual: bool = True
    """Whether the attribute is fixed, or came more than once before."""

    @property
    def kind(self) -> ConflictKind:
        """`date` if they differ only as a string and a date do."""
        return "date" if is_soft(self.expected, self.found) else "hard"


@dataclass(slots=True)
class _Record:
    last: Conflict
    last_at: float
    conflicts: int
    kinds: set[ConflictKind]


class TypeConflicts:
    """What is remembered of conflicts since the start."""

    def __init__(self) -> None:
        self._records: OrderedDict[Place, _Record] = OrderedDict()
        """The latest conflict last."""

    def add(self, name: str, conflict: Conflict, now: float) -> bool:
        """Record a conflict of an event of this name; return whether it is the attribute's first of the kind."""
        place = name, conflict.attribute
        record = self._records.pop(place, None)
        if record is None:
            if len(self._records) >= MAX_RECORDED_ATTRIBUTES:
                self._records.popitem(last=False)
            record = _Record(conflict, now, 0, set())
        record.last, record.last_at = conflict, now
        record.conflicts += 1
        self._records[place] = record
        is_first = conflict.kind not in record.kinds
        record.kinds.add(conflict.kind)
        return is_first

    def forget(self, places: Iterable[Place]) -> None:
        """Forget the conflicts of these attributes."""
        for place in places:
            self._records.pop(place, None)

    def of(self, place: Place) -> int:
        """Return how many an attribute had."""
        record = self._records.get(place)
        return 0 if record is None else record.conflicts

    def described(self) -> list[dict[str, object]]:
        """Return those that had conflicts last, the latest first, with names fit to be shown."""
        return [
            {
                "name": printable(name),
                "attribute": printable(attribute),
                "expected": record.last.expected,
                "found": record.last.found,
                "action": record.last.action,
                "conflicts": record.conflicts,
                "last_at": record.last_at,
            }
            for (name, attribute), record in islice(reversed(self._records.items()), MAX_SHOWN_ATTRIBUTES)
        ]

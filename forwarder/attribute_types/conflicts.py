"""Attributes that have another type than before: how to convert or remove them, and a bounded table of them.

Used by `guard` alone.
"""

from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from forwarder.attribute import Place, converted, is_soft
from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming
from forwarder.text import printable
from forwarder.words import AttributeType, ConflictAction, ConflictKind

MAX_RECORDED_ATTRIBUTES: Final = 10_000
MAX_SHOWN_ATTRIBUTES: Final = 100


@dataclass(frozen=True, slots=True)
class Conflict:
    """One attribute of one event that has another type than before, and what was done about it."""

    attribute: str
    expected: AttributeType
    found: AttributeType
    action: ConflictAction
    is_usual: bool = True
    """Whether the type was fixed, or the attribute came more than once before."""

    @property
    def kind(self) -> ConflictKind:
        """`date` if one is a string and the other a date."""
        return "date" if is_soft(self.expected, self.found) else "hard"


def acted(conflicts: Sequence[Conflict], on: Sequence[Conflict], action: ConflictAction) -> list[Conflict]:
    """Return the conflicts; those in `on` get this action."""
    return [replace(each, action=action) if each in on else each for each in conflicts]


def without(
    conflicts: Sequence[Conflict], body: bytes, event: Conforming, *, strips: bool
) -> tuple[bytes, list[Conflict]]:
    """Convert the attributes that conflict, or remove them if it `strips`. Return the event and the solved conflicts."""
    # If no value can be converted, the event need not be parsed again.
    hopeful = [
        each for each in conflicts if strips or converted(event.attributes[each.attribute], each.expected) is not None
    ]
    if not hopeful:
        return body, []
    solved: list[Conflict] = []
    try:
        whole = json_text.parse_exactly(body)
        assert isinstance(whole, dict), "the contract demands it"
        attributes = whole["attributes"]
        for each in hopeful:
            value = attributes.pop(each.attribute) if strips else attributes[each.attribute]
            if not strips:
                value = converted(value, each.expected)
                if value is None:
                    continue
                attributes[each.attribute] = value
            solved.append(each)
        return (json_text.encode(whole) if solved else body), solved
    except json_text.TooDeepError:
        return body, []


@dataclass(slots=True)
class _Record:
    last: Conflict
    last_at: float
    conflicts: int
    kinds: set[ConflictKind]


class TypeConflicts:
    """How many conflicts each attribute had since the start, and the last one.

    Of too many attributes, those with the oldest conflicts are forgotten. The metrics count all conflicts.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[Place, _Record] = OrderedDict()
        """The latest conflict last."""

    def add(self, name: str, conflict: Conflict, now: float) -> bool:
        """Record a conflict of an event of this name. Return whether it is the attribute's first of its kind."""
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
        """Return how many conflicts an attribute had."""
        record = self._records.get(place)
        return 0 if record is None else record.conflicts

    def described(self, learned: Container[Place]) -> list[dict[str, object]]:
        """Return the attributes with the latest conflicts, the latest first, with printable names.

        `learned` are those whose types can be forgotten.
        """
        return [
            {
                "name": printable(name),
                "attribute": printable(attribute),
                "expected": record.last.expected,
                "found": record.last.found,
                "action": record.last.action,
                "conflicts": record.conflicts,
                "last_at": record.last_at,
                "learned": (name, attribute) in learned,
            }
            for (name, attribute), record in islice(reversed(self._records.items()), MAX_SHOWN_ATTRIBUTES)
        ]

"""The guard of rule 5: Growlytics fixes an attribute's type when it first sees it, and ignores others silently.

Types that the team fixed come first. Others are learned from the first event that has the attribute, while there is room:
see `known`. The policy says what is done about a value of another type. But a string that looks like a date where other
strings came before, or the reverse, is only counted.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, dropwhile, islice
from typing import Final

from forwarder.attribute import (
    TYPE_OF,
    LearnedType,
    Place,
    TypeChanges,
    converted,
    is_date,
    is_nameable,
    is_soft,
    type_of,
)
from forwarder.attribute_types.known import KnownTypes
from forwarder.event import Clock
from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming, Refused, Violation
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ContractSettings
from forwarder.text import printable
from forwarder.words import AttributeType, ConflictAction, ConflictKind

MAX_RECORDED_ATTRIBUTES: Final = 10_000
MAX_SHOWN_ATTRIBUTES: Final = 100


MAX_CROWDED_NAMES: Final = 100
"""For so many event names it is remembered that they have too many attributes; the log may name others again."""


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


@dataclass(frozen=True, slots=True)
class Judged:
    """What the guard found in the attributes of one event."""

    body: bytes
    """The event as it is to be sent: as it came, or encoded anew where attributes were converted or removed."""
    refused: Refused | None
    """Why the event is to be refused, if it is."""
    learned: Mapping[Place, LearnedType]
    """What is to be learned from the event if it is accepted, by event name and attribute."""
    name: str = ""
    conflicts: Sequence[Conflict] = ()


@dataclass(slots=True)
class Seen:
    """What was not known, but was seen in one request."""

    types: dict[Place, LearnedType] = field(default_factory=dict)
    of: Counter[str] = field(default_factory=Counter)
    """How many of them, by event name."""

    def add(self, learned: Mapping[Place, LearnedType]) -> None:
        """Add these, some of which may be there."""
        for place in learned.keys() - self.types.keys():
            self.of[place[0]] += 1
        self.types.update(learned)


class AttributeTypes:
    """What is known of the types of attributes. `clock` gives seconds since 1970."""

    def __init__(self, settings: ContractSettings, *, telemetry: Telemetry, clock: Clock) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._known = KnownTypes(max_learned=settings.max_attribute_types, clock=clock)
        self._conflicts = TypeConflicts()
        self._crowded: OrderedDict[str, None] = OrderedDict()
        """Event names that the log has named for too many attributes: not each conflict of theirs is logged."""

    def use(self, settings: ContractSettings) -> None:
        """Go by another policy from the next event on; what is known stays."""
        before, self._settings = self._settings, settings
        if before.attribute_types != settings.attribute_types:
            self.warn_if_unfixed()

    def fix(self, types: Mapping[Place, AttributeType]) -> None:
        """At the start, before anything is learned: take over what the team fixed."""
        self._known.fix(types)

    def warn_if_unfixed(self) -> None:
        """Log a warning if the policy changes or refuses events by types that are only learned."""
        if self._settings.attribute_types != "observe" and self._settings.types_file is None:
            self._telemetry.attribute_types_unfixed(self._settings.attribute_types)

    # Events

    def know(self, event: Conforming) -> bool:
        """Return whether all attributes of an event have the types that are known, so nothing needs to be noted."""
        known = self._known.of(event.name)
        for attribute, value in event.attributes.items():
            if type(value) is str:  # as in `type_of`, whose call would take as long as all the rest
                found = "date" if len(value) > 9 and value[4] == "-" and is_date(value) else "string"
            else:
                found = TYPE_OF[type(value)]
            if known.get(attribute) != found:
                return False
        return True

    def judge(self, body: bytes, event: Conforming, seen: Seen | None) -> Judged | None:
        """Compare the types of an event's attributes with those that are known; None if there is nothing to say or to note.

        `seen` has what is not known, but was seen in the same request; types are added to it. None: the event came alone.
        """
        if self.know(event):
            return None
        seen = seen or Seen()
        new, conflicts, came_again = self._compare(event, seen)
        policy = self._settings.attribute_types
        hard = [each for each in conflicts if each.kind == "hard"]
        if hard and policy == "reject":
            refused = Refused(tuple(self._violation(event.name, each, seen) for each in hard), event.name)
            return Judged(body, refused, {}, event.name, _acted(conflicts, hard, policy))
        learned = self._as_room_allows(event.name, new, seen)
        seen.add(learned)
        if hard and policy in {"coerce", "strip"}:
            body, solved = self._without_conflicts(body, event, hard)
            conflicts = _acted(conflicts, solved, policy)
        return Judged(body, None, learned, event.name, conflicts) if learned or conflicts or came_again else None

    def settled(self, judged: Sequence[Judged]) -> None:
        """Learn the types, and count the conflicts, of events that were accepted or refused for their attributes."""
        for each in judged:
            for place, learned in each.learned.items():
                not_remembered = self._known.not_remembered
                known = self._known.learn(place, learned)
                if self._known.not_remembered != not_remembered:
                    self._tell_of_too_many(each.name)
                if known is not None and known != learned.type:  # another request was first
                    self._count(each.name, Conflict(place[1], known, learned.type, "observe"))
            for conflict in each.conflicts:
                self._count(each.name, conflict)

    def _compare(self, event: Conforming, seen: Seen) -> tuple[dict[Place, LearnedType], list[Conflict], bool]:
        """Return what may be learned from an event, its conflicts, and whether a learned attribute was seen again."""
        known = self._known.of(event.name)
        new: dict[Place, LearnedType] = {}
        conflicts: list[Conflict] = []
        came_again = False
        now = self._clock()
        for attribute, value in event.attributes.items():
            place, found = (event.name, attribute), type_of(value)
            expected = known.get(attribute)
            is_usual = expected is not None
            if expected is None and (expected := self._known.type_of(place)) is not None:
                came_again |= self._known.saw(place)
            is_known = expected is not None
            before = seen.types.get(place)
            if not is_known and before is not None:
                expected = before.type
            if expected is not None and expected != found:
                conflicts.append(Conflict(attribute, expected, found, "observe", is_usual))
            elif not is_known and is_nameable(attribute):
                new[place] = LearnedType(found, now) if before is None else replace(before, seen_again=True)
        return new, conflicts, came_again

    def _as_room_allows(self, name: str, new: dict[Place, LearnedType], seen: Seen) -> dict[Place, LearnedType]:
        """Return what of this can be learned: one request never learns more than can be known at the same time."""
        room = self._known.room_for(name, of_name=seen.of[name], of_all=len(seen.types)) if new else 0
        if room >= len(new):
            return new
        allowed: dict[Place, LearnedType] = {}
        for place, learned in new.items():
            if place in seen.types:
                allowed[place] = learned
            elif room > 0:
                allowed[place] = learned
                room -= 1
        if len(allowed) < len(new):
            self._known.not_remembered += len(new) - len(allowed)
            self._tell_of_too_many(name, more=seen.of[name] + len(new))
        return allowed

    def _tell_of_too_many(self, name: str, *, more: int = 0) -> None:
        """Log that attributes of events of this name found no room, or made room for others. `more` were seen besides."""
        one_name_may_not_have_all = self._known.max_of_one_name < self._settings.max_attribute_types
        if one_name_may_not_have_all and self._known.has_its_share(name, more=more):
            self._crowded[name] = None
            if len(self._crowded) > MAX_CROWDED_NAMES:
                self._crowded.popitem(last=False)
            self._telemetry.attribute_names_too_many(name=name, most=self._known.max_of_one_name)
        else:
            self._telemetry.attribute_types_full()

    def _without_conflicts(
        self, body: bytes, event: Conforming, hard: Sequence[Conflict]
    ) -> tuple[bytes, list[Conflict]]:
        """Convert or remove the attributes that conflict; return the event, and the conflicts that it does not have now."""
        strips = self._settings.attribute_types == "strip"
        # Most values that cannot be converted are found here, before the event is parsed again.
        hopeful = [
            each for each in hard if strips or converted(event.attributes[each.attribute], each.expected) is not None
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

    def _violation(self, name: str, conflict: Conflict, seen: Seen) -> Violation:
        place = (name, conflict.attribute)
        learned = self._known.learned.get(place) or seen.types.get(place)
        if learned is None or place in self._known.fixed:
            before = f"it is fixed as a {conflict.expected} in contract.types_file"
        else:
            before = f"it was a {conflict.expected} when it was first seen, at {_utc(learned.first_seen)}"
        message = f"the attribute is a {conflict.found}, but {before}; Growlytics would ignore it without a word"
        return Violation("attribute_type_conflict", f"attributes.{printable(conflict.attribute)}", message)

    def _count(self, name: str, conflict: Conflict) -> None:
        self._telemetry.attribute_type_conflict(action=conflict.action, kind=conflict.kind)
        is_first = self._conflicts.add(name, conflict, self._clock())
        if is_first and (conflict.is_usual or name not in self._crowded):
            self._telemetry.attribute_conflicts_first(
                name=name,
                attribute=conflict.attribute,
                expected=conflict.expected,
                found=conflict.found,
                action=conflict.action,
            )

    # What is known as a whole

    def load(self, types: TypeChanges) -> None:
        """Take over what was learned before this process, as far as it is not fixed and there is room."""
        for name in {name for name, _ in self._known.load(types)}:
            self._tell_of_too_many(name)

    def changes(self) -> TypeChanges:
        """Return what changed, to be stored with the next event that learns. It is returned once."""
        return self._known.changes()

    def requeue(self, changes: TypeChanges) -> None:
        """Return these changes again next time: they could not be stored."""
        self._known.requeue(changes)

    def remembered(self) -> dict[Place, LearnedType]:
        """Return all that was learned, for a new database file."""
        return dict(self._known.learned)

    def forget(self, name: str, attribute: str | None) -> TypeChanges:
        """Forget what was learned of an attribute, or of all the attributes of events of this name; return what that is."""
        forgotten = self._known.forget(self._known.places(name) if attribute is None else [(name, attribute)])
        self._conflicts.forget(forgotten)
        return forgotten

    def imported(self, types: Mapping[Place, AttributeType]) -> TypeChanges:
        """Replace all that was learned by these, except what is fixed; return the changes.

        Raises TooManyTypesError, and then changes nothing.
        """
        changes = self._known.replace(types)
        self._conflicts.forget(changes)
        return changes

    def is_fixed(self, name: str, attribute: str | None) -> bool:
        """Return whether this attribute, or any of the events of this name, is fixed."""
        places = self._known.places(name) if attribute is None else [(name, attribute)]
        return any(place in self._known.fixed for place in places)

    def status(self) -> dict[str, object]:
        """Return what /v1/status shows: no values, and names fit to be shown."""
        return self.counts() | {
            "not_remembered": self._known.not_remembered,
            "conflicts": self._conflicts.described(),
        }

    def counts(self) -> dict[str, object]:
        """Return how many types are known, and how many may be."""
        return {
            "policy": self._settings.attribute_types,
            "learned": len(self._known.learned),
            "fixed": len(self._known.fixed),
            "max": self._settings.max_attribute_types,
            "full": not self._known.room,
        }

    def listed(self, after: Place | None = None) -> Iterator[tuple[Place, dict[str, object]]]:
        """Yield the types that are known, with unescaped names. Nothing may change meanwhile.

        The fixed ones come first, then the others as they were learned. `after` is the last one of the page before; if it is
        not known any more, all are yielded, as twice is better than never.
        """
        fixed, learned = self._known.fixed, self._known.learned
        places: Iterator[Place] = chain(fixed, learned)
        if after is not None and (after in fixed or after in learned):
            places = dropwhile(after.__ne__, places)
            next(places)
        for place in places:
            found = learned.get(place)
            kind, first_seen = (fixed[place], None) if found is None else (found.type, found.first_seen)
            yield place, self._described(place, kind, first_seen)

    def _described(self, place: Place, kind: AttributeType, first_seen: float | None) -> dict[str, object]:
        name, attribute = place
        return {
            "name": name,
            "attribute": attribute,
            "type": kind,
            "fixed": first_seen is None,
            "first_seen": first_seen,
            "conflicts": self._conflicts.of(place),
        }


@dataclass(slots=True)
class _Record:
    last: Conflict
    last_at: float
    conflicts: int
    kinds: set[ConflictKind]


class TypeConflicts:
    """Which attributes had conflicts since the start, how often, and the last one.

    Bounded: of many, those are forgotten whose last conflict is longest ago; the metrics count them all.
    """

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


def _acted(conflicts: Sequence[Conflict], on: Sequence[Conflict], action: ConflictAction) -> list[Conflict]:
    """Return the conflicts, those in `on` with this action."""
    return [replace(each, action=action) if each in on else each for each in conflicts]


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"

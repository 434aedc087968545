"""The guard against rule 5: Growlytics fixes the type of an attribute when it first sees it, and ignores others silently.

Types that the team fixed come first. Other types are learned from the first event that has the attribute, while there is
room: see `known`. The policy, `contract.attribute_types`, says what to do about a value of another type. A string instead of
a date, or the reverse, is only counted.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, dropwhile
from typing import Final

from forwarder.attribute import (
    TYPE_OF,
    LearnedType,
    Place,
    TypeChanges,
    is_date,
    is_nameable,
    type_of,
)
from forwarder.attribute_types.conflicts import Conflict, TypeConflicts, acted, without
from forwarder.attribute_types.known import KnownTypes
from forwarder.event import Clock
from forwarder.growlytics.contract import Conforming, Refused, Violation
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ContractSettings
from forwarder.text import printable
from forwarder.words import AttributeType

_NONE: Final[Mapping[str, AttributeType]] = {}
MAX_CROWDED_NAMES: Final = 100
"""How many event names with too many attributes are remembered, so that the log names each once."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The result of looking at the attributes of one event."""

    body: bytes
    """The event to send: as it came, or encoded anew if attributes were converted or removed."""
    refused: Refused | None
    """Why the event must be refused, if it must."""
    learned: Mapping[Place, LearnedType]
    """What to learn if the event is accepted."""
    name: str = ""
    conflicts: Sequence[Conflict] = ()


@dataclass(slots=True)
class Seen:
    """The types that one request has and that were not known before."""

    types: dict[Place, LearnedType] = field(default_factory=dict)
    of: Counter[str] = field(default_factory=Counter)
    """How many types by event name."""

    def add(self, learned: Mapping[Place, LearnedType]) -> None:
        """Add types, of which some may be there already."""
        for place in learned.keys() - self.types.keys():
            self.of[place[0]] += 1
        self.types.update(learned)


class AttributeTypes:
    """Knows the types of attributes, and judges events by them. `clock` returns seconds since 1970."""

    def __init__(self, settings: ContractSettings, *, telemetry: Telemetry, clock: Clock) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._known = KnownTypes(max_learned=settings.max_attribute_types, clock=clock)
        self._conflicts = TypeConflicts()
        self._crowded: OrderedDict[str, None] = OrderedDict()
        """Event names that the log has named for too many attributes; their unusual conflicts are not logged."""

    def use(self, settings: ContractSettings) -> None:
        """Use another policy from the next event on. Known types stay."""
        before, self._settings = self._settings, settings
        if before.attribute_types != settings.attribute_types:
            self.warn_if_unfixed()

    def fix(self, types: Mapping[Place, AttributeType]) -> None:
        """Add the types that the team fixed. Call this at the start, before anything is learned."""
        self._known.fix(types)

    def warn_if_unfixed(self) -> None:
        """Log a warning if the policy changes or refuses events by types that are only learned."""
        if self._settings.attribute_types != "observe" and self._settings.types_file is None:
            self._telemetry.attribute_types_unfixed(self._settings.attribute_types)

    # Events

    def know(self, event: Conforming) -> bool:
        """Return whether all attributes of an event have known types, so that there is nothing to judge or to learn."""
        known = self._known.usual.get(event.name, _NONE)
        for attribute, value in event.attributes.items():
            if type(value) is str:  # inline `type_of`: a call would double the time
                found = "date" if len(value) > 9 and value[4] == "-" and is_date(value) else "string"
            else:
                found = TYPE_OF[type(value)]
            if known.get(attribute) != found:
                return False
        return True

    def judge(self, body: bytes, event: Conforming, seen: Seen | None) -> Judged | None:
        """Compare the types of an event's attributes with the known ones; None if there is nothing to do or to learn.

        `seen` contains the new types of the same request, and gets those of this event. None if the event came alone.
        """
        if self.know(event):
            return None
        seen = seen or Seen()
        new, conflicts, came_again = self._compare(event, seen)
        policy = self._settings.attribute_types
        hard = [each for each in conflicts if each.kind == "hard"]
        if hard and policy == "reject":
            refused = Refused(tuple(self._violation(event.name, each, seen) for each in hard), event.name)
            return Judged(body, refused, {}, event.name, acted(conflicts, hard, policy))
        learned = self._as_room_allows(event.name, new, seen)
        seen.add(learned)
        if hard and policy in {"coerce", "strip"}:
            body, solved = without(hard, body, event, strips=policy == "strip")
            conflicts = acted(conflicts, solved, policy)
        return Judged(body, None, learned, event.name, conflicts) if learned or conflicts or came_again else None

    def settled(self, judged: Sequence[Judged]) -> None:
        """Learn the types and count the conflicts of events that were accepted, or refused for their types."""
        for each in judged:
            for place, learned in each.learned.items():
                not_remembered = self._known.not_remembered
                known = self._known.learn(place, learned)
                if self._known.not_remembered != not_remembered:
                    self._tell_of_too_many(each.name)
                if known is not None and known != learned.type:  # another request was faster
                    self._count(each.name, Conflict(place[1], known, learned.type, "observe"))
            for conflict in each.conflicts:
                self._count(each.name, conflict)

    def _compare(self, event: Conforming, seen: Seen) -> tuple[dict[Place, LearnedType], list[Conflict], bool]:
        """Return what may be learned from an event, its conflicts, and whether it has a learned attribute again."""
        known = self._known.usual.get(event.name, _NONE)
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
        """Return what of this can be learned, as one request must not learn more than there is room for."""
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
        """Log that attributes of this event name found no room, or replaced others. `more` were seen besides."""
        one_name_may_not_have_all = self._known.max_of_one_name < self._settings.max_attribute_types
        if one_name_may_not_have_all and self._known.has_its_share(name, more=more):
            self._crowded[name] = None
            if len(self._crowded) > MAX_CROWDED_NAMES:
                self._crowded.popitem(last=False)
            self._telemetry.attribute_names_too_many(name=name, most=self._known.max_of_one_name)
        else:
            self._telemetry.attribute_types_full()

    def _violation(self, name: str, conflict: Conflict, seen: Seen) -> Violation:
        place = (name, conflict.attribute)
        learned = self._known.learned.get(place) or seen.types.get(place)
        if learned is None or place in self._known.fixed:
            before = f"it is fixed as a {conflict.expected} in contract.types_file"
        else:
            before = f"it was a {conflict.expected} when it was first seen, at {_utc(learned.first_seen)}"
        message = f"the attribute is a {conflict.found}, but {before}; Growlytics would silently ignore it"
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
        """Add what earlier processes learned, as far as it is not fixed and there is room."""
        for name in {name for name, _ in self._known.load(types)}:
            self._tell_of_too_many(name)

    def changes(self) -> TypeChanges:
        """Return what changed, to store it with the next event that teaches a type. It is returned once."""
        return self._known.changes()

    def requeue(self, changes: TypeChanges) -> None:
        """Let `changes` return these again, as they could not be stored."""
        self._known.requeue(changes)

    def remembered(self) -> dict[Place, LearnedType]:
        """Return all that was learned, for a new database file."""
        return dict(self._known.learned)

    def forget(self, name: str, attribute: str | None) -> TypeChanges:
        """Forget what was learned of an attribute, or of all attributes of an event name. Return what was forgotten."""
        forgotten = self._known.forget(self._known.places(name) if attribute is None else [(name, attribute)])
        self._conflicts.forget(forgotten)
        return forgotten

    def imported(self, types: Mapping[Place, AttributeType]) -> TypeChanges:
        """Replace all learned types by these, except fixed ones. Return the changes.

        Raise TooManyTypesError, having changed nothing.
        """
        changes = self._known.replace(types)
        self._conflicts.forget(changes)
        return changes

    def is_fixed(self, name: str, attribute: str | None) -> bool:
        """Return whether this attribute, or any of this event name, is fixed."""
        places = self._known.places(name) if attribute is None else [(name, attribute)]
        return any(place in self._known.fixed for place in places)

    def status(self) -> dict[str, object]:
        """Return what /v1/status shows: printable names, and no values."""
        return self.counts() | {
            "not_remembered": self._known.not_remembered,
            "conflicts": self._conflicts.described(self._known.learned),
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
        """Yield the known types, with unescaped names. Nothing may change meanwhile.

        Fixed types come first, then the others in the order in which they were learned. `after` is the last type of the
        page before; if it is no longer known, all are yielded again.
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


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"

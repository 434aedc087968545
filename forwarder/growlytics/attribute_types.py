"""The guard of rule 5: Growlytics fixes an attribute's type when it first sees it, and ignores others silently.

Types that the team fixed come first; others are learned, from the first event that has the attribute. The policy says what
is done about a value of another type. But a string that looks like a date where there were others before, or the reverse, is
counted and never touched.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, dropwhile

from forwarder.database.attribute_types import AttributeType, LearnedType, Place, TypeChanges
from forwarder.event import Clock, printable
from forwarder.growlytics import json_text
from forwarder.growlytics.attribute_values import TYPE_OF, converted, is_date, is_nameable, type_of
from forwarder.growlytics.contract import Conforming, Refused, Violation
from forwarder.growlytics.known_types import KnownTypes
from forwarder.growlytics.type_conflicts import Action, Conflict, TypeConflicts
from forwarder.settings import ContractSettings
from forwarder.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Judged:
    """What there is to say of the attributes of one event."""

    body: bytes
    """The event as it is to be sent: as it came, or encoded anew where attributes were converted or removed."""
    refused: Refused | None
    """Set if the event is to be refused."""
    learned: Mapping[Place, LearnedType]
    """By event name and attribute what is to be learned from it, if it is accepted."""
    name: str = ""
    conflicts: Sequence[Conflict] = ()


class AttributeTypes:
    """What is known of the types of attributes. `clock` gives seconds since 1970."""

    def __init__(self, settings: ContractSettings, *, telemetry: Telemetry, clock: Clock) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._known = KnownTypes(max_learned=settings.max_attribute_types, clock=clock)
        self._conflicts = TypeConflicts()

    def use(self, settings: ContractSettings) -> None:
        """Go by another policy from the next event on; what is known stays."""
        before, self._settings = self._settings, settings
        if before.attribute_types != settings.attribute_types:
            self.warn_if_unfixed()

    def fix(self, types: Mapping[Place, AttributeType]) -> None:
        """At the start, before anything is learned: take over what the team fixed."""
        self._known.fix(types)

    def warn_if_unfixed(self) -> None:
        """Say so if the policy changes or refuses events by what is only learned."""
        if self._settings.attribute_types != "observe" and self._settings.types_file is None:
            self._telemetry.attribute_types_unfixed(self._settings.attribute_types)

    # Events

    def judge(self, body: bytes, event: Conforming, seen: dict[Place, LearnedType]) -> Judged | None:
        """Compare the types of an event's attributes with those that are known; None if there is nothing to say.

        `seen` has what is not known, but was seen in the same request; it is added to.
        """
        known = self._known.of(event.name)
        for attribute, value in event.attributes.items():
            if type(value) is str:  # as in `type_of`, whose call would take as long as all the rest
                found = "date" if len(value) > 9 and value[4] == "-" and is_date(value) else "string"
            else:
                found = TYPE_OF[type(value)]
            if known.get(attribute) != found:
                return self._judge_closely(body, event, known, seen)
        return None

    def settled(self, judged: Sequence[Judged]) -> None:
        """These events were accepted, or refused for their attributes: learn their types, and count their conflicts."""
        for each in judged:
            for place, learned in each.learned.items():
                known = self._known.learn(place, learned)
                if known is None:
                    self._telemetry.attribute_types_full()
                elif known != learned.type:  # another request was first
                    self._count(each.name, Conflict(place[1], known, learned.type, "observe"))
            for conflict in each.conflicts:
                self._count(each.name, conflict)

    def _judge_closely(
        self, body: bytes, event: Conforming, known: Mapping[str, AttributeType], seen: dict[Place, LearnedType]
    ) -> Judged | None:
        new: dict[Place, LearnedType] = {}
        conflicts: list[Conflict] = []
        now = self._clock()
        for attribute, value in event.attributes.items():
            place, found = (event.name, attribute), type_of(value)
            expected = known.get(attribute) or (seen[place].type if place in seen else None)
            if expected is not None and expected != found:
                conflicts.append(Conflict(attribute, expected, found, "observe"))
            elif attribute not in known and is_nameable(attribute):
                new[place] = seen.get(place) or LearnedType(found, now)
        hard = [each for each in conflicts if each.kind == "hard"]
        if hard and self._settings.attribute_types == "reject":
            refused = Refused(tuple(self._violation(event.name, each, seen) for each in hard), event.name)
            return Judged(body, refused, {}, event.name, _acted(conflicts, hard, "reject"))
        learned = self._as_room_allows(new, seen)
        seen.update(learned)
        if hard and self._settings.attribute_types in {"coerce", "strip"}:
            body, mended = self._mended(body, event, hard)
            conflicts = _acted(conflicts, mended, self._settings.attribute_types)
        return Judged(body, None, learned, event.name, conflicts) if learned or conflicts else None

    def _as_room_allows(
        self, new: dict[Place, LearnedType], seen: Mapping[Place, LearnedType]
    ) -> dict[Place, LearnedType]:
        """Return what of this can be learned."""
        room = self._known.room - len(seen)
        if room >= len(new):
            return new
        allowed: dict[Place, LearnedType] = {}
        for place, learned in new.items():
            if place in seen:
                allowed[place] = learned
            elif room > 0:
                allowed[place] = learned
                room -= 1
        if len(allowed) < len(new):
            self._telemetry.attribute_types_full()
        return allowed

    def _mended(self, body: bytes, event: Conforming, hard: Sequence[Conflict]) -> tuple[bytes, list[Conflict]]:
        """Return the event without these conflicts, as far as the policy can do that, and those that it did away with."""
        strips = self._settings.attribute_types == "strip"
        # A look at what was parsed already saves most of what cannot be converted from being parsed again.
        hopeful = [
            each for each in hard if strips or converted(event.attributes[each.attribute], each.expected) is not None
        ]
        if not hopeful:
            return body, []
        mended: list[Conflict] = []
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
                mended.append(each)
            return (json_text.encode(whole) if mended else body), mended
        except json_text.TooDeepError:
            return body, []

    def _violation(self, name: str, conflict: Conflict, seen: Mapping[Place, LearnedType]) -> Violation:
        place = (name, conflict.attribute)
        learned = self._known.learned.get(place) or seen.get(place)
        if learned is None or place in self._known.fixed:
            before = f"it is fixed as a {conflict.expected} in contract.types_file"
        else:
            before = f"it was a {conflict.expected} when it was first seen, at {_utc(learned.first_seen)}"
        message = f"the attribute is a {conflict.found}, but {before}; Growlytics would ignore it without a word"
        return Violation("attribute_type_conflict", f"attributes.{printable(conflict.attribute)}", message)

    def _count(self, name: str, conflict: Conflict) -> None:
        self._telemetry.attribute_type_conflict(action=conflict.action, kind=conflict.kind)
        if self._conflicts.add(name, conflict, self._clock()):
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
        if not self._known.load(types):
            self._telemetry.attribute_types_full()

    def remembered(self) -> dict[Place, LearnedType]:
        """Return all that was learned, for a file that is written anew."""
        return dict(self._known.learned)

    def forget(self, name: str, attribute: str | None) -> TypeChanges:
        """Forget what was learned of an attribute, or of all the attributes of events of this name; return what that is."""
        forgotten = self._known.forget(self._known.places(name) if attribute is None else [(name, attribute)])
        self._conflicts.forget(forgotten)
        return forgotten

    def imported(self, types: Mapping[Place, AttributeType]) -> TypeChanges:
        """Put these in the place of all that was learned, but for what is fixed; return what changes by that.

        Raises TooManyTypesError, and then nothing is changed.
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
        return self.counts() | {"conflicts": self._conflicts.described()}

    def counts(self) -> dict[str, object]:
        """Return how many types there are, and how many there may be."""
        return {
            "policy": self._settings.attribute_types,
            "learned": len(self._known.learned),
            "fixed": len(self._known.fixed),
            "max": self._settings.max_attribute_types,
            "full": not self._known.room,
        }

    def listed(self, after: Place | None = None) -> Iterator[tuple[Place, dict[str, object]]]:
        """Yield the types that are known, with the names as they are; nothing may change meanwhile.

        Those that are fixed come first, then the others as they were learned; only what follows `after`, but all of them if
        that is not known any more: better twice than never.
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


def _acted(conflicts: Sequence[Conflict], on: Sequence[Conflict], action: Action) -> list[Conflict]:
    """Return the conflicts with what was done about those that something was done `on`."""
    return [replace(each, action=action) if each in on else each for each in conflicts]


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"

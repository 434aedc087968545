"""The guard of rule 5: Growlytics fixes an attribute's type when it first sees it, and ignores others silently.

Types that the team fixed come first; others are learned, from the first event that has the attribute. The policy says what
is done about a value of another type. But a string that looks like a date where there were others before, or the reverse, is
counted and never touched.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

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
    """By event name and attribute what was learned from it, or was by others whose acceptance is not certain yet."""
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

    def fix(self, types: Mapping[Place, AttributeType]) -> None:
        """At the start, before anything is learned: take over what the team fixed."""
        self._known.fix(types)

    def warn_if_unfixed(self) -> None:
        """At the start: say so if the policy changes or refuses events by what is only learned."""
        if self._settings.attribute_types != "observe" and self._settings.types_file is None:
            self._telemetry.attribute_types_unfixed(self._settings.attribute_types)

    # Events

    def judge(self, body: bytes, event: Conforming) -> Judged | None:
        """Learn the types of an event's attributes, or compare them; None if there is nothing to say."""
        known = self._known.of(event.name)
        for attribute, value in event.attributes.items():
            if type(value) is str:  # as in `type_of`, whose call would take as long as all the rest
                found = "date" if len(value) > 9 and value[4] == "-" and is_date(value) else "string"
            else:
                found = TYPE_OF[type(value)]
            if known.get(attribute) != found:
                return self._judge_closely(body, event, known)
        return None

    def settled(self, judged: Sequence[Judged]) -> None:
        """These events were accepted, or refused because of their attributes: count their conflicts."""
        for each in judged:
            self._known.confirm(each.learned)
            for conflict in each.conflicts:
                self._count(each.name, conflict)

    def unlearn(self, judged: Sequence[Judged]) -> TypeChanges:
        """These events were not accepted: forget what was learned from them alone, and return that."""
        return {place: None for each in judged for place in self._known.give_up(each.learned)}

    def has_learned(self, place: Place) -> bool:
        """Whether the type of this attribute is learned, or may be by an event that is being put."""
        return place in self._known.learned or self._known.claimed(place) is not None

    def _judge_closely(self, body: bytes, event: Conforming, known: Mapping[str, AttributeType]) -> Judged | None:
        unknown: dict[Place, AttributeType] = {}
        conflicts: list[Conflict] = []
        for attribute, value in event.attributes.items():
            place, found = (event.name, attribute), type_of(value)
            expected = known.get(attribute) or self._known.claimed(place)
            if expected != found and expected is not None:
                conflicts.append(Conflict(attribute, expected, found, "observe"))
            elif attribute not in known and is_nameable(attribute):
                unknown[place] = found
        hard = [each for each in conflicts if each.kind == "hard"]
        if hard and self._settings.attribute_types == "reject":
            refused = Refused(tuple(self._violation(event.name, each) for each in hard))
            return Judged(body, refused, {}, event.name, _acted(conflicts, hard, "reject"))
        learned = self._known.claim(unknown)
        if len(learned) < len(unknown):
            self._telemetry.attribute_types_full()
        if hard and self._settings.attribute_types in {"coerce", "strip"}:
            body, mended = self._mended(body, event, hard)
            conflicts = _acted(conflicts, mended, self._settings.attribute_types)
        return Judged(body, None, learned, event.name, conflicts) if learned or conflicts else None

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

    def _violation(self, name: str, conflict: Conflict) -> Violation:
        first_seen = self._known.first_seen((name, conflict.attribute))
        if first_seen is None:
            before = f"it is fixed as a {conflict.expected} in contract.types_file"
        else:
            before = f"it was a {conflict.expected} when it was first seen, at {_utc(first_seen)}"
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
        return self._known.remembered()

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
            "full": self._known.is_full,
        }

    def listed(self) -> Iterator[dict[str, object]]:
        """Yield every type that is known now, with the names as they are, one after the other: there may be many."""
        for place, kind in self._known.fixed.items():
            yield self._described(place, kind, None)
        for place, learned in list(self._known.learned.items()):
            yield self._described(place, learned.type, learned.first_seen)

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

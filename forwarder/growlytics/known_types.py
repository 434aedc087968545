"""Which type each attribute has: as the team fixed it, or as it was learned. Used by `attribute_types` alone.

Invariants:

- Fixed types come first, and never change; they are as many as the team's file has.
- What a request learned counts at once, so that its own elements are compared with each other, but for good only when some
  event with that type was accepted: until then it is claimed by each event that had it.
- The number of learned types is bounded, claimed ones included.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from forwarder.database.attribute_types import AttributeType, LearnedType, Place, TypeChanges
from forwarder.event import Clock


class TooManyTypesError(ValueError):
    """There are more than may be learned."""


@dataclass(slots=True)
class _Claim:
    """A type learned from events of which none is accepted yet."""

    learned: LearnedType
    events: int


_NONE: Final[Mapping[str, AttributeType]] = {}


class KnownTypes:
    """What is known of types. `clock` gives seconds since 1970."""

    def __init__(self, *, max_learned: int, clock: Clock) -> None:
        self.fixed: Final[dict[Place, AttributeType]] = {}
        self.learned: Final[dict[Place, LearnedType]] = {}
        self._max_learned = max_learned
        self._clock = clock
        self._claims: dict[Place, _Claim] = {}
        # Fixed and learned alike: all that most events need.
        self._of: dict[str, dict[str, AttributeType]] = {}

    def fix(self, types: Mapping[Place, AttributeType]) -> None:
        """Take over what the team fixed. Nothing may be learned yet."""
        assert not self.remembered()
        self.fixed.update(types)
        for place, kind in types.items():
            self._know(place, kind)

    def of(self, name: str) -> Mapping[str, AttributeType]:
        """Return the types of the attributes of events of this name, without those that are only claimed."""
        return self._of.get(name, _NONE)

    def claimed(self, place: Place) -> AttributeType | None:
        """Return the type that is claimed and no more."""
        claim = self._claims.get(place)
        return None if claim is None else claim.learned.type

    def first_seen(self, place: Place) -> float | None:
        """Return when an attribute that is known or claimed was first seen; None if it is fixed."""
        if place in self.fixed:
            return None
        return (self.learned.get(place) or self._claims[place].learned).first_seen

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be learned."""
        return len(self.learned) + len(self._claims) >= self._max_learned

    def claim(self, found: Mapping[Place, AttributeType]) -> dict[Place, LearnedType]:
        """Learn types for an event that may be accepted, as far as there is room; none of them may be known already."""
        learned: dict[Place, LearnedType] = {}
        now = self._clock()
        for place, kind in found.items():
            claim = self._claims.get(place)
            if claim is None:
                if self.is_full:
                    continue
                claim = self._claims[place] = _Claim(LearnedType(kind, now), 0)
            claim.events += 1
            learned[place] = claim.learned
        return learned

    def confirm(self, claimed: Mapping[Place, LearnedType]) -> None:
        """The event with these claims was accepted."""
        for place, learned in claimed.items():
            claim = self._claims.get(place)
            if claim is not None and claim.learned is learned:
                del self._claims[place]
                self._learn(place, learned)

    def give_up(self, claimed: Mapping[Place, LearnedType]) -> Iterator[Place]:
        """The event with these claims was not accepted: yield what is known no more."""
        for place, learned in claimed.items():
            claim = self._claims.get(place)
            if claim is not None and claim.learned is learned:
                claim.events -= 1
                if not claim.events:
                    del self._claims[place]
                    yield place

    def load(self, types: TypeChanges) -> bool:
        """Take over what was learned before this process and is not fixed; return whether there was room for all of it."""
        for place, learned in types.items():
            if learned is not None and place not in self.fixed:
                if self.is_full:
                    return False
                self._learn(place, learned)
        return True

    def remembered(self) -> dict[Place, LearnedType]:
        """Return all that was learned, also from events that are not accepted yet."""
        return self.learned | {place: claim.learned for place, claim in self._claims.items()}

    def places(self, name: str) -> list[Place]:
        """Return all that is known or claimed of events of this name."""
        return [(name, each) for each in self.of(name)] + [place for place in self._claims if place[0] == name]

    def forget(self, places: Iterable[Place]) -> dict[Place, None]:
        """Forget what was learned of these; return which."""
        forgotten: dict[Place, None] = {}
        for place in places:
            learned = self.learned.pop(place, None)
            claim = self._claims.pop(place, None)
            if learned is None and claim is None:
                continue
            forgotten[place] = None
            if learned is not None:
                name, attribute = place
                del self._of[name][attribute]
                if not self._of[name]:
                    del self._of[name]
        return forgotten

    def replace(self, types: Mapping[Place, AttributeType]) -> dict[Place, LearnedType | None]:
        """Put these in the place of all that was learned, but for what is fixed; return what changes by that.

        Raises TooManyTypesError, and then nothing is changed.
        """
        wanted = {place: kind for place, kind in types.items() if place not in self.fixed}
        if len(wanted) > self._max_learned:
            raise TooManyTypesError
        stale = [place for place, learned in self.remembered().items() if wanted.get(place) != learned.type]
        now = self._clock()
        changes: dict[Place, LearnedType | None] = {**self.forget(stale)}
        for place, kind in wanted.items():
            claim = self._claims.pop(place, None)
            if place not in self.learned:
                learned = LearnedType(kind, now) if claim is None else claim.learned
                self._learn(place, learned)
                changes[place] = learned
        return changes

    def _learn(self, place: Place, learned: LearnedType) -> None:
        self.learned[place] = learned
        self._know(place, learned.type)

    def _know(self, place: Place, kind: AttributeType) -> None:
        name, attribute = place
        self._of.setdefault(name, {})[attribute] = kind

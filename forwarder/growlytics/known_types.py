"""Which type each attribute has: as the team fixed it, or as it was learned. Used by `attribute_types` alone.

Invariants:

- Fixed types come first, and never change; they are as many as the team's file has.
- A type is learned when an event with it is accepted; whose acceptance is told first is the first.
- The number of learned types is bounded.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from forwarder.database.attribute_types import AttributeType, LearnedType, Place, TypeChanges
from forwarder.event import Clock


class TooManyTypesError(ValueError):
    """There are more than may be learned."""


_NONE: Final[Mapping[str, AttributeType]] = {}


class KnownTypes:
    """What is known of types. `clock` gives seconds since 1970."""

    def __init__(self, *, max_learned: int, clock: Clock) -> None:
        self.fixed: Final[dict[Place, AttributeType]] = {}
        self.learned: Final[dict[Place, LearnedType]] = {}
        self._max_learned = max_learned
        self._clock = clock
        # Fixed and learned alike: all that most events need.
        self._of: dict[str, dict[str, AttributeType]] = {}

    def fix(self, types: Mapping[Place, AttributeType]) -> None:
        """Take over what the team fixed. Nothing may be learned yet."""
        assert not self.learned
        self.fixed.update(types)
        for place, kind in types.items():
            self._know(place, kind)

    def of(self, name: str) -> Mapping[str, AttributeType]:
        """Return the types of the attributes of events of this name."""
        return self._of.get(name, _NONE)

    @property
    def room(self) -> int:
        """How many more can be learned."""
        return max(0, self._max_learned - len(self.learned))

    def learn(self, place: Place, learned: LearnedType) -> AttributeType | None:
        """Learn a type of an event that was accepted, unless one is known or there is no room; return what is known."""
        name, attribute = place
        known = self.of(name).get(attribute)
        if known is None and self.room:
            self._learn(place, learned)
            return learned.type
        return known

    def load(self, types: TypeChanges) -> bool:
        """Take over what was learned before this process and is not fixed; return whether there was room for all of it."""
        for place, learned in types.items():
            if learned is not None and place not in self.fixed:
                if not self.room:
                    return False
                self._learn(place, learned)
        return True

    def places(self, name: str) -> list[Place]:
        """Return all that is known of events of this name."""
        return [(name, each) for each in self.of(name)]

    def forget(self, places: Iterable[Place]) -> dict[Place, None]:
        """Forget what was learned of these; return which."""
        forgotten: dict[Place, None] = {}
        for place in places:
            if self.learned.pop(place, None) is not None:
                forgotten[place] = None
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
        stale = [place for place, learned in self.learned.items() if wanted.get(place) != learned.type]
        now = self._clock()
        changes: dict[Place, LearnedType | None] = {**self.forget(stale)}
        for place, kind in wanted.items():
            if place not in self.learned:
                changes[place] = learned = LearnedType(kind, now)
                self._learn(place, learned)
        return changes

    def _learn(self, place: Place, learned: LearnedType) -> None:
        self.learned[place] = learned
        self._know(place, learned.type)

    def _know(self, place: Place, kind: AttributeType) -> None:
        name, attribute = place
        self._of.setdefault(name, {})[attribute] = kind

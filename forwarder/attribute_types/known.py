"""The type of each attribute: fixed by the team, or learned. Used by `guard` alone.

Invariants:

- Fixed types come first and never change. Their number is that of the team's file.
- A type is learned from the first accepted event that has the attribute.
- The number of learned types is bounded, and each event name may have only a share of it: an app that puts ids into the
  names of attributes, or of events, cannot fill the table for good.
- If there is no room, a new attribute replaces the oldest one that was seen only once (of the same event name, if that has
  used up its share). An attribute that was seen again stays, and later events with it cost nothing.
- The attributes that stay leave a tenth of the table and of each share free, so that a new one is known for a while. If more
  would stay, each must be seen once more within AGE_SECONDS, or a new attribute may replace it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from forwarder.attribute import LearnedType, Place, TypeChanges
from forwarder.event import Clock
from forwarder.growlytics.contract import MAX_ATTRIBUTES
from forwarder.words import AttributeType

SHARE: Final = 10
"""One event name may have a tenth of all types, but at least as many as one event may have attributes."""
_FREE: Final = 10
"""The attributes that stay leave a tenth free."""
AGE_SECONDS: Final = 3600.0


class TooManyTypesError(ValueError):
    """There are more types than may be learned."""


class KnownTypes:
    """The table of types. `clock` returns seconds since 1970."""

    def __init__(self, *, max_learned: int, clock: Clock) -> None:
        self.fixed: Final[dict[Place, AttributeType]] = {}
        self.learned: Final[dict[Place, LearnedType]] = {}
        self.not_remembered = 0
        """How often an attribute found no room, or was replaced."""
        self.max_of_one_name: Final = min(max_learned, max(MAX_ATTRIBUTES, max_learned // SHARE))
        self._max_learned = max_learned
        self._clock = clock
        self.usual: Final[dict[str, dict[str, AttributeType]]] = {}
        """By event name, the types that are fixed or were seen again: all that most events need."""
        self._learned_of: dict[str, int] = {}
        self._once: OrderedDict[Place, None] = OrderedDict()
        """The learned types that were seen once, the oldest first."""
        self._once_of: dict[str, dict[str, None]] = {}
        self._aging: dict[Place, None] = {}
        """Those that were seen again, but not since `_aging_since`."""
        self._aging_since = float("-inf")
        self._changes: dict[Place, LearnedType | None] = {}

    def fix(self, types: Mapping[Place, AttributeType]) -> None:
        """Add what the team fixed. Nothing may be learned yet."""
        assert not self.learned
        self.fixed.update(types)
        for place, kind in types.items():
            self._know(place, kind)

    def type_of(self, place: Place) -> AttributeType | None:
        """Return the type of an attribute, None if unknown."""
        learned = self.learned.get(place)
        return self.fixed.get(place) if learned is None else learned.type

    @property
    def room(self) -> int:
        """How many more can be learned without replacing one."""
        return max(0, self._max_learned - len(self.learned))

    def room_for(self, name: str, *, of_name: int, of_all: int) -> int:
        """Return how many more attributes of this event name a request may teach.

        It has taught `of_name` of this name and `of_all` in total. None of them may replace another, or one that stays.
        """
        left_of_name = self.max_of_one_name - self._seen_again_of(name) - of_name
        return max(0, min(left_of_name, self._max_learned - self._seen_again - of_all))

    def has_its_share(self, name: str, *, more: int = 0) -> bool:
        """Return whether this event name would use up its share with so many `more` types."""
        return self._learned_of.get(name, 0) + more >= self.max_of_one_name

    def saw(self, place: Place) -> bool:
        """Note that a learned attribute came again. Return whether that must be stored."""
        if place in self._aging:
            del self._aging[place]
            self._know(place, self.learned[place].type)
            return False
        if place not in self._once:
            return False
        if not self._may_stay(place[0]):
            self._take_from_once(place)
            self._seen_once(place)
            return False
        self._confirm(place, replace(self.learned[place], seen_again=True))
        self._changes[place] = self.learned[place]
        return True

    def learn(self, place: Place, learned: LearnedType) -> AttributeType | None:
        """Learn a type from an accepted event, unless one is known. Return the known type.

        None if there is no room.
        """
        known = self.type_of(place)
        if known is None:
            if not self._make_room(place[0]):
                self.not_remembered += 1
                self._changes[place] = None
                return None
            self._learn(place, replace(learned, seen_again=False))
        if learned.seen_again and place in self._once and not self.saw(place):
            self._changes[place] = self.learned[place]  # it was stored as seen again
        return known or learned.type

    def load(self, types: TypeChanges) -> list[Place]:
        """Add what earlier processes learned, except what is fixed. Return what found no room.

        Types that were seen again come first, then the oldest. The share of an event name limits only types seen once.
        """
        found = [(place, each) for place, each in types.items() if each is not None and place not in self.fixed]
        found.sort(key=lambda one: (not one[1].seen_again, one[1].first_seen))
        fitting: list[tuple[Place, LearnedType]] = []
        left_out: list[Place] = []
        of: dict[str, int] = {}
        for place, learned in found:
            number = of.get(place[0], 0)
            if len(fitting) < self._max_learned and (learned.seen_again or number < self.max_of_one_name):
                fitting.append((place, learned))
                of[place[0]] = number + 1
            else:
                left_out.append(place)
                self._changes[place] = None
        for place, learned in sorted(fitting, key=lambda one: one[1].first_seen):
            self._learn(place, learned)
        self.not_remembered += len(left_out)
        return left_out

    def changes(self) -> dict[Place, LearnedType | None]:
        """Return what changed, other than by learning, and must be stored. Each change is returned once."""
        changes, self._changes = self._changes, {}
        return changes

    def requeue(self, changes: TypeChanges) -> None:
        """Let `changes` return these again if they are still true, as they could not be stored."""
        for place, learned in changes.items():
            if self.learned.get(place) == learned:
                self._changes.setdefault(place, learned)

    def places(self, name: str) -> list[Place]:
        """Return the known attributes of an event name."""
        return [place for place in (*self.fixed, *self.learned) if place[0] == name]

    def forget(self, places: Iterable[Place]) -> dict[Place, None]:
        """Forget what was learned of these. Return those that were known."""
        forgotten: dict[Place, None] = {}
        for place in places:
            if self.learned.pop(place, None) is not None:
                forgotten[place] = None
                name, attribute = place
                self._changes.pop(place, None)
                self._learned_of[name] -= 1
                if not self._learned_of[name]:
                    del self._learned_of[name]
                if place in self._once:
                    self._take_from_once(place)
                elif place in self._aging:
                    del self._aging[place]
                else:
                    del self.usual[name][attribute]
                    if not self.usual[name]:
                        del self.usual[name]
        return forgotten

    def replace(self, types: Mapping[Place, AttributeType]) -> dict[Place, LearnedType | None]:
        """Replace all learned types by these, except fixed ones. Return the changes.

        These types count as seen again, and an event name may have more than its share of them. Raise TooManyTypesError,
        having changed nothing.
        """
        wanted = {place: kind for place, kind in types.items() if place not in self.fixed}
        if len(wanted) > self._max_learned:
            raise TooManyTypesError
        stale = [place for place, learned in self.learned.items() if wanted.get(place) != learned.type]
        now = self._clock()
        changes: dict[Place, LearnedType | None] = {**self.forget(stale)}
        for place, kind in wanted.items():
            if self.saw(place):
                changes[place] = self._changes.pop(place)
            elif place not in self.learned:
                changes[place] = learned = LearnedType(kind, now, seen_again=True)
                self._learn(place, learned)
        return changes

    @property
    def _seen_again(self) -> int:
        return len(self.learned) - len(self._once)

    def _seen_again_of(self, name: str) -> int:
        return self._learned_of.get(name, 0) - len(self._once_of.get(name, ()))

    def _make_room(self, name: str) -> bool:
        """Return whether there is room for an attribute of this event name; forget another one if needed."""
        if not self.has_its_share(name) and self.room:
            return True
        oldest = self._oldest(name)
        if oldest is None:
            return False
        self.forget([oldest])
        self._changes[oldest] = None
        self.not_remembered += 1
        return True

    def _oldest(self, name: str) -> Place | None:
        """Return which attribute one of this event name may replace."""
        if self.has_its_share(name):
            attribute = next(iter(self._once_of.get(name, ())), None)
            return None if attribute is None else (name, attribute)
        return next(iter(self._once), None)

    def _may_stay(self, name: str) -> bool:
        """Return whether one more attribute of this event name may stay; if not, begin to find out which are still seen."""
        share = self.max_of_one_name
        free = share - self._seen_again_of(name) > max(1, share // _FREE)
        if free and self._max_learned - self._seen_again > max(1, self._max_learned // _FREE):
            return True
        self._age()
        return False

    def _age(self) -> None:
        """Demand that all that stay are seen once more. Those that were not seen since the last call may be replaced."""
        now = self._clock()
        if abs(now - self._aging_since) < AGE_SECONDS:
            return
        self._aging_since = now
        for place in self._aging:
            self._seen_once(place)
        self._aging = dict.fromkeys(place for place in self.learned if place not in self._once)
        self.usual.clear()
        for place, kind in self.fixed.items():
            self._know(place, kind)

    def _seen_once(self, place: Place) -> None:
        name, attribute = place
        self._once[place] = None
        self._once_of.setdefault(name, {})[attribute] = None

    def _learn(self, place: Place, learned: LearnedType) -> None:
        self._changes.pop(place, None)
        self.learned[place] = learned
        self._learned_of[place[0]] = self._learned_of.get(place[0], 0) + 1
        if learned.seen_again:
            self._know(place, learned.type)
        else:
            self._seen_once(place)

    def _confirm(self, place: Place, learned: LearnedType) -> None:
        self._take_from_once(place)
        self.learned[place] = learned
        self._know(place, learned.type)

    def _take_from_once(self, place: Place) -> None:
        name, attribute = place
        del self._once[place]
        del self._once_of[name][attribute]
        if not self._once_of[name]:
            del self._once_of[name]

    def _know(self, place: Place, kind: AttributeType) -> None:
        name, attribute = place
        self.usual.setdefault(name, {})[attribute] = kind

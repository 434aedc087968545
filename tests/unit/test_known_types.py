"""How many types are remembered, and of which attributes: a share for each event name, and what makes room for what."""

from collections import Counter
from collections.abc import Iterable, Mapping

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forwarder.attribute import LearnedType, Place
from forwarder.attribute_types.known import AGE_SECONDS, KnownTypes

NOW = 1e9


class Known:
    """The subject with the table that its owner keeps, as the buffer does: what is learned first, then what changes."""

    def __init__(self, *, most: int = 1000, fixed: Iterable[Place] = ()) -> None:
        self.now = NOW
        self.most = most
        self.fixed = dict.fromkeys(fixed, "number")
        self.table: dict[Place, LearnedType] = {}
        self.restart()

    def restart(self) -> None:
        self.types = KnownTypes(max_learned=self.most, clock=lambda: self.now)
        self.types.fix(dict.fromkeys(self.fixed, "number"))
        self.left_out = self.types.load(self.table)

    def post(self, *places: Place, seen_again: bool = False) -> None:
        """Accept an event with these attributes."""
        new = {}
        for place in places:
            if place[1] in self.types.usual.get(place[0], {}):
                continue
            if self.types.type_of(place) is None:
                new[place] = LearnedType("number", self.now, seen_again)
            else:
                self.types.saw(place)
        self.put(new)
        for place, learned in new.items():
            self.types.learn(place, learned)

    def put(self, new: Mapping[Place, LearnedType]) -> None:
        for place, learned in self.types.changes().items():
            if learned is None:
                self.table.pop(place, None)
            else:
                self.table[place] = learned
        for place, learned in new.items():
            self.table.setdefault(place, learned)

    def knows(self, *places: Place) -> bool:
        return all(self.types.type_of(place) is not None for place in places)


def many(name: str, count: int, start: int = 0) -> list[Place]:
    return [(name, f"id {number}") for number in range(start, start + count)]


def test_one_event_name_has_at_most_its_share_and_leaves_room_for_others() -> None:
    known = Known(most=1000)
    known.post(*many("Bad", 5000))
    assert len(known.types.learned) == 100
    known.post(("Good", "Price"))
    assert known.knows(("Good", "Price"))
    assert known.types.not_remembered == 4900


def test_a_share_is_at_least_what_one_event_may_have_and_at_most_all() -> None:
    shares = [KnownTypes(max_learned=most, clock=lambda: NOW).max_of_one_name for most in (1, 20, 100, 500, 10_000)]
    assert shares == [1, 20, 50, 50, 1000]


def test_in_a_share_that_is_full_the_oldest_that_was_seen_once_makes_room() -> None:
    known = Known(most=1000)
    known.post(*many("Bad", 100))
    known.post(("Bad", "id 0"))
    known.post(("Bad", "Price"))
    assert known.knows(("Bad", "Price"), ("Bad", "id 0"), ("Bad", "id 2"))
    assert not known.knows(("Bad", "id 1"))


def test_what_is_seen_again_stays_however_many_come_after_it_also_after_restarts() -> None:
    known = Known(most=1000)
    usual = [*many("Good", 30), ("Bad", "Price")]
    for _ in range(2):
        known.post(*usual)
    for round_number in range(20):
        known.post(*many("Bad", 500, start=1000 * round_number))
        known.post(*((f"Name {round_number} {number}", "x") for number in range(500)))
        if round_number % 3 == 0:
            known.put({})
            known.restart()
    assert known.knows(*usual)
    assert len(known.types.learned) == 1000


def test_what_is_seen_twice_in_its_first_request_is_seen_again() -> None:
    known = Known(most=100)
    known.post(("Good", "Price"), seen_again=True)
    known.post(*((f"Name {number}", "x") for number in range(500)))
    assert known.knows(("Good", "Price"))


def test_ids_in_event_names_turn_over_and_a_new_one_is_known_until_then() -> None:
    known = Known(most=100)
    for number in range(1000):
        known.post((f"Name {number}", "x"))
        assert known.knows((f"Name {number}", "x"))
    assert len(known.types.learned) == 100


def test_what_stays_leaves_room_for_what_is_new_which_is_known_for_a_while() -> None:
    known = Known(most=100)
    names = [(f"Name {number}", "x") for number in range(100)]
    for _ in range(3):
        known.post(*names)
    known.post(("New", "x"))
    assert known.knows(("New", "x"), *names[:90])
    known.post(*((f"Newer {number}", "x") for number in range(10)))
    assert not known.knows(("New", "x"))
    assert known.knows(*names[:90])


def test_of_what_would_stay_too_many_those_that_are_not_seen_for_an_hour_make_room() -> None:
    known = Known(most=100)
    names = [(f"Name {number}", "x") for number in range(90)]
    new = [(f"New {number}", "x") for number in range(50)]
    for _ in range(2):
        known.post(*names)
    for _ in range(2):  # from the second time on it counts who comes
        known.post(new[0])
    known.now += AGE_SECONDS
    known.post(*names[:60])
    for _ in range(3):
        known.post(*new[:30])
    known.post(*((f"Newer {number}", "x") for number in range(100)))
    assert known.knows(*names[:60])
    assert not any(known.knows(name) for name in names[60:])
    assert sum(known.knows(name) for name in new) == 30, "they stay in the place of the others"


def test_fixed_types_never_go_and_take_no_share() -> None:
    fixed = many("Bad", 200)
    known = Known(most=1000, fixed=fixed)
    known.post(*many("Bad", 1000, start=500))
    known.now += 2 * AGE_SECONDS
    known.post(*many("Bad", 1000, start=1500))
    known.restart()
    assert known.knows(*fixed)
    assert len(known.types.learned) == 100


def test_a_table_of_version_0_1_0_that_one_name_filled_is_cut_to_its_share_and_the_file_follows() -> None:
    known = Known(most=1000)
    known.table = {place: LearnedType("number", NOW + number) for number, place in enumerate(many("Bad", 1000))}
    known.restart()
    assert (len(known.left_out), len(known.types.learned)) == (900, 100)
    assert known.knows(("Bad", "id 0")), "the oldest, which were there before the flood"
    known.post(("Good", "Price"))
    known.put({})
    assert known.table.keys() == known.types.learned.keys()


def test_changes_that_could_not_be_noted_come_again_unless_they_are_no_longer_true() -> None:
    known = Known(most=100)
    known.post(("N", "a"), ("N", "b"), ("N", "c"))
    for attribute in "abc":
        known.types.saw(("N", attribute))
    lost = known.types.changes()
    assert known.types.changes() == {}
    known.types.forget([("N", "b")])
    known.types.requeue(lost)
    again = {("N", each): LearnedType("number", NOW, seen_again=True) for each in "ac"}
    assert known.types.changes() == again


class Machine(RuleBasedStateMachine):
    """Whatever comes, the bounds hold and the table has what is known."""

    def __init__(self) -> None:
        super().__init__()
        self.known = Known(most=60, fixed=[("a", "fixed"), ("b", "1")])
        self.known.types = self.smaller()

    def smaller(self) -> KnownTypes:
        types = KnownTypes(max_learned=60, clock=lambda: self.known.now)
        assert types.max_of_one_name == 50
        types.fix({("a", "fixed"): "number", ("b", "1"): "number"})
        return types

    @rule(name=st.sampled_from("abcdef"), start=st.integers(0, 80), count=st.integers(1, 60), again=st.booleans())
    def post(self, name: str, start: int, count: int, again: bool) -> None:
        self.known.now += 1
        self.known.post(*((name, str(number)) for number in range(start, start + count)), seen_again=again)

    @rule(seconds=st.sampled_from([0.0, AGE_SECONDS / 2, AGE_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.known.now += seconds

    @rule(name=st.sampled_from("abc"))
    def forget(self, name: str) -> None:
        for place in self.known.types.forget(self.known.types.places(name)):
            self.known.table.pop(place, None)

    @rule(names=st.sets(st.sampled_from("abcdef")), count=st.integers(0, 10))
    def replace(self, names: set[str], count: int) -> None:
        for place, learned in self.known.types.replace(
            {(name, str(number)): "date" for name in names for number in range(count)}
        ).items():
            if learned is None:
                self.known.table.pop(place, None)
            else:
                self.known.table[place] = learned

    @rule()
    def restart(self) -> None:
        before = dict(self.known.types.learned)
        self.known.put({})
        self.known.restart()
        assert self.known.types.learned == before

    @invariant()
    def the_bounds_hold_and_the_table_has_what_is_known(self) -> None:
        types = self.known.types
        assert len(types.learned) <= 60
        of = Counter(name for name, _ in types.learned)
        assert all(number <= 50 for number in of.values())
        for place in types.learned:
            assert types.usual.get(place[0], {}).get(place[1]) in (None, types.type_of(place))
        assert all(types.usual[name][attribute] == "number" for name, attribute in types.fixed)
        self.known.put({})
        assert self.known.table == types.learned


TestMachine = Machine.TestCase

"""The age of events under a wall clock that jumps: a jump ages nothing, and nothing is too old by more than was measured."""

import random
import tracemalloc
from collections.abc import Iterator

import pytest

from forwarder.ages import MAX_ERAS, Ages

NOW = 1_800_000_000.0
DAY = 86_400.0


class Clocks:
    """A wall clock that can be set, and a steady one."""

    def __init__(self, wall: float, steady: float = 5000.0) -> None:
        self.offset = wall - steady
        self.steady_now = steady

    def pass_(self, seconds: float) -> None:
        self.steady_now += seconds

    def set_wall(self, wall: float) -> None:
        self.offset = wall - self.steady_now

    def wall(self) -> float:
        return self.steady_now + self.offset

    def steady(self) -> float:
        return self.steady_now

    def process(self) -> Ages:
        """Start a process."""
        return Ages(wall=self.wall, steady=self.steady)


def test_without_jumps_an_age_is_the_time_that_passed() -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    clocks.pass_(10)
    accepted_at = ages.wall()
    assert accepted_at == NOW + 10
    assert ages.age_seconds(accepted_at) == 0
    clocks.pass_(3600)
    assert ages.age_seconds(accepted_at) == 3600


@pytest.mark.parametrize(
    "seconds", [1.8e9, DAY, 3600.0, 5.0, 1.5, 0.5, -0.5, -1.5, -5.0, -3600.0, -DAY, -20 * 365 * DAY]
)
def test_a_jump_ages_nothing_and_makes_nothing_younger_by_more_than_itself(seconds: float) -> None:
    clocks = Clocks(0.0 if seconds == 1.8e9 else NOW)
    ages = clocks.process()
    before = ages.wall()
    clocks.pass_(600)
    clocks.set_wall(clocks.wall() + seconds)
    assert ages.age_seconds(before) == pytest.approx(600, abs=1)
    after = ages.wall()
    clocks.pass_(100)
    assert ages.age_seconds(after) == pytest.approx(100, abs=1)
    assert 700 - abs(seconds) - 1 <= ages.age_seconds(before) <= 701


def test_events_of_the_time_before_the_clock_was_set_do_not_become_old() -> None:
    clocks = Clocks(12.0)
    ages = clocks.process()
    early = []
    for _ in range(3):
        clocks.pass_(60)
        early.append(ages.wall())
    clocks.pass_(60)
    clocks.set_wall(NOW)
    late = ages.wall()
    assert [ages.age_seconds(each) for each in early] == [180, 120, 60]
    clocks.pass_(DAY)
    assert ages.age_seconds(late) == DAY
    assert ages.age_seconds(early[0]) == DAY + 180, "they do become old with time"


def test_a_clock_that_goes_wrong_and_right_again_ages_nothing() -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    first = ages.wall()
    clocks.pass_(60)
    clocks.set_wall(NOW + 10 * 365 * DAY)
    wrong = ages.wall()
    clocks.pass_(60)
    clocks.set_wall(NOW + 120)
    right = ages.wall()
    clocks.pass_(60)
    assert [ages.age_seconds(each) for each in (first, wrong, right)] == [180, 120, 60]


def test_of_two_eras_in_which_the_clock_said_its_time_an_event_belongs_to_the_later() -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    clocks.pass_(600)
    clocks.set_wall(NOW)
    ages.wall()
    clocks.pass_(100)
    accepted_at = ages.wall()
    clocks.pass_(200)
    ages.wall()
    clocks.set_wall(NOW + 10 * DAY)
    assert ages.age_seconds(accepted_at) == 200, "by the earlier era it would be 800"


def test_a_jump_is_noticed_by_whoever_asks_first() -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    accepted_at = ages.wall()
    clocks.pass_(5)
    clocks.set_wall(NOW + DAY)
    clocks.pass_(5)
    assert ages.age_seconds(accepted_at) == 10, "nothing was accepted since the jump"


def test_across_a_restart_the_wall_clock_tells() -> None:
    clocks = Clocks(NOW)
    accepted_at = clocks.process().wall()
    clocks.pass_(3600)
    again = clocks.process()
    assert again.age_seconds(accepted_at) == 3600
    clocks.pass_(60)
    assert again.age_seconds(accepted_at) == 3660
    clocks.set_wall(NOW + 30 * DAY)
    assert again.age_seconds(accepted_at) == 3660, "a jump after the restart ages nothing either"
    clocks.set_wall(NOW - 30 * DAY)
    assert again.age_seconds(accepted_at) == 3660


@pytest.mark.parametrize("year_zero", [0.0, 1000.0, 1.7e9], ids=["1970", "1970, later", "the time of the image"])
def test_what_an_earlier_process_accepted_before_its_clock_was_set_begins_anew(year_zero: float) -> None:
    clocks = Clocks(year_zero)
    accepted_at = clocks.process().wall()
    clocks.pass_(60)
    clocks.set_wall(NOW)
    again = clocks.process()
    assert again.age_seconds(accepted_at) == 0
    clocks.pass_(60)
    assert again.age_seconds(accepted_at) == 60


def test_a_process_whose_own_clock_is_not_set_yet_knows_nothing_of_the_time_before() -> None:
    clocks = Clocks(NOW)
    accepted_at = clocks.process().wall()
    clocks = Clocks(30.0)  # the machine was started anew
    again = clocks.process()
    clocks.pass_(60)
    assert again.age_seconds(accepted_at) == 60
    clocks.set_wall(NOW + DAY)
    assert again.age_seconds(accepted_at) == 60
    clocks.pass_(60)
    assert again.age_seconds(accepted_at) == 120


def test_a_time_in_the_future_counts_from_the_start() -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    clocks.pass_(60)
    assert ages.age_seconds(NOW + DAY) == 60


def test_both_processes_may_be_of_a_time_before_the_clock_was_set() -> None:
    clocks = Clocks(100.0)
    accepted_at = clocks.process().wall()
    clocks = Clocks(20.0)
    again = clocks.process()
    clocks.pass_(30)
    assert again.age_seconds(accepted_at) <= 30
    clocks.pass_(DAY)
    assert DAY - 60 <= again.age_seconds(accepted_at) <= DAY + 30


def test_the_even_time_never_jumps() -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    clocks.pass_(60)
    for jump in (DAY, -3 * DAY, 1.0):
        clocks.set_wall(clocks.wall() + jump)
        assert ages.even() == NOW + 60


def jumps(seed: int, *, largest: float) -> Iterator[tuple[float, float]]:
    """Yield pairs of how much time passes, and by how much the clock jumps then."""
    chance = random.Random(seed)
    for _ in range(4 * MAX_ERAS):
        yield chance.uniform(0, 600), chance.choice((-1, 1)) * chance.uniform(1.1, largest)


@pytest.mark.parametrize("seed", range(3))
def test_however_often_the_clock_jumps_nothing_is_older_than_the_time_that_passed(seed: int) -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    events = []
    for number, (seconds, jump) in enumerate(jumps(seed, largest=DAY)):
        clocks.pass_(seconds)
        events.append((ages.wall(), clocks.steady()))
        clocks.set_wall(NOW + number * 10 * DAY + jump)
        for accepted_at, at in events[-3 * MAX_ERAS :: 7]:
            assert ages.age_seconds(accepted_at) <= clocks.steady() - at + 1


def test_a_clock_that_is_corrected_again_and_again_lets_events_become_old_all_the_same() -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    accepted_at = ages.wall()
    for _ in range(1440):
        clocks.pass_(60)
        clocks.set_wall(clocks.wall() + 2)
        ages.wall()
    assert DAY - 3600 <= ages.age_seconds(accepted_at) <= DAY + 1


def test_however_often_the_clock_jumps_no_more_is_kept_of_it_than_a_bound() -> None:
    clocks = Clocks(NOW)
    ages = clocks.process()
    tracemalloc.start()
    try:
        for number in range(8 * MAX_ERAS):
            clocks.set_wall(NOW + number * DAY)
            ages.wall()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * MAX_ERAS * 300

"""The limiter: each of its rules, and what it makes of models of links. `pytest -s` prints a table of the latter."""

import pickle
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.delivery.limiter import (
    MIN_ROUND_ANSWERS,
    PROBE_ROUNDS,
    PROBE_SOON_ROUNDS,
    QUIET_ROUNDS,
    START_LIMIT,
    Limiter,
    is_unusual,
)
from tests.fakes.links import (
    STEP_SECONDS,
    Connecting,
    Dropping,
    Link,
    Outage,
    OwnLoop,
    Queueing,
    RateLimited,
    Run,
    Timeline,
    always,
    exponential,
    jitter,
    long_tail,
    none,
    saturate,
    steps,
)


class Caller:
    """Keeps a limiter used up, or so many on the wire, while answers come to one attempt after the other."""

    def __init__(self, max_concurrency: int = 64, *, on_wire: int | None = None) -> None:
        self.limiter = Limiter(max_concurrency)
        self.now = 1000.0
        self.on_wire = on_wire
        self._started = 0

    @property
    def limit(self) -> int:
        return self.limiter.limit

    def succeed(self, times: int = 1, *, seconds: float = 0.05) -> None:
        for _ in range(times):
            self.limiter.succeeded(self._attempt(seconds), self.now)

    def fail(self, times: int = 1, *, seconds: float = 0.05, overload: bool = True) -> None:
        for _ in range(times):
            self.limiter.failed(self._attempt(seconds), self.now, overload=overload)

    def round(self, *, failures: int = 0, seconds: float = 0.05) -> int:
        """Have a round's answers come, and return the limit then."""
        answers = max(self.limit, MIN_ROUND_ANSWERS)
        self.fail(failures, seconds=seconds)
        self.succeed(answers - failures, seconds=seconds)
        return self.limit

    def rounds(self, number: int, *, failures: int = 0, seconds: float = 0.05) -> list[int]:
        return [self.round(failures=failures, seconds=seconds) for _ in range(number)]

    def outage(self, rounds: int) -> list[int]:
        return [self.round(failures=max(self.limit, MIN_ROUND_ANSWERS)) for _ in range(rounds)]

    def _attempt(self, seconds: float) -> float:
        """Start what may start, and let one of it go on for so long; return when that one started."""
        while self._started < (self.limit if self.on_wire is None else self.on_wire):
            self.limiter.in_flight += 1
            self._started += 1
        self._started -= 1
        self.now += seconds
        return self.now - seconds


def grown(limit: int, *, max_concurrency: int = 64) -> Caller:
    """Let a limiter grow by slow start, and on by one a round; no probe is near."""
    caller = Caller(max_concurrency)
    while caller.limit < min(limit, max_concurrency):
        caller.round()
    caller.limiter._rounds_to_probe = PROBE_ROUNDS
    return caller


# Rounds and growth


@pytest.mark.parametrize(("max_concurrency", "limit"), [(1, 1), (2, 2), (4, 4), (5, 4), (256, 4)])
def test_it_starts_at_four_or_at_the_maximum(max_concurrency: int, limit: int) -> None:
    assert Limiter(max_concurrency).limit == limit


def test_there_is_room_until_as_many_as_the_limit_are_on_the_wire() -> None:
    limiter = Limiter(64)
    room = []
    for _ in range(START_LIMIT + 2):
        room.append(limiter.in_flight < limiter.limit)
        limiter.in_flight += 1
    assert room == [True] * START_LIMIT + [False] * 2


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "end",
    [
        Limiter.cancelled,
        lambda limiter: limiter.succeeded(0.0, 1.0),
        lambda limiter: limiter.failed(0.0, 1.0, overload=True),
        lambda limiter: limiter.failed(0.0, 1.0, overload=False),
    ],
)
def test_each_end_of_an_attempt_makes_room_for_one(end: Callable[[Limiter], None], *, frozen: bool) -> None:
    limiter = Limiter(64)
    if frozen:
        limiter.freeze(overload=True)
    for _ in range(START_LIMIT + 1):
        limiter.in_flight += 1
    room = []
    for _ in range(2):
        end(limiter)
        room.append(limiter.in_flight < limiter.limit)
    assert room == [False, True]


def test_it_decides_only_when_a_round_is_complete() -> None:
    caller = Caller()
    caller.succeed(MIN_ROUND_ANSWERS - 1)
    assert caller.limit == START_LIMIT
    caller.succeed()
    assert caller.limit == 2 * START_LIMIT


def test_a_round_of_a_large_limit_is_as_many_answers() -> None:
    caller = grown(32)
    caller.succeed(31)
    assert caller.limit == 32
    caller.succeed()
    assert caller.limit == 64


def test_slow_start_doubles_the_limit_each_round_up_to_the_maximum() -> None:
    assert Caller(100).rounds(6) == [8, 16, 32, 64, 100, 100]


@pytest.mark.parametrize(("on_wire", "limit"), [(1, 4), (3, 4), (4, 8), (10, 16), (16, 32)])
def test_a_limit_that_is_not_used_up_does_not_grow(on_wire: int, limit: int) -> None:
    caller = Caller(on_wire=on_wire)
    for _ in range(5):
        caller.round()
    assert caller.limit == limit


def test_a_limit_used_up_only_now_and_then_does_not_grow() -> None:
    caller = grown(8)
    for on_wire in [8] * 7 + [2] * 9:
        caller.on_wire = on_wire
        while caller._started > on_wire:
            caller.limiter.cancelled()
            caller._started -= 1
        caller.succeed()
    assert caller.limit == 8


def test_answers_to_attempts_from_before_the_round_say_nothing_of_the_latency_under_this_limit() -> None:
    caller = Caller()
    before = caller.now
    caller.round()
    for _ in range(100):
        caller._attempt(0.0)
        caller.limiter.succeeded(before, caller.now)
    assert caller.limit == 2 * START_LIMIT
    caller.round()
    assert caller.limit == 4 * START_LIMIT


# Failures


@pytest.mark.parametrize("limit", [4, 16, 64])
def test_one_failure_alone_changes_nothing(limit: int) -> None:
    caller, other = grown(limit, max_concurrency=128), grown(limit, max_concurrency=128)
    assert caller.round(failures=1) == other.round()


def test_unusually_many_failures_lower_the_limit_to_what_did_useful_work_and_end_slow_start() -> None:
    caller = grown(64, max_concurrency=256)
    assert caller.round(failures=16) == 48
    assert caller.rounds(QUIET_ROUNDS) == [48] * QUIET_ROUNDS
    assert caller.rounds(3) == [49, 50, 51]


def test_quick_refusals_waste_little_of_the_limit_so_it_falls_little() -> None:
    caller = grown(64)
    caller.fail(30, seconds=0.005)
    caller.succeed(34, seconds=0.05)
    assert caller.limit == round(64 * (34 * 50) / (34 * 50 + 30 * 5))


def test_slow_timeouts_waste_much_time_so_they_are_weighed_by_their_number() -> None:
    caller = grown(64)
    caller.fail(16, seconds=10.0)
    caller.succeed(48)
    assert caller.limit == 48


def test_an_outage_halves_the_limit_each_round_down_to_one() -> None:
    assert grown(64).outage(8) == [32, 16, 8, 4, 2, 1, 1, 1]


def test_after_an_outage_slow_start_goes_up_to_half_of_the_limit_before_and_then_it_grows_by_one() -> None:
    caller = grown(64)
    caller.outage(20)
    assert caller.rounds(8) == [2, 4, 8, 16, 32, 33, 34, 35]


def test_after_an_outage_nothing_is_quiet_as_it_did_not_show_where_the_limit_of_the_far_side_is() -> None:
    caller = grown(64)
    assert caller.round(failures=16) == 48, "the beginning of the outage, among answers from before"
    caller.outage(20)
    assert caller.rounds(7) == [2, 4, 8, 16, 24, 25, 26]


def test_an_outage_never_becomes_usual() -> None:
    caller = grown(64)
    caller.outage(500)
    assert caller.limit == 1
    caller.rounds(5)
    assert caller.outage(5) == [16, 8, 4, 2, 1]


def test_failures_of_attempts_from_before_the_limit_fell_are_no_news() -> None:
    caller = grown(64)
    before = caller.now
    caller.outage(1)
    for _ in range(100):
        caller.limiter.in_flight += 1
        caller.limiter.failed(before, caller.now, overload=True)
    assert caller.limit == 32


@pytest.mark.parametrize("limit", [4, 64])
def test_failures_that_say_nothing_of_load_do_not_lower_the_limit(limit: int) -> None:
    caller = grown(limit)
    caller.fail(500, overload=False)
    assert caller.limit == limit
    assert caller.round() == min(64, 2 * limit)


def test_an_answer_about_the_event_is_as_good_as_any_for_the_share_of_failures() -> None:
    caller = grown(64)
    caller.fail(300, overload=False)
    assert caller.round(failures=16) == 64


def test_cancelled_attempts_tell_nothing() -> None:
    caller = Caller()
    for _ in range(100):
        caller.limiter.in_flight += 1
        caller.limiter.cancelled()
    caller.succeed(MIN_ROUND_ANSWERS - 1)
    assert caller.limit == START_LIMIT


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("answers", [16, 20, 64, 512])
def test_a_usual_share_of_failures_is_taken_for_unusual_in_less_than_one_of_a_hundred_rounds(
    answers: int, share: float
) -> None:
    chance = random.Random(20261123)
    alarms = sum(
        is_unusual(sum(chance.random() < share for _ in range(answers)), answers, usual_share=share)
        for _ in range(1000)
    )
    assert alarms < 10


@pytest.mark.parametrize(
    ("overloads", "answers", "usual_share", "unusual"),
    [
        (1, 1, 0.0, False),
        (4, 16, 0.0, False),
        (5, 16, 0.0, True),
        (16, 16, 0.0, True),
        (16, 16, 0.3, True),
        (9, 64, 0.0, False),
        (10, 64, 0.0, True),
        (13, 64, 0.2, False),
        (30, 64, 0.2, True),
        (26, 512, 0.0, False),
        (50, 512, 0.0, True),
        (200, 512, 0.3, True),
    ],
)
def test_the_margin_for_failures_is_wide_for_few_answers_and_narrow_for_many(
    overloads: int, answers: int, usual_share: float, *, unusual: bool
) -> None:
    assert is_unusual(overloads, answers, usual_share=usual_share) is unusual


def test_a_share_that_came_to_stay_becomes_usual_and_a_larger_one_is_still_a_sign() -> None:
    caller = grown(64)
    for _ in range(300):
        caller.round(failures=max(caller.limit, MIN_ROUND_ANSWERS) // 5)
    assert caller.limit == 64
    assert caller.round(failures=32) == 32


def test_what_fails_from_the_start_is_usual_soon() -> None:
    caller = Caller(64)
    assert [caller.round(failures=max(caller.limit, MIN_ROUND_ANSWERS) // 4) for _ in range(5)] == [8, 16, 32, 64, 64]


# Latency


def test_a_line_at_the_far_side_lowers_the_limit_to_what_keeps_it_busy() -> None:
    caller = grown(64)
    assert caller.round(seconds=0.08) == 40
    assert caller.rounds(4) == [41, 42, 43, 44], "slow start is over"


def test_a_very_long_line_halves_the_limit_each_round() -> None:
    caller = grown(64)
    assert caller.round(seconds=1.0) == 32
    assert caller.round(seconds=0.5) == 16
    assert caller.round(seconds=0.05) == 17


def test_while_few_wait_in_line_the_limit_stays() -> None:
    caller = grown(16, max_concurrency=64)
    assert caller.rounds(5, seconds=0.05 * 16 / 13) == [16] * 5, "3 of 16: more than 2, fewer than 4"
    assert caller.rounds(3) == [17, 18, 19], "slow start is over"


def test_the_latency_of_failures_does_not_matter() -> None:
    caller, other = grown(16), grown(16)
    caller.fail(2, seconds=30.0)
    caller.succeed(14)
    other.fail(2, seconds=0.001)
    other.succeed(14)
    assert caller.limit == other.limit == 32


def test_a_few_slow_answers_in_a_round_are_no_line() -> None:
    caller = grown(64)
    caller.succeed(3, seconds=1.0)
    caller.succeed(61, seconds=0.05)
    assert caller.limit == 64


def test_one_answer_that_took_very_long_is_no_line_and_the_base_hardly_follows_it() -> None:
    caller = grown(16)
    caller.succeed(15)
    caller.succeed(1, seconds=100.0)
    assert caller.limit == 32
    assert caller.rounds(2, seconds=0.08) == [32, 22], "in slow start it takes two rounds to believe in a line"


def test_latency_says_nothing_while_the_limit_is_not_used_up() -> None:
    caller = Caller(on_wire=2)
    caller.round()
    assert caller.rounds(10, seconds=0.5) == [START_LIMIT] * 10


def test_where_a_lower_limit_does_not_lower_the_latency_the_base_is_measured_anew() -> None:
    caller = grown(64)
    lowered, probe = caller.rounds(2, seconds=0.15)
    assert (lowered, probe) == (32, 5), "half of the 10.7 that would be busy if the base were still 0.05"
    assert caller.round(seconds=0.15) == 32, "back from the probe"
    assert caller.rounds(3, seconds=0.15) == [64, 64, 64]


def test_where_a_lower_limit_does_lower_the_latency_there_is_no_probe() -> None:
    caller = grown(64)
    assert caller.round(seconds=0.15) == 32
    assert caller.round(seconds=0.075) == 21


def test_what_lowers_the_limit_after_that_hides_whether_it_lowered_the_latency() -> None:
    caller = grown(64)
    assert caller.round(seconds=0.07) == 46
    assert caller.round(failures=8) == 38
    assert caller.round(seconds=0.057) == 38, "no probe"
    other = grown(64)
    other.round(seconds=0.07)
    other.limiter.freeze(overload=True)
    other.limiter.thaw(other.now)
    assert other.rounds(2) == [8, 16]


def test_the_base_follows_the_latency_down() -> None:
    caller = grown(64)
    caller.rounds(50, seconds=0.02)
    assert caller.round(seconds=0.05) == 32


def test_the_base_follows_the_latency_up_only_while_the_limit_is_not_used_up() -> None:
    caller = grown(64)
    caller.on_wire = 4
    caller.rounds(50, seconds=0.15)
    caller.on_wire = None
    assert caller.rounds(3, seconds=0.15) == [64] * 3


def test_the_base_is_measured_at_half_of_what_keeps_the_far_side_busy_once_in_many_rounds() -> None:
    caller = Caller(16)
    limits = caller.rounds(PROBE_SOON_ROUNDS + 1 + PROBE_ROUNDS + 1)
    assert [number for number, limit in enumerate(limits, 1) if limit == 8] == [
        1,  # slow start
        PROBE_SOON_ROUNDS,
        PROBE_SOON_ROUNDS + 1 + PROBE_ROUNDS,
    ]
    assert set(limits) == {8, 16}


def test_a_probe_that_meets_failures_ends_and_the_limit_before_it_is_lowered() -> None:
    caller = Caller(64)
    assert caller.rounds(PROBE_SOON_ROUNDS)[-1] == 32, "a probe"
    assert caller.round(failures=8) == 48, "three quarters of 64, not of 32"


def test_a_base_that_was_measured_in_a_line_is_corrected_by_the_probe() -> None:
    caller = Caller(64)
    caller.round(seconds=0.1)
    while caller.limiter._before_probe == 0:
        caller.round(seconds=0.1)
    caller.round(seconds=0.05)
    before = caller.limit
    assert caller.round(seconds=0.1) == before // 2


# Holds


def test_nothing_is_learnt_during_a_hold() -> None:
    caller = grown(64)
    caller.limiter.freeze(overload=True)
    caller.fail(200)
    caller.succeed(200, seconds=9.0)
    assert caller.limit == 64


def test_after_a_hold_slow_start_goes_up_to_half_of_the_limit_before_and_then_it_grows_by_one() -> None:
    caller = grown(64)
    caller.limiter.freeze(overload=True)
    caller.limiter.thaw(caller.now)
    assert [caller.limit, *caller.rounds(6)] == [4, 8, 16, 32, 33, 34, 35]


def test_a_hold_that_begins_late_in_an_outage_remembers_the_limit_before_the_outage() -> None:
    caller = grown(64)
    caller.outage(20)
    caller.limiter.freeze(overload=True)
    caller.limiter.thaw(caller.now)
    assert [caller.limit, *caller.rounds(4)] == [4, 8, 16, 32, 33]


@pytest.mark.parametrize(("limit", "thawed"), [(1, 1), (4, 2), (8, 4), (64, 4)])
def test_slow_start_begins_at_four_or_half_of_the_limit_before(limit: int, thawed: int) -> None:
    caller = grown(limit, max_concurrency=limit)
    caller.limiter.freeze(overload=True)
    caller.limiter.thaw(caller.now)
    assert caller.limit == thawed


def test_a_far_side_that_flaps_is_forgotten_by_halves() -> None:
    caller = grown(64)
    aims = []
    for _ in range(4):
        caller.limiter.freeze(overload=True)
        caller.limiter.thaw(caller.now)
        aims.append(caller.limiter._slow_start_until)
    assert aims == [32, 16, 8, 4]


def test_answers_to_attempts_from_before_the_hold_ended_are_no_sign_of_load() -> None:
    caller = grown(64)
    before = caller.now
    for _ in range(64):
        caller.limiter.in_flight += 1
    caller.limiter.freeze(overload=True)
    caller.now += 30
    caller.limiter.thaw(caller.now)
    for _ in range(32):
        caller.limiter.failed(before, caller.now, overload=True)
        caller.limiter.succeeded(before, caller.now)
    assert caller.rounds(2) == [8, 16]


def test_freezing_twice_and_thawing_what_is_not_frozen_change_nothing() -> None:
    caller = grown(64)
    caller.limiter.thaw(caller.now)
    assert caller.limit == 64
    caller.limiter.freeze(overload=True)
    caller.limiter.freeze(overload=True)
    caller.limiter.thaw(caller.now)
    caller.limiter.thaw(caller.now)
    assert caller.rounds(1) == [8]
    caller.limiter.freeze(overload=True)
    caller.limiter.freeze(overload=True)
    caller.limiter.thaw(caller.now)
    assert caller.rounds(4) == [8, 16, 17, 18]


def test_a_hold_during_a_probe_remembers_the_limit_before_the_probe() -> None:
    caller = Caller(64)
    caller.limiter._slow_start_until = START_LIMIT
    while not caller.limiter._before_probe:
        caller.round()
    assert (caller.limit, caller.limiter._before_probe) == (5, 11)
    caller.limiter.freeze(overload=True)
    caller.limiter.thaw(caller.now)
    assert [caller.limit, *caller.rounds(3)] == [4, 5, 6, 7]


# Whatever happens

CALLS = st.tuples(
    st.sampled_from(["start", "succeed", "succeed", "overload", "fail", "cancel", "freeze", "thaw"]),
    st.integers(1, 300),
    st.floats(0, 100),
)


@given(st.integers(1, 300), st.lists(CALLS, max_size=30))
def test_whatever_happens_the_limit_is_in_its_bounds_and_memory_does_not_grow(
    max_concurrency: int, calls: list[tuple[str, int, float]]
) -> None:
    limiter, now = Limiter(max_concurrency), 0.0
    for call, times, seconds in calls:
        for _ in range(times):
            now += seconds / times
            match call:
                case "start":
                    limiter.in_flight += 1
                case "succeed":
                    limiter.in_flight += 1
                    limiter.succeeded(now - seconds, now)
                case "overload" | "fail":
                    limiter.in_flight += 1
                    limiter.failed(now - seconds, now, overload=call == "overload")
                case "cancel":
                    limiter.cancelled()
                case "freeze":
                    limiter.freeze(overload=True)
                case "thaw":
                    limiter.thaw(now)
            assert 1 <= limiter.limit <= max_concurrency
    assert len(pickle.dumps(limiter)) < 1000


def test_a_limiter_recovers_from_a_clock_that_stood_still() -> None:
    caller = grown(64)
    caller.rounds(10, seconds=0.0)
    for _ in range(100):
        caller.round()
    assert caller.limit == 64


# Over links

PROBED = 0.4
"""The lowest mean limit of a tenth of a second, as a share of the capacity: half, as a probe lowers it, and a bit."""
PROBED_FEW = 0.2
"""The same where half of the capacity is one or two, or where chance makes it seem smaller."""


@dataclass(frozen=True)
class Model:
    """A link, and what must come of it.

    `mean` and `floor` are of the limit, as a share of the capacity or of the maximum if that is less, in `settled`: pairs
    of seconds, otherwise the last two thirds of the run. `throughput` is the share of the ideal, in the last two thirds,
    recoveries and all; the goal is GOAL.
    """

    name: str
    link: Callable[[], Link]
    mean: tuple[float, float] = (0.95, 1.0)
    floor: float = PROBED
    throughput: float = 0.9
    max_concurrency: int = 64
    seconds: float = 45
    settled: tuple[tuple[float, float], ...] = ()
    hold_after: int | None = None


GOAL = 0.9
# The bands hold for other seeds, too (2 to 6 were tried).
KNEE = (1.0, 1.4)
"""The limit settles where about half of its root waits in line, so that there always is something to work on."""
SMALL_KNEE = (1.0, 2.0)
DROPPING = (0.9, 1.1)

ABOUT_50_MS = [
    Model("50 ms, constant", lambda: Queueing(spread=none)),
    Model("50 ms, 10 % jitter", lambda: Queueing(spread=jitter(0.1))),
    Model("50 ms, long tail", lambda: Queueing(spread=long_tail(0.5))),
    Model("50 ms, very long tail", lambda: Queueing(spread=long_tail(1.0)), floor=PROBED_FEW),
    Model("50 ms, maximum 1", Queueing, max_concurrency=1),
    Model("50 ms, maximum 256", Queueing, max_concurrency=256, seconds=15),
    Model("50 ms, connecting takes 100", lambda: Connecting(Queueing(), connect_seconds=0.1)),
    Model("2 s, 10 % jitter", lambda: Queueing(mean=always(2.0), spread=jitter(0.1)), seconds=600),
    Model("1 ms, long tail", lambda: Queueing(mean=always(0.001), spread=long_tail(0.7)), seconds=2),
]

QUEUEING = [
    Model("knee at 20", lambda: Queueing(parallel=always(20)), KNEE),
    Model("knee at 20, 10 % jitter", lambda: Queueing(spread=jitter(0.1), parallel=always(20)), KNEE),
    Model("knee at 20, long tail", lambda: Queueing(spread=long_tail(0.5), parallel=always(20)), KNEE, PROBED_FEW),
    Model("knee at 20, exponential", lambda: Queueing(spread=exponential, parallel=always(20)), KNEE, 0.1),
    # All answers come at the same instants, so of 30 attempts 10 wait one whole turn: half of a round seems well.
    Model("knee at 20, constant", lambda: Queueing(spread=none, parallel=always(20)), (1.0, 1.7)),
    Model("knee at 20, 2 s", lambda: Queueing(mean=always(2.0), parallel=always(20)), KNEE, seconds=1200),
    Model("queueing above 5", lambda: Queueing(parallel=always(5)), SMALL_KNEE, PROBED_FEW),
    Model("queueing above 1", lambda: Queueing(parallel=always(1)), SMALL_KNEE),
    Model(
        "queueing above 10, 40, 10",
        lambda: Queueing(parallel=steps((0, 10), (30, 40), (60, 10))),
        (1.0, 1.5),
        seconds=90,
        settled=((10, 30), (40, 60), (70, 90)),
    ),
]

REFUSING = [
    Model("dropping above 5", lambda: Dropping(always(5)), DROPPING, PROBED_FEW),
    Model("dropping above 5, slowly", lambda: Dropping(always(5), refusal_seconds=0.05), DROPPING, PROBED_FEW),
    Model("dropping above 40", lambda: Dropping(always(40)), DROPPING),
    Model(
        "dropping above 100, slowly",
        lambda: Dropping(always(100), refusal_seconds=0.05),
        DROPPING,
        max_concurrency=256,
        seconds=20,
    ),
    Model(
        "dropping above 10, 40, 10",
        lambda: Dropping(steps((0, 10), (30, 40), (60, 10))),
        DROPPING,
        seconds=90,
        settled=((10, 30), (40, 60), (70, 90)),
    ),
    Model("429 above 200 per second", lambda: RateLimited(200, burst=20), DROPPING),
    Model("429 above 200 per second, burst", lambda: RateLimited(200, burst=200), DROPPING, PROBED_FEW),
]


def outage(name: str, *, fail_seconds: float, hold_after: int | None = None, throughput: float = 0.9) -> Model:
    """Return a model whose last minute is judged, which includes the recovery."""
    return Model(
        name,
        lambda: Outage(Queueing(), since=60, until=120, fail_seconds=fail_seconds),
        throughput=throughput,
        max_concurrency=32,
        seconds=180,
        settled=((20, 60), (140, 180)),
        hold_after=hold_after,
    )


OUTAGES = [
    outage("503 for 60 s", fail_seconds=0.005),
    outage("503 for 60 s, held", fail_seconds=0.005, hold_after=20),
    outage("timeouts of 10 s for 60 s", fail_seconds=10.0),
    # Below the goal: the hold's last probe in vain ends 6 of the 60 s after the link is back. The limiter has no part in it.
    outage("timeouts of 10 s for 60 s, held", fail_seconds=10.0, hold_after=20, throughput=0.85),
]

FAILING = [
    Model("5 % failures", lambda: Queueing(failing_share=always(0.05))),
    Model("5 % failures at once", lambda: Queueing(failing_share=always(0.05), fail_seconds=0.005)),
    Model("5 % failures, knee at 20", lambda: Queueing(failing_share=always(0.05), parallel=always(20)), KNEE),
    Model("20 % failures", lambda: Queueing(failing_share=always(0.2))),
    # Below the goal: a jump is what overload looks like, and pulls the limit down until it has become usual.
    Model(
        "20 % failures from 20 s on",
        lambda: Queueing(failing_share=steps((0, 0.0), (20, 0.2))),
        (0.8, 1.0),
        floor=0.1,
        throughput=0.8,
        seconds=60,
    ),
    # Below the goal: nearly all that is on the wire waits for its timeout, and what started together times out together,
    # as in an outage that is about to begin.
    Model(
        "5 % timeouts of 10 s",
        lambda: Queueing(failing_share=always(0.05), fail_seconds=10.0),
        (0.75, 1.0),
        floor=0.25,
        throughput=0.8,
        seconds=300,
    ),
]

SHIFTING = [
    # The first second after the shift, and the probe that tells it from a line, are in the floor and the throughput.
    Model("50, then 150 ms", lambda: Queueing(mean=steps((0, 0.05), (20, 0.15))), floor=0.05, seconds=60),
    Model(
        "50, then 150 ms, knee at 20",
        lambda: Queueing(mean=steps((0, 0.05), (20, 0.15)), parallel=always(20)),
        KNEE,
        floor=0.05,
        seconds=60,
    ),
    Model("150, then 50 ms", lambda: Queueing(mean=steps((0, 0.15), (20, 0.05))), seconds=60),
]


@dataclass(frozen=True)
class Result:
    """What came of a model; `capacity` over the time is written for people."""

    model: Model
    capacity: str
    mean_limit: float
    mean: float
    floor: float
    throughput: float
    overloads: float

    def row(self) -> str:
        low, high = self.model.mean
        below = "" if self.throughput >= GOAL else f"  below {GOAL:.0%}"
        return (
            f"{self.model.name:32} {self.capacity:>9} {self.mean_limit:7.1f} {self.mean:6.2f}  {low:.2f} - {high:.2f} "
            f"{self.floor:7.2f} {self.throughput:7.1%} {self.overloads:7.1%}{below}"
        )


HEADER = (
    f"{'link':32} {'capacity':>9} {'limit':>7} {'share':>6}  {'its band':11} {'lowest':>7} {'through':>7} {'refused':>7}\n"
    f"{'':32} {'':>9} {'mean':>7} {'of it':>6}  {'':11} {'share':>7} {'put':>7} {'/failed':>7}"
)


def judge(model: Model) -> Result:
    link = model.link()
    run: Run = saturate(Limiter(model.max_concurrency), link, seconds=model.seconds, hold_after=model.hold_after)
    length = len(run.limits)
    capacities = [min(model.max_concurrency, link.capacity(step * STEP_SECONDS)) for step in range(length)]
    last = slice(length // 3, length)
    windows = model.settled or ((model.seconds / 3, model.seconds),)
    settled = [
        step for since, until in windows for step in range(round(since / STEP_SECONDS), round(until / STEP_SECONDS))
    ]
    shares = [run.limits[step] / capacities[step] for step in settled]
    ideal = [STEP_SECONDS * link.ideal_rate(step * STEP_SECONDS, model.max_concurrency) for step in range(length)]
    successes, overloads = sum(run.successes[last]), sum(run.overloads[last])
    return Result(
        model,
        capacity=", ".join(f"{capacity:g}" for capacity, _ in groupby(capacities)),
        mean_limit=statistics.fmean(run.limits[step] for step in settled),
        mean=statistics.fmean(shares),
        floor=min(shares),
        throughput=successes / sum(ideal[last]),
        overloads=overloads / (successes + overloads),
    )


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows = [HEADER]
    yield rows
    print("", *rows, sep="\n")


@pytest.mark.parametrize(
    "model",
    [*ABOUT_50_MS, *QUEUEING, *REFUSING, *OUTAGES, *FAILING, *SHIFTING],
    ids=lambda model: model.name.replace(" ", "-"),
)
def test_the_limit_settles_about_the_capacity_of_a_link_and_keeps_it_busy(model: Model, table: list[str]) -> None:
    result = judge(model)
    table.append(result.row())
    low, high = model.mean
    assert low <= result.mean <= high, result
    assert result.floor >= model.floor, result
    assert result.throughput >= model.throughput, result


def test_256_are_reached_within_a_second_at_50_ms() -> None:
    run = saturate(Limiter(256), Queueing(), seconds=1.5)
    assert run.limits[round(1.0 / STEP_SECONDS)] == pytest.approx(256)


@pytest.mark.parametrize("seed", range(5))
def test_over_an_exponential_link_the_limit_settles_whatever_chance_brings(seed: int) -> None:
    model = Model("", lambda: Queueing(spread=exponential, parallel=always(10), seed=seed), (1.0, 1.6), PROBED_FEW)
    result = judge(model)
    assert 1.0 <= result.mean <= 1.6, result
    assert result.throughput >= 0.85, result


def test_failures_unlike_load_leave_a_limit_where_it_is_and_an_outage_takes_it_down_within_a_second() -> None:
    link = Outage(Queueing(failing_share=always(0.2)), since=30.0, until=40.0)
    run = saturate(Limiter(64), link, seconds=60)
    before, down, after = run.limits[290], run.limits[310], run.limits[-1]
    assert before >= 48
    assert down == pytest.approx(1)
    assert after >= 32


# Slow start while our own loop lags

FLOODS = 0.5
"""How many seconds a flood lasts, if it ends."""
LAGS: dict[str, Callable[[float], Timeline]] = {
    "during the first rounds": lambda lag: steps((0, lag), (FLOODS, 0.0)),
    "from the middle of slow start": lambda lag: steps((0, 0.0), (0.2, lag), (0.2 + FLOODS, 0.0)),
    "near the end of slow start": lambda lag: steps((0, 0.0), (0.35, lag), (0.35 + FLOODS, 0.0)),
    "for one round": lambda lag: steps((0, 0.0), (0.25, lag), (0.3, 0.0)),
    "in bursts": lambda lag: lambda now: lag if now % 0.25 < 0.05 else 0.0,
    "from then on": lambda lag: steps((0, 0.0), (0.2, lag)),
    "growing": lambda lag: lambda now: lag * min(1.0, now / 0.5),
}


@pytest.mark.parametrize("noticed_after", [0.0, 0.05])
@pytest.mark.parametrize(("lag", "seconds"), [(0.005, 2.5), (0.02, 2.5), (0.1, 6.0)])
@pytest.mark.parametrize("when", LAGS)
def test_slow_start_comes_near_the_maximum_although_our_own_loop_lags(
    when: str, lag: float, seconds: float, noticed_after: float
) -> None:
    # Too soon for growth by one a round, had slow start ended at half of the maximum.
    for seed in range(3):
        loop = OwnLoop(LAGS[when](lag), noticed_after=noticed_after, seed=seed)
        run = saturate(Limiter(256), Queueing(seed=seed), seconds=seconds, loop=loop)
        assert max(run.limits) >= 0.9 * 256, seed


@pytest.mark.parametrize("lag", [0.0, 0.005, 0.02])
def test_a_lagging_loop_does_not_hide_a_line_at_the_far_side_for_long(lag: float) -> None:
    loop = OwnLoop(steps((0, lag), (2.0, 0.0)))
    run = saturate(Limiter(256), Queueing(parallel=always(20)), seconds=20.0, loop=loop)
    assert statistics.fmean(run.limits[100:]) <= 1.5 * 20


# Another maximum


def test_a_lower_maximum_is_the_limit_at_once_and_a_higher_one_is_grown_to() -> None:
    caller = grown(64)
    caller.limiter.change_max(8)
    assert caller.limit == 8
    assert not caller.limiter.in_flight < caller.limit
    caller = grown(64)
    caller.limiter.change_max(256)
    assert caller.limit == 64
    assert caller.rounds(2) == [128, 256]


def test_a_higher_maximum_does_not_bring_back_the_doubling_that_failures_ended() -> None:
    caller = grown(64)
    caller.round(failures=caller.limit // 2)
    before = caller.limit
    caller.limiter.change_max(256)
    caller.rounds(QUIET_ROUNDS + 3)
    assert before < caller.limit < 64 + QUIET_ROUNDS


@pytest.mark.parametrize("maximum", [1, 2, 64, 256])
def test_the_limit_stays_below_any_maximum_also_after_a_probe_for_the_base(maximum: int) -> None:
    caller = grown(64)
    caller.limiter.change_max(maximum)
    assert all(1 <= limit <= maximum for limit in caller.rounds(3 * PROBE_ROUNDS))


def test_the_limit_is_not_above_a_lower_maximum_when_a_hold_ends() -> None:
    caller = grown(64)
    caller.limiter.freeze(overload=True)
    caller.limiter.change_max(2)
    caller.limiter.thaw(caller.now)
    assert caller.limit == 2

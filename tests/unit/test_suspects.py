"""Which refusals count: the rule of delivery/suspects.py, step by step."""

from collections.abc import Iterator
from itertools import count

import pytest

from forwarder.delivery.suspects import RefusalHistory, Suspects, Verdict
from forwarder.settings import DeliverySettings
from forwarder.words import EventBlockedWhy


class Run:
    """Attempts of one event at a time, beside others that are delivered."""

    def attempt_begins(self) -> int:
        """Count an attempt as the engine does, and return its number."""
        self.suspects.attempts_begun += 1
        return self.suspects.attempts_begun

    def __init__(self, *, lanes_in_a_row: int = 3, seconds: float = 60.0) -> None:
        self.suspects = Suspects(DeliverySettings(systemic_rejections=lanes_in_a_row, systemic_seconds=seconds))
        self.now = 1000.0
        self.refusals: dict[str, RefusalHistory] = {}
        self.tried: set[str] = set()

    def deliver(self, *, key_number: int | None = None, event: str = "another") -> None:
        self.end_delivered(self.attempt_begins(), key_number=key_number, event=event)

    def end_delivered(self, number: int, *, key_number: int | None = None, event: str = "another") -> None:
        key = self.suspects.key_number if key_number is None else key_number
        self.suspects.delivered(number, key, self.refusals.pop(event, None), self.now)

    def refuse(
        self, event: str = "a", why: EventBlockedWhy = "refusal", *, status: int = 403, key_number: int | None = None
    ) -> Verdict:
        self.attempt_begins()
        refused = self.suspects.refused(
            self.refusals.get(event),
            why,
            status=status,
            key_number=self.suspects.key_number if key_number is None else key_number,
            counts_for=None if event in self.tried else event,
            now=self.now,
        )
        self.tried.add(event)
        self.refusals[event] = refused.refusals
        return refused

    def refuse_with_evidence(self, event: str = "a", *, seconds: float = 0.0, why: EventBlockedWhy = "refusal") -> bool:
        """Have another event delivered, and this one refused, and return whether it is a dead letter."""
        self.deliver()
        self.now += seconds
        return self.refuse(event, why).confirmed


@pytest.fixture
def run() -> Run:
    some = Run()
    some.deliver()
    return some


def confirm(run: Run, event: str) -> int:
    """Refuse an event with evidence until it is a dead letter; return how many refusals that took after the first."""
    run.refuse(event)
    return next(number for number in count(1) if run.refuse_with_evidence(event, seconds=20.0))


def test_a_suspect_is_a_dead_letter_after_three_refusals_that_count_over_systemic_seconds(run: Run) -> None:
    assert not run.refuse().confirmed
    verdicts = [run.refuse_with_evidence(seconds=10.0) for _ in range(7)]
    assert verdicts == [False] * 6 + [True], "the first that counts was 60 s before"


def test_time_alone_confirms_nothing_nor_do_many_refusals_without_a_delivery_between_them(run: Run) -> None:
    run.refuse()
    for _ in range(100):
        run.now += 60.0
        assert not run.refuse().confirmed
    assert not run.refuse_with_evidence()
    run.now += 60.0
    assert not run.refuse_with_evidence()
    assert not run.refuse().confirmed, "this one does not count"
    assert run.refuse_with_evidence()


def test_a_refusal_that_does_not_count_confirms_nothing_however_many_did_before(run: Run) -> None:
    run.refuse()
    assert [run.refuse_with_evidence(seconds=1.0) for _ in range(5)] == [False] * 5
    run.now += 3600.0
    assert not run.refuse().confirmed, "now everything may be refused"
    assert run.refuse_with_evidence()


def test_once_one_was_confirmed_three_refusals_that_count_suffice_without_the_time(run: Run) -> None:
    confirm(run, "a")
    run.refuse("b")
    assert [run.refuse_with_evidence("b") for _ in range(3)] == [False, False, True]


def test_a_suspect_that_is_delivered_ends_the_shortcut_and_for_a_while_there_are_no_dead_letters(run: Run) -> None:
    confirm(run, "a")
    run.refuse("b")
    run.refuse("c")
    run.deliver(event="b")
    verdicts = [run.refuse_with_evidence("c", seconds=10.0) for _ in range(8)]
    assert verdicts == [False] * 6 + [True, True]


def test_where_refusals_have_passed_lately_one_that_lasts_for_long_is_no_dead_letter_yet(run: Run) -> None:
    run.refuse("b")
    run.refuse("c")
    assert [run.refuse_with_evidence("c", seconds=25.0) for _ in range(3)] == [False] * 3
    run.deliver(event="b")
    assert [run.refuse_with_evidence("c", seconds=30.0) for _ in range(2)] == [False, True]


def test_an_attempt_that_began_before_the_refusal_is_no_evidence(run: Run) -> None:
    on_wire = [run.attempt_begins() for _ in range(5)]
    run.refuse()
    for number in on_wire:
        run.end_delivered(number)
        run.now += 60.0
        assert not run.refuse().has_evidence
    assert run.refuse_with_evidence() is False
    assert run.refusals["a"].counted == 1


def test_a_delivery_with_the_old_key_is_no_evidence(run: Run) -> None:
    run.refuse()
    run.suspects.key_changed()
    run.refuse()
    run.deliver(key_number=0)
    assert not run.refuse().has_evidence


def test_what_was_refused_with_the_old_key_says_nothing_of_the_new_one(run: Run) -> None:
    confirm(run, "a")
    run.refuse("b")
    run.refuse_with_evidence("b")
    run.refuse_with_evidence("b")
    run.suspects.key_changed()
    run.deliver()
    assert not run.refuse("b").confirmed
    assert run.refusals["b"].counted == 0
    assert [run.refuse_with_evidence("b") for _ in range(3)] == [False] * 3, "nor is there a shortcut"


def test_an_event_that_the_old_key_was_refused_for_and_the_new_one_delivers_proves_nothing(run: Run) -> None:
    run.refuse("b")
    run.suspects.key_changed()
    run.deliver()
    run.refuse("c")
    assert [run.refuse_with_evidence("c", seconds=30.0) for _ in range(2)] == [False, False]
    run.deliver(event="b")
    assert run.refuse_with_evidence("c", seconds=30.0), "b says nothing of refusals with this key"


def test_what_the_new_key_delivers_is_no_evidence_of_refusals_with_the_old_one(run: Run) -> None:
    run.refuse("a")
    run.suspects.key_changed()
    run.deliver()
    assert not run.refuse("a", key_number=0).has_evidence


def test_an_attempt_that_began_with_the_refused_one_or_before_is_no_evidence_whichever_ends_last(run: Run) -> None:
    earlier, own = run.attempt_begins(), run.attempt_begins()
    refused = run.suspects.refused(None, "refusal", status=403, key_number=0, counts_for="a", now=run.now)
    run.refusals["a"] = refused.refusals
    run.end_delivered(own)
    assert not run.refuse().has_evidence
    run.deliver()
    run.end_delivered(earlier)
    assert run.refuse().has_evidence, "the latest that was delivered counts, not the last"


def test_what_is_shown_is_the_status_of_the_last_refusal(run: Run) -> None:
    run.refuse(status=403)
    assert run.refuse(status=451).refusals.status == 451


def test_an_event_that_was_blocked_but_is_no_suspect_recovers_nothing(run: Run) -> None:
    run.refuse("b", "key")
    run.refuse("c")
    assert [run.refuse_with_evidence("c", seconds=30.0) for _ in range(2)] == [False, False]
    run.deliver(event="b")
    assert run.refuse_with_evidence("c", seconds=30.0)


def test_a_late_refusal_of_an_attempt_with_the_old_key_neither_holds_nor_counts(run: Run) -> None:
    run.suspects.key_changed()
    for number in range(5):
        late = run.refuse(f"late {number}", key_number=0)
        assert (late.hold, late.has_evidence) == (None, False)
    assert run.refuse("late key", "key", key_number=0).hold is None
    assert run.refuse("first").hold == "auth", "the new key has delivered nothing"


def test_the_first_refusal_holds_while_the_key_has_delivered_nothing() -> None:
    run = Run()
    assert run.refuse().hold == "auth"
    assert run.refuse().hold == "auth", "a retry, too"
    run.deliver()
    assert run.refuse("b").hold is None


def test_first_attempts_of_so_many_lanes_in_a_row_hold_and_retries_never_count(run: Run) -> None:
    for _ in range(50):
        assert run.refuse("a").hold is None
    assert run.refuse("b").hold is None
    assert run.refuse("c").hold == "auth"


def test_a_delivery_begins_the_row_anew(run: Run) -> None:
    for number in range(20):
        run.refuse(f"a{number}")
        run.refuse(f"b{number}")
        run.deliver()
    assert run.refuse("c").hold is None


def test_one_lane_alone_never_holds_once_the_key_has_delivered(run: Run) -> None:
    for _ in range(100):
        refused = run.refuse()
        assert (refused.hold, refused.confirmed) == (None, False)


@pytest.mark.parametrize("status", [401, 407])
def test_a_401_holds_at_once_but_not_for_an_event_that_is_refused_again_while_others_were_delivered(
    run: Run, status: int
) -> None:
    first = run.refuse(why="key", status=status)
    assert (first.hold, first.refusals.suspect) == ("auth", False)
    again = run.refuse(why="key", status=status)
    assert (again.hold, again.refusals.suspect) == ("auth", False)
    run.deliver()
    third = run.refuse(why="key", status=status)
    assert (third.hold, third.refusals.suspect) == (None, True)
    assert [run.refuse_with_evidence(seconds=30.0, why="key") for _ in range(3)] == [False, False, True]


def test_a_page_in_place_of_an_answer_holds_with_a_cause_of_its_own_and_may_have_arrived() -> None:
    run = Run()
    refused = run.refuse(why="not_growlytics", status=200)
    assert (refused.hold, refused.refusals.maybe_there) == ("not_growlytics", True)
    run.deliver()
    run.refuse("b", "not_growlytics")
    run.refuse("c", "not_growlytics")
    assert run.refuse("d", "not_growlytics").hold == "not_growlytics"


def times_it_hurries(run: Run, lanes: Iterator[str]) -> int:
    number = 0
    while run.suspects.hurries:
        run.suspects.probe_failed(next(lanes))
        number += 1
    return number


def test_lanes_not_yet_tried_are_probed_early_until_so_many_were_in_vain_in_this_hold(run: Run) -> None:
    run.suspects.hold_began()
    run.suspects.probe_failed("a")
    assert times_it_hurries(run, iter("abc")) == 3, "a was there already"
    run.suspects.hold_began()
    assert times_it_hurries(run, iter("abc")) == 3
    run.suspects.key_changed()
    assert run.suspects.hurries


def test_other_settings_count_from_now_on(run: Run) -> None:
    run.suspects.use(DeliverySettings(systemic_rejections=1, systemic_seconds=5.0))
    assert run.refuse().hold == "auth"
    assert [run.refuse_with_evidence(seconds=2.5) for _ in range(3)] == [False, False, True]

"""What happened last: bounded, newest first, fit to be shown, and repeats do not push others out."""

from typing import Any

import orjson
import pytest

from forwarder.observing.recent import MAX_SHOWN, MAX_TIMES, Receipts, Recent
from forwarder.settings import ReceiptsSettings


class Watch:
    """What happens, a second after the other."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.recent = Recent(clock=self._tick)

    def _tick(self) -> float:
        self.now += 1
        return self.now

    def refuse(self, count: int = 1, **more: Any) -> None:
        self.recent.refused(count, **{"intake": "http", "code": "empty", **more})

    def bury(self, event_id: int, name: str = "Add To Cart") -> None:
        self.recent.dead_lettered(event_id, reason="rejected", status=422, name=name)

    def refusals(self) -> list[dict[str, Any]]:
        refusals: list[dict[str, Any]] = self.recent.described()["refusals"]  # type: ignore[assignment]  # JSON
        return refusals

    def dead_letters(self) -> list[dict[str, Any]]:
        letters: list[dict[str, Any]] = self.recent.described()["dead_letters"]  # type: ignore[assignment]  # JSON
        return letters


def test_at_first_there_is_nothing() -> None:
    recent = Watch().recent
    assert recent.described() == {"refusals": [], "dead_letters": []}
    assert recent.attempt_seconds() == recent.latency_seconds() == {"p50": None, "p99": None}
    assert recent.last_failure() is None


def test_the_last_failure_is_the_last_one_with_its_time() -> None:
    watch = Watch()
    watch.recent.failed({"kind": "dns", "status": None, "error": "no such host a", "host": "a:443"})
    watch.recent.failed({"kind": "status", "status": 503, "error": "503 Service Unavailable", "host": "b:443"})
    assert watch.recent.last_failure() == {
        "at": 1_700_000_002,
        "kind": "status",
        "status": 503,
        "error": "503 Service Unavailable",
        "host": "b:443",
    }


def test_refusals_are_shown_newest_first_with_all_that_is_known_of_them() -> None:
    watch = Watch()
    watch.refuse(3, name="Add To Cart", field="customerId")
    watch.refuse(intake="unix", code="malformed_json")
    assert watch.refusals() == [
        {"at": 1_700_000_002, "intake": "unix", "code": "malformed_json", "name": None, "field": None, "events": 1},
        {
            "at": 1_700_000_001,
            "intake": "http",
            "code": "empty",
            "name": "Add To Cart",
            "field": "customerId",
            "events": 3,
        },
    ]


def test_a_flood_of_one_kind_is_one_entry_and_leaves_the_others_in_sight() -> None:
    watch = Watch()
    watch.refuse(name="Rare")
    for _ in range(1000):
        watch.refuse(2, code="buffer_full")
    flood, rare = watch.refusals()
    assert (flood["code"], flood["events"], flood["at"]) == ("buffer_full", 2000, 1_700_001_001)
    assert (rare["name"], rare["events"]) == ("Rare", 1)


def test_a_kind_that_comes_again_is_the_newest() -> None:
    watch = Watch()
    for name in ("first", "second", "first"):
        watch.refuse(name=name)
    assert [each["name"] for each in watch.refusals()] == ["first", "second"]


def test_the_kinds_that_were_refused_longest_ago_and_the_oldest_dead_letters_go() -> None:
    watch = Watch()
    for number in range(3 * MAX_SHOWN):
        watch.refuse(name=f"name {number}")
        watch.bury(number)
    newest = [*range(3 * MAX_SHOWN - 1, 2 * MAX_SHOWN - 1, -1)]
    assert [each["name"] for each in watch.refusals()] == [f"name {number}" for number in newest]
    assert [each["id"] for each in watch.dead_letters()] == [str(number) for number in newest]


@pytest.mark.parametrize("hostile", ["\x1b[2J", "right\u202eleft", "two\nlines", "\ud800 lone", "long" * 10_000])
def test_names_of_strangers_are_escaped_and_shortened(hostile: str) -> None:
    watch = Watch()
    watch.refuse(name=hostile, field=f"attributes.{hostile}")
    watch.bury(1, hostile)
    (refusal,), (letter,) = watch.refusals(), watch.dead_letters()
    for text in (refusal["name"], refusal["field"], letter["name"]):
        assert text.isprintable()
        assert len(text) <= 200
    assert orjson.dumps(watch.recent.described()), "it is what JSON can carry"


def test_a_dead_letter_is_shown_with_its_reason_and_status() -> None:
    watch = Watch()
    watch.bury(12)
    watch.recent.dead_lettered(13, reason="expired", status=None, name="Old")
    assert watch.dead_letters() == [
        {"id": "13", "at": 1_700_000_002, "reason": "expired", "status": None, "name": "Old"},
        {"id": "12", "at": 1_700_000_001, "reason": "rejected", "status": 422, "name": "Add To Cart"},
    ]


def test_the_median_and_the_99th_percentile_are_of_the_last_times_only() -> None:
    recent = Watch().recent
    for _ in range(500):
        recent.attempt_times.append(90.0)
    for number in range(1, MAX_TIMES + 1):
        recent.attempt_times.append(number / 1000)
        recent.latency_times.append(number / 100)
    assert recent.attempt_seconds() == {"p50": 0.5, "p99": 0.99}
    assert recent.latency_seconds() == {"p50": 5.0, "p99": 9.9}


def test_one_time_is_its_own_median_and_percentile() -> None:
    recent = Watch().recent
    recent.latency_times.append(0.25)
    assert recent.latency_seconds() == {"p50": 0.25, "p99": 0.25}


def test_losses_and_failures_of_the_disk_have_the_time_of_the_last_one() -> None:
    watch = Watch()
    assert (watch.recent.dropped_at(), watch.recent.buffer_failure()) == ({}, None)
    for _ in range(2):
        watch.recent.dropped("corrupt")
    watch.recent.buffer_failed("count", "it failed")
    watch.recent.buffer_failed("commit", "database or disk is full")
    assert watch.recent.dropped_at() == {"corrupt": 1_700_000_002.0}
    assert watch.recent.buffer_failure() == {
        "at": 1_700_000_004.0,
        "operation": "commit",
        "error": "database or disk is full",
    }


def test_the_receipts_of_a_customer_are_erased_and_no_others() -> None:
    receipts = Receipts(ReceiptsSettings(max_events=10), clock=lambda: 1.0)
    receipts.ended(1, "delivered", None, "a")
    receipts.ended(2, "delivered", None, "b")
    receipts.ended(3, "dead_letter", "rejected", "a")
    receipts.ended(4, "dropped", "corrupt")
    receipts.ended(5, "delivered", None, "a")
    assert receipts.erase("a", up_to=4, dry_run=True) == 2
    assert receipts.find(1) is not None
    assert receipts.erase("a", up_to=4) == 2
    assert [receipts.find(event_id) is None for event_id in range(1, 6)] == [True, False, True, False, False]

"""What `top` shows for which status."""

from typing import Any

import pytest

from forwarder.cli.answers import StatusAnswer, read_status
from forwarder.cli.top_rows import LABEL_COLUMNS, Rates, Row, Trouble, rates, rows, sparkline
from forwarder.text import duration

NOW = 1_700_000_000.0


def snapshot(**content: Any) -> StatusAnswer:
    return read_status({"state": "ready", "ledger": {}} | content)


def ledger(**counts: int) -> dict[str, object]:
    return {"for_ever": counts}


def shown(now: StatusAnswer, *, trouble: Trouble | None = None) -> dict[str, list[Row]]:
    """Return the rows by their labels, with those that go on below."""
    found: dict[str, list[Row]] = {}
    for row in rows(now, place="http://a:1", trouble=trouble, unix_seconds=NOW, columns=80):
        found.setdefault(row.label or list(found)[-1], []).append(row)
    return found


def texts(found: list[Row]) -> list[str]:
    return [row.text for row in found]


def test_a_status_without_anything_is_shown_as_not_known() -> None:
    found = shown(snapshot())
    assert texts(found["state"]) == ["ready, up –, version –, at http://a:1"]
    assert texts(found["in"]) == ["–"]
    assert texts(found["buffer"])[0] == "– of – events, – of – MiB"
    assert texts(found["dead letters"]) == ["– of –, – of – MiB"]
    assert found["ledger"][-1] == Row("", "not known whether it balances", "dim")


def test_the_rates_are_those_of_the_daemon_however_old_its_version() -> None:
    found = {"accepted_per_second": 4.0, "delivered_per_second": 3.5, "refused_per_second": 0.0, "over_seconds": 30}
    older = {"accepted_per_second": 3.0, "done_with_per_second": 2.0}
    samples = {"accepted": [1, 9]}
    assert rates(snapshot(rates=found, forecasts=older, history=samples)) == Rates(4.0, 3.5, 0.0)
    assert rates(snapshot(forecasts=older, history=samples)) == Rates(9, 2.0, None)
    assert rates(snapshot()) == Rates(None, None, None)
    assert texts(shown(snapshot(rates=found))["out"]) == ["3.5 a second"]


def test_the_headline_and_the_problems_come_first_each_with_its_cause() -> None:
    now = snapshot(
        headline={"state": "not_delivering", "mood": "bad", "text": "Not delivering: Growlytics refuses the API key."},
        problems=[
            {"kind": "auth", "mood": "bad", "what": "Growlytics refuses the API key.", "cause": "401 (a:443)"},
            {"kind": "restart_needed", "mood": "note", "what": "A restart is needed.", "cause": ""},
        ],
    )
    found = shown(now)
    assert list(found)[:3] == ["state", "headline", "problems"]
    assert found["headline"] == [Row("headline", "Not delivering: Growlytics refuses the API key.", "bad")]
    assert found["problems"] == [
        Row("problems", "Growlytics refuses the API key. (401 (a:443))", "bad"),
        Row("", "A restart is needed.", "plain"),
    ]
    assert "headline" not in shown(snapshot())


def test_without_a_newer_answer_it_says_for_how_long_and_why() -> None:
    found = shown(snapshot(), trouble=Trouble(75.0, "Connection refused"))
    assert found["NO ANSWER"] == [Row("NO ANSWER", "for 1 min 15 s, so this is older: Connection refused", "bad")]


def test_every_hold_is_shown_with_its_next_probe() -> None:
    holds = {"breaker": {"seconds": 12.0, "probe_in_seconds": 3.25}, "auth": {"seconds": 4000}}
    assert shown(snapshot(holds=holds))["HOLDS"] == [
        Row("HOLDS", "breaker for 12 s, next probe in 3.2 s", "warning"),
        Row("", "auth for 1 h 6 min", "bad"),
    ]
    assert shown(snapshot())["holds"] == [Row("holds", "none", "good")]


@pytest.mark.parametrize(
    ("failure", "holds", "row"),
    [
        (
            {"at": NOW - 12, "kind": "connect", "error": "connection refused", "host": "a:443"},
            {"breaker": {"seconds": 12.0}},
            Row("failed last", "12 s ago connection refused (a:443)", "warning"),
        ),
        ({"error": "503 \x1b[2J", "host": None}, {}, Row("failed last", "503 \\x1b[2J", "dim")),
        (None, {}, None),
    ],
)
def test_the_last_failed_attempt_is_shown_with_its_cause(
    failure: dict[str, object] | None, holds: dict[str, object], row: Row | None
) -> None:
    found = shown(snapshot(delivery={"last_failure": failure}, holds=holds))
    assert found.get("failed last") == (None if row is None else [row])


@pytest.mark.parametrize(
    ("ready", "text", "tone"),
    [(0, "0 % full", "plain"), (79, "79 % full", "plain"), (80, "80 % full", "warning"), (100, "100 % full", "bad")],
)
def test_the_buffer_warns_before_it_is_full(ready: int, text: str, tone: str) -> None:
    events = {"ready": ready, "parked": 0, "in_flight": 0}
    row = shown(snapshot(buffer={"events": events, "max_events": 100}))["buffer"][0]
    assert row.text.startswith(text)
    assert row.tone == tone


def test_a_buffer_whose_disk_fails_is_said_so() -> None:
    assert "UNAVAILABLE" in shown(snapshot(buffer={"available": False}))["buffer"][1].text


@pytest.mark.parametrize(
    ("forecasts", "ready", "text", "tone"),
    [
        ({"full_in_seconds": 7200}, 1, "full in 2 h", "plain"),
        ({"full_in_seconds": 3599}, 1, "full in 59 min 59 s", "warning"),
        ({"drained_in_seconds": 90}, 1, "empty in 1 min 30 s", "plain"),
        ({"drained_in_seconds": 0}, 0, "empty", "plain"),
        ({}, 1, "neither fills nor drains", "plain"),
    ],
)
def test_the_forecast_is_said_in_words(forecasts: dict[str, float], ready: int, text: str, tone: str) -> None:
    buffer = {"events": {"ready": ready, "parked": 0, "in_flight": 0}}
    row = shown(snapshot(forecasts=forecasts, buffer=buffer))["forecast"][0]
    assert (row.text, row.tone) == (text, tone)


def test_the_ledger_says_whether_it_balances() -> None:
    balanced = shown(snapshot(ledger=ledger(received=1_234, unaccounted=0)))["ledger"]
    assert balanced[0].text.startswith("received 1,234 = ")
    assert balanced[-1] == Row("", "it balances", "good")
    assert shown(snapshot(ledger=ledger(unaccounted=-2)))["ledger"][-1].text.startswith("DOES NOT BALANCE: -2")


def test_events_that_were_dropped_are_a_warning_that_says_why() -> None:
    row = shown(snapshot(ledger={"for_ever": {"dropped": {"corrupt": 1_000, "drop_oldest": 0}}}))["ledger"][1]
    assert row.tone == "warning"
    assert "dropped 1,000 (corrupt 1,000) +" in row.text
    row = shown(snapshot(ledger={"for_ever": {"dropped": {"corrupt": 0}}}))["ledger"][1]
    assert row.tone == "plain"
    assert "dropped 0 +" in row.text
    row = shown(snapshot(ledger={"for_ever": {"dropped": {"erased": 3}}}))["ledger"][1]
    assert row.tone == "plain", "somebody wanted that"
    assert "dropped 3 (erased 3) +" in row.text


def test_dead_letters_are_a_warning_while_there_are_any() -> None:
    kept = {"events": 3, "bytes": 2**20, "max_events": 100_000, "max_bytes": 2**26}
    assert shown(snapshot(dead_letters=kept))["dead letters"] == [
        Row("dead letters", "3 of 100,000, 1 of 64 MiB", "warning")
    ]
    assert shown(snapshot(dead_letters=kept | {"events": 0}))["dead letters"] == [Row("dead letters", "none", "good")]


def test_delivery_shows_the_limit_the_latencies_and_what_came_of_the_attempts() -> None:
    found = shown(
        snapshot(
            delivery={
                "in_flight": 2,
                "concurrency_limit": 8,
                "max_concurrency": 64,
                "attempts": {"delivered": 5, "retryable": 1},
                "attempt_seconds": {"p50": 0.012, "p99": 1.5},
                "latency_seconds": {"p50": None, "p99": None},
            }
        )
    )
    assert texts(found["delivery"]) == ["2 on the wire, limit 8 of 64"]
    assert texts(found["latency"]) == ["of attempts 12 ms (median), 1.5 s (99 %)", "since accepted –"]
    assert texts(found["attempts"]) == ["delivered 5, retryable 1"]


def test_the_latest_conflict_is_shown_and_how_many_more_attributes_have_some() -> None:
    conflict = {"name": "Buy", "attribute": "Price", "expected": "number", "found": "string", "action": "observe"}
    found = texts(shown(snapshot(attribute_types={"conflicts": [conflict | {"conflicts": 4}] * 5}))["conflicts"])
    assert found == [
        "Buy / Price: string instead of number, 4 times, observe",
        "and 4 more attributes",
    ]
    assert texts(shown(snapshot())["conflicts"]) == ["none"]
    assert texts(shown(snapshot(attribute_types={"full": True}))["conflicts"])[1].startswith("no room for more types")


def test_settings_are_shown_only_if_there_is_something_to_do() -> None:
    assert "settings" not in shown(snapshot(settings={"restart_needed": [], "error": None}))
    found = shown(snapshot(settings={"restart_needed": ["intake.http", "buffer.kind"], "error": "line 3"}))["settings"]
    assert texts(found) == [
        "the last reload failed, nothing changed: line 3",
        "need a restart: intake.http, buffer.kind",
    ]


def test_what_was_refused_and_given_up_lately_comes_last() -> None:
    recent = {
        "refusals": [
            {"at": NOW - 61, "code": "missing_field", "field": "time", "name": "Buy", "intake": "http", "events": 3}
        ],
        "dead_letters": [{"at": NOW + 5, "reason": "rejected", "status": 422, "name": "Buy"}],
    }
    now = snapshot(recent=recent)
    assert texts(shown(now)["refusals"]) == ["1 min 1 s ago missing_field (field time) of Buy via http, 3 times"]
    assert texts(shown(now)["dead lately"]) == ["0 s ago rejected, answered 422: Buy"]
    assert list(shown(now))[-2:] == ["refusals", "dead lately"]


def test_occurrences_that_are_alike_are_one_row_with_the_time_of_the_latest() -> None:
    dead = [{"at": NOW - ago, "reason": "rejected", "name": name} for ago, name in ((1, "A"), (2, "B"), (3, "A"))]
    assert texts(shown(snapshot(recent={"dead_letters": dead}))["dead lately"]) == [
        "1.0 s ago rejected: A, 2 times",
        "2.0 s ago rejected: B",
    ]


def test_a_sparkline_has_the_newest_samples_the_highest_the_tallest() -> None:
    assert sparkline([0, 1, 7], 80, highest=7) == "▁▂█"
    assert sparkline([5, 0, 0.01], 2, highest=5) == "▁▂"
    assert sparkline([0, 0], 80, highest=0) == "▁▁"
    assert sparkline([], 80, highest=0) == sparkline([1], 0, highest=1) == ""
    assert sparkline([-1, 2], 80, highest=2) == "▁█"


def test_what_comes_in_and_goes_out_is_drawn_on_one_scale() -> None:
    found = shown(snapshot(history={"accepted": [70, 70], "delivered": [0, 10], "refused": [1], "buffered": [0, 5]}))
    assert [texts(found[label])[0].split()[-1] for label in ("in", "out", "refused")] == ["██", "▁▂", "█"]
    assert texts(found["buffer"])[-1] == "▁█"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0, "0 s"), (0.0123, "12 ms"), (9.94, "9.9 s"), (59.6, "1 min"), (61, "1 min 1 s"),
        (3600, "1 h"), (3 * 86_400 + 60, "3 d"), (1e15, "11574074074 d 1 h"),
    ],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_labels_fit_their_column() -> None:
    everything = snapshot(
        holds={"auth": {}}, recent={"refusals": [{}], "dead_letters": [{}]}, settings={"error": "x"},
        delivery={"attempts": {"delivered": 1}},
    )  # fmt: skip
    assert max(map(len, shown(everything, trouble=Trouble(1, "x")))) < LABEL_COLUMNS

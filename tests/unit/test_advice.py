"""The headline is true for every combination of states, and each problem has its cause, a fix and commands that work."""

import copy
import itertools
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from forwarder.advice import failures, problems, waiting
from forwarder.advice.headline import advise
from forwarder.settings import reference
from forwarder.words import (
    CONFLICT_ACTIONS,
    DAEMON_STATES,
    DELAY_CAUSES,
    DROP_REASONS,
    FAILURE_KINDS,
    HEADLINE_STATES,
    HOLD_CAUSES,
    MOODS,
)
from tests.quoted_commands import is_whole, quoted_in

NOW = 1_800_000_000.0
LEDGER = {
    "received": 100,
    "accepted": 100,
    "duplicates": 0,
    "rejected": 0,
    "delivered": 100,
    "dead_lettered": {"rejected": 0},
    "dropped": {"drop_oldest": 0, "corrupt": 0, "shutdown": 0},
    "buffered": 0,
    "unaccounted": 0,
}
WELL: Mapping[str, Any] = {
    "version": "1",
    "state": "ready",
    "at": NOW,
    "instance": "host-1",
    "pid": 4321,
    "command": "growlytics-forwarder",
    "addresses": {"http": "127.0.0.1:8920", "control": "/var/lib/growlytics-forwarder/control.sock"},
    "uptime_seconds": 7200.0,
    "settings": {
        "loaded_at": NOW,
        "restart_needed": [],
        "error": None,
        "key_file": None,
        "token_file": None,
        "needs_token": False,
        "file_faults": {},
    },
    "ledger": {"since_start": dict(LEDGER), "for_ever": dict(LEDGER)},
    "buffer": {
        "kind": "disk",
        "directory": "/var/lib/growlytics-forwarder",
        "when_full": "reject",
        "available": True,
        "events": {"ready": 0, "parked": 0, "in_flight": 0},
        "bytes": 0,
        "max_events": 1000,
        "max_bytes": 1_000_000,
        "oldest_event_age_seconds": 0,
        "last_error": None,
        "last_dropped_at": {},
    },
    "delivery": {
        "destination": "https://dc.growlytics.in/track/event",
        "in_flight": 0,
        "concurrency_limit": 4,
        "max_concurrency": 64,
        "rate_limit_per_second": 0.0,
        "order": "customer",
        "waits_for": None,
        "attempts": {"delivered": 100, "retryable": 0, "rejected": 0, "blocked": 0},
        "failures_in_a_row": 0,
        "last_failure": None,
        "last_delivery_at": NOW - 4,
        "suspects": {"events": 0, "first": None},
    },
    "holds": {},
    "dead_letters": {
        "events": 0,
        "by_reason": {"rejected": 0, "expired": 0, "ambiguous": 0},
        "evicted": {"full": 0, "purged": 0},
        "bytes": 0,
        "max_events": 1000,
        "max_bytes": 1_000_000,
    },
    "attribute_types": {"policy": "observe", "learned": 5, "fixed": 0, "max": 100, "full": False, "conflicts": []},
    "rates": {
        "accepted_per_second": 1.0,
        "delivered_per_second": 1.0,
        "refused_per_second": 0.0,
        "over_seconds": 30.0,
    },
    "forecasts": {"full_in_seconds": None, "drained_in_seconds": 0.0},
    "recent": {"refusals": [], "dead_letters": []},
}
WAITING = {"buffer": {"events": {"ready": 200}, "bytes": 60_000, "oldest_event_age_seconds": 200.0}}
BEHIND = {**WAITING, "forecasts": {"drained_in_seconds": 240.0, "full_in_seconds": None}}
FAILURE = {"at": NOW - 1, "kind": "status", "status": 401, "error": "401 Unauthorized", "host": "dc.growlytics.in:443"}
REFUSED_NOW = {"at": NOW - 2, "intake": "http", "code": "name_too_long", "name": "Buy", "field": "name", "events": 7}
DEAD = {"id": "17", "at": NOW - 60, "reason": "rejected", "status": 422, "name": "Buy"}
DRIFT = {
    "name": "Buy",
    "attribute": "Price",
    "expected": "number",
    "found": "string",
    "action": "observe",
    "conflicts": 3,
    "last_at": NOW - 5,
    "learned": True,
}
SUSPECT: dict[str, Any] = {"events": 1, "first": {"id": "42", "name": "Buy", "status": 403, "refusals": 5}}


def status(*changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status of a daemon that is well, with these changes."""
    content: dict[str, Any] = copy.deepcopy(dict(WELL))

    def change(of: dict[str, Any], by: Mapping[str, Any]) -> None:
        for name, value in by.items():
            if isinstance(value, Mapping) and isinstance(of.get(name), dict):
                change(of[name], value)
            else:
                of[name] = copy.deepcopy(value)

    for each in changes:
        change(content, each)
    return content


def held(cause: str, *, seconds: float = 42.0, failure: Mapping[str, Any] | None = FAILURE) -> dict[str, Any]:
    return {
        "holds": {cause: {"seconds": seconds, "probe_in_seconds": 3.0}},
        "delivery": {"last_failure": failure, "last_delivery_at": NOW - 60},
    }


def failing(kind: str, error: str, *, answered: int | None = None) -> dict[str, Any]:
    return {"at": NOW - 1, "kind": kind, "status": answered, "error": error, "host": "nobody.invalid:443"}


def dead(*, at: float | None = NOW - 60, events: int = 3) -> dict[str, Any]:
    letters = [] if at is None else [{**DEAD, "at": at}]
    return {
        "dead_letters": {"events": events, "by_reason": {"rejected": events}},
        "recent": {"dead_letters": letters},
    }


def headline(*changes: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return state, mood and text."""
    found: Any = advise(status(*changes))["headline"]
    return found["state"], found["mood"], found["text"]


def found(*changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the problems."""
    listed: Any = advise(status(*changes))["problems"]
    return list(listed)


def only(kind: str, *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the problem of this kind."""
    (problem,) = [each for each in found(*changes) if each["kind"] == kind]
    return problem


# The headline


def test_a_daemon_that_delivers_says_so_and_has_no_problem() -> None:
    text = "All accepted events are safe. Delivering: no event waits, the last one was delivered 4 s ago."
    assert headline() == ("delivering", "good", text)
    assert found() == []


def test_before_any_event_came_nothing_is_said_to_be_delivered() -> None:
    none = {"received": 0, "accepted": 0, "delivered": 0}
    ledgers = {"ledger": {"since_start": none, "for_ever": none}, "delivery": {"last_delivery_at": None}}
    assert headline(ledgers) == ("no_events", "note", "No event has come yet.")
    assert headline({"ledger": {"since_start": none}, "delivery": {"last_delivery_at": None}}) == (
        "no_events",
        "note",
        "No event has come since the start, 2 h ago.",
    )
    before = headline({"ledger": {"since_start": none}})
    assert before[0] == "delivering"
    assert before[2].endswith("was delivered 4 s ago. No event has come since the start, 2 h ago.")


def test_if_every_event_was_refused_none_was_accepted() -> None:
    none = {"received": 9, "accepted": 0, "delivered": 0}
    ledgers = {"ledger": {"since_start": none, "for_ever": none}}
    assert headline(ledgers)[::2] == ("no_events", "No event was accepted yet.")
    state, _, text = headline(ledgers, {"recent": {"refusals": [REFUSED_NOW]}})
    assert (state, text[:25]) == ("refusing", "The app is being refused:"), "there is nothing that could be safe"


def test_events_that_were_refused_since_the_start_have_come() -> None:
    refused = {"ledger": {"since_start": {"received": 9, "accepted": 0}}, "delivery": {"last_delivery_at": None}}
    assert headline(refused)[::2] == ("no_events", "No event was accepted since the start, 2 h ago.")


def test_what_was_never_delivered_is_not_said_to_be_delivered() -> None:
    text = headline(dead(), {"delivery": {"last_delivery_at": None}})[2]
    assert "No event waits; none was delivered since the start. Needs attention: 3 events could not" in text
    assert "Delivering" not in text


def test_events_in_memory_are_not_called_safe() -> None:
    memory = {"buffer": {"kind": "memory"}}
    assert headline(memory)[2].startswith("No accepted event is lost. Delivering: no event waits")
    assert headline(memory, WAITING, {"state": "draining"})[2].startswith(
        "200 events are at risk. The daemon is draining"
    )
    assert headline(memory, {"state": "draining"})[2] == "The daemon is draining; no event waits."


def test_events_that_wait_for_a_moment_are_no_delay() -> None:
    young = {"buffer": {"events": {"in_flight": 2}, "oldest_event_age_seconds": 0.2}}
    assert headline(young)[::2] == (
        "delivering",
        "All accepted events are safe. Delivering: 2 events wait, the oldest for 200 ms.",
    )


def test_a_backlog_that_shrinks_is_caught_up_with_and_one_that_grows_is_not() -> None:
    assert headline(BEHIND) == (
        "catching_up",
        "note",
        "All accepted events are safe. Catching up: done in about 4 min; 200 events wait.",
    )
    state, mood, text = headline(BEHIND, {"forecasts": {"drained_in_seconds": None}})
    assert (state, mood) == ("falling_behind", "warn")
    assert "falls behind" in text


@pytest.mark.parametrize("cause", HOLD_CAUSES)
def test_during_a_hold_nothing_is_caught_up_with(cause: str) -> None:
    state, mood, text = headline(BEHIND, held(cause))
    assert state == "not_delivering"
    assert mood in ("warn", "bad")
    assert "Not delivering: " in text
    assert "Catching up" not in text
    assert "200 events wait" in text


def test_a_hold_with_a_filling_buffer_says_when_it_is_full() -> None:
    assert (
        "the buffer is full in about 2 h."
        in headline(WAITING, held("breaker"), {"forecasts": {"full_in_seconds": 7300.0}})[2]
    )


def test_the_worst_of_several_holds_is_named() -> None:
    both = held("breaker")
    both["holds"]["auth"] = {"seconds": 1.0, "probe_in_seconds": None}
    assert "Growlytics refuses the API key" in headline(WAITING, both)[2]
    assert len(found(WAITING, both)) == 2


def test_attempts_that_all_fail_are_not_delivering_before_there_is_a_hold() -> None:
    failure = failing("dns", "no such host nobody.invalid")
    failed = {"delivery": {"last_failure": failure, "last_delivery_at": None, "failures_in_a_row": 1}}
    state, _, text = headline(WAITING, failed)
    assert state == "not_delivering"
    assert "the host of Growlytics is not found" in text
    problem = only("failing", WAITING, failed)
    assert "no such host nobody.invalid (nobody.invalid:443)" in problem["cause"]
    assert problem["commands"] == ["growlytics-forwarder diagnose"]


def test_a_failure_among_deliveries_is_not_said_to_stop_them() -> None:
    failed = {"last_failure": FAILURE, "last_delivery_at": NOW - 5, "failures_in_a_row": 1}
    assert headline(BEHIND, {"delivery": failed})[0] == "catching_up"
    assert headline(BEHIND, {"delivery": {**failed, "last_delivery_at": NOW - 50}})[0] == "not_delivering"
    assert (
        headline(BEHIND, {"delivery": {**failed, "last_delivery_at": None, "failures_in_a_row": 0}})[0] == "catching_up"
    )


def test_events_that_are_rejected_while_nothing_is_delivered_are_not_delivering() -> None:
    failure = failing("status", "422 Unprocessable Entity", answered=422)
    rejected = {"delivery": {"last_failure": failure, "last_delivery_at": None, "waits_for": "retry"}}
    state, _, text = headline(WAITING, rejected)
    assert state == "not_delivering"
    assert "Growlytics rejects what is sent" in text
    assert "422 Unprocessable Entity" in only("failing", WAITING, rejected)["cause"]


def test_refusals_that_apps_repeat_have_passed_when_there_is_room_again() -> None:
    full = {**REFUSED_NOW, "code": "buffer_full", "name": None, "field": None}
    assert headline({"recent": {"refusals": [full]}})[0] == "refusing"
    assert headline({"recent": {"refusals": [{**full, "at": NOW - 11}]}})[0] == "delivering"


def test_a_full_buffer_is_what_the_app_feels_and_the_hold_is_named_with_it() -> None:
    full = {"buffer": {"events": {"ready": 1000}}}
    state, mood, text = headline(full, held("auth"))
    assert (state, mood) == ("refusing", "bad")
    assert "The buffer is full: new events are refused. Not delivering: Growlytics refuses the API key." in text
    assert headline(full, {"buffer": {"when_full": "drop_oldest"}})[0] == "dropping"
    assert [each["kind"] for each in found(full, held("auth"))] == ["auth", "buffer_full"]


def test_a_buffer_without_room_for_the_batches_that_come_is_full() -> None:
    refused = {"recent": {"refusals": [{**REFUSED_NOW, "code": "buffer_full", "name": None, "field": None}]}}
    nearly = {"buffer": {"events": {"ready": 980}}}
    assert headline(nearly, held("breaker"))[0] == "not_delivering"
    assert headline(nearly, held("breaker"), refused)[0] == "refusing"
    assert "buffer_full" in [each["kind"] for each in found(nearly, held("breaker"), refused)]
    assert headline({"buffer": {"events": {"ready": 100}}}, held("breaker"), refused)[0] == "not_delivering"


def test_the_app_is_refused_until_five_minutes_have_passed() -> None:
    def ago(seconds: float) -> dict[str, Any]:
        return {"recent": {"refusals": [{**REFUSED_NOW, "at": NOW - seconds}]}}

    state, mood, text = headline(ago(2))
    assert (state, mood) == ("refusing", "warn")
    assert "The app is being refused: name_too_long, the last time 2 s ago." in text
    assert "The app was refused 3 min ago: name_too_long." in headline(ago(200))[2]
    assert "until none was refused for 5 min." in only("refused", ago(200))["fix"]
    assert headline(ago(3600))[:2] == ("delivering", "good")
    assert found(ago(3600)) == []


def test_a_loss_comes_first() -> None:
    lost = {
        "ledger": {"since_start": {"dropped": {"drop_oldest": 5}}},
        "buffer": {"last_dropped_at": {"drop_oldest": NOW - 60}},
    }
    state, mood, text = headline(lost, dead(), held("auth"), WAITING)
    assert (state, mood) == ("not_delivering", "bad")
    assert text.startswith("5 events are lost. ")
    problem = found(lost, dead(), held("auth"), WAITING)[0]
    assert problem["what"] == "5 events were lost since the start, the last 60 s ago."
    old = {"buffer": {"last_dropped_at": {"drop_oldest": NOW - 90_000}}}
    assert headline(lost, old)[1] == "warn"
    erased = {"ledger": {"since_start": {"dropped": {"erased": 5}}}}
    assert headline(erased)[2].startswith("All accepted events are safe.")


def test_a_ledger_that_does_not_balance_comes_before_all() -> None:
    unbalanced = {"ledger": {"for_ever": {"unaccounted": -2}}}
    assert headline(unbalanced, held("auth"))[2].startswith("The ledger does not balance. ")
    assert "2 events are unaccounted for" in only("ledger", unbalanced)["what"]
    assert "2 events more than were accepted" in only("ledger", unbalanced)["cause"]
    one = only("ledger", {"ledger": {"for_ever": {"unaccounted": 1}}})
    assert (one["what"].split(":")[0], one["cause"]) == (
        "1 event is unaccounted for",
        "there is an event less than were accepted",
    )


@pytest.mark.parametrize(
    ("at", "mood", "words"),
    [
        (NOW - 60, "warn", "the last 60 s ago"),
        (NOW - 7 * 86_400, "note", "the last 7 d ago"),
        (None, "note", "from before the start"),
    ],
)
def test_dead_letters_need_attention_the_more_the_newer_they_are(at: float | None, mood: str, words: str) -> None:
    state, found_mood, text = headline(dead(at=at))
    assert (state, found_mood) == ("needs_attention", mood)
    assert f"3 events could not be delivered (dead letters, {words})." in text
    assert only("dead_letters", dead(at=at))["commands"] == [
        "growlytics-forwarder dead-letters list",
        "growlytics-forwarder dead-letters replay --all",
    ]


def test_a_type_conflict_needs_attention_and_then_becomes_a_note() -> None:
    def drift(**changes: object) -> dict[str, Any]:
        return {"attribute_types": {"conflicts": [{**DRIFT, **changes}]}}

    assert headline(drift())[:2] == ("needs_attention", "warn")
    assert "Price of Buy came as string, and was number before: 3 times" in only("type_conflict", drift())["cause"]
    assert headline(drift(last_at=NOW - 7200))[:2] == ("delivering", "good")
    assert only("type_conflict", drift(last_at=NOW - 7200))["mood"] == "note"
    assert headline(drift(expected="date"))[0] == "delivering"


def refused(suspects: int, *, delivered_ago: float | None, answered: int = 403) -> dict[str, Any]:
    """Return that so many customers' events are refused."""
    failure = failing("status", f"{answered} Something", answered=answered)
    first = {"id": "42", "name": "Buy", "status": answered, "refusals": 5}
    return {
        "delivery": {
            "suspects": {"events": suspects, "first": first},
            "last_failure": failure,
            "last_delivery_at": None if delivered_ago is None else NOW - delivered_ago,
            "waits_for": "retry",
        }
    }


def test_a_suspect_needs_attention_while_others_are_delivered() -> None:
    suspect = refused(1, delivered_ago=4)
    assert headline(WAITING, suspect)[0] == "needs_attention"
    problem = only("suspect", WAITING, suspect)
    assert problem["what"] == "1 event is refused again and again, while others may be delivered."
    assert problem["cause"] == "event 42 of Buy: answered 403, refused 5 times"
    assert problem["commands"] == ["growlytics-forwarder dead-letters bury 42"]
    assert headline(WAITING, refused(3, delivered_ago=4))[0] == "needs_attention"
    once = refused(1, delivered_ago=4)
    once["delivery"]["suspects"]["first"]["refusals"] = 1
    assert only("suspect", WAITING, once)["what"] == "1 event is refused, while others may be delivered."
    assert "Needs attention: 1 event is refused." in headline(WAITING, once)[2]


@pytest.mark.parametrize("delivered_ago", [11.0, None])
@pytest.mark.parametrize("delay", ["order", "retry", None])
def test_events_of_several_customers_that_are_all_refused_are_not_delivering_and_none_is_to_be_buried(
    delivered_ago: float | None, delay: str | None
) -> None:
    everything = refused(5, delivered_ago=delivered_ago)
    everything["delivery"]["waits_for"] = delay
    state, _, text = headline(BEHIND, everything)
    assert state == "not_delivering"
    assert "Not delivering: Growlytics, or something on the way, refuses every event." in text
    assert "suspect" not in [each["kind"] for each in found(BEHIND, everything)]
    problem = only("failing", BEHIND, everything)
    assert "403 Something" in problem["cause"]
    assert "bury" not in json.dumps(problem)


@pytest.mark.parametrize(
    ("answered", "words"),
    [(401, "Growlytics refuses the API key"), (404, "refuses every event"), (200, "something else answers in place")],
)
def test_what_refuses_everything_is_named_by_its_answer(answered: int, words: str) -> None:
    assert words in headline(BEHIND, refused(2, delivered_ago=60, answered=answered))[2]


def test_one_event_alone_that_is_refused_needs_attention_and_nobody_says_that_others_are_delivered() -> None:
    alone = refused(1, delivered_ago=60)
    alone["delivery"]["waits_for"] = None
    young = {"buffer": {"events": {"ready": 6}, "oldest_event_age_seconds": 26.0}}
    for waiting_events in (BEHIND, young):
        state, _, text = headline(waiting_events, alone)
        assert state == "needs_attention"
        assert "Delivering" not in text
        assert "Catching up" not in text
    problem = only("suspect", BEHIND, alone)
    assert problem["what"] == "1 event is refused again and again, and no other is delivered meanwhile."
    assert problem["fix"].startswith("See whether another event is delivered: ")
    assert problem["commands"] == ["growlytics-forwarder dead-letters bury 42"]


def test_what_leaves_the_buffer_undelivered_is_not_caught_up_with() -> None:
    none = {"rates": {"delivered_per_second": 0.0}}
    assert headline(BEHIND, none)[0] == "falling_behind"
    assert "none waits in about" not in only("behind", BEHIND, none)["what"]


@pytest.mark.parametrize("delay", ["order", "retry"])
def test_what_waits_for_a_suspect_is_no_backlog_that_delivery_works_off(delay: str) -> None:
    state, _, text = headline(BEHIND, {"delivery": {"suspects": SUSPECT, "waits_for": delay}})
    assert state == "needs_attention"
    assert "safe. 200 events wait, the oldest for 3 min 20 s. Needs attention: 1 event is refused" in text
    assert "Catching up" in headline(BEHIND, {"delivery": {"suspects": SUSPECT, "waits_for": "concurrency"}})[2]


@pytest.mark.parametrize("cause", ["auth", "systemic", "not_growlytics"])
def test_while_everything_may_be_refused_no_event_is_said_to_be_a_suspect(cause: str) -> None:
    suspect = {"delivery": {"suspects": SUSPECT}}
    assert "suspect" not in [each["kind"] for each in found(WAITING, suspect, held(cause))]
    assert only("suspect", WAITING, suspect, held("retry_after"))["commands"]


@pytest.mark.parametrize("state", sorted(set(DAEMON_STATES) - {"ready", "starting"}))
def test_a_daemon_that_stops_says_so_first_and_what_becomes_of_the_events(state: str) -> None:
    stopping = headline({"state": state}, WAITING, held("auth"))
    assert stopping[:2] == ("stopping", "bad")
    assert (
        f"The daemon is {state}: 200 events wait; those not delivered in time stay for the next start." in stopping[2]
    )
    assert "are lost with the process" in headline({"state": state}, WAITING, {"buffer": {"kind": "memory"}})[2]
    assert headline({"state": state})[1] == "warn"


# All combinations

PARTS: tuple[Mapping[str, Any], ...] = (
    {"state": "draining"},
    BEHIND,
    held("auth"),
    held("breaker", failure=failing("dns", "no such host nobody.invalid")),
    {"buffer": {"available": False, "last_error": {"at": NOW, "operation": "directory", "error": "gone"}}},
    {"buffer": {"events": {"ready": 1000}}},
    {"recent": {"refusals": [REFUSED_NOW]}},
    dead(),
    {"attribute_types": {"conflicts": [DRIFT], "full": True}},
    {"delivery": {"suspects": SUSPECT}},
    {"settings": {"error": "no such file", "restart_needed": ["intake.http"]}},
    {"ledger": {"since_start": {"dropped": {"corrupt": 1}}}},
)
COMBINATIONS = [each for number in range(4) for each in itertools.combinations(PARTS, number)]


def test_in_every_combination_the_headline_contradicts_no_problem() -> None:
    for parts in COMBINATIONS:
        content = status(*parts)
        given = copy.deepcopy(content)
        advice: Any = advise(content)
        assert content == given
        state, mood, text = advice["headline"].values()
        kinds = {each["kind"] for each in advice["problems"]}
        moods = [each["mood"] for each in advice["problems"]]
        assert state in HEADLINE_STATES
        assert moods == sorted(moods, key=MOODS.index), "the worst come first"
        assert moods[:1] != ["bad"] or mood == "bad"
        assert (mood == "good") == (state == "delivering" and not {"bad", "warn"}.intersection(moods))
        is_safe = "events_lost" not in kinds and content["buffer"]["available"]
        assert is_safe == text.startswith("All accepted events are safe.")
        assert state not in ("catching_up", "falling_behind", "delivering") or not content["holds"]
        assert ("Not delivering" in text) == bool(content["holds"])
        assert "None" not in json.dumps(advice).replace("null", "")
        assert len(text) < 400


def test_without_names_no_text_shows_one() -> None:
    for parts in COMBINATIONS:
        nameless = json.loads(re.sub(r'"(name|attribute|field)": "[^"]*"', r'"\1": null', json.dumps(status(*parts))))
        assert not re.search(r"\b(Buy|Price|name of|None)\b", json.dumps(advise(nameless)))


# Causes


@pytest.mark.parametrize(
    ("change", "kind", "cause", "fix"),
    [
        (held("auth"), "auth", "401 Unauthorized (dc.growlytics.in:443)", "growlytics.api_key"),
        (
            held("auth", failure=failing("proxy", "the proxy refused: 407", answered=407)),
            "proxy_refuses",
            "the proxy refused: 407 (nobody.invalid:443)",
            "growlytics.proxy",
        ),
        (held("auth", failure=failing("status", "404 Not Found", answered=404)), "blocked", "404", "growlytics.url"),
        (held("auth", failure=failing("dns", "no such host x")), "auth", "no such host x", "for another reason"),
        (held("systemic"), "systemic", "401", "deployed last"),
        (held("not_growlytics"), "not_growlytics", "401", "captive portal"),
        (held("retry_after"), "retry_after", "401", "delivery.rate_limit_per_second"),
        (
            held("breaker", failure=failing("tls", "certificate has expired")),
            "breaker",
            "expired",
            "2027-01-15 08:00:00",
        ),
        (
            held("breaker", failure=failing("tls", "certificate of an unknown authority (see growlytics.ca_file)")),
            "breaker",
            "unknown authority",
            "growlytics.ca_file",
        ),
        (
            held("breaker", failure=failing("status", "429 Too Many Requests", answered=429)),
            "breaker",
            "429",
            "rate_limit",
        ),
        (
            held("breaker", failure=failing("proxy", "the proxy refused: 502 Bad Gateway", answered=502)),
            "breaker",
            "the proxy refused: 502 Bad Gateway",
            "whoever runs the proxy",
        ),
    ],
)
def test_each_hold_has_its_cause_and_a_fix(change: Mapping[str, Any], kind: str, cause: str, fix: str) -> None:
    problem = only(kind, change)
    assert cause in problem["cause"]
    assert fix in problem["fix"]
    assert problem["what"].endswith("delivery is paused, for 42 s now.")
    assert "the next probe goes in 3 s." in problem["fix"]


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_every_kind_of_failure_is_explained(kind: str) -> None:
    problem = only("breaker", held("breaker", failure=failing(kind, "it failed", answered=503)))
    assert problem["cause"] == "it failed (nobody.invalid:443)"
    assert len(problem["fix"]) > 50


def test_a_hold_that_lasts_is_bad_whatever_its_cause() -> None:
    assert headline(held("breaker"))[1] == "warn"
    assert headline(held("breaker", seconds=601.0))[1] == "bad"


def test_a_key_from_a_file_is_written_there() -> None:
    problem = only("auth", held("auth"), {"settings": {"key_file": "/run/secrets/key"}})
    assert "into /run/secrets/key " in problem["fix"]
    assert problem["commands"] == []
    assert only("auth", held("auth"))["commands"] == ["kill -HUP 4321"]


@pytest.mark.parametrize(
    ("operation", "error", "kind"),
    [
        ("directory", "the file is gone", "buffer_gone"),
        ("commit", "database or disk is full", "disk_full"),
        ("commit", "No space left on device", "disk_full"),
        ("commit", "there is no room in reserve", "disk_full"),
        ("commit", "disk I/O error", "buffer_unavailable"),
    ],
)
def test_a_buffer_that_accepts_nothing_says_why(operation: str, error: str, kind: str) -> None:
    last_error = {"at": NOW, "operation": operation, "error": error}
    away = {"buffer": {"available": False, "directory": "/a dir/x", "last_error": last_error}}
    problem = only(kind, away)
    assert problem["cause"] == error
    assert "/a dir/x" in problem["fix"]
    assert headline(away)[:2] == ("refusing", "bad")
    assert headline(away, WAITING)[2].startswith("200 events are at risk. The buffer's ")
    assert problem["commands"] == (["df -h '/a dir/x'"] if kind == "disk_full" else [])
    assert found({"buffer": {"last_error": last_error}}) == [], "it works again"


def test_a_control_socket_that_is_gone_with_the_directory_is_in_no_command() -> None:
    gone = {"buffer": {"available": False, "last_error": {"at": NOW, "operation": "directory", "error": "gone"}}}
    doors = {"addresses": {"unix": "/run/app/intake.sock"}}
    assert only("dead_letters", gone, doors, dead())["commands"][0].endswith(" --unix-socket /run/app/intake.sock")
    elsewhere = {"addresses": {"control": "/run/growlytics-forwarder-control/control.sock"}}
    assert only("dead_letters", gone, elsewhere, dead())["commands"][0] == "growlytics-forwarder dead-letters list"
    assert "3 dead letters are nowhere else" in only("buffer_gone", gone, dead())["fix"]
    assert "make the directory anew, and the socket is made again" in only("buffer_gone", gone, dead())["fix"]
    assert "had no events" in only("buffer_gone", gone)["fix"]


def test_a_buffer_that_fills_says_how_full_it_is_and_when_it_is_full() -> None:
    filling = {
        "buffer": {"events": {"ready": 850}},
        "forecasts": {"full_in_seconds": 600.0, "drained_in_seconds": None},
    }
    assert only("buffer_filling", filling)["what"] == "The buffer is 85 % full, and will be full in about 10 min."
    assert "1 events a second come in" in only("buffer_filling", filling)["cause"]
    assert [each["kind"] for each in found({"buffer": {"events": {"ready": 60}}, **held("auth")})] == ["auth"]


@pytest.mark.parametrize("delay", DELAY_CAUSES)
def test_events_that_wait_long_say_what_for(delay: str) -> None:
    problem = only(delay, BEHIND, {"delivery": {"waits_for": delay}, "forecasts": {"drained_in_seconds": None}})
    assert problem["mood"] == "warn"
    assert "1 events a second come in, 1 are delivered" in problem["cause"]


def test_a_rate_limit_that_is_used_up_is_the_cause_even_if_nothing_waits_for_it_just_now() -> None:
    limited = {"delivery": {"rate_limit_per_second": 1.0}}
    assert only("rate_limit", BEHIND, limited)["commands"] == ["kill -HUP 4321"]
    assert [each["kind"] for each in found(BEHIND, {"delivery": {"rate_limit_per_second": 50.0}})] == ["behind"]


def test_dead_letters_that_are_nearly_too_many_and_those_removed_for_it_are_told() -> None:
    kinds = [each["kind"] for each in found(dead(events=900))]
    assert kinds == ["dead_letters", "dead_letters_filling"]
    assert "10 % more" in only("dead_letters_filling", dead(events=900))["what"]
    evicted = {"dead_letters": {"evicted": {"full": 1}}}
    assert only("dead_letters_lost", evicted)["what"].startswith("1 dead letter was removed")
    assert headline(evicted)[1:] == (
        "bad",
        "1 event is lost. Delivering: no event waits, the last one was delivered 4 s ago.",
    )


def test_settings_that_were_not_used_are_told() -> None:
    failed = {"settings": {"error": "no such setting", "restart_needed": ["intake.http", "buffer.kind"]}}
    assert only("reload_failed", failed)["cause"] == "no such setting"
    assert only("restart_needed", failed)["cause"] == "intake.http, buffer.kind"


def test_a_key_that_cannot_be_read_is_a_cause_of_a_refused_key() -> None:
    said = "names a file that cannot be read: Permission denied"
    fault = {"settings": {"file_faults": {"growlytics.api_key_file": said}}}
    assert only("auth", held("auth"), fault)["cause"].endswith(f"; growlytics.api_key_file {said}")
    assert only("file_unusable", fault)["cause"] == f"growlytics.api_key_file {said}"


def test_every_cause_and_reason_has_its_advice() -> None:
    assert set(failures.HOLDS) == set(HOLD_CAUSES)
    assert set(problems.DROPPED) | {"erased"} >= set(DROP_REASONS)
    assert set(waiting.DELAYS) == set(DELAY_CAUSES)
    for policy in CONFLICT_ACTIONS:
        assert only("type_conflict", {"attribute_types": {"conflicts": [DRIFT], "policy": policy}})["fix"]


def everything_said() -> str:
    holds = [held(cause, failure=failing(kind, "x", answered=503)) for cause in HOLD_CAUSES for kind in FAILURE_KINDS]
    delays = [{**BEHIND, "delivery": {"waits_for": delay}} for delay in DELAY_CAUSES]
    policies = [{"attribute_types": {"conflicts": [DRIFT], "policy": policy}} for policy in CONFLICT_ACTIONS]
    said = [json.dumps(advise(status(each)), ensure_ascii=False) for each in (*PARTS, *holds, *delays, *policies)]
    return "\n".join((*said, *problems.REFUSED.values(), *problems.DROPPED.values()))


def test_what_looks_like_a_command_in_a_text_is_whole_and_has_no_placeholders() -> None:
    quoted = quoted_in(everything_said())
    assert [each for each in quoted if not is_whole(each) or re.search(r"\b[A-Z]{2,}\b", each)] == []


def test_every_setting_that_it_names_exists() -> None:
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", everything_said()))
    assert len(named) >= 18
    assert named <= {setting.path for setting in reference()}


# Commands

DOORS = [
    ({"control": "/run/growlytics-forwarder-control/control.sock", "http": "127.0.0.1:1"}, None, "", ""),
    ({"control": "/srv/it's/c.sock", "unix": "/u"}, None, *(2 * [""" --unix-socket '/srv/it'"'"'s/c.sock'"""])),
    ({"unix": "/a b/intake.sock", "http": "127.0.0.1:1"}, None, *(2 * [" --unix-socket '/a b/intake.sock'"])),
    ({"http": "0.0.0.0:80"}, None, " --url http://127.0.0.1:80", None),
    ({"http": "[::]:80"}, "/t k", *(2 * [" --url http://[::1]:80 --token-file '/t k'"])),
    ({"http": "127.0.0.1:80"}, "", None, None),
    ({"admin": "127.0.0.1:9920"}, None, None, None),
]


def forgetting(**changes: object) -> list[str]:
    """Return what is recommended about a type conflict besides to list the types."""
    conflicts = {"attribute_types": {"conflicts": [{**DRIFT, **changes}, DRIFT]}}
    commands: list[str] = only("type_conflict", conflicts)["commands"]
    listing, *others = commands
    assert listing == "growlytics-forwarder attribute-types list"
    return others


def test_the_command_that_forgets_a_type_has_the_names_whatever_they_are() -> None:
    forget = "growlytics-forwarder attribute-types forget"
    assert forgetting() == [f"{forget} Buy Price"]
    assert forgetting(name="it's a $HOME", attribute="`x`") == [f"""{forget} 'it'"'"'s a $HOME' '`x`'"""]
    assert forgetting(name="--all", attribute="-x") == [f"{forget} -- --all -x"]
    elsewhere = {"addresses": {"control": "/a b/c.sock"}, "attribute_types": {"conflicts": [{**DRIFT, "name": "-x"}]}}
    assert only("type_conflict", elsewhere)["commands"][1] == f"{forget} --unix-socket '/a b/c.sock' -- -x Price"


@pytest.mark.parametrize(
    "changes",
    [{"learned": False}, {"name": None}, {"attribute": None}, {"name": "a\\x1b"}, {"attribute": "a" * 99 + "…"}],
)
def test_what_cannot_be_forgotten_or_typed_is_in_no_command(changes: Mapping[str, object]) -> None:
    assert forgetting(**changes) == []


@pytest.mark.parametrize(("addresses", "token_file", "looking", "operating"), DOORS)
def test_a_command_has_the_flags_with_which_it_reaches_this_daemon(
    addresses: Mapping[str, str], token_file: str | None, looking: str | None, operating: str | None
) -> None:
    content = status(dead(), {"settings": {"token_file": token_file or None, "needs_token": token_file is not None}})
    content["addresses"] = addresses
    found: Any = advise(content)["problems"]
    expected = [
        f"growlytics-forwarder dead-letters {action}{flags}"
        for action, flags in (("list", looking), ("replay --all", operating))
        if flags is not None
    ]
    assert found[0]["commands"] == expected
    for command in expected:
        assert shlex.split(command)[0] == "growlytics-forwarder"

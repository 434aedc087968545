"""What everybody may see of the status: numbers, known words and the operator's own texts, and nothing that an app sent."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from forwarder.advice.headline import advise
from forwarder.shared_status import without_names
from forwarder.words import DEAD_REASONS, DROP_REASONS, HOLD_CAUSES
from tests.unit import test_advice as trouble

SECRET: Final = "Ünusual <b>Näme</b> \u202e of customer-4711"
STATUS: Final[dict[str, Any]] = {
    "version": "1.2.3",
    "instance": "shop-1",
    "state": "ready",
    "at": 1.7e9,
    "uptime_seconds": 12.5,
    "addresses": {"http": "127.0.0.1:8920", "admin": "127.0.0.1:9920", "control": "/run/control.sock"},
    "ledger": {
        which: {
            "received": 9,
            "accepted": 8,
            "delivered": 5,
            "dead_lettered": dict.fromkeys(DEAD_REASONS, 1),
            "dropped": dict.fromkeys(DROP_REASONS, 0),
        }
        for which in ("since_start", "for_ever")
    },
    "settings": {"loaded_at": 1.7e9, "restart_needed": ["intake.http", SECRET], "error": f"line 3: {SECRET}"},
    "buffer": {"kind": "disk", "available": True, "events": {"ready": 1, "parked": 2, "in_flight": 3}},
    "delivery": {
        "destination": "https://dc.growlytics.in/track/event",
        "attempts": {"delivered": 5},
        "last_failure": {"at": 1.7e9, "kind": "status", "status": 422, "error": "answered 422", "host": "h:443"},
        "suspects": {
            "events": 1,
            "first": {"id": "18", "name": SECRET, "status": 403, "refusals": 2, "customerId": SECRET},
        },
    },
    "holds": {cause: {"seconds": 1.0, "probe_in_seconds": None} for cause in HOLD_CAUSES},
    "dead_letters": {"events": 3, "by_reason": {"rejected": 3}},
    "attribute_types": {
        "policy": "observe",
        "learned": 3,
        "conflicts": [
            {
                "name": SECRET,
                "attribute": SECRET,
                "expected": "number",
                "found": "string",
                "action": "observe",
                "conflicts": 2,
                "last_at": 1.7e9,
            }
        ],
    },
    "rates": {"accepted_per_second": 1.5, "delivered_per_second": 1.5, "refused_per_second": 0.0, "over_seconds": 30},
    "history": {"interval_seconds": 5, "accepted": [1.0, 2.0], "buffered": [0, 1]},
    "recent": {
        "refusals": [
            {"at": 1.7e9, "intake": "http", "code": "empty", "name": SECRET, "field": SECRET, "events": 2},
        ],
        "dead_letters": [{"id": "17", "at": 1.7e9, "reason": "rejected", "status": 422, "name": SECRET}],
    },
}


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every place of a value, and what is there."""
    yield where, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*where, key))


def with_another(value: Any, where: tuple[Any, ...], other: Any) -> Any:
    """Return a copy of a value with another one at a place."""
    if not where:
        return other
    if isinstance(value, dict):
        return value | {where[0]: with_another(value.get(where[0]), where[1:], other)}
    return [with_another(each, where[1:], other) if index == where[0] else each for index, each in enumerate(value)]


def test_what_is_known_and_names_nothing_is_seen() -> None:
    seen = without_names(STATUS)
    for name in ("version", "instance", "state", "addresses", "ledger", "buffer", "holds", "rates", "history"):
        assert seen[name] == STATUS[name], name
    assert seen["recent"] == {
        "refusals": [{"at": 1.7e9, "intake": "http", "code": "empty", "name": None, "field": None, "events": 2}],
        "dead_letters": [{"id": None, "at": 1.7e9, "reason": "rejected", "status": 422, "name": None}],
    }


def test_names_ids_and_texts_that_may_quote_them_are_not_seen() -> None:
    text = json.dumps(without_names(STATUS), ensure_ascii=False)
    for hidden in (SECRET, "4711", "Näme", '"17"', '"18"', "line 3"):
        assert hidden not in text
    assert without_names(STATUS)["settings"] == {
        "loaded_at": 1.7e9,
        "restart_needed": ["intake.http"],
        "error": "the log says what is wrong",
    }


@pytest.mark.parametrize("where", [place for place, value in places(STATUS) if isinstance(value, dict)])
def test_a_new_field_is_hidden_wherever_it_is(where: tuple[Any, ...]) -> None:
    status = with_another(STATUS, (*where, "surprise"), SECRET)
    status = with_another(status, (*where, SECRET), 1)
    assert without_names(status) == without_names(STATUS)


OURS: Final = {
    ("version",),
    ("instance",),
    *(("addresses", name) for name in STATUS["addresses"]),
    ("buffer", "kind"),
    ("delivery", "destination"),
    ("delivery", "last_failure", "error"),
    ("delivery", "last_failure", "host"),
}
"""Texts that no app sends."""


@pytest.mark.parametrize("where", [place for place, _ in places(STATUS) if place and place not in OURS])
def test_a_stranger_s_text_is_hidden_even_where_a_number_or_a_word_belongs(where: tuple[Any, ...]) -> None:
    for hostile in (SECRET, [SECRET], {SECRET: SECRET}, {"name": SECRET, "events": SECRET}):
        assert SECRET not in json.dumps(without_names(with_another(STATUS, where, hostile)), ensure_ascii=False)


TROUBLES: Final[dict[str, list[dict[str, Any]]]] = {
    "none": [],
    "refused": [{"recent": {"refusals": [trouble.REFUSED_NOW]}}],
    "dead letters": [trouble.dead()],
    "drift": [{"attribute_types": {"conflicts": [trouble.DRIFT], "full": True}}],
    "suspect": [trouble.WAITING, {"delivery": {"suspects": trouble.SUSPECT}}],
    "behind": [trouble.BEHIND, {"delivery": {"waits_for": "concurrency"}}],
    "rate limit": [trouble.BEHIND, {"delivery": {"rate_limit_per_second": 1.0}}],
    "failing": [trouble.WAITING, {"delivery": {"last_failure": trouble.FAILURE, "failures_in_a_row": 3}}],
    "full": [{"buffer": {"events": {"ready": 1000}, "when_full": "drop_oldest"}}],
    "disk": [
        {"buffer": {"available": False, "last_error": {"at": 1.0, "operation": "commit", "error": "no space left"}}}
    ],
    "lost": [
        {
            "ledger": {"since_start": {"dropped": {"corrupt": 5}}, "for_ever": {"unaccounted": 3}},
            "buffer": {"last_dropped_at": {"corrupt": trouble.NOW - 9}},
            "dead_letters": {"evicted": {"full": 2}},
        }
    ],
    "settings": [{"settings": {"error": "line 3", "restart_needed": ["intake.http"]}}],
    "stopping": [{"state": "draining"}, trouble.WAITING],
    **{cause: [trouble.WAITING, trouble.held(cause)] for cause in HOLD_CAUSES},
}


@pytest.mark.parametrize("name", TROUBLES)
def test_the_advice_on_what_is_seen_is_the_same_but_for_the_names(name: str) -> None:
    whole = trouble.status(*TROUBLES[name])
    own, shared = advise(whole), advise(without_names(whole))
    assert [each["kind"] for each in problems(shared)] == [each["kind"] for each in problems(own)]
    assert [(each["what"], each["fix"]) for each in problems(shared)] == [
        (each["what"], each["fix"]) for each in problems(own)
    ]
    assert shared["headline"] == own["headline"]
    text = json.dumps(shared)
    assert not re.search(r"\b(Buy|Price|bury \d+)\b", text), text


def problems(advice: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = advice["problems"]
    return found

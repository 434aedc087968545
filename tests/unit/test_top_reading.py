"""What commands read of a status: all of it may be missing, and none of it is believed."""

from typing import Any

import pytest

from forwarder.cli.answers import MAX_ENTRIES, MAX_SAMPLES, StrangeStatusError, is_status, read_status

LEAST: dict[str, object] = {"state": "ready", "ledger": {}}


def test_a_status_without_anything_is_read() -> None:
    status = read_status(LEAST)
    assert status.state == "ready"
    assert status.uptime_seconds is None
    assert status.ledger.for_ever.received is None
    assert status.ledger.for_ever.dropped == {}
    assert status.buffer.available
    assert status.buffer.all_events is None
    assert status.buffer.share is None
    assert not any((status.holds, status.attribute_types.conflicts, status.recent.refusals, status.recent.dead_letters))
    assert status.delivery.last_failure is None
    assert status.settings.error is None


def test_null_is_as_good_as_missing() -> None:
    nulls: dict[str, object] = dict.fromkeys(
        ("version", "uptime_seconds", "buffer", "delivery", "holds", "forecasts", "history", "recent", "settings")
    )
    assert read_status(LEAST | nulls) == read_status(LEAST)


@pytest.mark.parametrize("content", [{}, {"state": "ready"}, {"state": 1, "ledger": {}}, {"state": "", "ledger": []}])
def test_what_has_no_state_or_no_ledger_is_no_status(content: dict[str, object]) -> None:
    assert is_status(LEAST)
    assert not is_status(content)


def test_values_are_taken_from_where_they_are() -> None:
    status = read_status(
        LEAST
        | {
            "ledger": {"for_ever": {"received": 9, "dead_lettered": {"rejected": 2, "expired": 1}, "dropped": {}}},
            "buffer": {"events": {"ready": 1, "parked": 2, "in_flight": 3}, "max_events": 12, "bytes": 9, "max_bytes": 10},
            "delivery": {"attempts": {"delivered": 4}, "attempt_seconds": {"p50": 0.5, "p99": None}},
            "holds": {"breaker": {"seconds": 1.5, "probe_in_seconds": 2}},
            "history": {"accepted": [1, 2.5]},
            "settings": {"loaded_at": 1, "restart_needed": ["intake.http"], "error": "line 1"},
        }
    )  # fmt: skip
    assert (status.ledger.for_ever.received, status.ledger.for_ever.dead_lettered, status.ledger.for_ever.dropped) == (
        9, {"rejected": 2, "expired": 1}, {},
    )  # fmt: skip
    assert (status.buffer.all_events, status.buffer.share) == (6, 0.9)
    assert status.delivery.attempts == {"delivered": 4}
    assert (status.delivery.attempt_seconds.p50, status.delivery.attempt_seconds.p99) == (0.5, None)
    assert [(cause, hold.seconds, hold.probe_in_seconds) for cause, hold in status.holds.items()] == [
        ("breaker", 1.5, 2)
    ]
    assert status.history.accepted == [1, 2.5]
    assert (status.settings.restart_needed, status.settings.error) == (["intake.http"], "line 1")


@pytest.mark.parametrize(
    ("strange", "place"),
    [
        ({"version": 1}, "Expected `str | null`, got `int` - at `$.version`"),
        ({"uptime_seconds": "1"}, "Expected `float | null`, got `str` - at `$.uptime_seconds`"),
        ({"uptime_seconds": True}, "Expected `float | null`, got `bool` - at `$.uptime_seconds`"),
        ({"uptime_seconds": 1e300}, "Expected `float` <= 1000000000000000.0 - at `$.uptime_seconds`"),
        ({"buffer": []}, "Expected `object`, got `array` - at `$.buffer`"),
        ({"buffer": {"events": {"ready": 10**400}}}, "Expected `int` <= 1000000000000000 - at `$.buffer.events.ready`"),
        ({"buffer": {"available": 1}}, "Expected `bool`, got `int` - at `$.buffer.available`"),
        ({"holds": {"\x1b[2J": 1}}, "Expected `object`, got `int` - at `$.holds[...]`"),
        ({"history": {"accepted": [1, None]}}, "Expected `float`, got `null` - at `$.history.accepted[1]`"),
        ({"history": {"accepted": {}}}, "Expected `array`, got `object` - at `$.history.accepted`"),
        ({"recent": {"refusals": [1]}}, "Expected `object`, got `int` - at `$.recent.refusals[0]`"),
        ({"settings": {"restart_needed": [1]}}, "Expected `str`, got `int` - at `$.settings.restart_needed[0]`"),
        (
            {"ledger": {"for_ever": {"dropped": {"x": "1"}}}},
            "Expected `int`, got `str` - at `$.ledger.for_ever.dropped[...]`",
        ),
    ],
)
def test_a_value_of_another_type_is_named_by_its_place(strange: dict[str, object], place: str) -> None:
    with pytest.raises(StrangeStatusError) as error:
        read_status(LEAST | strange)
    assert str(error.value) == place


def test_names_from_strangers_are_escaped_and_cut() -> None:
    hostile = "\x1b[2J\u202e" + "x" * 500
    status = read_status(
        {
            "state": hostile,
            "version": hostile,
            "ledger": {},
            "holds": {hostile: {}},
            "delivery": {"attempts": {hostile: 1}},
            "attribute_types": {"conflicts": [dict.fromkeys(("name", "attribute", "expected", "found"), hostile)]},
            "recent": {
                "refusals": [{"code": hostile, "field": hostile, "name": hostile, "at": 1}],
                "dead_letters": [{"reason": hostile, "name": hostile, "at": 1}],
            },
            "settings": {"restart_needed": [hostile], "error": hostile},
        }
    )
    conflict = status.attribute_types.conflicts[0]
    texts = [status.state, status.version, *status.holds, *status.delivery.attempts, conflict.name]
    texts += [conflict.attribute, conflict.expected, conflict.found, conflict.action, status.recent.refusals[0].text]
    texts += [status.recent.dead_letters[0].text, *status.settings.restart_needed, status.settings.error]
    assert all(text is not None and text.isprintable() and len(text) < 400 for text in texts)
    assert r"\x1b[2J\u202e" in conflict.name


def test_lists_without_end_are_cut() -> None:
    many: list[dict[str, Any]] = [{} for _ in range(1000)]
    status = read_status(LEAST | {"attribute_types": {"conflicts": many}, "history": {"accepted": list(range(1000))}})
    assert len(status.attribute_types.conflicts) == MAX_ENTRIES
    assert status.history.accepted == list(range(1000 - MAX_SAMPLES, 1000))

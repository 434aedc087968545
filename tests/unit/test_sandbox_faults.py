"""The fault settings: ranges, changes, Retry-After."""

from dataclasses import fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson
import pytest

from forwarder.sandbox.faults import (
    NO_FAULTS,
    SHARES,
    Faults,
    InvalidFault,
    as_json,
    merged,
    retry_after,
    what_is_wrong,
)


def test_the_defaults_are_no_faults_and_every_setting_can_be_checked() -> None:
    assert Faults() == NO_FAULTS
    for each in fields(Faults):
        assert what_is_wrong(each.name, getattr(NO_FAULTS, each.name)) is None
        assert what_is_wrong(each.name, object()) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latency_ms", -1),
        ("latency_ms", float("nan")),
        ("jitter_ms", float("inf")),
        ("jitter_ms", True),
        ("fail_rate", 1.01),
        ("fail_status", 200),
        ("fail_status", 600),
        ("fail_status", 503.0),
        ("fail_statuses", {503: 0}),
        ("fail_statuses", {200: 1}),
        ("fail_statuses", {503: -1, 500: 2}),
        ("fail_statuses", [503]),
        ("success_false_rate", -0.1),
        ("retry_after", "minutes"),
        ("retry_after_seconds", 1.5),
        ("retry_after_seconds", -1),
        ("reset_before_read_rate", 2),
        ("reset_after_read_rate", 2),
        ("reset_after_store_rate", 2),
        ("hang_rate", 2),
        ("close_idle_seconds", 3601),
        ("rate_limit_per_second", -1),
        ("down", 1),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(name: str, value: object) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name}: must"):
        Faults(**wrong)


def test_settings_out_of_range_are_all_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"^latency_ms: .*; fail_rate: .*"):
        Faults(latency_ms=-1, fail_rate=2)


def test_shares_may_fill_the_whole_but_not_exceed_it() -> None:
    Faults(fail_rate=0.1, hang_rate=0.2, reset_after_read_rate=0.7)
    with pytest.raises(ValueError, match=r"their sum is 1\.1"):
        Faults(fail_rate=0.5, reset_after_store_rate=0.6)
    assert {each.name for each in fields(Faults) if each.name.endswith("_rate")} == set(SHARES)


def test_changes_are_merged_into_what_is_in_force() -> None:
    faults = merged(Faults(latency_ms=5, fail_rate=0.5), {"fail_rate": 0.25, "fail_statuses": {"429": 1, "500": 3}})
    assert faults == Faults(latency_ms=5, fail_rate=0.25, fail_statuses={429: 1, 500: 3})


def test_everything_wrong_with_changes_is_told_at_once() -> None:
    invalid = merged(NO_FAULTS, {"fail_rate": 2, "latency": 5, "down": "yes"})
    assert isinstance(invalid, tuple)
    assert {(each.code, each.field) for each in invalid} == {
        ("unknown_fault", "latency"),
        ("invalid_fault", "fail_rate"),
        ("invalid_fault", "down"),
    }


def test_changes_that_are_wrong_only_together_with_what_is_in_force_are_refused() -> None:
    invalid = merged(Faults(hang_rate=0.6), {"fail_rate": 0.5})
    assert isinstance(invalid, tuple)
    assert [(each.code, each.field) for each in invalid] == [("invalid_fault", None)]


@pytest.mark.parametrize("statuses", [{"five": 1}, {"503": "1"}, {"²": 1}, {"503": None}, "503"])
def test_statuses_that_are_none_are_refused(statuses: object) -> None:
    invalid = merged(NO_FAULTS, {"fail_statuses": statuses})
    assert isinstance(invalid, tuple)
    assert [type(each) for each in invalid] == [InvalidFault]


def test_what_json_shows_can_be_merged_back() -> None:
    faults = Faults(latency_ms=1.5, fail_rate=0.5, fail_statuses={429: 1, 503: 2}, retry_after="date", down=True)
    shown = orjson.loads(orjson.dumps(as_json(faults)))
    assert merged(NO_FAULTS, shown) == faults


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds(status: int) -> None:
    assert retry_after(Faults(retry_after="seconds", retry_after_seconds=7), status, now=1e9) == "7"


def test_retry_after_as_a_date_never_means_less_than_the_setting() -> None:
    header = retry_after(Faults(retry_after="date", retry_after_seconds=7), 503, now=1_000_000_000.25)
    assert header is not None
    assert header.endswith(" GMT")
    assert parsedate_to_datetime(header) == datetime.fromtimestamp(1_000_000_008, UTC)


def test_retry_after_comes_only_where_it_belongs_and_is_asked_for() -> None:
    assert retry_after(Faults(retry_after="seconds"), 500, now=1e9) is None
    assert retry_after(NO_FAULTS, 503, now=1e9) is None

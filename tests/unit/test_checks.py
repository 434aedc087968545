"""How results of checks are shown."""

import json

from forwarder.cli.checks import Checked, counted, described, milliseconds, together_if_skipped


def test_a_result_is_a_line_and_its_fix_another() -> None:
    assert Checked("dns", "ok", "two addresses").lines() == ["ok    dns: two addresses"]
    assert Checked("dns", "fail", "none", "correct it").lines() == ["fail  dns: none", "      fix: correct it"]


def test_checks_in_a_row_that_were_skipped_for_the_same_reason_share_a_line() -> None:
    results = [
        Checked("dns", "fail", "none", "correct it"),
        Checked("connect", "skip", "not tried"),
        Checked("tls", "skip", "not tried"),
        Checked("clock", "skip", "no Date"),
        Checked("disk", "ok", "good"),
        Checked("key", "skip", "no Date"),
    ]
    found: list[Checked] = []
    lines = [line for lines in together_if_skipped(results, into=found) for line in lines]
    assert lines[2:] == [
        "skip  connect, tls: not tried",
        "skip  clock: no Date",
        "ok    disk: good",
        "skip  key: no Date",
    ]
    assert found == results


def test_each_line_is_there_as_soon_as_its_check_has_ended() -> None:
    found: list[Checked] = []
    shown = together_if_skipped(iter([Checked("a", "ok", ""), Checked("b", "ok", "")]), into=found)
    next(shown)
    assert [each.check for each in found] == ["a"]


def test_what_could_not_be_tried_is_apart_from_the_checks_in_json() -> None:
    results = [Checked("dns", "warn", "slow", "x", {"seconds": 2.0}), Checked("tls", "skip", "not tried")]
    content = json.loads(json.dumps(described(results)))
    assert content == {
        "ok": True,
        "checks": [{"check": "dns", "result": "warn", "text": "slow", "fix": "x", "facts": {"seconds": 2.0}}],
        "untried": [{"check": "tls", "why": "not tried"}],
    }
    assert described([Checked("dns", "fail", "none", "x")])["ok"] is False


def test_numbers_are_for_people() -> None:
    assert (counted(1, "address", "addresses"), counted(2, "address", "addresses")) == ("1 address", "2 addresses")
    assert counted(1_000, "event") == "1,000 events"
    assert (milliseconds(0.0123), milliseconds(12.3)) == ("12 ms", "12 s")

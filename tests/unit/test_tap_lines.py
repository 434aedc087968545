"""What `tap` prints of an answer: for people in columns, for programs as the daemon wrote it."""

import json
from typing import Any

import msgspec
import orjson
import pytest

from forwarder.cli.daemon import DaemonAnswer
from forwarder.cli.tap_lines import HEADINGS, NAME_COLUMNS, TapRead, for_people, for_programs, read
from forwarder.growlytics import json_text

LINE: dict[str, Any] = {
    "at": 1700000000.1239,
    "id": "1795945668923325",
    "name": "Add To Cart",
    "age_seconds": 0.05,
    "outcome": "delivered",
}


def answer(*lines: dict[str, Any], lost: int = 0, ended: str | None = None) -> DaemonAnswer:
    text = orjson.dumps({"lines": list(lines), "lost": lost, "ended": ended})
    content = json_text.parse(text)
    assert isinstance(content, dict)
    return DaemonAnswer(200, content, None, text)


def shown(**fields: Any) -> list[str]:
    found: TapRead = read(answer({**LINE, **fields}))
    return list(for_people(found.lines[0], found.raw[0]))


def cause(**fields: Any) -> str:
    (line,) = shown(**fields)
    return line[HEADINGS.index("CAUSE") :]


def test_a_line_has_its_columns_under_their_headings() -> None:
    (line,) = shown(attempt=1, attempt_seconds=0.0512)
    assert line == "22:13:20.123Z 1795945668923325 Add To Cart                0.05 s delivered   51 ms"
    for heading, text in (("TIME", "22:13"), ("ID", "1795"), ("NAME", "Add"), ("OUTCOME", "deliv"), ("CAUSE", "51 ms")):
        assert line.index(text) == HEADINGS.index(heading)
    assert line.index("0.05 s") + len("0.05 s") == HEADINGS.index("AGE") + len("AGE")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.00 s"), (59.99, "59.99 s"), (90, "1.5 min"), (5400, "1.5 h"), (864000, "10.0 d")]
)
def test_an_age_has_the_unit_that_suits_it(seconds: float, text: str) -> None:
    assert f" {text} delivered" in shown(age_seconds=seconds)[0]


def test_each_outcome_has_its_cause() -> None:
    failure = {"kind": "connect", "status": None, "error": "connection refused", "host": "h:443"}
    assert cause(outcome="accepted", intake="http") == "from http"
    assert cause(outcome="accepted", intake="unix", kind="customer") == "from unix; a customer"
    assert (
        cause(outcome="retryable", attempt=3, attempt_seconds=0.002, reason="network", failure=failure)
        == "connection refused (h:443); attempt 3, 2 ms; will be tried again (network)"
    )
    rejected = {**failure, "error": "422 Unprocessable Entity", "host": None}
    assert cause(outcome="rejected", attempt=1, attempt_seconds=0.002, failure=rejected) == (
        "422 Unprocessable Entity; 2 ms"
    )
    assert cause(outcome="dead_letter", reason="expired") == "expired"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x" * 24, "x" * 24),
        ("x" * 25, "x" * 23 + "…"),
        ("商" * 12, "商" * 12),
        ("商" * 13, "商" * 11 + "… "),
        ("x" + "商" * 12, "x" + "商" * 11 + "…"),
        ("e\u0301", "e\u0301" + " " * 23),
        ("\x1b[31m\u202e\n", "\\x1b[31m\\u202e\\n" + " " * 7),
    ],
)
def test_every_name_takes_as_many_columns_and_nothing_in_it_reaches_the_terminal(name: str, text: str) -> None:
    assert f"5 {text} " in shown(name=name)[0]
    assert NAME_COLUMNS == 24
    assert all(line.isprintable() for line in shown(name=name))


def test_the_values_follow_their_line_escaped_and_with_every_digit() -> None:
    event = orjson.Fragment(b'{"name":"x",\n "n": 1.10, "i":12345678901234567890123, "t":"\xc2\x9b"}')
    lines = shown(customer="c\x1b1", event=event, answer="no\r\nsuch \x07customer")
    assert lines[1:] == [
        "    customer: c\\x1b1",
        '    event:    {"name":"x",  "n": 1.10, "i":12345678901234567890123, "t":"\\u009b"}',
        "    answer:   no\\r\\nsuch \\x07customer",
    ]
    assert (
        shown(customer="c", event=None, event_bytes=10_000_000)[2] == "    event:    10000000 bytes, too many to show"
    )


def test_programs_get_one_line_each_as_it_came_and_a_terminal_gets_nothing_that_it_would_obey() -> None:
    found = read(
        answer({**LINE, "event": orjson.Fragment(b'{"n":\n1.10,"t":"\xc2\x9b"}')}, LINE, lost=3, ended="closed")
    )
    first, second = found.raw
    assert b'"event":{"n":' in for_programs(first, on_terminal=False)
    assert b"1.10" in for_programs(first, on_terminal=False)
    assert b"\n" not in for_programs(first, on_terminal=False)
    assert for_programs(first, on_terminal=True).decode().isprintable()
    assert json.loads(for_programs(first, on_terminal=True))["event"] == {"n": 1.1, "t": "\x9b"}
    assert json.loads(second) == LINE
    assert (found.lost, found.ended) == (3, "closed")


@pytest.mark.parametrize(
    "text", [b"{}", b"[]", b'{"lines":[{}],"lost":0,"ended":null}', b'{"lines":[],"lost":"1","ended":null}']
)
def test_what_is_no_answer_to_a_read_is_an_error(text: bytes) -> None:
    content = json_text.parse(text)
    with pytest.raises(msgspec.ValidationError):
        read(DaemonAnswer(200, content if isinstance(content, dict) else {}, None, text))


@pytest.mark.parametrize("at", [1e300, -1e300])
def test_a_time_that_is_none_is_shown_so(at: float) -> None:
    assert shown(at=at)[0].startswith("? ")

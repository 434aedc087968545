"""How `dead-letters` reads answers without changing events, paces itself, and shows what strangers wrote."""

import argparse
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.cli.daemon import Daemon, DaemonAnswer, HostPort, Place, StoppedError
from forwarder.cli.dead_letter_changes import ChangeTally, Pace
from forwarder.cli.dead_letter_requests import (
    DeadLetterShown,
    Decided,
    LetterPage,
    fit_to_show,
    judge,
    on_one_line,
    read_letter,
    read_page,
    read_purge,
    read_replay,
)
from forwarder.cli.dead_letters import add_arguments, as_json, described, rows
from forwarder.growlytics import json_text

TEXT = st.text('"\\[]{},:é\x9b\t\n a', max_size=6)
JSON = st.recursive(
    st.sampled_from([None, True, 1.5, 10**20]) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
DAEMON = Daemon(Place(HostPort("127.0.0.1", 8920)))
ERROR = {"code": "empty", "field": "name", "message": "name must not be empty"}
ERROR_TEXT = "name: name must not be empty (empty)"
ENTRY: dict[str, object] = {
    "id": "1763900000000000",
    "name": "Add To Cart",
    "reason": "rejected",
    "status": 422,
    "attempts": 3,
    "accepted_at": 1763900000.123,
    "first_attempt_at": 1763900000.5,
    "last_attempt_at": 1763900001,
    "size_bytes": 210,
}
LETTER = DeadLetterShown(
    "1763900000000000", "Add To Cart", "rejected", 3, 1763900000.123, 210, 422, 1763900000.5, 1763900001
)


def answer(content: object, status: int = 200) -> DaemonAnswer:
    """Return an answer as `Daemon` gives it."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    parsed = json_text.parse(text)
    assert isinstance(parsed, dict)
    return DaemonAnswer(status, parsed, None, text)


def page(*entries: object, cursor: object = None, events: object = 1) -> DaemonAnswer:
    return answer({"dead_letters": entries, "next": cursor, "events": events})


# Reading


@given(OBJECTS, st.sampled_from([None, 0, 3]), st.booleans())
def test_whatever_an_event_holds_it_is_read_as_the_bytes_that_came(
    value: dict[str, object], indent: int | None, ascii_only: bool
) -> None:
    event = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    head = json.dumps(ENTRY | {"customer": "c", "more": value, "answer": None}).encode()[:-1]
    assert read_letter(answer(b'%b , "event" :\n%b, "last": 1}' % (head, event))).event == event


def test_text_with_lone_surrogates_is_read_as_it_came() -> None:
    event = b'{"a":"\\ud83d"}'
    head = json.dumps(ENTRY | {"name": "\ud83d", "customer": "\ud83d", "answer": "\ud83d"}).encode()[:-1]
    letter = read_letter(answer(b'%b,"event":%b}' % (head, event)))
    assert (letter.name, letter.customer, letter.answer, letter.event) == ("\ud83d", "\ud83d", "\ud83d", event)


def test_the_last_of_two_members_of_one_name_counts_as_it_does_where_it_is_checked() -> None:
    head = json.dumps(ENTRY | {"customer": "c"}).encode()[:-1]
    assert read_letter(answer(b'%b,"event":{"a":1},"ev\\u0065nt":{"a":2.50}}' % head)).event == b'{"a":2.50}'


def test_a_page_is_read_with_its_cursor_and_its_total() -> None:
    assert read_page(page(ENTRY, cursor="17", events=5), payload=False) == LetterPage([LETTER], 5, "17")


def test_what_the_entry_says_beyond_what_is_known_is_passed_over() -> None:
    assert read_page(page(ENTRY | {"new": [1]}), payload=False).dead_letters == [LETTER]


def test_an_event_that_was_never_attempted_or_answered_has_no_times_and_no_status() -> None:
    (letter,) = read_page(
        page(ENTRY | {"status": None, "first_attempt_at": None, "last_attempt_at": None}), payload=False
    ).dead_letters
    assert (letter.status, letter.first_attempt_at, letter.last_attempt_at) == (None, None, None)


def test_the_event_is_cut_out_as_the_bytes_that_came() -> None:
    event = b'{ "n":1.50, "big":123456789012345678901234567890, "s":"\\ud83d \\u00e9 ]}\xc3\xa9" }'
    head = json.dumps(ENTRY | {"customer": "c", "answer": None}).encode()[:-1]
    entry = b'%b , "event" : %b}' % (head, event)
    read = read_page(answer(b'{"dead_letters":[%b,\n%b],"next":null,"events":2}' % (entry, entry)), payload=True)
    for each in (*read.dead_letters, read_letter(answer(entry))):
        assert (each.customer, each.answer, each.event) == ("c", None, event)


def test_a_number_that_no_double_can_hold_stays_as_it_is_in_the_event() -> None:
    event = b'{"n":1e999}'
    head = json.dumps(ENTRY | {"customer": "c", "answer": "x"}).encode()[:-1]
    letter = read_letter(answer(b'%b,"event":%b}' % (head, event)))
    assert (letter.customer, letter.answer, letter.event) == ("c", "x", event)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 1},
        {"id": "x"},
        {"id": ""},
        {"id": "٣"},
        {"name": None},
        {"reason": 1},
        {"status": "422"},
        {"status": True},
        {"attempts": -1},
        {"attempts": 1.5},
        {"accepted_at": None},
        {"accepted_at": "now"},
        {"accepted_at": -1},
        {"last_attempt_at": 1e300},
        {"first_attempt_at": False},
        {"size_bytes": None},
    ],
)
def test_an_entry_of_another_shape_is_strange(change: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        read_page(page(ENTRY | change), payload=False)


@pytest.mark.parametrize(
    "change", [{"event": 1}, {"event": None}, {"customer": None}, {"answer": 1}, {"event": "{}"}, {"event": [1]}]
)
def test_a_payload_of_another_shape_is_strange(change: dict[str, object]) -> None:
    whole: dict[str, object] = ENTRY | {"customer": "c", "answer": "a", "event": {}}
    assert read_letter(answer(whole)).event == b"{}"
    with pytest.raises(msgspec.ValidationError):
        read_letter(answer(whole | change))
    with pytest.raises(msgspec.ValidationError):
        read_page(page(whole | change), payload=True)


@pytest.mark.parametrize(
    "strange",
    [DaemonAnswer(200, {}, None), page("x"), page(cursor=7), page(cursor="-7"), page(events=None), page(events=1.5)],
)
def test_a_page_of_another_shape_is_strange(strange: DaemonAnswer) -> None:
    with pytest.raises(msgspec.ValidationError):
        read_page(strange, payload=False)


@pytest.mark.parametrize("text", ["", "1 ", "1\n", "٣", "-1", "x"])
def test_ids_are_decimal_digits(text: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["show", "01763"]).id == "1763"
    with pytest.raises(SystemExit):
        parser.parse_args(["replay", "--id", text])


def test_a_replay_decides_about_each_once() -> None:
    content = {
        "replayed": [{"id": "1", "new_id": "9"}],
        "refused": [{"id": "2", "errors": [ERROR]}],
        "missing": ["3"],
    }
    decided = Decided(1, [("2", [ERROR_TEXT])], ["3"])
    assert read_replay(answer(content), ["3", "1", "2"]) == decided
    assert judge("replay", answer(content), ["1", "2", "3"], DAEMON) == decided
    for ids in (["1", "2"], ["1", "2", "4"], ["1", "2", "3", "3"]):
        with pytest.raises(msgspec.ValidationError):
            read_replay(answer(content), ids)


def test_a_purge_tells_how_many_and_which_were_missing() -> None:
    assert read_purge(answer({"purged": 2, "missing": ["3"]}), ["1", "2", "3"]) == Decided(2, [], ["3"])
    with pytest.raises(msgspec.ValidationError):
        read_purge(answer({"purged": 2, "missing": ["4"]}), ["1", "2", "3"])


def test_too_large_a_request_is_split_while_it_can_be() -> None:
    refusal = answer({"success": False, "errors": [ERROR]}, 413)
    assert judge("replay", refusal, ["1", "2"], DAEMON) is None
    assert judge("replay", refusal, ["1"], DAEMON) == Decided(0, [("1", [ERROR_TEXT])], [])


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (answer({"errors": [ERROR]}, 422), f"answered 422: {ERROR_TEXT}"),
        (
            answer({"errors": [ERROR]}, 401),
            f"{ERROR_TEXT}; run it with sudo and without --url; or use --unix-socket, or --token-file if",
        ),
        (answer({"errors": [ERROR]}, 302), "not like a growlytics-forwarder"),
        (answer({}, 413), "not like a growlytics-forwarder"),
        (answer({}, 200), "not like a growlytics-forwarder"),
    ],
)
def test_where_no_others_would_fare_better_it_stops_and_says_why(refusal: DaemonAnswer, why: str) -> None:
    with pytest.raises(StoppedError) as stopped:
        judge("purge", refusal, ["1"], DAEMON)
    assert why in stopped.value.explained


# Showing


@given(OBJECTS, st.booleans())
def test_on_one_line_or_fit_to_show_an_event_has_the_same_value(value: dict[str, object], ascii_only: bool) -> None:
    event = json.dumps(value, indent="\t", ensure_ascii=ascii_only).replace("\n", "\r\n").encode()
    line, shown = on_one_line(event), fit_to_show(event)
    assert not {*b"\r\n\t"} & {*line}
    assert shown.isprintable()
    assert json.loads(line) == json.loads(shown) == value


def test_what_a_terminal_would_obey_is_escaped_as_json_does() -> None:
    event = '{"a":"\x7f\x9b\u202e\U000e0001é\\n"}'
    assert fit_to_show(event.encode()) == '{"a":"\\u007f\\u009b\\u202e\\udb40\\udc01é\\n"}'


def test_the_table_is_as_wide_as_what_it_shows() -> None:
    wide = DeadLetterShown("7", "\x1b", "expired", 1000, 0, 123456789)
    assert rows([LETTER, wide]) == [
        "ID                NAME         REASON    STATUS  ATTEMPTS  DIED                      BYTES",
        "1763900000000000  Add To Cart  rejected     422         3  2025-11-23T12:13:21Z        210",
        "7                 \\x1b         expired        -      1000  -                     123456789",
    ]
    assert rows([]) == []


def test_json_tells_what_the_daemon_told() -> None:
    assert json.loads(as_json(LETTER)) == ENTRY


@pytest.mark.parametrize("at", ["0", "1763900000", "1763900000.0", "1763900000.25"])
def test_a_time_is_shown_as_it_came(at: str) -> None:
    entry = {**ENTRY, "accepted_at": json.loads(at), "last_attempt_at": json.loads(at)}
    page = read_page(DaemonAnswer(200, {"dead_letters": [entry], "events": 1}, None), payload=False)
    shown = as_json(page.dead_letters[0])
    assert f'"accepted_at": {at},' in shown
    assert f'"last_attempt_at": {at},' in shown


def test_no_line_of_a_strangers_text_can_play_with_the_terminal() -> None:
    evil = "\x1b[2J\n\r\u202e\ud800" * 50
    letter = DeadLetterShown("1", evil, evil, 1, 0, 1, 1, 0, 0, evil, evil, evil, '{"a":"\x9b"}'.encode())
    assert all(line.isprintable() for line in [*described(letter), *rows([letter])])


@pytest.mark.parametrize(
    ("tally", "text"),
    [
        (ChangeTally("replay"), "Replayed 0 events (0 refused, 0 already gone, all remaining)."),
        (ChangeTally("purge", asked=9, done=5, missing=3), "Purged 5 events (0 refused, 3 already gone, 1 remaining)."),
        (
            ChangeTally("replay", dry_run=True, asked=9, done=5, refused=4),
            "Would replay 5 events (4 refused, 0 already gone, 0 remaining).",
        ),
    ],
)
def test_the_tally_ends_on_one_line(tally: ChangeTally, text: str) -> None:
    assert str(tally) == text


# Pacing


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 100))))
def test_no_more_than_the_rate_is_moved_between_any_chunk_and_the_next(
    per_second: int, chunks: list[tuple[int, float]]
) -> None:
    pace = Pace(per_second)
    now = 1000.0
    for events, busy_seconds in chunks:
        began = now
        pace.moved(events, sent_at=now)
        now += busy_seconds
        now += pace.wait_seconds(now)
        assert now - began >= events / per_second - 1e-6
        assert pace.wait_seconds(now) < 1e-6


def test_time_that_went_by_unused_is_not_made_up_for() -> None:
    pace = Pace(10)
    pace.moved(10, sent_at=100)
    assert pace.wait_seconds(500) == 0
    pace.moved(10, sent_at=500)
    assert pace.wait_seconds(500) == 1


def test_without_a_rate_nothing_waits() -> None:
    pace = Pace(None)
    pace.moved(500, sent_at=100)
    assert pace.wait_seconds(100) == 0

"""What `status` shows, and what it leaves out where the screen is small."""

from typing import Any

import pytest

from forwarder.cli.answers import read_status
from forwarder.cli.status_screen import Line, screen, width, wrapped

HEADLINE = {"state": "not_delivering", "mood": "bad", "text": "Not delivering: Growlytics refuses the API key."}
AUTH = {
    "kind": "auth",
    "mood": "bad",
    "what": "Growlytics refuses the API key: delivery is paused, for 42 s now.",
    "cause": "401 Unauthorized (dc.growlytics.in:443)",
    "fix": "Write a valid key into /run/secrets/key. " + 20 * "It is read again by itself. ",
    "commands": [f"growlytics-forwarder dead-letters list --unix-socket '/{'long dir/' * 12}c.sock'"],
}


def problem(number: int, **more: object) -> dict[str, object]:
    return {"mood": "note", "what": f"Something is wrong, number {number}.", "cause": "nobody knows", **more}


def shown(rows: int | None = None, columns: int = 80, **content: Any) -> list[Line]:
    least = {"state": "ready", "ledger": {}, "headline": HEADLINE}
    return screen(read_status(least | content), place="http://a:1", columns=columns, rows=rows)


def text(lines: list[Line]) -> str:
    return "\n".join(line.text for line in lines)


def test_a_daemon_that_says_nothing_is_shown_as_not_known() -> None:
    found = text(shown())
    assert "growlytics-forwarder –: ready, up –" in found
    assert "– accepted, – delivered, – refused; events a second" in found
    assert "– of – events" in found
    assert "$" not in found


def test_a_daemon_of_an_older_version_is_shown_without_a_headline() -> None:
    assert "older version" in text(shown(headline=None))


def test_everything_is_on_the_screen() -> None:
    found = text(
        shown(
            version="0.2.0", versions={"python": "3.13.1", "sqlite": "3.46.0", "loop": "uvloop"},
            instance="host-1", uptime_seconds=7200, at=1000.0, pid=17,
            problems=[AUTH],
            rates={"accepted_per_second": 1.5, "delivered_per_second": 0, "refused_per_second": 1234.5},
            buffer={
                "events": {"ready": 3, "parked": 1, "in_flight": 0}, "max_events": 100_000, "bytes": 2**19,
                "max_bytes": 2**28, "oldest_event_age_seconds": 75,
            },
            holds={"auth": {"seconds": 42, "probe_in_seconds": 3}},
            dead_letters={"events": 4, "by_reason": {"rejected": 3, "expired": 1, "ambiguous": 0}},
            delivery={
                "destination": "https://dc.growlytics.in/track/event",
                "last_failure": {"at": 997.0, "error": "401 Unauthorized", "host": "dc.growlytics.in:443"},
            },
            ledger={"for_ever": {
                "accepted": 1000, "delivered": 992, "dead_lettered": {"rejected": 4}, "dropped": {"corrupt": 0},
                "buffered": 4, "unaccounted": 0,
            }},
        )
    )  # fmt: skip
    for words in (
        "growlytics-forwarder 0.2.0 on host-1: ready, up 2 h",
        "BAD   Not delivering: Growlytics refuses the API key.",
        "BAD   Growlytics refuses the API key: delivery is paused, for 42 s now.",
        "      Cause: 401 Unauthorized (dc.growlytics.in:443)",
        "      Fix: Write a valid key into /run/secrets/key.",
        "      $ growlytics-forwarder dead-letters list --unix-socket '/long dir/",
        "rates        1.5 accepted, 0 delivered, 1,234 refused; events a second",
        "buffer       4 of 100,000 events, 0.5 of 256.0 MiB, <1 % full",
        "oldest event has waited 1 min 15 s",
        "holds        auth for 42 s (next probe in 3.0 s)",
        "dead letters 4: 3 rejected, 1 expired",
        "failed last  401 Unauthorized (dc.growlytics.in:443), 3.0 s ago",
        "ledger       1,000 accepted = 992 delivered + 4 dead + 0 dropped + 4 waiting",
        "runs on      Python 3.13.1, SQLite 3.46.0, event loop uvloop",
        "delivers to  https://dc.growlytics.in/track/event",
        "asked at     http://a:1, process 17",
    ):
        assert words in found


def test_what_somebody_erased_stands_apart_from_what_was_dropped() -> None:
    found = text(shown(ledger={"for_ever": {"accepted": 6, "dropped": {"erased": 2, "corrupt": 1}, "buffered": 3}}))
    assert "1 dropped + 2 erased + 3 waiting" in " ".join(found.split())


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("problems", [0, 1, 2, 5, 20])
def test_it_fills_one_screen_at_most_and_the_worst_problem_has_its_room_first(columns: int, problems: int) -> None:
    lines = shown(23 if columns >= 80 else 40, columns, problems=[AUTH, *map(problem, range(20))][:problems])
    rows = sum(max(1, -(-width(line.text) // columns)) for line in lines)
    assert rows <= (23 if columns >= 80 else 40)
    found = text(lines)
    assert "asked at" in found
    assert problems == 0 or "Cause: 401 Unauthorized" in found
    assert ("more, which `status --json` shows" in found) == (problems == 20)


def test_what_a_small_screen_leaves_out_is_the_fix_of_a_lesser_problem_first() -> None:
    lesser = problem(1, fix="Do something about it. " * 10)
    found = text(shown(23, problems=[{**AUTH, "fix": "Write a key."}, lesser]))
    assert "Fix: Write a key." in found
    assert "Cause: nobody knows" in found
    assert "Do something" not in found
    assert "Do something" in text(shown(problems=[AUTH, lesser]))


def test_a_command_is_never_wrapped_and_one_that_was_cut_or_escaped_is_not_shown() -> None:
    (line,) = [each.text for each in shown(problems=[AUTH]) if "$" in each.text]
    assert line.endswith("long dir/c.sock'")
    hostile = [f"rm {'x' * 10_000}", "echo \x1b[2J"]
    assert "$" not in text(shown(problems=[{**AUTH, "commands": hostile}]))


def test_texts_of_a_stranger_cannot_change_the_terminal() -> None:
    hostile = "\x1b[2J\u202e\r\n"
    found = text(
        shown(
            instance=hostile, headline={"mood": hostile, "text": hostile},
            problems=[{"mood": hostile, "what": hostile, "cause": hostile, "fix": hostile}],
            holds={hostile: {}}, delivery={"destination": hostile},
        )
    )  # fmt: skip
    assert all(line.isprintable() for line in found.splitlines())


def test_moods_have_words_and_tones() -> None:
    problems = [{"mood": mood, "what": mood} for mood in ("bad", "warn", "note")]
    marked = {line.text[:6].strip(): line.tone for line in shown(problems=problems)}
    assert (marked["BAD"], marked["WARN"], marked["note"]) == ("bad", "warning", "plain")
    assert shown(headline={"mood": "good", "text": "All is well."})[1] == Line("ok    All is well.", "good")


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    assert width("abc") == 3
    assert width("日本語") == 6
    assert width("e\u0301") == 1
    assert wrapped("日本語 日本語 ab", 9) == ["日本語", "日本語 ab"]
    assert wrapped("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]
    assert wrapped("", 10) == [""]

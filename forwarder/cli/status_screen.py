"""What `status` shows: the state, what is wrong and what to do, and the numbers, in as many lines as there is room for.

Pure: the caller gives the size of the screen. The worst problem has its room first. If there is not enough, problems are
shown without their fixes, and then left out; a line says how many. A command is never wrapped, so that it can be copied.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Final, NamedTuple
from unicodedata import combining, east_asian_width

from forwarder.cli.answers import ProblemAnswer, StatusAnswer
from forwarder.cli.top_rows import Tone, tone_of
from forwarder.text import UNKNOWN, count, duration, percent

_LABEL_COLUMNS: Final = 13
_MOODS: Final = {"bad": "BAD", "warn": "WARN", "note": "note", "good": "ok"}
_MOOD_COLUMNS: Final = 6
_NAMES: Final = {"python": "Python", "sqlite": "SQLite", "loop": "event loop"}
_MIN_COLUMNS: Final = 40


class Line(NamedTuple):
    """One line, and how it is shown."""

    text: str
    tone: Tone = "plain"


class _Part(NamedTuple):
    """Lines that are shown together or not at all."""

    lines: list[Line]
    rows: int
    """How many rows of the screen they take."""


def screen(status: StatusAnswer, *, place: str, columns: int, rows: int | None) -> list[Line]:
    """Return the lines of a status, at most as many as `rows`; all of them if it is None. `place` names the daemon."""
    columns = max(_MIN_COLUMNS, columns)
    head = [*_head(status, columns), Line("")]
    facts = [Line(""), *_facts(status, place, columns)] if status.problems else list(_facts(status, place, columns))
    room = None if rows is None else rows - sum(_height(line, columns) for line in (*head, *facts))
    return [*head, *_problems(status.problems, columns, room), *facts]


def _head(status: StatusAnswer, columns: int) -> Iterator[Line]:
    version, instance = status.version or UNKNOWN, f" on {status.instance}" if status.instance else ""
    title = f"growlytics-forwarder {version}{instance}: {status.state}, up {duration(status.uptime_seconds)}"
    yield from (Line(each) for each in wrapped(title, columns))
    if (headline := status.headline) is None:
        yield Line("This daemon is of an older version, which does not say what is wrong: see its page.", "warning")
        return
    yield from _marked(headline.mood, headline.text, columns)


def _marked(mood: str, text: str, columns: int) -> Iterator[Line]:
    for number, each in enumerate(wrapped(text, columns - _MOOD_COLUMNS)):
        mark = "" if number else _MOODS.get(mood, "note")
        yield Line(f"{mark:<{_MOOD_COLUMNS}}{each}", tone_of(mood))


# Problems


def _problems(problems: Sequence[ProblemAnswer], columns: int, room: int | None) -> list[Line]:
    """Return the problems, each with as much as there is room for.

    First comes the worst with its cause and its commands, then what the others are, then the rest of each.
    """
    parts = [
        (_what(each, columns), _cause(each, columns), _fix(each, columns), _commands(each, columns))
        for each in problems
    ]
    others = range(1, len(parts))
    left = sum(part.rows for each in parts for part in each) if room is None else room
    taken = [set[int]() for _ in parts]

    def take(number: int, part: int, *, spare: int = 0) -> bool:
        nonlocal left
        fits = parts[number][part].rows + spare <= left
        if fits:
            taken[number].add(part)
            left -= parts[number][part].rows
        return fits

    for part in (0, 1, 3) if parts else ():
        take(0, part, spare=bool(others))  # a row, to say how many are not shown
    shown = next((each for each in others if not take(each, 0, spare=each < len(parts) - 1)), len(parts))
    left -= shown < len(parts)
    for number in range(shown):
        for part in (1, 3, 2):
            if part not in taken[number]:
                take(number, part)
    lines = [line for number in range(shown) for part in sorted(taken[number]) for line in parts[number][part].lines]
    if shown < len(parts):
        lines.append(Line(f"and {len(parts) - shown} more, which `status --json` shows", "warning"))
    return lines


def _what(problem: ProblemAnswer, columns: int) -> _Part:
    return _part(_marked(problem.mood, problem.what, columns), columns)


def _cause(problem: ProblemAnswer, columns: int) -> _Part:
    return _part(_indented("Cause: ", problem.cause, columns), columns)


def _fix(problem: ProblemAnswer, columns: int) -> _Part:
    return _part(_indented("Fix: ", problem.fix, columns), columns)


def _commands(problem: ProblemAnswer, columns: int) -> _Part:
    return _part((Line(f"{'':<{_MOOD_COLUMNS}}$ {each}") for each in problem.typed), columns)


def _indented(name: str, text: str, columns: int) -> Iterator[Line]:
    for each in wrapped(f"{name}{text}", columns - _MOOD_COLUMNS) if text else ():
        yield Line(f"{'':<{_MOOD_COLUMNS}}{each}")


def _part(lines: Iterator[Line], columns: int) -> _Part:
    found = list(lines)
    return _Part(found, sum(_height(line, columns) for line in found))


# Numbers


def _facts(status: StatusAnswer, place: str, columns: int) -> Iterator[Line]:
    for label, text in _labelled(status, place):
        for number, each in enumerate(wrapped(text, columns - _LABEL_COLUMNS)):
            yield Line(f"{'' if number else label:<{_LABEL_COLUMNS}}{each}")


def _labelled(status: StatusAnswer, place: str) -> Iterator[tuple[str, str]]:
    rates, buffer, dead = status.rates, status.buffer, status.dead_letters
    yield (
        "rates",
        (
            f"{_rate(rates.accepted_per_second)} accepted, {_rate(rates.delivered_per_second)} delivered, "
            f"{_rate(rates.refused_per_second)} refused; events a second"
        ),
    )
    share = "" if buffer.share is None else f", {percent(buffer.share)} full"
    size = f"{_mib(buffer.bytes)} of {_mib(buffer.max_bytes)} MiB"
    state = share if buffer.available else ", UNAVAILABLE"
    yield "buffer", f"{count(buffer.all_events)} of {count(buffer.max_events)} events, {size}{state}"
    if buffer.all_events:
        yield "oldest event", f"has waited {duration(buffer.oldest_event_age_seconds)}"
    else:
        yield "oldest event", "none waits" if buffer.all_events == 0 else UNKNOWN
    yield "holds", ", ".join(_holds(status)) or "none"
    by_reason = ", ".join(f"{count(number)} {reason}" for reason, number in dead.by_reason.items() if number)
    yield "dead letters", f"{count(dead.events)}{f': {by_reason}' if by_reason else ''}"
    if (failure := status.delivery.last_failure) is not None:
        ago = (
            ""
            if None in (status.at, failure.at)
            else f", {duration(max(0.0, (status.at or 0) - (failure.at or 0)))} ago"
        )
        yield "failed last", f"{failure.text}{ago}"
    ledger = status.ledger.for_ever
    erased = ledger.dropped.get("erased", 0)  # what somebody erased is no loss
    dropped = {why: number for why, number in ledger.dropped.items() if why != "erased"}
    yield (
        "ledger",
        (
            f"{count(ledger.accepted)} accepted = {count(ledger.delivered)} delivered + {_sum(ledger.dead_lettered)} dead + "
            f"{_sum(dropped)} dropped + {f'{count(erased)} erased + ' if erased else ''}{count(ledger.buffered)} waiting"
            f"{f'; {count(ledger.unaccounted)} UNACCOUNTED' if ledger.unaccounted else ''}"
        ),
    )
    if on := ", ".join(f"{_NAMES[name]} {status.versions[name]}" for name in _NAMES if name in status.versions):
        yield "runs on", on
    yield "delivers to", status.delivery.destination or UNKNOWN
    process = "" if status.pid is None else f", process {status.pid}"
    yield "asked at", f"{place}{process}"


def _holds(status: StatusAnswer) -> Iterator[str]:
    for cause, hold in status.holds.items():
        probe = "" if hold.probe_in_seconds is None else f" (next probe in {duration(hold.probe_in_seconds)})"
        yield f"{cause} for {duration(hold.seconds)}{probe}"


def _rate(per_second: float | None) -> str:
    return UNKNOWN if per_second is None else f"{per_second:,.4g}" if per_second < 1000 else f"{per_second:,.0f}"


def _mib(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number / 2**20:,.1f}"


def _sum(parts: dict[str, int]) -> str:
    return count(sum(parts.values()) if parts else None)


# Lines


def wrapped(text: str, columns: int) -> list[str]:
    """Return a text in lines of at most so many columns, broken at spaces; a longer word is cut into several."""
    lines = [""]
    for word in text.split():
        if lines[-1] and width(lines[-1]) + 1 + width(word) > columns:
            lines.append("")
        for piece in _pieces(word, columns):
            if lines[-1] and width(lines[-1]) + 1 + width(piece) > columns:
                lines.append("")
            lines[-1] += f" {piece}" if lines[-1] else piece
    return lines


def _pieces(word: str, columns: int) -> Iterator[str]:
    piece = ""
    for character in word:
        if width(piece + character) > columns:
            yield piece
            piece = ""
        piece += character
    yield piece


def width(text: str) -> int:
    """Return how many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def _height(line: Line, columns: int) -> int:
    return max(1, ceil(width(line.text) / columns))

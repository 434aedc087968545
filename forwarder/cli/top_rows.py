"""What `top` shows: rows of a label and a text, the most important first, as a small terminal shows only the first.

Pure: the caller gives the time and the number of columns. Only `top` uses it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, NamedTuple

from forwarder.cli.answers import (
    Hold,
    LedgerAnswer,
    Percentiles,
    RecentDeadLetter,
    RefusalAnswer,
    StatusAnswer,
    TypesAnswer,
)
from forwarder.text import UNKNOWN, count, duration, percent
from forwarder.words import REFUSAL_CAUSES

LABEL_COLUMNS: Final = 13

NEARLY_FULL: Final = 0.8
"""From this share on a full buffer is a warning. The alerts use the same two values."""
SOON_FULL_SECONDS: Final = 3600

Tone = Literal["plain", "good", "warning", "bad", "dim"]

_BARS: Final = "▁▂▃▄▅▆▇█"
_RATE_COLUMNS: Final = 18
_HARMLESS_STATES: Final = {"ready", "starting"}


class Row(NamedTuple):
    """One line; an empty label continues the row above."""

    label: str
    text: str
    tone: Tone = "plain"


class Trouble(NamedTuple):
    """Why there is no newer answer than the one that is shown."""

    seconds: float
    """For how long there has been none."""
    why: str


@dataclass(frozen=True, slots=True)
class Rates:
    """Events per second; None if not known."""

    accepted: float | None
    delivered: float | None
    refused: float | None


def rows(
    status: StatusAnswer, *, place: str, trouble: Trouble | None = None, unix_seconds: float, columns: int
) -> list[Row]:
    """Return the rows of an answer. `place` names the daemon."""
    return [
        *_state(status, place, trouble),
        *_advice(status),
        *_holds(status.holds),
        *_failure(status, unix_seconds),
        *_settings(status),
        *_rates(status, rates(status), columns),
        *_buffer(status, columns),
        *_ledger(status.ledger.for_ever),
        *_dead_letters(status),
        *_conflicts(status.attribute_types),
        *_delivery(status),
        *_recent("refusals", status.recent.refusals, unix_seconds),
        *_recent("dead lately", status.recent.dead_letters, unix_seconds),
    ]


def rates(status: StatusAnswer) -> Rates:
    """Return the daemon's rates; those of a daemon before version 0.2 are its newest samples, or else its forecast."""
    found, history, forecasts = status.rates, status.history, status.forecasts

    def rate(daemons: float | None, samples: Sequence[float], forecast: float | None) -> float | None:
        if daemons is not None:
            return daemons
        return samples[-1] if samples else forecast

    return Rates(
        rate(found.accepted_per_second, history.accepted, forecasts.accepted_per_second),
        rate(found.delivered_per_second, history.delivered, forecasts.done_with_per_second),
        rate(found.refused_per_second, history.refused, None),
    )


def _state(status: StatusAnswer, place: str, trouble: Trouble | None) -> Iterator[Row]:
    facts = [
        status.state,
        f"up {duration(status.uptime_seconds)}",
        f"version {status.version or UNKNOWN}",
        f"at {place}",
    ]
    yield Row("state", ", ".join(facts), "good" if status.state in _HARMLESS_STATES else "warning")
    if trouble is not None:
        yield Row("NO ANSWER", f"for {duration(trouble.seconds)}, so this is older: {trouble.why}", "bad")


def _advice(status: StatusAnswer) -> Iterator[Row]:
    if (headline := status.headline) is not None:
        yield Row("headline", headline.text, tone_of(headline.mood))
    for number, problem in enumerate(status.problems):
        cause = f" ({problem.cause})" if problem.cause else ""
        yield Row("" if number else "problems", f"{problem.what}{cause}", tone_of(problem.mood))


def tone_of(mood: str) -> Tone:
    """Return how something of a mood is shown."""
    tones: dict[str, Tone] = {"good": "good", "warn": "warning", "bad": "bad"}
    return tones.get(mood, "plain")


def _holds(holds: Mapping[str, Hold]) -> Iterator[Row]:
    if not holds:
        yield Row("holds", "none", "good")
    for number, (cause, hold) in enumerate(holds.items()):
        probe = "" if hold.probe_in_seconds is None else f", next probe in {duration(hold.probe_in_seconds)}"
        # A refusal usually lasts until somebody acts.
        tone: Tone = "bad" if cause in REFUSAL_CAUSES else "warning"
        yield Row("" if number else "HOLDS", f"{cause} for {duration(hold.seconds)}{probe}", tone)


def _failure(status: StatusAnswer, unix_seconds: float) -> Iterator[Row]:
    if (failure := status.delivery.last_failure) is not None:
        yield Row("failed last", _ago(failure.at, unix_seconds) + failure.text, "warning" if status.holds else "dim")


def _rates(status: StatusAnswer, found: Rates, columns: int) -> Iterator[Row]:
    history = status.history
    # On one scale, to show whether as much goes out as comes in.
    highest = max((*history.accepted, *history.delivered), default=0.0)
    room = columns - LABEL_COLUMNS - _RATE_COLUMNS
    for label, rate, samples, scale in (
        ("in", found.accepted, history.accepted, highest),
        ("out", found.delivered, history.delivered, highest),
        ("refused", found.refused, history.refused, max(history.refused, default=0.0)),
    ):
        text = UNKNOWN if rate is None else f"{_rate(rate)} a second"
        yield Row(label, f"{text:<{_RATE_COLUMNS}}{sparkline(samples, room, highest=scale)}".rstrip())


def _buffer(status: StatusAnswer, columns: int) -> Iterator[Row]:
    buffer, forecasts = status.buffer, status.forecasts
    share = buffer.share
    tone: Tone = "plain" if share is None or share < NEARLY_FULL else "warning" if share < 1 else "bad"
    full = "" if share is None else f"{percent(share)} full, "
    size = f"{count(buffer.all_events)} of {count(buffer.max_events)} events, {_size(buffer.bytes, buffer.max_bytes)}"
    yield Row("buffer", f"{full}{size}", tone)
    if not buffer.available:
        yield Row("", "UNAVAILABLE: its disk is full, broken or gone, so events are refused", "bad")
    events = buffer.events
    states = f"ready {count(events.ready)}, for a retry {count(events.parked)}, in flight {count(events.in_flight)}"
    yield Row("", f"{states}, oldest {duration(buffer.oldest_event_age_seconds)}")
    if status.history.buffered:
        samples = status.history.buffered
        yield Row("", sparkline(samples, columns - LABEL_COLUMNS, highest=max(samples)))
    if forecasts.full_in_seconds is not None:
        is_soon = forecasts.full_in_seconds < SOON_FULL_SECONDS
        yield Row("forecast", f"full in {duration(forecasts.full_in_seconds)}", "warning" if is_soon else "plain")
    elif forecasts.drained_in_seconds is not None:
        yield Row("forecast", f"empty in {duration(forecasts.drained_in_seconds)}" if buffer.all_events else "empty")
    else:
        yield Row("forecast", "neither fills nor drains")


def _ledger(ledger: LedgerAnswer) -> Iterator[Row]:
    yield Row(
        "ledger",
        f"received {count(ledger.received)} = accepted {count(ledger.accepted)}"
        f" + duplicates {count(ledger.duplicates)} + refused {count(ledger.rejected)}",
    )
    yield Row(
        "",
        f"accepted {count(ledger.accepted)} = delivered {count(ledger.delivered)} + dead {_parts(ledger.dead_lettered)}"
        f" + dropped {_parts(ledger.dropped)} + buffered {count(ledger.buffered)}",
        "warning" if any(number for why, number in ledger.dropped.items() if why != "erased") else "plain",
    )
    if ledger.unaccounted is None:
        yield Row("", "not known whether it balances", "dim")
    elif ledger.unaccounted:
        yield Row("", f"DOES NOT BALANCE: {count(ledger.unaccounted)} unaccounted, please report it", "bad")
    else:
        yield Row("", "it balances", "good")


def _dead_letters(status: StatusAnswer) -> Iterator[Row]:
    kept = status.dead_letters
    if kept.events == 0:
        yield Row("dead letters", "none", "good")
        return
    size = f"{count(kept.events)} of {count(kept.max_events)}, {_size(kept.bytes, kept.max_bytes)}"
    yield Row("dead letters", size, "warning" if kept.events else "plain")


def _delivery(status: StatusAnswer) -> Iterator[Row]:
    delivery = status.delivery
    limit = f"limit {count(delivery.concurrency_limit)} of {count(delivery.max_concurrency)}"
    yield Row("delivery", f"{count(delivery.in_flight)} on the wire, {limit}")
    yield Row("latency", f"of attempts {_percentiles(delivery.attempt_seconds)}")
    yield Row("", f"since accepted {_percentiles(delivery.latency_seconds)}")
    if delivery.attempts:
        yield Row("attempts", ", ".join(f"{outcome} {count(number)}" for outcome, number in delivery.attempts.items()))


def _conflicts(types: TypesAnswer) -> Iterator[Row]:
    if not types.conflicts:
        yield Row("conflicts", "none", "good")
    for latest in types.conflicts[:1]:
        text = (
            f"{latest.name} / {latest.attribute}: {latest.found} instead of {latest.expected},"
            f" {'once' if latest.conflicts == 1 else f'{count(latest.conflicts)} times'}, {latest.action}"
        )
        yield Row("conflicts", text, "warning")
    if len(types.conflicts) > 1:
        yield Row("", f"and {len(types.conflicts) - 1} more attributes", "warning")
    if types.full:
        full = "no room for more types, so new ones replace those seen once; raise contract.max_attribute_types"
        yield Row("", full, "warning")


def _settings(status: StatusAnswer) -> Iterator[Row]:
    if status.settings.error is not None:
        yield Row("settings", f"the last reload failed, nothing changed: {status.settings.error}", "bad")
    if status.settings.restart_needed:
        yield Row("settings", f"need a restart: {', '.join(status.settings.restart_needed)}", "warning")


def _recent(label: str, occurrences: Sequence[RefusalAnswer | RecentDeadLetter], unix_seconds: float) -> Iterator[Row]:
    alike = Counter(each.text for each in occurrences)
    latest = {each.text: each.at for each in reversed(occurrences)}
    for number, (text, times) in enumerate(alike.items()):
        suffix = f", {times} times" if times > 1 else ""
        yield Row("" if number else label, f"{_ago(latest[text], unix_seconds)}{text}{suffix}", "dim")


def _ago(at: float | None, unix_seconds: float) -> str:
    return "" if at is None else f"{duration(max(0.0, unix_seconds - at))} ago "


def sparkline(samples: Sequence[float], room: int, *, highest: float) -> str:
    """Return the newest samples as bars in at most `room` columns; `highest` is a bar of full height."""
    shown = samples[-room:] if room > 0 else []
    if highest <= 0:
        return _BARS[0] * len(shown)
    return "".join(_BARS[ceil(max(0.0, each) / highest * (len(_BARS) - 1))] for each in shown)


def _parts(parts: Mapping[str, int]) -> str:
    """Return a sum and its parts."""
    if not parts:
        return UNKNOWN
    made_of = ", ".join(f"{part} {count(number)}" for part, number in parts.items() if number)
    return count(sum(parts.values())) + (f" ({made_of})" if made_of else "")


def _rate(per_second: float) -> str:
    return f"{per_second:,.1f}" if per_second < 100 else f"{per_second:,.0f}"


def _size(has_bytes: int | None, max_bytes: int | None) -> str:
    return f"{_mebibytes(has_bytes)} of {_mebibytes(max_bytes)} MiB"


def _mebibytes(number: int | None) -> str:
    if number is None:
        return UNKNOWN
    mib = number / 2**20
    return f"{mib:,.1f}" if mib < 100 and number % 2**20 else f"{mib:,.0f}"


def _percentiles(found: Percentiles) -> str:
    if found.p50 is None and found.p99 is None:
        return UNKNOWN
    return f"{duration(found.p50)} (median), {duration(found.p99)} (99 %)"

"""How `top` reads /v1/status.

Pure. The address may be a stranger's, so nothing is believed: texts are escaped, lists are cut, and a value of another type
than it must have is an error that names its place. Used by `top` only.
"""

from collections.abc import Mapping
from typing import Final

from forwarder.cli.top_status import (
    BufferShown,
    ConflictShown,
    DeadLettersShown,
    DeliveryShown,
    Forecasts,
    HistoryShown,
    Hold,
    LedgerShown,
    Occurrence,
    Percentiles,
    SettingsShown,
    StatusShown,
)
from forwarder.text import printable

MAX_SHOWN: Final = 20
"""Of holds, conflicts, refusals and other lists."""
MAX_SAMPLES: Final = 60
"""Of the history, the newest."""

_MAX_NUMBER: Final = 1e15
"""More events or bytes than there are; what is beyond would fill the screen."""


class StrangeStatusError(Exception):
    """A value is not what it must be. The message says where, and quotes nothing."""


def is_status(content: Mapping[str, object]) -> bool:
    """Return whether it can be a forwarder's at all."""
    return isinstance(content.get("state"), str) and isinstance(content.get("ledger"), dict)


def read_status(content: Mapping[str, object]) -> StatusShown:
    """Return what is shown of the content of /v1/status. Raises StrangeStatusError."""
    status = _Fields(content)
    holds, types, recent = status.fields("holds"), status.fields("attribute_types"), status.fields("recent")
    settings = status.fields("settings")
    return StatusShown(
        version=status.text("version"),
        state=status.text("state") or "?",
        uptime_seconds=status.number("uptime_seconds"),
        ledger=_ledger(status.fields("ledger").fields("for_ever")),
        buffer=_buffer(status.fields("buffer")),
        delivery=_delivery(status.fields("delivery")),
        holds=[_hold(cause, holds.fields(cause)) for cause in holds.names()[:MAX_SHOWN]],
        dead_letters=_dead_letters(status.fields("dead_letters")),
        conflicts=[_conflict(each) for each in types.each("conflicts")],
        types_full=types.flag("full") or False,
        forecasts=_forecasts(status.fields("forecasts")),
        history=_history(status.fields("history")),
        refusals=[_refusal(each) for each in recent.each("refusals")],
        dead=[_dead_letter(each) for each in recent.each("dead_letters")],
        settings=SettingsShown(settings.texts("restart_needed"), settings.text("error", 300)),
    )


class _Fields:
    """The fields of one object of the status; a field that is missing or null is None, or empty."""

    def __init__(self, content: Mapping[str, object], path: str = "") -> None:
        self._content = content
        self._path = path

    def names(self) -> list[str]:
        return list(self._content)

    def text(self, key: str, limit: int = 60) -> str | None:
        value = self._content.get(key)
        if value is not None and not isinstance(value, str):
            raise self._strange(key, "a text")
        return None if value is None else printable(value, limit)

    def number(self, key: str) -> float | None:
        value = self._content.get(key)
        return None if value is None else self._checked(key, value)

    def count(self, key: str) -> int | None:
        number = self.number(key)
        return None if number is None else int(number)

    def flag(self, key: str) -> bool | None:
        value = self._content.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._strange(key, "true or false")
        return value

    def counts(self, key: str) -> dict[str, int]:
        parts = self.fields(key)
        found = ((printable(part, 20), parts.count(part)) for part in parts.names()[:MAX_SHOWN])
        return {part: number for part, number in found if number is not None}

    def fields(self, key: str) -> "_Fields":
        value = self._content.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._strange(key, "an object")
        return _Fields(value or {}, self._place(key))

    def each(self, key: str) -> list["_Fields"]:
        return [_Fields({"": each}, self._place(key)).fields("") for each in self._list(key)[:MAX_SHOWN]]

    def texts(self, key: str) -> list[str]:
        return [_Fields({"": each}, self._place(key)).text("") or "?" for each in self._list(key)[:MAX_SHOWN]]

    def samples(self, key: str) -> list[float]:
        return [self._checked(key, each) for each in self._list(key)[-MAX_SAMPLES:]]

    def _list(self, key: str) -> list[object]:
        value = self._content.get(key)
        if value is not None and not isinstance(value, list):
            raise self._strange(key, "a list")
        return value or []

    def _checked(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_MAX_NUMBER <= value <= _MAX_NUMBER:
            raise self._strange(key, "a number that can be")
        return value

    def _place(self, key: str) -> str:
        return ".".join(part for part in (self._path, printable(key, 40)) if part)

    def _strange(self, key: str, what: str) -> StrangeStatusError:
        return StrangeStatusError(f"{self._place(key)} is not {what}")


def _ledger(ledger: _Fields) -> LedgerShown:
    return LedgerShown(
        received=ledger.count("received"),
        accepted=ledger.count("accepted"),
        duplicates=ledger.count("duplicates"),
        rejected=ledger.count("rejected"),
        delivered=ledger.count("delivered"),
        dead_lettered=ledger.counts("dead_lettered"),
        dropped=ledger.counts("dropped"),
        buffered=ledger.count("buffered"),
        unaccounted=ledger.count("unaccounted"),
    )


def _buffer(buffer: _Fields) -> BufferShown:
    events = buffer.fields("events")
    return BufferShown(
        available=buffer.flag("available") is not False,
        ready=events.count("ready"),
        parked=events.count("parked"),
        in_flight=events.count("in_flight"),
        bytes=buffer.count("bytes"),
        max_events=buffer.count("max_events"),
        max_bytes=buffer.count("max_bytes"),
        oldest_seconds=buffer.number("oldest_event_age_seconds"),
    )


def _delivery(delivery: _Fields) -> DeliveryShown:
    return DeliveryShown(
        in_flight=delivery.count("in_flight"),
        limit=delivery.count("concurrency_limit"),
        max_concurrency=delivery.count("max_concurrency"),
        attempts=delivery.counts("attempts"),
        attempt_seconds=_percentiles(delivery.fields("attempt_seconds")),
        latency_seconds=_percentiles(delivery.fields("latency_seconds")),
        last_failure=_failure(delivery.fields("last_failure")),
    )


def _failure(failure: _Fields) -> Occurrence | None:
    error, host = failure.text("error", 200), failure.text("host", 100)
    return None if error is None else Occurrence(failure.number("at"), error + (f" ({host})" if host else ""))


def _percentiles(percentiles: _Fields) -> Percentiles:
    return Percentiles(percentiles.number("p50"), percentiles.number("p99"))


def _hold(cause: str, hold: _Fields) -> Hold:
    return Hold(printable(cause, 20), hold.number("seconds"), hold.number("probe_in_seconds"))


def _dead_letters(kept: _Fields) -> DeadLettersShown:
    return DeadLettersShown(
        kept.count("events"), kept.count("bytes"), kept.count("max_events"), kept.count("max_bytes")
    )


def _conflict(conflict: _Fields) -> ConflictShown:
    def text(key: str) -> str:
        return conflict.text(key) or "?"

    return ConflictShown(
        text("name"),
        text("attribute"),
        expected=text("expected"),
        found=text("found"),
        action=text("action"),
        conflicts=conflict.count("conflicts"),
    )


def _forecasts(forecasts: _Fields) -> Forecasts:
    return Forecasts(
        accepted_per_second=forecasts.number("accepted_per_second"),
        done_with_per_second=forecasts.number("done_with_per_second"),
        full_in_seconds=forecasts.number("full_in_seconds"),
        drained_in_seconds=forecasts.number("drained_in_seconds"),
    )


def _history(history: _Fields) -> HistoryShown:
    return HistoryShown(
        interval_seconds=history.number("interval_seconds"),
        accepted=history.samples("accepted"),
        delivered=history.samples("delivered"),
        refused=history.samples("refused"),
        buffered=history.samples("buffered"),
    )


def _refusal(refusal: _Fields) -> Occurrence:
    code, field, name, intake = (refusal.text(key) for key in ("code", "field", "name", "intake"))
    events = refusal.count("events") or 1
    times = f", {events:,} times" if events > 1 else ""
    parts = (
        code or "?",
        f" (field {field})" if field else "",
        f" of {name}" if name else "",
        f" via {intake}" if intake else "",
    )
    return Occurrence(refusal.number("at"), "".join(parts) + times)


def _dead_letter(letter: _Fields) -> Occurrence:
    reason, status, name = letter.text("reason"), letter.count("status"), letter.text("name")
    answer = "" if status is None else f", answered {status}"
    return Occurrence(letter.number("at"), f"{reason or '?'}{answer}: {name or '?'}")

"""How far this machine's clock is from the other side's, by the Date of an answer to a request that tells nothing.

The request is HEAD on the host's root: it has no body, no key and no event's path, so that it can create no event. Used by
`probing`.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from forwarder.cli.checks import Checked, milliseconds
from forwarder.cli.streams import ClosedError, Head, NotHttpError, Stream, exchange
from forwarder.growlytics import causes
from forwarder.text import duration, printable

REQUEST: Final = "HEAD / without event and key"

_WARN_SECONDS: Final = 10.0
"""An HTTP date has whole seconds, and the answer takes a while."""
_FAIL_SECONDS: Final = 300.0
_MAX_AGE_SECONDS: Final = 10**8
_FIX: Final = (
    "set this machine's clock (timedatectl set-ntp true, or chronyc makestep), unless the other side's is wrong"
)


class TimedAnswer(NamedTuple):
    """An answer, and this machine's times around it."""

    head: Head
    seconds: float
    between: float
    """This machine's time in the middle of asking, in seconds since 1970."""


def ask(open_stream: Callable[[], Stream], *, authority: str, agent: str) -> TimedAnswer:
    """Ask once. Raise NotHttpError, ClosedError, OSError, or what `open_stream` raises."""
    request = (
        f"HEAD / HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nCache-Control: no-cache\r\n"
        "Connection: close\r\n\r\n"
    )
    stream = open_stream()
    try:
        began, wall = time.monotonic(), time.time()
        head = exchange(stream, request)
        seconds = time.monotonic() - began
    finally:
        stream.close()
    return TimedAnswer(head, seconds, wall + seconds / 2)


def check_answer(asked: TimedAnswer) -> Checked:
    """Return whether the other side answers as a web server."""
    status = asked.head.status
    text = f"{REQUEST} was answered with {status} in {milliseconds(asked.seconds)}"
    facts = {"status": status, "seconds": round(asked.seconds, 4)}
    if status >= 500:
        return Checked(
            "answer", "warn", text, "the server has trouble: wait, and see whether events are delivered", facts
        )
    return Checked("answer", "ok", text, facts=facts)


def unanswered(error: Exception, *, seconds: float) -> Checked:
    """Return the result if there was no answer."""
    fix = "check that growlytics.url names Growlytics, and what is between here and there"
    match error:
        case NotHttpError():
            text = "what answers does not speak HTTP"
            fix = "correct host and port in growlytics.url"
        case ClosedError():
            text = "connection closed before an answer"
        case TimeoutError():
            text = f"no answer within {seconds:.3g} s"
        case OSError(errno=int(number)):
            text = causes.of_errno(number)
        case _:
            text = "the connection failed"
    return Checked("answer", "fail", f"{text} ({REQUEST})", fix)


def check_clock(head: Head, between: float, *, host: str, verified: bool) -> Checked:
    """Compare this machine's time `between` with the answer's."""
    date = _date(head.fields)
    if date is None:
        return Checked("clock", "skip", "the answer has no valid Date to compare this machine's clock with")
    difference = between - date
    if abs(difference) <= 1:  # the Date is cut to whole seconds
        difference = 0.0
    facts = {"difference_seconds": round(difference, 1), "verified": verified}
    doubt = "" if verified else ", whose certificate cannot be verified"
    if difference == 0:
        return Checked("clock", "ok", f"this machine's clock agrees with that of {host}{doubt}", facts=facts)
    way = "ahead of" if difference > 0 else "behind"
    text = f"this machine's clock is {duration(abs(difference))} {way} that of {host}{doubt}"
    if abs(difference) <= _WARN_SECONDS:
        return Checked("clock", "ok", text, facts=facts)
    return Checked("clock", "fail" if abs(difference) > _FAIL_SECONDS else "warn", text, _FIX, facts)


def _date(fields: dict[str, str]) -> float | None:
    """Return an answer's time in seconds since 1970. A cache says how old its copy of an answer is."""
    with suppress(ValueError, TypeError, OverflowError):
        date = parsedate_to_datetime(printable(fields["date"])) if "date" in fields else None
        if date is not None:
            age = fields.get("age", "0")
            seconds = int(age) if age.isdecimal() and len(age) < 10 else 0
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() + min(seconds, _MAX_AGE_SECONDS)
    return None

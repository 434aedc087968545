"""What the status says about the questions of the headline: is anything lost, is the buffer full, do attempts fail?

Pure. What happened counts as news for a while only: `REFUSED_SECONDS`, `NEWS_SECONDS` and `LOSS_SECONDS`.
"""

from typing import Final

from forwarder.advice.problem import Content
from forwarder.text import are, events, roughly
from forwarder.words import TRANSIENT_CODES, DelayCause

REFUSED_SECONDS: Final = 300.0
"""Refusals count as under way for so long after the last one."""
_PASSED_SECONDS: Final = 10.0
"""For refusals that have passed when the daemon is well again, as apps repeat such posts."""
NEWS_SECONDS: Final = 3600.0
"""Dead letters and type conflicts are new for so long."""
LOSS_SECONDS: Final = 86_400.0
"""A loss is bad news for so long. Until the daemon restarts it stays a warning."""
BEHIND_SECONDS: Final = 30.0
"""If the oldest event has waited for so long, delivery is behind."""
FAILING_SECONDS: Final = 10.0
"""If an attempt has failed, and nothing was delivered for so long, attempts fail."""
NEARLY_FULL: Final = 0.8
"""The alert uses the same value."""
_FULL: Final = 0.999
_RATE_SHARE: Final = 0.8


def ago(status: Content, at: float) -> str:
    """Return how long ago a time was."""
    seconds = max(0.0, status["at"] - at)
    return "just now" if seconds < 1 else f"{roughly(seconds)} ago"


def is_since(status: Content, at: float | None, seconds: float) -> bool:
    """Return whether a time is at most so many seconds before the status."""
    return at is not None and bool(status["at"] - at <= seconds)


# The buffer


def waiting(status: Content) -> int:
    """Return how many events wait in the buffer."""
    return sum(status["buffer"]["events"].values())


def fullness(status: Content) -> float:
    """Return how full the buffer is, from 0 to 1, by the nearer of its two bounds."""
    buffer = status["buffer"]
    return float(max(waiting(status) / buffer["max_events"], buffer["bytes"] / buffer["max_bytes"]))


def is_full(status: Content) -> bool:
    """Return whether there is no room for another event, or for the batches that come."""
    share = fullness(status)
    return share >= _FULL or (share >= NEARLY_FULL and any(each["code"] == "buffer_full" for each in refusals(status)))


# Losses


def lost(status: Content) -> dict[str, int]:
    """Return how many accepted events were dropped since the start, by reason. What somebody erased is no loss."""
    dropped = status["ledger"]["since_start"]["dropped"]
    return {why: number for why, number in dropped.items() if number and why != "erased"}


def evicted(status: Content) -> int:
    """Return how many dead letters were lost since the start because there were too many."""
    number: int = status["dead_letters"]["evicted"].get("full", 0)
    return number


# Delivery


def is_failing(status: Content) -> bool:
    """Return whether attempts fail, and nothing is delivered, although there is no hold."""
    delivery = status["delivery"]
    suspects = delivery["suspects"]["events"]
    if status["holds"] or not waiting(status) or delivery["last_failure"] is None:
        return False
    if not delivery["failures_in_a_row"] and suspects <= 1 and (suspects or delivery["waits_for"] != "retry"):
        return False  # the last outcome was good, or it concerns one event, perhaps
    return _none_is_delivered(status)


def is_alone(status: Content) -> bool:
    """Return whether one event is refused, and none is delivered meanwhile, so nobody can tell whose fault it is."""
    return status["delivery"]["suspects"]["events"] == 1 and _none_is_delivered(status)


def _none_is_delivered(status: Content) -> bool:
    """Return whether an attempt has failed since the last delivery, which was not just now."""
    failure, delivered_at = status["delivery"]["last_failure"], status["delivery"]["last_delivery_at"]
    if failure is None or delivered_at is None:
        return failure is not None
    return bool(failure["at"] > delivered_at) and not is_since(status, delivered_at, FAILING_SECONDS)


def is_behind(status: Content) -> bool:
    """Return whether events wait too long although there is no hold."""
    age = status["buffer"]["oldest_event_age_seconds"]
    return not status["holds"] and waiting(status) > 0 and age > BEHIND_SECONDS


def refused_suspects(suspects: Content) -> str:
    """Return that the suspects are refused, as a part of a sentence."""
    number: int = suspects["events"]
    again = " again and again" if suspects["first"]["refusals"] > 1 else ""
    return f"{events(number)} {are(number)} refused{again}"


def waits_for_suspects(status: Content) -> bool:
    """Return whether events wait because they, or events before them, are refused again and again."""
    if not status["delivery"]["suspects"]["events"]:
        return False
    return is_alone(status) or delay_of(status) in ("order", "retry")


def drained_in_seconds(status: Content) -> float | None:
    """Return when the buffer is empty by the deliveries that go on; None if none do, whatever else leaves the buffer."""
    drained: float | None = status["forecasts"]["drained_in_seconds"]
    return drained if status["rates"]["delivered_per_second"] > 0 else None


def delay_of(status: Content) -> DelayCause | None:
    """Return what keeps events waiting without a hold; None if it is not known."""
    delivery = status["delivery"]
    limit = delivery["rate_limit_per_second"]
    if limit and status["rates"]["delivered_per_second"] >= _RATE_SHARE * limit:
        return "rate_limit"
    found: DelayCause | None = delivery["waits_for"]
    return found


# The app, and events that need attention


def refusals(status: Content) -> list[Content]:
    """Return the kinds of refusals that are under way, the latest first."""
    return [
        each
        for each in status["recent"]["refusals"]
        if is_since(status, each["at"], _PASSED_SECONDS if each["code"] in TRANSIENT_CODES else REFUSED_SECONDS)
    ]


def newest_dead_letter(status: Content) -> Content | None:
    """Return the newest dead letter since the start."""
    return next(iter(status["recent"]["dead_letters"]), None)


def has_new_dead_letters(status: Content) -> bool:
    """Return whether an event became a dead letter not long ago, and dead letters are kept."""
    newest = newest_dead_letter(status)
    return (
        bool(status["dead_letters"]["events"]) and newest is not None and is_since(status, newest["at"], NEWS_SECONDS)
    )


def new_conflicts(status: Content) -> list[Content]:
    """Return the attributes that came with another type not long ago, unless a string came for a date or the reverse."""
    return [
        each
        for each in status["attribute_types"]["conflicts"]
        if is_since(status, each["last_at"], NEWS_SECONDS) and {each["expected"], each["found"]} != {"string", "date"}
    ]

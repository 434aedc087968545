"""Why events wait without a hold, and what is wrong with the buffer that they wait in. Pure."""

import shlex
from collections.abc import Iterator
from typing import Any, Final

from forwarder.advice.failures import explain_failure
from forwarder.advice.problem import Commands, Content, StatusProblem, is_gone
from forwarder.advice.reading import (
    NEARLY_FULL,
    ago,
    delay_of,
    drained_in_seconds,
    fullness,
    is_alone,
    is_behind,
    is_failing,
    is_full,
    refused_suspects,
    waiting,
    waits_for_suspects,
)
from forwarder.text import count, duration, events, percent, rate, roughly
from forwarder.words import REFUSAL_CAUSES, DelayCause

SOON_FULL_SECONDS: Final = 3600.0
"""The alert uses the same value."""
_FILLING: Final = 0.05
_FULL_DISK: Final = ("full", "space", "room")
"""What SQLite, the system and the buffer say of a full disk."""

_REFUSED: Final = frozenset(REFUSAL_CAUSES)
"""Holds in which everything is refused, perhaps. Then no event is a suspect more than others, and none is to be buried."""
DELAYS: Final[dict[DelayCause, str]] = {
    "rate_limit": "`delivery.rate_limit_per_second` lets no more through: raise it, or set 0 for no limit, and send SIGHUP.",
    "concurrency": "As many attempts are under way as may be. If that is `delivery.max_concurrency`, raise it and send "
    "SIGHUP. If it is less, Growlytics gets slower under load, and the forwarder holds back.",
    "order": "Events of one customer are sent one after the other (`delivery.order`): one customer has very many, or an "
    "event is tried again and again. Check that the app does not send the same `customerId` for everybody.",
    "retry": "The attempts failed, and wait for their next try.",
    "commit": "The disk of `buffer.directory` is slow: check what else uses it.",
}


# The buffer


def buffer_problems(status: Content) -> Iterator[StatusProblem]:
    """Yield what is wrong with the buffer's disk, and with its room."""
    buffer, share = status["buffer"], fullness(status)
    if not buffer["available"]:
        yield unavailable(status)
    raise_it = (
        "Raise `buffer.max_events` and `buffer.max_bytes` if the disk has room, and restart: what is buffered stays."
        if buffer["kind"] == "disk"
        else "Raise `buffer.max_events` and `buffer.max_bytes` for the next start; events in memory do not outlive this one."
    )
    room = f"{count(buffer['max_events'])}, {_mib(buffer['bytes'])} of {_mib(buffer['max_bytes'])} MiB"
    cause = f"{events(waiting(status))} of {room}; {_why_it_fills(status)}"
    if is_full(status):
        drops = buffer["when_full"] == "drop_oldest"
        what = f"The buffer is full: {'the oldest events are dropped' if drops else 'new events are refused (429)'}."
        fix = f"First end what keeps delivery from going on. {raise_it}"
        yield StatusProblem("buffer_full", "bad", what, cause, fix)
        return
    full_in = status["forecasts"]["full_in_seconds"]
    if share >= NEARLY_FULL or (share >= _FILLING and full_in is not None and full_in < SOON_FULL_SECONDS):
        when = "" if full_in is None else f", and will be full in about {roughly(full_in)}"
        yield StatusProblem("buffer_filling", "warn", f"The buffer is {percent(share)} full{when}.", cause, raise_it)


def unavailable(status: Content) -> StatusProblem:
    """Return why the buffer accepts nothing, although it may have room."""
    buffer = status["buffer"]
    failure: dict[str, Any] = buffer["last_error"] or {"operation": "commit", "error": "the daemon's log says why"}
    directory, error = buffer["directory"] or "`buffer.directory`", failure["error"]
    if is_gone(buffer):
        number, dead = waiting(status), status["dead_letters"]["events"]
        still_open = f"{events(number)} and {count(dead)} dead letter{'' if dead == 1 else 's'}"
        fix = f"Put the file back into {directory}. " + (
            f"If it is gone for good: its {still_open} are nowhere else than in this process, so let it deliver, and export "
            "the dead letters, before you restart it. If a control socket was there, make the directory anew, and the "
            "socket is made again."
            if number or dead
            else "If it is gone for good, restart the daemon: the file had no events and no dead letters."
        )
        return StatusProblem(
            "buffer_gone", "bad", "The buffer's file is gone from its place: new events are refused.", error, fix
        )
    if any(word in error for word in _FULL_DISK):
        what = "The buffer's disk is full: new events are refused."
        fix = f"Make room on the disk of {directory} (`buffer.directory`). The daemon tries again by itself."
        typed = (f"df -h {shlex.quote(directory)}",) if buffer["directory"] else ()
        return StatusProblem("disk_full", "bad", what, error, fix, typed)
    fix = f"Check the disk of {directory} (`buffer.directory`), and its permissions. The daemon tries again by itself."
    return StatusProblem("buffer_unavailable", "bad", "The buffer's disk fails: new events are refused.", error, fix)


def _why_it_fills(status: Content) -> str:
    if status["holds"]:
        return "delivery is paused"
    return "attempts fail" if is_failing(status) else _rates(status)


def _rates(status: Content) -> str:
    rates = status["rates"]
    come, go = rate(rates["accepted_per_second"]), rate(rates["delivered_per_second"])
    return f"{come} events a second come in, {go} are delivered"


# Delivery


def delay_problems(status: Content, commands: Commands) -> Iterator[StatusProblem]:
    """Yield why events wait although there is no hold."""
    if is_failing(status):
        yield _failing(status, commands)
        return
    if status["delivery"]["suspects"]["events"] and _REFUSED.isdisjoint(status["holds"]):
        yield _suspects(status, commands)
    if is_behind(status) and not waits_for_suspects(status):
        yield _behind(status, commands)


def _failing(status: Content, commands: Commands) -> StatusProblem:
    found = explain_failure(status, commands, kind="failing")
    oldest = duration(status["buffer"]["oldest_event_age_seconds"])
    what = f"{found.what}: attempts fail, and the oldest event has waited for {oldest}."
    cause = f"{found.cause}, {ago(status, status['delivery']['last_failure']['at'])}"
    fix = f"{found.fix} Events wait in the buffer, and are tried again by themselves."
    return StatusProblem(found.kind, "warn", what, cause, fix, found.commands)


def _behind(status: Content, commands: Commands) -> StatusProblem:
    delay = delay_of(status)
    drained = drained_in_seconds(status)
    soon = "" if drained is None else f"; at the present rates none waits in about {roughly(drained)}"
    what = f"The oldest event has waited for {duration(status['buffer']['oldest_event_age_seconds'])}{soon}."
    fix = "More events come than Growlytics accepts from here." if delay is None else DELAYS[delay]
    return StatusProblem(
        delay or "behind",
        "warn" if drained is None or delay == "rate_limit" else "note",
        what,
        f"{_rates(status)}; they wait for: {delay.replace('_', ' ')}" if delay else _rates(status),
        fix,
        commands.reload if delay in ("rate_limit", "concurrency") else (),
    )


def _suspects(status: Content, commands: Commands) -> StatusProblem:
    suspects = status["delivery"]["suspects"]
    first = suspects["first"]
    of = f" of {first['name']}" if first["name"] else ""
    which = "an event" if first["id"] is None else f"event {first['id']}{of}"
    page = " with a web page" if 200 <= first["status"] < 300 else ""
    times = f"{count(first['refusals'])} time{'' if first['refusals'] == 1 else 's'}"
    cause = f"{which}: answered {first['status']}{page}, refused {times}"
    bury = () if first["id"] is None else commands.operating(f"dead-letters bury {first['id']}")
    others = "and no other is delivered meanwhile" if is_alone(status) else "while others may be delivered"
    fix = (
        "A web application firewall or a filter before Growlytics may object to its content. It is tried again, and later "
        "events of its customer wait for it. It becomes a dead letter by itself once others were delivered for long enough; "
        "or make it one now (bury), and those behind it go on."
    )
    if is_alone(status):
        fix = f"See whether another event is delivered: if none is, the event is good, and must not be buried. {fix}"
    return StatusProblem("suspect", "warn", f"{refused_suspects(suspects)}, {others}.", cause, fix, bury)


def _mib(number: int) -> str:
    return f"{number / 2**20:,.1f}"

"""What is wrong besides delivery and its buffer: losses, an app that is refused, events that need attention, settings.

Pure. What happened once counts for a while only, and the text says until when, or when it was.
"""

from collections.abc import Iterator
from typing import Final

from forwarder.advice.problem import Commands, Content, StatusProblem
from forwarder.advice.reading import (
    LOSS_SECONDS,
    NEARLY_FULL,
    REFUSED_SECONDS,
    ago,
    evicted,
    has_new_dead_letters,
    is_since,
    lost,
    new_conflicts,
    newest_dead_letter,
    refusals,
)
from forwarder.text import are, count, events, roughly, were
from forwarder.words import TRANSIENT_CODES, ConflictAction

_SHOWN_KINDS: Final = 3
DROPPED: Final[dict[str, str]] = {
    "drop_oldest": "The buffer was full, and the oldest events were dropped, as `buffer.when_full` says. Raise "
    "`buffer.max_events` and `buffer.max_bytes`, or set `reject`, which refuses new events instead.",
    "corrupt": "The disk lost or altered them: check the disk of `buffer.directory`.",
    "shutdown": "The daemon stopped before they were delivered. With `disk` for `buffer.kind` events outlive it.",
}
"""What to do about a loss, by its reason."""
REFUSED: Final[dict[str, str]] = {
    "buffer_full": "The buffer was full. Apps must repeat such posts after Retry-After.",
    "buffer_unavailable": "The buffer's disk failed. Apps must repeat such posts after Retry-After.",
    "shutting_down": "The daemon was stopping. Apps must repeat such posts.",
    "busy": "Send smaller batches, or fewer at the same time, or raise `intake.max_parsing_bytes`.",
    "body_too_large": "Send smaller batches, or raise `intake.max_body_bytes`.",
    "unauthorized": "The app must send the token of `intake.token` as `x-growlytics-key`, or use the Unix socket.",
    "forbidden_host": "Add the name that the app calls to `intake.allowed_hosts`.",
    "forbidden_origin": "A web page posts: add its origin to `intake.allowed_origins` if it may do that.",
    "too_slow": "The app, or the network, does not complete its requests: see `intake.body_timeout_seconds`.",
    "attribute_type_conflict": "`contract.attribute_types` is `reject`: fix the app, or the types.",
    "idempotency_key_reused": "The app uses one Idempotency-Key for different events: each needs one of its own.",
}
"""What to do about refusals, by their code, unless the events are wrong."""
_WRONG_EVENT: Final = (
    "The events violate Growlytics' contract: fix the app. The answer to each post names all that is wrong with it."
)
_CONFLICTS: Final[dict[ConflictAction, str]] = {
    "observe": "Growlytics ignores such attributes. Fix the app, or let the forwarder convert the values, with `coerce` for "
    "`contract.attribute_types` and `contract.types_file`.",
    "coerce": "The values were converted where that is possible. Fix the app.",
    "strip": "The attributes were removed from the events. Fix the app.",
    "reject": "The events were refused. Fix the app.",
}
_FORGETTING: Final = (
    "If the new type is the right one, have the old one forgotten (forget), so that the next event decides."
)


# Losses


def loss_problems(status: Content, commands: Commands) -> Iterator[StatusProblem]:
    """Yield what is lost, or cannot be accounted for."""
    lost_at = status["buffer"]["last_dropped_at"]
    for why, number in lost(status).items():
        at = lost_at.get(why)
        last = "" if at is None else f", the last {ago(status, at)}"
        is_old = at is not None and not is_since(status, at, LOSS_SECONDS)
        what = f"{events(number)} {were(number)} lost since the start{last}."
        fix = DROPPED.get(why, "The daemon's log says why.")
        yield StatusProblem("events_lost", "warn" if is_old else "bad", what, f"dropped with reason {why}", fix)
    if number := evicted(status):
        what = f"{_dead_letters(number)} {were(number)} removed since the start: there were too many."
        fix = (
            "Replay or export dead letters in time, or raise `dead_letters.max_events` and `dead_letters.max_bytes` and "
            "restart."
        )
        yield StatusProblem("dead_letters_lost", "bad", what, "the oldest made room for new ones", fix)
    if missing := status["ledger"]["for_ever"]["unaccounted"]:
        number = abs(missing)
        what = f"{events(number)} {are(number)} unaccounted for: the ledger does not balance."
        cause = f"there {'is an event less' if number == 1 else f'are {count(number)} events less'} than were accepted"
        if missing < 0:
            cause = cause.replace("less than were", "more than were")
        fix = "It is a bug, or the buffer's file was changed by something else. Keep the log, make a bundle, and report it."
        yield StatusProblem("ledger", "bad", what, cause, fix, commands.controlling("bundle forwarder-bundle.tar.gz"))


# The app


def refusal_problems(status: Content) -> Iterator[StatusProblem]:
    """Yield that events of the app are refused, or whole requests."""
    found = refusals(status)
    if not found:
        return
    shown, more = found[:_SHOWN_KINDS], len(found) - _SHOWN_KINDS
    cause = "; ".join(_refusal(status, each) for each in shown) + (f"; and {more} more kinds" if more > 0 else "")
    fixes = dict.fromkeys(REFUSED.get(each["code"], _WRONG_EVENT) for each in shown)
    lasts = any(each["code"] not in TRANSIENT_CODES for each in found)
    fix = " ".join(fixes) + (f" This is shown until none was refused for {roughly(REFUSED_SECONDS)}." if lasts else "")
    yield StatusProblem("refused", "warn", "Events of the app are refused; the app was told why.", cause, fix)


def _refusal(status: Content, refusal: Content) -> str:
    field, name = refusal["field"], refusal["name"]
    where = (f" ({field})" if field else "") + (f" of {name}" if name else "")
    since = f"{events(refusal['events'])} since the start, the last {ago(status, refusal['at'])}"
    return f"{refusal['code']}{where} over {refusal['intake']}: {since}"


# Events that need attention


def dead_letter_problems(status: Content, commands: Commands) -> Iterator[StatusProblem]:
    """Yield that there are dead letters, and why."""
    dead = status["dead_letters"]
    number = dead["events"]
    if not number:
        return
    share = max(number / dead["max_events"], dead["bytes"] / dead["max_bytes"])
    listing = commands.looking("dead-letters list")
    kept = f"{are(number)} kept as {'a dead letter' if number == 1 else 'dead letters'}"
    by_reason = [f"{count(each)} {reason}" for reason, each in dead["by_reason"].items() if each]
    yield StatusProblem(
        "dead_letters",
        "warn" if has_new_dead_letters(status) else "note",
        f"{events(number)} {were(number)} not delivered, and {kept}.",
        "; ".join((*by_reason, _last_dead_letter(status))),
        "See why with the first command. When the cause is gone, send them again with the second. What is of no use can be "
        "purged.",
        listing + commands.operating("dead-letters replay --all"),
    )
    if share >= NEARLY_FULL:
        what = f"There is room for {100 * max(0.0, 1 - share):.0f} % more dead letters; then the oldest are removed."
        fix = "Replay or export them, or raise `dead_letters.max_events` and `dead_letters.max_bytes` and restart."
        cause = f"{_dead_letters(number)} of {count(dead['max_events'])}"
        yield StatusProblem("dead_letters_filling", "warn", what, cause, fix, listing)


def _last_dead_letter(status: Content) -> str:
    newest = newest_dead_letter(status)
    if newest is None:
        return f"none since the start, {roughly(status['uptime_seconds'])} ago"
    answered = "" if newest["status"] is None else f", answered {newest['status']}"
    return f"the last {ago(status, newest['at'])} ({newest['reason']}{answered})"


def type_problems(status: Content, commands: Commands) -> Iterator[StatusProblem]:
    """Yield that attributes changed their type, and that the table of types is full."""
    types = status["attribute_types"]
    listing = commands.looking("attribute-types list")
    if types["conflicts"]:
        new = new_conflicts(status)
        found = new or types["conflicts"]
        more = len(found) - _SHOWN_KINDS
        cause = "; ".join(_conflict(status, each) for each in found[:_SHOWN_KINDS])
        cause += f"; and {count(more)} more" if more > 0 else ""
        what = "Attributes came with another type than before."
        fix = f"{_CONFLICTS[types['policy']]} {_FORGETTING}"
        typed = listing + _forgetting(found[0], commands)
        yield StatusProblem("type_conflict", "warn" if new else "note", what, cause, fix, typed)
    if types["full"]:
        what = "The table of attribute types is full: new types replace those that were seen once."
        cause = f"{count(types['learned'])} types are learned, of {count(types['max'])}"
        fix = "Look for ids in the names of events and attributes, or raise `contract.max_attribute_types` and restart."
        yield StatusProblem("types_full", "note", what, cause, fix, listing)


def _forgetting(conflict: Content, commands: Commands) -> tuple[str, ...]:
    """Return the command that forgets the earlier type; none if it is fixed, or if the names are hidden, escaped or cut."""
    names = (conflict["name"], conflict["attribute"])
    if not conflict["learned"] or not all(each and not {"\\", "…"}.intersection(each) for each in names):
        return ()
    return commands.operating("attribute-types forget", *names)


def _conflict(status: Content, conflict: Content) -> str:
    what = f"{conflict['attribute']} of {conflict['name']}" if conflict["name"] else "an attribute"
    number = conflict["conflicts"]
    times = f"{'once' if number == 1 else f'{count(number)} times'}, the last {ago(status, conflict['last_at'])}"
    return f"{what} came as {conflict['found']}, and was {conflict['expected']} before: {times}"


# Settings


def settings_problems(status: Content, commands: Commands) -> Iterator[StatusProblem]:
    """Yield what was wrong with the settings that were read last, and what needs a restart."""
    settings = status["settings"]
    if error := settings["error"]:
        what = "The settings that were read last cannot be used; the earlier ones stay in use."
        yield StatusProblem("reload_failed", "warn", what, error, "Fix them, and send SIGHUP again.", commands.reload)
    for setting, fault in settings["file_faults"].items():
        what = "A file that the settings name cannot be used; what was read from it before stays in use."
        fix = (
            f"Correct the file of `{setting}`, and let the daemon's user read it: it is read again within five seconds."
        )
        yield StatusProblem("file_unusable", "warn", what, f"{setting} {fault}", fix)
    if paths := settings["restart_needed"]:
        fix = (
            "Restart the daemon when it suits you: buffered events stay on disk."
            if status["buffer"]["kind"] == "disk"
            else "Restart the daemon when no event waits: events in memory do not outlive it."
        )
        yield StatusProblem(
            "restart_needed", "note", "Settings have changed that need a restart.", ", ".join(paths), fix
        )


def _dead_letters(number: int) -> str:
    return f"{count(number)} dead letter{'' if number == 1 else 's'}"

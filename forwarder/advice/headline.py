"""The headline of /v1/status, which is true, and all problems, the worst first. Pure.

What a person concludes from the headline decides which state wins, in this order:

- A daemon that starts or stops says so first.
- Events that are refused or dropped now, because the buffer is full or its disk fails, come before the cause of that, as the
  app feels it. The text names both.
- A hold, or attempts that all fail, is "not delivering", and never "catching up", however the forecast looks.
- Then an app that is refused, then events that need attention, then delivery that is behind.
- "Delivering" means that all is well: nothing waits long, and nothing needs anybody.

A loss comes first in every text.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from forwarder.advice import problems, reading, waiting
from forwarder.advice.failures import explain_failure, explain_hold, hold_problems, worst_hold
from forwarder.advice.problem import Commands, Content, StatusProblem
from forwarder.text import are, duration, events, roughly
from forwarder.words import MOODS, HeadlineState, Mood

_MOODS: Final[dict[HeadlineState, Mood]] = {
    "starting": "note",
    "stopping": "warn",
    "refusing": "warn",
    "dropping": "bad",
    "not_delivering": "warn",
    "needs_attention": "note",
    "falling_behind": "warn",
    "catching_up": "note",
    "no_events": "note",
    "delivering": "good",
}
"""The least urgent mood of each state; a worse problem makes it worse."""
_SHOWN_FORECAST_SECONDS: Final = 86_400.0


class _Headline(NamedTuple):
    state: HeadlineState
    text: str


def advise(status: Content) -> dict[str, object]:
    """Return `headline` and `problems` of /v1/status, from the rest of it. Names of events and attributes may be None."""
    commands = Commands(status)
    found = sorted(_problems(status, commands), key=lambda each: MOODS.index(each.mood))  # stable: losses come first
    state, text = _headline(status, commands)
    worst = found[0].mood if found else "good"
    mood = min(_MOODS[state], "good" if worst == "note" else worst, key=MOODS.index)
    return {
        "headline": {"state": state, "mood": mood, "text": _safety(status, state) + text},
        "problems": [each.described() for each in found],
    }


def _problems(status: Content, commands: Commands) -> Iterator[StatusProblem]:
    yield from problems.loss_problems(status, commands)
    yield from hold_problems(status, commands)
    yield from waiting.buffer_problems(status)
    yield from waiting.delay_problems(status, commands)
    yield from problems.refusal_problems(status)
    yield from problems.settings_problems(status, commands)
    yield from problems.dead_letter_problems(status, commands)
    yield from problems.type_problems(status, commands)


def _safety(status: Content, state: HeadlineState) -> str:
    """Return the first sentence, whether anything is lost, and a space; empty if there is nothing to lose."""
    if status["ledger"]["for_ever"]["unaccounted"]:
        return "The ledger does not balance. "
    if number := sum(reading.lost(status).values()) + reading.evicted(status):
        return f"{events(number)} {are(number)} lost. "
    number, is_on_disk = reading.waiting(status), status["buffer"]["kind"] == "disk"
    if not status["buffer"]["available"] or (state == "stopping" and not is_on_disk):
        return f"{events(number)} {are(number)} at risk. " if number else ""  # what is on the disk may be gone with it
    if state in ("no_events", "starting") or not status["ledger"]["for_ever"]["accepted"]:
        return ""
    return "All accepted events are safe. " if is_on_disk else "No accepted event is lost. "


def _headline(status: Content, commands: Commands) -> _Headline:
    if status["state"] == "starting":
        return _Headline("starting", "The daemon is starting.")
    stuck = _stuck(status, commands)
    if status["state"] != "ready":
        return _Headline("stopping", _stopping(status) + stuck)
    if not status["buffer"]["available"]:
        return _Headline("refusing", waiting.unavailable(status).what + stuck)
    if reading.is_full(status):
        drops = status["buffer"]["when_full"] == "drop_oldest"
        effect = "the oldest events are dropped" if drops else "new events are refused"
        return _Headline("dropping" if drops else "refusing", f"The buffer is full: {effect}.{stuck}")
    if stuck:
        return _Headline("not_delivering", f"{stuck.strip()} {_waiting(status)}{_refused(status)}")
    return _while_delivering(status)


def _while_delivering(status: Content) -> _Headline:
    flow = _flow(status)
    if refused := _refused(status):
        return _Headline("refusing", f"{refused.strip()} {flow.text}")
    if attention := _attention(status):
        return _Headline("needs_attention", f"{flow.text} {attention}")
    return flow


def _stopping(status: Content) -> str:
    number = reading.waiting(status)
    if not number:
        return f"The daemon is {status['state']}; no event waits."
    after = "stay for the next start" if status["buffer"]["kind"] == "disk" else "are lost with the process"
    return f"The daemon is {status['state']}: {_wait(number)}; those not delivered in time {after}."


def _stuck(status: Content, commands: Commands) -> str:
    """Return why nothing is delivered, as a sentence after a space; empty if something is."""
    if cause := worst_hold(status["holds"]):
        why = explain_hold(cause, status, commands).what
    elif reading.is_failing(status):
        why = explain_failure(status, commands, kind="failing").what
    else:
        return ""
    return f" Not delivering: {why if why.startswith('Growlytics') else why[:1].lower() + why[1:]}."


def _waiting(status: Content) -> str:
    number = reading.waiting(status)
    if not number:
        return "No event waits."
    full_in = status["forecasts"]["full_in_seconds"]
    is_shown = full_in is not None and full_in < _SHOWN_FORECAST_SECONDS
    return (
        f"{_wait_since(status, number)}{f', and the buffer is full in about {roughly(full_in)}' if is_shown else ''}."
    )


def _refused(status: Content) -> str:
    """Return that events of the app are refused, as a sentence after a space; empty if none are."""
    found = reading.refusals(status)
    if not found:
        return ""
    code, at = found[0]["code"], found[0]["at"]
    if reading.is_since(status, at, reading.BEHIND_SECONDS):
        return f" The app is being refused: {code}, the last time {reading.ago(status, at)}."
    return f" The app was refused {reading.ago(status, at)}: {code}."


def _attention(status: Content) -> str:
    """Return which events need attention, as a sentence; empty if none do."""
    parts = []
    if (suspects := status["delivery"]["suspects"])["events"]:
        parts.append(reading.refused_suspects(suspects))
    if number := status["dead_letters"]["events"]:
        newest = reading.newest_dead_letter(status)
        since = f"the last {reading.ago(status, newest['at'])}" if newest else "from before the start"
        parts.append(f"{events(number)} could not be delivered (dead letters, {since})")
    if conflicts := reading.new_conflicts(status):
        parts.append("an attribute changed its type" if len(conflicts) == 1 else "attributes changed their types")
    return f"Needs attention: {'; '.join(parts)}." if parts else ""


def _flow(status: Content) -> _Headline:
    """Return how events flow, if there is no hold and attempts do not all fail."""
    number = reading.waiting(status)
    return _backlog(status, number) if number else _idle(status)


def _backlog(status: Content, number: int) -> _Headline:
    if reading.waits_for_suspects(status):  # whether others are delivered is not known
        return _Headline("needs_attention", f"{_wait_since(status, number)}.")
    if not reading.is_behind(status):
        return _Headline("delivering", f"Delivering: {_wait_since(status, number)}.")
    drained = reading.drained_in_seconds(status)
    if drained is None:
        return _Headline("falling_behind", f"Delivery falls behind: {_wait_since(status, number)}.")
    return _Headline("catching_up", f"Catching up: done in about {roughly(drained)}; {_wait(number)}.")


def _idle(status: Content) -> _Headline:
    for_ever, since_start = status["ledger"]["for_ever"], status["ledger"]["since_start"]
    if not for_ever["accepted"]:
        return _Headline("no_events", f"No event {_has_not_come(for_ever)} yet.")
    at = status["delivery"]["last_delivery_at"]
    none_came = ""
    if not since_start["accepted"]:
        none_came = f"No event {_has_not_come(since_start)} since the start, {roughly(status['uptime_seconds'])} ago."
        if at is None:
            return _Headline("no_events", none_came)
    if at is None:
        return _Headline("delivering", "No event waits; none was delivered since the start.")
    last = f"the last one was delivered {reading.ago(status, at)}"
    return _Headline("delivering", f"Delivering: no event waits, {last}. {none_came}".rstrip())


def _has_not_come(ledger: Content) -> str:
    """Return what is not true of any event of a ledger in which none was accepted."""
    return "was accepted" if ledger["received"] else "has come"


def _wait(number: int) -> str:
    return f"{events(number)} {'waits' if number == 1 else 'wait'}"


def _wait_since(status: Content, number: int) -> str:
    return f"{_wait(number)}, the oldest for {duration(status['buffer']['oldest_event_age_seconds'])}"

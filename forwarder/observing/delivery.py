"""What happens to accepted events: on the way to Growlytics, in the buffer and on its disk; and to dead letters."""

import logging
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from forwarder.observing.base import TelemetryBase, log
from forwarder.observing.metrics import ATTEMPT_SECONDS, LATENCY_SECONDS
from forwarder.observing.recent import FailureFields
from forwarder.text import printable
from forwarder.words import BufferOperation, DeadReason, DropReason, EvictionReason, HoldCause, OutcomeName, RetryReason

_MAX_ERROR_CHARACTERS: Final = 300
_HOLDS: Final[Mapping[HoldCause, str]] = {
    "breaker": "delivery paused: one attempt after the other failed",
    "retry_after": "delivery paused: Growlytics asked to wait (Retry-After)",
    "auth": "delivery paused: the forwarder is refused; check growlytics.api_key, growlytics.url and growlytics.proxy",
    "systemic": "delivery paused: Growlytics rejects every event; check what was deployed last, in the app or by Growlytics",
    "not_growlytics": "delivery paused: something else answers in place of Growlytics, such as a captive portal",
}
_DEAD_LETTERED: Final[Mapping[DeadReason, str]] = {
    "expired": "event expired: it is older than delivery.max_age_seconds",
    "ambiguous": "event not sent again, as it may have arrived",
}
"""Rejected events have their line when the answer comes."""
_DROPPED: Final[Mapping[DropReason, str]] = {
    "drop_oldest": "the buffer is full: the oldest events are dropped; see buffer.when_full",
    "corrupt": "events are lost: the buffer's disk altered them",
}
"""Events lost by stopping have their line when the daemon has stopped."""


class DeliveryTelemetry(TelemetryBase):
    """Called by delivery, and by the buffers once what they tell is committed."""

    # Attempts

    def attempt_ended(
        self,
        outcome: OutcomeName,
        seconds: float,
        failure: FailureFields | None = None,
        *,
        retry: RetryReason | None = None,
        maybe_delivered: bool = False,
    ) -> None:
        """An attempt took `seconds`. `failure` says why it did not deliver, `retry` why there will be another attempt.

        `maybe_delivered`: the event may have arrived, so the next attempt may deliver it twice.
        """
        metrics = self._metrics
        metrics.attempts[outcome] += 1
        durations = metrics.attempt_seconds
        durations.counts[bisect_left(ATTEMPT_SECONDS, seconds)] += 1
        durations.total += seconds
        self.recent.attempt_times.append(seconds)
        if failure is not None:
            metrics.failures[failure["kind"]] += 1
            self.recent.failed(failure)
        if retry is not None:
            metrics.retries[retry] += 1
            if maybe_delivered:
                metrics.possible_duplicates.value += 1
            self._seldom.write(
                "attempt failed and will be retried", kind=retry, more={"reason": retry, **(failure or {})}
            )

    def attempt_cancelled(self) -> None:
        """An attempt was cancelled. The event may have arrived, and will be sent again."""
        self._metrics.possible_duplicates.value += 1

    @property
    def attempts(self) -> Mapping[OutcomeName, int]:
        """How many attempts there were since the start, by outcome."""
        return self._metrics.attempts

    @property
    def last_delivery_at(self) -> float | None:
        """When the last event was delivered, in seconds since 1970; None if none was since the start."""
        return self._metrics.last_delivery.value or None

    @property
    def evicted(self) -> Mapping[EvictionReason, int]:
        """How many dead letters were removed since the start, by reason, other than by replaying them."""
        return self._metrics.evicted

    # Refusals

    def event_rejected(self, *, name: str, status: int) -> None:
        """Growlytics rejected an event for good. The buffer tells of its fate."""
        self._seldom.write(
            f"event rejected by Growlytics: {self._see('dead-letters list')}",
            kind=status,
            name=printable(name),
            status=status,
        )

    def event_suspected(self, *, name: str, status: int, is_page: bool) -> None:
        """An event was rejected, but others may be accepted. `is_page`: the answer is a web page."""
        self._seldom.write(
            "an event is answered with a web page, which does not come from Growlytics; it is retried, and others go on"
            if is_page
            else "an event is refused, by Growlytics or something on the way; it is retried, and others go on",
            kind=status,
            name=printable(name),
            status=status,
        )

    def delivery_blocked(self, *, status: int) -> None:
        """Growlytics blocks the forwarder, not just one event."""
        self._seldom.write(
            "Growlytics refuses the forwarder: check growlytics.api_key and growlytics.url", kind=status, status=status
        )

    def proxy_refused(self, *, status: int) -> None:
        """The forward proxy blocks the forwarder, so Growlytics was not asked."""
        self._seldom.write("the proxy refuses the forwarder: check growlytics.proxy", kind=status, status=status)

    # Holds

    def hold_started(self, cause: HoldCause, *, probe_in_seconds: float, failure: FailureFields | None = None) -> None:
        """Delivery is paused except for probes. `failure` is that of the attempt that caused it."""
        fields: dict[str, object] = {"cause": cause, "probe_in_seconds": round(probe_in_seconds, 1), **(failure or {})}
        if not self._seldom.write(_HOLDS[cause], kind=cause, more=fields):
            del fields["probe_in_seconds"]
            self._unwritten_holds[cause] = fields
            if self._awaited:
                self._tell_of_change(self._awaited)

    def write_late_holds(self) -> bool:
        """Write the lines that were left out when holds started, if these holds still last.

        Return whether some lines must still wait. Then call this again in a few seconds.
        """
        for cause, fields in tuple(self._unwritten_holds.items()):
            if self._seldom.would_write(_HOLDS[cause], kind=cause):
                self._seldom.write(_HOLDS[cause], kind=cause, more=fields)
                del self._unwritten_holds[cause]
        return bool(self._unwritten_holds)

    def hold_ended(self, cause: HoldCause, *, seconds: float) -> None:
        """An event was delivered, which ends the hold that began `seconds` ago."""
        if self._unwritten_holds.pop(cause, None) is None:
            self._seldom.write(
                "delivery resumed",
                kind=cause,
                level=logging.INFO,
                cause=cause,
                held_seconds=round(seconds, 1),
            )

    # How events leave

    def event_delivered(self, *, accepted_at: float) -> None:
        """An event was delivered and left the buffer."""
        seconds = self.age_seconds(accepted_at)
        metrics = self._metrics
        metrics.delivered.value += 1
        metrics.last_delivery.value = self._clock()
        durations = metrics.latency_seconds
        durations.counts[bisect_left(LATENCY_SECONDS, seconds)] += 1
        durations.total += seconds
        self.recent.latency_times.append(seconds)
        if self._awaited:
            self._tell_of_change(self._awaited)

    def event_dead_lettered(self, event_id: int, *, reason: DeadReason, status: int | None, name: str) -> None:
        """An event left the buffer as a dead letter. `status` is that of the last answer, if any."""
        self._metrics.dead_lettered[reason] += 1
        if self._awaited:
            self._tell_of_change(self._awaited)
        self.recent.dead_lettered(event_id, reason=reason, status=status, name=name)
        if message := _DEAD_LETTERED.get(reason):
            self._seldom.write(f"{message}; {self._see('dead-letters list')}", kind=reason, reason=reason)

    def events_dropped(self, count: int, *, reason: DropReason) -> None:
        """Accepted events are lost."""
        self._metrics.dropped[reason] += count
        if self._awaited:
            self._tell_of_change(self._awaited)
        if count:
            self.recent.dropped(reason)
        if count and (message := _DROPPED.get(reason)):
            self._seldom.write(message, kind=reason, reason=reason, count=count)

    def dead_letters_evicted(self, count: int, *, reason: EvictionReason) -> None:
        """Dead letters were removed, other than by replaying them."""
        self._metrics.evicted[reason] += count
        if count and reason == "full":
            self._seldom.write(
                "the oldest dead letters were removed to make room: see dead_letters.max_events and max_bytes", kind=0
            )

    def customer_erased(self, *, events: int, in_flight: int, dead_letters: int) -> None:
        """An operator had all events of one customer removed."""
        log.warning(
            "a customer was erased, as an operator asked for",
            extra={"fields": {"events": events, "in_flight": in_flight, "dead_letters": dead_letters}},
        )

    # The disk

    def buffer_failed(self, operation: BufferOperation, error: Exception) -> None:
        """The buffer's disk is full or fails. The operation is tried again."""
        self._metrics.buffer_errors[operation] += 1
        self.recent.buffer_failed(operation, printable(str(error), _MAX_ERROR_CHARACTERS))
        self._seldom.write(
            "the buffer's disk fails: see buffer.directory", kind=operation, operation=operation, error=str(error)
        )

    def buffer_recovered(self) -> None:
        """The buffer accepts events again."""
        log.info("the buffer's disk works again: events are accepted")

    def buffer_moved(self, error: Exception, *, is_news: bool) -> None:
        """The buffer's file is gone from its place."""
        self._metrics.buffer_errors["directory"] += 1
        self.recent.buffer_failed("directory", printable(str(error), _MAX_ERROR_CHARACTERS))
        if is_news:
            log.error(
                "the buffer's file is gone from its place: new events are refused, and buffered events are lost unless they "
                "are delivered before this process ends; put the file back, or restart once the buffer is empty",
                extra={"fields": {"error": str(error)}},
            )

    def buffer_came_back(self) -> None:
        """The buffer's file is in its place again."""
        log.warning("the buffer's file is in its place again")

    def buffer_file_recreated(self, name: str) -> None:
        """A file beside the buffer's, its log or its lock, was removed while it was in use."""
        self._metrics.buffer_errors["directory"] += 1
        log.warning(
            "a file in buffer.directory was removed while it was in use; it was recreated, and nothing is lost",
            extra={"fields": {"file": name}},
        )

    def buffer_open_to_everybody(self, directory: str) -> None:
        """Every user may make files in the buffer's directory."""
        log.warning(
            "every user of this machine may write to buffer.directory, and so remove or add files: chmod o-w",
            extra={"fields": {"directory": directory}},
        )

    def events_left_behind(self, directory: str, *, events: int, in_use: bool) -> None:
        """Events of an earlier process wait in a directory that this process does not use."""
        message = "events wait in a directory that this process does not use, so it does not deliver them: "
        message += (
            "another process uses it" if in_use else 'run once with buffer.kind = "disk" and this buffer.directory'
        )
        log.warning(message, extra={"fields": {"directory": directory, "events": events}})

    # Damage

    def database_quarantined(self, file: str) -> None:
        """The buffer's file is damaged. It was renamed to `file` and replaced by a new one."""
        log.error(
            "the buffer's file is damaged and was renamed; what can be read of it is restored, and may follow newer events",
            extra={"fields": {"file": file}},
        )
        if self._awaited:
            self._tell_of_change(self._awaited)

    def ledger_lost(self, file: str) -> None:
        """The ledger in a damaged file cannot be read, or another one is in use already."""
        log.error(
            "the ledger of the damaged file cannot be used: what is restored counts as new",
            extra={"fields": {"file": file}},
        )

    def salvage_ended(self, **fields: object) -> None:
        """All that can be read of a damaged file is restored. `fields` say how many events and dead letters."""
        log.warning("salvage ended", extra={"fields": fields})
        if self._awaited:
            self._tell_of_change(self._awaited)

    def rows_differ(self, missing: int) -> None:
        """At the start the ledger had `missing` more events than the file; fewer if negative."""
        log.error(
            "the buffer's disk has an old state of the file: events of its ledger are lost, or were delivered before",
            extra={"fields": {"missing": missing}},
        )

    def rows_miscounted(self, missing: int) -> None:
        """The ledger has `missing` more events than the buffer. From now on they count as unaccounted."""
        log.error(
            "the ledger differs from the events in the buffer: a bug, please report it",
            extra={"fields": {"missing": missing}},
        )

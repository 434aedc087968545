"""What happens to events in the buffer, to its disk, and to dead letters."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from forwarder.observing.base import TelemetryBase, log
from forwarder.observing.metrics import LATENCY_SECONDS
from forwarder.words import BufferOperation, DeadReason, DropReason, EvictionReason

_DEAD_LETTERED: Final[Mapping[DeadReason, str]] = {
    "expired": "event expired: it is older than delivery.max_age_seconds; see growlytics-forwarder dead-letters list",
    "ambiguous": "event not sent again, as it may have arrived: see growlytics-forwarder dead-letters list",
}
"""A rejected event has its line when the answer comes."""
_DROPPED: Final[Mapping[DropReason, str]] = {
    "drop_oldest": "the buffer is full: the oldest events are dropped; see buffer.when_full",
    "corrupt": "events are lost: the buffer's disk altered them",
}
"""What is lost by stopping has its line when the daemon has stopped."""


class BufferTelemetry(TelemetryBase):
    """Called by the buffers, when what they tell is committed, and by whoever looks after their files."""

    # How events leave

    def event_delivered(self, *, accepted_at: float) -> None:
        """An event left the buffer because it is delivered."""
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
        """An event left the buffer as a dead letter; `status` is that of the last answer, if there was one."""
        self._metrics.dead_lettered[reason] += 1
        if self._awaited:
            self._tell_of_change(self._awaited)
        self.recent.dead_lettered(event_id, reason=reason, status=status, name=name)
        if message := _DEAD_LETTERED.get(reason):
            self._seldom.write(message, kind=reason, reason=reason)

    def events_dropped(self, count: int, *, reason: DropReason) -> None:
        """Accepted events are lost."""
        self._metrics.dropped[reason] += count
        if self._awaited:
            self._tell_of_change(self._awaited)
        if count and (message := _DROPPED.get(reason)):
            self._seldom.write(message, kind=reason, reason=reason, count=count)

    def dead_letters_evicted(self, count: int, *, reason: EvictionReason) -> None:
        """Dead letters were removed, other than by replaying them."""
        self._metrics.evicted[reason] += count
        if count and reason == "full":
            self._seldom.write(
                "the oldest dead letters were removed to make room: see dead_letters.max_events and max_bytes", kind=0
            )

    # The disk

    def buffer_failed(self, operation: BufferOperation, error: Exception) -> None:
        """The buffer's disk is full or fails. The operation will be tried again."""
        self._metrics.buffer_errors[operation] += 1
        self._seldom.write(
            "the buffer's disk fails: see buffer.directory", kind=operation, operation=operation, error=str(error)
        )

    def buffer_recovered(self) -> None:
        """The buffer accepts events again."""
        log.info("the buffer's disk works again: events are accepted")

    def buffer_moved(self, error: Exception, *, is_news: bool) -> None:
        """The buffer's file is not in its place any more."""
        self._metrics.buffer_errors["directory"] += 1
        if is_news:
            log.error(
                "the buffer's file is gone from its place: new events are refused, and buffered events are lost unless they "
                "are delivered before this process ends; put the file back, or restart once the buffer is empty",
                extra={"fields": {"error": str(error)}},
            )

    def buffer_came_back(self) -> None:
        """The buffer's file is in its place again."""
        log.warning("the buffer's file is in its place again")

    def buffer_file_made_anew(self, name: str) -> None:
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

    def database_set_aside(self, file: str) -> None:
        """The buffer's file is damaged and has the name `file` now; a new one is in its place."""
        log.error(
            "the buffer's file is damaged and was renamed; what can be read of it is restored, and may follow newer events",
            extra={"fields": {"file": file}},
        )
        if self._awaited:
            self._tell_of_change(self._awaited)

    def ledger_lost(self, file: str) -> None:
        """The ledger in a damaged file cannot be read, or there is one already."""
        log.error(
            "the ledger of the damaged file cannot be used: what is restored counts as new",
            extra={"fields": {"file": file}},
        )

    def salvage_ended(self, **fields: object) -> None:
        """All that can be read of a damaged file is restored. `fields` say how many events and dead letters that is."""
        log.warning("salvage ended", extra={"fields": fields})
        if self._awaited:
            self._tell_of_change(self._awaited)

    def rows_differ(self, missing: int) -> None:
        """At the start the ledger had `missing` more events than there are; or fewer, if that is negative."""
        log.error(
            "the buffer's disk has an old state of the file: events of its ledger are lost, or were delivered before",
            extra={"fields": {"missing": missing}},
        )

    def rows_miscounted(self, missing: int) -> None:
        """The ledger has `missing` more events than there are. They count as unaccounted from now on."""
        log.error(
            "the ledger differs from the events in the buffer: a bug, please report it",
            extra={"fields": {"missing": missing}},
        )

"""What happens on the way to Growlytics: attempts, retries, refusals, holds."""

import logging
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from forwarder.observing.base import TelemetryBase
from forwarder.observing.metrics import ATTEMPT_SECONDS
from forwarder.observing.recent import FailureFields
from forwarder.text import printable
from forwarder.words import HoldCause, OutcomeName, RetryReason

_HOLDS: Final[Mapping[HoldCause, str]] = {
    "breaker": "delivery paused: one attempt after the other failed",
    "retry_after": "delivery paused: Growlytics asked to wait (Retry-After)",
    "auth": "delivery paused: the forwarder is refused; check growlytics.api_key, growlytics.url and growlytics.proxy",
    "systemic": "delivery paused: Growlytics rejects every event; check what was deployed last, in the app or by Growlytics",
    "not_growlytics": "delivery paused: something else answers in place of Growlytics, such as a captive portal",
}


class DeliveryTelemetry(TelemetryBase):
    """Called by delivery."""

    def attempt_ended(
        self,
        outcome: OutcomeName,
        seconds: float,
        failure: FailureFields | None = None,
        *,
        retry: RetryReason | None = None,
        maybe_delivered: bool = False,
    ) -> None:
        """An attempt took `seconds`. `failure` says why it did not deliver; `retry`, why there will be another attempt.

        If there will be, `maybe_delivered` says that the event may have arrived, so the next attempt may repeat it.
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
            self._seldom.write("attempt failed and will be retried", kind=retry, reason=retry)

    def attempt_cancelled(self) -> None:
        """An attempt was cut off. The event may have arrived, and will be sent again."""
        self._metrics.possible_duplicates.value += 1

    @property
    def attempts(self) -> Mapping[OutcomeName, int]:
        """Return how many attempts there were since the start, by their outcome."""
        return self._metrics.attempts

    # What is refused

    def event_rejected(self, *, name: str, status: int) -> None:
        """Growlytics rejected an event for good. Its fate is told by the buffer."""
        self._seldom.write(
            "event rejected by Growlytics: see growlytics-forwarder dead-letters list",
            kind=status,
            name=printable(name),
            status=status,
        )

    def event_suspected(self, *, name: str, status: int, is_page: bool) -> None:
        """An event was refused, and perhaps no other would be; `is_page`: a web page came instead of an answer."""
        self._seldom.write(
            "an event is answered with a web page, which does not come from Growlytics; it is retried, and others go on"
            if is_page
            else "an event is refused, by Growlytics or something on the way; it is retried, and others go on",
            kind=status,
            name=printable(name),
            status=status,
        )

    def delivery_blocked(self, *, status: int) -> None:
        """Growlytics refuses us rather than an event."""
        self._seldom.write(
            "Growlytics refuses the forwarder: check growlytics.api_key and growlytics.url", kind=status, status=status
        )

    def proxy_refused(self, *, status: int) -> None:
        """The forward proxy refuses us, so Growlytics was not asked."""
        self._seldom.write("the proxy refuses the forwarder: check growlytics.proxy", kind=status, status=status)

    # Holds

    def hold_started(self, cause: HoldCause, *, probe_in_seconds: float, failure: FailureFields | None = None) -> None:
        """Delivery is paused but for probes; `failure` is of the attempt that caused it."""
        fields: dict[str, object] = {"cause": cause, "probe_in_seconds": round(probe_in_seconds, 1), **(failure or {})}
        if not self._seldom.write(_HOLDS[cause], kind=cause, more=fields):
            del fields["probe_in_seconds"]
            self._unwritten_holds[cause] = fields
            if self._awaited:
                self._tell_of_change(self._awaited)

    def holds_last(self) -> bool:
        """Write the lines that were left out when holds started, if these holds still last.

        Return whether some lines must still wait: then call it again in a few seconds.
        """
        for cause, fields in tuple(self._unwritten_holds.items()):
            if self._seldom.would_write(_HOLDS[cause], kind=cause):
                self._seldom.write(_HOLDS[cause], kind=cause, more=fields)
                del self._unwritten_holds[cause]
        return bool(self._unwritten_holds)

    def hold_ended(self, cause: HoldCause, *, seconds: float) -> None:
        """An event was delivered, so the hold is over, which began `seconds` ago."""
        if self._unwritten_holds.pop(cause, None) is None:
            self._seldom.write(
                "delivery resumed",
                kind=cause,
                level=logging.INFO,
                cause=cause,
                held_seconds=round(seconds, 1),
            )

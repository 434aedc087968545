"""Every metric that counts what happens: its name, its help text, its labels and its buckets.

`deploy/prometheus/README.md` has the table that is made of this. Metrics that are read from the daemon's state at each
scrape are in `gauges.py`. Only telemetry changes the numbers.
"""

from itertools import product
from typing import Final

from forwarder.observing.numbers import Numbers
from forwarder.words import (
    BUFFER_OPERATIONS,
    CLOSE_REASONS,
    CONFLICT_ACTIONS,
    CONFLICT_KINDS,
    DEAD_REASONS,
    DROP_REASONS,
    EVICTION_REASONS,
    FAILURE_KINDS,
    INTAKES,
    OUTCOMES,
    REFUSAL_REASONS,
    RELOAD_RESULTS,
    REQUEST_REFUSAL_REASONS,
    RETRY_REASONS,
)

INTAKE_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0)
ATTEMPT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENCY_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21600.0, 86400.0)


class Metrics(Numbers):
    """The metrics of one daemon. They are shown in the order in which they stand here."""

    def __init__(self) -> None:
        super().__init__()
        self.received = self.counts("events_received", "Events that reached an intake", "intake", INTAKES)
        self.accepted = self.counts("events_accepted", "Events that the buffer took charge of", "intake", INTAKES)
        self.duplicates = self.count("events_duplicate", "Events that repeated the key of one accepted before")
        self.rejected = self.counts(
            "events_rejected", "Events refused, by the first error's code", "reason", REFUSAL_REASONS
        )
        self.requests_refused = self.counts(
            "http_requests_refused",
            "Requests refused before anything of an event is known",
            "reason",
            REQUEST_REFUSAL_REASONS,
        )
        self.closed = self.counts(
            "connections_closed", "Connections that an intake closed for the sake of others", "reason", CLOSE_REASONS
        )
        self.error_lines_lost = self.count(
            "error_lines_lost", "Lines about refused events that a client of lines_socket did not read"
        )
        self.conflicts = self.pair_counts(
            "attribute_type_conflicts",
            "Attributes of another type than before, by what was done; date: a string for a date, or the reverse",
            ("action", "kind"),
            product(CONFLICT_ACTIONS, CONFLICT_KINDS),
        )
        self.delivered = self.count("events_delivered", "Events that Growlytics has")
        self.dead_lettered = self.counts(
            "events_dead_lettered", "Events given up and kept as dead letters", "reason", DEAD_REASONS
        )
        self.dropped = self.counts("events_dropped", "Accepted events lost", "reason", DROP_REASONS)
        self.evicted = self.counts(
            "dead_letters_evicted", "Dead letters removed other than by replaying them", "reason", EVICTION_REASONS
        )
        self.buffer_errors = self.counts(
            "buffer_errors", "Failures of the buffer's disk", "operation", BUFFER_OPERATIONS
        )
        self.attempts = self.counts(
            "delivery_attempts", "Attempts to deliver an event, by what they came to", "outcome", OUTCOMES
        )
        self.failures = self.counts(
            "attempt_failures", "Attempts that did not deliver, by what went wrong", "kind", FAILURE_KINDS
        )
        self.retries = self.counts(
            "delivery_retries", "Attempts that will be repeated, by cause", "reason", RETRY_REASONS
        )
        self.possible_duplicates = self.count(
            "possible_duplicates", "Attempts repeated although the event may have arrived"
        )
        self.reloads = self.counts(
            "config_reloads",
            "Times that settings were read again at SIGHUP, or a secret's or certificates' file as it changed",
            "result",
            RELOAD_RESULTS,
        )
        self.intake_seconds = self.durations(
            "intake_duration_seconds", "From a request's headers to its answer", INTAKE_SECONDS
        )
        self.attempt_seconds = self.durations("delivery_attempt_duration_seconds", "One attempt", ATTEMPT_SECONDS)
        self.latency_seconds = self.durations("delivery_latency_seconds", "From accepted to delivered", LATENCY_SECONDS)
        self.last_delivery = self.level("last_delivery_timestamp_seconds", "When the last event was delivered")

"""Everything the daemon can say: one method per occurrence, which counts and, rarely, writes a log line.

Invariants: no attribute value, customer id or secret ever comes here; labels are bounded; every series exists from the
start, at 0; within one turn of the event loop the counters satisfy `received = accepted + duplicates + rejected`.
Everybody above may call it; it knows nobody.
"""

import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, GCCollector, PlatformCollector, ProcessCollector

from forwarder import __version__
from forwarder.event import Clock
from forwarder.observing.gauges import METRICS_PREFIX, Gauges, ReadGauges
from forwarder.observing.numbers import Numbers
from forwarder.observing.recent import FailureFields, Recent
from forwarder.text import printable
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
    AttributeType,
    BufferOperation,
    CloseReason,
    Code,
    ConflictAction,
    ConflictKind,
    DeadReason,
    DropReason,
    EvictionReason,
    HoldCause,
    Intake,
    OutcomeName,
    RefusalReason,
    ReloadResult,
    RequestRefusalReason,
    RetryReason,
)

log = logging.getLogger("forwarder")

_INTAKE_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10)
_ATTEMPT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATENCY_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600, 3600, 21600, 86400)
_LOG_INTERVAL_SECONDS: Final = 10.0
_MAX_CONFLICT_LINES: Final = 10
"""In that time."""
_DROPPED: Final[Mapping[DropReason, str]] = {
    "drop_oldest": "the buffer is full: the oldest events are dropped, as buffer.when_full says",
    "corrupt": "events are lost: the buffer's disk altered them",
}
_LOCKED_OUT: Final[Mapping[Code, str]] = {
    "unauthorized": "requests over TCP lack the token: see intake.token",
    "forbidden_origin": "pages in a browser post to the forwarder, and are refused: see intake.allowed_origins",
    "forbidden_host": "requests over TCP name another host, and are refused: see intake.allowed_hosts",
}
_REFUSED: Final[Mapping[Code, str]] = {
    "buffer_full": "the buffer is full: events are refused until there is room; see buffer.max_events and max_bytes",
    "busy": "requests are refused, as too much is being parsed at once: send smaller batches, or fewer at the same time; "
    "or raise intake.max_parsing_bytes",
    "malformed_http": "requests are refused that are not valid HTTP/1.1: check the client, and whether it speaks TLS or "
    "HTTP/2 to a port of plain HTTP/1.1",
    "headers_too_large": "requests are refused whose headers are too many or too large: leave out those that the forwarder "
    "does not need, such as cookies",
    "uri_too_long": "requests are refused whose path and query are too long: send events in the body",
    "unsupported_transfer_encoding": "requests are refused whose Transfer-Encoding is not chunked alone: send that, or a "
    "Content-Length; compress with Content-Encoding",
    **dict.fromkeys(_LOCKED_OUT, ""),
    "too_slow": "",
    "buffer_unavailable": "",
    "shutting_down": "",
}
"""Of events and of requests; empty if another method tells of it."""
_WRONG: Final = "events are refused: code, name and field say why"
_CLOSED: Final[Mapping[CloseReason, str]] = {
    "too_many": "too many connections: the least used are closed, first those that never sent a whole request; "
    "see intake.max_connections",
    "header_timeout": "connections are closed that do not send a whole request: see intake.header_timeout_seconds",
    "body_timeout": "connections are closed that do not send all they began: see intake.body_timeout_seconds",
    "answer_timeout": "connections are closed that do not take their answers: see intake.body_timeout_seconds",
}
_FILES_OF_THE_PROCESS: Final = (
    "the limit of open files is reached, so new connections wait or are closed: raise it (ulimit -n, LimitNOFILE= in a unit "
    "of systemd, --ulimit nofile= of docker run)"
)
_FILES_OF_THE_MACHINE: Final = (
    "the machine's limit of open files is reached, so new connections wait or are closed: find who has so many open (lsof), "
    "or raise it (sysctl fs.file-max)"
)
_RELOADED: Final[Mapping[ReloadResult, str]] = {
    "changed": "%s was read again: it has changed, and what it holds is used from now on",
    "unchanged": "%s was read again: it holds the same",
}
_CERTIFICATES: Final = "growlytics.ca_file"
"""The setting whose file is no secret's."""
_UNUSABLE_FILE: Final = (
    "a secret's file cannot be used, so the secret stays as it was: write the secret into it, and nothing else; it is tried "
    "again every second"
)
_UNUSABLE_CERTIFICATES: Final = (
    "the file of certificates cannot be used, so those that it held before stay in use: write all of them into it, in PEM "
    "form; it is tried again every second"
)
_GIVEN_UP: Final[Mapping[DeadReason, str]] = {
    "expired": "event given up: older than delivery.max_age_seconds; see growlytics-forwarder dead-letters list",
    "ambiguous": "event not repeated, although it may not have arrived: see growlytics-forwarder dead-letters list",
}
_HOLDS: Final[Mapping[HoldCause, str]] = {
    "breaker": "delivery holds: attempts fail one after the other",
    "retry_after": "delivery holds: Growlytics asks to be left alone (Retry-After)",
    "auth": "delivery holds: the forwarder is refused; check growlytics.api_key, growlytics.url and growlytics.proxy",
    "systemic": "delivery holds: Growlytics rejects every event; look at what was deployed last, here or there",
    "not_growlytics": "delivery holds: something else answers in place of Growlytics, such as a captive portal",
}


class Telemetry:
    """The metrics of one daemon, in a registry of its own, and its log.

    `clock` gives seconds since 1970; `age_seconds`, how long ago an event was accepted, by default as `clock` tells.
    """

    def __init__(self, *, clock: Clock = time.time, age_seconds: Callable[[float], float] | None = None) -> None:
        self.registry = CollectorRegistry()
        self.received = 0
        """Events that reached an intake, as `events_received_total` says; so for the next."""
        self.refused = 0
        self.duplicates = 0
        self.recent = Recent(clock=clock)
        self._clock = clock
        self.age_seconds = age_seconds or (lambda accepted_at: max(0.0, clock() - accepted_at))
        """How long ago an event was accepted that was accepted at this time."""
        self._logged: dict[tuple[str, object], tuple[float, int]] = {}
        self._untold_holds: dict[HoldCause, dict[str, object]] = {}  # those that last, and whose lines were left out
        self._conflict_lines = float("-inf"), 0, 0
        """Since when how many lines about conflicts were written, and how many were left out."""
        numbers = Numbers()
        self.registry.register(numbers)
        self._received = numbers.counts("events_received", "Events that reached an intake", "intake", INTAKES)
        self._accepted = numbers.counts("events_accepted", "Events that the buffer took charge of", "intake", INTAKES)
        self._duplicates = numbers.count("events_duplicate", "Events that repeated the key of one accepted before")
        self._rejected = numbers.counts(
            "events_rejected", "Events refused, by the first error's code", "reason", REFUSAL_REASONS
        )
        self._requests_refused = numbers.counts(
            "http_requests_refused",
            "Requests refused before anything of an event is known",
            "reason",
            REQUEST_REFUSAL_REASONS,
        )
        self._closed = numbers.counts(
            "connections_closed", "Connections that an intake closed for the sake of others", "reason", CLOSE_REASONS
        )
        self._error_lines_lost = numbers.count(
            "error_lines_lost", "Lines about refused events that a client of lines_socket did not read"
        )
        self._conflicts = numbers.pair_counts(
            "attribute_type_conflicts",
            "Attributes of another type than before, by what was done; date: a string for a date, or the reverse",
            ("action", "kind"),
            product(CONFLICT_ACTIONS, CONFLICT_KINDS),
        )
        self._delivered = numbers.count("events_delivered", "Events that Growlytics has")
        self._dead_lettered = numbers.counts(
            "events_dead_lettered", "Events given up and kept as dead letters", "reason", DEAD_REASONS
        )
        self._dropped = numbers.counts("events_dropped", "Accepted events lost", "reason", DROP_REASONS)
        self._evicted = numbers.counts(
            "dead_letters_evicted", "Dead letters removed other than by replaying them", "reason", EVICTION_REASONS
        )
        self._buffer_errors = numbers.counts(
            "buffer_errors", "Failures of the buffer's disk", "operation", BUFFER_OPERATIONS
        )
        self._attempts = numbers.counts(
            "delivery_attempts", "Attempts to deliver an event, by what they came to", "outcome", OUTCOMES
        )
        self._failures = numbers.counts(
            "attempt_failures", "Attempts that did not deliver, by what went wrong", "kind", FAILURE_KINDS
        )
        self._retries = numbers.counts(
            "delivery_retries", "Attempts that will be repeated, by cause", "reason", RETRY_REASONS
        )
        self._possible_duplicates = numbers.count(
            "possible_duplicates", "Attempts repeated although the event may have arrived"
        )
        self._reloads = numbers.counts(
            "config_reloads",
            "Times that settings were read again at SIGHUP, or a secret's or certificates' file as it changed",
            "result",
            RELOAD_RESULTS,
        )
        self._intake_duration = numbers.durations(
            "intake_duration_seconds", "From a request's headers to its answer", _INTAKE_SECONDS
        )
        self._attempt_duration = numbers.durations("delivery_attempt_duration_seconds", "One attempt", _ATTEMPT_SECONDS)
        self._latency = numbers.durations("delivery_latency_seconds", "From accepted to delivered", _LATENCY_SECONDS)
        self._last_delivery = numbers.level("last_delivery_timestamp_seconds", "When the last event was delivered")
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def daemon_described(self, *, loop: str, max_events: int, max_bytes: int, read: Callable[[], Gauges]) -> None:
        """Take in what never changes, and `read`, which is asked for the rest at every scrape."""
        Gauge(
            f"{METRICS_PREFIX}_build_info", "Versions; always 1", ("version", "python", "loop"), registry=self.registry
        ).labels(__version__, platform.python_version(), loop).set(1)
        for name, text, value in (
            ("buffer_capacity_events", "Most events the buffer holds", max_events),
            ("buffer_capacity_bytes", "Most bytes of events the buffer holds", max_bytes),
        ):
            Gauge(f"{METRICS_PREFIX}_{name}", text, registry=self.registry).set(value)
        self.registry.register(ReadGauges(read, age_seconds=self.age_seconds))

    # Intake

    def events_accepted(self, count: int, *, intake: Intake) -> None:
        """The buffer took charge of `count` events."""
        self.received += count
        self._received[intake] += count
        self._accepted[intake] += count

    def events_refused(
        self,
        count: int,
        *,
        intake: Intake,
        reason: RefusalReason,
        name: str | None = None,
        field: str | None = None,
    ) -> None:
        """`count` events were refused, for the first of their errors; `name` and `field` are those of one of them."""
        self.received += count
        self.refused += count
        self._received[intake] += count
        self._rejected[reason] += count
        if not count:
            return
        self.recent.refused(count, intake=intake, code=reason, name=name, field=field)
        if message := _REFUSED.get(reason, _WRONG):
            name, field = (None if text is None else printable(text) for text in (name, field))
            self._log_seldom(message, kind=reason, code=reason, count=count, name=name, field=field)

    def events_duplicate(self, count: int, *, intake: Intake) -> None:
        """`count` events repeated keys of events accepted before, so they are not taken again."""
        self.received += count
        self.duplicates += count
        self._received[intake] += count
        self._duplicates.value += count

    def request_refused(self, reason: RequestRefusalReason) -> None:
        """A request was refused before anything of an event is known. Reasons that others tell of are only counted."""
        self._requests_refused[reason] += 1
        if message := _REFUSED.get(reason):
            self._log_seldom(message, kind=reason, code=reason)

    def locked_out(self, code: RequestRefusalReason) -> None:
        """A request over TCP lacked what it must have, or came from where none may; see _LOCKED_OUT."""
        self._log_seldom(_LOCKED_OUT[code], kind=code, code=code)

    def operator_refused(self, code: RequestRefusalReason, *, user: int | None) -> None:
        """A request over a Unix socket was for what operators do, and `user` is none of them."""
        message = "a user who is no operator asked for payloads or changes over the Unix socket: see control.group"
        self._log_seldom(message, kind=code, code=code, user=user)

    def connection_closed(self, reason: CloseReason) -> None:
        """An intake closed a connection for the sake of others."""
        self._closed[reason] += 1
        self._log_seldom(_CLOSED[reason], kind=reason, reason=reason)

    def error_lines_lost(self, count: int) -> None:
        """A client of lines_socket does not read what it is told of refused events."""
        self._error_lines_lost.value += count

    def connections_capped(self, connections: int, *, wanted: int) -> None:
        """The process may not have as many files open as `intake.max_connections` takes."""
        log.warning(
            "the limit of open files allows fewer connections than intake.max_connections: raise it (ulimit -n)",
            extra={"fields": {"connections": connections, "max_connections": wanted}},
        )

    def open_files_exhausted(self, *, limit: int | None) -> None:
        """No more files and connections can be opened: the process has `limit`; or, if None, the machine all it may have."""
        message = _FILES_OF_THE_MACHINE if limit is None else _FILES_OF_THE_PROCESS
        self._log_seldom(message, kind=0, level=logging.ERROR, limit=limit)

    def attribute_type_conflict(self, *, action: ConflictAction, kind: ConflictKind) -> None:
        """An attribute of an accepted or refused event had another type than before."""
        self._conflicts[action, kind] += 1

    def attribute_conflicts_first(
        self, *, name: str, attribute: str, expected: AttributeType, found: AttributeType, action: ConflictAction
    ) -> None:
        """For the first time since the start this attribute of events of this name had another type than before.

        Of very many at once only some are logged.
        """
        now = self._clock()
        since, lines, omitted = self._conflict_lines
        if abs(now - since) >= _LOG_INTERVAL_SECONDS:
            since, lines = now, 0
        if lines == _MAX_CONFLICT_LINES:
            self._conflict_lines = since, lines, omitted + 1
            return
        self._conflict_lines = since, lines + 1, 0
        fields = {
            "name": printable(name),
            "attribute": printable(attribute),
            "expected": expected,
            "found": found,
            "action": action,
            **({"repeats_not_logged": omitted} if omitted else {}),
        }
        # Nobody knows how Growlytics tells dates; and what was converted, removed or refused does not reach it.
        is_ignored = action == "observe" and {expected, found} != {"string", "date"}
        effect = ", so Growlytics ignores it" if is_ignored else ""
        log.warning(
            "an attribute changed its type%s: see growlytics-forwarder attribute-types list",
            effect,
            extra={"fields": fields},
        )

    def attribute_types_unfixed(self, policy: ConflictAction) -> None:
        """At the start: the policy changes or refuses events by what was learned, as no types are fixed."""
        log.warning(
            "contract.attribute_types goes by what is learned, and Growlytics may have learned another type before: "
            "fix the types with contract.types_file",
            extra={"fields": {"attribute_types": policy}},
        )

    def attribute_types_full(self) -> None:
        """There are as many types as there may be."""
        message = (
            "the table of attribute types is full, and those seen once make room for new ones: look for ids in names, "
            "or raise contract.max_attribute_types"
        )
        self._log_seldom(message, kind=0)

    def attribute_names_too_many(self, *, name: str, most: int) -> None:
        """Events of this name have more attributes than their share of what is remembered."""
        message = (
            "events of one name have too many attributes to remember the type of each: look for ids in their names"
        )
        self._log_seldom(message, kind=0, name=printable(name), most=most)

    def request_answered(self, seconds: float) -> None:
        """An intake answered a request, `seconds` after its headers arrived."""
        self._intake_duration.observe(seconds)

    def request_failed(self, error: BaseException) -> None:
        """A request was answered 500: a bug, and only that request suffered."""
        self._log_seldom("request failed: a bug, please report it", kind=type(error), bug=error)

    # Delivery

    def event_delivered(self, *, accepted_at: float) -> None:
        """An event left the buffer because Growlytics has it."""
        self._delivered.value += 1
        self._last_delivery.value = self._clock()
        seconds = self.age_seconds(accepted_at)
        self._latency.observe(seconds)
        self.recent.delivered(seconds)

    def event_dead_lettered(self, event_id: int, *, reason: DeadReason, status: int | None, name: str) -> None:
        """An event left the buffer because it was given up; for what was rejected see `event_rejected`."""
        self._dead_lettered[reason] += 1
        self.recent.dead_lettered(event_id, reason=reason, status=status, name=name)
        if reason in _GIVEN_UP:
            self._log_seldom(_GIVEN_UP[reason], kind=reason, reason=reason)

    def events_dropped(self, count: int, *, reason: DropReason) -> None:
        """Accepted events are lost."""
        self._dropped[reason] += count
        if count and reason != "shutdown":
            self._log_seldom(_DROPPED[reason], kind=reason, reason=reason, count=count)

    def event_rejected(self, *, name: str, status: int) -> None:
        """Growlytics refused an event for good; its fate is counted apart."""
        self._log_seldom(
            "event rejected by Growlytics: see growlytics-forwarder dead-letters list",
            kind=status,
            name=printable(name),
            status=status,
        )

    def attempt_finished(self, outcome: OutcomeName, seconds: float) -> None:
        """An attempt on the wire came to `outcome` after `seconds`."""
        self._attempts[outcome] += 1
        self._attempt_duration.observe(seconds)
        self.recent.attempted(outcome, seconds)

    def attempt_failed(self, failure: FailureFields) -> None:
        """It did not deliver, because of this."""
        self._failures[failure["kind"]] += 1
        self.recent.failed(failure)

    def retry_scheduled(self, *, reason: RetryReason, maybe_delivered: bool) -> None:
        """An attempt failed in a way that may pass, so there will be another."""
        self._retries[reason] += 1
        if maybe_delivered:
            self._possible_duplicates.value += 1
        self._log_seldom("attempt failed, will be retried", kind=reason, reason=reason)

    def proxy_refused(self, *, status: int) -> None:
        """The forward proxy refuses us, so Growlytics was not asked."""
        self._log_seldom("the proxy refuses the forwarder: check growlytics.proxy", kind=status, status=status)

    def delivery_blocked(self, *, status: int) -> None:
        """Growlytics refuses us rather than an event."""
        self._log_seldom(
            "Growlytics refuses the forwarder: check growlytics.api_key and growlytics.url", kind=status, status=status
        )

    def event_suspected(self, *, name: str, status: int, is_page: bool) -> None:
        """An event is refused, and perhaps no other; or a page came instead of an answer."""
        self._log_seldom(
            "an event is answered with a web page, which is not Growlytics' answer; it is tried again, and others go on"
            if is_page
            else "an event is refused, by Growlytics or something before it; it is tried again, and others go on",
            kind=status,
            name=printable(name),
            status=status,
        )

    def attempt_cancelled(self) -> None:
        """An attempt was cut off, so it is not known whether the event arrived; it will be sent again."""
        self._possible_duplicates.value += 1

    def hold_started(self, cause: HoldCause, *, probe_in_seconds: float, failure: FailureFields | None = None) -> None:
        """Nothing is sent any more but one probe at a time; `failure` is of the attempt that made it so."""
        fields: dict[str, object] = {"cause": cause, "probe_in_seconds": round(probe_in_seconds, 1), **(failure or {})}
        if not self._log_seldom(_HOLDS[cause], kind=cause, more=fields):
            del fields["probe_in_seconds"]
            self._untold_holds[cause] = fields

    def holds_last(self) -> None:
        """Write the lines that were left out of holds that still last. Call it every few seconds."""
        for cause, fields in tuple(self._untold_holds.items()):
            if self._is_due(_HOLDS[cause], cause):
                self._log_seldom(_HOLDS[cause], kind=cause, more=fields)
                del self._untold_holds[cause]

    def hold_ended(self, cause: HoldCause, *, seconds: float) -> None:
        """An event was delivered, so this holds no longer."""
        if self._untold_holds.pop(cause, None) is None:
            self._log_seldom(
                "delivery no longer holds because of this",
                kind=cause,
                level=logging.INFO,
                cause=cause,
                held_seconds=round(seconds, 1),
            )

    # Buffer and dead letters

    def dead_letters_evicted(self, count: int, *, reason: EvictionReason) -> None:
        """Dead letters were removed, other than by replaying them."""
        self._evicted[reason] += count
        if count and reason == "full":
            self._log_seldom(
                "dead letters removed: there is no room for more (dead_letters.max_events, max_bytes)", kind=0
            )

    def buffer_failed(self, operation: BufferOperation, error: Exception) -> None:
        """The buffer's disk is full or fails; it will be tried again."""
        self._buffer_errors[operation] += 1
        self._log_seldom(
            "the buffer's disk fails: see buffer.directory", kind=operation, operation=operation, error=str(error)
        )

    def buffer_recovered(self) -> None:
        """The buffer takes events again."""
        log.info("the buffer's disk works again: events are accepted")

    def buffer_moved(self, error: Exception, *, is_news: bool) -> None:
        """The buffer's file is not in its place any more."""
        self._buffer_errors["directory"] += 1
        if is_news:
            log.error(
                "the buffer's file is gone from its place: new events are refused, and what is buffered is lost unless it "
                "is delivered before this process ends; put the file back, or restart once the buffer is empty",
                extra={"fields": {"error": str(error)}},
            )

    def buffer_came_back(self) -> None:
        """The buffer's file is in its place again."""
        log.warning("the buffer's file is in its place again")

    def buffer_file_made_anew(self, name: str) -> None:
        """A file beside the buffer's, its log or its lock, was removed while it was in use."""
        self._buffer_errors["directory"] += 1
        log.warning(
            "a file in buffer.directory was removed while it was in use; it was recreated, and nothing is lost",
            extra={"fields": {"file": name}},
        )

    def buffer_open_to_everybody(self, directory: str) -> None:
        """Every user may make files in the buffer's directory."""
        log.warning(
            "every user of this machine may write to buffer.directory, and so remove or plant files: chmod o-w",
            extra={"fields": {"directory": directory}},
        )

    def events_left_behind(self, directory: str, *, events: int, in_use: bool) -> None:
        """Events of an earlier process wait in a directory that this one does not use."""
        message = "events wait in a directory that this process does not use, so it does not deliver them: "
        message += (
            "another process uses it" if in_use else 'run once with buffer.kind = "disk" and this buffer.directory'
        )
        log.warning(message, extra={"fields": {"directory": directory, "events": events}})

    def database_set_aside(self, file: str) -> None:
        """The buffer's file is damaged; a new one is in its place."""
        message = (
            "the buffer's file is damaged and was set aside; what can be read is salvaged, and may follow newer events"
        )
        log.error(message, extra={"fields": {"file": file}})

    def ledger_lost(self, file: str) -> None:
        """The ledger in a damaged file cannot be read, or there is one already."""
        log.error(
            "the ledger of the damaged file cannot be used: what is salvaged counts as new",
            extra={"fields": {"file": file}},
        )

    def salvage_ended(self, **fields: object) -> None:
        """All that could be read of a damaged file was brought over; it says of how many events and dead letters."""
        log.warning("salvage ended", extra={"fields": fields})

    def rows_differ(self, missing: int) -> None:
        """At the start the ledger had `missing` more events than there are, or if negative, fewer."""
        log.error(
            "the buffer's disk has an old state of the file: events of its ledger are lost, or were delivered before",
            extra={"fields": {"missing": missing}},
        )

    def rows_miscounted(self, missing: int) -> None:
        """The ledger has `missing` more events than there are; they count as unaccounted from now on."""
        log.error(
            "the ledger differs from the events in the buffer: a bug, please report it",
            extra={"fields": {"missing": missing}},
        )

    # Files that settings name

    def file_reloaded(self, setting: str, result: ReloadResult, *, notable: bool = True) -> None:
        """The file that `setting` names was read again, and what it holds is `changed` or `unchanged`."""
        self._reloads[result] += 1
        if notable:
            kind = "the file of certificates" if setting == _CERTIFICATES else "a secret's file"
            log.info(_RELOADED[result], kind, extra={"fields": {"setting": setting}})

    def file_reload_failed(self, setting: str, fault: str, *, notable: bool) -> None:
        """The file cannot be used; `fault` shows nothing of it. Not `notable` is what was said already."""
        self._reloads["failed"] += 1
        if notable:
            message = _UNUSABLE_CERTIFICATES if setting == _CERTIFICATES else _UNUSABLE_FILE
            log.warning(message, extra={"fields": {"setting": setting, "fault": fault}})

    # Settings

    def settings_shown(self, settings: Mapping[str, object], *, version: str) -> None:
        """At the start: these are in force, by section; secrets are left out or hidden."""
        log.info("starting", extra={"fields": {"version": version, **settings}})

    def reloaded(self, taken_up: Sequence[str], *, restart_needed: Sequence[str]) -> None:
        """Somebody asked for the settings to be read again: those of these paths are other than before."""
        self._reloads["changed" if taken_up else "unchanged"] += 1
        if restart_needed:
            log.warning(
                "settings were read again, and some that changed need a restart",
                extra={"fields": {"changed": list(taken_up), "restart_needed": list(restart_needed)}},
            )
        else:
            message = "settings were read again" if taken_up else "settings were read again: nothing changed"
            log.info(message, extra={"fields": {"changed": list(taken_up)}})

    def reload_failed(self, problems: Sequence[str]) -> None:
        """The same, but something is wrong with them; `problems` show no secret."""
        self._reloads["failed"] += 1
        log.error(
            "settings were read again, but cannot be used, so nothing changed: mend them and send SIGHUP once more",
            extra={"fields": {"problems": list(problems)}},
        )

    # The daemon

    def daemon_started(self, **fields: object) -> None:
        """Intake and buffer are open."""
        log.info("ready", extra={"fields": fields})

    def shutdown_began(self, *, signal: str, buffered: int) -> None:
        """A signal asked the daemon to stop."""
        log.info("stopping", extra={"fields": {"signal": signal, "buffered": buffered}})

    def drain_progressed(self, *, buffered: int, seconds_left: float) -> None:
        """The daemon waits for what is buffered to be delivered."""
        log.info("draining", extra={"fields": {"buffered": buffered, "seconds_left": round(seconds_left, 1)}})

    def daemon_stopped(self, *, lost_events: int, lost_dead_letters: int, ledger: Mapping[str, object]) -> None:
        """The daemon is about to end; `ledger` is the last word on every event."""
        lost = lost_events or lost_dead_letters
        level = logging.ERROR if lost else logging.INFO
        message = "stopped, and lost what was buffered: it did not outlive the process" if lost else "stopped"
        fields = {"lost_events": lost_events, "lost_dead_letters": lost_dead_letters, **ledger}
        log.log(level, message, extra={"fields": fields})

    # Internals

    def _log_seldom(
        self,
        message: str,
        *,
        kind: object,
        level: int = logging.WARNING,
        bug: BaseException | None = None,
        more: Mapping[str, object] = MappingProxyType({}),
        **fields: object,
    ) -> bool:
        """Write one line of a kind, of which there are few, every few seconds, with how many were left out since.

        Return whether it was written. A `bug` makes it an error with a traceback. Fields that are None are left out. `more`
        are fields whose names this takes for itself.
        """
        last, omitted = self._logged.get((message, kind), (float("-inf"), 0))
        if not self._is_due(message, kind):
            self._logged[message, kind] = (last, omitted + 1)
            return False
        self._logged[message, kind] = (self._clock(), 0)
        shown = {name: value for name, value in {**more, **fields}.items() if value is not None}
        shown |= {"repeats_not_logged": omitted} if omitted else {}
        log.log(level if bug is None else logging.ERROR, message, extra={"fields": shown}, exc_info=bug)
        return True

    def _is_due(self, message: str, kind: object) -> bool:
        """Return whether a line of this kind may be written again."""
        last, _ = self._logged.get((message, kind), (float("-inf"), 0))
        return abs(self._clock() - last) >= _LOG_INTERVAL_SECONDS

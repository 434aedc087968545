"""What happens in intake: events and requests are accepted or refused, connections closed, types of attributes learned."""

import logging
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from forwarder.observing.base import TelemetryBase, log
from forwarder.observing.metrics import INTAKE_SECONDS
from forwarder.text import printable
from forwarder.words import (
    AttributeType,
    CloseReason,
    Code,
    ConflictAction,
    ConflictKind,
    Intake,
    RefusalReason,
    RequestRefusalReason,
)

_MAX_CONFLICT_LINES: Final = 10
"""The most in ten seconds."""
_LOCKED_OUT: Final[Mapping[Code, str]] = {
    "unauthorized": "requests over TCP without the token are refused: see intake.token",
    "forbidden_origin": "requests of web pages are refused: see intake.allowed_origins",
    "forbidden_host": "requests over TCP whose Host is not allowed are refused: see intake.allowed_hosts",
}
_REFUSED: Final[Mapping[Code, str]] = {
    "buffer_full": "the buffer is full: events are refused until there is room; see buffer.max_events and max_bytes",
    "busy": "requests are refused because too much is parsed at once: send smaller batches, or fewer at the same time, or "
    "raise intake.max_parsing_bytes",
    "malformed_http": "requests that are not valid HTTP/1.1 are refused: check the client, and whether it speaks TLS or "
    "HTTP/2 to a port of plain HTTP/1.1",
    "headers_too_large": "requests with too many or too large headers are refused: leave out those that the forwarder "
    "does not need, such as cookies",
    "uri_too_long": "requests whose path and query are too long are refused: send events in the body",
    "unsupported_transfer_encoding": "requests whose Transfer-Encoding is other than chunked are refused: send chunks, or a "
    "Content-Length; compress with Content-Encoding",
    **dict.fromkeys(_LOCKED_OUT, ""),
    "too_slow": "",
    "buffer_unavailable": "",
    "shutting_down": "",
}
"""For events and for requests. If empty, another method writes the line."""
_WRONG: Final = "events are refused: see code, name and field"
_CLOSED: Final[Mapping[CloseReason, str]] = {
    "too_many": "too many connections: the least used are closed, first those that never sent a whole request; "
    "see intake.max_connections",
    "header_timeout": "connections that send no complete request in time are closed: see intake.header_timeout_seconds",
    "body_timeout": "connections that do not complete a body or a line in time are closed: see intake.body_timeout_seconds",
    "answer_timeout": "connections that do not read their answers are closed: see intake.body_timeout_seconds",
}
_FILES_OF_THE_PROCESS: Final = (
    "the limit of open files is reached, so new connections wait or are closed: raise it (ulimit -n, LimitNOFILE= in a unit "
    "of systemd, --ulimit nofile= of docker run)"
)
_FILES_OF_THE_MACHINE: Final = (
    "the machine's limit of open files is reached, so new connections wait or are closed: find who has most "
    "(lsof), or raise it (sysctl fs.file-max)"
)


class IntakeTelemetry(TelemetryBase):
    """Called by intake, by the guard of attribute types, and by the buffer when it accepts events."""

    def events_accepted(self, count: int, *, intake: Intake) -> None:
        """The buffer took charge of `count` events."""
        metrics = self._metrics
        metrics.received[intake] += count
        metrics.accepted[intake] += count
        self.tally.received += count
        if self._awaited:
            self._tell_of_change(self._awaited)

    def events_refused(
        self,
        count: int,
        *,
        intake: Intake,
        reason: RefusalReason,
        name: str | None = None,
        field: str | None = None,
    ) -> None:
        """`count` events were refused. `reason` is the code of their first errors; `name` and `field` are of one event."""
        self._metrics.received[intake] += count
        self._metrics.rejected[reason] += count
        self.tally.received += count
        self.tally.refused += count
        if not count:
            return
        if self._awaited:
            self._tell_of_change(self._awaited)
        self.recent.refused(count, intake=intake, code=reason, name=name, field=field)
        if message := _REFUSED.get(reason, _WRONG):
            name, field = (None if text is None else printable(text) for text in (name, field))
            self._seldom.write(message, kind=reason, code=reason, count=count, name=name, field=field)

    def events_duplicate(self, count: int, *, intake: Intake) -> None:
        """`count` events repeated keys of earlier events, so they were not accepted again."""
        self._metrics.received[intake] += count
        self._metrics.duplicates.value += count
        self.tally.received += count
        self.tally.duplicates += count
        if self._awaited:
            self._tell_of_change(self._awaited)

    def request_answered(self, seconds: float) -> None:
        """An intake answered a request, `seconds` after its headers arrived."""
        durations = self._metrics.intake_seconds
        durations.counts[bisect_left(INTAKE_SECONDS, seconds)] += 1
        durations.total += seconds

    def request_refused(self, reason: RequestRefusalReason) -> None:
        """A request was refused before its events were read."""
        self._metrics.requests_refused[reason] += 1
        if message := _REFUSED.get(reason):
            self._seldom.write(message, kind=reason, code=reason)

    def request_failed(self, error: BaseException) -> None:
        """A request was answered with 500 because of a bug."""
        self._seldom.write("request failed: a bug, please report it", kind=type(error), bug=error)

    def locked_out(self, code: RequestRefusalReason) -> None:
        """A request over TCP lacked the token, or came from an origin or for a host that is not allowed."""
        self._seldom.write(_LOCKED_OUT[code], kind=code, code=code)

    def operator_refused(self, code: RequestRefusalReason, *, user: int | None) -> None:
        """`user`, who is not an operator, asked over a Unix socket for something that only operators may do."""
        message = "a user who is not an operator asked for payloads or changes over the Unix socket: see control.group"
        self._seldom.write(message, kind=code, code=code, user=user)

    # Connections

    def connection_closed(self, reason: CloseReason) -> None:
        """An intake closed a connection to make room for others."""
        self._metrics.closed[reason] += 1
        self._seldom.write(_CLOSED[reason], kind=reason, reason=reason)

    def error_lines_lost(self, count: int) -> None:
        """A client of lines_socket did not read lines about refused events."""
        self._metrics.error_lines_lost.value += count

    def connections_capped(self, connections: int, *, wanted: int) -> None:
        """The process may open too few files for `intake.max_connections`."""
        log.warning(
            "the limit of open files allows fewer connections than intake.max_connections: raise it (ulimit -n)",
            extra={"fields": {"connections": connections, "max_connections": wanted}},
        )

    def open_files_exhausted(self, *, limit: int | None) -> None:
        """No more files or connections can be opened. `limit` is that of the process; None if the machine's is reached."""
        message = _FILES_OF_THE_MACHINE if limit is None else _FILES_OF_THE_PROCESS
        self._seldom.write(message, kind=0, level=logging.ERROR, limit=limit)

    # Types of attributes

    def attribute_type_conflict(self, *, action: ConflictAction, kind: ConflictKind) -> None:
        """An attribute of an accepted or refused event had another type than before."""
        self._metrics.conflicts[action, kind] += 1

    def attribute_conflicts_first(
        self, *, name: str, attribute: str, expected: AttributeType, found: AttributeType, action: ConflictAction
    ) -> None:
        """An attribute of an event name had another type than before, for the first time since the start."""
        # How Growlytics tells dates is unknown; and a value that was converted, removed or refused does not reach it.
        is_ignored = action == "observe" and {expected, found} != {"string", "date"}
        effect = ", so Growlytics ignores it" if is_ignored else ""
        self._seldom.write_of_many(
            f"an attribute changed its type{effect}: {self._see('attribute-types list')}",
            {
                "name": printable(name),
                "attribute": printable(attribute),
                "expected": expected,
                "found": found,
                "action": action,
            },
            most=_MAX_CONFLICT_LINES,
        )

    def attribute_types_unfixed(self, policy: ConflictAction) -> None:
        """At the start: the policy changes or refuses events by learned types, as none are fixed."""
        log.warning(
            "contract.attribute_types uses types that were learned here, and Growlytics may have learned others before: "
            "fix the types with contract.types_file",
            extra={"fields": {"attribute_types": policy}},
        )

    def attribute_types_full(self) -> None:
        """The table of types is full."""
        message = (
            "the table of attribute types is full, so new types replace those that were seen once: look for ids in names, "
            "or raise contract.max_attribute_types"
        )
        self._seldom.write(message, kind=0)

    def attribute_names_too_many(self, *, name: str, most: int) -> None:
        """An event name has more attributes than its share of the table of types."""
        message = (
            "events of one name have too many attributes to remember the type of each: look for ids in their names"
        )
        self._seldom.write(message, kind=0, name=printable(name), most=most)

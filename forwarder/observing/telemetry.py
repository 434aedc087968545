"""The telemetry: one method for each thing that can happen, which counts it and sometimes writes a log line.

Invariants: no method gets an attribute value, a customer id or a secret; labels are bounded; every series exists from the
start, at 0; within one turn of the event loop `received = accepted + duplicates + rejected`. Every room may call it, and it
imports none of them. The methods for intake and for delivery are in files of their own; those here are about the process,
its settings and their files.
"""

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from prometheus_client import Gauge, generate_latest

from forwarder import __version__
from forwarder.observing.base import log
from forwarder.observing.delivery import DeliveryTelemetry
from forwarder.observing.intake import IntakeTelemetry
from forwarder.observing.metrics import METRICS_PREFIX, Gauges, ReadGauges
from forwarder.words import ReloadResult

_CERTIFICATES: Final = "growlytics.ca_file"
"""The one setting whose file holds no secret."""
_RELOADED: Final[Mapping[ReloadResult, str]] = {
    "changed": "%s was read again: it has changed and is in use from now on",
    "unchanged": "%s was read again: it has not changed",
}
_UNUSABLE_FILE: Final = (
    "a secret's file cannot be used, so the last secret stays in use: write only the secret into the file; it is read again "
    "every five seconds"
)
_UNUSABLE_CERTIFICATES: Final = (
    "the file of certificates cannot be used, so the last certificates stay in use: write all of them into the file, in PEM "
    "form; it is read again every five seconds"
)


class Telemetry(IntakeTelemetry, DeliveryTelemetry):
    """The metrics of one daemon, in a registry of its own, and its log."""

    def daemon_described(self, *, loop: str, max_events: int, max_bytes: int, read: Callable[[], Gauges]) -> None:
        """Add the gauges: those that never change, and those that `read` returns at each scrape."""
        Gauge(
            f"{METRICS_PREFIX}_build_info", "Versions; always 1", ("version", "python", "loop"), registry=self.registry
        ).labels(__version__, platform.python_version(), loop).set(1)
        for name, text, value in (
            ("buffer_capacity_events", "Most events the buffer holds", max_events),
            ("buffer_capacity_bytes", "Most bytes of events the buffer holds", max_bytes),
        ):
            Gauge(f"{METRICS_PREFIX}_{name}", text, registry=self.registry).set(value)
        self.registry.register(ReadGauges(read, age_seconds=self.age_seconds))

    def metrics_text(self) -> str:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self.registry).decode()

    # Start and stop

    def settings_shown(self, settings: Mapping[str, object], *, version: str) -> None:
        """At the start: the settings in force, by section, without secrets."""
        fields = {"version": version, **settings}
        log.info("starting", extra={"fields": fields, "only_in_json": settings.keys()})

    def daemon_started(self, **fields: object) -> None:
        """The buffer and all intakes are open."""
        log.info("ready", extra={"fields": fields})

    def control_socket_unusable(self, error: str) -> None:
        """The control socket cannot be made."""
        log.warning(
            "there is no control socket, so commands need --url or --unix-socket: set control.socket to another path",
            extra={"fields": {"error": error}},
        )

    def control_socket_gone(self, error: str) -> None:
        """The control socket's file is gone from its place, and cannot be made again yet."""
        log.warning(
            "the control socket is gone from its place: it is made again when that is possible",
            extra={"fields": {"error": error}},
        )

    def control_socket_back(self, path: str) -> None:
        """The control socket is in its place again."""
        log.info("the control socket is in its place again", extra={"fields": {"file": path}})

    def control_group_unusable(self, error: OSError) -> None:
        """The control socket cannot be opened to the group of the settings."""
        log.warning(
            "the control socket cannot be given to control.group: the daemon's user must be a member of that, and the "
            "socket still in its place",
            extra={"fields": {"error": error.strerror or str(error)}},
        )

    def control_group_barred(self, directory: str) -> None:
        """The group of the settings may connect to the control socket, but not reach it."""
        log.warning(
            "the members of control.group cannot enter the control socket's directory: set control.socket to a path in a "
            "directory that they may enter",
            extra={"fields": {"directory": directory}},
        )

    def shutdown_began(self, *, signal: str, buffered: int) -> None:
        """A signal asked the daemon to stop."""
        log.info("stopping", extra={"fields": {"signal": signal, "buffered": buffered}})

    def drain_progressed(self, *, buffered: int, seconds_left: float) -> None:
        """The daemon waits for the events in the buffer to be delivered."""
        log.info("draining", extra={"fields": {"buffered": buffered, "seconds_left": round(seconds_left, 1)}})

    def daemon_stopped(self, *, lost_events: int, lost_dead_letters: int, ledger: Mapping[str, object]) -> None:
        """The daemon is about to end. `ledger` accounts for every event."""
        lost = lost_events or lost_dead_letters
        level = logging.ERROR if lost else logging.INFO
        message = "stopped, and lost events or dead letters, which were only in memory" if lost else "stopped"
        fields = {"lost_events": lost_events, "lost_dead_letters": lost_dead_letters, **ledger}
        log.log(level, message, extra={"fields": fields})

    def closing_given_up(self, *, ledger: Mapping[str, object]) -> None:
        """The daemon ends without closing its files. Committed events stay. `ledger` accounts for every event."""
        log.error(
            "stopped without closing the buffer's file, because its disk hangs: accepted events are in the file, and some "
            "delivered events may be delivered again",
            extra={"fields": dict(ledger)},
        )

    # Settings, and the files that they name

    def reloaded(self, taken_up: Sequence[str], *, restart_needed: Sequence[str]) -> None:
        """The settings were read again. Those in `taken_up` changed and are in force; others need a restart."""
        self._metrics.reloads["changed" if taken_up else "unchanged"] += 1
        if restart_needed:
            log.warning(
                "settings were read again, and some that changed need a restart",
                extra={"fields": {"changed": list(taken_up), "restart_needed": list(restart_needed)}},
            )
        else:
            message = "settings were read again" if taken_up else "settings were read again: nothing changed"
            log.info(message, extra={"fields": {"changed": list(taken_up)}})

    def reload_failed(self, problems: Sequence[str]) -> None:
        """The settings were read again and cannot be used. `problems` show no secret."""
        self._metrics.reloads["failed"] += 1
        log.error(
            "settings were read again, but cannot be used, so nothing changed: fix them and send SIGHUP again",
            extra={"fields": {"problems": list(problems)}},
        )

    def file_reloaded(self, setting: str, result: ReloadResult, *, notable: bool = True) -> None:
        """The file that `setting` names was read again, and its content is `changed` or `unchanged`."""
        self._metrics.reloads[result] += 1
        if notable:
            kind = "the file of certificates" if setting == _CERTIFICATES else "a secret's file"
            log.info(_RELOADED[result], kind, extra={"fields": {"setting": setting}})

    def file_reload_failed(self, setting: str, fault: str, *, notable: bool) -> None:
        """The file cannot be used. `fault` shows none of its content; it is `notable` unless it was logged before."""
        self._metrics.reloads["failed"] += 1
        if notable:
            message = _UNUSABLE_CERTIFICATES if setting == _CERTIFICATES else _UNUSABLE_FILE
            log.warning(message, extra={"fields": {"setting": setting, "fault": fault}})

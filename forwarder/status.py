"""What the daemon shows of its state: the ledger, /v1/status, receipts, and the gauges of a scrape."""

import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

from yarl import URL

from forwarder import __version__
from forwarder.advice.headline import advise
from forwarder.advice.problem import doors
from forwarder.attribute_types.guard import AttributeTypes
from forwarder.buffer.base import Buffer, Ledger
from forwarder.delivery.worker import Delivery
from forwarder.event import Clock
from forwarder.observing.metrics import Gauges
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.places import typed_program
from forwarder.reload import Reloading
from forwarder.sampling import SMOOTHING_SECONDS, Sampling
from forwarder.shared_status import without_names
from forwarder.text import printable
from forwarder.words import DaemonState

_TCP: Final = frozenset({"http", "admin"})
"""The listeners whose addresses are no paths."""
_MAX_URL_CHARACTERS: Final = 300


class Status:
    """Reads the parts of the daemon and changes none. `wall` returns seconds since 1970, `clock` is the event loop's."""

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        *,
        reloading: Reloading,
        buffer: Buffer,
        delivery: Delivery,
        types: AttributeTypes,
        sampling: Sampling,
        receipts: Receipts,
        wall: Clock,
        clock: Clock,
        telemetry: Telemetry,
        addresses: Callable[[], Mapping[str, str]],
        versions: Mapping[str, str],
    ) -> None:
        """`addresses` returns where the listeners are, by their names. `versions` are of what the daemon runs on."""
        self._reloading = reloading
        self._buffer = buffer
        self._delivery = delivery
        self._types = types
        self._sampling = sampling
        self._receipts = receipts
        self._wall, self._clock = wall, clock
        self._telemetry = telemetry
        self._addresses = addresses
        self._versions = versions
        self._instance = printable(socket.gethostname())
        self._command = typed_program(os.environ)
        self._recent = telemetry.recent
        self._age_seconds = telemetry.age_seconds
        self._started_at = time.monotonic()
        self._ledger_at_start = buffer.ledger()

    def begin(self) -> None:
        """Begin to count. The buffer must be open, so that its ledger includes what earlier processes left."""
        self._ledger_at_start = self._buffer.ledger()

    def ledger(self) -> dict[str, object]:
        """Return the ledger of events since the start; its `buffered` includes older events."""
        now, start = self._buffer.ledger(), self._ledger_at_start
        since_start: dict[str, object] = {
            name: getattr(now, name) - getattr(start, name)
            for name in ("received", "accepted", "duplicates", "rejected", "delivered")
        }
        for name in ("dead_lettered", "dropped"):
            before: Mapping[str, int] = getattr(start, name)
            since_start[name] = {why: number - before.get(why, 0) for why, number in getattr(now, name).items()}
        return {**since_start, "buffered": now.buffered, "unaccounted": now.unaccounted}

    async def receipt(self, event_id: int) -> dict[str, object] | None:
        """Return where an event is, or its fate; None if it is unknown. Times are in seconds since 1970.

        Raise BufferUnavailableError if the buffer cannot be read.
        """
        if (ended := self._receipts.find(event_id)) is not None:
            return dict(ended)
        if (until := self._delivery.parked_until(event_id)) is not None:
            return {"state": "parked", "until": self._wall() + until - self._clock()}
        if await self._buffer.contains(event_id):
            return {"state": "buffered"}
        found = await self._buffer.dead_letters.find([event_id])
        return {"state": "dead_letter", "at": found[0].last_attempt_at, "reason": found[0].reason} if found else None

    def content(self, state: DaemonState) -> dict[str, object]:
        """Return the content of /v1/status: the facts, and what they mean."""
        facts = self._facts(state)
        return {**facts, **advise(facts)}

    def _facts(self, state: DaemonState) -> dict[str, object]:
        gauges, settings, forecast = self.gauges(), self._reloading.settings, self._sampling.forecast
        oldest = gauges.oldest_accepted_at
        return {
            "version": __version__,
            "versions": dict(self._versions),
            "state": state,
            "at": round(self._wall(), 3),
            "instance": self._instance,
            "pid": os.getpid(),
            "command": self._command,
            "addresses": {name: _absolute(name, each) for name, each in self._addresses().items()},
            "uptime_seconds": round(time.monotonic() - self._started_at, 1),
            "ledger": {"since_start": self.ledger(), "for_ever": _described(self._buffer.ledger())},
            "settings": {
                **self._reloading.status(),
                "key_file": _absolute_path(settings.growlytics.api_key_file),
                "token_file": _absolute_path(settings.intake.token_file),
                "needs_token": settings.intake.token is not None,
            },
            "buffer": {
                "kind": settings.buffer.kind,
                "directory": _absolute_path(settings.buffer.directory) if settings.buffer.kind == "disk" else None,
                "when_full": settings.buffer.when_full,
                "available": self._buffer.available,
                "events": gauges.buffer_events,
                "bytes": gauges.buffer_bytes,
                "max_events": settings.buffer.max_events,
                "max_bytes": settings.buffer.max_bytes,
                "oldest_event_age_seconds": 0 if oldest is None else round(self._age_seconds(oldest), 1),
                "last_error": self._recent.buffer_failure(),
                "last_dropped_at": self._recent.dropped_at(),
            },
            "delivery": {
                "destination": _destination(settings.growlytics.url),
                "in_flight": gauges.delivery_in_flight,
                "concurrency_limit": gauges.concurrency_limit,
                "max_concurrency": settings.delivery.max_concurrency,
                "rate_limit_per_second": settings.delivery.rate_limit_per_second,
                "order": settings.delivery.order,
                "waits_for": self._delivery.waits_for(),
                "attempts": dict(self._telemetry.attempts),
                "attempt_seconds": self._recent.attempt_seconds(),
                "latency_seconds": self._recent.latency_seconds(),
                "failures_in_a_row": self._delivery.failures_in_a_row,
                "last_failure": self._recent.last_failure(),
                "last_delivery_at": self._telemetry.last_delivery_at,
                "suspects": self._described_suspects(),
            },
            "holds": self._described_holds(),
            "dead_letters": {
                "events": self._buffer.dead_letters.events,
                "by_reason": dict(self._buffer.dead_letters.by_reason),
                "evicted": dict(self._telemetry.evicted),
                "bytes": self._buffer.dead_letters.bytes,
                "max_events": settings.dead_letters.max_events,
                "max_bytes": settings.dead_letters.max_bytes,
            },
            "attribute_types": self._types.status(),
            "rates": {
                "accepted_per_second": (accepted_per_second := round(forecast.in_per_second, 2)),
                "delivered_per_second": round(forecast.delivered_per_second, 2),
                "refused_per_second": round(forecast.refused_per_second, 2),
                "over_seconds": SMOOTHING_SECONDS,
            },
            "forecasts": {
                "accepted_per_second": accepted_per_second,
                "done_with_per_second": round(forecast.out_per_second, 2),
                "full_in_seconds": _finite(gauges.full_seconds),
                "drained_in_seconds": _finite(gauges.drain_seconds),
            },
            "history": self._sampling.history.described(),
            "recent": self._recent.described(),
        }

    def typed(self, state: DaemonState) -> tuple[str, str]:
        """Return what is typed before and after a command that reaches this daemon: the program, and flags after a space.

        There are no flags if it needs none, or cannot be reached.
        """
        return self._command, doors(self._facts(state)).any or ""

    def without_names(self, state: DaemonState) -> dict[str, object]:
        """Return what everybody may see of that. It is advised on what they see, so no text can name an event either."""
        facts = without_names(self._facts(state))
        return {**facts, **advise(facts)}

    def _described_suspects(self) -> dict[str, object]:
        suspects = self._delivery.suspects()
        first = suspects[0] if suspects else None
        return {
            "events": len(suspects),
            "first": first
            and {
                "id": str(first.event.id),
                "name": printable(first.event.name),
                "status": first.status,
                "refusals": first.refusals,
            },
        }

    def _described_holds(self) -> dict[str, object]:
        probe_seconds = self._delivery.probe_seconds()
        probe_in_seconds = None if probe_seconds is None else round(probe_seconds, 1)
        return {
            cause: {"seconds": round(seconds, 1), "probe_in_seconds": probe_in_seconds}
            for cause, seconds in self._delivery.holds().items()
        }

    def gauges(self) -> Gauges:
        """Return the gauges as of now."""
        occupancy, forecast = self._buffer.occupancy(), self._sampling.forecast
        progress = self._delivery.progress()
        parked = progress.parked + occupancy.deferred
        # Delivery still counts events whose acks were committed just now.
        in_flight = min(progress.in_flight, occupancy.events - parked)
        return Gauges(
            buffer_events={
                "ready": occupancy.events - parked - in_flight,
                "parked": parked,
                "in_flight": in_flight,
            },
            buffer_bytes=occupancy.bytes,
            oldest_accepted_at=occupancy.oldest_accepted_at,
            delivery_in_flight=progress.attempting,
            concurrency_limit=self._delivery.limit,
            holds=self._delivery.holds(),
            suspects=len(self._delivery.suspects()),
            full_seconds=forecast.full_seconds,
            drain_seconds=forecast.drain_seconds,
            unaccounted=self._buffer.ledger().unaccounted,
            dead_letters=self._buffer.dead_letters.events,
        )


def _described(ledger: Ledger) -> dict[str, object]:
    """Return all of a ledger, as /v1/status shows it."""
    described = {each.name: getattr(ledger, each.name) for each in fields(ledger)}
    described |= {name: dict(described[name]) for name in ("dead_lettered", "dropped")}
    return {**described, "unaccounted": ledger.unaccounted}


def _destination(url: str) -> str:
    """Return where events go, without what may be secret: user, password, query and fragment."""
    return printable(str(URL(url).with_user(None).with_query(None).with_fragment(None)), _MAX_URL_CHARACTERS)


def _absolute_path(path: str | None) -> str | None:
    """Return a path that means the same from every directory."""
    return None if path is None else str(Path(path).absolute())


def _absolute(name: str, address: str) -> str:
    return address if name in _TCP else str(Path(address).absolute())


def _finite(seconds: float) -> float | None:
    """Return seconds for JSON, which has no infinity: None for never."""
    return round(seconds, 1) if math.isfinite(seconds) else None

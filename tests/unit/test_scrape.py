"""A scrape shows, byte for byte, what it showed when metrics were prometheus_client's own counters and histograms.

The fixtures were recorded with that code, for one fixed course of events. Whoever adds a metric, or a word of a label, adds
its lines to the fixtures; all other lines must stay.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from forwarder.observing.metrics import Gauges
from forwarder.observing.recent import FailureFields
from forwarder.observing.telemetry import Telemetry
from forwarder.words import FAILURE_KINDS

FIXTURES: Final = Path(__file__).parent.parent / "fixtures" / "scrapes"
NOW: Final = 1_700_000_000.0
FAILURE: Final[FailureFields] = {"kind": "status", "status": 503, "error": "503 Service Unavailable", "host": "a:443"}
GAUGES: Final = Gauges(
    {"ready": 1, "parked": 2, "in_flight": 3},
    buffer_bytes=456,
    oldest_accepted_at=NOW - 78.5,
    delivery_in_flight=2,
    concurrency_limit=9,
    holds=("auth", "breaker"),
    suspects=1,
    full_seconds=12.5,
    drain_seconds=float("inf"),
    unaccounted=0,
    dead_letters=7,
)


def after_a_course_of_events() -> Telemetry:
    """Return what counted some of everything."""
    telemetry = Telemetry(clock=lambda: NOW)
    telemetry.daemon_described(loop="uvloop", max_events=100, max_bytes=1000, read=lambda: GAUGES)
    telemetry.events_accepted(3, intake="unix")
    telemetry.events_accepted(1, intake="http")
    telemetry.events_accepted(2, intake="replay")
    telemetry.events_refused(2, intake="http", reason="empty", name="n", field="customerId")
    telemetry.events_refused(5, intake="lines", reason="malformed_json")
    telemetry.events_duplicate(4, intake="datagram")
    telemetry.request_refused("busy")
    telemetry.connection_closed("too_many")
    telemetry.error_lines_lost(6)
    telemetry.attribute_type_conflict(action="observe", kind="date")
    telemetry.attribute_type_conflict(action="coerce", kind="hard")
    for seconds in (0.0001, 0.0005, 0.00051, 0.3, 11.0):
        telemetry.request_answered(seconds)
    telemetry.attempt_ended("delivered", 0.02)
    telemetry.attempt_ended("delivered", 0.025)
    for number, kind in enumerate(FAILURE_KINDS[::2]):
        failure: FailureFields = {"kind": kind, "status": None, "error": "an error", "host": None}
        telemetry.attempt_ended("retryable", 0.06 * 3**number, failure, retry="timeout", maybe_delivered=number > 1)
    telemetry.attempt_ended("retryable", 3.0, FAILURE, retry="status_5xx")
    telemetry.attempt_ended("rejected", 0.3, FAILURE)
    telemetry.attempt_ended("blocked", 11.0, FAILURE, retry="blocked")
    telemetry.attempt_cancelled()
    for age in (0.01, 0.4, 100_000.0):
        telemetry.event_delivered(accepted_at=NOW - age)
    telemetry.event_dead_lettered(1, reason="rejected", status=422, name="Add To Cart")
    telemetry.event_dead_lettered(2, reason="expired", status=None, name="Add To Cart")
    telemetry.events_dropped(3, reason="corrupt")
    telemetry.dead_letters_evicted(2, reason="full")
    telemetry.buffer_failed("commit", OSError("no space left"))
    telemetry.buffer_file_recreated("lock")
    telemetry.file_reloaded("growlytics.api_key_file", "changed")
    telemetry.file_reload_failed("growlytics.api_key_file", "is empty", notable=False)
    telemetry.reloaded((), restart_needed=())
    return telemetry


def scrape(telemetry: Telemetry, generate: Callable[[CollectorRegistry], bytes]) -> str:
    """Return the lines about our own metrics, but for what differs from run to run."""
    text = generate(telemetry.registry).decode()
    ours = "".join(line for line in text.splitlines(keepends=True) if "growlytics_forwarder_" in line)
    ours = re.sub(r"(_created(?:\{[^}]*\})?) [\d.e+]+", r"\1 0", ours)
    return re.sub(r'((?:python|version)=)"[^"]*"', r'\1""', ours)


@pytest.mark.parametrize(
    ("name", "generate"), [("text.txt", generate_latest), ("openmetrics.txt", generate_openmetrics)]
)
def test_a_scrape_shows_what_it_showed_before_metrics_were_plain_numbers(
    name: str, generate: Callable[[CollectorRegistry], bytes]
) -> None:
    assert scrape(after_a_course_of_events(), generate) == (FIXTURES / name).read_text(encoding="utf-8")

"""What the daemon says: every metric from the start, in both formats, and log lines that are few and cannot be forged."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from forwarder.observing.logs import JsonFormatter, TextFormatter
from forwarder.observing.metrics import Gauges
from forwarder.observing.recent import FailureFields
from forwarder.observing.telemetry import Telemetry
from forwarder.tally import Tally
from forwarder.words import REQUEST_REFUSAL_REASONS, HoldCause, RefusalReason, RequestRefusalReason
from tests.fakes.events import counted

PREFIX = "growlytics_forwarder_"

# Written out rather than taken from the code: what interface.md names, as far as the daemon has the part that it is about.
COUNTERS = {
    "events_received_total": ("intake", ["http", "unix"]),
    "events_accepted_total": ("intake", ["http", "unix"]),
    "events_duplicate_total": None,
    "events_rejected_total": (
        "reason",
        [
            *("malformed_json", "not_an_object", "missing_field", "wrong_type", "empty", "name_too_long"),
            *("too_many_attributes", "attribute_type_not_allowed", "time_not_milliseconds", "number_out_of_range"),
            *(
                "body_too_large",
                "buffer_full",
                "buffer_unavailable",
                "shutting_down",
                "unsupported_encoding",
                "too_slow",
            ),
            *("headers_too_large", "uri_too_long", "unsupported_transfer_encoding", "busy"),
        ],
    ),
    "http_requests_refused_total": (
        "reason",
        [
            *("malformed_http", "headers_too_large", "uri_too_long", "unsupported_transfer_encoding", "too_slow"),
            *(
                "unauthorized",
                "forbidden_host",
                "forbidden_origin",
                "forbidden_user",
                "not_found",
                "method_not_allowed",
            ),
            *("unsupported_encoding", "unsupported_content_type", "body_too_large", "malformed_body", "busy"),
            *("shutting_down", "internal_error"),
        ],
    ),
    "events_delivered_total": None,
    "events_dead_lettered_total": ("reason", ["rejected", "expired", "ambiguous"]),
    "events_dropped_total": ("reason", ["drop_oldest", "corrupt", "shutdown"]),
    "dead_letters_evicted_total": ("reason", ["full", "purged", "shutdown"]),
    "buffer_errors_total": ("operation", ["commit", "read", "count", "salvage"]),
    "delivery_attempts_total": ("outcome", ["delivered", "retryable", "rejected", "blocked"]),
    "delivery_retries_total": (
        "reason",
        ["network", "timeout", "status_408", "status_425", "status_429", "status_5xx", "blocked", "suspect"],
    ),
    "possible_duplicates_total": None,
    "config_reloads_total": ("result", ["changed", "unchanged", "failed"]),
}
HISTOGRAMS = ("intake_duration_seconds", "delivery_attempt_duration_seconds", "delivery_latency_seconds")
EMPTY = Gauges(
    buffer_events={"ready": 0, "parked": 0, "in_flight": 0},
    buffer_bytes=0,
    oldest_accepted_at=None,
    delivery_in_flight=0,
    concurrency_limit=4,
    holds=(),
    suspects=0,
    full_seconds=math.inf,
    drain_seconds=0.0,
    unaccounted=0,
    dead_letters=0,
)
EXPIRED: FailureFields = {"kind": "tls", "status": None, "error": "certificate has expired", "host": "a:443"}
HOSTILE_NAMES = (
    "two\nlines",
    'x"} {"level":"error","message":"forged',
    "\r\n2026-01-01T00:00:00.000+00:00 ERROR   forged",
    "\x1b[2J\x1b]0;owned\x07",
    "\u2028\u2029\x85\x0b\x0c\x1c",
    "right\u202eleft",
    "\ud800 lone",
    "nul\x00",
)


@dataclass
class ManualClock:
    """Seconds since 1970, which pass when told."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Daemon:
    """A described telemetry, with what its gauges will read."""

    telemetry: Telemetry
    gauges: Gauges = EMPTY


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def daemon(clock: ManualClock) -> Daemon:
    daemon = Daemon(Telemetry(clock=clock))
    daemon.telemetry.daemon_described(loop="uvloop", max_events=100, max_bytes=1000, read=lambda: daemon.gauges)
    return daemon


@pytest.fixture
def telemetry(daemon: Daemon) -> Telemetry:
    return daemon.telemetry


class _Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What was logged."""
    handler, logger = _Collecting(), logging.getLogger("forwarder")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(level)


def fields(record: logging.LogRecord) -> Mapping[str, object]:
    found: Mapping[str, object] = record.__dict__["fields"]
    return found


def series(families: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def our_values(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return our series, of histograms the count only."""
    everything = series(telemetry.registry.collect())
    return {
        key: value
        for key, value in everything.items()
        if key[0].startswith(PREFIX) and not key[0].endswith(("_created", "_bucket", "_sum"))
    }


# Metrics


@pytest.mark.parametrize("name", COUNTERS)
def test_every_counter_stands_at_zero_from_the_start_with_each_of_its_labels(telemetry: Telemetry, name: str) -> None:
    match COUNTERS[name]:
        case None:
            assert counted(telemetry, name) == 0
        case (label, values):
            for value in values:
                assert counted(telemetry, name, **{label: value}) == 0


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_every_histogram_stands_at_zero_from_the_start(telemetry: Telemetry, name: str) -> None:
    assert counted(telemetry, f"{name}_count") == 0
    assert counted(telemetry, f"{name}_sum") == 0
    assert counted(telemetry, f"{name}_bucket", le="+Inf") == 0


def test_gauges_say_what_the_daemon_is_and_holds_at_the_moment_of_the_scrape(
    daemon: Daemon, clock: ManualClock
) -> None:
    telemetry = daemon.telemetry
    assert counted(telemetry, "buffer_capacity_events") == 100
    assert counted(telemetry, "buffer_capacity_bytes") == 1000
    assert counted(telemetry, "delivery_concurrency_limit") == 4
    assert counted(telemetry, "buffer_full_seconds_estimate") == math.inf
    assert counted(telemetry, "drain_seconds_estimate") == 0
    assert counted(telemetry, "last_delivery_timestamp_seconds") == 0
    for name in ("buffer_bytes", "buffer_oldest_event_age_seconds", "delivery_in_flight", "events_unaccounted"):
        assert counted(telemetry, name) == 0
    assert holding(telemetry) == []
    daemon.gauges = Gauges(
        {"ready": 1, "parked": 2, "in_flight": 3},
        buffer_bytes=456,
        oldest_accepted_at=clock.now - 78.0,
        delivery_in_flight=2,
        concurrency_limit=9,
        holds=("auth", "breaker"),
        suspects=0,
        full_seconds=12.5,
        drain_seconds=math.inf,
        unaccounted=5,
        dead_letters=7,
    )
    assert holding(telemetry) == ["breaker", "auth"]
    assert counted(telemetry, "delivery_concurrency_limit") == 9
    assert counted(telemetry, "buffer_full_seconds_estimate") == 12.5
    assert counted(telemetry, "drain_seconds_estimate") == math.inf
    assert counted(telemetry, "dead_letters_events") == 7
    assert [counted(telemetry, "buffer_events", state=state) for state in ("ready", "parked", "in_flight")] == [1, 2, 3]
    assert counted(telemetry, "buffer_bytes") == 456
    assert counted(telemetry, "buffer_oldest_event_age_seconds") == 78
    assert counted(telemetry, "delivery_in_flight") == 2
    assert counted(telemetry, "events_unaccounted") == 5


def holding(telemetry: Telemetry) -> list[str]:
    return [
        cause
        for cause in ("breaker", "retry_after", "auth", "systemic", "not_growlytics")
        if counted(telemetry, "delivery_hold", cause=cause)
    ]


def test_an_age_is_never_negative_although_the_clock_was_set_back(daemon: Daemon, clock: ManualClock) -> None:
    daemon.gauges = replace(EMPTY, oldest_accepted_at=clock.now + 3600)
    assert counted(daemon.telemetry, "buffer_oldest_event_age_seconds") == 0
    daemon.telemetry.event_delivered(accepted_at=clock.now + 3600)
    assert counted(daemon.telemetry, "delivery_latency_seconds_sum") == 0


def test_each_occurrence_moves_its_own_series_only(telemetry: Telemetry, clock: ManualClock) -> None:
    def ours() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return our_values(telemetry)

    def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        return PREFIX + name, tuple(sorted(labels.items()))

    def moved(before: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]) -> dict[object, float]:
        return {key: value - before[key] for key, value in ours().items() if value != before[key]}

    before = ours()
    telemetry.events_accepted(3, intake="unix")
    assert moved(before) == {
        key("events_received_total", intake="unix"): 3,
        key("events_accepted_total", intake="unix"): 3,
    }
    before = ours()
    telemetry.events_refused(2, intake="http", reason="empty")
    assert moved(before) == {
        key("events_received_total", intake="http"): 2,
        key("events_rejected_total", reason="empty"): 2,
    }
    before = ours()
    telemetry.event_delivered(accepted_at=clock.now - 4.0)
    assert moved(before) == {
        key("events_delivered_total"): 1,
        key("last_delivery_timestamp_seconds"): clock.now,
        key("delivery_latency_seconds_count"): 1,
    }
    assert counted(telemetry, "delivery_latency_seconds_sum") == 4.0
    before = ours()
    telemetry.event_dead_lettered(1, reason="rejected", status=422, name="Add To Cart")
    telemetry.event_rejected(name="n", status=400)
    assert moved(before) == {key("events_dead_lettered_total", reason="rejected"): 1}
    before = ours()
    telemetry.events_dropped(3, reason="corrupt")
    assert moved(before) == {key("events_dropped_total", reason="corrupt"): 3}
    before = ours()
    telemetry.dead_letters_evicted(2, reason="full")
    assert moved(before) == {key("dead_letters_evicted_total", reason="full"): 2}
    before = ours()
    telemetry.buffer_failed("commit", OSError("no space left"))
    assert moved(before) == {key("buffer_errors_total", operation="commit"): 1}
    before = ours()
    telemetry.attempt_ended("blocked", 0.2)
    assert moved(before) == {
        key("delivery_attempts_total", outcome="blocked"): 1,
        key("delivery_attempt_duration_seconds_count"): 1,
    }
    before = ours()
    telemetry.attempt_ended("rejected", 0.2, EXPIRED)
    assert moved(before) == {
        key("delivery_attempts_total", outcome="rejected"): 1,
        key("delivery_attempt_duration_seconds_count"): 1,
        key("attempt_failures_total", kind="tls"): 1,
    }
    for maybe_delivered in (False, True):
        before = ours()
        telemetry.attempt_ended("retryable", 0.2, EXPIRED, retry="timeout", maybe_delivered=maybe_delivered)
        assert moved(before) == {
            key("delivery_attempts_total", outcome="retryable"): 1,
            key("delivery_attempt_duration_seconds_count"): 1,
            key("attempt_failures_total", kind="tls"): 1,
            key("delivery_retries_total", reason="timeout"): 1,
        } | ({key("possible_duplicates_total"): 1} if maybe_delivered else {})
    assert telemetry.attempts == {"delivered": 0, "retryable": 2, "rejected": 1, "blocked": 1}
    assert telemetry.tally == Tally(received=5, refused=2, duplicates=0)


def test_each_reload_moves_the_series_of_what_it_came_to(telemetry: Telemetry) -> None:
    def counts() -> list[float]:
        return [counted(telemetry, "config_reloads_total", result=each) for each in ("changed", "unchanged", "failed")]

    telemetry.file_reloaded("growlytics.api_key_file", "changed")
    assert counts() == [1, 0, 0]
    telemetry.file_reload_failed("growlytics.api_key_file", "names a file that is empty", notable=False)
    assert counts() == [1, 0, 1]
    telemetry.reloaded((), restart_needed=("intake.http",))
    assert counts() == [1, 1, 1]
    telemetry.reloaded(("log.level",), restart_needed=())
    assert counts() == [2, 1, 1]
    telemetry.reload_failed(["log.level: must be one of …"])
    assert counts() == [2, 1, 2]


@pytest.mark.parametrize("unknown", ["", "stranger's text", "c-123"])
def test_no_label_can_be_made_up_by_a_stranger(telemetry: Telemetry, unknown: Any) -> None:
    before = series(telemetry.registry.collect()).keys()
    with pytest.raises(KeyError):
        telemetry.events_refused(1, intake=unknown, reason="empty")
    with pytest.raises(KeyError):
        telemetry.events_dropped(1, reason=unknown)
    with pytest.raises(KeyError):
        telemetry.attempt_ended("retryable", 0.2, retry=unknown)
    assert series(telemetry.registry.collect()).keys() == before


def test_a_scrape_parses_as_prometheus_text_and_as_openmetrics_with_the_same_values(telemetry: Telemetry) -> None:
    telemetry.events_accepted(2, intake="http")
    telemetry.event_delivered(accepted_at=0.0)
    as_text = generate_latest(telemetry.registry).decode()
    as_openmetrics: str = generate_openmetrics(telemetry.registry).decode()  # type: ignore[no-untyped-call] # theirs
    assert as_openmetrics.endswith("# EOF\n")
    openmetrics = parse_openmetrics(as_openmetrics)  # type: ignore[no-untyped-call] # theirs
    for families in (series(parse_text(as_text)), series(openmetrics)):
        assert families[f"{PREFIX}events_accepted_total", (("intake", "http"),)] == 2
        assert families[f"{PREFIX}events_accepted_total", (("intake", "unix"),)] == 0
        assert families[f"{PREFIX}delivery_latency_seconds_count", ()] == 1
        assert families[f"{PREFIX}buffer_events", (("state", "parked"),)] == 0
        (build,) = [labels for name, labels in families if name == f"{PREFIX}build_info"]
        assert {label for label, _ in build} == {"version", "python", "loop"}
        assert families["process_start_time_seconds", ()] > 0


def test_every_metric_has_a_help_text_and_the_names_that_promtool_wants(telemetry: Telemetry) -> None:
    ours = [family for family in telemetry.registry.collect() if family.name.startswith(PREFIX)]
    assert len(ours) > 15
    for family in ours:
        assert family.documentation.strip()
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter") or sample.name.endswith("_created")


def test_two_daemons_in_one_process_share_no_metric() -> None:
    one, other = Telemetry(), Telemetry()
    one.events_accepted(1, intake="http")
    assert counted(other, "events_accepted_total", intake="http") == 0


# Log lines: few


def test_a_repeated_line_is_written_once_in_a_while_with_how_many_were_left_out(
    telemetry: Telemetry, clock: ManualClock, lines: list[logging.LogRecord]
) -> None:
    for _ in range(1000):
        telemetry.attempt_ended("retryable", 0.2, retry="network")
        clock.now += 0.001
    assert [fields(line) for line in lines] == [{"reason": "network"}]
    clock.now += 60.0
    telemetry.attempt_ended("retryable", 0.2, retry="network")
    assert fields(lines[1]) == {"reason": "network", "repeats_not_logged": 999}
    clock.now += 60.0
    telemetry.attempt_ended("retryable", 0.2, retry="network")
    assert fields(lines[2]) == {"reason": "network"}
    assert counted(telemetry, "delivery_retries_total", reason="network") == 1002


def test_a_day_of_outage_writes_a_bounded_number_of_lines(
    telemetry: Telemetry, clock: ManualClock, lines: list[logging.LogRecord]
) -> None:
    for _ in range(86_400):
        telemetry.attempt_ended("retryable", 0.2, retry="network")
        clock.now += 1.0
    assert len(lines) <= 86_400 / 10 + 1
    repeats = [fields(line).get("repeats_not_logged", 0) for line in lines]
    assert len(lines) + sum(number for number in repeats if isinstance(number, int)) > 86_400 - 20


def test_a_different_cause_is_not_silenced_by_one_that_repeats(
    telemetry: Telemetry, lines: list[logging.LogRecord]
) -> None:
    for _ in range(10):
        telemetry.attempt_ended("retryable", 0.2, retry="network")
        telemetry.attempt_ended("retryable", 0.2, retry="timeout")
        telemetry.delivery_blocked(status=401)
        telemetry.delivery_blocked(status=403)
        telemetry.event_rejected(name="n", status=400)
    assert len(lines) == 5


def test_what_is_refused_is_a_line_for_each_code_with_one_of_the_names_fit_to_be_shown(
    telemetry: Telemetry, lines: list[logging.LogRecord]
) -> None:
    for _ in range(3):
        telemetry.events_refused(2, intake="http", reason="missing_field", name="a\x1b[0m", field="customerId")
        telemetry.events_refused(5, intake="lines", reason="malformed_json")
        telemetry.events_refused(0, intake="http", reason="empty")
    wrong, malformed = lines
    assert fields(wrong) == {"code": "missing_field", "count": 2, "name": "a\\x1b[0m", "field": "customerId"}
    assert fields(malformed) == {"code": "malformed_json", "count": 5}


def test_a_full_buffer_that_refuses_events_says_what_to_look_at(
    telemetry: Telemetry, lines: list[logging.LogRecord]
) -> None:
    telemetry.events_refused(7, intake="http", reason="buffer_full")
    (line,) = lines
    assert (line.levelname, fields(line)) == ("WARNING", {"code": "buffer_full", "count": 7})
    assert "the buffer is full" in line.getMessage()
    assert "buffer.max_events" in line.getMessage()


@pytest.mark.parametrize(
    "code",
    ["unauthorized", "forbidden_host", "forbidden_origin", "too_slow", "buffer_unavailable", "shutting_down"],
)
def test_what_is_refused_for_a_reason_that_has_a_line_of_its_own_has_no_second_one(
    telemetry: Telemetry, lines: list[logging.LogRecord], code: RefusalReason
) -> None:
    telemetry.events_refused(1, intake="http", reason=code)
    assert lines == []


FIXES: dict[RequestRefusalReason, str] = {
    "malformed_http": "TLS or HTTP/2",
    "headers_too_large": "cookies",
    "uri_too_long": "in the body",
    "unsupported_transfer_encoding": "Content-Length",
    "busy": "intake.max_parsing_bytes",
}


@pytest.mark.parametrize("reason", FIXES)
def test_a_client_that_speaks_http_in_another_way_is_one_line_in_ten_seconds_that_says_the_fix(
    telemetry: Telemetry, clock: ManualClock, lines: list[logging.LogRecord], reason: RequestRefusalReason
) -> None:
    for _ in range(1000):
        telemetry.request_refused(reason)
        clock.now += 0.0001
    (line,) = lines
    assert (line.levelname, fields(line)) == ("WARNING", {"code": reason})
    assert FIXES[reason] in line.getMessage()
    assert counted(telemetry, "http_requests_refused_total", reason=reason) == 1000
    clock.now += 10.0
    telemetry.request_refused(reason)
    assert fields(lines[1]) == {"code": reason, "repeats_not_logged": 999}


@pytest.mark.parametrize("reason", [reason for reason in REQUEST_REFUSAL_REASONS if reason not in FIXES])
def test_a_request_that_is_refused_for_another_reason_counts_and_is_told_of_elsewhere(
    telemetry: Telemetry, lines: list[logging.LogRecord], reason: RequestRefusalReason
) -> None:
    telemetry.request_refused(reason)
    assert counted(telemetry, "http_requests_refused_total", reason=reason) == 1
    assert telemetry.tally == Tally(), "it is not known to be an event"
    assert lines == []


def test_lines_go_on_after_the_clock_was_set_back_by_hours(
    telemetry: Telemetry, clock: ManualClock, lines: list[logging.LogRecord]
) -> None:
    telemetry.attempt_ended("retryable", 0.2, retry="network")
    clock.now -= 7200.0
    telemetry.attempt_ended("retryable", 0.2, retry="network")
    assert len(lines) == 2


def test_strangers_cannot_fill_the_log_by_giving_each_event_another_name(
    telemetry: Telemetry, clock: ManualClock, lines: list[logging.LogRecord]
) -> None:
    for number in range(5000):
        telemetry.event_rejected(name=f"name {number}", status=400)
        clock.now += 0.0001
    assert len(lines) <= 300, "5000 lines in half a second are not rare"


# Log lines: holds


@pytest.mark.parametrize(
    ("cause", "what_it_says"),
    [
        ("breaker", "one attempt after the other failed"),
        ("retry_after", "Retry-After"),
        ("auth", "check growlytics.api_key, growlytics.url and growlytics.proxy"),
        ("systemic", "rejects every event"),
        ("not_growlytics", "in place of Growlytics"),
    ],
)
def test_a_hold_is_one_warning_when_it_starts_and_one_line_when_it_ends_with_cause_and_seconds(
    telemetry: Telemetry, lines: list[logging.LogRecord], cause: HoldCause, what_it_says: str
) -> None:
    telemetry.hold_started(cause, probe_in_seconds=1.2345)
    (started,) = lines
    assert (started.levelname, fields(started)) == ("WARNING", {"cause": cause, "probe_in_seconds": 1.2})
    assert started.getMessage().startswith("delivery paused")
    assert what_it_says in started.getMessage()
    telemetry.hold_ended(cause, seconds=65.4321)
    _, ended = lines  # and not a line more
    assert (ended.levelname, fields(ended)) == ("INFO", {"cause": cause, "held_seconds": 65.4})
    assert ended.getMessage() == "delivery resumed"


def test_holds_that_come_and_go_have_one_line_each_way_every_ten_seconds_that_says_how_many_were_left_out(
    telemetry: Telemetry, clock: ManualClock, lines: list[logging.LogRecord]
) -> None:
    for _ in range(100):
        telemetry.hold_started("retry_after", probe_in_seconds=0.0)
        telemetry.hold_ended("retry_after", seconds=0.1)
        telemetry.write_late_holds()
        clock.now += 0.25
    assert [record.levelname for record in lines] == ["WARNING", "INFO"] * 3
    assert [fields(record).get("repeats_not_logged") for record in lines[::2]] == [None, 39, 39]


def test_a_hold_that_lasts_has_its_line_a_little_later_although_another_came_just_before(
    telemetry: Telemetry, clock: ManualClock, lines: list[logging.LogRecord]
) -> None:
    telemetry.hold_started("auth", probe_in_seconds=1.0)
    telemetry.hold_ended("auth", seconds=0.5)
    telemetry.hold_started("auth", probe_in_seconds=2.0)
    for _ in range(10):
        clock.now += 2.0
        telemetry.write_late_holds()
    assert [record.levelname for record in lines] == ["WARNING", "INFO", "WARNING"]
    assert fields(lines[2])["cause"] == "auth"
    telemetry.hold_ended("auth", seconds=20.0)
    assert [record.levelname for record in lines][3:] == ["INFO"]


def test_a_hold_says_what_was_wrong_with_the_attempt_that_made_it(
    telemetry: Telemetry, lines: list[logging.LogRecord]
) -> None:
    failure: FailureFields = {
        "kind": "connect",
        "status": None,
        "error": "connection refused",
        "host": "dc.growlytics.in:443",
    }
    telemetry.attempt_ended("rejected", 0.2, failure)
    assert lines == [], "an attempt by itself is not worth a line"
    telemetry.hold_started("breaker", probe_in_seconds=1.0, failure=failure)
    assert fields(lines[0]) == {"cause": "breaker", "probe_in_seconds": 1.0} | {
        "kind": "connect",
        "error": "connection refused",
        "host": "dc.growlytics.in:443",
    }


def test_an_event_that_is_refused_is_named_without_what_is_in_it(
    telemetry: Telemetry, lines: list[logging.LogRecord]
) -> None:
    telemetry.event_suspected(name="Add\nTo Cart", status=403, is_page=False)
    assert fields(lines[0]) == {"name": "Add\\nTo Cart", "status": 403}


@pytest.mark.parametrize("unknown", ["", "stranger's text"])
def test_a_hold_has_one_of_the_causes_that_are_known(
    telemetry: Telemetry, lines: list[logging.LogRecord], unknown: Any
) -> None:
    with pytest.raises(KeyError):
        telemetry.hold_started(unknown, probe_in_seconds=1.0)
    assert lines == []


def test_a_hold_moves_no_counter_as_what_holds_is_read_when_somebody_looks(telemetry: Telemetry) -> None:
    before = our_values(telemetry)
    telemetry.hold_started("breaker", probe_in_seconds=1.0)
    telemetry.hold_ended("breaker", seconds=2.0)
    assert our_values(telemetry) == before


def test_a_cancelled_attempt_is_a_possible_duplicate_and_writes_no_line(
    telemetry: Telemetry, lines: list[logging.LogRecord]
) -> None:
    before = our_values(telemetry)
    for _ in range(64):  # as many as a shutdown cuts off
        telemetry.attempt_cancelled()
    assert our_values(telemetry) == before | {(f"{PREFIX}possible_duplicates_total", ()): 64.0}
    assert lines == []


# Log lines: not forged


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_a_hostile_event_name_is_one_printable_line_in_either_format(
    telemetry: Telemetry, lines: list[logging.LogRecord], formatter: logging.Formatter, name: str
) -> None:
    telemetry.event_rejected(name=name, status=400)
    (record,) = lines
    text = formatter.format(record)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    text.encode()


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_an_endless_event_name_is_cut(
    telemetry: Telemetry, lines: list[logging.LogRecord], formatter: logging.Formatter
) -> None:
    telemetry.event_rejected(name="\x00" * 1_000_000, status=400)
    assert len(formatter.format(lines[0])) < 2000


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_a_failed_request_is_logged_with_its_traceback_and_no_forged_line_whatever_the_error_says(
    telemetry: Telemetry, lines: list[logging.LogRecord], formatter: logging.Formatter
) -> None:
    with pytest.raises(ValueError, match="lines") as caught:
        raise ValueError("\n".join(HOSTILE_NAMES))
    telemetry.request_failed(caught.value)
    text = formatter.format(lines[0])
    text.encode()
    first, *more = text.split("\n")
    assert "a bug, please report it" in first
    assert "ValueError" in text
    assert "\x1b" not in text
    assert not any(line.startswith(("2026-01-01T00:00:00.000+00:00 ERROR", "{")) for line in more), "a forged line"


def test_a_bug_that_every_request_meets_is_one_traceback_every_few_seconds(
    telemetry: Telemetry, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        telemetry.request_failed(ZeroDivisionError())
    telemetry.request_failed(KeyError())
    clock.now += 60.0
    telemetry.request_failed(ZeroDivisionError())
    assert [(line.levelname, line.exc_info[0]) for line in caplog.records if line.exc_info] == [
        ("ERROR", ZeroDivisionError),
        ("ERROR", KeyError),
        ("ERROR", ZeroDivisionError),
    ]
    assert fields(caplog.records[-1]) == {"repeats_not_logged": 99}

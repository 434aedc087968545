"""What the delivery tells of attempts that fail: each counts by its cause; a hold has that of the one that made it."""

import pytest

from forwarder.growlytics.outcome import Blocked, Delivered, Failure, Outcome, Rejected, Retryable
from tests.fakes.events import counted
from tests.fakes.posts import ScriptedPost
from tests.fakes.virtual_time import in_virtual_time
from tests.unit.test_delivery import delivering, first_attempts_fail

HOST = "dc.growlytics.in:443"
REFUSED = Failure("connect", "connection refused", HOST)
BUSY = Failure("status", "503 Service Unavailable", HOST, 503)
UNAUTHORIZED = Failure("status", "401 Unauthorized", HOST, 401)
WRONG = Failure("status", "400 Bad Request", HOST, 400)


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        (Retryable("network", maybe_delivered=False, failure=REFUSED), REFUSED),
        (Retryable("status_5xx", maybe_delivered=False, failure=BUSY), BUSY),
        (Blocked(401, "key", UNAUTHORIZED), UNAUTHORIZED),
        (Rejected(400, b"CANARY", WRONG), WRONG),
    ],
)
@in_virtual_time
async def test_a_failed_attempt_counts_by_its_kind_and_is_the_last_one_until_the_next(
    outcome: Outcome, failure: Failure
) -> None:
    async with delivering(ScriptedPost(first_attempts_fail(1, outcome))) as running:
        await running.put(running.make.of("a"))
        await running.until_empty()
        assert counted(running.telemetry, "attempt_failures_total", kind=failure.kind) == 1
        last = running.telemetry.recent.last_failure()
        assert last is not None
        assert last.pop("at") is not None
        assert last == {"kind": failure.kind, "status": failure.status, "error": failure.text, "host": HOST}


@in_virtual_time
async def test_an_event_that_is_delivered_is_no_failure() -> None:
    async with delivering(ScriptedPost()) as running:
        await running.put(running.make.of("abc"))
        await running.until_empty()
        assert running.telemetry.recent.last_failure() is None


@in_virtual_time
async def test_a_holds_line_has_the_cause_of_the_attempt_that_made_it_and_no_probe_writes_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = [BUSY, REFUSED, BUSY, BUSY]

    def answer(attempt: object) -> Outcome:
        return Retryable("network", maybe_delivered=False, failure=failures.pop(0)) if failures else Delivered()

    async with delivering(ScriptedPost(answer), breaker_failures=2) as running:
        await running.put(running.make.of("a"))
        await running.until_empty()
    (line,) = [record for record in caplog.records if "cause" in record.__dict__.get("fields", {})]
    fields = line.__dict__["fields"]
    assert (fields["cause"], fields["kind"], fields["error"], fields["host"]) == (
        "breaker", "connect", "connection refused", HOST,
    )  # fmt: skip
    assert "status" not in fields

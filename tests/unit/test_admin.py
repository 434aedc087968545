"""The admin listener: what it answers, to whom, and that it counts what it refuses. Without sockets."""

from typing import get_args

import pytest

from forwarder.admin import Admin
from forwarder.http.messages import Answer, Refusal, Request
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import IntakeSettings

PATHS = ["/metrics", "/livez", "/readyz", "/healthz"]


class Door:
    """An admin listener that nobody can connect to."""

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        self.is_ready = True
        self.admin = Admin(IntakeSettings(), own=None, telemetry=self.telemetry, is_ready=lambda: self.is_ready)

    def ask(self, target: str, *, method: str = "GET", host: str | None = "127.0.0.1", **headers: str) -> Answer:
        if host is not None:
            headers["host"] = host
        request = Request(method, target, headers, b"", None)
        found = self.admin.begin(request)
        answer = found if isinstance(found, Answer) else found.answer(request)
        assert isinstance(answer, Answer)
        return answer

    def refused(self) -> dict[str, int]:
        """How often requests were refused, by reason."""
        return {
            sample.labels["reason"]: int(sample.value)
            for metric in self.telemetry.registry.collect()
            for sample in metric.samples
            if sample.name == "growlytics_forwarder_http_requests_refused_total" and sample.value
        }


@pytest.fixture
async def door() -> Door:
    return Door()


@pytest.mark.parametrize("path", PATHS)
async def test_probes_and_scrapers_are_answered(door: Door, path: str) -> None:
    assert door.ask(path).status == 200
    assert door.ask(f"{path}?x").status == 200
    assert door.ask(path, host=None).status == 200, "health checks in HTTP/1.0 have no Host"
    assert door.refused() == {}


async def test_who_stops_is_alive_and_not_ready(door: Door) -> None:
    door.is_ready = False
    assert (door.ask("/livez").status, door.ask("/readyz").status) == (200, 503)
    assert door.refused() == {}


async def test_what_is_refused_is_counted_by_its_reason(door: Door) -> None:
    answers = [
        door.ask("/livez", host="evil.example"),
        door.ask("/"),
        door.ask("/livez", method="POST"),
        door.admin.fail(ValueError(), Request("GET", "/livez", {}, b"", None)),
    ]
    assert [answer.status for answer in answers] == [403, 404, 405, 500]
    assert [answer.closes for answer in answers] == [True, False, False, False]
    assert answers[2].headers["Allow"] == "GET, HEAD"
    assert door.refused() == {"forbidden_host": 1, "not_found": 1, "method_not_allowed": 1, "internal_error": 1}


@pytest.mark.parametrize("refusal", get_args(Refusal))
async def test_what_is_no_request_is_counted_too(door: Door, refusal: Refusal) -> None:
    answer = door.admin.refuse(refusal, None)
    assert 400 <= answer.status <= 501
    reason = "too_slow" if refusal.endswith("too_slow") else refusal
    assert door.refused() == {reason: 1}
    assert answer.body == f"{reason}\n".encode()


async def test_no_answer_may_be_kept_or_taken_for_something_else(door: Door) -> None:
    answers = [door.ask(path) for path in [*PATHS, "/"]]
    answers += [door.ask("/livez", host="evil.example"), door.ask("/livez", method="PUT")]
    answers += [door.admin.refuse(refusal, None) for refusal in get_args(Refusal)]
    answers.append(door.admin.fail(ValueError(), Request("GET", "/livez", {}, b"", None)))
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Type"].startswith("text/plain")

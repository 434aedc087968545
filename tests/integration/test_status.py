"""What /v1/status shows of attempts, holds, and what happened last, of a whole app in this process."""

import json
import os
import socket
import time
from typing import Any

import aiohttp
import pytest

from forwarder.app import App
from forwarder.sandbox.faults import Faults
from forwarder.settings import DeliverySettings
from tests.integration.test_app import event_text, running, until

HOSTILE = "<img src=x onerror=alert(1)>\u202e\u0007"


async def post(http: aiohttp.ClientSession, base: str, text: str, *, status: int = 200) -> None:
    path = "/v1/events" if text.startswith("[") else "/track/event"
    async with http.post(base + path, data=text.encode()) as response:
        assert response.status == status, await response.text()


def shown(app: App) -> dict[str, Any]:
    """Return the status as it is on the wire."""
    content: dict[str, Any] = json.loads(json.dumps(app.status()))
    return content


async def test_attempts_are_counted_by_what_they_came_to_and_their_times_shown() -> None:
    async with running() as (app, sandbox, base), aiohttp.ClientSession() as http:
        before = shown(app)["delivery"]
        assert before["attempts"] == {"delivered": 0, "retryable": 0, "rejected": 0, "blocked": 0}
        assert before["attempt_seconds"] == before["latency_seconds"] == {"p50": None, "p99": None}
        assert before["last_failure"] is None
        await post(http, base, event_text("{}"))
        await until(lambda: app.buffer.ledger().delivered == 1, "it is delivered")
        sandbox.faults = Faults(fail_rate=1, fail_status=422)
        await post(http, base, event_text("{}"))
        await until(lambda: app.buffer.dead_letters.events == 1, "it is a dead letter")
        delivery = shown(app)["delivery"]
    assert delivery["attempts"] == {"delivered": 1, "retryable": 0, "rejected": 1, "blocked": 0}
    assert 0 < delivery["attempt_seconds"]["p50"] <= delivery["attempt_seconds"]["p99"] < 10
    assert 0 < delivery["latency_seconds"]["p50"] == delivery["latency_seconds"]["p99"] < 10
    failure = delivery["last_failure"]
    assert failure.pop("at") == pytest.approx(time.time(), abs=60)
    assert failure.pop("host").startswith("127.0.0.1:")
    assert (failure["kind"], failure["status"]) == ("status", 422)
    assert failure["error"].startswith("422 Unprocessable")


async def test_refusals_are_shown_with_their_first_errors_and_never_with_a_value() -> None:
    nameless = '{"customerId": "secret-customer", "time": 1700000000000, "attributes": {"Card": "4111"}}'
    hostile = json.dumps(json.loads(nameless) | {"name": HOSTILE, "attributes": {HOSTILE: ["4111"], "Card": "4111"}})
    async with running() as (app, _, base), aiohttp.ClientSession() as http:
        await post(http, base, nameless, status=422)
        await post(http, base, f"[{hostile}, {hostile}, {event_text('{}')}, 5]", status=202)
        await post(http, base, "{", status=400)
        text = json.dumps(app.status())
    refusals = json.loads(text)["recent"]["refusals"]
    assert [(each["intake"], each["code"], each["field"], each["events"]) for each in refusals] == [
        ("http", "malformed_json", None, 1),
        ("http", "not_an_object", None, 1),
        ("http", "attribute_type_not_allowed", "attributes.<img src=x onerror=alert(1)>\\u202e\\x07", 2),
        ("http", "missing_field", "name", 1),
    ]
    assert [each["name"] for each in refusals] == [None, None, "<img src=x onerror=alert(1)>\\u202e\\x07", None]
    assert "4111" not in text
    assert "secret-customer" not in text


async def test_dead_letters_are_shown_with_id_reason_status_and_name_and_never_with_an_answer() -> None:
    async with running() as (app, sandbox, base), aiohttp.ClientSession() as http:
        await post(http, base, event_text('{"Card": "4111"}'))
        await until(lambda: app.buffer.ledger().delivered == 1, "it is delivered")
        sandbox.faults = Faults(fail_rate=1, fail_status=422)
        async with http.post(f"{base}/track/event", data=event_text('{"Card": "4111"}').encode()) as response:
            event_id = (await response.json())["id"]
        await until(lambda: app.buffer.dead_letters.events == 1, "it is a dead letter")
        letter = (await app.buffer.dead_letters.find([int(event_id)]))[0]
        text = json.dumps(app.status())
    (dead,) = json.loads(text)["recent"]["dead_letters"]
    assert dead.pop("at") == pytest.approx(letter.last_attempt_at, abs=5)
    assert dead == {"id": event_id, "reason": "rejected", "status": 422, "name": "Add To Cart"}
    assert "4111" not in text
    assert letter.answer.decode()[:10] not in text


async def test_a_hold_shows_when_its_next_probe_goes_and_ends_with_it() -> None:
    async with running(key="another-key") as (app, sandbox, base), aiohttp.ClientSession() as http:
        await post(http, base, event_text("{}"))
        await until(lambda: "auth" in app.delivery.holds(), "it holds")
        await until(lambda: app.delivery.probe_seconds() is not None, "no probe is under way")
        hold = shown(app)["holds"]["auth"]
        assert hold["seconds"] >= 0
        assert 0 <= hold["probe_in_seconds"] <= 0.05 * 1.25
        sandbox.key = "another-key"
        await until(lambda: app.buffer.ledger().delivered == 1, "it is delivered")
        assert shown(app)["holds"] == {}
        assert app.delivery.probe_seconds() is None


async def test_the_history_is_there_from_the_start_and_all_its_lists_are_alike_long() -> None:
    async with running() as (app, _, _):
        history = shown(app)["history"]
    assert history.pop("interval_seconds") == 5
    assert {*history} == {"accepted", "delivered", "refused", "buffered"}
    assert len({len(samples) for samples in history.values()}) == 1


async def test_what_events_wait_for_is_shown_while_nothing_holds() -> None:
    hanging = Faults(hang_rate=1)
    async with running(hanging) as (app, _, base), aiohttp.ClientSession() as http:
        assert shown(app)["delivery"]["waits_for"] is None
        for _ in range(3):
            await post(http, base, event_text("{}"))
        await until(lambda: shown(app)["delivery"]["waits_for"] == "order", "the customer's first event is under way")
        app.delivery.use(DeliverySettings(rate_limit_per_second=0.001))
        for number in range(3):
            other = json.loads(event_text("{}")) | {"customerId": f"other-{number}"}
            await post(http, base, json.dumps(other))
        await until(lambda: shown(app)["delivery"]["waits_for"] == "rate_limit", "the next attempt may not start yet")


async def test_it_names_the_host_its_addresses_and_where_events_go() -> None:
    async with running() as (app, sandbox, base):
        status = shown(app)
    assert status["instance"] == socket.gethostname()
    assert f"http://{status['addresses']['http']}" == base
    assert status["delivery"]["destination"] == sandbox.url
    assert status["pid"] == os.getpid()
    assert status["at"] == pytest.approx(time.time(), abs=60)


async def test_no_rate_is_there_twice_with_two_values() -> None:
    async with running() as (app, _, base), aiohttp.ClientSession() as http:
        for _ in range(20):
            await post(http, base, event_text("{}"))
        await until(lambda: shown(app)["rates"]["accepted_per_second"] > 0, "it has seen them come")
        status = shown(app)
    assert status["forecasts"]["accepted_per_second"] == status["rates"]["accepted_per_second"]
    assert status["rates"]["refused_per_second"] == 0

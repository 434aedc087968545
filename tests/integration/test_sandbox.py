"""The sandbox over real sockets: the contract, the key, rule 5, every fault, the control endpoints."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import RemoteDisconnected
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout

from forwarder.sandbox.faults import NO_FAULTS, Faults
from forwarder.sandbox.server import Sandbox

KEY = "sandbox-key"
DOCUMENTED = (
    b'{"name": "Add To Cart", "customerId": "YOUR_APP_CUSTOMER_ID", "time": 1700000000000,\n'
    b' "attributes": {"Product Id": "abcdef", "Product Name": "Orange BagPack", "Quantity": 3, "Price": 4531,\n'
    b'                "Discount": 0, "Brand": "Nike", "Category": "BagPack"}}'
)


def event(**attributes: object) -> bytes:
    return json.dumps({"name": "Seen", "customerId": "c", "time": 1700000000000, "attributes": attributes}).encode()


async def until(condition: Callable[[], object], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.001)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    subject = Sandbox(seed=1)
    await subject.open()
    yield subject
    await subject.close()


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    headers = {"x-growlytics-key": KEY, "Content-Type": "application/json"}
    async with ClientSession(headers=headers, timeout=ClientTimeout(total=20)) as session:
        yield session


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


async def post(
    client: ClientSession,
    sandbox: Sandbox,
    body: bytes | BytesIO = DOCUMENTED,
    *,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    async with client.post(sandbox.url, data=body, headers=headers) as response:
        return await answered(response)


async def answered(response: ClientResponse) -> Answer:
    return Answer(response.status, response.headers, await response.read())


def codes(answer: Answer) -> list[str]:
    said = json.loads(answer.body)
    assert said["success"] is False
    assert all(error.keys() == {"code", "field", "message"} for error in said["errors"])
    return [error["code"] for error in said["errors"]]


def control(sandbox: Sandbox, path: str) -> str:
    return sandbox.url.removesuffix("/track/event") + "/_sandbox/" + path


async def controlled(client: ClientSession, sandbox: Sandbox, method: str, path: str, body: object = None) -> Any:
    async with client.request(method, control(sandbox, path), json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


def request(body: bytes = DOCUMENTED, *, length: int | None = None) -> bytes:
    head = f"x-growlytics-key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: {length or len(body)}"
    return f"POST /track/event HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + body


async def test_the_documented_example_is_stored_as_it_came(sandbox: Sandbox, client: ClientSession) -> None:
    answer = await post(client, sandbox)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body == b'{"success":true}'
    (stored,) = sandbox.stored()
    assert stored.raw == DOCUMENTED
    assert (stored.customer, stored.name, stored.time) == ("YOUR_APP_CUSTOMER_ID", "Add To Cart", 1700000000000)
    assert stored.attributes == json.loads(DOCUMENTED)["attributes"]
    assert time.time() - stored.received_at < 30
    counters = sandbox.counters()
    assert (counters["requests"], counters["stored"], counters["connections_opened"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("version", "asked", "answered"),
    [("1.1", "close", "close"), ("1.0", "close", None), ("1.0", "keep-alive", "keep-alive")],
)
async def test_a_client_that_does_not_keep_its_connection_is_answered_too(
    sandbox: Sandbox, version: str, asked: str, answered: str | None
) -> None:
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request().replace(b"HTTP/1.1\r\n", f"HTTP/{version}\r\nConnection: {asked}\r\n".encode()))
    said = (await reader.readuntil(b'{"success":true}')).decode()
    assert said.startswith(f"HTTP/{version} 200 OK\r\n")
    assert (f"Connection: {answered}\r\n" in said) if answered else ("Connection:" not in said)
    if asked == "close":
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_violation_gets_422_with_every_reason(sandbox: Sandbox, client: ClientSession) -> None:
    body = json.dumps({"name": "n" * 50, "customerId": 7, "time": 1700000000, "attributes": {"List": []}})
    answer = await post(client, sandbox, body.encode())
    assert answer.status == 422
    wanted = {"name_too_long", "wrong_type", "time_not_milliseconds", "attribute_type_not_allowed"}
    assert set(codes(answer)) == wanted
    assert sandbox.stored() == []
    assert sandbox.counters()["contract_violations"] == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[1", b"\xff"])
async def test_what_is_not_json_gets_422(sandbox: Sandbox, client: ClientSession, body: bytes) -> None:
    answer = await post(client, sandbox, body)
    assert answer.status == 422
    assert codes(answer) == ["malformed_json"]


async def test_another_key_or_none_gets_401(sandbox: Sandbox, client: ClientSession) -> None:
    answer = await post(client, sandbox, headers={"x-growlytics-key": "another"})
    assert answer.status == 401
    assert codes(answer) == ["unauthorized"]
    async with aiohttp.request("POST", sandbox.url, json=json.loads(DOCUMENTED)) as without:
        assert without.status == 401
    assert (sandbox.counters()["unauthorized"], sandbox.counters()["stored"]) == (2, 0)


async def test_the_key_can_change_while_it_runs(sandbox: Sandbox, client: ClientSession) -> None:
    await controlled(client, sandbox, "PUT", "key", {"key": "next"})
    assert (await post(client, sandbox)).status == 401
    assert (await post(client, sandbox, headers={"x-growlytics-key": "next"})).status == 200
    sandbox.key = KEY
    assert (await post(client, sandbox)).status == 200


async def test_other_paths_methods_and_content_types_are_refused(sandbox: Sandbox, client: ClientSession) -> None:
    async with client.post(sandbox.url + "/v2", data=DOCUMENTED) as response:
        assert (response.status, codes(await answered(response))) == (404, ["not_found"])
    async with client.put(sandbox.url, data=DOCUMENTED) as response:
        assert (response.status, codes(await answered(response))) == (405, ["method_not_allowed"])
        assert response.headers["Allow"] == "POST"
    text = await post(client, sandbox, headers={"Content-Type": "text/plain"})
    assert (text.status, codes(text)) == (415, ["unsupported_content_type"])
    assert (await post(client, sandbox, headers={"Content-Type": "application/json; charset=utf-8"})).status == 200
    counters = sandbox.counters()
    assert [counters[f"refused_{status}"] for status in (404, 405, 415)] == [1, 1, 1]


@pytest.mark.parametrize(("size_bytes", "status"), [(1024 * 1024, 200), (1024 * 1024 + 1, 413)])
async def test_a_body_has_at_most_one_mebibyte(
    sandbox: Sandbox, client: ClientSession, size_bytes: int, status: int
) -> None:
    body = BytesIO(DOCUMENTED.ljust(size_bytes))
    assert (await post(client, sandbox, body)).status == status
    assert sandbox.counters()["stored"] == (status == 200)


async def test_a_body_in_pieces_is_put_together(sandbox: Sandbox, client: ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(DOCUMENTED), 50):
            yield DOCUMENTED[start : start + 50]
            await asyncio.sleep(0)

    async with client.post(sandbox.url, data=pieces()) as response:
        assert response.status == 200
    assert [stored.raw for stored in sandbox.stored()] == [DOCUMENTED]


async def test_a_body_that_is_cut_short_is_not_stored(sandbox: Sandbox) -> None:
    _, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request(DOCUMENTED[:50], length=len(DOCUMENTED)))
    await until(lambda: sandbox.counters()["in_flight"] == 1)
    writer.close()
    await until(lambda: sandbox.counters()["in_flight"] == 0)
    assert (sandbox.counters()["refused_400"], sandbox.counters()["stored"]) == (1, 0)


async def test_a_value_of_another_type_is_silently_dropped(sandbox: Sandbox, client: ClientSession) -> None:
    for body in (event(Price=1, Brand="Nike"), event(Price="one", Brand="Nike"), event(price="one", Price=2.5)):
        answer = await post(client, sandbox, body)
        assert (answer.status, answer.body) == (200, b'{"success":true}')
    page = await controlled(client, sandbox, "GET", "events")
    assert [stored["attributes"] for stored in page["events"]] == [
        {"Price": 1, "Brand": "Nike"},
        {"Brand": "Nike"},
        {"price": "one", "Price": 2.5},
    ]
    assert [stored["dropped"] for stored in page["events"]] == [[], ["Price"], []]
    assert sandbox.counters()["attributes_dropped"] == 1


async def test_latency_delays_answers_and_failures(sandbox: Sandbox, client: ClientSession) -> None:
    for faults in (Faults(latency_ms=50, jitter_ms=1), Faults(latency_ms=50, down=True)):
        sandbox.faults = faults
        started = time.monotonic()
        await post(client, sandbox)
        assert time.monotonic() - started >= 0.045


async def test_failures_come_by_their_shares_and_are_not_stored(sandbox: Sandbox, client: ClientSession) -> None:
    sandbox.faults = Faults(fail_rate=0.5, fail_statuses={429: 1, 500: 1})
    statuses = Counter([(await post(client, sandbox)).status for _ in range(200)])
    assert statuses.keys() == {200, 429, 500}
    assert all(count > 20 for count in statuses.values())
    counters = sandbox.counters()
    assert (counters["stored"], counters["injected_429"], counters["injected_500"]) == tuple(
        statuses[status] for status in (200, 429, 500)
    )


async def test_the_same_seed_fails_the_same_requests(client: ClientSession) -> None:
    async def statuses() -> list[int]:
        subject = Sandbox(seed=42, faults=Faults(fail_rate=0.5))
        await subject.open()
        drawn = [(await post(client, subject)).status for _ in range(40)]
        await subject.close()
        return drawn

    first = await statuses()
    assert set(first) == {200, 503}
    assert await statuses() == first


async def test_when_down_it_answers_503_or_what_it_is_told(sandbox: Sandbox, client: ClientSession) -> None:
    sandbox.faults = Faults(down=True)
    assert (await post(client, sandbox)).status == 503
    sandbox.faults = Faults(down=True, fail_status=502)
    assert (await post(client, sandbox)).status == 502
    sandbox.faults = NO_FAULTS
    assert (await post(client, sandbox)).status == 200


async def test_retry_after_comes_in_both_forms(sandbox: Sandbox, client: ClientSession) -> None:
    sandbox.faults = Faults(down=True)
    assert "Retry-After" not in (await post(client, sandbox)).headers
    sandbox.faults = Faults(down=True, retry_after="seconds", retry_after_seconds=7)
    assert (await post(client, sandbox)).headers["Retry-After"] == "7"
    sandbox.faults = Faults(down=True, retry_after="date", retry_after_seconds=60)
    moment = parsedate_to_datetime((await post(client, sandbox)).headers["Retry-After"])
    assert 40 < moment.timestamp() - time.time() < 62


async def test_above_the_rate_limit_requests_get_429(sandbox: Sandbox, client: ClientSession) -> None:
    sandbox.faults = Faults(rate_limit_per_second=0.01, retry_after="seconds", retry_after_seconds=3)
    assert (await post(client, sandbox)).status == 200
    limited = await post(client, sandbox)
    assert (limited.status, limited.headers["Retry-After"]) == (429, "3")
    assert codes(limited) == ["rate_limited"]
    assert (sandbox.counters()["rate_limited"], sandbox.counters()["stored"]) == (1, 1)


async def test_success_false_is_a_200_that_stores_nothing(sandbox: Sandbox, client: ClientSession) -> None:
    sandbox.faults = Faults(success_false_rate=1)
    answer = await post(client, sandbox)
    assert (answer.status, answer.body) == (200, b'{"success":false}')
    assert (sandbox.counters()["success_false"], sandbox.counters()["stored"]) == (1, 0)


@pytest.mark.parametrize(
    ("rate", "stored"), [("reset_before_read", 0), ("reset_after_read", 0), ("reset_after_store", 1)]
)
async def test_a_connection_is_reset_without_an_answer(sandbox: Sandbox, rate: str, stored: int) -> None:
    shares: dict[str, Any] = {f"{rate}_rate": 1}
    sandbox.faults = Faults(**shares)
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert (sandbox.counters()[rate], sandbox.counters()["stored"]) == (1, stored)


async def test_a_reset_before_the_read_does_not_wait_for_the_body(sandbox: Sandbox) -> None:
    sandbox.faults = Faults(reset_before_read_rate=1)
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request(b"", length=100))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_where_nothing_would_be_stored_the_answer_is_not_lost_either(
    sandbox: Sandbox, client: ClientSession
) -> None:
    sandbox.faults = Faults(reset_after_store_rate=1)
    assert (await post(client, sandbox, b"{}")).status == 422
    assert (await post(client, sandbox, headers={"x-growlytics-key": "another"})).status == 401


async def test_a_hanging_request_ends_when_the_client_goes_and_stores_nothing(sandbox: Sandbox) -> None:
    sandbox.faults = Faults(hang_rate=1)
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request())
    await until(lambda: sandbox.counters()["hangs"] == 1)
    sandbox.faults = NO_FAULTS
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)
    assert sandbox.counters()["in_flight"] == 1
    writer.close()
    await until(lambda: sandbox.counters()["in_flight"] == 0)
    assert (sandbox.counters()["stored"], sandbox.counters()["max_in_flight"]) == (0, 1)


@pytest.mark.parametrize("faults", [Faults(hang_rate=1), Faults(latency_ms=3_600_000)])
async def test_close_does_not_wait_for_hanging_or_delayed_requests(sandbox: Sandbox, faults: Faults) -> None:
    sandbox.faults = faults
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request())
    await until(lambda: sandbox.counters()["in_flight"] == 1)
    async with asyncio.timeout(30):
        await sandbox.close()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"", "it hangs, so it gives no answer"
    writer.close()
    await until(lambda: sandbox.counters()["in_flight"] == 0)
    assert sandbox.counters()["stored"] == 0


async def test_a_request_is_stored_although_its_client_has_gone(sandbox: Sandbox) -> None:
    sandbox.faults = Faults(latency_ms=100)
    _, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request())
    await until(lambda: sandbox.counters()["in_flight"] == 1)
    writer.close()
    await until(lambda: sandbox.counters()["stored"] == 1)


async def test_an_idle_connection_is_closed_when_asked_and_only_then(sandbox: Sandbox) -> None:
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request())
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)
    sandbox.faults = Faults(close_idle_seconds=0.05)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert sandbox.counters()["idle_connections_closed"] == 1


async def test_a_connection_stays_open_until_it_was_idle_for_so_long(sandbox: Sandbox) -> None:
    sandbox.faults = Faults(close_idle_seconds=0.2, latency_ms=300)
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request())
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200"), "being busy longer than that is not being idle"
    answered = time.monotonic()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert time.monotonic() - answered >= 0.15
    writer.close()


async def test_a_request_that_crosses_the_closing_of_its_connection_is_stored_and_not_answered(
    sandbox: Sandbox,
) -> None:
    sandbox.faults = Faults(close_idle_seconds=0.3)
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request())
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    writer.write(request())
    time.sleep(0.5)  # noqa: ASYNC251 - holds the loop, so that it finds request and closing time at once
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert (sandbox.counters()["stored"], sandbox.counters()["idle_connections_closed"]) == (2, 1)


async def test_a_control_connection_is_never_closed_as_idle(sandbox: Sandbox) -> None:
    sandbox.faults = Faults(close_idle_seconds=0.02)
    reader, writer = await asyncio.open_connection(*sandbox.address)
    writer.write(request() + b"GET /_sandbox/faults HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b'"down":false}')
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    writer.close()


async def test_a_control_body_over_one_mebibyte_is_refused(sandbox: Sandbox, client: ClientSession) -> None:
    async with client.put(control(sandbox, "key"), data=BytesIO(b" " * (1024 * 1024 + 1))) as response:
        assert (response.status, codes(await answered(response))) == (413, ["body_too_large"])


async def test_control_requests_know_no_faults_and_need_no_key(sandbox: Sandbox) -> None:
    for faults in (Faults(down=True), Faults(hang_rate=1), Faults(reset_before_read_rate=1)):
        sandbox.faults = faults
        async with aiohttp.request("GET", control(sandbox, "counters")) as response:
            assert response.status == 200
    assert sandbox.counters()["requests"] == 0


async def test_the_control_endpoints_list_themselves(sandbox: Sandbox, client: ClientSession) -> None:
    listed = (await controlled(client, sandbox, "GET", ""))["endpoints"]
    assert {line.split("?")[0].split(":")[0] for line in listed} == {
        "GET /_sandbox/",
        "GET /_sandbox/events",
        "DELETE /_sandbox/events",
        "GET /_sandbox/raw",
        "GET /_sandbox/counters",
        "GET /_sandbox/faults",
        "PATCH /_sandbox/faults",
        "DELETE /_sandbox/faults",
        "PUT /_sandbox/key",
    }


async def test_other_control_requests_are_refused(sandbox: Sandbox, client: ClientSession) -> None:
    async with client.get(control(sandbox, "nothing")) as response:
        assert (response.status, codes(await answered(response))) == (404, ["not_found"])
    async with client.post(control(sandbox, "faults"), json={}) as response:
        assert (response.status, codes(await answered(response))) == (405, ["method_not_allowed"])
        assert response.headers["Allow"] == "GET, PATCH, DELETE"
    for path in ("events?limit=-1", "raw?offset=x", "events?offset=1.5"):
        async with client.get(control(sandbox, path)) as response:
            assert (response.status, codes(await answered(response))) == (400, ["invalid_parameter"])
    for body in (b"{", b"[]", b""):
        for method, path in (("PATCH", "faults"), ("PUT", "key")):
            async with client.request(method, control(sandbox, path), data=body) as response:
                assert (response.status, codes(await answered(response))) == (400, ["malformed_json"])
    for key in ({}, {"key": ""}, {"key": 7}):
        async with client.put(control(sandbox, "key"), json=key) as response:
            assert (response.status, codes(await answered(response))) == (400, ["invalid_key"])


async def test_events_come_in_pages(sandbox: Sandbox, client: ClientSession) -> None:
    for number in range(5):
        await post(client, sandbox, event(Number=number))
    page = (await controlled(client, sandbox, "GET", "events?offset=1&limit=2"))["events"]
    assert [(stored["sequence"], stored["attributes"]) for stored in page] == [(2, {"Number": 1}), (3, {"Number": 2})]
    assert page[0]["raw"] == event(Number=1).decode()
    assert await controlled(client, sandbox, "GET", "events?offset=5") == {"events": []}


async def test_without_a_limit_events_stop_at_a_thousand_and_raw_bodies_do_not(
    sandbox: Sandbox, client: ClientSession
) -> None:
    for _ in range(1001):
        sandbox.store.add(DOCUMENTED, "Add To Cart", {}, 0)
    assert len((await controlled(client, sandbox, "GET", "events"))["events"]) == 1000
    assert len(await controlled(client, sandbox, "GET", "raw")) == 1001


async def test_raw_bodies_are_exact_whatever_they_hold(sandbox: Sandbox, client: ClientSession) -> None:
    bodies = [
        DOCUMENTED,
        event(Word="Grüße\u2028\n", Half="\ud800"),
        event(Digits=10**30, Small=1e-300),
        '{"customerId":"ü","name":"é","time":1700000000000,"attributes":{}}\r\n'.encode(),
    ]
    for body in bodies:
        assert (await post(client, sandbox, body)).status == 200
    assert await controlled(client, sandbox, "GET", "raw") == [body.decode() for body in bodies]
    assert await controlled(client, sandbox, "GET", "raw?offset=1&limit=1") == [bodies[1].decode()]
    page = await controlled(client, sandbox, "GET", "events")
    assert [stored["raw"] for stored in page["events"]] == [body.decode() for body in bodies]
    assert page["events"][1]["attributes"]["Half"] == "\ud800"


async def test_faults_are_read_changed_and_reset_while_it_runs(client: ClientSession) -> None:
    sandbox = Sandbox(faults=Faults(latency_ms=1))
    await sandbox.open()
    shown = await controlled(client, sandbox, "PATCH", "faults", {"fail_rate": 1, "fail_statuses": {"429": 1}})
    assert (shown["latency_ms"], shown["fail_rate"], shown["fail_statuses"]) == (1, 1, {"429": 1})
    assert await controlled(client, sandbox, "GET", "faults") == shown
    assert (await post(client, sandbox)).status == 429
    await controlled(client, sandbox, "DELETE", "faults")
    assert sandbox.faults == Faults(latency_ms=1)
    assert (await post(client, sandbox)).status == 200
    await sandbox.close()


async def test_a_wrong_change_changes_nothing_and_tells_every_error(sandbox: Sandbox, client: ClientSession) -> None:
    changes = {"latency_ms": 5, "fail_rate": 2, "latancy": 5}
    async with client.patch(control(sandbox, "faults"), json=changes) as response:
        assert response.status == 400
        assert sorted(codes(await answered(response))) == ["invalid_fault", "unknown_fault"]
    assert sandbox.faults == NO_FAULTS


async def test_forgetting_forgets_events_types_and_counters(sandbox: Sandbox, client: ClientSession) -> None:
    await post(client, sandbox, event(Price=1))
    await controlled(client, sandbox, "DELETE", "events")
    assert sandbox.stored() == []
    assert set((await controlled(client, sandbox, "GET", "counters")).values()) == {0}
    await post(client, sandbox, event(Price="one"))
    assert (sandbox.counters()["stored"], sandbox.counters()["attributes_dropped"]) == (1, 0)


async def test_the_counters_account_for_every_request(sandbox: Sandbox, client: ClientSession) -> None:
    sandbox.faults = Faults(
        fail_rate=0.2,
        fail_statuses={429: 1, 503: 1},
        success_false_rate=0.1,
        reset_before_read_rate=0.1,
        reset_after_read_rate=0.1,
        reset_after_store_rate=0.1,
        rate_limit_per_second=1000,
        latency_ms=5,
    )
    bodies = [DOCUMENTED, b"{}", b"?"] * 60

    async def send(body: bytes) -> None:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            await post(client, sandbox, body)

    await asyncio.gather(*(send(body) for body in bodies))
    await until(lambda: sandbox.counters()["in_flight"] == 0)
    counters = sandbox.counters()
    ends = ("stored", "unauthorized", "contract_violations", "rate_limited", "success_false", "hangs")
    resets = ("reset_before_read", "reset_after_read")
    by_status = [name for name in counters if name.startswith(("injected_", "refused_"))]
    assert counters["requests"] == len(bodies) == sum(counters[name] for name in (*ends, *resets, *by_status))
    assert counters["reset_after_store"] > 0
    assert 1 < counters["max_in_flight"] <= len(bodies)


async def test_beyond_its_bound_it_counts_and_does_not_keep(client: ClientSession) -> None:
    sandbox = Sandbox(max_stored_events=2)
    await sandbox.open()
    for _ in range(3):
        assert (await post(client, sandbox)).status == 200
    assert len(sandbox.stored()) == 2
    assert (sandbox.counters()["stored"], sandbox.counters()["stored_not_kept"]) == (3, 1)
    await sandbox.close()


async def test_one_connection_serves_many_requests(sandbox: Sandbox, client: ClientSession) -> None:
    for _ in range(5):
        await post(client, sandbox)
    await controlled(client, sandbox, "GET", "counters")
    assert sandbox.counters()["connections_opened"] == 1


async def test_an_address_in_use_is_an_error_of_open_and_close_may_come_at_any_time(sandbox: Sandbox) -> None:
    second = Sandbox(http=sandbox.address)
    await second.close()
    with pytest.raises(OSError, match="in use"):
        await second.open()
    await second.close()
    await sandbox.close()
    await sandbox.close()
    await second.open()
    assert second.address == sandbox.address
    await second.close()


DRIVER = """
import argparse, sys
from forwarder.cli import sandbox
parser = argparse.ArgumentParser()
sandbox.add_arguments(parser)
sys.exit(sandbox.run(parser.parse_args()))
"""


@contextlib.contextmanager
def command(*flags: str) -> Any:
    arguments = [sys.executable, "-c", DRIVER, *flags]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_when_it_is_ready_and_ends_cleanly_on_a_signal(loop: str, number: signal.Signals) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with command("--http", "127.0.0.1:0", "--key", "other key", "--loop", loop, "--fail-rate", "0") as process:
        line = process.stdout.readline()
        url = line.removeprefix("sandbox ready on ").split(" ")[0]
        port = int(url.removeprefix("http://127.0.0.1:").removesuffix("/track/event"))
        assert line == f"sandbox ready on http://127.0.0.1:{port}/track/event (key other key)\n"
        headers = {"Content-Type": "application/json", "x-growlytics-key": "other key"}
        tracked = urllib.request.Request(url, data=DOCUMENTED, headers=headers)
        with urllib.request.urlopen(tracked, timeout=30) as response:
            assert response.read() == b'{"success":true}'
        faults = urllib.request.Request(
            f"http://127.0.0.1:{port}/_sandbox/faults", data=b'{"reset_after_store_rate":1}', method="PATCH"
        )
        with urllib.request.urlopen(faults, timeout=30):
            pass
        with pytest.raises(ConnectionResetError) as reset:
            urllib.request.urlopen(tracked, timeout=30)
        assert not isinstance(reset.value, RemoteDisconnected), "a reset, not an orderly end"
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_the_command_that_cannot_bind_says_where_and_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with command("--http", f"127.0.0.1:{port}") as process:
            assert process.wait(20) == 69
            assert process.stderr.read() == f"sandbox: cannot listen on 127.0.0.1:{port}: Address already in use\n"
            assert process.stdout.read() == ""

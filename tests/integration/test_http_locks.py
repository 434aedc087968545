"""The locks over real sockets: who is refused, how it is counted, what a browser reads, and that a Unix socket has none."""

import gzip
import logging
from pathlib import Path
from typing import Any

import pytest

from forwarder.http.messages import State
from forwarder.settings import IntakeSettings, Secret
from tests.fakes.http_intake_harness import Answer, Served, request_bytes, serving, until

ONE = "/track/event"
BATCH = "/v1/events"
STATUS = "/v1/status"
JSON = "application/json"
GOOD = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'
SHOP = "https://shop.example"


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.codes) == (status, [code])


async def get(served: Served, path: str, **headers: str) -> Answer:
    async with served.connection() as connection:
        return await connection.request(path, b"", method="GET", **headers)


async def preflight(served: Served, path: str, **headers: str) -> Answer:
    async with served.connection() as connection:
        await connection.send(
            f"OPTIONS {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
            + b"".join(f"{name.replace('_', '-')}: {value}\r\n".encode() for name, value in headers.items())
            + b"\r\n"
        )
        return await connection.answer(without_body=True)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "evil.example"}, 403, "forbidden_host"),
        ({"Origin": "https://evil.example"}, 403, "forbidden_origin"),
        ({"Origin": "null"}, 403, "forbidden_origin"),
        ({"Content_Type": "text/plain"}, 415, "unsupported_content_type"),
        ({"Sec_Fetch_Site": "cross-site"}, 415, "unsupported_content_type"),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415, "unsupported_content_type"),
    ],
)
async def test_a_post_that_is_locked_out_counts_as_one_and_is_not_stored(
    caplog: pytest.LogCaptureFixture, headers: dict[str, str], status: int, code: str
) -> None:
    async with serving(allowed_origins=(SHOP,)) as served:
        for path in (ONE, BATCH):
            for body in (GOOD, [GOOD], b"[" + GOOD + b"," + GOOD + b"]"):
                answer = await served.post(path, body, **headers)
                assert_refused(answer, status, code)
                assert answer.announces_close
                assert "access-control-allow-origin" not in answer.headers
        assert_refused(await served.post("/v1/dead-letters/purge", b"{}", **headers), status, code)
        counts = served.counts()
        assert (counts.received, counts.accepted, counts.rejected) == (6, 0, {code: 6})
    logged = [record for record in caplog.records if record.name == "forwarder" and record.levelno >= logging.WARNING]
    assert [record.__dict__["fields"]["code"] for record in logged] == [code]


async def test_every_path_is_locked() -> None:
    async with serving() as served:
        for path in (STATUS, "/v1/events/1", "/v1/dead-letters", "/nothing", "/"):
            assert_refused(await get(served, path, Host="evil.example"), 403, "forbidden_host")
            assert_refused(await get(served, path, Origin=SHOP), 403, "forbidden_origin")
        for target in (
            "http://evil.example/v1/status",
            "http://localhost@evil.example/v1/status",
            "http://evil.example?/v1/status",
        ):
            assert_refused(await get(served, target), 403, "forbidden_host")
        assert (await get(served, "http://localhost/v1/status")).status == 200
        assert (await get(served, STATUS, Sec_Fetch_Site="cross-site")).status == 200  # the page cannot read it
        async with served.connection() as connection:
            await connection.send(b"GET /v1/status HTTP/1.0\r\n\r\n")
            assert_refused(await connection.answer(), 403, "forbidden_host")
        assert served.counts().received == 0


async def test_the_content_type_is_judged_after_the_path_and_before_the_body() -> None:
    async with serving(max_body_bytes=1000) as served:
        form = {"Content_Type": "text/plain"}
        assert_refused(await served.post("/nothing", GOOD, **form), 404, "not_found")
        for headers, body in (({"Content_Encoding": "rot13"}, GOOD), ({}, GOOD * 100)):
            assert_refused(await served.post(ONE, body, **form, **headers), 415, "unsupported_content_type")
        assert_refused(await served.post(ONE, GOOD, **form, Host="a"), 403, "forbidden_host")
        assert (await served.post(ONE, GOOD)).status == 200
        assert "application/json" in (await served.post(ONE, GOOD, **form)).content["errors"][0]["message"]
        # What has no body may have any type.
        assert_refused(await served.post(ONE, b"", **form), 400, "malformed_json")


async def test_a_page_of_an_allowed_origin_posts_and_reads_the_answers_also_errors() -> None:
    async with serving(allowed_origins=(SHOP, "http://localhost:3000"), max_events=2) as served:
        page = {"Origin": SHOP, "Content_Type": JSON, "Sec_Fetch_Site": "cross-site"}
        answers = [
            (await served.post(ONE, GOOD, **page), 200),
            (await served.post(BATCH, gzip.compress(GOOD), **page, Content_Encoding="gzip"), 202),
            (await served.post(ONE, GOOD, **page), 429),
            (await served.post(ONE, b"{", **page), 400),
            (await served.post(ONE, b"{}", **page), 422),
            (await served.post(ONE, b"{", **page, Content_Encoding="gzip"), 400),
            (await served.post(ONE, b" " * (2 << 20), **page), 413),
            (await served.post("/nothing", b"{}", **page), 404),
            (await served.post(STATUS, b"{}", **page), 405),
            (await served.post(ONE, GOOD, Origin=SHOP), 415),
            (await served.post(ONE, GOOD, Origin=SHOP, Content_Type="text/plain"), 415),
            (await served.post(ONE, GOOD, **page, Host="evil.example"), 403),
            (await get(served, STATUS, Origin=SHOP), 200),
        ]
        for answer, status in answers:
            assert answer.status == status, answer
            assert answer.headers["access-control-allow-origin"] == SHOP
            assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-origin" not in (await served.post(ONE, b"{}")).headers
        served.counts().assert_balanced()


async def test_a_bug_too_is_answered_so_that_the_page_can_read_it(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(allowed_origins=(SHOP,)) as served:
        served.status["state"] = object()  # which no JSON can hold
        answer = await get(served, STATUS, Origin=SHOP)
    assert answer.status == 500
    assert answer.headers["access-control-allow-origin"] == SHOP


async def test_a_preflight_is_answered_to_an_allowed_origin_only() -> None:
    async with serving(allowed_origins=(SHOP,), token=Secret("s3cret")) as served:
        asking = {"Origin": SHOP, "Access_Control_Request_Method": "POST"}
        for path, method in ((ONE, "POST"), (BATCH, "POST"), (STATUS, "GET")):
            answer = await preflight(served, path, **asking)
            assert (answer.status, answer.body) == (204, b"")
            assert answer.headers["access-control-allow-origin"] == SHOP
            assert answer.headers["access-control-allow-methods"] == method
            assert "content-type" in answer.headers["access-control-allow-headers"]
            assert answer.headers["vary"] == "Origin"
            assert "access-control-allow-private-network" not in answer.headers
        answer = await preflight(served, ONE, **asking, Access_Control_Request_Private_Network="true")
        assert answer.headers["access-control-allow-private-network"] == "true"
        assert (await preflight(served, "/nothing", **asking)).status == 404
        answer = await preflight(served, ONE, **(asking | {"Origin": "https://evil.example"}))
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
        assert served.counts().received == 0
    async with serving() as served:
        assert (await preflight(served, ONE, Origin=SHOP)).status == 403
        assert (await preflight(served, ONE)).status == 405


async def test_the_token_is_asked_for_on_every_path_and_may_change() -> None:
    async with serving(token=Secret("s3cret")) as served:
        for path in (STATUS, "/v1/events/1", "/v1/dead-letters", "/nothing"):
            answer = await get(served, path)
            assert_refused(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert (await get(served, path, Authorization="Bearer s3cret")).status in (200, 404)
        for path in (ONE, BATCH):
            assert_refused(await served.post(path, GOOD), 401, "unauthorized")
            assert_refused(await served.post(path, GOOD, x_growlytics_key="wröng"), 401, "unauthorized")
            assert (await served.post(path, GOOD, x_growlytics_key="s3cret")).status in (200, 202)
        assert served.counts().rejected == {"unauthorized": 4}
        assert len(await served.take_all()) == 2
        served.intake.use(IntakeSettings(token=Secret("n3w")))
        assert_refused(await served.post(ONE, GOOD, x_growlytics_key="s3cret"), 401, "unauthorized")
        assert (await served.post(ONE, GOOD, x_growlytics_key="n3w")).status == 200


async def test_without_a_token_the_key_that_apps_send_anyway_is_ignored() -> None:
    async with serving() as served:
        assert (await served.post(ONE, GOOD, x_growlytics_key="of Growlytics")).status == 200


async def test_who_has_shown_a_token_may_see_payloads_and_change_something(tmp_path: Path) -> None:
    async with serving() as served:
        assert_refused(await get(served, "/v1/dead-letters?payload=true"), 401, "unauthorized")
        assert_refused(await served.post("/v1/dead-letters/purge", b'{"ids":[]}'), 401, "unauthorized")
        assert (await get(served, "/v1/dead-letters")).status == 200
        served.intake.use(IntakeSettings(token=Secret("t")))
        assert (await get(served, "/v1/dead-letters?payload=true", x_growlytics_key="t")).status == 200
        served.intake.use(IntakeSettings())
        assert_refused(await get(served, "/v1/dead-letters?payload=true"), 401, "unauthorized")
    async with serving(token=Secret("t")) as served:
        assert (await get(served, "/v1/dead-letters?payload=true", x_growlytics_key="t")).status == 200
        answer = await served.post("/v1/dead-letters/purge", b'{"ids":[]}', x_growlytics_key="t")
        assert answer.status in (200, 422)
    async with serving(unix=tmp_path / "s", token=Secret("t")) as served:
        assert (await get(served, "/v1/dead-letters?payload=true")).status == 200


async def test_who_came_in_before_there_was_a_token_has_not_shown_one() -> None:
    body = b'{"ids":[]}'
    async with serving() as served, served.connection() as connection:
        whole = request_bytes("/v1/dead-letters/purge", body)
        await connection.send(whole[: -len(body)])
        await until(lambda: served.awaiting(State.BODY) == 1, what="its head has come")
        served.intake.use(IntakeSettings(token=Secret("t")))
        await connection.send(body)
        assert_refused(await connection.answer(), 401, "unauthorized")


async def test_a_unix_socket_has_no_locks(tmp_path: Path) -> None:
    async with serving(unix=tmp_path / "s", token=Secret("t")) as served:
        served.intake.use(IntakeSettings(token=Secret("u")))
        for headers in ({"Host": "a b"}, {"Origin": "null"}, {"Content_Type": "text/plain"}, {"Sec_Fetch_Site": "x"}):
            answer = await served.post(ONE, GOOD, **headers)
            assert answer.status == 200
            assert "access-control-allow-origin" not in answer.headers
        assert (await preflight(served, ONE, Origin=SHOP)).status == 405
        async with served.connection() as connection:
            await connection.send(b"GET /v1/status HTTP/1.0\r\n\r\n")
            assert (await connection.answer()).status == 200


async def test_a_head_that_was_let_in_is_judged_anew_when_the_rules_change() -> None:
    shown = {"Host": "shop.example", "x_growlytics_key": "old"}
    old: dict[str, Any] = {"token": Secret("old"), "allowed_hosts": ("shop.example",)}
    async with serving(**old) as served, served.connection() as connection:
        for body in (GOOD, GOOD + b" ", GOOD):
            assert (await connection.request(ONE, body, **shown)).status == 200
        served.intake.use(IntakeSettings(token=Secret("new"), allowed_hosts=("shop.example",)))
        assert_refused(await connection.request(ONE, GOOD, **shown), 401, "unauthorized")
    async with serving(**old) as served, served.connection() as connection:
        for body in (GOOD, GOOD + b" "):
            assert (await connection.request(ONE, body, **shown)).status == 200
        served.intake.use(IntakeSettings(token=Secret("old"), allowed_hosts=()))
        assert_refused(await connection.request(ONE, GOOD, **shown), 403, "forbidden_host")


async def test_a_head_that_was_let_in_with_another_token_is_refused() -> None:
    async with serving(token=Secret("right")) as served:
        assert (await served.post(ONE, GOOD, x_growlytics_key="right")).status == 200
        for wrong in ("wrong", "righT", "rightx", ""):
            assert_refused(await served.post(ONE, GOOD, x_growlytics_key=wrong), 401, "unauthorized")
        assert_refused(await served.post(ONE, GOOD), 401, "unauthorized")
        assert served.counts().rejected == {"unauthorized": 5}

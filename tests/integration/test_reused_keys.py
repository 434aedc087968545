"""An app's own key that comes again with another event: refused with 422 over HTTP, and in a batch its element alone."""

import asyncio
import gzip
import json
import logging

import pytest

from tests.fakes.http_intake_harness import Answer, Served, serving

BOTH_LOOPS = True
ONE, BATCH = "/track/event", "/v1/events"
LINES = "application/x-ndjson"


def event(number: int, **more: object) -> bytes:
    content = {"name": "Order", "customerId": f"c{number}", "time": 1_700_000_000_000, "attributes": {}}
    return json.dumps(content | more).encode()


def wrapped(key: str, body: bytes) -> bytes:
    return b'{"idempotency_key":"%b","event":%b}' % (key.encode(), body)


def is_refused(answer: Answer) -> bool:
    return (answer.status, answer.codes) == (422, ["idempotency_key_reused"])


def rejected(answer: Answer) -> list[tuple[int, str]]:
    """Return the elements that an answer to a batch refuses, each with its first error's code."""
    return [(each["index"], each["errors"][0]["code"]) for each in answer.content["rejected"]]


async def first(served: Served, key: str = "k") -> str:
    answer = await served.post(ONE, event(1), Idempotency_Key=key)
    assert answer.status == 200
    return str(answer.content["id"])


@pytest.mark.parametrize("chunked", [False, True], ids=["taken directly", "in chunks"])
async def test_another_event_under_a_key_is_refused_and_the_same_one_is_a_success(chunked: bool) -> None:
    async with serving() as served:
        event_id = await first(served)
        assert is_refused(await served.post(ONE, [event(2)] if chunked else event(2), Idempotency_Key="k"))
        again = await served.post(ONE, [event(1)] if chunked else event(1), Idempotency_Key="k")
        assert again.content == {"success": True, "id": event_id}
        counts = served.counts()
        assert (counts.accepted, counts.duplicates, counts.rejected) == (1, 1, {"idempotency_key_reused": 1})
        counts.assert_balanced()


async def test_a_refusal_leaves_the_connection_open(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served, served.connection() as connection:
        for number, status in ((1, 200), (2, 422), (3, 422), (1, 200)):
            answer = await connection.request(ONE, event(number), Idempotency_Key="SECRET-KEY")
            assert (answer.status, answer.announces_close) == (status, False)
            assert b"SECRET" not in answer.body
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    fields = line.__dict__["fields"]
    assert fields == {"code": "idempotency_key_reused", "count": 1, "name": "Order", "field": "idempotency_key"}
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(event(1)),
        gzip.compress(event(1) + b"\n"),
        json.dumps(json.loads(event(1)), indent=2, sort_keys=True).encode(),
        b"\r\n " + event(1) + b"\n",
    ],
    ids=["compressed", "compressed with a line end", "in another order and indented", "white space around it"],
)
async def test_a_repetition_may_be_written_otherwise(body: bytes) -> None:
    headers = {"Content_Encoding": "gzip"} if body.startswith(b"\x1f\x8b") else {}
    async with serving() as served:
        event_id = await first(served)
        assert (await served.post(ONE, body, Idempotency_Key="k", **headers)).content["id"] == event_id
        assert (await served.post(BATCH, body, Idempotency_Key="k", **headers)).content["duplicates"] == 1
        other = gzip.compress(event(2)) if headers else event(2)
        assert is_refused(await served.post(ONE, other, Idempotency_Key="k", **headers))


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("1", "1.0", True),
        ("1.0", "1e0", True),
        ("0", "-0.0", True),
        ("10", "1.0e1", True),
        ("9007199254740992", "9007199254740992.0", True),
        ("1", "1.5", False),
        ("1.0", "true", False),
        ("1.0", '"1.0"', False),
        ("9007199254740993", "9007199254740992.0", False),
    ],
)
async def test_numbers_are_compared_by_their_value(one: str, other: str, is_same: bool) -> None:
    async with serving() as served:
        for text, status in ((one, 200), (other, 200 if is_same else 422), (one, 200)):
            attributes = b'{"Price":%b}' % text.encode()
            body = event(1).replace(b'"attributes": {}', b'"attributes":' + attributes)
            assert (await served.post(ONE, body, Idempotency_Key="k")).status == status


async def test_a_key_counts_whichever_way_the_event_comes() -> None:
    async with serving() as served:
        await first(served)
        same, other = wrapped("k", event(1)), wrapped("k", event(2))
        assert (await served.post(BATCH, same)).content["duplicates"] == 1
        assert (await served.post(BATCH, same, Content_Type=LINES)).content["duplicates"] == 1
        for body, headers in ((other, {}), (other, {"Content_Type": LINES}), (event(2), {"Idempotency_Key": "k"})):
            answer = await served.post(BATCH, body, **headers)
            assert (answer.status, rejected(answer)) == (422, [(0, "idempotency_key_reused")])


async def test_in_a_batch_only_the_element_is_refused() -> None:
    async with serving() as served:
        event_id = await first(served)
        body = b"[%b]" % b",".join(
            (
                event(7),
                wrapped("k", event(2)),
                b"{}",
                wrapped("new", event(3)),
                wrapped("new", event(4)),
                wrapped("new", event(3)),
                wrapped("k", event(1)),
            )
        )
        answer = await served.post(f"{BATCH}?ids=true", body)
        assert answer.status == 202
        reused = "idempotency_key_reused"
        assert rejected(answer) == [(1, reused), (2, "missing_field"), (4, reused)]
        content = answer.content
        assert (content["accepted"], content["duplicates"]) == (2, 2)
        ids = content["ids"]
        assert [ids[1], ids[2], ids[4]] == [None] * 3
        assert ids[5] == ids[3] != ids[0]
        assert ids[6] == event_id
        served.counts().assert_balanced()


async def test_a_batch_that_is_mended_and_posted_again_under_its_key_has_what_was_refused_before_taken() -> None:
    good, bad = event(1), event(2, name="")
    async with serving() as served:
        assert rejected(await served.post(BATCH, b"[%b,%b]" % (good, bad), Idempotency_Key="b")) == [(1, "empty")]
        answer = await served.post(BATCH, b"[%b,%b]" % (good, event(2)), Idempotency_Key="b")
        assert (answer.content["accepted"], answer.content["duplicates"], rejected(answer)) == (1, 1, [])
        answer = await served.post(BATCH, b"[%b,%b]" % (event(3), event(2)), Idempotency_Key="b")
        assert (answer.content["duplicates"], rejected(answer)) == (1, [(0, "idempotency_key_reused")])


async def test_of_two_events_that_come_at_once_under_a_key_one_is_taken() -> None:
    async with serving() as served:
        posts = (served.post(ONE, event(number), Idempotency_Key="k") for number in (1, 2, 1, 2))
        answers = await asyncio.gather(*posts)
        assert sorted(answer.status for answer in answers) == [200, 200, 422, 422]
        assert served.counts().accepted == 1


async def test_a_key_that_is_forgotten_for_newer_ones_is_free() -> None:
    async with serving(duplicate_max_keys=2) as served:
        for key in "abc":
            await first(served, key)
        assert (await served.post(ONE, event(2), Idempotency_Key="a")).status == 200
        assert is_refused(await served.post(ONE, event(2), Idempotency_Key="c"))


async def test_where_the_window_is_nothing_every_event_is_taken() -> None:
    async with serving(duplicate_window_seconds=0.0) as served:
        await first(served)
        assert (await served.post(ONE, event(2), Idempotency_Key="k")).status == 200

"""Answers that are not as they should be, to the real command: what arrived of them is used, and nothing is sent twice."""

import asyncio
import gzip
import json
import zlib
from collections import Counter
from pathlib import Path

from tests.fakes.raw_server import Connection, answer, raw_server
from tests.system.processes import example_event, running_daemon, until

HEAD = b"HTTP/1.1 200 OK\r\n"
NO = b'{"success":false}'
DRIP = b"DRIP"
"""In place of more: a byte now and then for ever."""

DELIVERED: dict[str, list[bytes]] = {
    "a header of 9 kB": [answer("200 OK", b"{}", f"X: {'a' * 9_000}")],
    "a header of 60 kB": [answer("200 OK", b"{}", f"X: {'a' * 60_000}")],
    "130 headers": [answer("200 OK", b"{}", *(f"X-{number}: a" for number in range(130)))],
    "990 headers": [answer("200 OK", b"{}", *(f"X-{number}: a" for number in range(990)))],
    "no length": [HEAD + b"\r\n"],
    "no length and a body": [HEAD + b'\r\n{"success":true}'],
    "no length, 1.0, kept": [b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nOK"],
    "205 without length": [b"HTTP/1.1 205 Reset Content\r\n\r\n"],
    "205 with length": [answer("205 Reset Content")],
    "204": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "204 with a length": [b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"],
    "a body that drips": [HEAD + b"Content-Length: 5000\r\n\r\n", DRIP],
    "chunks that drip": [HEAD + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n", DRIP],
    "a body that stops": [HEAD + b"Content-Length: 50\r\n\r\nOK"],
    "a body that is cut": [HEAD + b"Content-Length: 50\r\n\r\nOK", b""],
    "chunks that are cut": [HEAD + b"Transfer-Encoding: chunked\r\n\r\nfff\r\nOK", b""],
    "a chunk of no size": [HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nOK\r\n"],
    "a length in words": [HEAD + b"Content-Length: many\r\n\r\nOK"],
    "two lengths": [HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nOK"],
    "length and chunks": [HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n"],
    "a 103 before": [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", answer("200 OK")],
    "byte by byte": [bytes([byte]) for byte in answer("200 OK", b'{"success":true}')],
    "brotli": [answer("200 OK", b"<\x0b\x02\x80", "Content-Encoding: br")],
}
REJECTED: dict[str, list[bytes]] = {
    "gzip": [answer("200 OK", gzip.compress(NO), "Content-Encoding: gzip")],
    "deflate": [answer("200 OK", zlib.compress(NO), "Content-Encoding: deflate")],
    "a byte order mark": [answer("200 OK", b"\xef\xbb\xbf" + NO)],
    "UTF-16": [answer("200 OK", NO.decode().encode("utf-16"))],
    "a large body": [answer("200 OK", b'{"padding":"' + b"x" * 200_000 + b'","success":false}')],
    "a word": [answer("201 Created", b'{"success":"false"}')],
    "0": [answer("202 Accepted", b'{"success":0}')],
    "no length": [HEAD + b"\r\n" + NO],
    "no length, a little later": [HEAD + b"\r\n", NO],
    "the rest is missing": [HEAD + b'Content-Length: 500\r\n\r\n{"success":false,"message":"'],
    "the rest drips": [HEAD + b'Content-Length: 5000\r\n\r\n{"success":false,"message":"', DRIP],
    "a 422 whose body is cut": [b"HTTP/1.1 422 No\r\nContent-Length: 50\r\n\r\nno", b""],
    "a 400 whose body drips": [b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n", DRIP],
}


async def test_odd_answers_of_every_kind_count_and_no_event_is_posted_twice(tmp_path: Path) -> None:
    scripts = [*DELIVERED.values(), *REJECTED.values()]
    came: Counter[int] = Counter()

    async def behave(connection: Connection) -> None:
        while request := await connection.request():
            number = json.loads(request.body)["time"] - 1700000000000
            came[number] += 1
            for piece in scripts[number] if number < len(scripts) else [answer("200 OK")]:
                if piece == b"":
                    await connection.close()
                    return
                while piece == DRIP:
                    await connection.send(b"x")
                    await asyncio.sleep(0.05)
                await connection.send(piece)
                await asyncio.sleep(0.01)

    events = [example_event(number) | {"customerId": f"c-{number}"} for number in range(len(scripts) + 30)]
    odd, good = events[: len(scripts)], events[len(scripts) :]
    async with (
        raw_server(behave) as far,
        running_daemon(
            tmp_path,
            far.url,
            growlytics__timeout_seconds=6,
            delivery__retry_initial_seconds=0.05,
            delivery__retry_max_seconds=0.1,
            delivery__systemic_rejections=1000,
        ) as daemon,
    ):
        for some in (good, odd):  # something is delivered before anything is rejected
            async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(some).encode()) as response:
                assert response.status == 202
            await until(daemon.drained, "all are done with")
        ledger, metrics = await daemon.ledger(), await daemon.metrics()
        names = [*DELIVERED, *REJECTED]
        assert {names[number]: times for number, times in came.items() if number < len(scripts) and times > 1} == {}
        assert ledger["delivered"] == len(DELIVERED) + len(good)
        assert ledger["dead_lettered"] == {"rejected": len(REJECTED), "expired": 0, "ambiguous": 0}
        assert metrics["growlytics_forwarder_possible_duplicates_total"] == 0

"""Clients that nobody here wrote, in the ways in which people use them, on both event loops: each gets its answer, in time.

`test_real_clients.py` shows that what they post arrives; this, that HTTP is what each of them takes it for.
"""

import asyncio
import gzip
import http.client
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import requests

from tests.fakes.wire import GOOD, ONE, get, post
from tests.system.clients import MIB, SECONDS, accepted, batch, daemon_that_stays_well, run
from tests.system.processes import Daemon
from tests.system.tools import needs

JSON: Final = {"Content-Type": "application/json"}


@pytest.fixture(params=["uvloop", "asyncio"])
async def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Daemon]:
    async with daemon_that_stays_well(tmp_path, request.param) as running:
        yield running


# Python


async def test_requests_of_one_session(daemon: Daemon) -> None:
    """It sends the head and the body in two writes."""

    def ask() -> None:
        url = f"{daemon.base}{ONE}"
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(300):
                assert session.post(url, data=GOOD, headers=JSON, timeout=SECONDS).status_code == 200
            for _ in range(20):
                assert session.post(url, data=chunks(), headers=JSON, timeout=SECONDS).status_code == 200
                assert session.post(f"{daemon.base}/nothing", data=GOOD, timeout=SECONDS).status_code == 404
                assert session.head(f"{daemon.base}/v1/status", timeout=SECONDS).status_code == 200
                assert session.get(f"{daemon.base}/v1/status", timeout=SECONDS).json()["state"]
            packed = JSON | {"Content-Encoding": "gzip"}
            assert session.post(url, data=gzip.compress(GOOD), headers=packed, timeout=SECONDS).status_code == 200
            for body in (batch(4 * MIB), iter([batch(MIB)] * 4)):
                answer = session.post(url, data=body, headers=JSON, timeout=SECONDS)
                assert (answer.status_code, answer.json()["errors"][0]["code"]) == (413, "body_too_large")
            cookie = JSON | {"Cookie": "x" * 40_000}
            assert session.post(url, data=GOOD, headers=cookie, timeout=SECONDS).status_code == 431
            assert session.post(f"{url}?{'x' * 9000}", data=GOOD, headers=JSON, timeout=SECONDS).status_code == 414

    def chunks() -> Iterator[bytes]:
        yield GOOD[:20]
        yield GOOD[20:]

    await asyncio.to_thread(ask)
    assert await accepted(daemon) == 321


async def test_the_standard_librarys_client_with_a_body_in_pieces(daemon: Daemon) -> None:
    def ask() -> None:
        connection = http.client.HTTPConnection(daemon.ready["http"], timeout=SECONDS)
        for _ in range(50):
            connection.putrequest("POST", ONE)
            connection.putheader("Content-Length", str(len(GOOD)))
            connection.endheaders()
            for start in range(0, len(GOOD), 20):
                connection.send(GOOD[start : start + 20])
            with connection.getresponse() as answer:
                assert (answer.status, json.loads(answer.read())["success"]) == (200, True)
        connection.close()

    await asyncio.to_thread(ask)
    assert await accepted(daemon) == 50


async def test_aiohttp_over_tcp_and_the_unix_socket(daemon: Daemon) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield GOOD[:20]
        yield GOOD[20:]

    async def post_some(http: aiohttp.ClientSession, url: str, **options: Any) -> None:
        for number in range(25):
            body: Any = pieces() if number % 2 else GOOD
            async with http.post(url, data=body, headers=JSON, **options) as answer:
                assert (answer.status, (await answer.json())["success"]) == (200, True)

    timeout = aiohttp.ClientTimeout(total=SECONDS)
    for base, connector in (
        (daemon.base, aiohttp.TCPConnector(limit=4)),
        ("http://localhost", aiohttp.UnixConnector(str(daemon.unix_socket), limit=4)),
    ):
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http, asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(post_some(http, base + ONE, expect100=number % 2 == 1))
        async with aiohttp.ClientSession(timeout=timeout) as http, http.head(f"{daemon.base}/v1/status") as answer:
            assert answer.status == 200
    assert await accepted(daemon) == 2 * 8 * 25


# Node


FETCH: Final = """
const [base, body] = process.argv.slice(2);
const headers = {"Content-Type": "application/json"};
async function post(how) {
  const answer = await fetch(`${base}/track/event`, {method: "POST", headers, body, ...how});
  const content = await answer.json();
  if (answer.status !== 200 || content.success !== true) throw new Error(JSON.stringify(content));
}
for (let i = 0; i < 50; i++) await post({});
await Promise.all(Array.from({length: 100}, () => post({})));
await Promise.all(Array.from({length: 20}, () => post({duplex: "half", body: new Blob([body]).stream()})));
const head = await fetch(`${base}/v1/status`, {method: "HEAD"});
if (head.status !== 200 || (await head.text()) !== "") throw new Error(`HEAD: ${head.status}`);
const large = await fetch(`${base}/track/event`, {method: "POST", headers, body: "x".repeat(4 << 20)});
if (large.status !== 413) throw new Error(`4 MiB: ${large.status}`);
await post({headers: {...headers, "X-Large": "x".repeat(14000)}});
"""

# As axios, got and the SDKs of analytics do it underneath.
REQUEST: Final = """
const http = require("http");
const [target, body] = process.argv.slice(2);
const where = target.startsWith("/") ? {socketPath: target} : {host: target.split(":")[0], port: target.split(":")[1]};
const agent = new http.Agent({keepAlive: true, maxSockets: 3});
function post(headers, pieces) {
  return new Promise((resolve, reject) => {
    const options = {...where, agent, path: "/track/event", method: "POST",
                     headers: {"Content-Type": "application/json", ...headers}};
    const request = http.request(options, (answer) => {
      let text = "";
      answer.on("data", (data) => { text += data; });
      answer.on("end", () => answer.statusCode === 200 ? resolve(text) : reject(new Error(text)));
    });
    request.on("error", reject);
    const send = () => { for (const piece of pieces) request.write(piece); request.end(); };
    if (headers.Expect) { request.on("continue", send); request.flushHeaders(); } else send();
  });
}
(async () => {
  const length = {"Content-Length": Buffer.byteLength(body)};
  const halves = [body.slice(0, 30), body.slice(30)];
  for (let i = 0; i < 30; i++) {
    await post(length, [body]);
    await post({}, halves);
    await post({...length, Expect: "100-continue"}, halves);
  }
  await Promise.all(Array.from({length: 60}, () => post(length, halves)));
  agent.destroy();
})();
"""


async def test_fetch_of_node(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "fetch.mjs"
    script.write_text(FETCH, encoding="utf-8")
    await run(needs("node"), str(script), daemon.base, GOOD.decode())
    assert await accepted(daemon) == 171


async def test_requests_of_node_over_tcp_and_the_unix_socket(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "request.cjs"
    script.write_text(REQUEST, encoding="utf-8")
    for place in (daemon.ready["http"], str(daemon.unix_socket)):
        await run(needs("node"), str(script), place, GOOD.decode())
    assert await accepted(daemon) == 2 * 150


# nc -N


@pytest.mark.parametrize("count", [1, 150])
async def test_nc_gets_every_answer_and_then_the_end(daemon: Daemon, count: int) -> None:
    nc = needs("nc")
    for place in (daemon.ready["http"], str(daemon.unix_socket)):
        where = ["-U", place] if place.startswith("/") else place.split(":")
        command = [nc, "-N", *where]
        out, _ = await run(*command, stdin=post(ONE) * count + get("/v1/status"))
        assert out.count(b"HTTP/1.1 200 ") == count + 1
        out, _ = await run(*command, stdin=post(ONE) * count + post(ONE)[:-5])
        assert (out.count(b"HTTP/1.1 200 "), out.count(b"HTTP/1.1 400 ")) == (count, 1)
    assert await accepted(daemon) == 4 * count

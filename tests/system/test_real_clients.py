"""Clients that nobody here wrote: each posts the documented example as its own manual says, and it arrives byte for byte."""

import asyncio
import base64
import hashlib
import json
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from tests.system.processes import Daemon, Sandbox, running_daemon, running_sandbox, until
from tests.system.tools import needs

EXAMPLE: Final[dict[str, Any]] = {
    "name": "Add To Cart",
    "customerId": "YOUR_APP_CUSTOMER_ID",
    "time": 1_700_000_000_000,
    "attributes": {"Product Id": "abcdef", "Product Name": "Orange BagPack", "Quantity": 3, "Brand": "Nike"},
}
UNDICI: Final = "undici@6.29.1"
"""The HTTP client inside of Node, as a package: Node does not show its parts that speak over a Unix socket."""
UNDICI_SHA512: Final = "EvRlUt/QqAEvXdQeRMYUfwOQsfzpDztykrG2owGEE/rBOBoYv9uF39ZzsNDh4lTFHhTr2XOZjKkYgueD12ZmGA=="
SECONDS: Final = 60.0


async def run(*command: str, text: str = "", directory: Path | None = None) -> str:
    """Run a program, which must succeed, and return what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_OPTIONS": "", "no_proxy": "*"},
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate(text.encode())
    assert process.returncode == 0, err.decode()
    return out.decode()


@asynccontextmanager
async def forwarding(directory: Path, **settings: object) -> AsyncIterator[tuple[Sandbox, Daemon]]:
    async with (
        running_sandbox() as sandbox,
        running_daemon(directory, sandbox.url, **settings) as daemon,
    ):
        yield sandbox, daemon


async def assert_arrived(sandbox: Sandbox, daemon: Daemon, bodies: list[str]) -> None:
    await until(daemon.drained, "all is delivered")
    assert sorted(await sandbox.raw()) == sorted(bodies)
    ledger = await daemon.ledger()
    assert (ledger["accepted"], ledger["rejected"], ledger["unaccounted"]) == (len(bodies), 0, 0)


def _curl_tcp(daemon: Daemon) -> list[str]:
    return [f"{daemon.base}/track/event"]


def _curl_unix(daemon: Daemon) -> list[str]:
    return ["--unix-socket", str(daemon.unix_socket), "http://localhost/track/event"]


@pytest.mark.parametrize("where", [_curl_tcp, _curl_unix], ids=["tcp", "unix"])
async def test_curl(tmp_path: Path, where: Callable[[Daemon], list[str]]) -> None:
    curl = needs("curl")
    body = json.dumps(EXAMPLE)
    async with forwarding(tmp_path) as (sandbox, daemon):
        answer = await run(curl, "--silent", "--show-error", "--fail", "--json", body, *where(daemon))
        assert json.loads(answer)["success"] is True
        header = "Content-Type: application/json"
        await run(curl, "--silent", "--fail", "--header", header, "--data-binary", "@-", *where(daemon), text=body)
        await assert_arrived(sandbox, daemon, [body, body])


async def test_curl_with_a_form_type_over_tcp_is_told_what_to_do(tmp_path: Path) -> None:
    curl = needs("curl")
    async with forwarding(tmp_path) as (_, daemon):
        answer = json.loads(await run(curl, "--silent", "--data", json.dumps(EXAMPLE), f"{daemon.base}/track/event"))
        assert answer["errors"][0]["code"] == "unsupported_content_type"
        assert "Content-Type: application/json" in answer["errors"][0]["message"]


async def test_requests_with_one_session(tmp_path: Path) -> None:
    async with forwarding(tmp_path) as (sandbox, daemon):

        def post() -> list[dict[str, Any]]:
            with requests.Session() as session:
                session.trust_env = False
                answers = [session.post(f"{daemon.base}/track/event", json=EXAMPLE, timeout=SECONDS) for _ in range(20)]
                batch = session.post(f"{daemon.base}/v1/events", json=[EXAMPLE, EXAMPLE], timeout=SECONDS)
                assert batch.status_code == 202, batch.text
                return [answer.json() for answer in answers]

        answers = await asyncio.to_thread(post)
        assert all(answer["success"] for answer in answers)
        await assert_arrived(sandbox, daemon, [json.dumps(EXAMPLE)] * 22)


_FETCH: Final = """
const [url, body] = process.argv.slice(2);
const answers = await Promise.all(Array.from({length: 20}, () =>
  fetch(url, {method: "POST", headers: {"Content-Type": "application/json"}, body})));
for (const answer of answers) {
  const content = await answer.json();
  if (answer.status !== 200 || content.success !== true) throw new Error(JSON.stringify(content));
}
"""


async def test_fetch_of_node(tmp_path: Path) -> None:
    node = needs("node")
    script = tmp_path / "fetch.mjs"
    script.write_text(_FETCH, encoding="utf-8")
    body = json.dumps(EXAMPLE)
    async with forwarding(tmp_path) as (sandbox, daemon):
        await run(node, str(script), f"{daemon.base}/track/event", body)
        await assert_arrived(sandbox, daemon, [body] * 20)


async def _fetch_undici(directory: Path) -> None:
    """Put undici where Node finds it, if it is the very package that was looked at."""
    name = (await run(needs("npm"), "pack", "--silent", UNDICI, directory=directory)).strip()
    archive = directory / name
    assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == UNDICI_SHA512
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    (directory / "node_modules").mkdir()
    (directory / "package").rename(directory / "node_modules" / "undici")


_UNDICI: Final = """
import { Agent, fetch } from "undici";
const [socketPath, body] = process.argv.slice(2);
const dispatcher = new Agent({connect: {socketPath}, connections: 4});
const headers = {"Content-Type": "application/json"};
const answers = await Promise.all(Array.from({length: 20}, () =>
  fetch("http://localhost/track/event", {method: "POST", headers, body, dispatcher})));
for (const answer of answers) {
  const content = await answer.json();
  if (answer.status !== 200 || content.success !== true) throw new Error(JSON.stringify(content));
}
await dispatcher.close();
"""


async def test_undici_over_the_unix_socket(tmp_path: Path) -> None:
    node = needs("node")
    await _fetch_undici(tmp_path)
    script = tmp_path / "unix.mjs"
    script.write_text(_UNDICI, encoding="utf-8")
    body = json.dumps(EXAMPLE)
    async with forwarding(tmp_path) as (sandbox, daemon):
        await run(node, str(script), str(daemon.unix_socket), body)
        await assert_arrived(sandbox, daemon, [body] * 20)


_PIPELINE: Final = """
import { Client } from "undici";
const [origin, socketPath, body] = process.argv.slice(2);
const client = new Client(origin, {pipelining: 20, connect: socketPath ? {socketPath} : {}});
const headers = {"Content-Type": "application/json"};
const post = {path: "/track/event", method: "POST", headers, body, idempotent: true};
const answers = await Promise.all(Array.from({length: 200}, () => client.request(post)));
for (const answer of answers) {
  const content = await answer.body.json();
  if (answer.statusCode !== 200 || content.success !== true) throw new Error(JSON.stringify(content));
}
await client.close();
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_undici_in_pipelines(tmp_path: Path, loop: str) -> None:
    node = needs("node")
    await _fetch_undici(tmp_path)
    script = tmp_path / "pipeline.mjs"
    script.write_text(_PIPELINE, encoding="utf-8")
    body = json.dumps(EXAMPLE)
    async with forwarding(tmp_path, loop=loop) as (sandbox, daemon):
        for origin, path in ((daemon.base, ""), ("http://localhost", str(daemon.unix_socket))):
            await run(node, str(script), origin, path, body)
        await assert_arrived(sandbox, daemon, [body] * 400)


# The vendor's example for Node names these two headers and sends a JSON body; only the address is another.
_VENDOR: Final = """
const http = require("http");
const [address, body] = process.argv.slice(2);
const options = {method: "POST", headers: {"Accept": "application/json", "x-growlytics-key": "YOUR_API_KEY"}};
const request = http.request(address, options, (answer) => {
  const chunks = [];
  answer.on("data", (chunk) => chunks.push(chunk));
  answer.on("end", () => {
    const content = JSON.parse(Buffer.concat(chunks).toString());
    if (answer.statusCode !== 200 || content.success !== true) throw new Error(JSON.stringify(content));
  });
});
request.write(body);
request.end();
"""


@pytest.mark.parametrize("token", ["", "YOUR_API_KEY"], ids=["key ignored", "key is the token"])
async def test_the_vendors_example_with_only_the_address_changed(tmp_path: Path, token: str) -> None:
    node = needs("node")
    script = tmp_path / "vendor.cjs"
    script.write_text(_VENDOR, encoding="utf-8")
    body = json.dumps(EXAMPLE)
    settings = {"intake__token": token} if token else {}
    async with forwarding(tmp_path, **settings) as (sandbox, daemon):
        await run(node, str(script), f"{daemon.base}/track/event", body)
        await until(lambda: _stored(sandbox), "it is delivered")
        assert await sandbox.raw() == [body]


async def _stored(sandbox: Sandbox) -> bool:
    return bool(await sandbox.raw())

"""The status page over real sockets: what is sent along with it, who gets it, and that it says nothing."""

import logging
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from forwarder.settings import Secret
from tests.fakes.http_intake_harness import Answer, Served, serving

TOKEN: Final = "the-token"
MAX_BYTES: Final = 40_000
GOOD: Final = b'{"customerId":"c","name":"Seen Nowhere","time":1700000000000,"attributes":{}}'


async def get(served: Served, path: str = "/", **headers: str) -> Answer:
    async with served.connection() as connection:
        return await connection.request(path, b"", method="GET", **headers)


def policy_of(answer: Answer) -> dict[str, str]:
    parts = (part.partition(" ") for part in answer.headers["content-security-policy"].split("; "))
    return {name: value for name, _, value in parts}


async def test_the_policy_names_the_style_and_the_script_of_the_page_by_their_hashes_and_allows_nothing_else() -> None:
    async with serving() as served:
        answer = await get(served)
    page, policy = answer.body.decode(), policy_of(answer)
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert inline.strip()
        assert policy.pop(directive) == f"'sha256-{b64encode(sha256(inline.encode()).digest()).decode()}'"
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("img-src") == "data:", "the icon, which is in the page"
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert "default-src" in policy
    assert set(policy.values()) == {"'none'"}


async def test_it_is_html_that_no_cache_keeps_and_that_names_nothing_outside() -> None:
    async with serving() as served:
        answer = await get(served)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = answer.body.decode().replace("http://www.w3.org/2000/svg", "")
    assert "://" not in re.sub(r"`http://\$\{(address|http)\}", "", page), "but for where this daemon is"
    assert "{{" not in page
    assert not re.search(r"\s(src|on\w+|style)=", page)
    assert re.findall(r"""href=['"]?([\w-]+:)?""", page) == ["data:"]
    assert len(answer.body) < MAX_BYTES


async def test_with_a_token_the_page_is_the_same_for_all_and_what_it_reads_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(token=Secret(TOKEN)) as served:
        answer = await get(served)
        assert answer.status == 200
        assert "<body data-token>" in answer.body.decode()
        assert not caplog.records, "nobody was locked out"
        assert (await get(served, "/?x=1")).status == 200
        assert (await served.post("/track/event", GOOD, x_growlytics_key=TOKEN)).status == 200
        assert (await get(served)).body == (await get(served, Authorization=f"Bearer {TOKEN}")).body == answer.body
        for path in ("/v1/status", "/openapi.yaml", "//", "/index.html", "/v1/status?/"):
            assert (await get(served, path)).status == 401, path
        assert (await served.post("/", GOOD)).status == 405
        assert served.counts().received == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "the paths with a lock, once"


async def test_without_a_token_it_asks_for_none() -> None:
    async with serving() as served:
        assert "<body>" in (await get(served)).body.decode()


async def test_another_host_or_origin_does_not_get_it() -> None:
    async with serving(token=Secret(TOKEN)) as served:
        assert (await get(served, Host="evil.example")).codes == ["forbidden_host"]
        assert (await get(served, Origin="https://evil.example")).codes == ["forbidden_origin"]


async def test_a_unix_socket_has_it_too_and_asks_for_no_token(tmp_path: Path) -> None:
    async with serving(unix=tmp_path / "intake.sock", token=Secret(TOKEN)) as served:
        answer = await get(served, Host="any.example")
        assert answer.status == 200
        assert "<body>" in answer.body.decode()

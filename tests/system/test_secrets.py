"""Nothing that a daemon says, at its most talkative, holds a key, a token, a customer id or an attribute's value."""

import json
import signal
import socket
from pathlib import Path
from typing import Final

from tests.system.processes import KEY, Daemon, running_daemon, running_sandbox, until

TOKEN: Final = "CANARY-token"
NEXT_KEY: Final = "CANARY-next-key"
SECRETS: Final = (KEY, "CANARY")
"""No text may hold one of these. Each customer id and attribute value has CANARY in it."""


def event(number: int, **changes: object) -> dict[str, object]:
    return {
        "name": "Add To Cart",
        "customerId": f"CANARY-customer-{number}",
        "time": 1700000000000,
        "attributes": {"product": f"CANARY-value-{number}"},
    } | changes


STRANGE: Final = (
    b'{"name": "CANARY',
    b'"CANARY"',
    json.dumps(event(1, name="")).encode(),
    json.dumps(event(2, time="CANARY")).encode(),
    json.dumps(event(3, customerId=["CANARY"])).encode(),
    json.dumps(event(4, attributes={"product": {"CANARY": "CANARY"}})).encode(),
    json.dumps(event(5, attributes={"product": 5})).encode(),
    json.dumps({"idempotency_key": "CANARY", "event": event(6)}).encode(),
    b'{"customerId": "CANARY", "time": 1e999}',
    b"\xff CANARY",
)


async def everything_happens(daemon: Daemon) -> None:
    """Have events accepted, refused and repeated over each way in."""
    for headers in ({"Idempotency-Key": "CANARY"}, {"Authorization": "Bearer CANARY"}, {"Host": "CANARY"}):
        for path in ("/track/event", "/v1/events", "/v1/dead-letters/purge?reason=CANARY", "/CANARY"):
            for body in (json.dumps(event(0)).encode(), *STRANGE):
                async with daemon.http.post(daemon.base + path, data=body, headers=headers) as response:
                    assert response.status < 500, await response.text()
    for number in range(50):
        async with daemon.http.post(f"{daemon.base}/track/event", json=event(number)) as response:
            assert response.status == 200
    for name, kind in (("lines", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(str(daemon.unix_socket.with_name(name)))
            for body in STRANGE:
                client.send(body + b"\n")


def says(daemon: Daemon, words: str) -> bool:
    return any(words in line["message"] for line in daemon.lines)


def assert_no_secret_in(text: str, where: str) -> None:
    for secret in SECRETS:
        place = text.find(secret)
        assert place < 0, f"{where}: …{text[max(0, place - 300) : place + 100]}…"


async def test_nothing_that_is_said_holds_a_secret_or_a_payload(tmp_path: Path) -> None:
    config, token_file, key_file = tmp_path / "config.toml", tmp_path / "token", tmp_path / "key"
    config.write_text('[log]\nlevel = "debug"\n')
    token_file.write_text(TOKEN)
    key_file.write_text(KEY)
    async with (
        running_sandbox("--fail-rate", "0.2") as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            config=config,
            growlytics__api_key_file=key_file,
            intake__token_file=token_file,
            intake__lines_socket=tmp_path / "lines",
            intake__datagram_socket=tmp_path / "datagram",
            contract__attribute_types="coerce",
            delivery__probe_initial_seconds=0.05,
            delivery__probe_max_seconds=0.1,
            delivery__retry_initial_seconds=0.01,
            delivery__retry_max_seconds=0.05,
            loop="asyncio",  # which says something at that level
        ) as daemon,
    ):
        daemon.http.headers["Authorization"] = f"Bearer {TOKEN}"
        await everything_happens(daemon)
        await until(daemon.drained, "something is delivered")
        await sandbox.faults(fail_rate=0.5, fail_status=400)
        await everything_happens(daemon)
        await until(lambda: says(daemon, "event rejected by Growlytics"), "something is rejected")
        key_file.write_text(NEXT_KEY)
        await until(lambda: says(daemon, "has changed and is in use from now on"), "the new key is used")
        await everything_happens(daemon)
        await until(lambda: says(daemon, "Growlytics refuses the forwarder"), "it is refused")
        config.write_text('[log]\nlevel = "loud"\n[growlytics]\napi_key = "CANARY"\nproxy = "CANARY://CANARY"\n')
        daemon.process.send_signal(signal.SIGHUP)
        await until(lambda: says(daemon, "cannot be used, so nothing changed"), "the file is refused")
        key_file.write_bytes(b"CANARY \x00")
        await until(lambda: says(daemon, "a secret's file cannot be used"), "the key is refused")
        assert_no_secret_in(json.dumps(await daemon.status()), "/v1/status")
        async with daemon.http.get(f"{daemon.admin}/metrics") as response:
            assert_no_secret_in(await response.text(), "/metrics")
        async with daemon.http.get(f"{daemon.base}/v1/dead-letters") as response:
            assert_no_secret_in(await response.text(), "/v1/dead-letters")
        key_file.write_text(KEY)
        await sandbox.faults(fail_rate=0)
        await until(daemon.drained, "all is delivered or given up")
        assert await daemon.stop() == 0
    assert any(line["level"] == "debug" for line in daemon.lines), "it was not talkative"
    assert_no_secret_in(json.dumps(daemon.lines), "the log")

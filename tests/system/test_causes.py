"""Why delivery fails, told by the real command: log, /v1/status and metric agree. And a file of certificates is mended."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.client_harness import OK
from tests.fakes.raw_server import Behaviour, Connection, RawServer, answer, answering, raw_server
from tests.system.processes import (
    ANY_MACHINE,
    KEY,
    Daemon,
    clean_environment,
    example_event,
    run_command,
    running_daemon,
    until,
)

FAILURES = "growlytics_forwarder_attempt_failures_total"
RELOADS = 'growlytics_forwarder_config_reloads_total{result="changed"}'
AT_ONCE = {
    "delivery__breaker_failures": 2,
    "delivery__retry_initial_seconds": 0.01,
    "delivery__retry_max_seconds": 0.02,
    "delivery__probe_initial_seconds": 0.05,
    "delivery__probe_max_seconds": 0.1,
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


async def post(daemon: Daemon) -> None:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
        assert response.status == 200, await response.text()


def of_holds(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the lines that say why delivery holds."""
    return [line for line in daemon.lines if "cause" in line and "kind" in line]


async def told(daemon: Daemon) -> dict[str, Any]:
    """Post, wait for the hold, and return what its line says, which is what all others say too."""
    await post(daemon)
    line: dict[str, Any]
    (line,) = await until(lambda: of_holds(daemon), "it says why delivery holds")
    failure = (await daemon.status())["delivery"]["last_failure"]
    assert failure.pop("at") > 1_700_000_000
    assert {"status": None} | {name: line[name] for name in failure if name in line} == failure
    metrics = await daemon.metrics()
    counted = {series: value for series, value in metrics.items() if series.startswith(f"{FAILURES}{{") and value}
    assert list(counted) == [f'{FAILURES}{{kind="{failure["kind"]}"}}']
    assert sum(counted.values()) == metrics['growlytics_forwarder_delivery_attempts_total{outcome="retryable"}']
    probes = counted
    while counted == probes:
        probes = {series: value for series, value in (await daemon.metrics()).items() if series in counted}
    assert len(of_holds(daemon)) == 1, "a hold is told once, however many probes fail"
    return line


@asynccontextmanager
async def daemon_of(directory: Path, url: str, **settings: object) -> AsyncIterator[Daemon]:
    async with running_daemon(directory, url, **{**AT_ONCE, **settings}) as daemon:
        yield daemon
        for secret in (KEY, "CANARY", "YOUR_APP_CUSTOMER_ID"):
            assert secret not in str(daemon.lines[1:]) + str(await daemon.status()), "the first line has the URL"


async def test_a_port_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        async with daemon_of(tmp_path, f"{url}/track/event?CANARY") as daemon:
            line = await told(daemon)
            assert (line["kind"], line["error"]) == ("connect", "connection refused")
            assert line["host"] == url.removeprefix("http://")


async def test_a_host_that_does_not_exist(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, "https://nobody.invalid/track/event") as daemon:
        line = await told(daemon)
        assert (line["kind"], line["host"]) == ("dns", "nobody.invalid:443")
        assert "nobody.invalid" in line["error"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_certificate_that_has_expired(tmp_path: Path, authority: Authority, loop: str) -> None:
    tls = authority.tls_for("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    async with (
        raw_server(answering(OK), tls=tls) as server,
        daemon_of(tmp_path, server.url, growlytics__ca_file=authority.file, loop=loop) as daemon,
    ):
        line = await told(daemon)
        assert (line["kind"], line["error"]) == ("tls", "certificate has expired")
        assert line["host"] == f"127.0.0.1:{server.port}"


async def silent(connection: Connection) -> None:
    await asyncio.Event().wait()


async def resets(connection: Connection) -> None:
    await connection.reader.read(1)
    connection.reset()


@pytest.mark.parametrize(
    ("behave", "kind", "error", "status"),
    [
        (silent, "timeout_answer", "no answer within 0.5 s", None),
        (resets, "reset", "connection reset by peer", None),
        (answering(answer("503 CANARY", b"CANARY")), "status", "503 Service Unavailable", 503),
    ],
)
async def test_a_server_that_is_no_help(
    tmp_path: Path, behave: Behaviour, kind: str, error: str, status: int | None
) -> None:
    timeout = 0.5 if kind == "timeout_answer" else 30.0  # a busy machine may not answer in time
    async with (
        raw_server(behave) as server,
        daemon_of(tmp_path, server.url, growlytics__timeout_seconds=timeout) as daemon,
    ):
        line = await told(daemon)
        assert (line["kind"], line["error"], line.get("status")) == (kind, error, status)


async def test_a_proxy_that_refuses_is_told_without_its_password(tmp_path: Path) -> None:
    async with (
        raw_server(answering(answer("502 CANARY"))) as proxy,
        daemon_of(
            tmp_path,
            "https://dc.invalid/track/event",
            growlytics__proxy=f"http://CANARY:CANARY@127.0.0.1:{proxy.port}",
        ) as daemon,
    ):
        line = await told(daemon)
        assert (line["kind"], line["error"]) == ("proxy", "the proxy refused: 502 Bad Gateway")
        assert (line["host"], line["status"]) == (f"127.0.0.1:{proxy.port}", 502)


async def test_before_anything_failed_nothing_is_told_and_every_series_is_there(tmp_path: Path) -> None:
    async with raw_server(answering(OK)) as server, daemon_of(tmp_path, server.url) as daemon:
        assert (await daemon.status())["delivery"]["last_failure"] is None
        metrics = await daemon.metrics()
        kinds = ["dns", "connect", "tls", "proxy", "timeout_connect", "timeout_answer", "reset", "protocol", "status"]
        assert {series: value for series, value in metrics.items() if series.startswith(FAILURES)} == {
            f'{FAILURES}{{kind="{kind}"}}': 0 for kind in kinds
        }


# A file of certificates that is mended


@pytest.mark.parametrize("asks", [False, True], ids=["by itself", "on SIGHUP"])
async def test_a_file_of_certificates_that_is_replaced_is_used_without_a_restart(
    tmp_path: Path, authority: Authority, stranger: Authority, asks: bool
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(stranger.file.read_bytes())
    server: RawServer
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        daemon_of(
            tmp_path, server.url, growlytics__ca_file=ca_file, delivery__probe_initial_seconds=600,
            delivery__probe_max_seconds=600,
        ) as daemon,
    ):  # fmt: skip
        await post(daemon)
        (line,) = await until(lambda: of_holds(daemon), "it says why delivery holds")
        assert (line["kind"], line["error"]) == ("tls", "certificate of an unknown authority (see growlytics.ca_file)")
        new = tmp_path / "new.pem"
        new.write_bytes(authority.file.read_bytes())
        new.replace(ca_file)
        if asks:
            daemon.process.send_signal(signal.SIGHUP)
        await until(daemon.drained, "it is delivered")
        assert len(server.requests) == 1
        read = [line for line in daemon.lines if line["message"].startswith("the file of certificates was read again")]
        assert [line["setting"] for line in read] == ["growlytics.ca_file"]
        assert (await daemon.metrics())[RELOADS] >= 1


async def test_what_the_system_trusts_is_read_again_on_sighup(
    tmp_path: Path, authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store.pem"
    store.write_bytes(stranger.file.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        daemon_of(tmp_path, server.url) as daemon,
    ):
        await post(daemon)
        await until(lambda: of_holds(daemon), "it says why delivery holds")
        store.write_bytes(authority.file.read_bytes())
        daemon.process.send_signal(signal.SIGHUP)
        await until(daemon.drained, "it is delivered")


async def test_a_file_of_certificates_of_no_use_leaves_those_before_in_use(
    tmp_path: Path, authority: Authority
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.file.read_bytes())
    async with (
        raw_server(answering(answer("200 OK", b"", "Connection: close")), tls=authority.tls) as server,
        daemon_of(tmp_path, server.url, growlytics__ca_file=ca_file) as daemon,
    ):
        ca_file.write_bytes(authority.file.read_bytes()[:200])
        await until(lambda: [line for line in daemon.lines if "fault" in line], "it says so")
        await post(daemon)
        await until(daemon.drained, "it is delivered")
        assert (await daemon.status())["delivery"]["last_failure"] is None
        assert len([line for line in daemon.lines if "fault" in line]) == 1


# A proxy that only the environment names


@pytest.mark.parametrize(("exceptions", "warnings"), [("", 1), ("growlytics.in", 0)])
async def test_a_proxy_of_the_environment_is_warned_of_at_the_start(exceptions: str, warnings: int) -> None:
    environment = clean_environment(
        **ANY_MACHINE,
        HTTPS_PROXY="http://CANARY:CANARY@proxy.example:3128",
        NO_PROXY=exceptions,
        no_proxy="",
        FORWARDER_GROWLYTICS__API_KEY=KEY,
    )
    code, out, err = await run_command("check-config", environment=environment)
    assert (code, err.count("growlytics.proxy"), "CANARY" in out + err) == (0, warnings, False)

"""The command `diagnose` in networks that are broken: name servers, addresses that lead nowhere, certificates, clocks."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.system.networks import BLACK_HOLE, NO_ROUTE, network
from tests.system.processes import COMMAND, clean_environment

HOST = "dc.growlytics.in"


async def diagnosed(directory: Path, prefix: list[str], *more: str) -> dict[str, dict[str, Any]]:
    """Return what was found by the check; the steps that were not tried have only a reason."""
    process = await asyncio.create_subprocess_exec(
        *(*prefix, *COMMAND, "diagnose", "--json", "--timeout=2", f"--set=buffer.directory={directory}/buffer", *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode in (0, 1), err.decode()
    content = json.loads(out)
    return {each["check"]: each for each in (*content["checks"], *content["untried"])}


@pytest.mark.parametrize(
    ("names", "text", "says"),
    [
        ("nxdomain", f"no such host {HOST}", "answers NXDOMAIN (no such name)"),
        ("servfail", f"the name server fails (for {HOST})", "answers SERVFAIL (it fails, or those that it asks)"),
        ("refused", f"the name server fails (for {HOST})", "answers REFUSED (it does not serve this machine)"),
        ("silent", "the name server does not answer", "does not answer"),
        (None, f"the name server does not answer (for {HOST})", "cannot be asked: connection refused"),
    ],
)
async def test_a_name_server_that_fails_is_told_from_a_name_that_does_not_exist(
    tmp_path: Path, names: Any, text: str, says: str
) -> None:
    found = await diagnosed(tmp_path, network(tmp_path, names=names))
    dns = found["dns"]
    assert dns["result"] == "fail"
    assert dns["text"].startswith(text)
    assert dns["facts"]["name_servers"] == [{"server": "127.0.0.1", "says": says}]
    assert "127.0.0.1" in dns["fix"]
    assert ("growlytics.url" in dns["fix"]) == (names == "nxdomain")
    assert found["connect"].keys() == {"check", "why"}
    assert found["disk"]["result"] == "ok"


async def test_each_address_is_tried_at_the_same_time_and_told(tmp_path: Path) -> None:
    names = ["10.9.0.1", "10.9.0.2", "10.9.0.3", "127.0.0.1", "10.7.0.1"]
    prefix = network(tmp_path, names=names, setup=(*BLACK_HOLE, *NO_ROUTE))
    connect = (await diagnosed(tmp_path, prefix))["connect"]
    assert connect["result"] == "fail"
    tried = {each["address"]: each["error"] for each in connect["facts"]["addresses"]}
    assert tried == {
        **dict.fromkeys((f"{name}:443" for name in names[:3]), "no connection within 2 s"),
        "127.0.0.1:443": "connection refused",
        "10.7.0.1:443": "no route to host",
    }
    for fix in ("firewall or security group", "nothing listens", "ip route"):
        assert fix in connect["fix"]


def certified(directory: Path, *, host: str = HOST, **dates: datetime) -> tuple[Path, Path]:
    """Return the file of an authority, and that of a certificate with its key."""
    authority = trustme.CA()
    issued = authority.issue_cert(host, not_before=dates.get("not_before"), not_after=dates.get("not_after"))
    ours, theirs = directory / "authority.pem", directory / "certificate.pem"
    authority.cert_pem.write_to_path(str(ours))
    issued.private_key_and_cert_chain_pem.write_to_path(str(theirs))
    return ours, theirs


def dated(*, hours: float = 0.0) -> str:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    return f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"


async def test_a_name_with_a_good_address_and_a_black_hole_is_a_warning_and_the_rest_is_tried(tmp_path: Path) -> None:
    authority, certificate = certified(tmp_path)
    names, answer = ["10.9.0.1", "127.0.0.1"], dated()
    prefix = network(tmp_path, names=names, setup=BLACK_HOLE, certificate=certificate, answer=answer)
    for url in (f"https://{HOST}/track/event", f"https://{HOST}./track/event", f"https://{HOST.upper()}:443/"):
        found = await diagnosed(
            tmp_path, prefix, f"--set=growlytics.ca_file={authority}", f"--set=growlytics.url={url}"
        )
        assert found["dns"]["result"] == "ok"
        assert found["connect"]["result"] == "warn"
        assert found["tls"]["result"] == found["answer"]["result"] == "ok", found
        assert found["clock"]["result"] in {"ok", "warn"}, "the answer's Date is that of the test's begin"


async def test_a_name_with_letters_of_other_scripts_is_looked_up_as_the_daemon_does(tmp_path: Path) -> None:
    authority, certificate = certified(tmp_path, host="xn--strae-oqa.example")
    prefix = network(tmp_path, names=["127.0.0.1"], certificate=certificate, answer=dated())
    url = "https://straße.example/track"
    found = await diagnosed(tmp_path, prefix, f"--set=growlytics.ca_file={authority}", f"--set=growlytics.url={url}")
    assert found["dns"]["facts"]["host"] == "xn--strae-oqa.example"
    assert found["tls"]["result"] == "ok"


async def test_a_clock_that_is_hours_off_is_told_beside_the_certificate_that_it_makes_invalid(tmp_path: Path) -> None:
    """The certificate is new, and by the other side's clock it is valid."""
    begin = datetime.now(UTC) + timedelta(hours=3)
    authority, certificate = certified(tmp_path, not_before=begin, not_after=begin + timedelta(days=90))
    prefix = network(tmp_path, names=["127.0.0.1"], certificate=certificate, answer=dated(hours=5))
    found = await diagnosed(tmp_path, prefix, f"--set=growlytics.ca_file={authority}")
    assert found["tls"]["text"].startswith("certificate is not yet valid (or this machine's clock is wrong)")
    assert "`clock`" in found["tls"]["fix"]
    assert found["clock"]["result"] == "fail"
    assert "behind that of dc.growlytics.in" in found["clock"]["text"]


async def test_without_any_network_each_check_ends(tmp_path: Path) -> None:
    found = await diagnosed(tmp_path, network(tmp_path, names=None), "--set=growlytics.url=https://192.0.2.1/")
    assert found["connect"]["text"] == "192.0.2.1:443: network is unreachable"


async def test_a_machine_without_name_servers_is_told_to_name_one(tmp_path: Path) -> None:
    prefix = network(tmp_path, names=None)
    (tmp_path / "resolv.conf").write_text("# none\n", encoding="ascii")
    found = await diagnosed(tmp_path, prefix)
    assert found["dns"]["result"] == "fail"
    assert found["dns"]["fix"].startswith("name a name server in /etc/resolv.conf")

"""The compose file and what it mounts."""

import socket
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from forwarder.intake.locks import AdminLock
from forwarder.settings import IntakeSettings, load
from tests.deploy.tools import DEPLOY, from_npm, output, run
from tests.system.processes import running_daemon, running_sandbox
from tests.system.tools import needs

COMPOSE = DEPLOY / "compose/compose.yaml"
# Matters of taste; an image that is built here has both keys.
TASTE = ["service-keys-order", "services-alphabetical-order", "require-quotes-in-ports", "no-build-and-image"]


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


def linter(file: Path) -> list[str]:
    rules = [part for name in TASTE for part in ("--disable-rule", name)]
    return [*from_npm(".bin/dclint"), str(file), "--max-warnings", "0", *rules]


def test_the_linter_finds_nothing() -> None:
    output(*linter(COMPOSE))


def test_the_linter_refuses_a_key_that_does_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(COMPOSE.read_text(encoding="utf-8").replace("read_only:", "read_onyl:"))
    found = run(*linter(file))
    assert found.returncode == 1
    assert "additional" in found.stdout, found.stdout


def test_what_it_mounts_is_there() -> None:
    mounted = {
        source
        for service in services().values()
        for source in (one.partition(":")[0] for one in service.get("volumes", []))
        if source.startswith(".")
    }
    assert mounted >= {"../prometheus/rules.yml", "../grafana/dashboard.json"}
    assert [path for path in mounted if not (COMPOSE.parent / path).is_file()] == []


def test_its_settings_are_settings(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("key")
    environment = dict(services()["forwarder"]["environment"])
    for url in ("https://dc.growlytics.in/track/event", "http://127.0.0.1:8930/track/event"):
        environment["FORWARDER_GROWLYTICS__URL"] = url
        loaded = load(None, environ=environment, overrides=[f"growlytics.api_key_file={key}"])
        assert str(loaded.settings.admin.http) == "0.0.0.0:9920"
    assert services()["app"]["environment"]["FORWARDER"] == f"unix:{environment['FORWARDER_INTAKE__UNIX_SOCKET']}"


def test_the_forwarder_can_change_nothing_but_its_volumes() -> None:
    for name in ("app", "forwarder", "sandbox"):
        service = services()[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_prometheus_takes_its_configuration() -> None:
    output(needs("promtool"), "check", "config", "--syntax-only", str(COMPOSE.with_name("prometheus.yml")))


def test_prometheus_and_grafana_find_what_they_need() -> None:
    scraped = yaml.safe_load(COMPOSE.with_name("prometheus.yml").read_text(encoding="utf-8"))
    targets = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == ["forwarder:9920"]
    allowed = services()["forwarder"]["environment"]["FORWARDER_INTAKE__ALLOWED_HOSTS"]
    settings = load(None, environ={}, overrides=[f"intake.allowed_hosts={allowed}"]).settings
    lock = AdminLock(settings.intake, own=settings.admin.http)
    assert [lock.refuse({"host": target}) for target in targets] == [None]
    assert set(settings.intake.allowed_hosts) > set(IntakeSettings().allowed_hosts)
    inside = {volume.split(":")[1] for name in ("prometheus", "grafana") for volume in services()[name]["volumes"]}
    assert set(scraped["rule_files"]) <= inside
    dashboards = yaml.safe_load((COMPOSE.parent / "grafana/dashboards.yml").read_text(encoding="utf-8"))
    assert f"{dashboards['providers'][0]['options']['path']}/forwarder.json" in inside
    sources = yaml.safe_load((COMPOSE.parent / "grafana/datasources.yml").read_text(encoding="utf-8"))
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"


def own_address() -> str:
    """Return an address of this machine that is not 127.0.0.1, as a container's port is reached by another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return "127.0.0.2"
        address: str = probe.getsockname()[0]
        return address


def test_every_port_is_published_on_this_machine_s_loopback_alone() -> None:
    ports = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert ports["forwarder"] == ["127.0.0.1:8920:8920", "127.0.0.1:9920:9920"]
    assert [port for each in ports.values() for port in each if not port.startswith("127.0.0.1:")] == []


def test_what_may_connect_to_the_forwarder_is_what_shares_its_network_and_prometheus() -> None:
    networks = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["networks"]
    inside: dict[str, set[str]] = {name: set() for name in networks}
    for name, service in services().items():
        assert ("networks" in service) is ("network_mode" not in service), f"{name} is not in the default network"
        for network in service.get("networks", []):
            inside[network].add(name)
    assert inside == {"forwarder": {"forwarder", "prometheus"}, "grafana": {"prometheus", "grafana"}}


async def test_the_published_page_works_and_web_pages_cannot_use_the_port(tmp_path: Path) -> None:
    settings = {
        name.removeprefix("FORWARDER_").lower(): value for name, value in services()["forwarder"]["environment"].items()
    }
    del settings["growlytics__api_key_file"], settings["growlytics__url"]
    (tmp_path / "run").mkdir()
    async with running_sandbox() as sandbox:
        settings["intake__unix_socket"] = tmp_path / "run/intake.sock"
        # On any port, as others may be in use.
        settings |= {name: str(settings[name]).rpartition(":")[0] + ":0" for name in ("intake__http", "admin__http")}
        async with running_daemon(tmp_path, sandbox.url, **settings) as daemon:
            port = daemon.ready["http"].rpartition(":")[2]
            base = f"http://{own_address()}:{port}"
            # What a browser sends for http://127.0.0.1:8920/, however it comes into the container.
            for host in ("127.0.0.1:8920", "localhost:8920"):
                for path in ("/", "/v1/status"):
                    async with daemon.http.get(f"{base}{path}", headers={"Host": host}) as response:
                        assert response.status == 200, await response.text()
            evil = {"Host": "127.0.0.1:8920", "Origin": "https://evil.example"}
            assert await status_of(daemon.http, f"{base}/v1/status", evil) == 403
            assert await status_of(daemon.http, f"{base}/v1/status", {"Host": "rebound.example:8920"}) == 403
            assert await status_of(daemon.http, f"{base}/v1/dead-letters/17", {"Host": "127.0.0.1:8920"}) == 401


async def status_of(http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> int:
    async with http.get(url, headers=headers) as response:
        return response.status

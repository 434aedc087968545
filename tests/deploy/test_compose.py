"""The compose file and what it mounts."""

from pathlib import Path
from typing import Any

import yaml

from forwarder.intake.locks import AdminLock
from forwarder.settings import IntakeSettings, load
from tests.deploy.tools import DEPLOY, from_npm, output, run
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

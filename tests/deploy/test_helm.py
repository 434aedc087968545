"""The library chart and the example that uses it."""

from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from forwarder.settings import load
from tests.deploy.manifests import chart, helmed, pods, sidecar
from tests.deploy.tools import DEPLOY


def test_the_linter_finds_nothing(tmp_path: Path) -> None:
    example = chart(tmp_path)
    for path in (example, example.parent / "growlytics-forwarder"):
        found = helm.lint(str(path))
        assert found["errors"] == []
        assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"bufer": {}}, "bufer"),
        ({"buffer": {"maxMiB": "256"}}, "/buffer/maxMiB"),
        ({"buffer": {"maxEvents": 0}}, "/buffer/maxEvents"),
        ({"spareMiB": 1}, "/spareMiB"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"env": {"PATH": "/"}}, "PATH"),
        ({"env": {"FORWARDER_BUFFER__MAX_BYTES": "9 GiB"}}, "FORWARDER_BUFFER__MAX_BYTES"),
        ({"env": {"FORWARDER_DELIVERY__MAX_CONCURRENCY": 32}}, "/env/FORWARDER_DELIVERY__MAX_CONCURRENCY"),
        ({"podMonitor": {"interval": "often"}}, "/podMonitor/interval"),
        ({"prometheusRule": {"runbooks": "git.example"}}, "/prometheusRule/runbooks"),
        ({"prometheusRule": {"runbooks": "https://git.example/#x"}}, "/prometheusRule/runbooks"),
        ({"prometheusRule": {"labels": {"release": 1}}}, "/prometheusRule/labels/release"),
        ({"dashboard": {"enable": True}}, "enable"),
    ],
)
def test_the_schema_refuses_what_cannot_be(values: dict[str, Any], named: str, tmp_path: Path) -> None:
    with helm.Chart.load(str(chart(tmp_path))) as loaded, pytest.raises(helm.HelmError, match=named):
        loaded.validate_schema({"growlytics-forwarder": values})


def test_values_become_settings(tmp_path: Path) -> None:
    values = {
        "buffer": {"maxEvents": 1_000_000, "maxMiB": 512},
        "deadLetters": {"maxEvents": 10, "maxMiB": 1},
        "shutdown": {"drainSeconds": 12.5},
        "env": {"FORWARDER_DELIVERY__MAX_CONCURRENCY": "32", "FORWARDER_LOOP": "asyncio"},
    }
    container = sidecar(pods(helmed(chart(tmp_path), values))[0])
    environment = {one["name"]: one["value"] for one in container["env"]}
    key = tmp_path / "key"
    key.write_text("key")
    settings = load(None, environ=environment, overrides=[f"growlytics.api_key_file={key}"]).settings
    assert (settings.buffer.max_events, settings.buffer.max_bytes) == (1_000_000, 512 * 1024 * 1024)
    assert (settings.dead_letters.max_events, settings.dead_letters.max_bytes) == (10, 1024 * 1024)
    assert settings.shutdown.drain_seconds == 12.5
    assert (settings.delivery.max_concurrency, settings.loop) == (32, "asyncio")


def test_both_ways_into_kubernetes_run_the_same_container(tmp_path: Path) -> None:
    patch = yaml.safe_load((DEPLOY / "kubernetes/component/sidecar.yaml").read_text(encoding="utf-8"))
    of_kustomize = sidecar(patch["spec"]["template"]["spec"])
    of_helm = sidecar(pods(helmed(chart(tmp_path), {}))[0])
    for name in (
        "restartPolicy",
        "ports",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "securityContext",
        "resources",
    ):
        assert of_kustomize[name] == of_helm[name], name


def test_the_app_in_the_chart_is_the_example_app() -> None:
    assert (DEPLOY / "helm/example/app.py").resolve() == (DEPLOY / "example-app/app.py").resolve()

"""The manifests, as Kustomize and Helm render them."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from forwarder.buffer.sizes import max_file_bytes
from forwarder.buffer.upkeep import max_directory_bytes
from forwarder.intake.datagram import MAX_PENDING_BYTES
from forwarder.settings import Settings, load
from tests.deploy.manifests import (
    Manifest,
    chart,
    helmed,
    kustomized,
    mebibytes,
    pods,
    sidecar,
    small_overlay,
    small_values,
    violations,
    volume,
)
from tests.deploy.tools import from_npm, installed, output, run

MIB = 1024 * 1024
KUBERNETES = ["1.29", "1.33"]
OF_THE_OPERATOR = {"PodMonitor", "PrometheusRule"}


@pytest.fixture(params=["kustomize", "kustomize-small", "helm", "helm-small"])
def manifests(request: pytest.FixtureRequest, tmp_path: Path) -> list[Manifest]:
    match request.param:
        case "kustomize":
            return kustomized()
        case "kustomize-small":
            return kustomized(small_overlay(tmp_path))
        case "helm":
            return helmed(chart(tmp_path), {"podMonitor": {"enabled": True}})
        case _:
            return helmed(chart(tmp_path), {"podMonitor": {"enabled": True}, **small_values()})


def settings_of(manifests: list[Manifest], tmp_path: Path) -> Settings:
    """Return what the forwarder would run with, out of its manifest."""
    key, config = tmp_path / "api_key", None
    key.write_text("key\n")
    container = sidecar(pods(manifests)[0])
    if "--config" in container["args"]:
        config = tmp_path / "forwarder.toml"
        config.write_text(
            next(one["data"]["forwarder.toml"] for one in manifests if "growlytics" in one["metadata"]["name"])
        )
    environment = {one["name"]: one["value"] for one in container.get("env", [])}
    loaded = load(config, environ=environment, overrides=[f"growlytics.api_key_file={key}"])
    return loaded.settings


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_schemas_accept_all(version: str, manifests: list[Manifest], tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(one for one in manifests if one["kind"] not in OF_THE_OPERATOR))
    output(installed("kubernetes-validate"), "--strict", "-k", version, str(file))


def test_the_schema_refuses_a_field_that_does_not_exist(manifests: list[Manifest], tmp_path: Path) -> None:
    deployment = next(one for one in manifests if one["kind"] == "Deployment")
    sidecar(deployment["spec"]["template"]["spec"])["restartPolice"] = "Always"
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(deployment))
    assert run(installed("kubernetes-validate"), "--strict", "-k", "1.33", str(file)).returncode != 0


def against_the_operators_schemas(*manifests: Manifest) -> list[Any]:
    """Return what is wrong with each, or None."""
    node, schemas = from_npm("@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1")
    check = str(Path(__file__).with_name("operator_schema.mjs"))
    found: list[Any] = json.loads(output(node, check, schemas, stdin=json.dumps(manifests)))
    return found


def test_the_pod_monitor_is_one_and_finds_the_pods(manifests: list[Manifest]) -> None:
    monitor = next(one for one in manifests if one["kind"] == "PodMonitor")
    wrong = copy.deepcopy(monitor)
    wrong["spec"]["podMetricsEndpoints"][0]["interval"] = "often"
    found = against_the_operators_schemas(monitor, wrong)
    assert found[0] is None
    assert "interval" in found[1]
    template = next(one for one in manifests if one["kind"] == "Deployment")["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"] for port in sidecar(template["spec"])["ports"]}
    assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_the_restricted_profile_is_kept(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        assert violations(pod) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("runAsNonRoot", None), ("runAsUser", 0), ("seccompProfile", {}), ("allowPrivilegeEscalation", True),
        ("privileged", True), ("capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        ("readOnlyRootFilesystem", False),
    ],
)  # fmt: skip
def test_a_breach_of_the_profile_is_seen(field: str, value: object, tmp_path: Path) -> None:
    pod = pods(helmed(chart(tmp_path), {}))[0]
    sidecar(pod)["securityContext"][field] = value
    assert violations(pod) == [f"growlytics-forwarder: {field}"]


def test_it_is_a_native_sidecar_with_probes_by_name(manifests: list[Manifest], tmp_path: Path) -> None:
    settings = settings_of(manifests, tmp_path)
    pod = pods(manifests)[0]
    container = sidecar(pod)
    assert container["restartPolicy"] == "Always"
    assert "lifecycle" not in container
    port = container["ports"][0]
    assert (str(settings.admin.http), port["name"]) == (f"0.0.0.0:{port['containerPort']}", "forwarder-admin")
    paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    stopping = settings.shutdown.accept_seconds + settings.shutdown.drain_seconds
    assert stopping < pod.get("terminationGracePeriodSeconds", 30)
    assert container["resources"]["limits"].keys() == {"memory"}


def test_every_path_in_the_settings_is_mounted(manifests: list[Manifest], tmp_path: Path) -> None:
    settings = settings_of(manifests, tmp_path)
    pod = pods(manifests)[0]
    container = sidecar(pod)
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert mounts[str(settings.buffer.directory)]["name"] == "growlytics-forwarder-buffer"
    assert mounts[str(Path(str(settings.intake.unix_socket)).parent)]["name"] == "growlytics-forwarder-socket"
    secret = mounts["/run/secrets/growlytics"]
    assert "subPath" not in secret
    assert volume(pod, secret["name"])["secret"]["items"] == [{"key": "api_key", "path": "api_key"}]
    said = json.dumps([container, manifests])
    assert "/run/secrets/growlytics/api_key" in said
    assert {one["name"] for one in container["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}


def room(settings: Settings) -> tuple[float, float]:
    """Return what the directory takes at most, in MiB, and what with two files more: one damaged, one salvaged."""
    notes = {"max_keys": settings.intake.duplicate_max_keys, "max_types": settings.contract.max_attribute_types}
    directory = max_directory_bytes(
        settings.buffer,
        settings.dead_letters,
        max_put_bytes=max(settings.intake.max_body_bytes, settings.intake.max_line_bytes + MAX_PENDING_BYTES),
        max_concurrency=settings.delivery.max_concurrency,
        **notes,
    )
    file = max_file_bytes(settings.buffer, settings.dead_letters, **notes)
    return directory / MIB, (directory + 2 * file) / MIB


def assert_it_has_room(manifests: list[Manifest], tmp_path: Path) -> None:
    usual, worst = room(settings_of(manifests, tmp_path))
    buffer = volume(pods(manifests)[0], "growlytics-forwarder-buffer")["emptyDir"]
    assert "medium" not in buffer
    assert worst < mebibytes(buffer["sizeLimit"]) < worst * 1.5 + 300, (usual, worst)


def test_the_volume_is_larger_than_the_buffer_can_become(manifests: list[Manifest], tmp_path: Path) -> None:
    assert_it_has_room(manifests, tmp_path)
    usual, _ = room(settings_of(manifests, tmp_path))
    request = sidecar(pods(manifests)[0])["resources"]["requests"]["ephemeral-storage"]
    assert usual < mebibytes(request) < usual * 1.2


@pytest.mark.parametrize(
    "values",
    [
        {"buffer": {"maxEvents": 1, "maxMiB": 1}, "deadLetters": {"maxEvents": 1, "maxMiB": 1}},
        {"buffer": {"maxEvents": 225_000, "maxMiB": 108}},
        {"buffer": {"maxEvents": 5_000_000, "maxMiB": 20_000}, "deadLetters": {"maxEvents": 7, "maxMiB": 3}},
    ],
)
def test_helm_computes_it_from_the_bounds(values: Mapping[str, Any], tmp_path: Path) -> None:
    assert_it_has_room(helmed(chart(tmp_path), values), tmp_path)

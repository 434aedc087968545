"""Rendering the manifests as their users do, and what is required of a pod."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import DEPLOY, optional, output

Manifest = dict[str, Any]
_LINKED_TO = ("example-app", "grafana", "prometheus")
"""Where links in the charts lead: Helm follows them."""


def kustomized(directory: str | Path = "kubernetes/example") -> list[Manifest]:
    """Render one, which is a path below deploy/ or a whole one."""
    return documents(output(optional("kubectl"), "kustomize", str(DEPLOY / directory)))


def small_overlay(tmp_path: Path) -> Path:
    """Return the example's directory in a copy of deploy/, with the small profile named as deploy/README.md says."""
    for name in ("kubernetes", "example-app"):
        shutil.copytree(DEPLOY / name, tmp_path / "small" / name)
    file = tmp_path / "small/kubernetes/example/kustomization.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.count("  - ../component\n") == 1
    file.write_text(text.replace("  - ../component\n", "  - ../component\n  - ../small\n"), encoding="utf-8")
    return file.parent


def small_values() -> dict[str, Any]:
    """Return what the values file of the small profile gives the library chart."""
    values: dict[str, Any] = yaml.safe_load((DEPLOY / "helm/values-small.yaml").read_text(encoding="utf-8"))
    assert list(values) == ["growlytics-forwarder"]
    chosen: dict[str, Any] = values["growlytics-forwarder"]
    return chosen


def chart(tmp_path: Path) -> Path:
    """Return a copy of the example chart with its dependency beside it, and built into it."""
    import helm_python as helm  # noqa: PLC0415 - installed by `make test-deploy` alone

    for name in ("helm", *_LINKED_TO):
        ignored = shutil.ignore_patterns("charts", "Chart.lock")
        shutil.copytree(DEPLOY / name, tmp_path / "deploy" / name, symlinks=True, ignore=ignored)
    example = tmp_path / "deploy/helm/example"
    helm.dependency_update(str(example))
    return example


def helmed(example: Path, values: Mapping[str, Any]) -> list[Manifest]:
    import helm_python as helm  # noqa: PLC0415

    with helm.Chart.load(str(example)) as loaded:
        rendered: dict[str, str] = loaded.render(
            {"growlytics-forwarder": dict(values)}, name="shop", namespace="default"
        )
    return [document for text in rendered.values() for document in documents(text)]


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """Return the specs of the pods."""
    found = [one["spec"]["template"]["spec"] for one in manifests if "template" in one.get("spec", {})]
    assert found
    return found


def sidecar(pod: Manifest) -> Manifest:
    return next(one for one in pod["initContainers"] if one["name"] == "growlytics-forwarder")


def volume(pod: Manifest, name: str) -> Manifest:
    return next(one for one in pod["volumes"] if one["name"] == name)


def mebibytes(quantity: str) -> int:
    assert quantity.endswith("Mi"), quantity
    return int(quantity.removesuffix("Mi"))


def violations(pod: Manifest) -> list[str]:
    """Return what Kubernetes' restricted profile has against a pod, and a root that can be written to."""
    found = [f"pod: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    allowed = {"name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
    allowed |= {"projected", "secret"}
    found += [f"volume {one['name']}: type" for one in pod.get("volumes", []) if not one.keys() <= allowed]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += [f"{container['name']}: {what}" for what in _of_container(container, pod.get("securityContext", {}))]
    return found


def _of_container(container: Manifest, of_pod: Manifest) -> list[str]:
    own = container.get("securityContext", {})
    both = {**of_pod, **own}
    capabilities = own.get("capabilities", {})
    demands = {
        "runAsNonRoot": both.get("runAsNonRoot") is True,
        "runAsUser": both.get("runAsUser", 0) != 0,
        "seccompProfile": both.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "privileged": not own.get("privileged"),
        "capabilities": capabilities.get("drop") == ["ALL"]
        and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
        "procMount": own.get("procMount", "Default") == "Default",
        "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
        "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
    }
    return [name for name, met in demands.items() if not met]

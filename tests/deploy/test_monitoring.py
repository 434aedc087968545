"""Alerts and dashboard in Kubernetes: of the same source as those for a plain Prometheus, and valid where they go."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import Manifest, chart, documents, helmed, kustomized
from tests.deploy.test_kubernetes import KUBERNETES, against_the_operators_schemas
from tests.deploy.tools import DEPLOY, installed, optional, output, run
from tests.docs import PROMETHEUS_RULE, prometheus_rule
from tests.system.tools import needs

RULES: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana/dashboard.json").read_text(encoding="utf-8"))
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
BASE = "https://git.example/growlytics-forwarder"
TEAM = "https://git.company.example/team/forwarder"
VALUES = {
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "runbooks": TEAM},
    "dashboard": {"enabled": True, "labels": {"grafana_dashboard": "1"}},
}


@pytest.fixture(params=["kustomize", "helm"])
def monitoring(request: pytest.FixtureRequest, tmp_path: Path) -> list[Manifest]:
    if request.param == "kustomize":
        return kustomized("kubernetes/monitoring/cluster")
    return helmed(chart(tmp_path), VALUES)


@pytest.fixture(params=["file", "kustomize", "helm"])
def rule(request: pytest.FixtureRequest, tmp_path: Path) -> Manifest:
    """The rules as a manifest: as it is written, which needs no kubectl, and as it is rendered."""
    match request.param:
        case "file":
            return of_kind(documents(PROMETHEUS_RULE.read_text(encoding="utf-8")), "PrometheusRule")
        case "kustomize":
            return of_kind(kustomized("kubernetes/monitoring/cluster"), "PrometheusRule")
        case _:
            return of_kind(helmed(chart(tmp_path), VALUES), "PrometheusRule")


def of_kind(manifests: list[Manifest], kind: str, *, name: str = "forwarder") -> Manifest:
    (found,) = (one for one in manifests if one["kind"] == kind and name in one["metadata"]["name"])
    return found


def with_runbooks_at(base: str) -> Any:
    return json.loads(json.dumps(RULES).replace(BASE, base))


def test_the_written_rule_is_that_of_the_rules_now() -> None:
    assert PROMETHEUS_RULE.read_text(encoding="utf-8") == prometheus_rule(), "run: make docs"


def test_the_rules_are_those_of_a_plain_prometheus(rule: Manifest) -> None:
    helm = "labels" in rule["metadata"]
    assert rule["spec"] == with_runbooks_at(TEAM if helm else BASE)
    assert rule["metadata"].get("labels", {}) == ({"release": "prometheus"} if helm else {})


def test_promtool_takes_the_rules_as_the_operator_hands_them_over(rule: Manifest, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(rule["spec"]), encoding="utf-8")
    output(needs("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(file))
    tests = (DEPLOY / "prometheus/rules_test.yml").read_text(encoding="utf-8")
    used = re.search(r"runbook_url: (\S+)/deploy/", file.read_text(encoding="utf-8"))
    assert used is not None
    (tmp_path / "rules_test.yml").write_text(tests.replace(BASE, used[1]), encoding="utf-8")
    output(needs("promtool"), "test", "rules", str(tmp_path / "rules_test.yml"))


def test_the_operators_schema_accepts_the_rules(rule: Manifest) -> None:
    wrong = copy.deepcopy(rule)
    wrong["spec"]["groups"][0]["rules"][0]["for"] = "a while"
    found = against_the_operators_schemas(rule, wrong)
    assert found[0] is None
    assert "for" in found[1]


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_dashboard_is_a_config_map_that_grafanas_sidecar_finds(
    version: str, monitoring: list[Manifest], tmp_path: Path
) -> None:
    found = of_kind(monitoring, "ConfigMap", name="dashboard")
    assert found["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert [json.loads(text) for text in found["data"].values()] == [DASHBOARD]
    assert [name for name in found["data"] if not name.endswith(".json")] == []
    assert len(json.dumps(found)) < 262_144, "kubectl apply keeps it whole in an annotation"
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump(found))
    output(installed("kubernetes-validate"), "--strict", "-k", version, str(file))


def test_helm_makes_none_of_them_unless_told_so(tmp_path: Path) -> None:
    off = {name: {"enabled": False} for name in ("podMonitor", "prometheusRule", "dashboard")}
    assert {one["kind"] for one in helmed(chart(tmp_path), off)} == {"ConfigMap", "Deployment"}


def test_the_charts_files_are_links_to_the_only_source() -> None:
    for name, source in (("rules.yml", "prometheus/rules.yml"), ("dashboard.json", "grafana/dashboard.json")):
        file = DEPLOY / "helm/growlytics-forwarder/files" / name
        assert file.is_symlink()
        assert file.resolve() == DEPLOY / source


def test_the_documented_overlay_sets_where_the_runbook_is(tmp_path: Path) -> None:
    (overlay,) = (block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "replacements:" in block)
    (tmp_path / "kustomization.yaml").write_text(overlay, encoding="utf-8")
    # Kustomize follows a link to a directory.
    (tmp_path / "forwarder").symlink_to(DEPLOY.parent, target_is_directory=True)
    rendered = kustomized(tmp_path)
    assert of_kind(rendered, "PrometheusRule")["spec"] == with_runbooks_at(TEAM)
    assert {one["metadata"]["namespace"] for one in rendered} == {"monitoring"}
    assert sorted(one["kind"] for one in rendered) == ["ConfigMap", "PrometheusRule"], "the base itself is not applied"


def test_the_documented_pipe_sets_where_the_runbook_is() -> None:
    optional("kubectl")
    (line,) = (line for line in README.splitlines() if line.startswith("kubectl kustomize") and "| sed" in line)
    piped, _, applied = line.rpartition(" | ")
    assert applied == "kubectl apply -n monitoring -f -"
    done = run("/bin/sh", "-c", piped)
    assert of_kind(documents(done.stdout), "PrometheusRule")["spec"] == with_runbooks_at(TEAM)

"""deploy/README.md: every command, and the sums of its sizing."""

import math
import re
import shlex
import tomllib
from pathlib import Path

import helm_python as helm

from forwarder.settings import load
from tests.deploy.images import BUILD
from tests.deploy.manifests import chart, helmed
from tests.deploy.test_kubernetes import room
from tests.deploy.tools import DEPLOY, optional, output

README = (DEPLOY / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    line.strip()
    for block in re.findall(r"^ *```sh\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.strip()
}

SECRET = (
    "kubectl create secret generic growlytics --from-file=api_key=growlytics_api_key --dry-run=client -o yaml"
)  # fmt: skip
KUSTOMIZE = "kubectl kustomize deploy/kubernetes/example"
HELM = [
    "helm dependency build deploy/helm/example",
    "helm lint deploy/helm/example",
    "helm template shop deploy/helm/example",
]
UP = "docker compose -f deploy/compose/compose.yaml up --build"
UP_SANDBOX = (
    "GROWLYTICS_URL=http://127.0.0.1:8930/track/event docker compose -f deploy/compose/compose.yaml"
    " --profile sandbox up --build"
)
ALERTS = (
    "kubectl kustomize deploy/kubernetes/monitoring/cluster"
    " | sed 's|https://git.example/growlytics-forwarder|https://git.company.example/team/forwarder|'"
    " | kubectl apply -n monitoring -f -"
)
"""Run without its end by test_monitoring.py."""
NEEDS_AN_ENGINE = {UP, UP_SANDBOX}
"""Only their file is checked (test_compose.py), and the sandbox's arguments below."""


def test_every_command_is_known_here() -> None:
    assert {BUILD, SECRET, KUSTOMIZE, *HELM, ALERTS, *NEEDS_AN_ENGINE} == COMMANDS


def test_the_secret_is_made_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "growlytics_api_key").write_text("key")
    made = output(optional("kubectl"), *shlex.split(SECRET)[1:], cwd=tmp_path)
    assert "api_key: a2V5" in made
    assert "name: growlytics\n" in made


def test_kustomize_renders() -> None:
    assert "growlytics-forwarder" in output(optional("kubectl"), *shlex.split(KUSTOMIZE)[1:])


def test_helm_renders(tmp_path: Path) -> None:
    """With Helm's own library, as no registry here has its command."""
    example = chart(tmp_path)
    helm.dependency_build(str(example))
    assert helm.lint(str(example))["errors"] == []
    kinds = {"ConfigMap", "Deployment", "PodMonitor", "PrometheusRule"}
    assert {one["kind"] for one in helmed(example, {})} == kinds


def test_the_sums_of_the_defaults() -> None:
    settings = load(None, environ={}, overrides=["growlytics.api_key=key"]).settings
    usual, _ = room(settings)
    assert f"takes at most {math.ceil(usual)} MiB (the request" in README
    events = settings.buffer.max_events + settings.dead_letters.max_events
    mib = (settings.buffer.max_bytes + settings.dead_letters.max_bytes) / 2**20
    assert f"is at least {limit_mib(mib, events)} MiB." in README


def test_the_sums_of_the_example() -> None:
    example = tomllib.loads(re.findall(r"```toml\n(.*?)```", README, re.DOTALL)[0])["buffer"]
    rate, size, seconds = 50, 500, 3600
    assert f"{rate} events per second of {size} bytes, and an hour: {rate * seconds:,} events" in README
    assert example["max_events"] == rate * seconds * 1.25
    overrides = ["growlytics.api_key=key", *(f"buffer.{name}={value}" for name, value in example.items())]
    settings = load(None, environ={}, overrides=overrides).settings
    assert 0 <= settings.buffer.max_bytes / 2**20 - rate * seconds * size * 1.25 / 2**20 < 1
    usual, worst = room(settings)
    disk = re.search(r"takes at most (\d+) MiB of disk, a volume's limit must be (\d+) MiB", README)
    assert disk is not None
    assert usual <= int(disk[1]) < usual + 10
    mib = (settings.buffer.max_bytes + settings.dead_letters.max_bytes) / 2**20
    events = settings.buffer.max_events + settings.dead_letters.max_events
    assert worst < limit_mib(mib, events) == int(disk[2])


def limit_mib(mib: float, events: int) -> int:
    """Return a volume's limit by the formula of the table."""
    assert "9 × those bytes + 6 KiB × those events + 256 MiB" in README  # noqa: RUF001 - as in the table
    return math.ceil(9 * mib + 6 * events / 1024 + 256)

"""The Dockerfile as text."""

import re

from forwarder import __version__
from tests.deploy.tools import DEPLOY, ROOT, installed, output, run

DOCKERFILE = DEPLOY / "Dockerfile"


def test_the_linter_finds_nothing() -> None:
    assert output(installed("hadolint"), "--no-color", DOCKERFILE) == ""


def test_the_linter_would_find_something() -> None:
    wrong = DOCKERFILE.read_text(encoding="utf-8").replace('CMD ["run"]', "CMD run")
    assert "DL3025" in run(installed("hadolint"), "-", stdin=wrong).stdout


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    """Also by name: a key or a buffer in the directory of the source must never get into an image."""
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name.replace("build-requirements", "requirements") for line in copied for name in line.split()}
    assert {name.replace("*requirements", "requirements") for name in let_in} == named


def test_manifests_name_the_version_of_this_source() -> None:
    sidecar = (DEPLOY / "kubernetes/component/sidecar.yaml").read_text(encoding="utf-8")
    assert f"image: growlytics-forwarder:{__version__}\n" in sidecar
    chart = (DEPLOY / "helm/growlytics-forwarder/Chart.yaml").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\nappVersion: {__version__}\n" in chart
    assert f"version: {__version__}\n    repository: file:" in (DEPLOY / "helm/example/Chart.yaml").read_text("utf-8")

"""Debian's buildah, without a daemon and without namespaces: a base of Debian's Python, and the image on top of it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.tools import ROOT, output

IMAGE = "localhost/growlytics-forwarder"
BASE = "localhost/base"
BUILD = "docker build -f deploy/Dockerfile -t growlytics-forwarder ."
"""As it is documented; its arguments are given to buildah."""

_READ_ONLY_ROOT = """
set -e
root=$1; shift
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$BUFFER" "$root/var/lib/growlytics-forwarder"
mount --bind "$SOCKETS" "$root/run/growlytics-forwarder"
mount -o remount,bind,ro "$root"
exec chroot --userspec=65532:65532 --groups= "$root" env -i "$@"
"""


@dataclass
class Buildah:
    """buildah with a storage of its own."""

    path: str
    directory: Path

    def command(self, *arguments: str) -> list[str]:
        storage = [f"--root={self.directory / 'storage'}", f"--runroot={self.directory / 'run'}"]
        return [self.path, *storage, "--storage-driver=vfs", *arguments]

    def __call__(self, *arguments: str, seconds: float = 120) -> str:
        return output(*self.command(*arguments), seconds=seconds).strip()

    @property
    def policy(self) -> str:
        """Return the option to take what was built here without a signature."""
        file = self.directory / "policy.json"
        file.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        return f"--signature-policy={file}"

    def make_base(self, mmdebstrap: str) -> None:
        """Make a base image of Debian and its Python, with what python:3-slim has too."""
        archive = self.directory / "base.tar"
        without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        packages = "--include=python3-minimal,python3-venv,ca-certificates"
        output(
            mmdebstrap, "--quiet", "--variant=essential", packages, *without, "bookworm", str(archive), seconds=200
        )  # fmt: skip
        container = self("from", self.policy, "scratch")
        self("add", "--quiet", container, str(archive), "/")
        self("commit", "--quiet", "--format=docker", "--rm", self.policy, container, BASE)
        archive.unlink()

    def build(self, *arguments: str) -> None:
        """Build as `docker build` does; pip reaches the registry as that of this machine does."""
        volumes = _pip_volumes(self.directory)
        options = ["--isolation=chroot", "--format=docker", self.policy, *volumes, f"--build-arg=PYTHON_IMAGE={BASE}"]
        self("build", *options, *arguments, seconds=200)

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", "--type=image", IMAGE))["Docker"]["config"]
        return found


def read_only(root: str) -> list[str]:
    """Return how to begin a command that runs in a root that nobody can write to, as user 65532 without capabilities.

    BUFFER and SOCKETS in the environment are the directories for its two volumes.
    """
    return ["unshare", "--mount", "bash", "-c", _READ_ONLY_ROOT, "bash", root]


def _pip_volumes(directory: Path) -> list[str]:
    """Return the mounts that give the build this machine's way to its package index; the image keeps none of it."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'")
    kept = {
        name: settings[name] for name in ("cert", "index-url", "proxy", "timeout", "trusted-host") if name in settings
    }
    file = directory / "pip.conf"
    file.write_text("".join(["[global]\n", *(f"{name} = {value}\n" for name, value in kept.items())]))
    volumes = [f"--volume={file}:/etc/pip.conf:ro"]
    if os.path.isabs(kept.get("cert", "")):  # noqa: PTH117 - of a string that may be empty
        volumes.append(f"--volume={kept['cert']}:{kept['cert']}:ro")
    return volumes

"""The small profile: one for Kustomize and Helm, with limits by the sums of deploy/README.md, which a daemon keeps."""

import asyncio
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from forwarder.settings import Settings
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
    volume,
)  # fmt: skip
from tests.deploy.test_kubernetes import settings_of
from tests.deploy.test_readme import README, limit_mib
from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox

MIB = 1024 * 1024
CLIENTS = 8


@dataclass
class Profile:
    settings: Settings
    pod: Manifest

    @property
    def memory_limit_bytes(self) -> int:
        return mebibytes(sidecar(self.pod)["resources"]["limits"]["memory"]) * MIB

    @property
    def memory_request_bytes(self) -> int:
        return mebibytes(sidecar(self.pod)["resources"]["requests"]["memory"]) * MIB


@pytest.fixture
def helm_profile(tmp_path: Path) -> Profile:
    manifests = helmed(chart(tmp_path), small_values())
    return Profile(settings_of(manifests, tmp_path), pods(manifests)[0])


def test_helm_and_kustomize_have_the_same(helm_profile: Profile, tmp_path: Path) -> None:
    manifests = kustomized(small_overlay(tmp_path))
    kustomize = Profile(settings_of(manifests, tmp_path), pods(manifests)[0])
    assert kustomize.settings == helm_profile.settings
    assert sidecar(kustomize.pod)["resources"] == sidecar(helm_profile.pod)["resources"]
    buffers = [volume(each.pod, "growlytics-forwarder-buffer") for each in (kustomize, helm_profile)]
    assert buffers[0] == buffers[1]


def test_it_is_small_and_its_limits_are_those_of_the_sums(helm_profile: Profile) -> None:
    settings = helm_profile.settings
    resources = sidecar(helm_profile.pod)["resources"]
    assert resources["requests"]["cpu"] == "20m"
    assert settings.buffer.max_bytes == 64 * MIB
    mib = (settings.buffer.max_bytes + settings.dead_letters.max_bytes) / MIB
    events = settings.buffer.max_events + settings.dead_letters.max_events
    buffer = volume(helm_profile.pod, "growlytics-forwarder-buffer")["emptyDir"]
    assert mebibytes(buffer["sizeLimit"]) == limit_mib(mib, events)
    assert memory_bytes(settings) < helm_profile.memory_limit_bytes < 2 * memory_bytes(settings)
    assert f"at most {math.ceil(memory_bytes(settings) / MIB)} MiB by the sum above" in README


def memory_bytes(settings: Settings) -> float:
    """Return what the table of deploy/README.md says."""
    assert "about 50 MiB, 24 MiB and 8 bytes × `buffer.max_events`" in README  # noqa: RUF001 - as in the table
    assert "260 bytes for each duplicate key, 5 × `intake.max_parsing_bytes`" in README  # noqa: RUF001
    assert "40 × `intake.max_body_bytes`" in README  # noqa: RUF001
    intake = settings.intake
    of_intake = 260 * intake.duplicate_max_keys + 5 * intake.max_parsing_bytes + 40 * intake.max_body_bytes
    return (50 + 24) * MIB + 8 * settings.buffer.max_events + of_intake


async def test_a_daemon_with_it_stays_below_the_limit_of_memory_while_its_buffer_fills_up(
    helm_profile: Profile, tmp_path: Path
) -> None:
    environment = {one["name"]: one["value"] for one in sidecar(helm_profile.pod)["env"]}
    ours = re.compile(r"FORWARDER_((?:BUFFER__MAX|DEAD_LETTERS|CONTRACT|DELIVERY|INTAKE__(?:MAX|DUPLICATE))\w*)")
    chosen = {found[1].lower(): value for name, value in environment.items() if (found := ours.fullmatch(name))}
    assert len(chosen) == 10
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, **chosen) as daemon:
        idle = daemon.rss_bytes()
        await sandbox.faults(down=True)
        daemon.forget_peak()
        accepted = await fill(daemon, helm_profile.settings)
        assert accepted >= 20_000
        print(f"idle {idle / MIB:.0f} MiB, at most {daemon.peak_bytes() / MIB:.0f} MiB")
        assert idle < helm_profile.memory_request_bytes
        assert daemon.peak_bytes() < helm_profile.memory_limit_bytes
        said = re.search(r"(\d+) MiB when it is idle and\s(\d+) MiB at the most", README)
        assert said is not None
        assert idle / MIB < int(said[1]) + 8
        assert daemon.peak_bytes() / MIB < int(said[2]) + 16


async def fill(daemon: Daemon, settings: Settings) -> int:
    """Post the largest batches over several connections until the buffer is full; return how many events were accepted."""
    event = example_event(1)
    attributes = event["attributes"]
    assert isinstance(attributes, dict)
    attributes["Padding"] = "x" * (settings.buffer.max_bytes // settings.buffer.max_events - 300)
    one = json.dumps(event).encode()
    body = b"[" + b",".join([one] * (settings.intake.max_body_bytes // (len(one) + 1))) + b"]"
    assert len(body) <= settings.intake.max_body_bytes

    async def client() -> int:
        accepted = 0
        async with aiohttp.ClientSession() as http:
            while True:
                async with http.post(f"{daemon.base}/v1/events", data=body) as response:
                    answer = await response.json()
                if response.status == 202:
                    accepted += answer["accepted"]
                elif answer["errors"][0]["code"] == "buffer_full":
                    return accepted

    return sum(await asyncio.gather(*(client() for _ in range(CLIENTS))))

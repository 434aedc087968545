"""The image, built once for all tests that look at it."""

import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.images import BUILD, IMAGE, Buildah
from tests.system.tools import needs


@pytest.fixture(scope="session")
def buildah() -> Iterator[Buildah]:
    """Build the image with the arguments of the documented command, on a base made here."""
    buildah_path, mmdebstrap = needs("buildah"), needs("mmdebstrap")
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("building an image here needs root: .ci/run is to be run as root")
        pytest.skip("building an image here needs root")
    # Not pytest's directory, which is kept: this takes a gigabyte.
    with tempfile.TemporaryDirectory(prefix="forwarder-image-") as directory:
        tool = Buildah(buildah_path, Path(directory))
        began = time.monotonic()
        tool.make_base(mmdebstrap)
        based = time.monotonic()
        tool.build(*shlex.split(BUILD)[2:])
        built = time.monotonic()
        print(f"base {based - began:.0f} s, image {built - based:.0f} s")
        print(tool("images", "--format={{.Name}} {{.Size}}"))
        yield tool
        tool("rm", "--all")


@pytest.fixture
def root(buildah: Buildah) -> Iterator[str]:
    """A container of the image; the path of its root."""
    container = buildah("from", buildah.policy, IMAGE)
    yield buildah("mount", container)
    buildah("rm", container)

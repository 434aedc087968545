"""A network of its own for a command of a test: its name server says what the test wants, and addresses lead nowhere.

It takes root, `unshare` and `ip`; elsewhere a test is skipped, but in continuous integration it fails.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import pytest

BLACK_HOLE: Final = ("addr add 10.9.0.254/32 dev lo", "route add 10.9.0.0/24 dev lo")
"""Connections to 10.9.0.0/24 are never answered: the packets arrive here, where nobody has these addresses."""
NO_ROUTE: Final = ("route add unreachable 10.7.0.0/24",)

_NAMESPACES: Final = ("unshare", "--net", "--mount")


def network(
    directory: Path,
    *,
    names: Sequence[str] | Literal["nxdomain", "servfail", "refused", "silent"] | None,
    setup: Sequence[str] = (),
    certificate: Path | None = None,
    answer: str = "",
) -> list[str]:
    """Return what to put before a command that is to run in the network.

    Every name has the addresses in `names`; or the name server fails in that way; or there is none. `setup` are commands of
    `ip`. With a `certificate`, a file with its key, a server at 127.0.0.1:443 gives each client that `answer`.
    """
    _demand_namespaces()
    resolver = directory / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", encoding="ascii")
    stage = {
        "names": names if isinstance(names, str) or names is None else list(names),
        "setup": list(setup),
        "resolver": str(resolver),
        "certificate": None if certificate is None else str(certificate),
        "answer": answer,
    }
    return [*_NAMESPACES, sys.executable, str(Path(__file__).with_name("network_stage.py")), json.dumps(stage)]


def _demand_namespaces() -> None:
    missing = [tool for tool in ("unshare", "ip", "mount") if shutil.which(tool) is None]
    why = f"{', '.join(missing)} is not installed" if missing else ""
    if not missing:
        tried = subprocess.run([*_NAMESPACES, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
        why = tried.stderr.decode().strip() if tried.returncode else ""
    if why and os.environ.get("CI"):
        pytest.fail(f"a network cannot be made here: {why}")
    if why:
        pytest.skip(f"a network cannot be made here: {why}")

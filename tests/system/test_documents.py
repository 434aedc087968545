"""Every command in the documents is run, literally but for the names that a reader fills in, or has a reason why not."""

import asyncio
import json
import os
import stat
import sys
from itertools import count
from pathlib import Path
from typing import Final

from tests.documents import commands
from tests.system.processes import Daemon, clean_environment, example_event, running_daemon, running_sandbox, until

BY_HAND: Final = "run as a block, literally, by tests/deploy/test_by_hand.py"
ENGINE: Final = "needs a Docker engine; tests/deploy/test_image.py builds and runs the image with buildah"
ASKS: Final = "asks on a terminal; tests/integration/test_cli_erase.py answers"
OTHERS: Final = {
    "README.md": {
        "make demo": "tests/deploy/test_by_hand.py",
        "make test": "this is part of it",
        ".venv/bin/python -m forwarder demo --serve": BY_HAND,
        "python3 -m venv .venv": BY_HAND,
        ".venv/bin/pip install --require-hashes -r deploy/requirements.txt": BY_HAND,
        ".venv/bin/pip install --no-deps .": BY_HAND,
        "export GROWLYTICS_API_KEY=...": BY_HAND,
        "export FORWARDER_BUFFER__DIRECTORY=./growlytics-buffer": BY_HAND,
        ".venv/bin/growlytics-forwarder check-config": BY_HAND,
        ".venv/bin/growlytics-forwarder run": BY_HAND,
        'curl --json \'{"name": "Add To Cart", "customerId": "YOUR_APP_CUSTOMER_ID", "time": 1700000000000,': BY_HAND,
        "curl http://127.0.0.1:8920/v1/status": BY_HAND,
        "curl http://127.0.0.1:9920/metrics": BY_HAND,
        "docker build -f deploy/Dockerfile -t growlytics-forwarder .": ENGINE,
        "docker run --rm --network container:YOUR_APP -e GROWLYTICS_API_KEY "
        "-v growlytics-buffer:/var/lib/growlytics-forwarder growlytics-forwarder": ENGINE,
    },
    "config/README.md": {
        "growlytics-forwarder dead-letters bury ID": ASKS,
        "growlytics-forwarder erase --customer ID": ASKS,
    },
}
"""Where each command is run that is not run here."""


def test_every_command_of_the_readme_is_run_somewhere() -> None:
    assert set(commands("README.md")) == set(OTHERS["README.md"])
    assert sum(where == ENGINE for where in OTHERS["README.md"].values()) == 2


async def test_every_command_about_settings_types_and_dead_letters_does_what_it_says(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "growlytics-forwarder"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m forwarder "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "events.ndjson").write_text(json.dumps(example_event(1)) + "\n")
    numbers = count()
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        await sandbox.faults(fail_rate=0.5, fail_status=400)
        refused = await until(lambda: some_dead_letters(daemon, next(numbers)), "some events are rejected")
        await sandbox.faults(fail_rate=0)
        found = commands("config/README.md")
        assert len(found) == 16
        for each in found:
            if each in OTHERS["config/README.md"]:
                continue
            filled_in = each.replace(" ID", f" {refused[0]}").replace("FILE", str(tmp_path / "settings.toml"))
            (tmp_path / "settings.toml").write_text(
                f'[growlytics]\napi_key = "k"\n[buffer]\ndirectory = "{tmp_path}/another"\n'
                '[intake]\nhttp = "127.0.0.1:0"\n[admin]\nhttp = "127.0.0.1:0"\n'
            )
            process = await asyncio.create_subprocess_shell(
                filled_in,
                cwd=tmp_path,
                env=clean_environment(
                    PATH=f"{command.parent}:{os.environ['PATH']}", FORWARDER_CONTROL__SOCKET=daemon.ready["control"]
                ),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(30):
                out, err = await process.communicate()
            assert process.returncode == 0, (filled_in, out.decode(), err.decode())
        assert await daemon.stop() == 0


async def some_dead_letters(daemon: Daemon, number: int) -> list[str]:
    """Post an event of one more customer, and return the ids of the dead letters if there are some.

    Of one customer the first event could be refused many times, with nothing delivered that shows that it alone is.
    """
    event = example_event(1) | {"customerId": f"c-{number}"}
    async with daemon.http.post(f"{daemon.base}/track/event", json=event) as response:
        assert response.status == 200
    async with daemon.http.get(f"{daemon.base}/v1/dead-letters") as response:
        letters = (await response.json())["dead_letters"]
    return [letter["id"] for letter in letters] if len(letters) >= 3 else []

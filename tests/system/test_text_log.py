"""The log as text: whatever an event is called, it forges neither a line nor a field."""

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Final

from tests.fakes.wire import BATCH, ONE, post, wire_to
from tests.system.processes import COMMAND, KEY, clean_environment, until

NAMES: Final = [
    "Add To Cart",
    "x forged=1",
    'x" forged="1',
    'x" forged=1 y="',
    "x' forged='1",
    "x\\",
    'x\\" forged=1',
    "x\tforged=1",
    "x\nforged=1",
    "x\r\n2026-01-01T00:00:00.000+00:00 ERROR forged=1",
    "x\u2028forged=1",
    "x\u00a0forged=1",
    "x\u3000forged=1",
    "forged=1",
    "=",
    '"',
    " ",
]
FIELD: Final = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]*)(?=\s|$)')


def fields_of(line: str) -> dict[str, str]:
    """Return the fields at the end of a line, each a word or in quotes with a backslash before what would end them."""
    found = {}
    while match := re.search(rf"\s{FIELD.pattern}$", line):
        found[match[1]] = match[2]
        line = line[: match.start()]
    return found


async def test_names_with_spaces_and_quotes_forge_no_field(tmp_path: Path) -> None:
    place = tmp_path / "intake.sock"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "run", "--set=growlytics.url=http://127.0.0.1:9/track/event", "--set=intake.http=",
            f"--set=intake.unix_socket={place}", f"--set=buffer.directory={tmp_path / 'buffer'}", "--set=admin.http=",
            "--set=log.format=text", "--set=log.level=debug", "--set=contract.attribute_types=observe",
            "--set=shutdown.drain_seconds=0",
            stdin=asyncio.subprocess.DEVNULL, stdout=output, env=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY),
        )  # fmt: skip
    try:
        await until(lambda: "ready" in log.read_text(encoding="utf-8"), "it is ready")
        for name in NAMES:
            for value in (1, "text", True):
                attributes = {f"{name} of {name}": value}
                event = {"customerId": name, "name": name, "time": 1_700_000_000_000, "attributes": attributes}
                async with wire_to(place) as wire:
                    await wire.send(
                        post(ONE, json.dumps(event).encode()) + post(BATCH, json.dumps([event, {}]).encode())
                    )
                    await wire.replies(2)
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()
    lines = log.read_text(encoding="utf-8").splitlines()
    assert any("Add To Cart" in line for line in lines), "names are logged"
    for line in lines:
        assert re.match(r"20\d\d-\d\d-\d\dT[\d:.]+\+00:00 [A-Z]+ ", line), line
        rest = FIELD.sub("", line)
        assert "forged" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", rest), line
        assert "forged" not in fields_of(line), line

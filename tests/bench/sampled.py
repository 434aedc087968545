"""Where the daemon's time goes, by py-spy: in a flood of one-event posts, or at so many a second.

    python -m tests.bench.sampled flood
    python -m tests.bench.sampled 100

The buffer is on disk, and events are delivered meanwhile. Shares are of the samples in which a thread was busy, all threads
counted; `in all` includes what a function calls, `itself` does not. What started the program is left out.
"""

import asyncio
import collections
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable
from pathlib import Path

from tests.bench.flood import flood
from tests.bench.low_rates import at_rate
from tests.bench.machine import OTHER_CORE, on_core
from tests.bench.nginx import missing_to_wait, running_nginx
from tests.bench.ours import running_ours
from tests.system.processes import Daemon

SECONDS = 20
_ROWS = 40
_SAMPLES_PER_SECOND = 500
_WARM_UP_SECONDS = 2.0
_WAITING = ("_run (forwarder/host/threads.py", "_Writer._run (forwarder/observing/logs.py")
"""Where a thread waits for work, which py-spy takes for work."""
_BELOW_THE_LOOP = "Runner.run ("


def table(folded: str, rows: int = _ROWS) -> str:
    """Return the functions that most samples are in, as markdown, of lines that each hold a stack and its samples."""
    within: collections.Counter[str] = collections.Counter()
    itself: collections.Counter[str] = collections.Counter()
    total = 0
    for line in folded.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        if frames[-1].startswith(_WAITING):
            continue
        loop = next((place for place, frame in enumerate(frames) if frame.startswith(_BELOW_THE_LOOP)), 0)
        frames = frames[loop:]
        total += int(number)
        itself[frames[-1]] += int(number)
        for frame in set(frames):
            within[frame] += int(number)
    assert total, "nothing was sampled"
    lines = ["| function | in all | itself |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {n / total:.1%} | {itself[name] / total:.1%} |" for name, n in within.most_common(rows)]
    return "\n".join(lines)


async def measure(where: str, program: str) -> str:
    """Sample a daemon of its own in a flood, or at a rate."""
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        file = Path(name) / "folded"
        async with (
            running_nginx(latency_ms=0 if where == "flood" else 50) as far,
            running_ours(Path(name), far, loop="uvloop") as (daemon, _),
        ):
            feeding = asyncio.ensure_future(_feed(daemon, where))
            try:
                await asyncio.sleep(_WARM_UP_SECONDS)
                await _sample(program, daemon.process.pid, file)
                assert not feeding.done(), "it had nothing to do for a while"
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
        return table(file.read_text(encoding="utf-8"))


def _feed(daemon: Daemon, where: str) -> Awaitable[None]:
    port = int(daemon.base.rpartition(":")[2])
    return _flood(port, daemon.process.pid) if where == "flood" else at_rate(daemon.process.pid, port, int(where))


async def _flood(port: int, pid: int) -> None:
    while True:
        await flood(port, pid)


async def _sample(program: str, pid: int, file: Path) -> None:
    options = ("--duration", str(SECONDS), "--rate", str(_SAMPLES_PER_SECOND), "--format", "raw", "--function")
    command = (*on_core(OTHER_CORE), program, "record", "--pid", str(pid), *options, "--output", str(file))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(3 * SECONDS):
            said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (arguments[0] == "flood" or arguments[0].isdecimal()):
        print("say flood, or how many events a second", file=sys.stderr)
        return 64
    beside = Path(sys.executable).parent / "py-spy"
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    missing = "" if program else "py-spy"
    missing = missing or missing_to_wait()
    if missing or program is None:
        print(f"not sampled, as {missing} was not found", file=sys.stderr)
        return 69
    os.sched_setaffinity(0, {OTHER_CORE})
    print(asyncio.run(measure(arguments[0], program)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

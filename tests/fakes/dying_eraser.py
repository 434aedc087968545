"""Erases a customer from a buffer's directory, and is killed meanwhile: python dying_eraser.py DIRECTORY CUSTOMER TURNS.

It ends by SIGKILL after so many turns of its event loop, or when the erasure is complete, whichever comes first.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes.disk_buffers import open_disk


async def main(directory: str, customer: str, turns: str) -> None:
    async with open_disk(Path(directory), first_id=10_000, inline=False) as disk:
        erasing = asyncio.create_task(disk.buffer.erase(customer))
        for _ in range(int(turns)):
            await asyncio.sleep(0)
            if erasing.done():
                break
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A disk that hangs when a test says so: a library that is preloaded into a daemon lets writing wait."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.tools import needs


@dataclass(frozen=True)
class HangingDisk:
    """What makes a daemon's disk hang."""

    library: Path
    switch: Path

    @property
    def command(self) -> list[str]:
        """What to put before a command that is to use this disk."""
        return ["env", f"LD_PRELOAD={self.library}", f"HANGING_DISK={self.switch}"]

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let whatever is written to files hang from now on, until the block ends."""
        self.switch.touch()
        try:
            yield
        finally:
            self.switch.unlink()


def hanging_disk(directory: Path) -> HangingDisk:
    """Compile the library; skip the test where there is no compiler, but in continuous integration fail it."""
    library = directory / "hanging_disk.so"
    source = Path(__file__).with_name("hanging_disk.c")
    subprocess.run([needs("cc"), "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)
    return HangingDisk(library, directory / "hangs")

"""What the kernel tells of processes, and which core they run on."""

import os
from pathlib import Path

_CORES = sorted(os.sched_getaffinity(0))
MEASURED_CORE = _CORES[0]
"""For the process whose CPU time is measured: what runs beside it runs on the other one."""
OTHER_CORE = _CORES[-1]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process took so far, user and system, all threads; to 0.01 s."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int, name: str = "VmRSS") -> int:
    """Return the resident memory of a process, or with `VmHWM` the most that it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel does not tell {name}")


def pin(pid: int, core: int) -> None:
    """Let every thread of a process, and those it starts later, run on one core only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def forget_cached(directory: Path) -> None:
    """Have the kernel read the files of a directory from the disk when they are read next."""
    for path in directory.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)  # only what is written can be forgotten
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)
